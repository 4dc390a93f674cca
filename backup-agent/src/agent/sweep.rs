//! Removes what dead runs left behind.
//!
//! Reads everything, decides, acts, and may be repeated at any time. Three things
//! may stay behind when the process dies: an unverified snapshot, a scratch database
//! with its roles, and half a restore. The journal knows the runs of this agent that
//! were cut off; unverified snapshots of others are left alone until they are too old
//! to be of a run that goes on.

use std::{path::Path, sync::Arc, time::Duration};

use homelab_common::error_chain::Chain;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Agent, AgentError, Kept};
use crate::{
    blocking,
    drill::{self, Target},
    ids::{Name, RunId},
    journal::{Entry, Journal, Work},
    restore,
};

/// No run lasts that long (`run-max` ends it).
const UNVERIFIED_AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Between two sweeps.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

impl Agent {
    /// Sweeps now and every hour, until `stopping`. `cut_off` are the runs that the
    /// journal held at the start.
    pub async fn keep_sweeping(
        self: Arc<Self>,
        journal: Arc<Journal>,
        mut cut_off: Vec<Entry>,
        stopping: CancellationToken,
    ) {
        let mut ticks = tokio::time::interval(SWEEP_EVERY);
        loop {
            tokio::select! {
                () = stopping.cancelled() => return,
                _ = ticks.tick() => {}
            }
            self.clear_up_after(&journal, &mut cut_off).await;
            for kept in self.repositories.values() {
                if let Err(error) = self.sweep_repository(kept).await {
                    warn!(repository = %kept.repository.name(), error = %Chain(&error), "not swept");
                }
            }
            for target in self.targets.values() {
                self.sweep_target(target).await;
            }
        }
    }

    /// What a run was cut off from is cleared up once; what fails is tried again at
    /// the next sweep.
    async fn clear_up_after(&self, journal: &Arc<Journal>, cut_off: &mut Vec<Entry>) {
        let mut left = Vec::new();
        for entry in cut_off.drain(..) {
            match self.clear_up(&entry).await {
                Ok(()) => {
                    info!(run = %entry.run, work = ?entry.work, "cleared up after a run that was cut off");
                    let (journal, run) = (Arc::clone(journal), entry.run);
                    if let Err(error) = blocking::run(move || journal.end(run)).await {
                        warn!(%run, error = %Chain(&error), "could not note that a run was cleared up");
                    }
                }
                Err(error) => {
                    warn!(run = %entry.run, error = %Chain(&error), "could not clear up after a run");
                    left.push(entry);
                }
            }
        }
        *cut_off = left;
    }

    async fn clear_up(&self, entry: &Entry) -> Result<(), AgentError> {
        match &entry.work {
            Work::Backup { repository, backup } => {
                self.discard(repository, entry.run).await?;
                // Where it may have gone instead.
                let spool = self.backups.get(backup).and_then(|it| it.spool.as_ref());
                if let Some(spool) = spool {
                    self.discard(spool.name(), entry.run).await?;
                }
            }
            Work::Copy { to, of, .. } => self.discard(to, *of).await?,
            Work::Restore { target, .. } => {
                let partial = restore::partial_folder(target, entry.run);
                blocking::run(move || restore::remove_partial(Path::new(&partial))).await;
            }
            // Scratch places are swept by name and marker with all others, and the next prune goes on
            // where this one was cut off.
            Work::Drill { .. }
            | Work::Prune { .. }
            | Work::PushBack { .. }
            | Work::Verification { .. } => {}
        }
        Ok(())
    }

    async fn discard(&self, repository: &Name, run: RunId) -> Result<(), AgentError> {
        // No longer configured: another agent's sweeper finds it by its age.
        let Some(kept) = self.repositories.get(repository) else { return Ok(()) };
        let asked = Arc::clone(&kept.repository);
        let discard = move || Ok(asked.discard(run).map(drop)?);
        kept.door.ask(&kept.repository, discard).await
    }

    async fn sweep_repository(&self, kept: &Kept) -> Result<(), AgentError> {
        let repository = Arc::clone(&kept.repository);
        let (runs, now) = (self.runs.clone(), self.clock.now());
        let work = move || {
            let is_old = |taken_at: jiff::Timestamp| {
                let age = Duration::try_from(now.duration_since(taken_at)).unwrap_or_default();
                age > UNVERIFIED_AGE_MAX
            };
            let left = repository.unverified()?;
            let dead: Vec<RunId> = left
                .into_iter()
                .filter(|left| is_old(left.taken_at))
                .filter_map(|left| left.run)
                .filter(|run| !runs.is_alive(*run))
                .collect();
            for run in dead {
                let count = repository.discard(run)?;
                info!(repository = %repository.name(), %run, count, "swept unverified snapshots");
            }
            Ok(())
        };
        kept.door.ask(&kept.repository, work).await
    }

    async fn sweep_target(&self, target: &Target) {
        let (target, runs, sweeper) = (target.clone(), self.runs.clone(), self.new_run());
        let name = target.name().clone();
        let sweeping = move || drill::sweep(&target, sweeper, |run| runs.is_alive(run));
        match blocking::run(sweeping).await {
            Ok(removed) if removed.is_empty() => {}
            Ok(removed) => info!(target_name = %name, ?removed, "swept what drills left"),
            Err(error) => warn!(target_name = %name, error = %Chain(&error), "not swept"),
        }
    }
}
