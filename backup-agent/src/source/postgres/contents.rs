//! Counting what a database holds, in one snapshot.
//!
//! The same questions are asked of the source while it is dumped and of what a
//! drill restored, so that the answers can be compared word for word.

use std::{
    iter,
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use serde::Deserialize;

use super::{
    Limits, PostgresError,
    manifest::{
        Database, DatabaseContents, Extension, LargeObjects, Object, RowHash, Sequence, Table,
        TableKind,
    },
    objects, rows,
    session::Session,
};

/// A snapshot that others can join, and what is only true in this moment.
#[derive(Debug)]
pub struct Moment {
    /// Its name, for `pg_dump --snapshot`.
    pub snapshot: String,
    /// Whether the role may read the password verifiers of other roles.
    pub reads_passwords: bool,
    /// Server and database.
    pub database: Database,
    /// How rows are hashed there.
    row_hash: RowHash,
    /// Sequences before the dump.
    sequences: Vec<Sequence>,
}

impl Moment {
    /// Begins a transaction and exports its snapshot. The session must stay open
    /// until every program that joins has done so.
    ///
    /// # Errors
    ///
    /// A query failed.
    pub fn fix(session: &mut Session, lock_wait: Duration) -> Result<Self, PostgresError> {
        session.wait_for_locks(lock_wait)?;
        session.tell(
            "begin a snapshot",
            "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY",
        )?;
        let snapshot = session.text("export the snapshot", "SELECT pg_export_snapshot()")?;
        let reads_passwords = session.ask(
            "ask for rights",
            "SELECT to_json(has_table_privilege('pg_catalog.pg_authid', 'SELECT'))",
        )?;
        let database: Database = session.ask("describe the database", DATABASE)?;
        Ok(Self {
            snapshot: snapshot.trim().to_owned(),
            reads_passwords,
            row_hash: RowHash::best_for(database.major()),
            database,
            sequences: sequences(session)?,
        })
    }

    /// Counts everything in the snapshot. Blocks for as long as it takes to read
    /// every row.
    ///
    /// # Errors
    ///
    /// A query failed.
    pub fn count(
        self,
        mut session: Session,
        limit: Duration,
    ) -> Result<(Session, DatabaseContents), PostgresError> {
        let listed = listed(&mut session, self.row_hash)?;
        let mut tables = Vec::with_capacity(listed.len());
        for table in listed {
            tables.push(table.count(&mut session, limit)?);
        }
        let rest = rest(&mut session, limit)?;
        Ok((session, rest.with(self.database, self.row_hash, self.sequences, tables)))
    }
}

/// Counts a database that nobody else writes to, by several sessions at once.
///
/// # Errors
///
/// A query failed.
pub fn contents(
    sessions: &mut [Session],
    row_hash: RowHash,
    limits: Limits,
) -> Result<DatabaseContents, PostgresError> {
    let Some((first, others)) = sessions.split_first_mut() else {
        return Err(PostgresError::NoSession);
    };
    let database: Database = first.ask("describe the database", DATABASE)?;
    let row_hash = row_hash.min(RowHash::best_for(database.major()));
    let sequences = sequences(first)?;
    let queue = Mutex::new(listed(first, row_hash)?.into_iter());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let count = |session: &mut Session| {
        let counted = iter::from_fn(next).map(|table| table.count(session, limits.run_max));
        counted.collect::<Result<Vec<Table>, _>>()
    };
    thread::scope(|scope| {
        let helpers: Vec<_> =
            others.iter_mut().map(|session| scope.spawn(|| count(session))).collect();
        let rest = rest(first, limits.run_max)?;
        let mut tables = count(first)?;
        for helper in helpers {
            tables.append(&mut helper.join().map_err(|_panic| PostgresError::NoSession)??);
        }
        Ok(rest.with(database, row_hash, sequences, tables))
    })
}

/// Notes where the sequences stand when the dump is done.
pub(super) fn sequences_after(
    session: &mut Session,
    contents: &mut DatabaseContents,
) -> Result<(), PostgresError> {
    let after = sequences(session)?;
    for sequence in &mut contents.sequences {
        let same = after.iter().find(|after| after.name == sequence.name);
        // Dropped meanwhile: the dump, in its snapshot, still has it as it was.
        sequence.after = same.map_or(sequence.before, |after| after.before);
    }
    Ok(())
}

/// The tables, those with the most bytes first, so that the last to be counted is small.
fn listed(session: &mut Session, row_hash: RowHash) -> Result<Vec<ListedTable>, PostgresError> {
    session.ask("list the tables", &rows::tables(row_hash))
}

/// What is there beside tables and sequences.
struct Rest {
    large_objects: LargeObjects,
    extensions: Vec<Extension>,
    roles: Vec<String>,
    objects: Vec<Object>,
}

fn rest(session: &mut Session, limit: Duration) -> Result<Rest, PostgresError> {
    let Counted { count, hash } =
        session.ask_within(limit, "count the large objects", LARGE_OBJECTS)?;
    let extensions = session.ask("list the extensions", EXTENSIONS)?;
    let mut objects: Vec<Object> = session.ask("list the schema", objects::OBJECTS)?;
    objects.sort();
    let mut roles: Vec<String> = session.ask("list the roles", ROLES)?;
    roles.extend(objects.iter().map(|object| object.owner.clone()).filter(|name| !name.is_empty()));
    // Predefined ones exist everywhere and cannot be made.
    roles.retain(|name| !name.starts_with("pg_"));
    roles.sort();
    roles.dedup();
    Ok(Rest { large_objects: LargeObjects { count, hash }, extensions, roles, objects })
}

impl Rest {
    fn with(
        self,
        database: Database,
        row_hash: RowHash,
        sequences: Vec<Sequence>,
        mut tables: Vec<Table>,
    ) -> DatabaseContents {
        let Self { large_objects, extensions, roles, objects } = self;
        tables.sort_by(|one, other| one.name.cmp(&other.name));
        DatabaseContents {
            database,
            row_hash,
            tables,
            sequences,
            large_objects,
            extensions,
            roles,
            objects,
        }
    }
}

fn sequences(session: &mut Session) -> Result<Vec<Sequence>, PostgresError> {
    session.ask("read the sequences", SEQUENCES)
}

#[derive(Deserialize)]
struct ListedTable {
    name: String,
    kind: TableKind,
    owner: String,
    row_hash: String,
}

#[derive(Deserialize)]
struct Counted {
    count: u64,
    hash: String,
}

impl ListedTable {
    fn count(self, session: &mut Session, limit: Duration) -> Result<Table, PostgresError> {
        let Self { name, kind, owner, row_hash } = self;
        let what = format!("count table {name}");
        let counted: Counted = session.ask_within(limit, &what, &rows::count(&name, &row_hash))?;
        Ok(Table { name, kind, owner, rows: counted.count, hash: counted.hash })
    }
}

const DATABASE: &str = "\
SELECT json_build_object(
  'name', d.datname,
  'owner', pg_get_userbyid(d.datdba),
  'server_version', current_setting('server_version'),
  'server_version_num', current_setting('server_version_num')::int,
  'system_identifier', (SELECT system_identifier::text FROM pg_control_system()),
  'encoding', pg_encoding_to_char(d.encoding),
  'collate', d.datcollate,
  'ctype', d.datctype,
  'icu_locale', CASE to_jsonb(d) ->> 'datlocprovider' WHEN 'i' THEN
    coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale') END,
  'settings', coalesce((
    SELECT json_agg(coalesce(r.rolname, '') || '/' || entry ORDER BY r.rolname, entry)
    FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole, unnest(s.setconfig) entry
    WHERE s.setdatabase = d.oid), '[]'))
