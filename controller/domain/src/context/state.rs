//! How fresh what is known of a source is.

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    fleet::{Concern, Verdict},
    ids::SourceName,
    reason::{Because, Reason},
    text,
};

/// The first pause after a failure; it doubles with each.
const PAUSE_MIN: Duration = Duration::from_secs(60);

/// The longest pause after failures, unless the source is looked at less often anyway.
const PAUSE_MAX: Duration = Duration::from_secs(3_600);

/// What the last refresh of a source found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refreshed {
    /// When.
    pub at: Timestamp,
    /// Which state of the source it was: a commit, or a digest of the list of pages.
    pub version: String,
    /// Digest of that state and of how it is read: when it is the same, nothing is read again.
    pub fingerprint: [u8; 32],
    /// Documents.
    pub documents: u32,
    /// Passages that can be found.
    pub passages: u32,
    /// Passages that hold a secret and are not kept.
    pub withheld: u32,
    /// Documents that were passed over: no text, too large, or too many.
    pub skipped: u32,
    /// Some of the places that were withheld or passed over, and why, a line each.
    pub notes: Vec<String>,
}

/// Why the last look at a source failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// When it began to fail.
    pub since: Timestamp,
    /// When it last failed.
    pub at: Timestamp,
    /// How often it has failed in a row.
    pub failures: u32,
    /// What went wrong, for people.
    pub message: String,
}

/// What is known of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceState {
    /// Its name.
    pub name: SourceName,
    /// What the last refresh found; none before the first.
    pub refreshed: Option<Refreshed>,
    /// When it was last seen to be in that very state.
    pub looked_at: Option<Timestamp>,
    /// Why the last look failed; none after a success.
    pub trouble: Option<Trouble>,
}

/// Whether a source is to be looked at now. After failures the pause doubles.
#[must_use]
pub fn due(state: Option<&SourceState>, every: Duration, now: Timestamp) -> bool {
    let Some(state) = state else { return true };
    let (last, pause) = match &state.trouble {
        Some(trouble) => {
            let doubled = PAUSE_MIN.saturating_mul(1 << trouble.failures.saturating_sub(1).min(16));
            (Some(trouble.at), doubled.min(PAUSE_MAX.max(every)))
        }
        None => (state.looked_at, every),
    };
    let passed = last.map(|last| now.duration_since(last));
    // A clock that was set back makes it due, too.
    passed.is_none_or(|passed| passed.is_negative() || passed.unsigned_abs() >= pause)
}

/// What is not well with a source. What is searched meanwhile is as old as it is said to be.
#[must_use]
pub fn concern(name: &SourceName, state: Option<&SourceState>, now: Timestamp) -> Option<Concern> {
    let state = state?;
    let trouble = state.trouble.as_ref()?;
    let age = match state.looked_at {
        Some(at) => {
            let age = text::span(now.duration_since(at).unsigned_abs());
            format!("what is searched is {age} old")
        }
        None => "nothing of it can be searched yet".to_owned(),
    };
    Some(Concern {
        verdict: Verdict::Warning,
        subject: format!("context/{name}"),
        because: Because::new(
            Reason::CONTEXT_NOT_READ,
            format!("it could not be read: {}; {age}", trouble.message),
        ),
        since: Some(trouble.since),
        command: "labctl ai context list".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + minutes * 60).unwrap()
    }

    fn state(looked_at: Option<Timestamp>, failures: u32, failed_at: Timestamp) -> SourceState {
        let trouble =
            Trouble { since: at(0), at: failed_at, failures, message: "no answer".to_owned() };
        SourceState {
            name: SourceName::try_new("wiki").unwrap(),
            refreshed: None,
            looked_at,
            trouble: (failures > 0).then_some(trouble),
        }
    }

    const EVERY: Duration = Duration::from_secs(15 * 60);

    #[test]
    fn a_source_is_due_by_its_period_and_at_once_when_it_is_new() {
        assert!(due(None, EVERY, at(0)));
        let read = state(Some(at(0)), 0, at(0));
        assert!(!due(Some(&read), EVERY, at(14)));
        assert!(due(Some(&read), EVERY, at(15)));
        assert!(due(Some(&read), EVERY, at(-1)), "the clock was set back");
    }

    #[test]
    fn each_failure_doubles_the_pause_and_it_never_exceeds_an_hour() {
        for (failures, minutes) in [(1, 1), (2, 2), (4, 8), (7, 60), (400, 60)] {
            let failed = state(Some(at(0)), failures, at(0));
            assert!(!due(Some(&failed), EVERY, at(minutes - 1)), "{failures}");
            assert!(due(Some(&failed), EVERY, at(minutes)), "{failures}");
        }
    }

    #[test]
    fn a_source_that_cannot_be_read_is_a_concern_that_says_how_old_its_index_is() {
        let name = SourceName::try_new("wiki").unwrap();
        let said = |state: &SourceState| {
            concern(&name, Some(state), at(120)).map(|concern| concern.because.message)
        };
        assert_eq!(said(&state(Some(at(0)), 0, at(0))), None);
        let old = said(&state(Some(at(0)), 2, at(119))).unwrap();
        assert_eq!(old, "it could not be read: no answer; what is searched is 2 h old");
        let never = said(&state(None, 1, at(119))).unwrap();
        assert!(never.ends_with("nothing of it can be searched yet"), "{never}");
    }
}
