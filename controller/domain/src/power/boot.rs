//! How a boot goes, compared with those before.
//!
//! A magic packet is never acknowledged: a host is awake when its own worker
//! answers. On the way there it passes phases, and the times at which earlier
//! boots passed them say how long this one will still take, and when it is late.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{after, since};
use crate::{
    ids::HostName,
    reason::{Because, Reason},
    site::{Power, WakeMethod},
    text,
};

/// Boots that the curve is learnt from, the newest ones.
pub const LEARNT_MAX: u32 = 50;

/// Fewer boots than this say too little about what is late.
const LATE_NEEDS: usize = 3;

crate::words! {
    /// How far a boot has come.
    BootPhase {
        /// The packet was sent, or the plug or command asked.
        Signalled = "signalled",
        /// Its network answers.
        NetworkAnswers = "network_answers",
        /// Its agent answers.
        AgentAnswers = "agent_answers",
        /// Its worker answers: it is awake.
        WorkerAnswers = "worker_answers",
        /// Its worker has loaded a model. After waking, and not awaited.
        ModelLoaded = "model_loaded",
    }
}

/// One phase that was reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// Which, as its word.
    pub phase: String,
    /// How long after the first signal, in milliseconds.
    pub after_millis: u64,
}

impl Reached {
    /// A phase and when it was reached.
    #[must_use]
    pub fn new(phase: BootPhase, after: Duration) -> Self {
        let after_millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        Self { phase: phase.as_str().to_owned(), after_millis }
    }

    /// How long after the first signal.
    #[must_use]
    pub const fn after(&self) -> Duration {
        Duration::from_millis(self.after_millis)
    }
}

/// How a boot ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootEnd {
    /// When.
    pub at: Timestamp,
    /// Why it failed; none when the host is awake.
    pub failure: Option<Because>,
}

/// One attempt to wake a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boot {
    /// Which host.
    pub host: HostName,
    /// When the first signal was sent.
    pub started_at: Timestamp,
    /// Why.
    pub because: Because,
    /// Who wanted it: a SPIFFE id, or `plan`.
    pub by: String,
    /// Signals that were sent.
    pub signals: u32,
    /// When the newest was.
    pub signalled_at: Timestamp,
    /// Phases, in order.
    pub reached: Vec<Reached>,
    /// How it ended, if it has.
    pub end: Option<BootEnd>,
}

impl Boot {
    /// A boot whose first signal is sent now.
    #[must_use]
    pub fn begin(host: HostName, now: Timestamp, because: Because, by: &str) -> Self {
        Self {
            host,
            started_at: now,
            because,
            by: by.to_owned(),
            signals: 1,
            signalled_at: now,
            reached: vec![Reached::new(BootPhase::Signalled, Duration::ZERO)],
            end: None,
        }
    }

    /// The last phase that was reached.
    #[must_use]
    pub fn phase(&self) -> BootPhase {
        let last = self.reached.last().and_then(|it| BootPhase::from_word(&it.phase));
        last.unwrap_or(BootPhase::Signalled)
    }

    /// Notes that a phase was reached, and those before it; true when that is news.
    pub fn reach(&mut self, phase: BootPhase, now: Timestamp) -> bool {
        let news = self.phase() < phase;
        let elapsed = since(self.started_at, now);
        for passed in BootPhase::ALL.iter().filter(|it| **it <= phase) {
            if self.phase() < *passed {
                self.reached.push(Reached::new(*passed, elapsed));
            }
        }
        news
    }

    /// When a phase was reached.
    #[must_use]
    pub fn reached(&self, phase: BootPhase) -> Option<Duration> {
        self.reached.iter().find(|it| it.phase == phase.as_str()).map(Reached::after)
    }
}

/// What earlier boots of a host teach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BootCurve {
    /// Phases of each that came up.
    boots: Vec<Vec<Reached>>,
}

/// How long a boot will still take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eta {
    /// Half of those before took no longer.
    pub likely: Duration,
    /// Nine of ten took no longer.
    pub at_most: Duration,
}

impl BootCurve {
    /// Learns from boots; those that failed or still run teach nothing.
    #[must_use]
    pub fn learn<'b>(boots: impl IntoIterator<Item = &'b Boot>) -> Self {
        let came_up = |boot: &&Boot| {
            boot.end.as_ref().is_some_and(|end| end.failure.is_none())
                && boot.reached(BootPhase::WorkerAnswers).is_some()
        };
        let boots = boots.into_iter().filter(came_up).take(LEARNT_MAX as usize);
        Self { boots: boots.map(|boot| boot.reached.clone()).collect() }
    }

    /// How many boots it was learnt from.
    #[must_use]
    pub fn learnt_from(&self) -> usize {
        self.boots.len()
    }

    /// How long after the signal a phase is usually reached, of a hundred boots the
    /// slowest `percent`; none when nothing was learnt of it.
    #[must_use]
    pub fn percentile(&self, phase: BootPhase, percent: usize) -> Option<Duration> {
        percentile(self.boots.iter().filter_map(|boot| passed(boot, phase)).collect(), percent)
    }

    /// How long a whole boot takes, rather too long than too short.
    #[must_use]
    pub fn whole(&self, power: &Power) -> Duration {
        self.percentile(BootPhase::WorkerAnswers, 90).unwrap_or(power.boot)
    }

    /// How long a boot will still take that reached `phase` at `reached` and has run for
    /// `elapsed`. Only boots count that were not done by then, which keeps the answer
    /// honest as it gets late; none when it has taken longer than any before.
    #[must_use]
    pub fn eta(
        &self,
        phase: BootPhase,
        reached: Duration,
        elapsed: Duration,
        power: &Power,
    ) -> Option<Eta> {
        if self.boots.is_empty() {
            let left = power.boot.checked_sub(elapsed).filter(|left| !left.is_zero())?;
            return Some(Eta { likely: left, at_most: left });
        }
        let in_phase = elapsed.saturating_sub(reached);
        let left = |boot: &Vec<Reached>| {
            let whole = passed(boot, BootPhase::WorkerAnswers)?;
            let rest = whole.saturating_sub(passed(boot, phase)?);
            rest.checked_sub(in_phase).filter(|left| !left.is_zero())
        };
        let left: Vec<Duration> = self.boots.iter().filter_map(left).collect();
        let likely = percentile(left.clone(), 50)?;
        Some(Eta { likely, at_most: percentile(left, 90)? })
    }

    /// When a boot is late: a quarter above the slowest of twenty before.
    fn late_after(&self, power: &Power) -> Duration {
        let learnt = self.percentile(BootPhase::WorkerAnswers, 95);
        match learnt.filter(|_| self.boots.len() >= LATE_NEEDS) {
            Some(slow) => slow.saturating_add(slow / 4),
            None => power.boot,
        }
    }
}

