//! Counting what a database holds, in one snapshot.
//!
//! The same questions are asked of the source while it is dumped and of what a
//! drill restored, so that the answers can be compared word for word.

use std::time::Duration;

use serde::Deserialize;

use super::{
    PostgresError,
    manifest::{
        Database, Extension, LargeObjects, Object, PostgresContents, Sequence, Table, TableKind,
    },
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
        Ok(Self {
            snapshot: snapshot.trim().to_owned(),
            reads_passwords,
            database: session.ask("describe the database", DATABASE)?,
            sequences: sequences(session)?,
        })
    }

    /// Counts everything in the snapshot. Blocks for as long as it takes to read
    /// every row.
    ///
    /// # Errors
    ///
    /// A query failed.
    pub fn count(self, mut session: Session) -> Result<(Session, PostgresContents), PostgresError> {
        let contents = count(&mut session, self.database, self.sequences)?;
        Ok((session, contents))
    }
}

/// Counts a database that nobody else writes to.
///
/// # Errors
///
/// A query failed.
pub fn contents(session: &mut Session) -> Result<PostgresContents, PostgresError> {
    session.tell("begin a snapshot", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
    let database = session.ask("describe the database", DATABASE)?;
    let sequences = sequences(session)?;
    let contents = count(session, database, sequences)?;
    session.tell("end the snapshot", "COMMIT")?;
    Ok(contents)
}

/// Notes where the sequences stand when the dump is done.
pub(super) fn sequences_after(
    session: &mut Session,
    contents: &mut PostgresContents,
) -> Result<(), PostgresError> {
    let after = sequences(session)?;
    for sequence in &mut contents.sequences {
        let same = after.iter().find(|after| after.name == sequence.name);
        // Dropped meanwhile: the dump, in its snapshot, still has it as it was.
        sequence.after = same.map_or(sequence.before, |after| after.before);
    }
    Ok(())
}

fn count(
    session: &mut Session,
    database: Database,
    sequences: Vec<Sequence>,
) -> Result<PostgresContents, PostgresError> {
    let listed: Vec<ListedTable> = session.ask("list the tables", TABLES)?;
    let mut tables = Vec::with_capacity(listed.len());
    for table in listed {
        let what = format!("count table {}", table.name);
        let counted: Counted = session.ask(&what, &rows_of(&table.name))?;
        tables.push(Table {
            name: table.name,
            kind: table.kind,
            owner: table.owner,
            rows: counted.count,
            hash: counted.hash,
        });
    }
    let large_objects: Counted = session.ask("count the large objects", LARGE_OBJECTS)?;
    let extensions: Vec<Extension> = session.ask("list the extensions", EXTENSIONS)?;
    let mut objects: Vec<Object> = session.ask("list the schema", OBJECTS)?;
    objects.sort();
    let mut roles: Vec<String> = session.ask("list the roles", ROLES)?;
    roles.extend(objects.iter().map(|object| object.owner.clone()).filter(|name| !name.is_empty()));
    // Predefined ones exist everywhere and cannot be made.
    roles.retain(|name| !name.starts_with("pg_"));
    roles.sort();
    roles.dedup();
    let large_objects = LargeObjects { count: large_objects.count, hash: large_objects.hash };
    Ok(PostgresContents {
        dump_version: String::new(),
        database,
        tables,
        sequences,
        large_objects,
        extensions,
        roles,
        objects,
    })
}

fn sequences(session: &mut Session) -> Result<Vec<Sequence>, PostgresError> {
    session.ask("read the sequences", SEQUENCES)
}

#[derive(Deserialize)]
struct ListedTable {
    name: String,
    kind: TableKind,
    owner: String,
}

#[derive(Deserialize)]
struct Counted {
    count: u64,
    hash: String,
}

/// `name` is quoted already. The alias cannot be the name of a column, which would
/// be hashed in the row's place. A sum does not depend on the order of rows; as a
/// numeric it cannot overflow.
fn rows_of(name: &str) -> String {
    format!(
        "SELECT json_build_object('count', count(*), 'hash', \
         coalesce(sum(hashtextextended((\"homelab row\".*)::text, 0)::numeric), 0)::text) \
         FROM ONLY {name} AS \"homelab row\""
    )
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

const TABLES: &str = "\
SELECT coalesce(json_agg(json_build_object(
  'name', format('%I.%I', n.nspname, c.relname),
  'kind', CASE c.relkind WHEN 'm' THEN 'materialized-view' ELSE 'table' END,
  'owner', pg_get_userbyid(c.relowner)) ORDER BY n.nspname, c.relname), '[]')
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't' AND (c.relkind = 'r' OR c.relispopulated)
  AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'
  AND NOT EXISTS (SELECT FROM pg_depend x WHERE x.classid = 'pg_class'::regclass
                  AND x.objid = c.oid AND x.deptype = 'e')";

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
  oid::text || ':' || encode(sha256(lo_get(oid)), 'hex'), 0)::numeric), 0)::text)
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

