//! A fresh store, and what tests put into it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use homelab_domain::{
    ids::{BackupName, HostName, JobId, ModelName, RunId},
    job::{Job, JobRequest, JobSpec, Priority, Record, RequestForm, Terms},
    run::{RunKind, RunSpec, RunTrigger},
    site::Tier,
};
use homelab_store::{Claim, Store, StoreUrl, Submitted, open};
use jiff::{SignedDuration, Timestamp};

use crate::postgres::{Cluster, PASSWORD, USER};

/// A fresh store.
pub(crate) struct Bench {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) url: StoreUrl,
    _folder: Option<tempfile::TempDir>,
}

impl Bench {
    pub(crate) async fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = StoreUrl::Sqlite(folder.path().join("store.db"));
        Self { store: open(&url).await.unwrap(), url, _folder: Some(folder) }
    }

    pub(crate) async fn postgres(server: &Cluster, name: &str) -> Self {
        // PostgreSQL cuts names at 63 bytes, and some promises begin alike.
        let sum = name.bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31) + u32::from(byte));
        let name: String = name.chars().take(40).collect();
        let name = format!("{name}_{sum:x}");
        server.sql("postgres", &format!("CREATE DATABASE \"{name}\""));
        let password = PASSWORD.replace(':', "%3A").replace('\\', "%5C");
        let port = server.port();
        let url =
            StoreUrl::Postgres(format!("postgres://{USER}:{password}@127.0.0.1:{port}/{name}"));
        Self { store: open(&url).await.unwrap(), url, _folder: None }
    }

    /// Does to the tables what no method does.
    pub(crate) async fn tamper(&self, sql: &'static str) -> Result<(), sqlx::Error> {
        use sqlx::Connection as _;
        match &self.url {
            StoreUrl::Sqlite(path) => {
                let url = format!("sqlite:{}", path.display());
                let mut conn = sqlx::SqliteConnection::connect(&url).await?;
                sqlx::raw_sql(sql).execute(&mut conn).await?;
                conn.close().await
            }
            StoreUrl::Postgres(url) => {
                let mut conn = sqlx::PgConnection::connect(url).await?;
                sqlx::raw_sql(sql).execute(&mut conn).await?;
                conn.close().await
            }
        }
    }

    pub(crate) fn is_sqlite(&self) -> bool {
        matches!(self.url, StoreUrl::Sqlite(_))
    }

    /// Puts a job into the queue and commits.
    pub(crate) async fn submit(&self, spec: JobSpec) -> Job {
        let mut tx = self.store.begin().await.unwrap();
        let submitted = tx.jobs().submit(&spec).await.unwrap();
        tx.commit().await.unwrap();
        match submitted {
            Submitted::New(job) => job,
            other => panic!("{other:?}"),
        }
    }

    /// Gives jobs to a worker and commits.
    pub(crate) async fn claim(&self, claim: &Claim) -> Vec<Job> {
        let mut tx = self.store.begin().await.unwrap();
        let given = tx.jobs().claim(claim).await.unwrap();
        tx.commit().await.unwrap();
        given
    }

    /// Submits, claims and starts a job: attempt 1 on `cw-nas`.
    pub(crate) async fn running(&self, id: u128) -> JobId {
        let id = self.submit(job(id)).await.id();
        let given = self.claim(&claim(1)).await;
        assert_eq!(given.iter().map(Job::id).collect::<Vec<_>>(), [id]);
        let mut tx = self.store.begin().await.unwrap();
        tx.jobs().start(id, 1, at(0)).await.unwrap();
        tx.commit().await.unwrap();
        id
    }
}

/// So many seconds after the tests' beginning of time.
pub(crate) fn at(secs: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000).unwrap() + SignedDuration::from_secs(secs)
}

pub(crate) fn host(name: &str) -> HostName {
    HostName::try_new(name).unwrap()
}

pub(crate) fn backup(name: &str) -> BackupName {
    BackupName::try_new(name).unwrap()
}

pub(crate) fn uuid(number: u128) -> uuid::Uuid {
    uuid::Uuid::from_u128(number)
}

/// A bronze job for the model `tiny`, submitted at the beginning.
pub(crate) fn job(id: u128) -> JobSpec {
    JobSpec {
        id: uuid(id).into(),
        model: ModelName::try_new("tiny").unwrap(),
        tier: Tier::Bronze,
        priority: Priority::DEFAULT,
        submitted_by: "spiffe://home/user/ann/operator".to_owned(),
        submitted_at: at(0),
        deadline: None,
        tokens_max: Some(64),
        record: Record::Full,
        title: "what is the time".to_owned(),
        terms: Terms::default(),
        own_ahead: 0,
        request: JobRequest::new(RequestForm::OpenaiChat, b"{\"model\":\"tiny\"}".to_vec()),
    }
}

/// What the worker `cw-nas` can take.
pub(crate) fn claim(slots: u32) -> Claim {
    Claim {
        worker: host("cw-nas"),
        tier: Tier::Bronze,
        models: vec![ModelName::try_new("tiny").unwrap()],
        slots,
        now: at(0),
        until: at(30),
    }
}

/// A manual run of the backup `wiki`.
pub(crate) fn run(id: u128) -> RunSpec {
    RunSpec {
        id: RunId::from(uuid(id)),
        backup: backup("wiki"),
        host: host("hx310-db"),
        kind: RunKind::Backup,
        trigger: RunTrigger::Manual,
        started_by: "spiffe://home/user/ann/operator".to_owned(),
        started_at: at(i64::try_from(id).unwrap()),
        scheduled_for: None,
        snapshot_id: None,
        repository: None,
        drill_age: None,
        notes: Vec::new(),
    }
}

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// Everything that a crash would leave of an SQLite store at this moment.
pub(crate) fn crash_image(path: &Path, folder: &Path) -> PathBuf {
    let image = folder.join("image.db");
    std::fs::copy(path, &image).unwrap();
    let log = |path: &Path| PathBuf::from(format!("{}-wal", path.display()));
    if log(path).exists() {
        std::fs::copy(log(path), log(&image)).unwrap();
    }
    image
}
