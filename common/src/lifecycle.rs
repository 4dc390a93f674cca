//! The one way to start tasks and to stop a daemon.
//!
//! Stopping has two steps. *Soft*: [`Tasks::stopping`] fires, listeners close,
//! streams finish, leases are handed back. *Hard*: after the grace period, or at
//! a second signal, what still runs is dropped. The exit code tells which it was.

mod notify;
mod run;
mod tasks;

pub use run::{Lifecycle, block_on, block_on_one_thread, run};
pub use tasks::{Abandoned, Tasks};
