//! A `psql` held open: one connection, one transaction, many questions.
//!
//! Questions go to its standard input, each followed by `\echo` of a mark, and the
//! answer is every line up to that mark. `ON_ERROR_STOP` makes it end at the first
//! error, which then shows as a failed read with what psql said.

use std::{
    io::{self, BufRead, BufReader, Write},
    time::Duration,
};

use homelab_common::exec::{Killer, Streaming};
use serde::de::DeserializeOwned;

use super::{PostgresError, Tools, access::Access, version::Client};

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
    output: BufReader<Streaming>,
    killer: Killer,
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
        let program = client
            .program("psql")
            .args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only"])
            .args(["--set", "ON_ERROR_STOP=1"])
            .stdin_piped()
            .deadline(tools.limits.run_max);
        let program = access.apply(program);
        let mut stream = tools.exec.stream(program).map_err(PostgresError::Tool)?;
        let killer = stream.killer();
        let input = stream.take_stdin().unwrap_or_else(|| Box::new(io::sink()));
        let output = BufReader::new(stream);
        let server = access.server().to_owned();
        let mut session = Self { input, output, killer, server, asked: 0, access: None };
        session.tell("connect", PINNED)?;
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
        serde_json::from_str(&text).map_err(|source| PostgresError::Answer {
            what: what.to_owned(),
            server: self.server.clone(),
            source,
        })
    }

    /// Runs a query and gives its answer as it is printed.
    ///
    /// # Errors
    ///
    /// The query failed.
    pub fn text(&mut self, what: &str, sql: &str) -> Result<String, PostgresError> {
        self.exchange(sql).map_err(|source| PostgresError::Query {
            what: what.to_owned(),
            server: self.server.clone(),
            source,
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
        self.asked += 1;
        let mark = format!("homelab-answered-{}", self.asked);
        let sent =
            write!(self.input, "{sql}\n;\n\\echo {mark}\n").and_then(|()| self.input.flush());
        let mut answer = String::new();
        loop {
            let mut line = String::new();
            // A psql that has ended makes this an error with what it said.
            if self.output.read_line(&mut line)? == 0 {
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
