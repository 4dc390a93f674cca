//! What will be done with everything that waits, queue by queue.

use std::{collections::BTreeMap, time::Duration};

use homelab_domain::{
    ids::{HostName, JobId, ModelName},
    job::Job,
    placement::{QueuePlan, Step, plan_queue},
    queue::Queued,
    reason::Because,
    site::Tier,
};
use homelab_store::StoreError;

use super::{
    Jobs,
    engines::Contact,
    plan::{self, Needs},
};

/// Enough to tell who is next where jobs that come after others stand first.
const LOOKED_AT_MAX: u32 = 50;

/// What will be done with the jobs for one model of one tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueForecast {
    /// Tier.
    pub tier: Tier,
    /// Model.
    pub model: ModelName,
    /// What waits.
    pub queued: Queued,
    /// Jobs that workers have.
    pub running: u32,
    /// Slots of the workers that answer.
    pub slots: u32,
    /// What will be done with the first that waits, for people; empty when none waits.
    pub decision: String,
    /// Why, a line each.
    pub reasons: Vec<String>,
    /// Host whose waking would help.
    pub wake: Option<HostName>,
    /// When the first will probably run; none when nothing is known to guess from.
    pub expected_wait: Option<Duration>,
    /// When the last will probably have run.
    pub expected_end: Option<Duration>,
    /// The job that is next.
    pub next: Option<JobId>,
}

impl Jobs {
    /// A dry run of the dispatcher: what it would do now, and why. Changes nothing.
    ///
    /// # Errors
    /// The store failed.
    pub async fn forecast(&self) -> Result<Vec<QueueForecast>, StoreError> {
        let (pending, needs) = self.pending(LOOKED_AT_MAX).await?;
        let firsts = self.firsts(&pending, &needs);
        let mut queues: BTreeMap<(Tier, ModelName), QueueForecast> = BTreeMap::new();
        for (tier, model, slots, running) in self.offers() {
            let row = queues.entry((tier, model.clone())).or_insert_with(|| empty(tier, model));
            row.slots += slots;
            row.running += running;
        }
        for ((tier, model), queued) in self.tally().by_queue() {
            let key = (tier, model.clone());
            queues.entry(key).or_insert_with(|| empty(tier, model)).queued = queued;
        }
        for (key, (id, step)) in firsts {
            if let Some(row) = queues.get_mut(&key) {
                row.next = Some(id);
                self.decide(row, step);
            }
        }
        let rows = queues.into_values();
        Ok(rows.filter(|row| row.running > 0 || row.queued.jobs() > 0).collect())
    }

    /// What would be done with the first of each queue.
    fn firsts(&self, pending: &[Job], needs: &Needs) -> BTreeMap<(Tier, ModelName), (JobId, Step)> {
        let (site, now) = (self.site(), self.now());
        let views = plan::views(&self.workers(), &self.0.slots);
        let homes = self.homes().of_all(pending);
        let known = QueuePlan { now, site: &site, workers: &views, homes: &homes, needs };
        let mut firsts = BTreeMap::new();
        for (job, step) in pending.iter().zip(plan_queue(&known, pending).steps) {
            let spec = job.spec();
            firsts.entry((spec.tier, spec.model.clone())).or_insert_with(|| (job.id(), step));
        }
        firsts
    }

    /// Slots and those in use of every model of every worker that answers.
    fn offers(&self) -> Vec<(Tier, ModelName, u32, u32)> {
        let mut offers = Vec::new();
        for seen in self.workers().iter().filter(|seen| seen.contact == Contact::Connected) {
            for row in seen.models() {
                let Ok(model) = ModelName::try_new(&row.name) else { continue };
                let slots = plan::slots_of(seen, &model);
                let used = self.0.slots.used(&seen.host, &model);
                offers.push((seen.tier, model, slots, used));
            }
        }
        offers
    }

    fn decide(&self, row: &mut QueueForecast, step: Step) {
        let usual = self.pace().usual(row.tier, &row.model);
        let texts = |because: &[Because]| because.iter().map(|why| why.message.clone()).collect();
        match step {
            Step::Run { worker, because, .. } => {
                row.decision = format!("the next goes to {worker}");
                row.reasons = texts(&because);
                row.expected_wait = Some(Duration::ZERO);
            }
            Step::Wait(hold) => {
                row.reasons = texts(&hold.because);
                row.wake.clone_from(&hold.wake);
                row.decision = match &hold.wake {
                    Some(host) => format!("they wait for {host} to wake"),
                    None => "they wait".to_owned(),
                };
                row.expected_wait = usual.filter(|_| row.slots > 0);
            }
            Step::GiveUp(because) => {
                row.decision = "the next cannot run".to_owned();
                row.reasons = vec![because.message];
            }
        }
        let rounds = row.queued.jobs().div_ceil(u64::from(row.slots.max(1)));
        let rounds = u32::try_from(rounds).unwrap_or(u32::MAX);
        row.expected_end = row
            .expected_wait
            .zip(usual)
            .map(|(wait, usual)| wait.saturating_add(usual.saturating_mul(rounds)));
    }
}

fn empty(tier: Tier, model: ModelName) -> QueueForecast {
    QueueForecast {
        tier,
        model,
        queued: Queued::default(),
        running: 0,
        slots: 0,
        decision: String::new(),
        reasons: Vec::new(),
        wake: None,
        expected_wait: None,
        expected_end: None,
        next: None,
    }
}
