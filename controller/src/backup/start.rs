//! Runs that a person starts, and schedules that a person pauses.

use homelab_domain::{
    ids::{BackupName, RepositoryName, RunId},
    reason::Failure,
    run::{Run, RunKind, RunSpec, RunTrigger},
    site::Backup,
};
use homelab_store::{Paused, Started, StoreError};
use jiff::Timestamp;
use tokio::sync::watch;

use super::{
    Backups,
    agents::{CallError, Order},
    plan::host_of,
};

/// A run that a person wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Identifier of the call, and of the run that it starts.
    pub id: RunId,
    /// Backup.
    pub backup: BackupName,
    /// What to do.
    pub kind: RunKind,
    /// Snapshot to drill; none takes the newest verified one.
    pub snapshot_id: Option<String>,
    /// Repository to drill from; none takes what the site file says.
    pub repository: Option<RepositoryName>,
    /// Who: a SPIFFE id.
    pub by: String,
}

/// Why a run was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is no such backup.
    #[error(
        "there is no backup `{0}` in the site file; `labctl backup list` shows those there are"
    )]
    NotFound(BackupName),
    /// The same id was used for something else.
    #[error("request id {0} was used for another run; choose a new one")]
    OtherRequest(RunId),
    /// Another run of the same kind goes on.
    #[error(
        "{} {} of `{}` goes on since {}; `labctl backup runs --watch` \
         shows how far it is",
        _0.spec.kind, _0.spec.id, _0.spec.backup, _0.spec.started_at
    )]
    InProgress(Box<Run>),
    /// The agent cannot be reached.
    #[error("could not start it, and nothing was started: {}", _0)]
    Agent(#[source] CallError),
    /// The agent looked, and something is in the way.
    #[error("`{backup}` could not be started: {}", failure.message)]
    Refused {
        /// Backup.
        backup: BackupName,
        /// What is in the way.
        failure: Failure,
    },
    /// The store failed; the run may or may not have been started. Ask again with the same id.
    #[error("could not store the run; ask again with the same request id")]
    Store(#[from] StoreError),
}

impl Backups {
    /// Starts a run. The same wish again gives the run of the first time, whatever has become of it.
    ///
    /// # Errors
    ///
    /// Why it was not started.
    pub async fn start_run(&self, wish: Wish) -> Result<Run, StartError> {
        let parts = self.parts();
        let known = self.stored(wish.id).await?;
        if let Some(run) = known {
            return same(run, &wish);
        }
        let spec = self.spec(&wish)?;
        let unreachable = |why| CallError::Unreachable { host: spec.host.clone(), why };
        parts.agents.answers(&spec.host).map_err(unreachable).map_err(StartError::Agent)?;
        let mut tx = parts.store.begin().await?;
        tx.leadership().require(parts.lease.token()).await?;
        let run = match tx.runs().start(&spec).await? {
            Started::New(run) => run,
            Started::Existing(run) => return same(run, &wish),
            Started::InProgress(run) => return Err(StartError::InProgress(Box::new(run))),
        };
        tx.commit().await?;
        self.follow(run.clone());
        self.changed();
        Ok(run)
    }

    /// Checks whether a run could start, as far as its agent can tell without starting it.
    ///
    /// # Errors
    ///
    /// What is in the way.
    pub async fn check_run(&self, wish: Wish) -> Result<Run, StartError> {
        let spec = self.spec(&wish)?;
        let open = self.parts().store.read().await?.runs().open().await?;
        let same_kind = |run: &Run| run.spec.backup == wish.backup && run.spec.kind == wish.kind;
        if let Some(run) = open.into_iter().find(same_kind) {
            return Err(StartError::InProgress(Box::new(run)));
        }
        let run = Run::start(spec);
        let order = Order::of(&run, &self.site());
        match self.parts().agents.check(&order).await {
            Ok(_) => Ok(run),
            Err(CallError::Refused { failure, .. }) => {
                Err(StartError::Refused { backup: wish.backup, failure })
            }
            Err(error) => Err(StartError::Agent(error)),
        }
    }

    /// A run as it changes; `None` when there is none of that id. The last that is seen has ended,
    /// unless the controller stops.
    ///
    /// # Errors
    ///
    /// The store failed.
    pub async fn watch_run(&self, id: RunId) -> Result<Option<watch::Receiver<Run>>, StoreError> {
        let known = self.stored(id).await?;
        Ok(known.map(|run| {
            if run.state.kind().is_final() { watch::channel(run).1 } else { self.follow(run) }
        }))
    }

    /// Stops both schedules of a backup from firing, and says who did and why; with an end, they fire
    /// again by themselves.
    ///
    /// # Errors
    ///
    /// There is no such backup, or the store failed.
    pub async fn pause(
        &self,
        backup: &BackupName,
        by: String,
        reason: String,
        until: Option<Timestamp>,
    ) -> Result<(), StartError> {
        let paused = Paused { by, reason, at: self.now(), until };
        self.set_paused(backup, Some(&paused)).await
    }

    /// Lets both schedules of a backup fire again. What passed meanwhile is not made up for.
    ///
    /// # Errors
    ///
    /// There is no such backup, or the store failed.
    pub async fn resume(&self, backup: &BackupName) -> Result<(), StartError> {
        self.set_paused(backup, None).await
    }

    async fn set_paused(
        &self,
        backup: &BackupName,
        paused: Option<&Paused>,
    ) -> Result<(), StartError> {
        self.declared(backup)?;
        let mut tx = self.parts().store.begin().await?;
        tx.schedules().set_paused(backup, paused, self.now()).await?;
        tx.commit().await?;
        self.changed();
        Ok(())
    }

    /// A backup as the site file declares it.
    ///
    /// # Errors
    ///
    /// It does not.
    pub fn declared(&self, backup: &BackupName) -> Result<Backup, StartError> {
        let found = self.site().backup(backup).cloned();
        found.ok_or_else(|| StartError::NotFound(backup.clone()))
    }

    fn spec(&self, wish: &Wish) -> Result<RunSpec, StartError> {
        let backup = self.declared(&wish.backup)?;
        Ok(RunSpec {
            id: wish.id,
            backup: backup.name.clone(),
            host: host_of(&backup, wish.kind).clone(),
            kind: wish.kind,
            trigger: RunTrigger::Manual,
            started_by: wish.by.clone(),
            started_at: self.now(),
            scheduled_for: None,
            snapshot_id: wish.snapshot_id.clone(),
            repository: wish.repository.clone().or_else(|| drilled_from(&backup, wish.kind)),
            drill_age: None,
            notes: Vec::new(),
        })
    }
}

/// The run of the same call; a run of another one is not given away as the caller's own.
fn same(run: Run, wish: &Wish) -> Result<Run, StartError> {
    let spec = &run.spec;
    let is_same = spec.backup == wish.backup
        && spec.kind == wish.kind
        && spec.snapshot_id == wish.snapshot_id
        && spec.trigger == RunTrigger::Manual;
    if is_same { Ok(run) } else { Err(StartError::OtherRequest(wish.id)) }
}

/// The repository that the agent is told to drill from: none where its own declaration of the backup
/// says it, which an agent of another host has not got.
pub(super) fn drilled_from(backup: &Backup, kind: RunKind) -> Option<RepositoryName> {
    let is_elsewhere = backup.drilled_on() != &backup.host || backup.drill_repository.is_some();
    (kind == RunKind::Drill && is_elsewhere).then(|| backup.drilled_from().clone())
}
