//! One trait per thing that is remembered.

pub(crate) mod attestations;
pub(crate) mod audit;
pub(crate) mod batches;
pub(crate) mod certificates;
pub(crate) mod context;
pub(crate) mod gold;
pub(crate) mod hosts;
pub(crate) mod jobs;
pub(crate) mod leadership;
pub(crate) mod power;
pub(crate) mod requests;
pub(crate) mod runbooks;
pub(crate) mod runs;
pub(crate) mod schedules;
pub(crate) mod sessions;
pub(crate) mod snapshots;
pub(crate) mod tokens;
