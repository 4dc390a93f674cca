//! Values that go into statements.

use std::time::Duration;

use jiff::Timestamp;
use sqlx::{Postgres, Sqlite, postgres::PgArguments, query::Query, sqlite::SqliteArguments};

/// One value of a statement.
pub(crate) enum Arg<'a> {
    Int(Option<i64>),
    Text(Option<String>),
    Blob(Option<&'a [u8]>),
    Bool(bool),
    /// Many texts as one value: a JSON array for `json_each` in SQLite, an array
    /// for `ANY` in PostgreSQL.
    Texts(Vec<String>),
}

pub(super) fn bind_sqlite<'q>(
    mut query: Query<'q, Sqlite, SqliteArguments>,
    args: &[Arg<'_>],
) -> Query<'q, Sqlite, SqliteArguments> {
    for arg in args {
        query = match arg {
            Arg::Int(value) => query.bind(*value),
            Arg::Text(value) => query.bind(value.clone()),
            Arg::Blob(value) => query.bind(value.map(<[u8]>::to_vec)),
            Arg::Bool(value) => query.bind(i64::from(*value)),
            Arg::Texts(values) => query.bind(serde_json::Value::from(values.clone()).to_string()),
        };
    }
    query
}

pub(super) fn bind_postgres<'q>(
    mut query: Query<'q, Postgres, PgArguments>,
    args: &[Arg<'_>],
) -> Query<'q, Postgres, PgArguments> {
    for arg in args {
        query = match arg {
            Arg::Int(value) => query.bind(*value),
            Arg::Text(value) => query.bind(value.clone()),
            Arg::Blob(value) => query.bind(value.map(<[u8]>::to_vec)),
            Arg::Bool(value) => query.bind(*value),
            Arg::Texts(values) => query.bind(values.clone()),
        };
    }
    query
}

/// Text of anything that has one.
pub(super) fn text(value: impl ToString) -> Arg<'static> {
    Arg::Text(Some(value.to_string()))
}

/// Text of something that may be missing.
pub(super) fn maybe_text(value: Option<impl ToString>) -> Arg<'static> {
    Arg::Text(value.map(|value| value.to_string()))
}

/// A moment.
pub(super) fn at(value: Timestamp) -> Arg<'static> {
    Arg::Int(Some(value.as_microsecond()))
}

/// A moment that may be missing.
pub(super) fn maybe_at(value: Option<Timestamp>) -> Arg<'static> {
    Arg::Int(value.map(Timestamp::as_microsecond))
}

/// A span; what does not fit is as good as for ever.
pub(super) fn span(value: Duration) -> Arg<'static> {
    Arg::Int(Some(i64::try_from(value.as_micros()).unwrap_or(i64::MAX)))
}

/// A span that may be missing.
pub(super) fn maybe_span(value: Option<Duration>) -> Arg<'static> {
    value.map_or(Arg::Int(None), span)
}

/// A number.
pub(super) fn int(value: impl Into<i64>) -> Arg<'static> {
    Arg::Int(Some(value.into()))
}

/// A number that may be missing.
pub(super) fn maybe_int(value: Option<impl Into<i64>>) -> Arg<'static> {
    Arg::Int(value.map(Into::into))
}

/// A count of bytes or of entries; what does not fit is capped at what the back
/// ends can hold, eight exabytes.
pub(super) fn big(value: u64) -> Arg<'static> {
    Arg::Int(Some(i64::try_from(value).unwrap_or(i64::MAX)))
}

/// Bytes.
pub(super) fn blob(value: &[u8]) -> Arg<'_> {
    Arg::Blob(Some(value))
}

/// Many texts.
pub(super) fn texts<T: ToString>(values: impl IntoIterator<Item = T>) -> Arg<'static> {
    Arg::Texts(values.into_iter().map(|value| value.to_string()).collect())
}
