//! What stays, and what does not.

use homelab_domain::ids::JobId;
use homelab_store::{Copied, StoreError, StoreUrl, open};

use crate::bench::{Bench, crash_image, job, uuid};

async fn has(url: &StoreUrl, id: JobId) -> bool {
    let store = open(url).await.unwrap();
    let mut tx = store.read().await.unwrap();
    let found = tx.jobs().get(id).await.unwrap().is_some();
    drop(tx);
    store.close().await;
    found
}

pub(crate) async fn what_was_not_committed_is_gone(bench: &Bench) {
    let kept = bench.submit(job(1)).await.id();
    let mut tx = bench.store.begin().await.unwrap();
    let lost = job(2).id;
    tx.jobs().submit(&job(2)).await.unwrap();
    assert!(tx.jobs().get(lost).await.unwrap().is_some());
    if let StoreUrl::Sqlite(path) = &bench.url {
        // The process dies here: what lies on the disk now is all there is.
        let folder = tempfile::tempdir().unwrap();
        let image = StoreUrl::Sqlite(crash_image(path, folder.path()));
        assert!(has(&image, kept).await);
        assert!(!has(&image, lost).await);
    } else {
        // The connection dies here.
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE state = 'idle in transaction' AND datname = current_database()";
        bench.tamper(end).await.unwrap();
        assert!(tx.commit().await.is_err());
        assert!(has(&bench.url, kept).await);
        assert!(!has(&bench.url, lost).await);
        return;
    }
    drop(tx);
    let mut tx = bench.store.begin().await.unwrap();
    assert_eq!(tx.jobs().get(lost).await.unwrap(), None);
    tx.rollback().await.unwrap();
}

pub(crate) async fn connections_that_broke_while_idle_are_passed_over(bench: &Bench) {
    // Several at once, so that several lie idle afterwards.
    let readers = [bench.store.read().await.unwrap(), bench.store.read().await.unwrap()];
    bench.submit(job(1)).await;
    drop(readers);
    if !bench.is_sqlite() {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                   WHERE pid <> pg_backend_pid() AND datname = current_database()";
        bench.tamper(end).await.unwrap();
    }
    bench.submit(job(2)).await;
    let mut reader = bench.store.read().await.unwrap();
    assert_eq!(reader.jobs().pending(10).await.unwrap().len(), 2);
}

pub(crate) async fn a_reader_sees_one_moment(bench: &Bench) {
    let mut reader = bench.store.read().await.unwrap();
    assert_eq!(reader.jobs().pending(10).await.unwrap(), []);
    bench.submit(job(1)).await;
    assert_eq!(reader.jobs().pending(10).await.unwrap(), []);
    let mut later = bench.store.read().await.unwrap();
    assert_eq!(later.jobs().pending(10).await.unwrap().len(), 1);
}

pub(crate) async fn a_reader_cannot_write(bench: &Bench) {
    let mut reader = bench.store.read().await.unwrap();
    assert!(reader.jobs().submit(&job(1)).await.is_err());
}

pub(crate) async fn a_second_opening_finds_everything(bench: &Bench) {
    bench.submit(job(1)).await;
    bench.store.close().await;
    assert!(has(&bench.url, uuid(1).into()).await);
    let closed = bench.store.begin().await.map(drop);
    assert!(matches!(closed, Err(StoreError::Busy { .. })), "{closed:?}");
}

pub(crate) async fn an_impossible_value_is_named_by_table_column_and_row(bench: &Bench) {
    let id = bench.submit(job(1)).await.id();
    bench.tamper("UPDATE jobs SET state = 'dreaming'").await.unwrap();
    let mut tx = bench.store.read().await.unwrap();
    let error = tx.jobs().get(id).await.unwrap_err();
    let StoreError::Inconsistent { table, column, row } = error else { panic!("{error:?}") };
    assert_eq!((table, column, row), ("jobs", "state", id.to_string()));
}

