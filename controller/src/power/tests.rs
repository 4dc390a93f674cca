//! The whole of it over a real store and queue, with a host that does what a test says.

mod asleep;
mod awake;
mod fake;
mod falling;

use std::{sync::Arc, time::Duration};

use homelab_domain::{
    ids::{HostName, JobId},
    job::{JobClass, Terms},
    power::boot::{Boot, BootEnd, BootPhase},
    reason::{Because, Reason},
};
use homelab_store::NewAuditEntry;
use uuid::Uuid;

use super::{
    Parts, Powers,
    board::{PowerState, Standing},
};
use crate::job::{
    rig::{Rig, wish},
    submission::Submission,
};
use fake::X99;

const MINUTE: Duration = Duration::from_mins(1);

fn x99() -> HostName {
    HostName::try_new("x99").expect("a name")
}

/// A controller with a queue, and one host that is off until needed.
struct Bench {
    rig: Rig,
    x99: Arc<X99>,
    powers: Powers,
}

impl Bench {
    /// It sleeps, and was never woken.
    async fn new() -> Self {
        Self::over(Rig::new().await, Arc::new(X99::default()))
    }

    /// It is awake, has had nothing to do for half an hour, and was seen to wake an hour ago.
    async fn idle() -> Self {
        let bench = Self::new().await;
        bench.knows_that_it_wakes().await;
        bench.x99.is_up();
        bench.round().await;
        bench.rig.clock.advance(30 * MINUTE);
        bench
    }

    fn over(rig: Rig, x99: Arc<X99>) -> Self {
        let parts = rig.jobs.parts();
        let powers = Powers::new(Parts {
            store: Arc::clone(&parts.store),
            clock: Arc::clone(&parts.clock),
            chance: Arc::clone(&parts.chance),
            tasks: parts.tasks.clone(),
            site: parts.site.clone(),
            jobs: rig.jobs.clone(),
            events: parts.events.clone(),
            hands: x99.clone(),
        });
        Self { rig, x99, powers }
    }

    /// The same store under a new controller, after the old one was killed.
    async fn restart(self) -> Self {
        Self::over(self.rig.restart().await, self.x99)
    }

    async fn knows_that_it_wakes(&self) {
        let (now, hour) = (self.rig.clock_now(), Duration::from_hours(1));
        let started_at = now.checked_sub(hour).expect("a moment");
        let because = Because::new(Reason::ASKED_FOR, "ada asked for it");
        let mut boot = Boot::begin(x99(), started_at, because, "ada");
        let up_at = started_at.checked_add(2 * MINUTE).expect("a moment");
        boot.reach(BootPhase::WorkerAnswers, up_at);
        boot.end = Some(BootEnd { at: up_at, failure: None });
        let mut tx = self.rig.store.begin().await.expect("writable");
        tx.power().keep_boot(&boot).await.expect("kept");
        tx.power().proved(&x99(), up_at).await.expect("kept");
        tx.commit().await.expect("kept");
    }

    async fn submit(&self, number: u128, class: JobClass) -> JobId {
        let terms = Terms { class, ..Terms::default() };
        let submission = Submission { terms, ..wish(number, "large") };
        self.rig.jobs.submit(submission).await.expect("accepted");
        Uuid::from_u128(number).into()
    }

    /// One look at the host, some time later.
    async fn after(&self, span: Duration) -> Standing {
        self.rig.clock.advance(span);
        self.round().await
    }

    async fn round(&self) -> Standing {
        self.powers.round().await.expect("a round");
        self.powers.board().get(&x99()).expect("it is looked after")
    }

    async fn audit(&self) -> Vec<NewAuditEntry> {
        let mut tx = self.rig.store.read().await.expect("readable");
        let entries = tx.audit().after(0, 1_000).await.expect("readable");
        let entries = entries.into_iter().map(|entry| entry.entry);
        entries.filter(|entry| entry.action.starts_with("power.")).collect()
    }

    async fn actions(&self) -> Vec<String> {
        self.audit().await.into_iter().map(|entry| entry.action).collect()
    }
}

fn reasons(standing: &Standing) -> Vec<Reason> {
    standing.because.iter().map(|why| why.reason.clone()).collect()
}
