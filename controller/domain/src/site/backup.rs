//! What is backed up, where to, how long it is kept, and what opens it.

use std::{fmt, str::FromStr, time::Duration};

use jiff::Timestamp;

use crate::{
    ids::{
        BackupName, DrillTargetName, HostName, RepositoryName, SecretName, ServiceName, WindowName,
    },
    retention::KeepPolicy,
    schedule::Schedule,
};

/// How long after its time a run may come and still be in time, unless the site file says otherwise.
pub const GRACE: Duration = Duration::from_hours(1);

/// By how much the firings of schedules are spread, unless the site file says otherwise: a dozen
/// backups at 02:00 do not all begin in the same second.
pub const JITTER: Duration = Duration::from_secs(20);

/// How often all data of a repository is read, unless the site file says otherwise.
pub const SCRUB_EVERY: Duration = Duration::from_hours(30 * 24);

/// How often a person proves that the recovery kit opens everything, unless the site file says
/// otherwise.
pub const KIT_PROOF_EVERY: Duration = Duration::from_hours(31 * 24);

/// One repository, as the site knows it; where it lies is in the config of the
/// backup-agents that use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repository {
    /// Name.
    pub name: RepositoryName,
    /// What it is, for people.
    pub description: String,
    /// What its copies are on: those on the same medium are lost together.
    pub medium: String,
    /// Where it is: copies at the same place burn together.
    pub place: String,
    /// The host that it is on, when it is one of the site.
    pub host: Option<HostName>,
    /// What opens it.
    pub secret: Option<SecretName>,
    /// The host whose agent may delete in it; none takes that of each backup.
    pub keeper: Option<HostName>,
    /// How often all of its data is read.
    pub scrub_every: Duration,
}

impl Repository {
    /// A repository of which nothing else is known: a medium of its own, at the site's own place.
    #[must_use]
    pub fn new(name: RepositoryName, place: impl Into<String>) -> Self {
        Self {
            description: String::new(),
            medium: name.to_string(),
            place: place.into(),
            host: None,
            secret: None,
            keeper: None,
            scrub_every: SCRUB_EVERY,
            name,
        }
    }
}

crate::words! {
    /// Kinds of backup source.
    SourceKind {
        /// PostgreSQL databases.
        Postgres = "postgres",
        /// A Vaultwarden data folder.
        Vaultwarden = "vaultwarden",
        /// Git repositories.
        Git = "git",
        /// An OPNsense configuration.
        Opnsense = "opnsense",
        /// ZFS datasets.
        Zfs = "zfs",
        /// Plain files.
        Files = "files",
    }
}

/// One declared backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backup {
    /// Name; the backup-agent's config has the source under the same name.
    pub name: BackupName,
    /// Host whose backup-agent runs it.
    pub host: HostName,
    /// Repository that it goes to.
    pub repository: RepositoryName,
    /// Repositories that each run is copied to.
    pub copies: Vec<RepositoryName>,
    /// Repository that takes runs while the first is away.
    pub spool: Option<RepositoryName>,
    /// Kind of source.
    pub source: SourceKind,
    /// When it runs.
    pub schedule: Schedule,
    /// Each of its schedules is late by an own, constant part of this.
    pub jitter: Duration,
    /// How long after its time a run may come and still be in time.
    pub grace: Duration,
    /// Backups whose run of the same round comes first.
    pub after: Vec<BackupName>,
    /// How old the newest verified snapshot may become.
    pub rpo: Duration,
    /// How long a restore may take.
    pub rto: Option<Duration>,
    /// When it is drilled.
    pub drill: Option<Schedule>,
    /// Where drills restore to; needed when there is a drill schedule.
    pub drill_target: Option<DrillTargetName>,
    /// Host whose backup-agent drills; none drills where it runs.
    pub drill_host: Option<HostName>,
    /// Repository that drills restore from; none takes the first.
    pub drill_repository: Option<RepositoryName>,
    /// How much is kept; none keeps everything.
    pub keep: Option<KeepPolicy>,
    /// Services whose data it holds.
    pub services: Vec<ServiceName>,
}

impl Backup {
    /// A backup of which nothing else is said.
    #[must_use]
    pub fn new(
        name: BackupName,
        host: HostName,
        repository: RepositoryName,
        source: SourceKind,
        schedule: Schedule,
        rpo: Duration,
    ) -> Self {
        Self {
            name,
            host,
            repository,
            copies: Vec::new(),
            spool: None,
            source,
            schedule,
            jitter: JITTER,
            grace: GRACE,
            after: Vec::new(),
            rpo,
            rto: None,
            drill: None,
            drill_target: None,
            drill_host: None,
            drill_repository: None,
            keep: None,
            services: Vec::new(),
        }
    }

    /// The repositories that are meant to hold it for good: the first, then those it is copied to.
    pub fn repositories(&self) -> impl Iterator<Item = &RepositoryName> {
        std::iter::once(&self.repository).chain(&self.copies)
    }

    /// The host that drills run on.
    #[must_use]
    pub fn drilled_on(&self) -> &HostName {
        self.drill_host.as_ref().unwrap_or(&self.host)
    }

    /// The repository that drills restore from.
    #[must_use]
    pub fn drilled_from(&self) -> &RepositoryName {
        self.drill_repository.as_ref().unwrap_or(&self.repository)
    }
}

/// A time in which schedules do not fire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Name.
    pub name: WindowName,
    /// When it begins.
    pub begins: Schedule,
    /// How long it lasts, in real time: an hour stays an hour when clocks change.
    pub length: Duration,
    /// Backups that it holds; none named means all.
    pub backups: Vec<BackupName>,
    /// Why, for people.
    pub description: String,
}

impl Window {
    /// Whether it holds the schedules of a backup.
    #[must_use]
    pub fn holds(&self, backup: &BackupName) -> bool {
        self.backups.is_empty() || self.backups.contains(backup)
    }

    /// When the window that is open at `now` ends; none while none is.
    #[must_use]
    pub fn open_until(&self, now: Timestamp) -> Option<Timestamp> {
        let begun = self.begins.newest_in(now.checked_sub(self.length).ok()?, now)?;
        begun.checked_add(self.length).ok().filter(|end| now < *end)
    }
}

/// Where a secret can be had.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Keeper {
    /// The recovery kit: paper, or whatever else is outside of everything that is backed up.
    Kit,
    /// A service that shows it, such as a password manager.
    Service(ServiceName),
    /// A backup that holds it as a file.
    Backup(BackupName),
}

impl fmt::Display for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kit => f.write_str("kit"),
            Self::Service(name) => write!(f, "service/{name}"),
            Self::Backup(name) => write!(f, "backup/{name}"),
        }
    }
}

impl FromStr for Keeper {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || "`kit`, `service/NAME` or `backup/NAME`".to_owned();
        match text.split_once('/') {
            None if text == "kit" => Ok(Self::Kit),
            Some(("service", name)) => {
                name.parse().map(Self::Service).map_err(|error| error.to_string())
            }
            Some(("backup", name)) => {
                name.parse().map(Self::Backup).map_err(|error| error.to_string())
            }
            _ => Err(wanted()),
        }
    }
}

/// A secret that a cold start needs: its name and where it is kept, never what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secret {
    /// Name.
    pub name: SecretName,
    /// What it opens, for people.
    pub description: String,
    /// Where it can be had; any one of them will do.
    pub kept_in: Vec<Keeper>,
    /// Services that cannot start without it.
    pub services: Vec<ServiceName>,
}
