//! Whether waking a host pays now, and if not, when it may.

use std::time::Duration;

use jiff::Timestamp;

use super::{HeldState, Hold, after, in_force, since};
use crate::{
    ids::HostName,
    job::JobClass,
    reason::{Because, Reason},
    site::Power,
    text,
};

/// The longest pause between attempts to wake a host that does not come up.
pub const BACKOFF_MAX: Duration = Duration::from_hours(6);

/// One job that waits for the host, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Who waits for it.
    pub class: JobClass,
    /// Since when it waits.
    pub since: Timestamp,
    /// Tokens that it may write.
    pub tokens: u64,
    /// When it must have begun.
    pub latest_start: Option<Timestamp>,
}

/// Attempts to wake the host that have failed since the last one that did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// How many.
    pub count: u32,
    /// When the newest was given up.
    pub last_at: Option<Timestamp>,
}

impl Failures {
    /// When the next attempt may begin: each failure doubles the pause.
    #[must_use]
    pub fn back_at(&self, power: &Power) -> Option<Timestamp> {
        let doubled = 2_u32.checked_pow(self.count.saturating_sub(1)).unwrap_or(u32::MAX);
        let pause = power.boot_max.saturating_mul(doubled).min(BACKOFF_MAX);
        self.last_at.filter(|_| self.count > 0).map(|last| after(last, pause))
    }
}

/// What the decision is made from.
#[derive(Clone, Copy, Debug)]
pub struct WakeInput<'a> {
    /// The time.
    pub now: Timestamp,
    /// Which host.
    pub host: &'a HostName,
    /// What the site file says.
    pub power: &'a Power,
    /// How long it takes to come up, rather too long than too short.
    pub boot: Duration,
    /// Jobs that only this host could run.
    pub demands: &'a [Demand],
    /// What a person said.
    pub hold: Option<&'a Hold>,
    /// What went wrong lately.
    pub failures: Failures,
}

/// What is done with a host that is off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WakePlan {
    /// It is woken.
    Wake {
        /// Why.
        because: Because,
    },
    /// It stays off.
    Stay {
        /// Why. Never empty.
        because: Vec<Because>,
        /// When that may change by time alone.
        next_at: Option<Timestamp>,
    },
}

impl WakePlan {
    /// When the host will be woken by itself: now, later, or never as things stand.
    #[must_use]
    pub fn next_at(&self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Wake { .. } => Some(now),
            Self::Stay { next_at, .. } => *next_at,
        }
    }
}

/// Decides whether a host that is off is woken. Background calls never wake; a
/// hold comes before everything else; an attempt that failed makes the next wait.
#[must_use]
pub fn plan(input: &WakeInput<'_>) -> WakePlan {
    let (now, host) = (input.now, input.host);
    let stay = |reason, message: String, next_at| WakePlan::Stay {
        because: vec![Because::new(reason, message)],
        next_at,
    };
    match in_force(input.hold, now) {
        Some(Hold { state: HeldState::Asleep, until, by }) => {
            let message = format!("{by} holds {host} asleep until {until}");
            return stay(Reason::HELD_ASLEEP, message, Some(*until));
        }
        hold => {
            if let Some(back_at) = input.failures.back_at(input.power).filter(|at| now < *at) {
                let message = format!(
                    "{host} did not come up {}; the next attempt is at {back_at}",
                    times(input.failures.count)
                );
                return stay(Reason::WAKE_BACKS_OFF, message, Some(back_at));
            }
            if let Some(hold) = hold {
                let message = format!("{} holds {host} awake until {}", hold.by, hold.until);
                return WakePlan::Wake { because: Because::new(Reason::HELD_AWAKE, message) };
            }
        }
    }
    let work: Vec<&Demand> =
        input.demands.iter().filter(|it| it.class != JobClass::Background).collect();
    if work.is_empty() {
        let message = match input.demands.len() {
            0 => format!("nothing waits for {host}"),
            _ => format!("only background calls wait for {host}, which wake nothing"),
        };
        return stay(Reason::NOTHING_WAITS, message, None);
    }
    match urgent(input, &work).or_else(|| worthwhile(input, &work)) {
        Some(because) => WakePlan::Wake { because },
        None => not_yet(input, &work),
    }
}

