//! Whether a host may sleep: whatever speaks against it, in words.
//!
//! Nothing here says that a host *may* sleep; it may when nothing is left that
//! speaks against it, and a fact that could not be found out is such a thing.

use jiff::Timestamp;

use super::{
    HeldState, in_force, since,
    wake::{self, WakeInput, WakePlan},
};
use crate::{
    ids::HostName,
    job::JobClass,
    reason::{Because, Reason},
    site::SleepMethod,
    text,
};

/// Something about a host that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact<T> {
    /// It is so.
    Known(T),
    /// It could not be found out, and why.
    Unknown(String),
}

/// How a thing weighs that speaks against sleeping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// Something would be lost or broken: it counts whoever asks.
    Hard,
    /// It would not pay: a person may ask for it all the same.
    Soft,
    /// Nobody has lately seen the host come back. A person who will be there may
    /// accept that, and so prove it.
    Proof,
}

/// One thing that speaks against sleeping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Veto {
    /// What, in words.
    pub because: Because,
    /// How it weighs.
    pub weight: Weight,
}

/// What the decision is made from.
#[derive(Clone, Debug)]
pub struct SleepInput<'a> {
    /// The same as for waking: who waits, what a person said, what it costs.
    pub wake: WakeInput<'a>,
    /// Jobs that its worker has now, by the controller's own count.
    pub jobs_running: u64,
    /// Requests that its worker says it works on, whoever sent them.
    pub requests_running: Fact<u64>,
    /// Since when it has had nothing to do.
    pub idle_since: Fact<Timestamp>,
    /// What its own agent says speaks against it: guests, logins, scrubs, tasks.
    pub local: Fact<Vec<Because>>,
    /// Whether its network card is set to wake it; only of matter where a packet does.
    pub wake_armed: Fact<bool>,
    /// Runs of backups, drills and operations that need it, a sentence each.
    pub open_work: Fact<Vec<Because>>,
    /// When it last came up after being woken.
    pub proved_at: Option<Timestamp>,
}

/// Whatever speaks against sleeping, the weightiest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SleepPlan {
    /// One row each.
    pub vetoes: Vec<Veto>,
}

impl SleepPlan {
    /// Whether it goes to sleep by itself.
    #[must_use]
    pub fn may_sleep(&self) -> bool {
        self.vetoes.is_empty()
    }

    /// What is left when a person asks for it: what only would not pay is put aside,
    /// and with `unproved` a missing proof as well.
    pub fn against_person(&self, unproved: Unproved) -> impl Iterator<Item = &Veto> {
        self.vetoes.iter().filter(move |veto| match veto.weight {
            Weight::Hard => true,
            Weight::Soft => false,
            Weight::Proof => unproved == Unproved::Refused,
        })
    }
}

/// Whether a person accepts that nobody has seen the host come back lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unproved {
    /// They do.
    Accepted,
    /// They do not.
    Refused,
}

/// Collects whatever speaks against sleeping now.
#[must_use]
pub fn plan(input: &SleepInput<'_>) -> SleepPlan {
    let host = input.wake.host;
    let mut vetoes = Vec::new();
    let mut add = |weight, because| vetoes.push(Veto { because, weight });
    if input.wake.power.sleep == SleepMethod::Never {
        let message = format!("the site file says that {host} never sleeps by itself");
        add(Weight::Hard, Because::new(Reason::SLEEP_NOT_ALLOWED, message));
    }
    if let Some(hold) = in_force(input.wake.hold, input.wake.now)
        && hold.state == HeldState::Awake
    {
        let message = format!("{} holds {host} awake until {}", hold.by, hold.until);
        add(Weight::Hard, Because::new(Reason::HELD_AWAKE, message));
    }
    running(input).into_iter().for_each(|because| add(Weight::Hard, because));
    facts(input).into_iter().for_each(|because| add(Weight::Hard, because));
    proof(input).into_iter().for_each(|because| add(Weight::Proof, because));
    waiting(input).into_iter().for_each(|because| add(Weight::Soft, because));
    worth(input).into_iter().for_each(|because| add(Weight::Soft, because));
    SleepPlan { vetoes }
}

