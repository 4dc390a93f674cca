//! When schedules fired, and which are paused. The expressions themselves stand
//! in the site file.

use async_trait::async_trait;
use homelab_domain::{ids::BackupName, run::RunKind};
use jiff::Timestamp;

use crate::error::StoreError;

/// Which schedule: the runs of a backup, or its drills.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScheduleKey {
    /// Backup.
    pub backup: BackupName,
    /// Its runs or its drills.
    pub kind: RunKind,
}

/// Who paused a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paused {
    /// Who.
    pub by: String,
    /// Why, for people.
    pub reason: String,
    /// Since when.
    pub at: Timestamp,
    /// When it ends by itself; none while it lasts until somebody resumes.
    pub until: Option<Timestamp>,
}

impl Paused {
    /// Whether it lasts.
    #[must_use]
    pub fn lasts(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// What is known of a schedule's past.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduleRecord {
    /// Which.
    pub key: ScheduleKey,
    /// When it came to be known; nothing before it was missed.
    pub known_since: Timestamp,
    /// The newest time for which it fired. Only grows.
    pub last_fired_for: Option<Timestamp>,
    /// Whether it is paused.
    pub paused: Option<Paused>,
}

/// Schedules.
#[async_trait]
pub trait Schedules: Send {
    /// All records.
    async fn all(&mut self) -> Result<Vec<ScheduleRecord>, StoreError>;

    /// The record, made with `now` as the moment since when it is known if there
    /// was none.
    async fn ensure(
        &mut self,
        key: &ScheduleKey,
        now: Timestamp,
    ) -> Result<ScheduleRecord, StoreError>;

    /// Records that a schedule fired for a time. True when that is newer than
    /// what was known: then, and only then, the caller may start the run. Of two
    /// controllers that look at the same second, one gets false.
    async fn fired(
        &mut self,
        key: &ScheduleKey,
        scheduled_for: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Pauses (with who and why) or resumes (`None`) both the runs and the drills
    /// of a backup. Whatever passes while it is paused is not made up for: on
    /// resuming, `now` counts as fired for.
    async fn set_paused(
        &mut self,
        backup: &BackupName,
        paused: Option<&Paused>,
        now: Timestamp,
    ) -> Result<(), StoreError>;
}
