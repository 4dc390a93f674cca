//! Backups against real PostgreSQL and real restic.

#![expect(clippy::expect_used, clippy::panic, reason = "a test may stop at the first surprise")]

#[path = "backup/bench.rs"]
mod bench;
#[path = "backup/pitfalls.rs"]
mod pitfalls;
#[path = "backup/places.rs"]
mod places;
#[path = "backup/postgres.rs"]
mod postgres;
#[path = "backup/runs.rs"]
mod runs;
#[path = "backup/service.rs"]
mod service;
