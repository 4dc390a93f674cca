//! The control plane: fleet, schedules, jobs, gateway, dashboard, certificate authority and audit.
//!
//! `app.rs` is the one composition root. Only `grpc/` and `http/` know the wire; decisions are
//! made in `homelab-domain`, state is kept in `homelab-store`.

pub mod app;
pub mod audit;
pub mod backup;
pub mod ca;
pub mod cli;
pub mod config;
pub mod documents;
pub mod exchange;
pub mod fleet;
pub mod gold;
pub mod grpc;
pub mod http;
pub mod job;
pub mod login;
pub mod overview;
pub mod power;
pub mod site;
pub mod task;
