//! What two or more daemons share and that has no homelab noun.
//!
//! **Entry rule.** Code comes in here when at least two daemons use it *and* it
//! would make sense in a program that has never heard of hosts, backups or
//! phases. Whatever knows such a noun belongs to the crate that owns the noun.
//!
//! | Module | What it is for |
//! |---|---|
//! | [`clock`], [`chance`] | time and randomness as parameters |
//! | [`config`] | TOML files, all problems in one report |
//! | [`error_chain`] | an error with its causes, on one line |
//! | [`exec`] | the one way to run another program |
//! | [`exit`] | the exit codes of every program here |
//! | [`ledger`] | small local state that survives a power cut |
//! | [`lifecycle`] | the one way to start tasks and to stop a daemon |
//! | [`rate`] | how often somebody may do something |
//! | [`retry`] | waiting between attempts |
//! | [`secret`] | values that must not be printed |
//! | [`telemetry`] | logs: journal, text or JSON; level changeable at run time |
//! | [`tls`] | TLS servers and clients with hot-swappable identity and trust |

pub mod chance;
pub mod clock;
pub mod config;
pub mod error_chain;
pub mod exec;
pub mod exit;
pub mod ledger;
pub mod lifecycle;
pub mod rate;
pub mod retry;
pub mod secret;
pub mod split;
pub mod telemetry;
pub mod tls;

/// Locks a mutex even when a panicking task poisoned it: every value guarded in
/// this crate is valid after each single statement.
pub(crate) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
