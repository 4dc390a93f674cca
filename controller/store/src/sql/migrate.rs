//! The schema, and how it comes to be.

use std::borrow::Cow;

use sqlx::{
    SqlStr,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
};

use crate::error::StoreError;

/// Which back end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// SQLite.
    Sqlite,
    /// PostgreSQL.
    Postgres,
}

/// One step of the schema. Steps only ever go forward, and have equal numbers in
/// both dialects.
struct Step {
    version: i64,
    name: &'static str,
    sqlite: &'static str,
    postgres: &'static str,
}

const STEPS: &[Step] = &[
    Step {
        version: 1,
        name: "foundation",
        sqlite: include_str!("../../migrations/sqlite/0001_foundation.sql"),
        postgres: include_str!("../../migrations/postgres/0001_foundation.sql"),
    },
    Step {
        version: 2,
        name: "upkeep",
        sqlite: include_str!("../../migrations/sqlite/0002_upkeep.sql"),
        postgres: include_str!("../../migrations/postgres/0002_upkeep.sql"),
    },
    Step {
        version: 3,
        name: "backups",
        sqlite: include_str!("../../migrations/sqlite/0003_backups.sql"),
        postgres: include_str!("../../migrations/postgres/0003_backups.sql"),
    },
    Step {
        version: 4,
        name: "power",
        sqlite: include_str!("../../migrations/sqlite/0004_power.sql"),
        postgres: include_str!("../../migrations/postgres/0004_power.sql"),
    },
    Step {
        version: 5,
        name: "gold",
        sqlite: include_str!("../../migrations/sqlite/0005_gold.sql"),
        postgres: include_str!("../../migrations/postgres/0005_gold.sql"),
    },
    Step {
        version: 6,
        name: "batches",
        sqlite: include_str!("../../migrations/sqlite/0006_batches.sql"),
        postgres: include_str!("../../migrations/postgres/0006_batches.sql"),
    },
    Step {
        version: 7,
        name: "queue",
        sqlite: include_str!("../../migrations/sqlite/0007_queue.sql"),
        postgres: include_str!("../../migrations/postgres/0007_queue.sql"),
    },
    Step {
        version: 8,
        name: "context",
        sqlite: include_str!("../../migrations/sqlite/0008_context.sql"),
        postgres: include_str!("../../migrations/postgres/0008_context.sql"),
    },
];

/// The newest schema that this version knows.
const NEWEST: i64 = STEPS[STEPS.len() - 1].version;

/// All steps of a dialect.
pub(crate) fn migrator(dialect: Dialect) -> Migrator {
    let steps = STEPS.iter().map(|step| {
        let sql = match dialect {
            Dialect::Sqlite => step.sqlite,
            Dialect::Postgres => step.postgres,
        };
        let sql = SqlStr::from_static(sql);
        Migration::new(step.version, Cow::Borrowed(step.name), MigrationType::Simple, sql, false)
    });
    Migrator::with_migrations(steps.collect())
}

/// What kept the schema from being brought up to date.
pub(crate) fn schema_error(error: MigrateError) -> StoreError {
    match error {
        MigrateError::VersionMissing(found) => StoreError::TooNew { found, known: NEWEST },
        MigrateError::Execute(error) => super::store_error("bring the schema up to date", error),
        other => {
            StoreError::Other { operation: "bring the schema up to date", source: Box::new(other) }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_migration_file_is_a_step_of_its_number() {
        for dialect in ["sqlite", "postgres"] {
            let folder = format!("{}/migrations/{dialect}", env!("CARGO_MANIFEST_DIR"));
            let mut files: Vec<String> = fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            files.sort();
            let steps: Vec<String> =
                STEPS.iter().map(|step| format!("{:04}_{}.sql", step.version, step.name)).collect();
            assert_eq!(files, steps, "{dialect}");
        }
    }
}
