//! How much waits: by model, by caller and in all.
//!
//! Whoever owns the queue keeps this beside the store, so that a job that comes in costs no counting
//! of those that wait. The store stays the truth: see [`Tally::begin_sync`].

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::{
    ids::{JobId, ModelName},
    job::JobClass,
    site::Tier,
    text,
};

/// How much may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLimits {
    /// So many jobs.
    pub jobs_max: u64,
    /// So many bytes of their requests.
    pub bytes_max: u64,
    /// So many jobs of one caller.
    pub caller_jobs_max: u64,
}

/// A job in the queue, as much as is needed to count it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// Which.
    pub id: JobId,
    /// Tier that it waits in.
    pub tier: Tier,
    /// Model that it waits for.
    pub model: ModelName,
    /// Who waits for it.
    pub class: JobClass,
    /// Who submitted it.
    pub caller: String,
    /// Bytes of its request.
    pub bytes: u64,
}

/// How much waits for one model of one tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queued {
    /// Jobs that somebody waits for.
    pub interactive: u64,
    /// Jobs that nobody waits for.
    pub batch: u64,
    /// Jobs that a program asked by the way.
    pub background: u64,
}

impl Queued {
    /// All of them.
    #[must_use]
    pub const fn jobs(&self) -> u64 {
        self.interactive + self.batch + self.background
    }
}

/// As much waits as may.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueFull {
    /// In all.
    #[error(
        "{} with {} KiB of text wait already, and the queue holds {} with {} KiB; try again \
         later, or cancel what need not run (`labctl job list`, `labctl job cancel JOB`)",
        text::count(*jobs, "job"), bytes / 1024, limits.jobs_max, limits.bytes_max / 1024
    )]
    InAll {
        /// So many jobs wait.
        jobs: u64,
        /// With so many bytes.
        bytes: u64,
        /// What may wait.
        limits: QueueLimits,
    },
    /// Of one caller.
    #[error(
        "{} of {caller} wait already, and one caller may have {limit} in the queue; try again once \
         some have run, or cancel what need not run (`labctl job cancel JOB`)",
        text::count(*jobs, "job")
    )]
    OfCaller {
        /// Who.
        caller: String,
        /// So many of its jobs wait.
        jobs: u64,
        /// So many may.
        limit: u64,
    },
}

/// What became of the wish to put a job into the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// It counts from now on; so many of the same caller waited before it.
    New {
        /// How many.
        own_ahead: u32,
    },
    /// It counted already.
    Known,
}

/// How much waits.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    entries: HashMap<JobId, Pending>,
    bytes: u64,
    queues: HashMap<(Tier, ModelName), u64>,
    callers: HashMap<String, u64>,
    /// What has changed since the store was last asked, while it is being asked.
    changed: Option<HashSet<JobId>>,
}

impl Tally {
    /// Counts a job that comes in, unless as much waits as may. Into an empty queue any job goes,
    /// however large.
    pub fn admit(&mut self, job: Pending, limits: QueueLimits) -> Result<Counted, QueueFull> {
        if self.entries.contains_key(&job.id) {
            return Ok(Counted::Known);
        }
        let own = self.of_caller(&job.caller);
        if own > 0 && own >= limits.caller_jobs_max {
            let limit = limits.caller_jobs_max;
            return Err(QueueFull::OfCaller { caller: job.caller, jobs: own, limit });
        }
        let jobs = self.jobs();
        let fits = jobs < limits.jobs_max && self.bytes + job.bytes <= limits.bytes_max;
        if jobs > 0 && !fits {
            return Err(QueueFull::InAll { jobs, bytes: self.bytes, limits });
        }
        self.add(job);
        Ok(Counted::New { own_ahead: u32::try_from(own).unwrap_or(u32::MAX) })
    }

    /// Counts a job whatever the limits: one that was in the queue before.
    pub fn add(&mut self, job: Pending) {
        if let Some(changed) = &mut self.changed {
            changed.insert(job.id);
        }
        self.count(job);
    }

    /// The job waits no more.
    pub fn remove(&mut self, id: JobId) {
        if let Some(changed) = &mut self.changed {
            changed.insert(id);
        }
        self.discount(id);
    }

