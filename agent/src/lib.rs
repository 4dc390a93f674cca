//! The health agent of one host: how it fares, what it is, and what can be seen from it.
//!
//! | Module | What it is for |
//! |---|---|
//! | [`health`] | samples, rates and conditions, cheap enough for every second |
//! | [`inventory`] | system, hardware, addresses and routes |
//! | [`power`] | what speaks against sleeping, magic packets, switching off where it is allowed |
//! | [`check`] | typed checks with evidence, run from here on request |
//! | [`reading`] | a value, or the reason why there is none |
//! | [`service`], [`convert`] | the same over gRPC; only these know the wire |
//! | [`app`], [`config`], [`cli`], [`show`] | the daemon around it |
//!
//! The agent runs without privileges. The one thing that it changes on its host is whether it is
//! on, and only where `agent.toml` allows it.

pub mod app;
pub mod check;
pub mod cli;
pub mod config;
pub mod convert;
pub mod health;
pub mod inventory;
pub mod power;
pub mod reading;
pub mod service;
pub mod show;
