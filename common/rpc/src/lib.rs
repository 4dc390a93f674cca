//! The one way our daemons serve, call and guard gRPC.

pub mod access;
pub mod not_built;
pub mod peer;
pub mod status;
