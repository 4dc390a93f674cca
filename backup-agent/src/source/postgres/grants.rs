//! The least that a role needs to back a server up, and whether a role has it.
//!
//! "Read only" is less obvious than it sounds, and each of these was seen to fail:
//! `pg_read_all_data` does not pass row-level security, so that `pg_dump` refuses, and
//! does not reach large objects; and it *does* reach the password verifiers in
//! `pg_authid`, which makes the role's own password as precious as all of them.

use std::fmt;

use serde::Deserialize;

use super::{
    PostgresError, PostgresSource,
    access::Access,
    dump,
    fault::Fault,
    session::{Session, quoted_name, quoted_text},
    version::Clients,
};
use crate::{
    blocking,
    ids::RunId,
    source::rights::{Explained, RightState, Tried},
};

/// Tables and the like that are named in a finding; more are only counted.
const NAMED_MAX: usize = 20;

/// What to run as superuser so that `role` can back up `databases` of a server of this
/// major version: statements, remarks and psql's `\connect`, a line each, for psql.
#[must_use]
pub fn grants(major: u32, role: &str, databases: &[String]) -> Vec<String> {
    let name = quoted_name(role);
    let mut lines = vec![
        format!("CREATE ROLE {name} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE;"),
        "-- then set its password, which psql asks for:".to_owned(),
        format!("\\password {name}"),
        "-- pg_dump refuses tables with row-level security without this:".to_owned(),
        format!("ALTER ROLE {name} BYPASSRLS;"),
        "-- a slip of the role's own sessions changes nothing:".to_owned(),
        format!("ALTER ROLE {name} SET default_transaction_read_only = on;"),
    ];
    if major >= 14 {
        lines.extend([
            "-- reads every table and sequence, pg_authid included: whoever has this role's \
             password can read the password verifiers of all roles, so guard it like a superuser's"
                .to_owned(),
            format!("GRANT pg_read_all_data TO {name};"),
        ]);
    } else {
        lines.push("-- without this, roles are backed up without their passwords".to_owned());
        lines.push(format!("-- GRANT SELECT ON pg_catalog.pg_authid TO {name};"));
    }
    for database in databases {
        lines.extend(in_database(major, role, database));
    }
    lines
}

fn in_database(major: u32, role: &str, database: &str) -> Vec<String> {
    let (name, text, quoted) = (quoted_name(role), quoted_text(role), quoted_name(database));
    let mut lines = vec![
        format!("GRANT CONNECT ON DATABASE {quoted} TO {name};"),
        format!("\\connect {quoted}"),
    ];
    if major < 14 {
        lines.push("-- again after each new schema:".to_owned());
        lines.push(format!(
            "SELECT format('GRANT USAGE ON SCHEMA %1$I TO %2$I; GRANT SELECT ON ALL TABLES IN \
             SCHEMA %1$I TO %2$I; GRANT SELECT ON ALL SEQUENCES IN SCHEMA %1$I TO %2$I; ALTER \
             DEFAULT PRIVILEGES IN SCHEMA %1$I GRANT SELECT ON TABLES TO %2$I; ALTER DEFAULT \
             PRIVILEGES IN SCHEMA %1$I GRANT SELECT ON SEQUENCES TO %2$I', nspname, {text}) \
             FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' \\gexec"
        ));
    }
    lines.push(
        "-- large objects, which pg_read_all_data does not reach; again after new ones:".to_owned(),
    );
    lines.push(on_large_objects(role));
    if major >= 18 {
        lines.push("-- and for each role that makes large objects, once:".to_owned());
        lines.push(format!(
            "-- ALTER DEFAULT PRIVILEGES FOR ROLE owner GRANT SELECT ON LARGE OBJECTS TO {name};"
        ));
    }
    lines
}

/// For psql, which runs what the query answers.
fn on_large_objects(role: &str) -> String {
    format!(
        "SELECT format('GRANT SELECT ON LARGE OBJECT %s TO %I', oid, {}) FROM \
         pg_largeobject_metadata \\gexec",
        quoted_text(role)
    )
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// A backup cannot succeed.
    Blocks,
    /// The role may do more than a backup needs.
    Excess,
    /// Good to know.
    Note,
}

/// One thing that a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub weight: Weight,
    /// A sentence.
    pub text: String,
    /// What to run as superuser against it, a line each; empty when nothing helps.
    pub remedy: Vec<String>,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What a probe showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Of the server.
    pub server_version: String,
    /// The role that was probed.
    pub role: String,
    /// What to run for a role like this one, from nothing.
    pub grants: Vec<String>,
    /// What is missing or too much, the worst first.
    pub findings: Vec<Finding>,
}

impl Probe {
    /// Whether a backup can succeed.
    #[must_use]
    pub fn suffices(&self) -> bool {
        self.findings.iter().all(|finding| finding.weight != Weight::Blocks)
    }
}

