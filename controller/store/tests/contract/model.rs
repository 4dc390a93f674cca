//! The queue against a model of it: whatever is done in whatever order, no job has two owners, none is
//! lost, and each ends once, unless a person asks for it again.

use std::{collections::BTreeMap, time::Duration};

use homelab_common::chance::{Chance as _, SeededChance};
use homelab_domain::{
    ids::JobId,
    job::{ATTEMPTS_MAX, JobStateKind, Outcome, Usage},
    reason::{Because, Failure, Reason},
};
use homelab_store::{JobError, Jobs, Piece, Submitted};
use jiff::Timestamp;

use crate::bench::{Bench, at, claim, host, job};

/// Each seed is a story of its own.
const SEEDS: u64 = 5;
const STEPS: u32 = 160;
/// Few, so that much happens to each.
const JOBS: u128 = 6;
const LEASE: Duration = Duration::from_secs(20);

/// What must be so of one job.
#[derive(Clone, Debug)]
struct Expected {
    state: JobStateKind,
    given: u32,
    limit: u32,
    shown: u32,
    until: Timestamp,
    deadline: Option<Timestamp>,
    /// How often it has ended, and how often a person asked for it again.
    ends: u32,
    retries: u32,
}

impl Expected {
    fn is_claimable(&self, now: Timestamp) -> bool {
        let in_time = self.deadline.is_none_or(|deadline| deadline > now);
        self.state.is_pending() && self.given < self.limit && in_time
    }

    fn give(&mut self, until: Timestamp) {
        self.given += 1;
        (self.state, self.until, self.shown) = (JobStateKind::Assigned, until, 0);
    }

    fn is_owner(&self, attempt: u32) -> bool {
        self.state.is_owned() && self.given == attempt
    }

    fn end(&mut self, state: JobStateKind) {
        self.state = state;
        self.ends += 1;
    }

    fn break_off(&mut self, retryable: bool) {
        if retryable && self.shown == 0 && self.given < self.limit {
            self.state = JobStateKind::Queued;
        } else {
            self.end(JobStateKind::Failed);
        }
    }
}

/// One story: the store, what must be so, and what happens next.
struct Story<'a> {
    bench: &'a Bench,
    chance: SeededChance,
    expected: BTreeMap<JobId, Expected>,
    now: Timestamp,
}

pub(crate) async fn the_queue_does_what_its_model_says(bench: &Bench) {
    for seed in 1..=SEEDS {
        let mut story =
            Story { bench, chance: SeededChance::new(seed), expected: BTreeMap::new(), now: at(0) };
        for step in 0..STEPS {
            let said = story.step(u128::from(seed) * 1_000).await;
            story.check(&format!("seed {seed}, step {step}: {said}")).await;
        }
        // The next story begins with an empty queue.
        story.finish_all().await;
    }
}

