//! The room that a drained spool takes.
//!
//! A spool lies on a host's own disk, which is small and holds the system. What went home
//! from it is needed by nobody, so that its room is freed at once and not after the day
//! that a repository waits: only where the spool holds nothing at all, and alone, under
//! the lock that a run holds from its first byte to its last.

use std::{sync::Arc, time::Duration};

use homelab_common::error_chain::Chain;
use tracing::{info, warn};

use super::{Agent, AgentError};
use crate::{
    blocking,
    journal::Work,
    repository::{PrunePolicy, Pruned, Repository, storage::access::Access},
    runs::{End, Ended},
};

/// What is marked is removed by the next prune.
const AT_ONCE: PrunePolicy = PrunePolicy { keep_packs: Duration::ZERO };

/// One marks, one removes.
const PRUNES_MAX: u32 = 2;

impl Agent {
    /// Frees the room of a spool in which nothing waits. Says whether nothing is left to
    /// free.
    pub(super) async fn free_spool(&self, spool: &Arc<dyn Repository>) -> bool {
        if spool.access() != Access::Full {
            return true;
        }
        for _ in 0..PRUNES_MAX {
            match self.is_free(spool).await {
                Ok(true) => return true,
                Ok(false) => {}
                Err(error) => {
                    warn!(spool = %spool.name(), error = %Chain(&error), "room could not be looked for");
                    return false;
                }
            }
            match self.prune_spool(spool).await {
                Ok(pruned) => info!(
                    spool = %spool.name(), marked_bytes = pruned.marked_bytes,
                    freed_bytes = pruned.freed_bytes, "a drained spool was pruned"
                ),
                Err(why) => {
                    warn!(spool = %spool.name(), why, "a drained spool was not pruned; it is tried again");
                    return false;
                }
            }
        }
        true
    }

    /// Whether there is nothing to free, or something that may still be wanted.
    async fn is_free(&self, spool: &Arc<dyn Repository>) -> Result<bool, AgentError> {
        let asked = Arc::clone(spool);
        let look = move || {
            let holds_something = !asked.snapshots()?.is_empty()
                || !asked.unverified()?.is_empty()
                || !asked.forgotten()?.is_empty();
            if holds_something {
                return Ok(true);
            }
            let outlook = asked.prune_outlook(&AT_ONCE)?;
            Ok(outlook.packs_marked == 0 && outlook.packs_removed == 0)
        };
        self.door(spool).ask(spool, look).await
    }

    async fn prune_spool(&self, spool: &Arc<dyn Repository>) -> Result<Pruned, String> {
        let (asked, clock) = (Arc::clone(spool), Arc::clone(&self.clock));
        let execute = move |progress, _cancel| async move {
            let prune = move || asked.prune(&AT_ONCE, clock.now(), &progress);
            match blocking::run(prune).await {
                Ok(pruned) => End::Prune(pruned),
                Err(error) => End::Failed((&error).into()),
            }
        };
        let work = Work::Prune { repository: spool.name().clone() };
        let begun = self.runs.begin(self.new_run(), work, execute).await;
        let mut watched = begun.map_err(|error| Chain(&error).to_string())?;
        let ended = watched.end.wait_for(Option::is_some).await.ok().and_then(|end| end.clone());
        match ended.as_deref() {
            Some(Ended { end: End::Prune(pruned), .. }) => Ok(pruned.clone()),
            Some(Ended { end: End::Failed(failure), .. }) => Err(failure.message.clone()),
            // Without an end the daemon is stopping.
            _ => Err("it was cut off".to_owned()),
        }
    }
}
