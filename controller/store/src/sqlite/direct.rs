//! Statements and rows of the connection that writes, without a thread between.

use rusqlite::{
    Connection, ErrorCode, Statement,
    types::{Null, ToSql, ToSqlOutput, Value, ValueRef},
};

use crate::{error::StoreError, sql::Arg};

/// A row that was read to its end.
#[derive(Debug)]
pub(crate) struct OwnRow {
    columns: std::sync::Arc<[Box<str>]>,
    values: Vec<Value>,
}

impl OwnRow {
    /// The value of a column; none if there is no such column.
    pub(crate) fn value(&self, column: &str) -> Option<&Value> {
        let place = self.columns.iter().position(|name| **name == *column)?;
        self.values.get(place)
    }
}

/// Runs a statement that gives rows.
pub(super) fn rows(
    conn: &Connection,
    sql: &str,
    args: &[Arg<'_>],
) -> rusqlite::Result<Vec<OwnRow>> {
    let mut statement = conn.prepare_cached(sql)?;
    bind(&mut statement, args)?;
    let columns: std::sync::Arc<[_]> =
        statement.column_names().into_iter().map(Box::from).collect();
    let mut rows = statement.raw_query();
    let mut read = Vec::new();
    while let Some(row) = rows.next()? {
        let values = (0..columns.len()).map(|place| row.get(place)).collect::<Result<_, _>>()?;
        read.push(OwnRow { columns: columns.clone(), values });
    }
    Ok(read)
}

/// Runs a statement for its effect; how many rows it touched.
pub(super) fn run(conn: &Connection, sql: &str, args: &[Arg<'_>]) -> rusqlite::Result<u64> {
    let mut statement = conn.prepare_cached(sql)?;
    bind(&mut statement, args)?;
    statement.raw_execute().map(|rows| rows as u64)
}

/// An error, sorted into what callers act upon.
pub(super) fn store_error(doing: &'static str, error: rusqlite::Error) -> StoreError {
    match error.sqlite_error().map(|error| (error.code, error.extended_code)) {
        // A unique index, a primary key.
        Some((_, 2067 | 1555)) => {
            StoreError::Conflict { what: format!("what was to be kept ({doing})") }
        }
        Some((ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked, _)) => {
            StoreError::Busy { what: "another process writes", source: Some(Box::new(error)) }
        }
        _ => StoreError::Other { operation: doing, source: Box::new(error) },
    }
}

/// Binds by number: SQLite counts placeholders such as `$2` in the order in which they stand.
fn bind(statement: &mut Statement<'_>, args: &[Arg<'_>]) -> rusqlite::Result<()> {
    for place in 1..=statement.parameter_count() {
        let number = statement.parameter_name(place).and_then(|name| name.get(1..)?.parse().ok());
        let number: usize = number.unwrap_or(place);
        let arg = number.checked_sub(1).and_then(|number| args.get(number));
        let arg = arg.ok_or(rusqlite::Error::InvalidParameterCount(args.len(), number))?;
        statement.raw_bind_parameter(place, Bound(arg))?;
    }
    Ok(())
}

/// A value of a statement, as SQLite takes it.
struct Bound<'a>(&'a Arg<'a>);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self.0 {
            Arg::Int(Some(value)) => ToSqlOutput::Owned(Value::Integer(*value)),
            Arg::Text(Some(value)) => ToSqlOutput::Borrowed(ValueRef::Text(value.as_bytes())),
            Arg::Blob(Some(value)) => ToSqlOutput::Borrowed(ValueRef::Blob(value)),
            Arg::Int(None) | Arg::Text(None) | Arg::Blob(None) => Null.to_sql()?,
            Arg::Bool(value) => ToSqlOutput::Owned(Value::Integer(i64::from(*value))),
            Arg::Texts(values) => {
                ToSqlOutput::Owned(Value::Text(serde_json::Value::from(values.clone()).to_string()))
            }
        })
    }
}
