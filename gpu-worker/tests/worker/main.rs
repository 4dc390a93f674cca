//! The worker against a scripted engine over real sockets.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail the test"
)]

mod bench;
mod cards;
mod elsewhere;
mod engine;
mod service;