    /// Jobs that wait.
    #[must_use]
    pub fn jobs(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Jobs that wait for a model of a tier.
    #[must_use]
    pub fn of_queue(&self, tier: Tier, model: &ModelName) -> u64 {
        self.queues.get(&(tier, model.clone())).copied().unwrap_or(0)
    }

    /// How much waits, queue by queue. Goes through all that waits.
    #[must_use]
    pub fn by_queue(&self) -> BTreeMap<(Tier, ModelName), Queued> {
        let mut queues: BTreeMap<_, Queued> = BTreeMap::new();
        for job in self.entries.values() {
            let queued = queues.entry((job.tier, job.model.clone())).or_default();
            match job.class {
                JobClass::Interactive => queued.interactive += 1,
                JobClass::Batch => queued.batch += 1,
                JobClass::Background => queued.background += 1,
            }
        }
        queues
    }

    /// Jobs of a caller that wait.
    #[must_use]
    pub fn of_caller(&self, caller: &str) -> u64 {
        self.callers.get(caller).copied().unwrap_or(0)
    }

    /// The store is about to be asked for everything that waits; what changes meanwhile is kept
    /// in mind.
    pub fn begin_sync(&mut self) {
        self.changed = Some(HashSet::new());
    }

    /// The store has answered: that counts, but for what has changed since it was asked.
    pub fn finish_sync(&mut self, all: Vec<Pending>) {
        let changed = self.changed.take().unwrap_or_default();
        let stale = |id: &JobId| !changed.contains(id);
        let gone: Vec<JobId> = self.entries.keys().copied().filter(stale).collect();
        for id in gone {
            self.discount(id);
        }
        for job in all.into_iter().filter(|job| !changed.contains(&job.id)) {
            self.count(job);
        }
    }

    fn count(&mut self, job: Pending) {
        self.discount(job.id);
        self.bytes += job.bytes;
        *self.queues.entry((job.tier, job.model.clone())).or_default() += 1;
        *self.callers.entry(job.caller.clone()).or_default() += 1;
        self.entries.insert(job.id, job);
    }

    fn discount(&mut self, id: JobId) {
        let Some(job) = self.entries.remove(&id) else { return };
        self.bytes -= job.bytes;
        less(&mut self.queues, (job.tier, job.model));
        less(&mut self.callers, job.caller);
    }
}

/// One less of something; what there is none of any more takes no room.
fn less<K: Eq + std::hash::Hash>(counts: &mut HashMap<K, u64>, key: K) {
    if let std::collections::hash_map::Entry::Occupied(mut count) = counts.entry(key) {
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: QueueLimits = QueueLimits { jobs_max: 4, bytes_max: 100, caller_jobs_max: 2 };

    fn pending(id: u128, caller: &str, bytes: u64) -> Pending {
        let model = ModelName::try_new("tiny").unwrap();
        let id = uuid::Uuid::from_u128(id).into();
        let class = JobClass::Batch;
        Pending { id, tier: Tier::Bronze, model, class, caller: caller.to_owned(), bytes }
    }

    #[test]
    fn one_caller_cannot_fill_the_queue() {
        let mut tally = Tally::default();
        for (id, own_ahead) in [(1, 0), (2, 1)] {
            let counted = tally.admit(pending(id, "ann", 1), LIMITS);
            assert_eq!(counted, Ok(Counted::New { own_ahead }));
        }
        let refused = tally.admit(pending(3, "ann", 1), LIMITS).unwrap_err();
        assert!(refused.to_string().starts_with("2 jobs of ann wait already"), "{refused}");
        assert!(tally.admit(pending(3, "jan", 1), LIMITS).is_ok());
        assert_eq!(tally.admit(pending(2, "ann", 1), LIMITS), Ok(Counted::Known));
        tally.remove(uuid::Uuid::from_u128(1).into());
        assert!(tally.admit(pending(4, "ann", 1), LIMITS).is_ok());
    }

    #[test]
    fn a_full_queue_takes_nothing_and_an_empty_one_anything() {
        let mut tally = Tally::default();
        assert!(tally.admit(pending(1, "ann", 99), LIMITS).is_ok());
        let refused = tally.admit(pending(2, "jan", 2), LIMITS);
        assert!(matches!(refused, Err(QueueFull::InAll { jobs: 1, bytes: 99, .. })), "{refused:?}");
        tally.remove(uuid::Uuid::from_u128(1).into());
        assert!(tally.admit(pending(2, "jan", 1_000), LIMITS).is_ok());
    }

    #[test]
    fn what_changes_while_the_store_is_asked_is_not_undone_by_its_answer() {
        let mut tally = Tally::default();
        tally.add(pending(1, "ann", 1));
        tally.add(pending(2, "ann", 1));
        tally.begin_sync();
        tally.remove(uuid::Uuid::from_u128(1).into());
        tally.add(pending(3, "ann", 1));
        // As it was when it was asked, and with one that nobody here knew of.
        tally.finish_sync(vec![pending(1, "ann", 1), pending(4, "jan", 5)]);
        let mut ids: Vec<JobId> = tally.entries.keys().copied().collect();
        ids.sort();
        let expected: Vec<JobId> = [3, 4].map(|id| uuid::Uuid::from_u128(id).into()).to_vec();
        assert_eq!(ids, expected);
        assert_eq!((tally.of_caller("ann"), tally.of_caller("jan"), tally.bytes), (1, 1, 6));
    }

    proptest! {
        #[test]
        fn counts_are_those_of_the_entries(steps in proptest::collection::vec((0..8_u128, any::<bool>(), 0..9_u64), 0..60)) {
            let mut tally = Tally::default();
            for (id, comes, bytes) in steps {
                if comes {
                    tally.add(pending(id, if id % 2 == 0 { "ann" } else { "jan" }, bytes));
                } else {
                    tally.remove(uuid::Uuid::from_u128(id).into());
                }
                let of = |caller: &str| tally.entries.values().filter(|one| one.caller == caller).count() as u64;
                prop_assert_eq!(tally.of_caller("ann"), of("ann"));
                prop_assert_eq!(tally.of_caller("jan"), of("jan"));
                prop_assert_eq!(tally.bytes, tally.entries.values().map(|one| one.bytes).sum::<u64>());
                let model = ModelName::try_new("tiny").unwrap();
                prop_assert_eq!(tally.of_queue(Tier::Bronze, &model), tally.jobs());
            }
        }
    }
}
