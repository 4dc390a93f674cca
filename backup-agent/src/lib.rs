//! Backups that prove themselves: dump, repository, drill.
//!
//! [`source`] reads, [`repository`] keeps, [`backup`] joins the two and publishes only
//! what was proved; [`verify`], [`restore`] and [`drill`] read back. [`agent`] is all of
//! that under one roof, [`service`] the same over gRPC, [`offline`] what is left of it
//! when nothing else answers.

pub mod agent;
pub mod app;
pub mod backup;
mod blocking;
pub mod cli;
pub mod config;
pub mod convert;
pub mod drill;
pub mod failpoint;
pub mod failure;
pub mod ids;
pub mod journal;
pub mod manifest;
pub mod offline;
pub mod progress;
pub mod replicate;
pub mod repository;
pub mod restore;
pub mod runs;
pub mod service;
pub mod shell;
pub mod source;
pub mod stream;
pub mod tree;
pub mod verify;
