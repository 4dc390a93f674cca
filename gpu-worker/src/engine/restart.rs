//! When an engine that ended by itself is started again.

use std::{fmt, time::Duration};

use homelab_common::{chance::Chance, retry::Backoff};

/// The rules of restarting.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RestartPolicy {
    /// An engine that was ready for this long was sound; its end starts a new count.
    pub settled: Duration,
    /// After so many ends in a row without having settled it is left alone.
    pub quick_ends_max: u32,
    /// After so many of them under one build the next one is tried, if there is one.
    pub fall_back_after: u32,
    /// How long to wait before each start.
    pub backoff: Backoff,
}

/// What follows an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Start again after a pause.
    Restart {
        /// The pause.
        after: Duration,
    },
    /// Start the next build after a pause.
    FallBack {
        /// The pause.
        after: Duration,
    },
    /// Leave it alone until a person or the controller asks again: a card that
    /// hangs the machine must not be tried for ever.
    Quarantine {
        /// How many ends in a row led to it.
        quick_ends: u32,
    },
}

impl fmt::Display for Next {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Restart { after } => write!(formatter, "restart after {after:.1?}"),
            Self::FallBack { after } => write!(formatter, "next build after {after:.1?}"),
            Self::Quarantine { quick_ends } => {
                write!(formatter, "quarantine after {quick_ends} quick ends")
            }
        }
    }
}

/// How an engine has ended so far.
#[derive(Debug, Default)]
pub struct History {
    quick_ends: u32,
    of_this_build: u32,
}

impl History {
    /// Takes note of an end after having been ready for `ready_for`; `None` when
    /// it never was. `builds_left` are those that have not been tried yet.
    pub fn ended(
        &mut self,
        policy: &RestartPolicy,
        ready_for: Option<Duration>,
        builds_left: usize,
        chance: &dyn Chance,
    ) -> Next {
        if ready_for.is_some_and(|ready_for| ready_for >= policy.settled) {
            *self = Self::default();
            return Next::Restart { after: policy.backoff.delay(0, chance) };
        }
        let after = policy.backoff.delay(self.quick_ends, chance);
        self.quick_ends = self.quick_ends.saturating_add(1);
        self.of_this_build = self.of_this_build.saturating_add(1);
        if builds_left > 0 && self.of_this_build >= policy.fall_back_after {
            self.of_this_build = 0;
            Next::FallBack { after }
        } else if builds_left == 0 && self.quick_ends >= policy.quick_ends_max {
            Next::Quarantine { quick_ends: self.quick_ends }
        } else {
            Next::Restart { after }
        }
    }

    /// Takes note of an end that the same build would only repeat.
    pub fn hopeless(
        &mut self,
        policy: &RestartPolicy,
        builds_left: usize,
        chance: &dyn Chance,
    ) -> Next {
        self.quick_ends = self.quick_ends.saturating_add(1);
        self.of_this_build = 0;
        if builds_left > 0 {
            Next::FallBack { after: policy.backoff.delay(0, chance) }
        } else {
            Next::Quarantine { quick_ends: self.quick_ends }
        }
    }
}

#[cfg(test)]
mod tests {
    use homelab_common::chance::SeededChance;

    use super::*;

    fn policy() -> RestartPolicy {
        let backoff =
            Backoff::try_new(Duration::from_secs(1), Duration::from_secs(8), 0.0).unwrap();
        RestartPolicy {
            settled: Duration::from_secs(60),
            quick_ends_max: 4,
            fall_back_after: 2,
            backoff,
        }
    }

    fn restart(secs: u64) -> Next {
        Next::Restart { after: Duration::from_secs(secs) }
    }

    #[test]
    fn an_engine_that_never_gets_ready_is_tried_less_often_and_then_left_alone() {
        let (policy, chance) = (policy(), SeededChance::new(1));
        let mut history = History::default();
        let ends: Vec<Next> = (0..4).map(|_| history.ended(&policy, None, 0, &chance)).collect();
        assert_eq!(ends, [restart(1), restart(2), restart(4), Next::Quarantine { quick_ends: 4 }]);
    }

    #[test]
    fn a_settled_engine_is_restarted_at_once_however_often_it_ends() {
        let (policy, chance) = (policy(), SeededChance::new(1));
        let mut history = History::default();
        for _ in 0..100 {
            let next = history.ended(&policy, Some(policy.settled), 0, &chance);
            assert_eq!(next, restart(1));
        }
    }

    #[test]
    fn settling_forgets_the_quick_ends_before_it() {
        let (policy, chance) = (policy(), SeededChance::new(1));
        let mut history = History::default();
        for _ in 0..3 {
            history.ended(&policy, Some(Duration::from_secs(59)), 0, &chance);
        }
        history.ended(&policy, Some(Duration::from_secs(61)), 0, &chance);
        assert_eq!(history.ended(&policy, None, 0, &chance), restart(1));
    }

    #[test]
    fn each_build_gets_its_tries_and_only_the_last_is_left_alone() {
        let (policy, chance) = (policy(), SeededChance::new(1));
        let mut history = History::default();
        let ends: Vec<Next> =
            [2, 2, 1, 1, 0, 0].map(|left| history.ended(&policy, None, left, &chance)).into();
        let fall_back = |secs| Next::FallBack { after: Duration::from_secs(secs) };
        let expected = [restart(1), fall_back(2), restart(4), fall_back(8)];
        assert_eq!(ends[..4], expected);
        assert_eq!(ends[4], Next::Quarantine { quick_ends: 5 });
    }

    #[test]
    fn what_would_only_be_repeated_is_not_tried_again() {
        let (policy, chance) = (policy(), SeededChance::new(1));
        let mut history = History::default();
        let next = history.hopeless(&policy, 1, &chance);
        assert_eq!(next, Next::FallBack { after: Duration::from_secs(1) });
        assert_eq!(history.hopeless(&policy, 0, &chance), Next::Quarantine { quick_ends: 2 });
    }
}
