//! What a drill makes on its target, and how it is removed again.

use std::{collections::BTreeSet, iter};

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

/// The scratch databases of one drill, with the roles made for them.
pub(super) struct Scratch<'a> {
    target: &'a PostgresTarget,
    run: RunId,
    session: Option<Session>,
}

impl<'a> Scratch<'a> {
    pub(super) fn new(target: &'a PostgresTarget, run: RunId, session: Session) -> Self {
        Self { target, run, session: Some(session) }
    }

    /// Makes the role that owns the scratch databases, and the missing ones. A role and
    /// its comment come at once: a database that nobody came to comment on still has
    /// an owner who tells whose it is.
    pub(super) fn make_roles(&mut self, contents: &PostgresContents) -> Result<(), DrillError> {
        let comment = quoted_text(&comment_of(self.run, &self.target.owner));
        let own = database_name(self.run);
        self.tell(|session| {
            let existing: Vec<String> =
                session.ask("list the roles", "SELECT json_agg(rolname) FROM pg_roles")?;
            let needed = contents.databases.iter().flat_map(|stored| &stored.contents.roles);
            let missing = needed.filter(|role| !existing.contains(role));
            let roles: BTreeSet<&String> = iter::once(&own).chain(missing).collect();
            let mut sql = String::from("BEGIN;");
            for role in roles {
                let role = quoted_name(role);
                sql.push_str(&format!(
                    "CREATE ROLE {role} NOLOGIN; COMMENT ON ROLE {role} IS {comment};"
                ));
            }
            sql.push_str("COMMIT;");
            session.tell("make the missing roles", &sql)
        })
    }

    /// Makes an empty database; gives its name.
    pub(super) fn make(&mut self, number: usize, like: &Database) -> Result<String, DrillError> {
        let owner = database_name(self.run);
        // The one before it was compared: there may be no room for all of them.
        let before = number.checked_sub(1).map(|before| numbered(&owner, before));
        let name = numbered(&owner, number);
        let comment = quoted_text(&comment_of(self.run, &self.target.owner));
        self.tell(|session| {
            if let Some(before) = before {
                session.tell("drop the scratch database before", &drop_database(&before))?;
            }
            let (name, owner) = (quoted_name(&name), quoted_name(&owner));
            session.tell("make the scratch database", &create(&name, &owner, like))?;
            let comment = format!("COMMENT ON DATABASE {name} IS {comment}");
            session.tell("mark the scratch database", &comment)
        })?;
        Ok(name)
    }

    fn tell(
        &mut self,
        what: impl FnOnce(&mut Session) -> Result<(), PostgresError>,
    ) -> Result<(), DrillError> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => connect(self.target, self.run).map_err(|source| self.target.error(source))?,
        };
        what(&mut session).map_err(|source| self.target.error(source))?;
        // A failed statement ends a session; the next one then takes a fresh one.
        self.session = Some(session);
        Ok(())
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

/// The same text must sort, compare and be encoded as in the source.
fn create(name: &str, owner: &str, like: &Database) -> String {
    let mut sql = format!(
        "CREATE DATABASE {name} OWNER {owner} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}",
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

/// The first has the plain name.
fn numbered(name: &str, number: usize) -> String {
    if number == 0 { name.to_owned() } else { format!("{name}_{number}") }
}

/// Whether it is one of those of this run.
fn is_database_of(run: RunId, name: &str) -> bool {
    name.strip_prefix(&database_name(run)).is_some_and(|rest| {
        rest.is_empty()
            || rest.strip_prefix('_').is_some_and(|number| number.parse::<u16>().is_ok())
    })
}

fn drop_database(name: &str) -> String {
    format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quoted_name(name))
}

fn connect(target: &PostgresTarget, run: RunId) -> Result<Session, PostgresError> {
    let clients = Clients::discover(&target.tools.clients);
    let access = Access::open(&target.server, &target.database, run, &target.tools)?;
    let session = Session::open(clients.newest()?, &access, &target.tools)?;
    Ok(session.keeping(access))
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

/// A role and its comment are made at once, a database and its comment are not: what
/// counts is the comment on the owner who is named after the run, and on the database
/// itself only where there is none.
const DATABASES: &str = "\
SELECT coalesce(json_agg(json_build_object('name', d.datname,
  'comment', coalesce(o.description, s.description))), '[]')
FROM pg_database d
LEFT JOIN pg_roles r ON r.oid = d.datdba AND r.rolname ~ '^homelab_scratch_'
LEFT JOIN pg_shdescription o ON o.objoid = r.oid AND o.classoid = 'pg_authid'::regclass
LEFT JOIN pg_shdescription s ON s.objoid = d.oid AND s.classoid = 'pg_database'::regclass
WHERE coalesce(o.description, s.description) IS NOT NULL";

const ROLES: &str = "\
SELECT coalesce(json_agg(json_build_object('name', r.rolname, 'comment', s.description)), '[]')
FROM pg_roles r JOIN pg_shdescription s ON s.objoid = r.oid AND s.classoid = 'pg_authid'::regclass";

/// Removes what drills left on the target whose run `is_alive` denies. Blocks. Gives
/// what was removed. A database needs our name *and* our comment with the same run
/// in both; anything else is not touched. What cannot be removed now is told in the
/// log and tried again by the next sweep.
///
/// # Errors
///
/// The target cannot be used.
pub fn sweep(
    target: &PostgresTarget,
    sweeper: RunId,
    is_alive: impl Fn(RunId) -> bool,
) -> Result<Vec<String>, PostgresError> {
    let mut session = connect(target, sweeper)?;
    let databases: Vec<Marked> = session.ask("list the databases", DATABASES)?;
    let roles: Vec<Marked> = session.ask("list the roles", ROLES)?;
    let dead = |marked: &Marked| {
        let run = run_of(&marked.comment, &target.owner)?;
        (!is_alive(run)).then_some(run)
    };
    let databases = databases
        .into_iter()
        .filter(|database| dead(database).is_some_and(|run| is_database_of(run, &database.name)))
        .map(|Marked { name, .. }| {
            let sql = drop_database(&name);
            (name, sql)
        });
    // Another drill may use a role by now; the last one takes it away.
    let roles =
        roles.into_iter().filter(|role| dead(role).is_some()).map(|Marked { name, .. }| {
            let sql = format!("DROP ROLE IF EXISTS {}", quoted_name(&name));
            (format!("role {name}"), sql)
        });
    let mut removed = Vec::new();
    for (what, sql) in databases.collect::<Vec<_>>().into_iter().chain(roles) {
        match session.tell(&format!("drop {what}"), &sql) {
            Ok(()) => removed.push(what),
            Err(error) => {
                warn!(
                    target_name = %target.name, what, error = %Chain(&error),
                    "could not remove what a drill left; the next sweep tries again"
                );
                // A failed statement ends a session.
                session = connect(target, sweeper)?;
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
