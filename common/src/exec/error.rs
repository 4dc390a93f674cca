//! Why a program did not do its work.

use std::{fmt, io, os::unix::process::ExitStatusExt, process::ExitStatus, time::Duration};

/// The longest argument that is shown, in characters.
const SHOWN_MAX: usize = 120;

/// A program with its arguments, for messages. Displayed so that it can be
/// pasted into a shell, long arguments shortened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argv(Vec<String>);

impl Argv {
    pub(super) const fn new(words: Vec<String>) -> Self {
        Self(words)
    }

    /// The program and its arguments.
    #[must_use]
    pub fn words(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for Argv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for word in &self.0 {
            write!(f, "{separator}{}", quoted(word))?;
            separator = " ";
        }
        Ok(())
    }
}

fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    let mut shown: String = word.chars().take(SHOWN_MAX).collect();
    if word.chars().count() > SHOWN_MAX {
        shown.push_str("...");
    }
    if !shown.is_empty() && shown.chars().all(is_plain) {
        return shown;
    }
    format!("'{}'", shown.replace('\'', "'\\''").replace('\n', "\\n"))
}

/// Why a program did not do its work. Arguments are shown, the environment and
/// the input never.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// There is no such program.
    #[error("the program `{program}` is not installed, or not in its usual place")]
    NotFound {
        /// What was looked for.
        program: String,
    },
    /// The system refused to start it.
    #[error("could not start `{argv}`")]
    Spawn {
        /// What was to run.
        argv: Argv,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It did not end in time and was killed.
    #[error("`{argv}` did not end within {}{}", crate::config::parse::show_duration(*after), tail(stderr_tail))]
    Deadline {
        /// What ran.
        argv: Argv,
        /// How long it was given.
        after: Duration,
        /// The end of what it wrote to standard error.
        stderr_tail: String,
    },
    /// It ended in a way that is not accepted.
    #[error("`{argv}` {}{}", ended(*code, *signal), tail(stderr_tail))]
    Exit {
        /// What ran.
        argv: Argv,
        /// Its exit code, unless a signal ended it.
        code: Option<i32>,
        /// The signal that ended it.
        signal: Option<i32>,
        /// The end of what it wrote to standard error.
        stderr_tail: String,
    },
    /// It wrote more than it may and was killed.
    #[error("`{argv}` wrote more than {limit_bytes} bytes")]
    OutputTooLarge {
        /// What ran.
        argv: Argv,
        /// The limit.
        limit_bytes: u64,
    },
    /// We ended it ourselves, by [`Killer::kill`](super::Killer::kill).
    #[error("`{argv}` was stopped on request")]
    Killed {
        /// What ran.
        argv: Argv,
    },
    /// Its pipes or its end could not be read.
    #[error("could not talk to `{argv}`")]
    Io {
        /// What ran.
        argv: Argv,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

impl ExecError {
    /// Tells an unaccepted end from a good one.
    pub(super) fn judge(
        argv: &Argv,
        status: ExitStatus,
        accepted: &[i32],
        stderr_tail: &str,
    ) -> Result<i32, Self> {
        match status.code() {
            Some(code) if accepted.contains(&code) => Ok(code),
            code => Err(Self::Exit {
                argv: argv.clone(),
                code,
                signal: status.signal(),
                stderr_tail: stderr_tail.into(),
            }),
        }
    }
}

fn ended(code: Option<i32>, signal: Option<i32>) -> String {
    match (code, signal) {
        (Some(code), _) => format!("failed with exit code {code}"),
        (None, Some(signal)) => match nix::sys::signal::Signal::try_from(signal) {
            Ok(known) => format!("was ended by {known}"),
            Err(_) => format!("was ended by signal {signal}"),
        },
        (None, None) => "ended for an unknown reason".into(),
    }
}

fn tail(stderr_tail: &str) -> String {
    match stderr_tail.trim() {
        "" => String::new(),
        text => format!("; it said: {text}"),
    }
}
