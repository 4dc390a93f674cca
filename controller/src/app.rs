//! The composition root: the only place that names real sockets, clocks and stores.

mod context;
mod event;

pub use context::Context;
pub use event::{Change, Events};
