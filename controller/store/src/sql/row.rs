//! Rows, and the checks on what they hold.

use std::{fmt::Display, str::FromStr, time::Duration};

use jiff::Timestamp;
use rusqlite::types::Value;
use sqlx::{Row as _, postgres::PgRow, sqlite::SqliteRow};

use crate::{error::StoreError, sqlite::OwnRow};

/// One row of either back end.
pub(super) enum Row {
    Own(OwnRow),
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

/// A row, read as one of a table: what does not fit is named.
pub(super) struct Fields<'r> {
    row: &'r Row,
    table: &'static str,
    key: String,
}

impl Row {
    /// Reads the row as one of `table`, with `key` as the column that names it.
    pub(super) fn of(&self, table: &'static str, key: &'static str) -> Fields<'_> {
        let text = self.text(key).ok().flatten();
        let number = || self.int(key).ok().flatten().map(|number| number.to_string());
        let key = text.or_else(number).unwrap_or_default();
        Fields { row: self, table, key }
    }

    fn int(&self, column: &'static str) -> Result<Option<i64>, Unfit> {
        match self {
            Self::Own(row) => match row.value(column).ok_or(Unfit)? {
                Value::Null => Ok(None),
                Value::Integer(value) => Ok(Some(*value)),
                _ => Err(Unfit),
            },
            Self::Sqlite(row) => Ok(row.try_get(column)?),
            Self::Postgres(row) => Ok(row.try_get(column)?),
        }
    }

    fn text(&self, column: &'static str) -> Result<Option<String>, Unfit> {
        match self {
            Self::Own(row) => match row.value(column).ok_or(Unfit)? {
                Value::Null => Ok(None),
                Value::Text(value) => Ok(Some(value.clone())),
                _ => Err(Unfit),
            },
            Self::Sqlite(row) => Ok(row.try_get(column)?),
            Self::Postgres(row) => Ok(row.try_get(column)?),
        }
    }

    fn blob(&self, column: &'static str) -> Result<Option<Vec<u8>>, Unfit> {
        match self {
            Self::Own(row) => match row.value(column).ok_or(Unfit)? {
                Value::Null => Ok(None),
                Value::Blob(value) => Ok(Some(value.clone())),
                _ => Err(Unfit),
            },
            Self::Sqlite(row) => Ok(row.try_get(column)?),
            Self::Postgres(row) => Ok(row.try_get(column)?),
        }
    }

    fn bool(&self, column: &'static str) -> Result<Option<bool>, Unfit> {
        match self {
            Self::Own(_) | Self::Sqlite(_) => Ok(self.int(column)?.map(|value| value != 0)),
            Self::Postgres(row) => Ok(row.try_get(column)?),
        }
    }
}

/// The column is missing, or holds a value of another type.
struct Unfit;

impl From<sqlx::Error> for Unfit {
    fn from(_: sqlx::Error) -> Self {
        Self
    }
}

