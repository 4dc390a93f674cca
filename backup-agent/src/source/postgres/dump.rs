//! The programs that write a dump, and how their output ends.

use std::error::Error;

use homelab_common::exec::Program;

use super::{PostgresError, Tools, access::Access, session::Session, version::Client};

/// Who holds a lock that a dump cannot pass.
const BLOCKERS: &str = "\
SELECT coalesce(string_agg(DISTINCT format('process %s (%s, %s) holds %s', a.pid, a.usename,
  coalesce(nullif(a.application_name, ''), 'unnamed'), l.relation::regclass), '; '), 'nobody any more')
FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.mode = 'AccessExclusiveLock' AND l.granted AND l.locktype = 'relation'
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// `pg_dump` of the whole database, in a snapshot that a session holds.
///
/// The whole database and never a part: with `-t` or `-n` large objects and
/// extensions would be left out.
pub(super) fn database(
    client: &Client,
    access: &Access,
    snapshot: &str,
    restrict_key: Option<&str>,
    tools: &Tools,
) -> Program {
    let program = client
        .program("pg_dump")
        .args(["--format=plain", "--snapshot", snapshot])
        .arg(format!("--lock-wait-timeout={}", tools.limits.lock_wait.as_millis()));
    finish(program, access, restrict_key, tools)
}

/// `pg_dumpall` of roles and tablespaces, which no database dump holds.
pub(super) fn globals(
    client: &Client,
    access: &Access,
    restrict_key: Option<&str>,
    reads_passwords: bool,
    tools: &Tools,
) -> Program {
    let mut program = client.program("pg_dumpall").arg("--globals-only");
    if !reads_passwords {
        // Only roles that may read pg_authid see the verifiers; others still see the roles.
        program = program.arg("--no-role-passwords");
    }
    finish(program, access, restrict_key, tools)
}

/// `pg_dump` of definitions only, to see whether it can.
pub(super) fn schema(client: &Client, access: &Access, tools: &Tools) -> Program {
    let program = client
        .program("pg_dump")
        .args(["--format=plain", "--schema-only"])
        .arg(format!("--lock-wait-timeout={}", tools.limits.lock_wait.as_millis()));
    access.apply(program).deadline(tools.limits.step_max)
}

fn finish(program: Program, access: &Access, key: Option<&str>, tools: &Tools) -> Program {
    // The key keeps a hostile *server* from smuggling psql commands into the dump; it
    // is no secret from the users of this machine.
    let program = match key {
        Some(key) => program.arg(format!("--restrict-key={key}")),
        None => program,
    };
    access.apply(program).deadline(tools.limits.run_max)
}

/// Names the blocking processes when the failure is a lock that stayed. Blocks.
pub(super) fn explain(
    error: PostgresError,
    client: &Client,
    access: &Access,
    tools: &Tools,
) -> PostgresError {
    let mut next: Option<&dyn Error> = Some(&error);
    let mut is_lock = false;
    while let Some(cause) = next {
        is_lock |= cause.to_string().contains("lock timeout");
        next = cause.source();
    }
    if !is_lock {
        return error;
    }
    let blockers = Session::open(client, access, tools)
        .and_then(|mut session| session.text("ask who holds the lock", BLOCKERS));
    let blockers = blockers.map_or_else(
        |_| "it could not be found out by whom".to_owned(),
        |text| text.trim().to_owned(),
    );
    PostgresError::Locked { lock_wait: tools.limits.lock_wait, blockers, source: Box::new(error) }
}

/// The last words of a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Of `pg_dump`.
    Database,
    /// Of `pg_dumpall`.
    Cluster,
}

impl Ending {
    /// Whether a stream with these last bytes was written to its end.
    pub(super) fn is_at(self, tail: &[u8]) -> bool {
        let text = String::from_utf8_lossy(tail);
        let mut lines = text.trim_end().lines().rev().peekable();
        // Written after the mark by those that write `\restrict` first.
        lines.next_if(|line| line.starts_with("\\unrestrict "));
        let mut lines = lines.skip_while(|line| line.is_empty());
        let mark = match self {
            Self::Database => "-- PostgreSQL database dump complete",
            Self::Cluster => "-- PostgreSQL database cluster dump complete",
        };
        lines.next() == Some("--") && lines.next() == Some(mark) && lines.next() == Some("--")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const END: &str = "\\.\n\n\n--\n-- PostgreSQL database dump complete\n--\n\n";

    #[test]
    fn the_end_mark_is_found_with_and_without_a_restrict_key() {
        assert!(Ending::Database.is_at(END.as_bytes()));
        assert!(Ending::Database.is_at(format!("{END}\\unrestrict abc\n\n").as_bytes()));
        let cluster = END.replace("database dump", "database cluster dump");
        assert!(Ending::Cluster.is_at(cluster.as_bytes()));
        assert!(!Ending::Database.is_at(cluster.as_bytes()));
    }

    #[test]
    fn no_cut_of_a_dump_looks_complete() {
        let visible = END.trim_end().len();
        for length in 0..visible {
            assert!(!Ending::Database.is_at(&END.as_bytes()[..length]), "{length}");
        }
    }

    #[test]
    fn the_mark_as_a_value_in_a_table_is_no_end() {
        let text = "1\t--\n-- PostgreSQL database dump complete\n--\nmore\n";
        assert!(!Ending::Database.is_at(text.as_bytes()));
    }
}