/// What is to be done about a boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootStep {
    /// It is on its way.
    Wait {
        /// How long it will still take; none when it takes longer than any before.
        eta: Option<Eta>,
        /// Why it is late, when it is.
        late: Option<Because>,
    },
    /// Nothing has answered for long enough that the signal is sent once more.
    SignalAgain {
        /// Why.
        because: Because,
    },
    /// It has failed.
    GiveUp {
        /// Why, and what to look at.
        because: Because,
    },
}

/// Decides what is to be done about a boot that has not ended.
#[must_use]
pub fn judge(boot: &Boot, curve: &BootCurve, power: &Power, now: Timestamp) -> BootStep {
    let elapsed = since(boot.started_at, now);
    if elapsed >= power.boot_max {
        return BootStep::GiveUp { because: given_up(boot, power) };
    }
    let phase = boot.phase();
    let unanswered = since(boot.signalled_at, now);
    let pause = pause_between_signals(curve, power);
    if phase == BootPhase::Signalled && boot.signals < power.signals && unanswered >= pause {
        let message = format!(
            "nothing of {} has answered for {}; this is signal {} of {}",
            boot.host,
            text::span(unanswered),
            boot.signals + 1,
            power.signals
        );
        return BootStep::SignalAgain { because: Because::new(Reason::WAKE_LATE, message) };
    }
    let reached = boot.reached(phase).unwrap_or_default();
    let late_after = curve.late_after(power);
    let late = (elapsed > late_after).then(|| {
        let message = format!(
            "{} has taken {} so far, and is usually up within {}; {}",
            boot.host,
            text::span(elapsed),
            text::span(late_after),
            words(phase)
        );
        Because::new(Reason::WAKE_LATE, message)
    });
    BootStep::Wait { eta: curve.eta(phase, reached, elapsed, power), late }
}

/// When the boot is given up as things stand.
#[must_use]
pub fn given_up_at(boot: &Boot, power: &Power) -> Timestamp {
    after(boot.started_at, power.boot_max)
}

/// A phase as a clause: `its agent answers`.
#[must_use]
pub const fn words(phase: BootPhase) -> &'static str {
    match phase {
        BootPhase::Signalled => "the signal to wake was sent",
        BootPhase::NetworkAnswers => "its network answers",
        BootPhase::AgentAnswers => "its agent answers",
        BootPhase::WorkerAnswers => "its worker answers",
        BootPhase::ModelLoaded => "a model is loaded",
    }
}

/// All signals fall into the time that the network usually takes to answer, twice over.
fn pause_between_signals(curve: &BootCurve, power: &Power) -> Duration {
    match curve.percentile(BootPhase::NetworkAnswers, 90) {
        Some(usual) => usual.saturating_add(usual / 2),
        None => power.boot / power.signals.max(1),
    }
}

fn given_up(boot: &Boot, power: &Power) -> Because {
    let (host, limit) = (&boot.host, text::span(power.boot_max));
    let (reason, what) = match boot.phase() {
        BootPhase::Signalled => {
            let look = match power.wake {
                WakeMethod::Packet { .. } => {
                    "check its cable, that the firmware allows wake-on-LAN (and not ErP), and that \
                     its card is set to wake: docs/power.md"
                }
                WakeMethod::Plug { .. } => {
                    "check the plug, and that the firmware starts the host when power comes back"
                }
                WakeMethod::Command { .. } => "check the command by hand",
            };
            let sent = text::count(u64::from(boot.signals), "signal");
            (Reason::DID_NOT_WAKE, format!("nothing answered to {sent} within {limit}; {look}"))
        }
        BootPhase::NetworkAnswers => (
            Reason::DIED_BOOTING,
            format!(
                "its network answered and its agent did not within {limit}; look at its console"
            ),
        ),
        BootPhase::AgentAnswers => (
            Reason::DIED_BOOTING,
            format!(
                "its agent answered and its worker did not within {limit}; see \
                 `journalctl -u homelab-gpu-worker` on it"
            ),
        ),
        BootPhase::WorkerAnswers | BootPhase::ModelLoaded => {
            (Reason::DIED_BOOTING, "its worker went away again".to_owned())
        }
    };
    Because::new(reason, format!("{host} did not come up: {what}"))
}

fn passed(boot: &[Reached], phase: BootPhase) -> Option<Duration> {
    boot.iter().find(|it| it.phase == phase.as_str()).map(Reached::after)
}

/// The value that `percent` of a hundred do not exceed.
fn percentile(mut values: Vec<Duration>, percent: usize) -> Option<Duration> {
    values.sort_unstable();
    let rank = (values.len() * percent).div_ceil(100).max(1) - 1;
    values.get(rank).copied()
}
