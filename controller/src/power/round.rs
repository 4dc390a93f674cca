//! One look at one host: where it stands, and which part of the work that calls for.

use homelab_domain::{
    fleet::HostState,
    power::{boot::BootPhase, sleep::Veto},
    reason::{Because, Reason},
    site::{DaemonKind, Host},
};
use homelab_store::StoreError;
use jiff::{SignedDuration, Timestamp};

use super::{
    Powers,
    board::{PowerState, Standing},
    hands::Seen,
    picture::{Known, Picture},
    ward::{Doubt, Ward},
};

/// One look at one host.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round<'a> {
    pub(super) powers: &'a Powers,
    pub(super) picture: &'a Picture,
    pub(super) host: &'a Host,
    pub(super) known: &'a Known,
    pub(super) seen: &'a Seen,
}

/// How long after an order to sleep a host may still carry it out.
pub(super) const STILL_FALLING: SignedDuration = SignedDuration::from_mins(2);

/// What came of it.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) standing: Standing,
    pub(super) acted: Option<String>,
}

impl Round<'_> {
    /// Looks, decides, acts.
    pub(super) async fn go(&self, ward: &mut Ward) -> Result<Found, StoreError> {
        if self.known.open_boot().is_some() {
            return self.waking(ward).await;
        }
        let first = !std::mem::replace(&mut ward.known, true);
        if !self.is_on() {
            ward.gone();
            return if self.seen.state == HostState::Asleep || ward.fell {
                self.asleep(ward).await
            } else {
                self.unknown(ward).await
            };
        }
        if ward.falling_since.is_some() {
            return self.falling(ward).await;
        }
        ward.fell = false;
        if first {
            self.take_over(ward).await?;
        }
        self.note_loaded().await?;
        self.awake(ward).await
    }

    /// Whether anything of it answers.
    pub(super) const fn is_on(&self) -> bool {
        self.seen.agent || self.seen.worker
    }

    /// Whether it is up: its worker answers, or its agent where it has no worker.
    pub(super) fn is_up(&self) -> bool {
        match self.host.daemon(DaemonKind::GpuWorker) {
            Some(_) => self.seen.worker,
            None => self.seen.agent,
        }
    }

    /// Whether its worker takes no work, and no person wanted that.
    pub(super) fn drains_by_us(&self) -> bool {
        let drains = self.seen.snapshot.as_ref().is_some_and(|worker| worker.draining);
        drains && !self.seen.drained
    }

    pub(super) const fn now(&self) -> Timestamp {
        self.picture.now
    }

    /// A standing in which nothing but the state is said.
    pub(super) fn standing(
        &self,
        ward: &mut Ward,
        state: PowerState,
        why: Vec<Because>,
    ) -> Standing {
        let curve = self.known.curve();
        Standing {
            host: self.host.name.clone(),
            state,
            since: ward.stands(state, self.now()),
            because: why,
            vetoes: Vec::<Veto>::new(),
            usual: curve.whole(&self.host.power),
            boots_learnt: curve.learnt_from(),
            hold: self.known.hold.clone(),
            boot: self.known.boots.first().cloned(),
            up_at: None,
            next_wake_at: None,
            proved_at: self.known.proved_at(),
            watts: None,
        }
    }

    /// Nobody knows how it stands: a person may wake it, and nothing else is done.
    async fn unknown(&self, ward: &mut Ward) -> Result<Found, StoreError> {
        if let Some(by) = self.powers.take_asked(&self.host.name) {
            let message = format!("{by} asked for it");
            return self.begin(ward, Because::new(Reason::ASKED_FOR, message), &by).await;
        }
        let message = format!("nobody knows whether {} is on", self.host.name);
        let because = vec![Because::new(Reason::NOT_OBSERVED, message)];
        Ok(Found { standing: self.standing(ward, PowerState::Unknown, because), acted: None })
    }

    /// A worker that an earlier life of this controller told to take no work takes it again.
    async fn take_over(&self, ward: &mut Ward) -> Result<(), StoreError> {
        let drains = self.drains_by_us();
        let record = self.known.record.as_ref();
        let tried = record.is_some_and(|record| record.fence > 0);
        let slept_at = record.and_then(|record| record.slept_at);
        let now = self.powers.now();
        if drains && slept_at.is_some_and(|at| now.duration_since(at) < STILL_FALLING) {
            // An order that was given before this controller started may still be carried out.
            ward.known = false;
            return Ok(());
        }
        ward.drained_by_us = drains && tried;
        ward.doubt = ward.drained_by_us.then_some(Doubt::Earlier);
        self.let_work(ward).await
    }

    /// After waking, the first model that is loaded ends the curve.
    async fn note_loaded(&self) -> Result<(), StoreError> {
        use homelab_proto::inference::v1::ModelState;
        let Some(boot) = self.known.boots.first() else { return Ok(()) };
        let came_up = boot.end.as_ref().is_some_and(|end| end.failure.is_none());
        let loaded = self.seen.worker
            && self.seen.snapshot.iter().any(|worker| {
                worker.models.iter().any(|model| model.state() == ModelState::Loaded)
            });
        if !came_up || !loaded || boot.phase() == BootPhase::ModelLoaded {
            return Ok(());
        }
        let mut boot = boot.clone();
        boot.reach(BootPhase::ModelLoaded, self.now());
        let mut tx = self.powers.0.parts.store.begin().await?;
        tx.power().keep_boot(&boot).await?;
        tx.commit().await
    }
}
