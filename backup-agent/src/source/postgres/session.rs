//! A `psql` held open: one connection, one transaction, many questions.
//!
//! Questions go to its standard input, each followed by `\echo` of a mark, and the
//! answer is every line up to that mark. `ON_ERROR_STOP` makes it end at the first
//! error, which then shows as a failed read with what psql said.

use std::{
    io::{self, BufRead, BufReader, Write},
    time::Duration,
};

use homelab_common::exec::{Killer, Program, Streaming};
use serde::de::DeserializeOwned;

use super::{PostgresError, Tools, access::Access, fault::Fault, version::Client, watch::Watch};

/// Longer than libpq waits for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(60);

/// Everything that decides how a value is printed, so that the text forms of two
/// servers can be compared. `row_security = off` makes a row-level policy an error
/// instead of a quietly smaller count, as `pg_dump` does.
const PINNED: &str = "\
SET client_encoding = 'UTF8'; SET client_min_messages = warning; SET search_path = pg_catalog; \
SET DateStyle = 'ISO, YMD'; SET IntervalStyle = 'postgres'; SET TimeZone = 'UTC'; \
SET extra_float_digits = 1; SET bytea_output = 'hex'; SET lc_monetary = 'C'; \
SET xmlbinary = 'base64'; SET row_security = off; SET statement_timeout = 0; \
SET idle_in_transaction_session_timeout = 0; SET synchronize_seqscans = off;";

/// A connection; see the module. All calls block.
pub struct Session {
    input: Box<dyn Write + Send>,
    /// Gone after the first failure.
    output: Option<BufReader<Streaming>>,
    killer: Killer,
    watch: Watch,
    step_max: Duration,
    server: String,
    asked: u64,
    access: Option<Access>,
}

impl Session {
    /// Connects.
    ///
    /// # Errors
    ///
    /// psql cannot be run, or the server refuses.
    pub fn open(client: &Client, access: &Access, tools: &Tools) -> Result<Self, PostgresError> {
        let program = program(client, access, tools).args(["--no-align", "--tuples-only"]);
        let mut stream = tools.exec.stream(program).map_err(PostgresError::Tool)?;
        let killer = stream.killer();
        let input = stream.take_stdin().unwrap_or_else(|| Box::new(io::sink()));
        let server = access.server().to_owned();
        let step_max = tools.limits.step_max;
        let watch = Watch::start(killer.clone())
            .map_err(|error| query_error("connect", &server, Fault::Pipe(error)))?;
        let output = Some(BufReader::new(stream));
        let mut session =
            Self { input, output, killer, watch, step_max, server, asked: 0, access: None };
        session.within(CONNECT_MAX.min(step_max), "connect", PINNED)?;
        Ok(session)
    }

    /// Keeps the password file for as long as the session lives.
    #[must_use]
    pub fn keeping(mut self, access: Access) -> Self {
        self.access = Some(access);
        self
    }

    /// Ends the session from another thread.
    #[must_use]
    pub fn killer(&self) -> Killer {
        self.killer.clone()
    }

    /// The server's major version.
    ///
    /// # Errors
    ///
    /// The query failed.
    pub fn server_major(&mut self) -> Result<u32, PostgresError> {
        let number: u32 =
            self.ask("ask for the version", "SELECT current_setting('server_version_num')::int")?;
        Ok(number / 10_000)
    }

    /// Runs statements that answer nothing.
    ///
    /// # Errors
    ///
    /// A statement failed.
    pub fn tell(&mut self, what: &str, sql: &str) -> Result<(), PostgresError> {
        self.text(what, sql).map(drop)
    }

    /// Runs a query whose answer is one JSON value.
    ///
    /// # Errors
    ///
    /// The query failed, or the answer is no such value.
    pub fn ask<T: DeserializeOwned>(&mut self, what: &str, sql: &str) -> Result<T, PostgresError> {
        let text = self.text(what, sql)?;
        self.understood(what, &text)
    }

    /// Runs a query and gives its answer as it is printed.
    ///
    /// # Errors
    ///
    /// The query failed.
    pub fn text(&mut self, what: &str, sql: &str) -> Result<String, PostgresError> {
        self.within(self.step_max, what, sql)
    }

    /// As [`Session::ask`], with another limit than that of a usual step.
    ///
    /// # Errors
    ///
    /// As [`Session::ask`].
    pub fn ask_within<T: DeserializeOwned>(
        &mut self,
        limit: Duration,
        what: &str,
        sql: &str,
    ) -> Result<T, PostgresError> {
        let text = self.within(limit, what, sql)?;
        self.understood(what, &text)
    }

    fn understood<T: DeserializeOwned>(&self, what: &str, text: &str) -> Result<T, PostgresError> {
        serde_json::from_str(text).map_err(|source| PostgresError::Answer {
            what: what.to_owned(),
            server: self.server.clone(),
            source,
        })
    }

    fn within(&mut self, limit: Duration, what: &str, sql: &str) -> Result<String, PostgresError> {
        self.watch.begin(limit);
        let answer = self.exchange(sql);
        let is_late = self.watch.end();
        answer.map_err(|error| {
            // Its end tells more than a pipe that broke.
            let ended = self.output.take().and_then(|output| output.into_inner().finish().err());
            let fault = match ended {
                _ if is_late => Fault::Late { limit },
                Some(ended) => Fault::of(ended),
                None => Fault::Pipe(error),
            };
            query_error(what, &self.server, fault)
        })
    }

    /// Gives up on locks after this time.
    ///
    /// # Errors
    ///
    /// The connection is gone.
    pub fn wait_for_locks(&mut self, limit: Duration) -> Result<(), PostgresError> {
        let sql = format!("SET lock_timeout = {};", limit.as_millis());
        self.tell("set the lock timeout", &sql)
    }

    fn exchange(&mut self, sql: &str) -> io::Result<String> {
        let Some(output) = &mut self.output else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        self.asked += 1;
        let mark = format!("homelab-answered-{}", self.asked);
        let sent =
            write!(self.input, "{sql}\n;\n\\echo {mark}\n").and_then(|()| self.input.flush());
        let mut answer = String::new();
        loop {
            let mut line = String::new();
            // A psql that has ended makes this an error with what it said.
            if output.read_line(&mut line)? == 0 {
                sent?;
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if line.trim_end() == mark {
                return Ok(answer);
            }
            answer.push_str(&line);
        }
    }
}

/// psql, reading statements from its input and ending at the first that fails. Errors
/// come with their SQLSTATE.
pub(crate) fn program(client: &Client, access: &Access, tools: &Tools) -> Program {
    let program = client
        .program("psql")
        .args(["--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1"])
        .args(["--set", "VERBOSITY=verbose"])
        .stdin_piped()
        .deadline(tools.limits.run_max);
    access.apply(program)
}

fn query_error(what: &str, server: &str, source: Fault) -> PostgresError {
    let (what, server) = (what.to_owned(), server.to_owned());
    PostgresError::Query { what, server, source: Box::new(source) }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("server", &self.server)
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}

/// A name as SQL takes it.
#[must_use]
pub fn quoted_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as SQL takes it, whatever `standard_conforming_strings` says.
#[must_use]
pub fn quoted_text(text: &str) -> String {
    format!("E'{}'", text.replace('\\', r"\\").replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_breaks_out_of_quotes() {
        assert_eq!(quoted_name(r#"a"b"#), r#""a""b""#);
        assert_eq!(quoted_text(r"it's \ here"), r"E'it''s \\ here'");
    }
}
