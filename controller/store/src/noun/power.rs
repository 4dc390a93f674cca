//! Hosts that are off until needed: holds, boots, what kept them awake and what they used.

use std::time::Duration;

use async_trait::async_trait;
use homelab_domain::{
    ids::{HostName, JobId},
    power::{Hold, boot::Boot},
    reason::Because,
    site::Tier,
};
use jiff::{Timestamp, civil::Date};

use crate::error::StoreError;

/// What must be known of a host's power after a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PowerRecord {
    /// Host.
    pub host: HostName,
    /// Fence of the newest attempt to put it to sleep; 0 before the first.
    pub fence: u64,
    /// When it last came up after being woken.
    pub proved_at: Option<Timestamp>,
    /// When it was last put to sleep.
    pub slept_at: Option<Timestamp>,
}

/// How long something kept a host awake on a day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Host.
    pub host: HostName,
    /// Day, in the site's time zone.
    pub day: Date,
    /// What, as it was last said.
    pub because: Because,
    /// How long.
    pub lasted: Duration,
}

/// What a host used on a day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnergyDay {
    /// Host.
    pub host: HostName,
    /// Day, in the site's time zone.
    pub day: Date,
    /// For jobs of a tier; none for nobody.
    pub tier: Option<Tier>,
    /// How many jobs it was.
    pub jobs: u64,
    /// Energy.
    pub millijoules: u64,
}

/// What was used for one job, to be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobEnergy {
    /// Job.
    pub job: JobId,
    /// Its tier.
    pub tier: Tier,
    /// Energy.
    pub millijoules: u64,
}

/// Power of hosts that are off until needed.
#[async_trait]
pub trait PowerBook: Send {
    /// All hosts of which anything is known.
    async fn hosts(&mut self) -> Result<Vec<PowerRecord>, StoreError>;

    /// A fence for an attempt to put a host to sleep: higher than any before.
    async fn next_fence(&mut self, host: &HostName) -> Result<u64, StoreError>;

    /// A host came up after being woken. An earlier moment than is known changes nothing.
    async fn proved(&mut self, host: &HostName, at: Timestamp) -> Result<(), StoreError>;

    /// A host was put to sleep.
    async fn slept(&mut self, host: &HostName, at: Timestamp) -> Result<(), StoreError>;

    /// All holds, those that are over included.
    async fn holds(&mut self) -> Result<Vec<(HostName, Hold)>, StoreError>;

    /// Holds a host, in place of any hold before, or lets it go.
    async fn set_hold(&mut self, host: &HostName, hold: Option<&Hold>) -> Result<(), StoreError>;

    /// Keeps a boot, in place of what was known of it.
    async fn keep_boot(&mut self, boot: &Boot) -> Result<(), StoreError>;

    /// Boots of a host, the newest first.
    async fn boots(&mut self, host: &HostName, limit: u32) -> Result<Vec<Boot>, StoreError>;

    /// Adds to how long something kept a host awake; the newest message stays.
    async fn kept_awake(&mut self, kept: &Kept) -> Result<(), StoreError>;

    /// What kept hosts awake from a day on: the newest day first, then what lasted longest.
    async fn keepers(&mut self, since: Date) -> Result<Vec<Kept>, StoreError>;

    /// Adds what a host used, for nobody and for jobs.
    async fn used(
        &mut self,
        host: &HostName,
        day: Date,
        idle_millijoules: u64,
        jobs: &[JobEnergy],
    ) -> Result<(), StoreError>;

    /// What hosts used from a day on, by day and tier, the newest day first.
    async fn energy(&mut self, since: Date) -> Result<Vec<EnergyDay>, StoreError>;

    /// What was used for one job; none when nothing was measured.
    async fn energy_of(&mut self, job: JobId) -> Result<Option<u64>, StoreError>;

    /// Drops what is over: days before `day`, and all but the newest `boots` of each host
    /// that have ended. How many rows.
    async fn forget(&mut self, day: Date, boots: u32) -> Result<u64, StoreError>;
}
