//! Counting and hashing the rows of a table.

use super::manifest::RowHash;

/// Types whose equal values have but one text form, so that the hash of the value says
/// as much as that of its text: bool, bytea, "char", int8, int2, int4, oid, date, time,
/// timestamp, timestamptz, uuid. Others do not: `1.0` and `1.00` are equal numerics.
/// These hashes never change, since hash partitions stay what they are through an
/// upgrade. An enum's is that of its number in the catalogue, which a restore changes.
const EXACT: &str = "16, 17, 18, 20, 21, 23, 26, 1082, 1083, 1114, 1184, 2950";

/// Texts, which are hashed by their bytes under `COLLATE "C"`: text, varchar.
const TEXTS: &str = "25, 1043";

/// Lists ordinary tables and materialised views, each with what to hash of a row.
pub(super) fn tables(row_hash: RowHash) -> String {
    let hash = match row_hash {
        RowHash::Text => "'hashtextextended((\"homelab row\".*)::text, 0)'".to_owned(),
        RowHash::Values => format!(
            "'hash_record_extended(ROW(' || coalesce((
               SELECT string_agg('\"homelab row\".' || quote_ident(a.attname)
                 || CASE WHEN a.atttypid IN ({EXACT}) THEN ''
                         WHEN a.atttypid IN ({TEXTS}) THEN ' COLLATE \"C\"'
                         ELSE '::text COLLATE \"C\"' END, ', ' ORDER BY a.attnum)
               FROM pg_attribute a
               WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '')
             || '), 0)'"
        ),
    };
    format!(
        "SELECT coalesce(json_agg(json_build_object(
           'name', format('%I.%I', n.nspname, c.relname),
           'kind', CASE c.relkind WHEN 'm' THEN 'materialized-view' ELSE 'table' END,
           'owner', pg_get_userbyid(c.relowner),
           'row_hash', {hash}) ORDER BY c.relpages DESC, n.nspname, c.relname), '[]')
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'm') AND c.relpersistence <> 't'
           AND (c.relkind = 'r' OR c.relispopulated)
           AND n.nspname NOT IN ('pg_catalog', 'information_schema')
           AND n.nspname !~ '^pg_(toast|temp)'
           AND NOT EXISTS (SELECT FROM pg_depend x WHERE x.classid = 'pg_class'::regclass
                           AND x.objid = c.oid AND x.deptype = 'e')"
    )
}

/// Counts the rows of a table and adds their hashes up: a sum does not depend on the
/// order of rows, and that of `bigint` is a `numeric`, which cannot overflow. The name
/// is quoted already. The alias cannot be the name of a column, which would be hashed
/// in the row's place.
pub(super) fn count(name: &str, row_hash: &str) -> String {
    format!(
        "SELECT json_build_object('count', count(*), 'hash', \
         coalesce(sum({row_hash}), 0)::text) FROM ONLY {name} AS \"homelab row\""
    )
}
