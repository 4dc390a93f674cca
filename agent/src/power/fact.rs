//! One thing that speaks against sleeping.

use std::fmt;

/// What kind of thing it is: the word that programs match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// Somebody is logged in.
    SessionsOpen,
    /// A guest or container runs.
    GuestsRunning,
    /// A backup, replication or other task runs.
    TasksRunning,
    /// A scrub or rebuild of disks runs.
    ScrubRunning,
    /// A program asked the system not to sleep.
    Inhibited,
    /// The host's own configuration does not allow it.
    SleepNotAllowed,
    /// It could not be found out.
    FactUnknown,
}

impl Word {
    /// The stable word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SessionsOpen => "SESSIONS_OPEN",
            Self::GuestsRunning => "GUESTS_RUNNING",
            Self::TasksRunning => "TASKS_RUNNING",
            Self::ScrubRunning => "SCRUB_RUNNING",
            Self::Inhibited => "INHIBITED",
            Self::SleepNotAllowed => "SLEEP_NOT_ALLOWED",
            Self::FactUnknown => "FACT_UNKNOWN",
        }
    }
}

/// One thing that speaks against sleeping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// What kind.
    pub word: Word,
    /// For people.
    pub message: String,
}

impl Fact {
    /// A fact and its sentence.
    #[must_use]
    pub fn new(word: Word, message: impl Into<String>) -> Self {
        Self { word, message: message.into() }
    }

    /// Something that could not be found out.
    #[must_use]
    pub fn unknown(what: &str, why: impl fmt::Display) -> Self {
        Self::new(Word::FactUnknown, format!("nobody knows {what}: {why}"))
    }
}