impl Fields<'_> {
    /// The error for a column that holds what cannot be there.
    pub(super) fn wrong(&self, column: &'static str) -> StoreError {
        StoreError::Inconsistent { table: self.table, column, row: self.key.clone() }
    }

    pub(super) fn maybe_int(&self, column: &'static str) -> Result<Option<i64>, StoreError> {
        self.row.int(column).map_err(|_| self.wrong(column))
    }

    pub(super) fn int(&self, column: &'static str) -> Result<i64, StoreError> {
        self.maybe_int(column)?.ok_or_else(|| self.wrong(column))
    }

    pub(super) fn u64(&self, column: &'static str) -> Result<u64, StoreError> {
        u64::try_from(self.int(column)?).map_err(|_| self.wrong(column))
    }

    pub(super) fn maybe_u64(&self, column: &'static str) -> Result<Option<u64>, StoreError> {
        let value = self.maybe_int(column)?;
        value.map(|value| u64::try_from(value).map_err(|_| self.wrong(column))).transpose()
    }

    pub(super) fn u32(&self, column: &'static str) -> Result<u32, StoreError> {
        u32::try_from(self.int(column)?).map_err(|_| self.wrong(column))
    }

    pub(super) fn maybe_u32(&self, column: &'static str) -> Result<Option<u32>, StoreError> {
        let value = self.maybe_int(column)?;
        value.map(|value| u32::try_from(value).map_err(|_| self.wrong(column))).transpose()
    }

    pub(super) fn maybe_at(&self, column: &'static str) -> Result<Option<Timestamp>, StoreError> {
        let value = self.maybe_int(column)?;
        value
            .map(|value| Timestamp::from_microsecond(value).map_err(|_| self.wrong(column)))
            .transpose()
    }

    pub(super) fn at(&self, column: &'static str) -> Result<Timestamp, StoreError> {
        self.maybe_at(column)?.ok_or_else(|| self.wrong(column))
    }

    pub(super) fn span(&self, column: &'static str) -> Result<Duration, StoreError> {
        Ok(Duration::from_micros(self.u64(column)?))
    }

    pub(super) fn maybe_span(&self, column: &'static str) -> Result<Option<Duration>, StoreError> {
        Ok(self.maybe_u64(column)?.map(Duration::from_micros))
    }

    pub(super) fn maybe_text(&self, column: &'static str) -> Result<Option<String>, StoreError> {
        self.row.text(column).map_err(|_| self.wrong(column))
    }

    pub(super) fn text(&self, column: &'static str) -> Result<String, StoreError> {
        self.maybe_text(column)?.ok_or_else(|| self.wrong(column))
    }

    pub(super) fn bool(&self, column: &'static str) -> Result<bool, StoreError> {
        let value = self.row.bool(column).map_err(|_| self.wrong(column))?;
        value.ok_or_else(|| self.wrong(column))
    }

    pub(super) fn blob(&self, column: &'static str) -> Result<Vec<u8>, StoreError> {
        let value = self.row.blob(column).map_err(|_| self.wrong(column))?;
        value.ok_or_else(|| self.wrong(column))
    }

    pub(super) fn maybe_blob(&self, column: &'static str) -> Result<Option<Vec<u8>>, StoreError> {
        self.row.blob(column).map_err(|_| self.wrong(column))
    }

    pub(super) fn digest(&self, column: &'static str) -> Result<[u8; 32], StoreError> {
        self.blob(column)?.try_into().map_err(|_| self.wrong(column))
    }

    /// A name or identifier.
    pub(super) fn parsed<T: FromStr>(&self, column: &'static str) -> Result<T, StoreError>
    where
        T::Err: Display,
    {
        self.text(column)?.parse().map_err(|_| self.wrong(column))
    }

    pub(super) fn maybe_parsed<T: FromStr>(
        &self,
        column: &'static str,
    ) -> Result<Option<T>, StoreError> {
        let value = self.maybe_text(column)?;
        value.map(|value| value.parse().map_err(|_| self.wrong(column))).transpose()
    }

    /// A word of a closed list.
    pub(super) fn word<T>(
        &self,
        column: &'static str,
        from_word: impl Fn(&str) -> Option<T>,
    ) -> Result<T, StoreError> {
        from_word(&self.text(column)?).ok_or_else(|| self.wrong(column))
    }

    pub(super) fn maybe_word<T>(
        &self,
        column: &'static str,
        from_word: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, StoreError> {
        let value = self.maybe_text(column)?;
        value.map(|word| from_word(&word).ok_or_else(|| self.wrong(column))).transpose()
    }

    /// A value that is kept as JSON.
    pub(super) fn json<T: serde::de::DeserializeOwned>(
        &self,
        column: &'static str,
    ) -> Result<T, StoreError> {
        serde_json::from_str(&self.text(column)?).map_err(|_| self.wrong(column))
    }
}
