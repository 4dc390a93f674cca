//! Requests that left the house, and what they cost.

use async_trait::async_trait;
use homelab_domain::{
    gold::{Asker, Budget, Money, Shortfall, Spent},
    ids::{JobId, ModelName, ProviderName},
    schedule::Zone,
    words,
};
use jiff::Timestamp;

use crate::error::StoreError;

/// A request that is about to leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewGoldCall {
    /// The job.
    pub job: JobId,
    /// The attempt at it.
    pub attempt: u32,
    /// When.
    pub at: Timestamp,
    /// On whose behalf.
    pub asker: Asker,
    /// To whom.
    pub provider: ProviderName,
    /// For which model.
    pub model: ModelName,
    /// Bytes that leave.
    pub bytes: u64,
    /// SHA-256 over them.
    pub digest: [u8; 32],
    /// What was found in the request, as counts of classes.
    pub classes: String,
    /// The rules that let it leave.
    pub rules: String,
    /// Pseudonyms that it holds.
    pub pseudonyms: u32,
    /// The most that it can cost.
    pub reserved: Money,
}

words! {
    /// How a request ended, as far as its cost goes.
    GoldOutcome {
        /// The provider said what it used.
        Settled = "settled",
        /// The provider refused it, or was never reached: it cost nothing.
        Free = "free",
        /// Nobody knows what it cost: it counts as the most that it could.
        Lost = "lost",
    }
}

/// What a request cost in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// When that was known.
    pub at: Timestamp,
    /// How it ended.
    pub outcome: GoldOutcome,
    /// What it cost.
    pub cost: Money,
    /// Tokens that the provider read.
    pub prompt_tokens: Option<u32>,
    /// Tokens that it wrote.
    pub completion_tokens: Option<u32>,
}

/// A request that left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoldCall {
    /// What was known before it did.
    pub call: NewGoldCall,
    /// What it cost; none while it runs.
    pub settlement: Option<Settlement>,
}

/// Whether a request has a reservation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reserved {
    /// It has: what it may cost counts as spent from now on.
    Made,
    /// This attempt has had one before. It must not leave a second time.
    Repeated,
    /// A budget has no room for it.
    Short(Shortfall),
}

/// Requests that left the house.
#[async_trait]
pub trait Gold: Send {
    /// Reserves what a request may cost, when every budget that covers it has room. Of
    /// many at once, no two are promised the same money.
    async fn reserve(
        &mut self,
        call: &NewGoldCall,
        budgets: &[Budget],
        zone: &Zone,
    ) -> Result<Reserved, StoreError>;

    /// Writes down what a request cost. The first settlement stands; false for a later one.
    async fn settle(
        &mut self,
        job: JobId,
        attempt: u32,
        settlement: Settlement,
    ) -> Result<bool, StoreError>;

    /// Settles as lost what was reserved before a moment and is still open; how many.
    async fn give_up(&mut self, before: Timestamp, now: Timestamp) -> Result<u64, StoreError>;

    /// What each asker has spent in the day and the month that hold `now`.
    async fn spent(&mut self, now: Timestamp, zone: &Zone) -> Result<Vec<Spent>, StoreError>;

    /// The requests of a job, the first attempt first.
    async fn of_job(&mut self, job: JobId) -> Result<Vec<GoldCall>, StoreError>;

    /// The newest requests, the newest first.
    async fn newest(&mut self, limit: u32) -> Result<Vec<GoldCall>, StoreError>;

    /// Drops the oldest `limit` requests that left before a moment and are settled; how many went.
    async fn prune(&mut self, before: Timestamp, limit: u32) -> Result<u64, StoreError>;
}
