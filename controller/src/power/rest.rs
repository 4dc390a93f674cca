//! Putting a host to sleep: drained first, looked at again, and told with a fence.

use std::time::Duration;

use homelab_common::chance::uuid_v7;
use homelab_domain::{
    job::JobClass,
    power::sleep::{Fact, SleepInput, SleepPlan, Unproved, Veto, plan},
    reason::{Because, Reason},
    site::{DaemonKind, SleepMethod},
};
use homelab_store::StoreError;
use tracing::{info, warn};

use super::{
    board::{PowerState, Standing},
    hands::{Look, SleepOrder},
    picture::Picture,
    round::{Found, Round, STILL_FALLING},
    ward::{Doubt, Ward},
};
use crate::audit::{self, CONTROLLER};

/// How long what an agent said is believed while nothing is done.
const LOOK_AGE_MAX: Duration = Duration::from_secs(10);

/// How long the worker may finish what nobody knew of.
const DRAIN_WAIT: Duration = Duration::from_secs(10);

/// After a host did not want to sleep, it is left alone for this long.
const REFUSED_PAUSE: Duration = Duration::from_mins(5);

/// Who wants a host to sleep.
#[derive(Clone, Debug)]
pub(super) enum Wish {
    /// The plan: everything that speaks against it counts.
    Plan,
    /// A person: what only would not pay does not count.
    Person {
        /// Who.
        by: String,
        /// Whether a missing proof counts.
        unproved: Unproved,
    },
}

impl Wish {
    fn actor(&self) -> &str {
        match self {
            Self::Plan => CONTROLLER,
            Self::Person { by, .. } => by,
        }
    }

    /// What of a plan counts.
    pub(super) fn vetoes(&self, plan: &SleepPlan) -> Vec<Veto> {
        match self {
            Self::Plan => plan.vetoes.clone(),
            Self::Person { unproved, .. } => plan.against_person(*unproved).cloned().collect(),
        }
    }
}

/// What became of a wish.
#[derive(Debug)]
pub(super) enum Rest {
    /// It is on its way to sleep.
    Falls,
    /// It stays awake.
    Stays(Vec<Because>),
}