impl Probe {
    /// In the words of all sources.
    pub(super) fn explained(self) -> Explained {
        let tried = self.findings.into_iter().map(|Finding { weight, text, remedy }| {
            let state = match weight {
                Weight::Blocks => RightState::Missing,
                Weight::Excess => RightState::Excess,
                Weight::Note => RightState::Held,
            };
            Tried { what: "CanRead", state, text, remedy }
        });
        Explained { statements: self.grants, tried: tried.collect() }
    }
}

impl PostgresSource {
    /// Connects as the role of this source and looks at what it may do, by asking and by
    /// dumping the schema. Changes nothing.
    ///
    /// # Errors
    ///
    /// The server cannot be reached, or no client fits it.
    pub async fn probe(&self, run: RunId) -> Result<Probe, PostgresError> {
        let (server, database, tools) =
            (self.server.clone(), self.databases.entry().to_owned(), self.tools.clone());
        blocking::run(move || {
            let clients = Clients::discover(&tools.clients);
            let access = Access::open(&server, &database, run, &tools)?;
            let mut session = Session::open(clients.newest()?, &access, &tools)?;
            let rights: Rights = session.ask("look at the role's rights", RIGHTS)?;
            let major = rights.version_num / 10_000;
            let mut findings = rights.findings(major, &database);
            let program = dump::schema(clients.choose(major)?, &access, &tools);
            let mut stream = tools.exec.stream(program).map_err(PostgresError::Tool)?;
            // A failed end is an error of the last read, and told in full by `finish`.
            let _copied = std::io::copy(&mut stream, &mut std::io::sink());
            if let Err(error) = stream.finish() {
                findings.push(Finding {
                    weight: Weight::Blocks,
                    text: format!(
                        "pg_dump cannot read the schema of `{database}`: {}",
                        homelab_common::error_chain::Chain(&Fault::of(error))
                    ),
                    remedy: Vec::new(),
                });
            }
            findings.sort_by_key(|finding| finding.weight);
            let grants = grants(major, &rights.role, &[database]);
            Ok(Probe { server_version: rights.version, role: rights.role, grants, findings })
        })
        .await
    }
}

/// What a role may do in one database.
#[derive(Debug, Deserialize)]
struct Rights {
    role: String,
    version: String,
    version_num: u32,
    superuser: bool,
    bypasses_rls: bool,
    reads_passwords: bool,
    schemas: Vec<String>,
    unreadable: Vec<String>,
    secured: Vec<String>,
    writable: Vec<String>,
    large_objects: Vec<String>,
}

/// Large objects are asked for by their lists of rights: the function that tells came
/// with version 18.
const RIGHTS: &str = "\
WITH space AS (
  SELECT oid, nspname FROM pg_namespace
  WHERE nspname NOT IN ('pg_catalog', 'information_schema') AND nspname !~ '^pg_(toast|temp)'
), relation AS (
  SELECT c.oid, c.relkind, c.relrowsecurity, c.relforcerowsecurity, c.relowner,
    format('%I.%I', n.nspname, c.relname) AS name
  FROM pg_class c JOIN space n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'm', 'S', 'v') AND c.relpersistence <> 't'
), large AS (
  SELECT l.oid FROM pg_largeobject_metadata l
  WHERE NOT pg_has_role(l.lomowner, 'USAGE') AND NOT EXISTS (
    SELECT FROM aclexplode(l.lomacl) a WHERE a.privilege_type = 'SELECT'
      AND (a.grantee = 0 OR pg_has_role(a.grantee, 'USAGE')))
)
SELECT json_build_object(
  'role', current_user,
  'version', current_setting('server_version'),
  'version_num', current_setting('server_version_num')::int,
  'superuser', (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
  'bypasses_rls', (SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user),
  'reads_passwords', has_table_privilege('pg_catalog.pg_authid', 'SELECT'),
  'schemas', (SELECT coalesce(json_agg(format('%I', nspname) ORDER BY nspname), '[]') FROM space
    WHERE NOT has_schema_privilege(oid, 'USAGE')),
  'unreadable', (SELECT coalesce(json_agg(name ORDER BY name), '[]') FROM relation
    WHERE relkind IN ('r', 'p', 'm', 'S') AND NOT CASE relkind
      WHEN 'S' THEN has_sequence_privilege(oid, 'SELECT')
      ELSE has_table_privilege(oid, 'SELECT') END),
  'secured', (SELECT coalesce(json_agg(name ORDER BY name), '[]') FROM relation
    WHERE relrowsecurity AND (relforcerowsecurity OR NOT pg_has_role(relowner, 'USAGE'))),
  'writable', (SELECT coalesce(json_agg(name ORDER BY name), '[]') FROM relation
    WHERE relkind IN ('r', 'p') AND has_table_privilege(oid, 'INSERT, UPDATE, DELETE, TRUNCATE')),
  'large_objects', (SELECT coalesce(json_agg(oid::text ORDER BY oid), '[]') FROM large
    WHERE NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)))";

