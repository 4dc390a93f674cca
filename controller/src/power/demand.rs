//! Jobs that wait, as far as a host's power is concerned.

use homelab_domain::{
    ids::{HostName, JobId},
    job::Job,
    power::wake::Demand,
    site::Site,
};

use crate::job::engines::{Contact, WorkerSeen};

/// Tokens of an answer whose length nobody bounded.
const TOKENS_USUAL: u32 = 500;

/// What a job asks of whichever host runs it.
#[must_use]
pub fn demand(job: &Job) -> Demand {
    let spec = job.spec();
    Demand {
        class: spec.terms.class,
        since: job.enqueued_at(),
        tokens: spec.tokens_max.unwrap_or(TOKENS_USUAL).into(),
        latest_start: spec.terms.latest_start,
    }
}

/// Jobs that only `host` could run now: those of its tier that come after no other, and for which no
/// other host of the tier is up.
#[must_use]
pub fn demands(
    host: &HostName,
    site: &Site,
    pending: &[Job],
    held: &[JobId],
    workers: &[WorkerSeen],
) -> Vec<Demand> {
    let Some(tier) = site.tier_of(host) else { return Vec::new() };
    let elsewhere = |job: &Job| {
        workers.iter().any(|worker| {
            worker.host != *host
                && worker.tier == tier
                && worker.contact == Contact::Connected
                && worker.has(&job.spec().model)
        })
    };
    let ready = |job: &&Job| job.spec().tier == tier && !held.contains(&job.id());
    pending.iter().filter(ready).filter(|job| !elsewhere(job)).map(demand).collect()
}