pub(crate) async fn a_newer_schema_is_refused(bench: &Bench) {
    let newer = if bench.is_sqlite() {
        "INSERT INTO _sqlx_migrations VALUES (99, 'future', CURRENT_TIMESTAMP, TRUE, x'00', 0)"
    } else {
        "INSERT INTO _sqlx_migrations VALUES (99, 'future', CURRENT_TIMESTAMP, TRUE, '\\x00', 0)"
    };
    bench.tamper(newer).await.unwrap();
    let error = open(&bench.url).await.map(drop).unwrap_err();
    assert!(matches!(error, StoreError::TooNew { found: 99, known: 2.. }), "{error:?}");
}

/// Promises of the file alone.
mod file {
    use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

    use super::*;

    async fn corrupt(path: &Path) -> String {
        let before = fs::read(path).ok();
        let error = open(&StoreUrl::Sqlite(path.to_owned())).await.map(drop).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
        assert!(fs::read(path).ok() == before, "the file was changed");
        format!("{error}: {}", std::error::Error::source(&error).unwrap())
    }

    #[tokio::test]
    async fn a_damaged_file_is_refused_and_left_alone() {
        let bench = Bench::sqlite().await;
        for id in 1..50 {
            bench.submit(job(id)).await;
        }
        bench.store.close().await;
        let StoreUrl::Sqlite(path) = &bench.url else { unreachable!() };
        let mut bytes = fs::read(path).unwrap();
        for byte in &mut bytes[8192..] {
            *byte ^= 0xa5;
        }
        fs::write(path, bytes).unwrap();
        let message = corrupt(path).await;
        assert!(message.contains("restore it from a backup"), "{message}");
    }

    #[tokio::test]
    async fn an_empty_or_foreign_file_is_no_new_store() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        fs::write(&path, b"").unwrap();
        assert!(corrupt(&path).await.contains("it is empty"));
        fs::write(&path, vec![b'x'; 5000]).unwrap();
        assert!(corrupt(&path).await.contains("no SQLite file"));
        fs::remove_file(&path).unwrap();
        let url = format!("sqlite:{}?mode=rwc", path.display());
        use sqlx::Connection as _;
        let mut conn = sqlx::SqliteConnection::connect(&url).await.unwrap();
        sqlx::raw_sql("CREATE TABLE theirs (x)").execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        assert!(corrupt(&path).await.contains("some other software"));
    }

    #[tokio::test]
    async fn a_log_without_its_file_is_no_new_store() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        fs::write(folder.path().join("store.db-wal"), b"left over").unwrap();
        assert!(corrupt(&path).await.contains("write-ahead log"));
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_new_store_is_private_and_appears_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store.db");
        // A crash while the last one was being made.
        fs::write(folder.path().join("store.db.new"), b"half").unwrap();
        let store = open(&StoreUrl::Sqlite(path.clone())).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!folder.path().join("store.db.new").exists());
        store.ping().await.unwrap();
    }

    #[tokio::test]
    async fn a_missing_folder_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let url = StoreUrl::Sqlite(folder.path().join("not/there/store.db"));
        let error = open(&url).await.map(drop).unwrap_err();
        assert!(matches!(error, StoreError::Other { .. }), "{error:?}");
    }
}

pub(crate) async fn a_copy_is_the_whole_store_as_of_one_moment(bench: &Bench) {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("copy.db");
    let kept = bench.submit(job(1)).await.id();
    // A transaction that has not ended is no part of it, and does not hold it up.
    let mut tx = bench.store.begin().await.unwrap();
    tx.jobs().submit(&job(2)).await.unwrap();
    let copied = bench.store.copy_to(&place).await.unwrap();
    tx.commit().await.unwrap();
    if !bench.is_sqlite() {
        assert_eq!((copied, place.exists()), (Copied::Elsewhere, false));
        return;
    }
    assert_eq!(copied, Copied::Whole { bytes: std::fs::metadata(&place).unwrap().len() });
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    let image = StoreUrl::Sqlite(place.clone());
    assert!(has(&image, kept).await);
    assert!(!has(&image, job(2).id).await);
    // The next takes its place, whatever a crash left of one before.
    std::fs::write(folder.path().join("copy.db.new"), "half").unwrap();
    bench.store.copy_to(&place).await.unwrap();
    assert!(has(&image, job(2).id).await);
}
