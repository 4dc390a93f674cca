//! The one way our daemons serve, call and guard gRPC.

pub mod access;
pub mod connection;
pub mod deny_list;
pub mod dial;
pub mod enrol;
pub mod guard;
pub mod node;
pub mod not_built;
pub mod peer;
pub mod serve;
pub mod status;