impl Rights {
    fn findings(&self, major: u32, database: &str) -> Vec<Finding> {
        let role = quoted_name(&self.role);
        let connect = format!("\\connect {}", quoted_name(database));
        let mut findings = Vec::new();
        let mut find = |weight, text: String, remedy: Vec<String>| {
            findings.push(Finding { weight, text, remedy });
        };
        if self.superuser {
            let text = format!("{} is a superuser, which a backup does not need", self.role);
            find(Weight::Excess, text, grants(major, "homelab_backup", &[database.to_owned()]));
            return findings;
        }
        if !self.unreadable.is_empty() || !self.schemas.is_empty() {
            let all: Vec<String> = self.schemas.iter().chain(&self.unreadable).cloned().collect();
            let remedy = if major >= 14 {
                vec![format!("GRANT pg_read_all_data TO {role};")]
            } else {
                in_database(major, &self.role, database)
            };
            find(Weight::Blocks, format!("{} cannot read {}", self.role, named(&all)), remedy);
        }
        if !self.secured.is_empty() && !self.bypasses_rls {
            let text = format!(
                "row-level security would hide rows of {} from {}, and pg_dump refuses that",
                named(&self.secured),
                self.role
            );
            find(Weight::Blocks, text, vec![format!("ALTER ROLE {role} BYPASSRLS;")]);
        }
        if !self.large_objects.is_empty() {
            let text =
                format!("{} cannot read large objects: {}", self.role, named(&self.large_objects));
            let grant = on_large_objects(&self.role);
            find(Weight::Blocks, text, vec![connect.clone(), grant]);
        }
        if !self.writable.is_empty() {
            let text = format!("{} may change {}", self.role, named(&self.writable));
            let revoke = self.writable.iter().map(|table| {
                format!("REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON {table} FROM {role};")
            });
            let remedy = std::iter::once(connect).chain(revoke.take(NAMED_MAX)).collect();
            find(Weight::Excess, text, remedy);
        }
        let text = if self.reads_passwords {
            format!(
                "{} can read the password verifiers of all roles (pg_authid): guard its password \
                 like a superuser's",
                self.role
            )
        } else {
            format!(
                "{} cannot read pg_authid: roles are backed up without their passwords, which \
                 must be set anew after a restore",
                self.role
            )
        };
        find(Weight::Note, text, Vec::new());
        findings
    }
}

fn named(names: &[String]) -> String {
    let shown = names.iter().take(NAMED_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights() -> Rights {
        Rights {
            role: "backup".to_owned(),
            version: "15.18".to_owned(),
            version_num: 150_018,
            superuser: false,
            bypasses_rls: true,
            reads_passwords: true,
            schemas: Vec::new(),
            unreadable: Vec::new(),
            secured: vec!["app.page".to_owned()],
            writable: Vec::new(),
            large_objects: Vec::new(),
        }
    }

    #[test]
    fn a_role_that_has_what_it_needs_is_told_only_what_it_can_see() {
        let findings = rights().findings(15, "wiki");
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].weight, Weight::Note);
        assert!(findings[0].text.contains("password verifiers"), "{}", findings[0]);
    }

    #[test]
    fn each_lack_has_its_own_remedy() {
        let mut rights = rights();
        rights.bypasses_rls = false;
        rights.unreadable = vec!["app.page".to_owned()];
        rights.large_objects = vec!["16402".to_owned()];
        let findings = rights.findings(15, "wiki");
        let remedies: Vec<_> = findings.iter().flat_map(|finding| &finding.remedy).collect();
        for part in ["pg_read_all_data", "BYPASSRLS", "ON LARGE OBJECT"] {
            assert!(remedies.iter().any(|line| line.contains(part)), "{part}: {remedies:?}");
        }
    }

    #[test]
    fn what_may_be_called_from_psql_cannot_break_out_of_its_quotes() {
        let lines = grants(15, "b\"; DROP", &["a b".to_owned()]);
        assert!(lines[0].starts_with("CREATE ROLE \"b\"\"; DROP\" LOGIN"), "{}", lines[0]);
        assert!(lines.iter().any(|line| line == "\\connect \"a b\""), "{lines:?}");
    }

    #[test]
    fn an_old_server_gets_what_it_understands() {
        let old = grants(13, "backup", &["wiki".to_owned()]).join("\n");
        assert!(!old.contains("pg_read_all_data TO"), "{old}");
        assert!(old.contains("ON ALL TABLES"), "{old}");
        assert!(grants(18, "backup", &["wiki".to_owned()]).join("\n").contains("ON LARGE OBJECTS"));
    }
}
