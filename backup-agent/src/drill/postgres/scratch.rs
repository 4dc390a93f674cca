//! What a drill makes on its target, and how it is removed again.

use homelab_common::error_chain::Chain;
use serde::Deserialize;
use tracing::warn;

use super::{DrillError, PostgresTarget};
use crate::{
    ids::RunId,
    source::postgres::{
        PostgresError,
        access::Access,
        manifest::{Database, PostgresContents},
        session::{Session, quoted_name, quoted_text},
        version::Clients,
    },
};

/// How the name of a scratch database begins; the run's identifier follows.
pub const PREFIX: &str = "homelab_scratch_";

/// How the comment on everything that a drill made begins; the run's identifier and
/// the host of the agent follow. Whatever lacks it is not ours.
pub const MARKER: &str = "homelab-scratch";

/// The scratch database of one drill, with the roles made for it.
pub(super) struct Scratch<'a> {
    pub(super) name: String,
    target: &'a PostgresTarget,
    run: RunId,
    session: Option<Session>,
}

impl<'a> Scratch<'a> {
    pub(super) fn new(target: &'a PostgresTarget, run: RunId, session: Session) -> Self {
        Self { name: database_name(run), target, run, session: Some(session) }
    }

    /// Makes the missing roles and an empty database.
    pub(super) fn make(&mut self, contents: &PostgresContents) -> Result<(), DrillError> {
        let Some(session) = &mut self.session else { return Ok(()) };
        make(session, &comment_of(self.run, &self.target.owner), &self.name, contents)
            .map_err(|source| self.target.error(source))
    }

    /// Removes all of it. What cannot be removed is left to the sweeper.
    pub(super) fn remove(mut self) {
        // A failed statement ends a session: removing takes a fresh one.
        self.session = None;
        if let Err(error) = sweep(self.target, self.run, |run| run != self.run) {
            warn!(
                target_name = %self.target.name, run = %self.run, error = %Chain(&error),
                "could not remove what a drill made; the sweeper will"
            );
        }
    }
}

fn make(
    session: &mut Session,
    comment: &str,
    name: &str,
    contents: &PostgresContents,
) -> Result<(), PostgresError> {
    let existing: Vec<String> =
        session.ask("list the roles", "SELECT json_agg(rolname) FROM pg_roles")?;
    let missing = contents.roles.iter().filter(|role| !existing.contains(role));
    let comment = quoted_text(comment);
    let mut sql = String::from("BEGIN;");
    for role in missing {
        let role = quoted_name(role);
        sql.push_str(&format!("CREATE ROLE {role} NOLOGIN; COMMENT ON ROLE {role} IS {comment};"));
    }
    sql.push_str("COMMIT;");
    session.tell("make the missing roles", &sql)?;
    let name = quoted_name(name);
    session.tell("make the scratch database", &create(&name, &contents.database))?;
    session.tell("mark the scratch database", &format!("COMMENT ON DATABASE {name} IS {comment}"))
}

/// The same text must sort, compare and be encoded as in the source.
fn create(name: &str, like: &Database) -> String {
    let mut sql = format!(
        "CREATE DATABASE {name} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}",
        quoted_text(&like.encoding),
        quoted_text(&like.collate),
        quoted_text(&like.ctype)
    );
    if let Some(locale) = &like.icu_locale {
        sql.push_str(&format!(" LOCALE_PROVIDER icu ICU_LOCALE {}", quoted_text(locale)));
    }
    sql
}

fn database_name(run: RunId) -> String {
    format!("{PREFIX}{}", run.compact())
}

fn comment_of(run: RunId, owner: &str) -> String {
    format!("{MARKER} {run} {owner}")
}

/// The run that a database or role belongs to, if its comment says that this agent
/// made it: several may drill on one server.
fn run_of(comment: &str, owner: &str) -> Option<RunId> {
    let (run, made_by) = comment.strip_prefix(MARKER)?.strip_prefix(' ')?.split_once(' ')?;
    run.parse().ok().filter(|_| made_by == owner)
}

#[derive(Deserialize)]
struct Marked {
    name: String,
    comment: String,
}

const DATABASES: &str = "\
SELECT coalesce(json_agg(json_build_object('name', d.datname, 'comment', s.description)), '[]')
FROM pg_database d JOIN pg_shdescription s ON s.objoid = d.oid AND s.classoid = 'pg_database'::regclass";

const ROLES: &str = "\
SELECT coalesce(json_agg(json_build_object('name', r.rolname, 'comment', s.description)), '[]')
FROM pg_roles r JOIN pg_shdescription s ON s.objoid = r.oid AND s.classoid = 'pg_authid'::regclass";

/// Removes what drills left on the target whose run `is_alive` denies. Blocks. Gives
/// what was removed. A database needs our name *and* our comment with the same run
/// in both; anything else is not touched.
///
/// # Errors
///
/// The target cannot be used.
pub fn sweep(
    target: &PostgresTarget,
    sweeper: RunId,
    is_alive: impl Fn(RunId) -> bool,
) -> Result<Vec<String>, PostgresError> {
    let clients = Clients::discover(&target.tools.clients);
    let connect = || {
        let access = Access::open(&target.server, &target.database, sweeper, &target.tools)?;
        Session::open(clients.newest()?, &access, &target.tools)
            .map(|session| session.keeping(access))
    };
    let mut session = connect()?;
    let mut removed = Vec::new();
    let databases: Vec<Marked> = session.ask("list the databases", DATABASES)?;
    for database in databases {
        let Some(run) = run_of(&database.comment, &target.owner) else { continue };
        if database.name != database_name(run) || is_alive(run) {
            continue;
        }
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quoted_name(&database.name));
        session.tell(&format!("drop {}", database.name), &sql)?;
        removed.push(database.name);
    }
    let roles: Vec<Marked> = session.ask("list the roles", ROLES)?;
    for role in roles {
        if run_of(&role.comment, &target.owner).is_none_or(&is_alive) {
            continue;
        }
        let sql = format!("DROP ROLE IF EXISTS {}", quoted_name(&role.name));
        match session.tell(&format!("drop role {}", role.name), &sql) {
            Ok(()) => removed.push(format!("role {}", role.name)),
            Err(error) => {
                // Another drill may use it by now; the last one takes it away.
                warn!(role = role.name, error = %Chain(&error), "a role of a drill is still in use");
                session = connect()?;
            }
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn only_our_own_comment_names_a_run() {
        let run = RunId::from(Uuid::from_u128(7));
        assert_eq!(run_of(&comment_of(run, "db"), "db"), Some(run));
        assert_eq!(run_of(&comment_of(run, "db"), "nas"), None);
        for foreign in ["", "homelab-scratch", "homelab-scratch yes db", "my homelab-scratch"] {
            assert_eq!(run_of(foreign, "db"), None, "{foreign}");
        }
    }

    #[test]
    fn the_name_of_a_scratch_database_fits_postgresql() {
        // NAMEDATALEN is 64, one for the end.
        assert!(database_name(RunId::from(Uuid::nil())).len() < 64);
    }
}