/// Reasons that count whatever energy costs.
fn urgent(input: &WakeInput<'_>, work: &[&Demand]) -> Option<Because> {
    let rules = &input.power.rules;
    if rules.interactive && work.iter().any(|it| it.class == JobClass::Interactive) {
        let message = format!("somebody waits for an answer of {}", input.host);
        return Some(Because::new(Reason::INTERACTIVE_WAITS, message));
    }
    let due = after(input.now, input.boot);
    if let Some(latest) = work.iter().filter_map(|it| it.latest_start).find(|at| *at <= due) {
        let message = format!(
            "a job must begin by {latest}, and {} takes {} to come up",
            input.host,
            text::span(input.boot)
        );
        return Some(Because::new(Reason::LATEST_START_NEAR, message));
    }
    let waited = oldest(input.now, work);
    (waited >= rules.wait_max).then(|| {
        let message = format!(
            "the oldest job has waited {}, and no longer than {} is allowed",
            text::span(waited),
            text::span(rules.wait_max)
        );
        Because::new(Reason::WAITED_LONG, message)
    })
}

/// Reasons that count while energy is cheap enough.
fn worthwhile(input: &WakeInput<'_>, work: &[&Demand]) -> Option<Because> {
    if too_dear(input).is_some() {
        return None;
    }
    let rules = &input.power.rules;
    if let Some(until) = input.power.window_until(input.now) {
        let message = format!(
            "{} in the queue, and the window is open until {until}",
            text::count(work.len() as u64, "job")
        );
        return Some(Because::new(Reason::WAKE_WINDOW, message));
    }
    let (jobs, tokens) = (work.len() as u64, tokens(work));
    if jobs >= rules.jobs_min {
        let message = format!(
            "{} wait, and {} are worth waking for",
            text::count(jobs, "job"),
            rules.jobs_min
        );
        return Some(Because::new(Reason::QUEUE_PAYS, message));
    }
    (tokens >= rules.tokens_min).then(|| {
        let message = format!(
            "up to {tokens} tokens wait to be written, and {} are worth waking for",
            rules.tokens_min
        );
        Because::new(Reason::QUEUE_PAYS, message)
    })
}

/// Why work stays in the queue, and when that changes by time alone.
fn not_yet(input: &WakeInput<'_>, work: &[&Demand]) -> WakePlan {
    let (now, rules) = (input.now, &input.power.rules);
    let mut because = Vec::new();
    let mut next = Vec::new();
    if let Some((message, until)) = too_dear(input) {
        because.push(Because::new(Reason::ENERGY_DEAR, message));
        next.extend(until);
    }
    let message = format!(
        "{} with up to {} tokens wait; {} or {} tokens are worth waking for",
        text::count(work.len() as u64, "job"),
        tokens(work),
        text::count(rules.jobs_min, "job"),
        rules.tokens_min
    );
    because.push(Because::new(Reason::QUEUE_TOO_SMALL, message));
    next.extend(input.power.next_window(now));
    next.extend(work.iter().map(|it| after(it.since, rules.wait_max)));
    let early = |at: Timestamp| at.checked_sub(input.boot).unwrap_or(now);
    next.extend(work.iter().filter_map(|it| it.latest_start).map(early));
    WakePlan::Stay { because, next_at: next.into_iter().filter(|at| *at > now).min() }
}

/// Whether energy is too dear now for work that can wait, and until when.
fn too_dear(input: &WakeInput<'_>) -> Option<(String, Option<Timestamp>)> {
    let limit = input.power.rules.price_max?;
    let (price, until) = input.power.price_at(input.now)?;
    let message = || format!("energy costs {price} now, and work that can wait pays up to {limit}");
    (price > limit).then(|| (message(), until))
}

fn tokens(work: &[&Demand]) -> u64 {
    work.iter().fold(0, |sum, it| sum.saturating_add(it.tokens))
}

fn oldest(now: Timestamp, work: &[&Demand]) -> Duration {
    work.iter().map(|it| since(it.since, now)).max().unwrap_or_default()
}

fn times(count: u32) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times in a row") }
}
