//! When an engine that ended by itself is started again.

use std::time::Duration;

use homelab_common::{chance::Chance, retry::Backoff};

/// The rules of restarting.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RestartPolicy {
    /// An engine that was ready for this long was sound; its end starts a new count.
    pub settled: Duration,
    /// After so many ends in a row without having settled it is left alone.
    pub quick_ends_max: u32,
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
    /// Leave it alone until a person or the controller asks again: a card that
    /// hangs the machine must not be tried for ever.
    Quarantine {
        /// How many ends in a row led to it.
        quick_ends: u32,
    },
}

/// How an engine has ended so far.
#[derive(Debug, Default)]
pub struct History {
    quick_ends: u32,
}

impl History {
    /// Takes note of an end after having been ready for `ready_for`; `None` when
    /// it never was.
    pub fn ended(
        &mut self,
        policy: &RestartPolicy,
        ready_for: Option<Duration>,
        chance: &dyn Chance,
    ) -> Next {
        if ready_for.is_some_and(|ready_for| ready_for >= policy.settled) {
            self.quick_ends = 0;
            return Next::Restart { after: policy.backoff.delay(0, chance) };
        }
        let attempt = self.quick_ends;
        self.quick_ends = self.quick_ends.saturating_add(1);
        if self.quick_ends >= policy.quick_ends_max {
            Next::Quarantine { quick_ends: self.quick_ends }
        } else {
            Next::Restart { after: policy.backoff.delay(attempt, chance) }
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
        RestartPolicy { settled: Duration::from_secs(60), quick_ends_max: 4, backoff }
    }

    fn restart(secs: u64) -> Next {
        Next::Restart { after: Duration::from_secs(secs) }
    }

    #[test]
    fn an_engine_that_never_gets_ready_is_tried_less_often_and_then_left_alone() {
        let (policy, chance) = (policy(), SeededChance::new(1));
        let mut history = History::default();
        let ends: Vec<Next> = (0..4).map(|_| history.ended(&policy, None, &chance)).collect();
        assert_eq!(ends, [restart(1), restart(2), restart(4), Next::Quarantine { quick_ends: 4 }]);
    }

    #[test]
    fn a_settled_engine_is_restarted_at_once_however_often_it_ends() {
        let (policy, chance) = (policy(), SeededChance::new(1));
        let mut history = History::default();
        for _ in 0..100 {
            let next = history.ended(&policy, Some(policy.settled), &chance);
            assert_eq!(next, restart(1));
        }
    }

    #[test]
    fn settling_forgets_the_quick_ends_before_it() {
        let (policy, chance) = (policy(), SeededChance::new(1));
        let mut history = History::default();
        for _ in 0..3 {
            history.ended(&policy, Some(Duration::from_secs(59)), &chance);
        }
        history.ended(&policy, Some(Duration::from_secs(61)), &chance);
        assert_eq!(history.ended(&policy, None, &chance), restart(1));
    }
}
