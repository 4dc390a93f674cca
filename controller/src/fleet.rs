//! Watches every daemon and keeps what is known of it.
//!
//! One task per daemon of the site file dials it and follows its stream ([`watch`]); what it sees
//! goes into the [`registry`], which everybody reads. [`keep`] has the domain decide from
//! that how a host stands, and keeps the answer in the store.

pub mod keep;
pub mod registry;
pub mod state;
pub mod watch;

pub use registry::{DaemonView, Fleet, HostView, WorkerView};
pub use state::Standing;
