//! Waking: deciding, signalling, and following the boot until the host is up or given up.

use std::time::Duration;

use homelab_domain::{
    power::{
        boot::{Boot, BootEnd, BootPhase, BootStep, judge, words},
        wake::{WakePlan, plan},
    },
    reason::{Because, Reason},
};
use homelab_store::StoreError;
use tracing::{info, warn};

use super::{
    board::PowerState,
    round::{Found, Round},
    ward::{Doubt, Ward},
};
use crate::audit::{self, ALARM, CONTROLLER};

/// Who wants what no person asked for.
const PLAN: &str = "plan";

impl Round<'_> {
    /// It is off: is it worth waking?
    pub(super) async fn asleep(&self, ward: &mut Ward) -> Result<Found, StoreError> {
        if let Some(by) = self.powers.take_asked(&self.host.name) {
            let because = Because::new(Reason::ASKED_FOR, format!("{by} asked for it"));
            return self.begin(ward, because, &by).await;
        }
        match plan(&self.picture.wake_input(self.host, self.known)) {
            WakePlan::Wake { because } => self.begin(ward, because, PLAN).await,
            WakePlan::Stay { because, next_at } => {
                let mut standing = self.standing(ward, PowerState::Asleep, because);
                standing.next_wake_at = next_at;
                Ok(Found { standing, acted: None })
            }
        }
    }

    /// Sends the first signal. The boot is kept before, so that a controller that dies here follows
    /// it all the same.
    pub(super) async fn begin(
        &self,
        ward: &mut Ward,
        because: Because,
        by: &str,
    ) -> Result<Found, StoreError> {
        let name = &self.host.name;
        ward.late_told = false;
        let boot = Boot::begin(name.clone(), self.now(), because.clone(), by);
        self.keep(&boot, Some(("power.wake", CONTROLLER, &because.message))).await?;
        info!(host = %name, why = %because.message, by, "waking a host");
        let signalled = self.signal().await;
        let mut standing = self.standing(ward, PowerState::Waking, vec![because, signalled]);
        let usual = self.known.curve().whole(&self.host.power);
        standing.up_at = self.now().checked_add(usual).ok();
        standing.boot = Some(boot);
        Ok(Found { standing, acted: Some(format!("{name} is being woken")) })
    }

    /// It was woken: how far has it come?
    pub(super) async fn waking(&self, ward: &mut Ward) -> Result<Found, StoreError> {
        let Some(boot) = self.known.open_boot() else { return self.asleep(ward).await };
        let mut boot = boot.clone();
        self.powers.take_asked(&self.host.name);
        self.powers.0.parts.hands.dial_soon();
        if self.is_up() {
            return self.came_up(ward, boot).await;
        }
        let passed = if self.seen.agent {
            Some(BootPhase::AgentAnswers)
        } else if boot.phase() == BootPhase::Signalled
            && self.powers.0.parts.hands.knock(self.host).await
        {
            Some(BootPhase::NetworkAnswers)
        } else {
            None
        };
        let news = passed.is_some_and(|phase| boot.reach(phase, self.now()));
        let curve = self.known.curve();
        match judge(&boot, &curve, &self.host.power, self.now()) {
            BootStep::Wait { eta, late } => {
                if news {
                    self.keep(&boot, None).await?;
                }
                let mut because = vec![boot.because.clone(), phase_of(&boot)];
                if let Some(late) = late {
                    if !std::mem::replace(&mut ward.late_told, true) {
                        warn!(host = %self.host.name, why = %late.message, "a boot is late");
                    }
                    because.insert(0, late);
                }
                let up_in: Option<Duration> = eta.map(|eta| eta.likely);
                let mut standing = self.standing(ward, PowerState::Waking, because);
                standing.up_at = up_in.and_then(|span| self.now().checked_add(span).ok());
                standing.boot = Some(boot);
                Ok(Found { standing, acted: None })
            }
            BootStep::SignalAgain { because } => {
                boot.signals = boot.signals.saturating_add(1);
                boot.signalled_at = self.now();
                self.keep(&boot, None).await?;
                let signalled = self.signal().await;
                let acted = because.message.clone();
                let why = vec![because, signalled];
                let mut standing = self.standing(ward, PowerState::Waking, why);
                standing.boot = Some(boot);
                Ok(Found { standing, acted: Some(acted) })
            }
            BootStep::GiveUp { because } => self.gave_up(ward, boot, because).await,
        }
    }

    async fn came_up(&self, ward: &mut Ward, mut boot: Boot) -> Result<Found, StoreError> {
        let (name, now) = (&self.host.name, self.now());
        boot.reach(BootPhase::WorkerAnswers, now);
        boot.end = Some(BootEnd { at: now, failure: None });
        let took = boot.reached(BootPhase::WorkerAnswers).unwrap_or_default();
        let took = homelab_domain::text::span(took);
        let mut tx = self.powers.0.parts.store.begin().await?;
        tx.power().keep_boot(&boot).await?;
        tx.power().proved(name, now).await?;
        let detail = format!("it came up {took} after the signal");
        let clock = self.powers.0.parts.clock.as_ref();
        let entry = audit::entry(clock, CONTROLLER, "power.awake", name.to_string(), detail);
        tx.audit().append(&entry).await?;
        tx.commit().await?;
        info!(host = %name, took, "a host is awake");
        ward.gone();
        ward.busy_at = Some(now);
        // After a suspend its worker still takes no work.
        if self.drains_by_us() {
            ward.drained_by_us = true;
            ward.doubt = Some(Doubt::Over);
            self.let_work(ward).await?;
        }
        let message = format!("{name} came up within {took}");
        let because = vec![Because::new(Reason::ALL_CONDITIONS_HOLD, message.clone())];
        let mut standing = self.standing(ward, PowerState::Awake, because);
        standing.proved_at = Some(now);
        standing.boot = Some(boot);
        Ok(Found { standing, acted: Some(message) })
    }

    async fn gave_up(
        &self,
        ward: &mut Ward,
        mut boot: Boot,
        because: Because,
    ) -> Result<Found, StoreError> {
        let name = &self.host.name;
        boot.end = Some(BootEnd { at: self.now(), failure: Some(because.clone()) });
        self.keep(&boot, Some(("power.wake_failed", ALARM, &because.message))).await?;
        warn!(host = %name, why = %because.message, "a host did not come up");
        let state = if self.is_on() { PowerState::Unknown } else { PowerState::Asleep };
        let mut standing = self.standing(ward, state, vec![because.clone()]);
        standing.boot = Some(boot);
        Ok(Found { standing, acted: Some(because.message) })
    }

    /// Sends the signal; what came of it is a reason, since a boot that nobody signalled is given up
    /// like one that did not hear it.
    async fn signal(&self) -> Because {
        let signalled = self.powers.0.parts.hands.signal(self.host, &self.picture.site).await;
        match signalled {
            Ok(what) => Because::new(Reason::WAKING, what),
            Err(why) => {
                warn!(host = %self.host.name, %why, "the signal to wake could not be sent");
                let message = format!("the signal could not be sent: {why}");
                Because::new(Reason::DID_NOT_WAKE, message)
            }
        }
    }

    async fn keep(
        &self,
        boot: &Boot,
        entry: Option<(&'static str, &'static str, &str)>,
    ) -> Result<(), StoreError> {
        let parts = &self.powers.0.parts;
        let mut tx = parts.store.begin().await?;
        tx.power().keep_boot(boot).await?;
        if let Some((action, actor, detail)) = entry {
            let actor = if boot.by == PLAN || actor == ALARM { actor } else { boot.by.as_str() };
            let host = boot.host.to_string();
            let entry = audit::entry(parts.clock.as_ref(), actor, action, host, detail);
            tx.audit().append(&entry).await?;
        }
        tx.commit().await
    }
}

fn phase_of(boot: &Boot) -> Because {
    let message = format!("{} is on its way: {}", boot.host, words(boot.phase()));
    Because::new(Reason::WAKING, message)
}