/// Definitions with their rights. The rights are spelt out and sorted, because
/// \"none given\" and \"the default given\" are stored in different ways.
const OBJECTS: &str = "\
WITH member AS (
  SELECT classid, objid FROM pg_depend WHERE deptype = 'e'
), space AS (
  SELECT oid, nspname, nspowner, nspacl FROM pg_namespace
  WHERE nspname NOT IN ('pg_catalog', 'information_schema') AND nspname !~ '^pg_(toast|temp)'
), relation AS (
  SELECT c.*, n.nspname, format('%I.%I', n.nspname, c.relname) AS full_name
  FROM pg_class c JOIN space n ON n.oid = c.relnamespace
  WHERE c.relpersistence <> 't' AND NOT EXISTS (
    SELECT FROM member m WHERE m.classid = 'pg_class'::regclass AND m.objid = c.oid)
), rights AS (
  SELECT r.oid, string_agg(format('%s=%s%s', CASE a.grantee WHEN 0 THEN 'public'
      ELSE pg_get_userbyid(a.grantee) END, a.privilege_type,
      CASE WHEN a.is_grantable THEN '*' ELSE '' END), ','
    ORDER BY a.grantee = 0, pg_get_userbyid(a.grantee), a.privilege_type, a.is_grantable) AS text
  FROM relation r, aclexplode(coalesce(r.relacl,
    acldefault(CASE r.relkind WHEN 'S' THEN 's'::\"char\" ELSE 'r'::\"char\" END, r.relowner))) a
  WHERE r.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
  GROUP BY r.oid
), object AS (
  SELECT 'schema' AS kind, format('%I', nspname) AS name, pg_get_userbyid(nspowner) AS owner,
    '' AS definition FROM space
  UNION ALL
  SELECT CASE r.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned table' WHEN 'v' THEN 'view'
      WHEN 'm' THEN 'materialised view' WHEN 'S' THEN 'sequence' WHEN 'f' THEN 'foreign table'
      ELSE 'composite type' END,
    r.full_name, pg_get_userbyid(r.relowner),
    concat_ws(E'\\n', r.relpersistence::text, r.relrowsecurity::text, r.relforcerowsecurity::text,
      (SELECT text FROM rights WHERE rights.oid = r.oid),
      pg_get_expr(r.relpartbound, r.oid),
      CASE WHEN r.relkind IN ('v', 'm') THEN pg_get_viewdef(r.oid) END,
      (SELECT string_agg(concat_ws(' ', quote_ident(a.attname),
          format_type(a.atttypid, a.atttypmod), a.attnotnull::text, a.attidentity::text,
          a.attgenerated::text, pg_get_expr(d.adbin, d.adrelid)), E'\\n' ORDER BY a.attnum)
        FROM pg_attribute a
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped))
  FROM relation r WHERE r.relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c')
  UNION ALL
  SELECT 'index', r.full_name, '', pg_get_indexdef(r.oid)
  FROM relation r WHERE r.relkind IN ('i', 'I')
  UNION ALL
  SELECT 'constraint', format('%s of %s', quote_ident(c.conname), r.full_name), '',
    pg_get_constraintdef(c.oid)
  FROM pg_constraint c JOIN relation r ON r.oid = c.conrelid
  UNION ALL
  SELECT 'trigger', format('%s of %s', quote_ident(t.tgname), r.full_name), '',
    t.tgenabled::text || pg_get_triggerdef(t.oid)
  FROM pg_trigger t JOIN relation r ON r.oid = t.tgrelid WHERE NOT t.tgisinternal
  UNION ALL
  SELECT 'policy', format('%s of %s', quote_ident(p.polname), r.full_name), '',
    concat_ws(E'\\n', p.polcmd::text, p.polpermissive::text,
      pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
  FROM pg_policy p JOIN relation r ON r.oid = p.polrelid
  UNION ALL
  SELECT 'function', format('%I.%I(%s)', n.nspname, f.proname,
      pg_get_function_identity_arguments(f.oid)), pg_get_userbyid(f.proowner),
    CASE WHEN f.prokind = 'a' THEN 'aggregate' ELSE pg_get_functiondef(f.oid) END
  FROM pg_proc f JOIN space n ON n.oid = f.pronamespace
  WHERE NOT EXISTS (SELECT FROM member m WHERE m.classid = 'pg_proc'::regclass AND m.objid = f.oid)
  UNION ALL
  SELECT 'type', format_type(t.oid, NULL), pg_get_userbyid(t.typowner),
    concat_ws(E'\\n', t.typtype::text, CASE WHEN t.typbasetype <> 0 THEN
      format_type(t.typbasetype, t.typtypmod) END,
      (SELECT string_agg(quote_literal(e.enumlabel), ',' ORDER BY e.enumsortorder)
        FROM pg_enum e WHERE e.enumtypid = t.oid))
  FROM pg_type t JOIN space n ON n.oid = t.typnamespace
  WHERE t.typtype IN ('d', 'e', 'r') AND NOT EXISTS (
    SELECT FROM member m WHERE m.classid = 'pg_type'::regclass AND m.objid = t.oid)
  UNION ALL
  SELECT 'large object', l.oid::text, pg_get_userbyid(l.lomowner), ''
  FROM pg_largeobject_metadata l
)
SELECT coalesce(json_agg(json_build_object('kind', kind, 'name', name, 'owner', owner,
  'definition', md5(definition))), '[]') FROM object";
