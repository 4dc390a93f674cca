//! Backups through a real controller and real agents, over mTLS, looked at from outside only.

#![expect(clippy::expect_used, reason = "a test may stop at the first surprise")]

#[path = "backup_lab/firewall.rs"]
mod firewall;
#[path = "backup_lab/keeping.rs"]
mod keeping;
#[path = "backup_lab/kill.rs"]
mod kill;
#[path = "backup_lab/pool.rs"]
mod pool;
#[path = "backup_lab/sources.rs"]
mod sources;
#[path = "backup_lab/spool.rs"]
mod spool;
#[path = "backup_lab/vault.rs"]
mod vault;
#[path = "backup_lab/vault_elsewhere.rs"]
mod vault_elsewhere;
#[path = "backup_lab/vault_postgres.rs"]
mod vault_postgres;

use std::time::Duration;

use homelab_tests::wait::{Look, wait_for};
use serde_json::Value;

/// The host whose data is backed up.
pub(crate) const DB: &str = "hx310-db";
/// The host that keeps repositories and tries restores.
pub(crate) const NAS: &str = "cw-nas";
/// Nothing is late before a year has passed.
pub(crate) const YEARLY: &str = "schedule = \"0 0 1 7 *\"\nrpo = \"8784h\"\n";
/// What takes a look of the daemons every half minute.
pub(crate) const SOON: Duration = Duration::from_secs(100);

/// A list in an answer; what is empty is left out there.
pub(crate) fn each<'a>(answer: &'a Value, name: &str) -> &'a [Value] {
    answer[name].as_array().map_or(&[], Vec::as_slice)
}

/// A text in an answer.
pub(crate) fn text<'a>(answer: &'a Value, name: &str) -> &'a str {
    answer[name].as_str().unwrap_or_default()
}

/// Waits until a look says that it is so; its words say how it stands instead.
pub(crate) fn until(
    what: &str,
    mut look: impl FnMut() -> anyhow::Result<Result<(), String>>,
) -> anyhow::Result<()> {
    wait_for(what, SOON, || {
        Ok(match look()? {
            Ok(()) => Look::Ready(()),
            Err(state) => Look::NotYet(state),
        })
    })
}

/// Bytes that no compressor makes smaller.
pub(crate) fn noise(seed: u32, bytes: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()
    };
    (0..bytes / 4).flat_map(|_| next()).collect()
}
