//! The one way our daemons serve, call and guard gRPC.
//!
//! | Module | What it is for |
//! |---|---|
//! | [`peer`] | who is at the other end, from the SPIFFE id in a certificate |
//! | [`access`] | who may call what: one pure decision over the table of the protocol |
//! | [`status`] | errors with a stable reason; [`not_built`] those of methods to come |
//! | [`serve`], [`guard`], [`node`] | a server with every limit, its door, and `NodeService` |
//! | [`deny_list`] | who is no longer accepted |
//! | [`dial`] | channels that know whom they talk to |
//! | [`enrol`] | from a token to an identity, and from one identity to the next |
//! | [`daemon`] | what the daemons on a host have in common |
//!
//! No handler runs before [`guard`] has let the call in, and nothing here knows what a host, a
//! backup or a job is.

pub mod access;
pub mod cli;
pub mod connection;
pub mod daemon;
pub mod deny_list;
pub mod dial;
pub mod enrol;
pub mod guard;
pub mod node;
pub mod not_built;
pub mod peer;
pub mod serve;
pub mod status;
#[cfg(feature = "testing")]
pub mod testing;