impl Round<'_> {
    /// It is awake: may it sleep?
    pub(super) async fn awake(&self, ward: &mut Ward) -> Result<Found, StoreError> {
        self.powers.take_asked(&self.host.name);
        self.let_work(ward).await?;
        let plan = self.plan(ward, LOOK_AGE_MAX).await;
        self.count(ward, &plan).await?;
        let refused = ward.refused_until.as_ref().filter(|(until, _)| self.now() < *until);
        if let Some((_, why)) = refused {
            let because = vec![Because::new(Reason::SLEEP_NOT_ALLOWED, why.clone())];
            return Ok(self.stays(ward, &plan, because));
        }
        if !plan.may_sleep() {
            let because = plan.vetoes.iter().map(|veto| veto.because.clone()).collect();
            return Ok(self.stays(ward, &plan, because));
        }
        match self.rest(ward, &Wish::Plan).await? {
            Rest::Falls => {
                let message = format!("{} goes to sleep: nothing needs it", self.host.name);
                let why = vec![Because::new(Reason::FALLING_ASLEEP, message.clone())];
                let standing = self.standing(ward, PowerState::Draining, why);
                Ok(Found { standing, acted: Some(message) })
            }
            Rest::Stays(because) => Ok(self.stays(ward, &plan, because)),
        }
    }

    fn stays(&self, ward: &mut Ward, plan: &SleepPlan, because: Vec<Because>) -> Found {
        let mut standing: Standing = self.standing(ward, PowerState::Awake, because);
        standing.vetoes = plan.vetoes.clone();
        standing.watts = self.watts();
        Found { standing, acted: None }
    }

    /// Whatever speaks against sleeping now; what its agent said may be as old as `look_age`.
    pub(super) async fn plan(&self, ward: &mut Ward, look_age: Duration) -> SleepPlan {
        let (host, now) = (&self.host.name, self.now());
        let jobs_running = self.picture.running(host).len() as u64;
        let requests_running = self.requests_running();
        let busy = jobs_running > 0 || requests_running != Fact::Known(0);
        let waits = self.known.demands.iter().any(|it| it.class != JobClass::Background);
        if busy || waits || ward.busy_at.is_none() {
            ward.busy_at = Some(now);
        }
        let look = self.look(ward, look_age).await;
        let (local, wake_armed) = match &look {
            Ok(look) => {
                let armed = match look.wake_armed {
                    Some(armed) => Fact::Known(armed),
                    None => Fact::Unknown("no network card says so".to_owned()),
                };
                (Fact::Known(look.vetoes.clone()), armed)
            }
            Err(why) => (Fact::Unknown(why.clone()), Fact::Unknown(why.clone())),
        };
        plan(&SleepInput {
            wake: self.picture.wake_input(self.host, self.known),
            jobs_running,
            requests_running,
            idle_since: Fact::Known(ward.busy_at.unwrap_or(now)),
            local,
            wake_armed,
            open_work: Fact::Known(self.picture.open_work(host)),
            proved_at: self.known.proved_at(),
        })
    }

    /// What its worker works on, by its own count.
    fn requests_running(&self) -> Fact<u64> {
        if self.host.daemon(DaemonKind::GpuWorker).is_none() {
            return Fact::Known(0);
        }
        match &self.seen.snapshot {
            Some(worker) if self.seen.worker => {
                Fact::Known(worker.engines.iter().map(|it| u64::from(it.slots_busy)).sum())
            }
            _ => Fact::Unknown("its worker does not answer".to_owned()),
        }
    }

    async fn look(&self, ward: &mut Ward, age_max: Duration) -> Result<Look, String> {
        if let Some((at, look)) = &ward.look
            && self.now().duration_since(*at).unsigned_abs() < age_max
        {
            return look.clone();
        }
        let look = self.powers.0.parts.hands.look(&self.host.name).await;
        ward.look = Some((self.now(), look.clone()));
        look
    }

    /// Drains it, looks again with everything fresh, and tells it to sleep. Whatever goes wrong on the
    /// way, it takes work again.
    pub(super) async fn rest(&self, ward: &mut Ward, wish: &Wish) -> Result<Rest, StoreError> {
        let (name, parts) = (&self.host.name, &self.powers.0.parts);
        let mut tx = parts.store.begin().await?;
        let fence = tx.power().next_fence(name).await?;
        tx.commit().await?;
        if self.host.daemon(DaemonKind::GpuWorker).is_some() {
            ward.drained_by_us = true;
            match parts.hands.drain(name, true, DRAIN_WAIT).await {
                Ok(0) => {}
                Ok(running) => {
                    self.let_work(ward).await?;
                    let message = format!("{running} requests run on {name} that nobody knew of");
                    return Ok(Rest::Stays(vec![Because::new(Reason::JOBS_RUNNING, message)]));
                }
                Err(why) => {
                    self.let_work(ward).await?;
                    return Ok(self.refused(ward, format!("its worker cannot be drained: {why}")));
                }
            }
        }
        // A job may have come while the worker finished: everything is read again.
        let fresh = Picture::read(self.powers).await?;
        let again = match (fresh.known(name), parts.hands.seen(name)) {
            (Some(known), Some(seen)) => {
                let round = Round { picture: &fresh, known, seen: &seen, ..*self };
                round.plan(ward, Duration::ZERO).await
            }
            _ => return Ok(self.refused(ward, "it is not in the site file any more".to_owned())),
        };
        let vetoes = wish.vetoes(&again);
        if !vetoes.is_empty() {
            self.let_work(ward).await?;
            return Ok(Rest::Stays(vetoes.into_iter().map(|veto| veto.because).collect()));
        }
        self.tell_to_sleep(ward, wish, fence).await
    }

    async fn tell_to_sleep(
        &self,
        ward: &mut Ward,
        wish: &Wish,
        fence: u64,
    ) -> Result<Rest, StoreError> {
        let (name, parts) = (&self.host.name, &self.powers.0.parts);
        let request_id = uuid_v7(parts.clock.as_ref(), parts.chance.as_ref()).to_string();
        let method = match self.host.power.sleep {
            SleepMethod::Suspend => SleepMethod::Suspend,
            SleepMethod::PowerOff | SleepMethod::Never => SleepMethod::PowerOff,
        };
        let order = SleepOrder { request_id, fence, method };
        ward.doubt = Some(Doubt::Unanswered(fence));
        if let Err(why) = parts.hands.sleep(name, order).await {
            self.let_work(ward).await?;
            if ward.falling_since.is_none() {
                return Ok(self.refused(ward, why));
            }
            info!(host = %name, %why, "a host obeyed, and only its answer was lost");
        }
        let now = self.powers.now();
        ward.falling_since = Some(now);
        let mut tx = parts.store.begin().await?;
        tx.power().slept(name, now).await?;
        let detail = format!("{method}, fence {fence}");
        let entry = audit::entry(
            parts.clock.as_ref(),
            wish.actor(),
            "power.sleep",
            name.to_string(),
            detail,
        );
        tx.audit().append(&entry).await?;
        tx.commit().await?;
        info!(host = %name, by = wish.actor(), "a host goes to sleep");
        Ok(Rest::Falls)
    }

    /// It was told to sleep and still answers.
    pub(super) async fn falling(&self, ward: &mut Ward) -> Result<Found, StoreError> {
        let name = &self.host.name;
        let since = ward.falling_since.unwrap_or_else(|| self.now());
        let waited = self.now().duration_since(since).unsigned_abs();
        if waited < self.host.power.boot_max {
            let message = format!("{name} was told to sleep");
            let why = vec![Because::new(Reason::FALLING_ASLEEP, message)];
            let standing = self.standing(ward, PowerState::Draining, why);
            return Ok(Found { standing, acted: None });
        }
        ward.falling_since = None;
        ward.doubt = Some(Doubt::Over);
        self.let_work(ward).await?;
        let waited = homelab_domain::text::span(waited);
        let why = format!("{name} was told to sleep {waited} ago and is still on");
        warn!(host = %name, waited, "a host was told to sleep and did not");
        let Rest::Stays(because) = self.refused(ward, why.clone()) else {
            return self.awake(ward).await;
        };
        let standing = self.standing(ward, PowerState::Awake, because);
        Ok(Found { standing, acted: Some(why) })
    }

    /// Its worker takes work again, if we had told it not to. Not before every order to sleep is void:
    /// else one that is late would switch the host off under its work.
    pub(super) async fn let_work(&self, ward: &mut Ward) -> Result<(), StoreError> {
        let name = &self.host.name;
        if !ward.drained_by_us || !self.nothing_is_on_its_way(ward).await? {
            return Ok(());
        }
        match self.powers.0.parts.hands.drain(name, false, Duration::ZERO).await {
            Ok(_) => ward.drained_by_us = false,
            Err(why) => {
                warn!(host = %name, %why, "its worker could not be let work again");
            }
        }
        Ok(())
    }

    /// Whether no order to sleep can be carried out any more; makes those void that could be.
    async fn nothing_is_on_its_way(&self, ward: &mut Ward) -> Result<bool, StoreError> {
        let (name, parts) = (&self.host.name, &self.powers.0.parts);
        let Some(doubt) = ward.doubt else { return Ok(true) };
        let mut tx = parts.store.begin().await?;
        let fence = tx.power().next_fence(name).await?;
        tx.commit().await?;
        let obeyed = match parts.hands.void(name, fence).await {
            Ok(obeyed) => obeyed,
            Err(why) => {
                warn!(host = %name, %why, "an order to sleep could not be made void");
                return Ok(false);
            }
        };
        let now = self.powers.now();
        match doubt {
            Doubt::Unanswered(order) if obeyed.is_some_and(|it| it.fence == order) => {
                ward.falling_since = Some(now);
                Ok(false)
            }
            Doubt::Earlier
                if obeyed.is_some_and(|it| now.duration_since(it.at) < STILL_FALLING) =>
            {
                // Looked at again as if for the first time, until it has gone or stays.
                (ward.known, ward.drained_by_us) = (false, false);
                Ok(false)
            }
            Doubt::Unanswered(_) | Doubt::Earlier | Doubt::Over => {
                ward.doubt = None;
                Ok(true)
            }
        }
    }

    fn refused(&self, ward: &mut Ward, why: String) -> Rest {
        let until = self.now().checked_add(REFUSED_PAUSE).unwrap_or(jiff::Timestamp::MAX);
        ward.refused_until = Some((until, why.clone()));
        Rest::Stays(vec![Because::new(Reason::SLEEP_NOT_ALLOWED, why)])
    }
}
