//! What psql's end means.
//!
//! A restore can fail because the backup is wrong or because the server that takes it
//! is in trouble, and the two must not be mixed up. psql tells them apart: by its exit
//! code (2: the connection is gone, 3: a statement failed;
//! postgresql.org/docs/current/app-psql.html) and by the server's SQLSTATE, which does
//! not depend on anybody's language (postgresql.org/docs/current/errcodes-appendix.html).

use std::{fmt, io, time::Duration};

use homelab_common::{config::parse, exec::ExecError};

/// psql's exit code after a statement that failed.
const STATEMENT_FAILED: i32 = 3;

/// Why psql did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The server refused a statement.
    #[error("{said}")]
    Sql {
        /// What it said.
        said: String,
        /// The class and number of the error.
        state: SqlState,
    },
    /// It took too long, and psql was ended.
    #[error("no answer within {}", parse::show_duration(*limit))]
    Late {
        /// How long was waited.
        limit: Duration,
    },
    /// psql itself, or its connection.
    #[error("psql ended")]
    Ended(#[source] Box<ExecError>),
    /// Its pipes.
    #[error("could not talk to psql")]
    Pipe(#[source] io::Error),
}

/// An SQLSTATE: two characters of class, three of number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SqlState([u8; 5]);

impl SqlState {
    /// The one of the error that a psql with `VERBOSITY=verbose` wrote last, as in
    /// `ERROR:  42704: role "x" does not exist`. Warnings have one too.
    fn last_in(stderr: &str) -> Option<Self> {
        let state = |line: &'_ str| -> Option<Self> {
            let (_severity, rest) = line.split_once(":  ")?;
            let (state, _text) = rest.split_once(": ")?;
            let state: [u8; 5] = state.as_bytes().try_into().ok()?;
            let fits = state.iter().all(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase());
            (fits && !matches!(&state[..2], b"00" | b"01" | b"02")).then_some(Self(state))
        };
        stderr.lines().filter_map(state).next_back()
    }

    /// Whether the server ran out of something or is not well: no room, no memory, too
    /// many connections (53), told to stop (57), files that it cannot read or lacks
    /// (58), its own data damaged (XX), a connection lost (08), a role refused (28),
    /// or something that was not built into it or not installed beside it (0A).
    #[must_use]
    pub fn is_of_server(self) -> bool {
        matches!(&self.0[..2], b"53" | b"57" | b"58" | b"XX" | b"08" | b"28" | b"0A")
    }

    /// Whether a server of another version may say so to what is right elsewhere: it
    /// does not know a word (42), a value or a setting (22023, 0A).
    #[must_use]
    pub fn may_be_version(self) -> bool {
        matches!(&self.0[..2], b"42" | b"0A") || &self.0 == b"22023"
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl Fault {
    /// What a psql died of.
    #[must_use]
    pub fn of(error: ExecError) -> Self {
        let ExecError::Exit { stderr_tail, .. } = &error else {
            return Self::Ended(Box::new(error));
        };
        let Some(state) = SqlState::last_in(stderr_tail) else {
            return Self::Ended(Box::new(error));
        };
        // Where in the server's source it was raised helps nobody here.
        let lines = stderr_tail.lines().filter(|line| !line.starts_with("LOCATION:  "));
        Self::Sql { said: lines.collect::<Vec<_>>().join("\n"), state }
    }

    /// Whether this is trouble of the server or of the way to it, and says nothing
    /// about the statements.
    #[must_use]
    pub fn is_of_server(&self) -> bool {
        match self {
            Self::Sql { state, .. } => state.is_of_server(),
            // Unless it is a statement that psql itself could not read.
            Self::Ended(error) => {
                !matches!(**error, ExecError::Exit { code: Some(STATEMENT_FAILED), .. })
            }
            Self::Late { .. } | Self::Pipe(_) => true,
        }
    }

    /// Whether a server of another version may be the reason.
    #[must_use]
    pub fn may_be_version(&self) -> bool {
        matches!(self, Self::Sql { state, .. } if state.may_be_version())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(stderr: &str) -> Option<String> {
        SqlState::last_in(stderr).map(|state| state.to_string())
    }

    #[test]
    fn the_state_is_found_in_any_language_and_not_in_warnings() {
        let english =
            "WARNING:  01000: x\nERROR:  42704: role \"a\" does not exist\nLOCATION:  f.c:1";
        assert_eq!(state(english).as_deref(), Some("42704"));
        assert_eq!(state("psql:x.sql:3: FEHLER:  53100: kein Platz").as_deref(), Some("53100"));
        assert_eq!(state("WARNING:  01000: only a warning"), None);
        assert_eq!(state("psql: error: connection to server failed: refused"), None);
    }

    #[test]
    fn only_trouble_of_the_server_says_nothing_about_a_backup() {
        for (state, is_of_server) in [
            (b"53100", true),
            (b"57P01", true),
            (b"58P01", true),
            (b"0A000", true),
            (b"42704", false),
            (b"23505", false),
            (b"22P04", false),
        ] {
            assert_eq!(SqlState(*state).is_of_server(), is_of_server, "{}", SqlState(*state));
        }
    }
}
