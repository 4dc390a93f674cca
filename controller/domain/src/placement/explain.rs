//! A placement in words.

use std::time::Duration;

use jiff::Timestamp;

use super::{Need, Placement, Step, WorkerView, place, queue::after};
use crate::{
    job::{Job, JobState},
    site::{ExpectedPower, Provider, Site, Tier},
    text,
};

/// What is known of the queue around a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueView {
    /// Pending jobs of the same tier that go before it.
    pub ahead: u64,
    /// How long a job of its tier usually takes; none when there was none yet.
    pub usual: Option<Duration>,
    /// How long the worker usually takes to wake.
    pub expected_wake: Option<Duration>,
}

/// Why a job is where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What will be done with it now, for people.
    pub decision: String,
    /// Why, a line each.
    pub reasons: Vec<String>,
    /// Where its text may go, a line each.
    pub destinations: Vec<String>,
    /// Place in the queue, from 1; none when it does not wait.
    pub position: Option<u64>,
    /// When it will probably run; none when nothing is known to guess from.
    pub expected_wait: Option<Duration>,
}

/// Explains where a job stands and what will be done with it now. `needs` are those jobs that it comes
/// after and that have not succeeded.
#[must_use]
pub fn explain(
    now: Timestamp,
    job: &Job,
    workers: &[WorkerView],
    site: &Site,
    queue: QueueView,
    needs: &[Need],
) -> Explanation {
    let destinations = destinations(job, site);
    if !job.state().kind().is_pending() {
        return Explanation {
            decision: format!("nothing: it is {}", job.state().kind()),
            reasons: vec![job.state().because().message],
            destinations: if job.state().kind().is_final() { vec![] } else { destinations },
            position: None,
            expected_wait: None,
        };
    }
    let placement = if needs.is_empty() {
        place(now, job, workers, site)
    } else {
        match after(needs) {
            Step::Wait(hold) => Placement::Wait { because: hold.because.clone(), wake: None },
            Step::GiveUp(because) => Placement::Refuse { because: vec![because] },
            Step::Run { worker, way, because } => Placement::Run { worker, way, because },
        }
    };
    let slots: u32 = workers
        .iter()
        .filter(|worker| worker.tier == job.spec().tier)
        .filter_map(|worker| worker.model(&job.spec().model))
        .map(|model| model.slots)
        .sum();
    let (decision, because, expected_wait) = match placement {
        Placement::Run { worker, because, .. } => {
            (format!("it goes to {worker}"), because, Some(Duration::ZERO))
        }
        Placement::Wait { because, wake: Some(host) } => {
            let wait = queue.expected_wake.map(|wake| wake + drained_in(queue, slots));
            (format!("it waits for {host} to wake"), because, wait)
        }
        Placement::Wait { because, wake: None } => {
            let wait = queue.usual.map(|_| drained_in(queue, slots));
            ("it waits".to_owned(), because, wait)
        }
        Placement::Refuse { because } => ("it cannot run".to_owned(), because, None),
    };
    let mut reasons: Vec<String> = because.into_iter().map(|why| why.message).collect();
    if let JobState::Waiting { because } = job.state()
        && !reasons.contains(&because.message)
    {
        reasons.push(format!("when last looked at: {}", because.message));
    }
    if queue.ahead > 0 {
        reasons.push(format!("{} of its tier go first", text::count(queue.ahead, "job")));
    }
    Explanation { decision, reasons, destinations, position: Some(queue.ahead + 1), expected_wait }
}

/// Where the text of a job may go: the hosts of its tier and nowhere else, or for
/// gold the one provider that offers its model.
#[must_use]
pub fn destinations(job: &Job, site: &Site) -> Vec<String> {
    let tier = job.spec().tier;
    if tier == Tier::Gold {
        let offer = site.gold().offer(&job.spec().model);
        let line = |provider: &Provider| {
            format!("{} ({}, {tier}, leaves the house)", provider.name, provider.url)
        };
        return offer.map(|(provider, _)| line(provider)).into_iter().collect();
    }
    let hosts = site.tier(tier).map(|config| config.hosts.as_slice()).unwrap_or_default();
    hosts
        .iter()
        .map(|name| match site.host(name) {
            Some(host) if host.expected_power == ExpectedPower::OnDemand => {
                format!("{name} ({}, {tier}, in the house, off until needed)", host.address)
            }
            Some(host) => format!("{name} ({}, {tier}, in the house)", host.address),
            None => format!("{name} ({tier})"),
        })
        .collect()
}

/// How long until those ahead have got a slot each, one round after the other.
fn drained_in(queue: QueueView, slots: u32) -> Duration {
    let Some(usual) = queue.usual else { return Duration::ZERO };
    let rounds = (queue.ahead + 1).div_ceil(u64::from(slots.max(1)));
    usual.saturating_mul(u32::try_from(rounds).unwrap_or(u32::MAX))
}
