//! Single failures are no news, and neither are single successes after them.

crate::words! {
    /// Whether something answers, as far as it is shown.
    Signal {
        /// Answers.
        Up = "up",
        /// Does not answer.
        Down = "down",
        /// Not found out yet.
        Unknown = "unknown",
    }
}

/// How many results of one kind it takes to change what is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Failures one after the other before it counts as down; at least 1.
    pub failures: u32,
    /// Successes one after the other before it counts as up again; at least 1.
    pub successes: u32,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { failures: 3, successes: 2 }
    }
}

/// What is shown changed. "Recovered" never comes without "went down" before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was up, or nobody knew, and is down now.
    WentDown,
    /// It was down and is up again.
    Recovered,
}

/// A signal that is steadied against single results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steadied {
    shown: Signal,
    /// Results in a row that speak against what is shown.
    against: u32,
}

impl Default for Steadied {
    fn default() -> Self {
        Self { shown: Signal::Unknown, against: 0 }
    }
}

impl Steadied {
    /// Goes on from what was shown before a restart.
    #[must_use]
    pub const fn shown_before(shown: Signal) -> Self {
        Self { shown, against: 0 }
    }

    /// What is shown.
    #[must_use]
    pub const fn signal(self) -> Signal {
        self.shown
    }

    /// Takes one more result. The first success ever counts at once; a failure
    /// never does.
    #[must_use]
    pub fn observe(self, result: Signal, thresholds: Thresholds) -> (Self, Option<Change>) {
        let (needed, change) = match (self.shown, result) {
            (_, Signal::Unknown) => return (self, None),
            (Signal::Unknown, Signal::Up) => {
                return (Self { shown: Signal::Up, against: 0 }, None);
            }
            (Signal::Up | Signal::Unknown, Signal::Down) => {
                (thresholds.failures, Some(Change::WentDown))
            }
            (Signal::Down, Signal::Up) => (thresholds.successes, Some(Change::Recovered)),
            (Signal::Up, Signal::Up) | (Signal::Down, Signal::Down) => {
                return (Self { against: 0, ..self }, None);
            }
        };
        let against = self.against + 1;
        if against >= needed.max(1) {
            (Self { shown: result, against: 0 }, change)
        } else {
            (Self { against, ..self }, None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(results: &str) -> (Signal, Vec<Change>) {
        let mut steadied = Steadied::default();
        let mut changes = Vec::new();
        for result in results.chars() {
            let result = if result == '+' { Signal::Up } else { Signal::Down };
            let (next, change) = steadied.observe(result, Thresholds::default());
            steadied = next;
            changes.extend(change);
        }
        (steadied.signal(), changes)
    }

    #[test]
    fn single_failures_change_nothing() {
        assert_eq!(run("+-+--+-+"), (Signal::Up, vec![]));
    }

    #[test]
    fn three_failures_are_down_and_two_successes_up_again() {
        assert_eq!(run("+---"), (Signal::Down, vec![Change::WentDown]));
        assert_eq!(run("+---+"), (Signal::Down, vec![Change::WentDown]));
        let both = vec![Change::WentDown, Change::Recovered];
        assert_eq!(run("+---++"), (Signal::Up, both));
    }

    #[test]
    fn nothing_recovers_that_was_not_down() {
        assert_eq!(run("+"), (Signal::Up, vec![]));
        assert_eq!(run("--+"), (Signal::Up, vec![]));
    }
}