FROM pg_database d WHERE d.datname = current_database()";

const SEQUENCES: &str = "\
SELECT coalesce(json_agg(json_build_object(
  'name', format('%I.%I', s.schemaname, s.sequencename), 'before', s.last_value, 'after', null)
  ORDER BY s.schemaname, s.sequencename), '[]')
FROM pg_sequences s
JOIN pg_namespace n ON n.nspname = s.schemaname
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = s.sequencename
WHERE n.nspname !~ '^pg_(toast|temp)'
  AND NOT EXISTS (SELECT FROM pg_depend x WHERE x.classid = 'pg_class'::regclass
                  AND x.objid = c.oid AND x.deptype = 'e')";

/// One object at a time is in memory; the engine's own limit is 1 GB for each.
const LARGE_OBJECTS: &str = "\
SELECT json_build_object('count', count(*), 'hash', coalesce(sum(hashtextextended(
  oid::text || ':' || encode(sha256(lo_get(oid)), 'hex'), 0)), 0)::text)
FROM pg_largeobject_metadata";

const EXTENSIONS: &str = "\
SELECT coalesce(json_agg(json_build_object('name', extname, 'version', extversion)
  ORDER BY extname), '[]') FROM pg_extension";

/// Who owns something here or was granted something; shared dependencies know.
const ROLES: &str = "\
SELECT coalesce(json_agg(DISTINCT r.rolname), '[]')
FROM pg_shdepend s JOIN pg_roles r ON r.oid = s.refobjid
WHERE s.refclassid = 'pg_authid'::regclass
  AND s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())";