/// What its worker works on.
fn running(input: &SleepInput<'_>) -> Vec<Because> {
    let host = input.wake.host;
    let mut because = Vec::new();
    if input.jobs_running > 0 {
        let message = format!("{} on {host}", at_work(input.jobs_running));
        because.push(Because::new(Reason::JOBS_RUNNING, message));
    }
    match &input.requests_running {
        // The controller's own are among them, and were named already.
        Fact::Known(requests) if *requests > input.jobs_running => {
            let message = format!("its worker works on {}", text::count(*requests, "request"));
            because.push(Because::new(Reason::JOBS_RUNNING, message));
        }
        Fact::Known(_) => {}
        Fact::Unknown(why) => because.push(unknown("what its worker does", why)),
    }
    because
}

/// Jobs that need it. They would not be lost, but it would be woken again for them.
fn waiting(input: &SleepInput<'_>) -> Option<Because> {
    let queued = input.wake.demands.iter().filter(|it| it.class != JobClass::Background).count();
    let message =
        || format!("{} in the queue for {}", text::count(queued as u64, "job"), input.wake.host);
    (queued > 0).then(|| Because::new(Reason::JOBS_QUEUED, message()))
}

/// What its agent and the controller's own books say.
fn facts(input: &SleepInput<'_>) -> Vec<Because> {
    let mut because = Vec::new();
    for (what, fact) in
        [("what happens on it", &input.local), ("which work needs it", &input.open_work)]
    {
        match fact {
            Fact::Known(rows) => because.extend(rows.iter().cloned()),
            Fact::Unknown(why) => because.push(unknown(what, why)),
        }
    }
    because
}

/// Whether it would come back.
fn proof(input: &SleepInput<'_>) -> Vec<Because> {
    let (host, now, power) = (input.wake.host, input.wake.now, input.wake.power);
    let mut because = Vec::new();
    let by_packet = matches!(power.wake, crate::site::WakeMethod::Packet { .. });
    match &input.wake_armed {
        Fact::Known(false) if by_packet => {
            let message = format!("no network card of {host} is set to wake it");
            because.push(Because::new(Reason::WAKE_NOT_ARMED, message));
        }
        Fact::Unknown(why) if by_packet => {
            because.push(unknown("whether a network card is set to wake it", why));
        }
        Fact::Known(_) | Fact::Unknown(_) => {}
    }
    let limit = power.proof_age_max;
    let message = match input.proved_at {
        None => Some(format!("nobody has seen {host} come up after being woken")),
        Some(at) if since(at, now) > limit => Some(format!(
            "{host} last came up after being woken {} ago, and {} is the limit",
            text::span(since(at, now)),
            text::span(limit)
        )),
        Some(_) => None,
    };
    because.extend(message.map(|message| Because::new(Reason::WAKE_UNPROVED, message)));
    because
}

/// Whether it pays.
fn worth(input: &SleepInput<'_>) -> Vec<Because> {
    let (now, power) = (input.wake.now, input.wake.power);
    let mut because = Vec::new();
    match &input.idle_since {
        Fact::Known(at) if since(*at, now) >= power.idle => {}
        Fact::Known(at) => {
            let message = format!(
                "it has been idle for {}, and {} are wanted",
                text::span(since(*at, now)),
                text::span(power.idle)
            );
            because.push(Because::new(Reason::NOT_IDLE_LONG, message));
        }
        Fact::Unknown(why) => because.push(unknown("since when it is idle", why)),
    }
    match wake::plan(&input.wake) {
        WakePlan::Wake { because: why } => {
            let message = format!("it would be woken again at once: {}", why.message);
            because.push(Because::new(Reason::NEXT_WAKE_SOON, message));
        }
        // A hold asleep ends some time, which says nothing about work.
        WakePlan::Stay { next_at: Some(at), because: why }
            if since(now, at) < power.off_min
                && why.iter().all(|why| why.reason != Reason::HELD_ASLEEP) =>
        {
            let message = format!("it would be woken again in {}", text::span(since(now, at)));
            because.push(Because::new(Reason::NEXT_WAKE_SOON, message));
        }
        WakePlan::Stay { .. } => {}
    }
    because
}

fn unknown(what: &str, why: &str) -> Because {
    Because::new(Reason::FACT_UNKNOWN, format!("nobody knows {what}: {why}"))
}

fn at_work(jobs: u64) -> String {
    let verb = if jobs == 1 { "runs" } else { "run" };
    format!("{} {verb}", text::count(jobs, "job"))
}

/// What kept a host awake, in the words of its report: the first thing that spoke against sleeping.
#[must_use]
pub fn keeper(plan: &SleepPlan, host: &HostName) -> Because {
    plan.vetoes.first().map_or_else(
        || Because::new(Reason::FALLING_ASLEEP, format!("{host} is about to sleep")),
        |veto| veto.because.clone(),
    )
}