impl Story<'_> {
    fn pick(&self, below: u64) -> u64 {
        self.chance.u64() % below
    }

    /// A job that was submitted, if there is one, and one of its attempts: mostly the newest.
    fn any(&self) -> Option<(JobId, u32)> {
        let count = self.expected.len() as u64;
        let index = usize::try_from(self.pick(count.max(1))).unwrap();
        let (id, job) = self.expected.iter().nth(index)?;
        let attempt = if self.pick(4) == 0 { job.given.saturating_sub(1) } else { job.given };
        Some((*id, attempt))
    }

    /// Something happens, in a transaction of its own that is sometimes lost before it is committed.
    async fn step(&mut self, base: u128) -> String {
        self.now += Duration::from_secs(self.pick(4));
        let before = self.expected.clone();
        let mut tx = self.bench.store.begin().await.unwrap();
        let said = self.act(tx.jobs().as_mut(), base).await;
        if self.pick(8) == 0 {
            tx.rollback().await.unwrap();
            self.expected = before;
            return format!("{said}, and the transaction was lost");
        }
        tx.commit().await.unwrap();
        said
    }

    async fn act(&mut self, jobs: &mut dyn Jobs, base: u128) -> String {
        let (now, until) = (self.now, self.now + LEASE);
        let kind = self.pick(12);
        if kind < 2 {
            return self.submit(jobs, base).await;
        }
        let Some((id, attempt)) = self.any() else { return "nothing".to_owned() };
        let job = self.expected.get_mut(&id).unwrap();
        let may;
        let done = match kind {
            2 => {
                may = job.is_claimable(now);
                if may {
                    job.give(until);
                }
                jobs.assign(id, &host("x99"), now, until).await.map(drop)
            }
            3 => return self.claim(jobs).await,
            4 => {
                may = job.state == JobStateKind::Assigned && job.given == attempt;
                if may {
                    job.state = JobStateKind::Running;
                }
                jobs.start(id, attempt, now).await.map(drop)
            }
            5 => {
                let index = job.shown + u32::from(attempt % 2 == 0 && job.shown > 3);
                may = job.state == JobStateKind::Running
                    && job.given == attempt
                    && index == job.shown;
                if may {
                    job.shown += 1;
                    job.until = job.until.max(until);
                }
                let piece = Piece { index, content: "x".to_owned(), ..Piece::default() };
                jobs.append(id, attempt, &[piece], until).await
            }
            6 => {
                may = job.is_owner(attempt);
                if may {
                    job.end(JobStateKind::Succeeded);
                }
                let outcome = Outcome::Succeeded { usage: Usage::default() };
                jobs.finish(id, attempt, outcome, now).await.map(drop)
            }
            7 => {
                let retryable = attempt % 3 != 0;
                may = job.is_owner(attempt);
                if may {
                    job.break_off(retryable);
                }
                jobs.finish(id, attempt, broke(retryable), now).await.map(drop)
            }
            8 => {
                may = !job.state.is_final();
                if may {
                    job.end(JobStateKind::Cancelled);
                }
                jobs.cancel(id, "ann", now).await.map(drop)
            }
            9 => {
                may = job.state.is_final() && job.state != JobStateKind::Succeeded;
                if may {
                    job.state = JobStateKind::Queued;
                    job.limit = job.given + ATTEMPTS_MAX;
                    job.deadline = job.deadline.filter(|deadline| *deadline > now);
                    job.shown = 0;
                    job.retries += 1;
                }
                jobs.retry(id, "ann", now).await.map(drop)
            }
            10 => return self.renew(jobs, id, attempt).await,
            _ => return self.sweep(jobs).await,
        };
        let did = !matches!(done, Err(JobError::Refused(_)));
        assert!(done.is_ok() || !did, "{done:?}");
        assert_eq!(did, may, "kind {kind} of {id}, attempt {attempt}: {done:?}");
        format!("kind {kind} of {id}, attempt {attempt}: {may}")
    }

    async fn submit(&mut self, jobs: &mut dyn Jobs, base: u128) -> String {
        let number = base + u128::from(self.pick(u64::try_from(JOBS).unwrap()));
        let mut spec = job(number);
        spec.submitted_at = self.now;
        spec.deadline = number.is_multiple_of(2).then(|| self.now + Duration::from_secs(60));
        match jobs.submit(&spec).await.unwrap() {
            Submitted::New(_) => {
                let expected = Expected {
                    state: JobStateKind::Queued,
                    given: 0,
                    limit: ATTEMPTS_MAX,
                    shown: 0,
                    until: self.now,
                    deadline: spec.deadline,
                    ends: 0,
                    retries: 0,
                };
                assert!(self.expected.insert(spec.id, expected).is_none(), "submitted twice");
            }
            Submitted::Existing(_) => assert!(self.expected.contains_key(&spec.id), "it was lost"),
            Submitted::NeedMissing(id) => panic!("needs {id}"),
        }
        format!("submit {number}")
    }

    async fn claim(&mut self, jobs: &mut dyn Jobs) -> String {
        let mut claim = claim(2);
        (claim.now, claim.until) = (self.now, self.now + LEASE);
        let given = jobs.claim(&claim).await.unwrap();
        let free = self.expected.values().filter(|job| job.is_claimable(self.now)).count();
        // Whoever has used all attempts is selected and refused, which takes its place in the claim.
        assert!(given.len() <= free.min(2), "{given:?}");
        for job in &given {
            let expected = self.expected.get_mut(&job.id()).unwrap();
            assert!(expected.is_claimable(self.now), "{job:?} was given away twice");
            expected.give(claim.until);
        }
        format!("claim of {}", given.len())
    }

    async fn renew(&mut self, jobs: &mut dyn Jobs, id: JobId, attempt: u32) -> String {
        let until = self.now + LEASE;
        let refused = jobs.renew(&[(id, attempt)], until).await.unwrap();
        let job = self.expected.get_mut(&id).unwrap();
        assert_eq!(refused.is_empty(), job.is_owner(attempt), "{job:?}");
        if refused.is_empty() {
            job.until = job.until.max(until);
        }
        format!("renewal of {id}, attempt {attempt}")
    }

    async fn sweep(&mut self, jobs: &mut dyn Jobs) -> String {
        let swept = jobs.sweep(self.now, 100).await.unwrap();
        let (mut expired, mut lost) = (0, 0);
        for job in self.expected.values_mut() {
            if job.state.is_pending() && job.deadline.is_some_and(|at| at <= self.now) {
                job.end(JobStateKind::Expired);
                expired += 1;
            } else if job.state.is_owned() && job.until <= self.now {
                job.break_off(true);
                lost += 1;
            }
        }
        assert_eq!((swept.expired.len(), swept.lost.len()), (expired, lost));
        format!("sweep of {expired} and {lost}")
    }

    /// Everything that the store tells is what the model says.
    async fn check(&self, when: &str) {
        let mut tx = self.bench.store.read().await.unwrap();
        let mut owned: Vec<JobId> =
            tx.jobs().owned().await.unwrap().iter().map(homelab_domain::job::Job::id).collect();
        let mut pending: Vec<JobId> =
            tx.jobs().pending_all().await.unwrap().iter().map(|job| job.id).collect();
        owned.sort();
        pending.sort();
        let of = |is: fn(JobStateKind) -> bool| -> Vec<JobId> {
            self.expected.iter().filter(|(_, job)| is(job.state)).map(|(id, _)| *id).collect()
        };
        assert_eq!(owned, of(JobStateKind::is_owned), "{when}");
        assert_eq!(pending, of(JobStateKind::is_pending), "{when}");
        for (id, expected) in &self.expected {
            let job = tx.jobs().get(*id).await.unwrap().expect(when);
            assert_eq!(job.state().kind(), expected.state, "{when}: {job:?}");
            assert_eq!(job.attempts().given, expected.given, "{when}: {job:?}");
            let events = tx.jobs().events(*id).await.unwrap();
            let ends = events.iter().filter(|event| event.state.is_final()).count();
            assert_eq!(ends, expected.ends as usize, "{when}: {events:?}");
            assert!(expected.ends <= expected.retries + 1, "{when}: it ended twice: {events:?}");
            assert_eq!(events.last().unwrap().state, expected.state, "{when}");
        }
    }

    async fn finish_all(&mut self) {
        let mut tx = self.bench.store.begin().await.unwrap();
        for (id, job) in &self.expected {
            if !job.state.is_final() {
                let because = Because::new(Reason::CANCELLED, "the story is over");
                let over = match job.state.is_pending() {
                    true => tx.jobs().give_up(*id, because, self.now).await.map(drop),
                    false => tx.jobs().cancel(*id, "ann", self.now).await.map(drop),
                };
                over.unwrap();
            }
        }
        tx.commit().await.unwrap();
    }
}

fn broke(retryable: bool) -> Outcome {
    let failure = Failure {
        reason: Reason::WORKER_UNREACHABLE,
        message: "the engine died".to_owned(),
        retryable,
    };
    Outcome::Failed { failure, usage: Usage::default() }
}
