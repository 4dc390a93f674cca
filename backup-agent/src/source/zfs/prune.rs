//! Carries out what [`keep`](super::keep) decided.

use homelab_common::error_chain::Chain;

use super::{
    ZfsError,
    keep::{Action, Decision},
    names::DatasetName,
    program::Zfs,
};

/// Destroyed in one run at most: a policy that was made much stricter takes several
/// runs, in which somebody may notice.
const DESTROY_MAX: usize = 500;

/// What was done, and what could not be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pruned {
    /// Snapshots that are gone.
    pub(super) destroyed: Vec<String>,
    /// Why others are not, a sentence each.
    pub(super) warnings: Vec<String>,
}

/// Destroys what the plan says, oldest first; a bookmark is made first where it must
/// remember a base, and without it the snapshot stays. Blocks.
#[must_use]
pub(super) fn prune(zfs: &Zfs, name: &DatasetName, backup: &str, plan: &[Decision]) -> Pruned {
    let mut pruned = Pruned::default();
    let doomed = plan.iter().filter_map(|decision| match decision.action {
        Action::Destroy { bookmark_first, .. } => Some((decision, bookmark_first)),
        Action::Keep(_) => None,
    });
    for (decision, bookmark_first) in doomed.take(DESTROY_MAX) {
        let full = name.at(&decision.snapshot);
        match destroy(zfs, name, backup, decision, bookmark_first) {
            Ok(()) => pruned.destroyed.push(full),
            Err(error) => pruned.warnings.push(format!("`{full}` stays: {}", Chain(&error))),
        }
    }
    pruned
}

fn destroy(
    zfs: &Zfs,
    name: &DatasetName,
    backup: &str,
    decision: &Decision,
    bookmark_first: bool,
) -> Result<(), ZfsError> {
    if bookmark_first {
        zfs.bookmark(name, &decision.snapshot)?;
    }
    zfs.destroy_snapshot(name, &decision.snapshot, decision.guid, backup)
}
