//! The decisions of the control plane, as pure functions over plain data.
//!
//! Invariant: nothing in this crate performs input or output, reads a clock or
//! draws a random number; time and chance arrive as parameters. Every decision
//! carries its reasons, so that a dry run, the dashboard and a test can show
//! them. The words are those of the protocol, which this crate does not know.

pub mod allowance;
pub mod batch;
pub mod context;
pub mod copies;
pub mod drill;
pub mod evidence;
pub mod fleet;
pub mod gold;
pub mod identity;
pub mod ids;
pub mod job;
pub mod placement;
pub mod power;
pub mod queue;
pub mod reason;
pub mod recovery;
pub mod retention;
pub mod risk;
pub mod run;
pub mod runbook;
pub mod schedule;
pub mod site;
pub mod text;
pub mod upkeep;
mod words;
