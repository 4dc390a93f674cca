//! Backups against real PostgreSQL and real restic.

#[path = "../../tests/src/postgres.rs"]
mod postgres;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use homelab_backup_agent::{
    backup::{Backed, Backup, BackupError},
    drill::{self, Drill, DrillError, Report, Target, Verdict},
    ids::{Name, RunId},
    manifest::{Manifest, compare},
    progress::Progress,
    repository::{
        Depth, Incoming, Intent, Repository, RepositoryError, Snapshot, SourceKind,
        identity::{GuardError, MountRule, Place},
        restic::ResticRepository,
    },
    restore,
    source::postgres::{Limits, PostgresSource, Server, Tools},
    stream::{Measured, Sha256},
    verify,
};
use homelab_common::{
    chance::SystemChance,
    clock::SystemClock,
    error_chain::Chain,
    exec::{Output, Program, SystemExec},
    secret::Secret,
};
use jiff::Timestamp;
use postgres::{Cluster, PASSWORD, USER, run};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const REPOSITORY_PASSWORD: &str = "correct horse battery staple";
const DATABASE: &str = "wiki";

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn new_run() -> RunId {
    RunId::generate(&SystemClock, &SystemChance)
}

fn server(cluster: &Cluster) -> Server {
    Server {
        host: "127.0.0.1".to_owned(),
        port: cluster.port(),
        user: USER.to_owned(),
        password: Some(Secret::new(PASSWORD.to_owned())),
        tls_mode: None,
        tls_root: None,
    }
}

/// A repository on a scratch folder, and everything to run a backup with.
struct Bench {
    folder: TempDir,
    repository: Arc<ResticRepository>,
    clients: PathBuf,
    limits: Limits,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a scratch directory");
        let path = folder.path().join("repository");
        fs::create_dir(&path).expect("a folder");
        let bench = Self::at(folder, &path, None);
        bench.repository.init().expect("a repository");
        bench
    }

    fn at(folder: TempDir, path: &Path, mount: Option<MountRule>) -> Self {
        fs::create_dir(folder.path().join("scratch")).expect("a folder");
        let place = Place { path: path.into(), id: Uuid::from_u128(0xbac0), mount };
        let repository = Arc::new(ResticRepository::new(
            name("nas"),
            place,
            Secret::new(REPOSITORY_PASSWORD.to_owned()),
            "hx310-db".to_owned(),
            Arc::new(SystemClock),
        ));
        Self { folder, repository, clients: postgres::CLIENTS.into(), limits: Limits::default() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("repository")
    }

    fn tools(&self) -> Tools {
        Tools {
            exec: Arc::new(SystemExec),
            clock: Arc::new(SystemClock),
            clients: self.clients.clone(),
            scratch: self.folder.path().join("scratch"),
            limits: self.limits,
        }
    }

    fn backup(&self, cluster: &Cluster) -> Backup {
        let source = PostgresSource {
            server: server(cluster),
            database: DATABASE.to_owned(),
            tools: self.tools(),
        };
        Backup {
            name: name("wiki-daily"),
            source: Arc::new(source),
            repository: Arc::clone(&self.repository) as _,
        }
    }

    async fn run(&self, cluster: &Cluster) -> Result<Backed, BackupError> {
        let cancel = CancellationToken::new();
        self.backup(cluster).run(new_run(), &Progress::unwatched(), &cancel).await
    }

    async fn backed(&self, cluster: &Cluster) -> Backed {
        match self.run(cluster).await {
            Ok(backed) => backed,
            Err(error) => panic!("{}", Chain(&error)),
        }
    }

    fn target(&self, cluster: &Cluster) -> Target {
        Target {
            name: name("nas-postgres"),
            server: server(cluster),
            database: "postgres".to_owned(),
            tools: self.tools(),
        }
    }

    async fn drill(&self, snapshot: &Snapshot, cluster: &Cluster) -> Result<Report, DrillError> {
        let drill = Drill {
            run: new_run(),
            snapshot: snapshot.clone(),
            repository: Arc::clone(&self.repository) as _,
            target: self.target(cluster),
        };
        drill.run(&Progress::unwatched(), &CancellationToken::new()).await
    }

    fn snapshots(&self) -> Vec<Snapshot> {
        self.repository.snapshots().expect("a listing")
    }

    /// Nothing of a failed run is visible, to us or to plain restic.
    fn assert_nothing_is_there(&self) {
        assert_eq!(self.snapshots(), []);
        assert_eq!(self.repository.unverified().expect("a listing"), []);
        assert_eq!(self.restic(&["snapshots", "--json"]).text().trim(), "null");
        self.assert_sound_to_restic();
        let scratch = fs::read_dir(self.folder.path().join("scratch")).expect("a folder");
        assert_eq!(scratch.count(), 0, "password files are left");
    }

    fn assert_sound_to_restic(&self) {
        let checked = self.restic(&["check", "--read-data"]).text();
        assert!(checked.contains("no errors were found"), "{checked}");
    }

    /// Plain restic on our repository.
    fn restic(&self, args: &[&str]) -> Output {
        assert!(Path::new("/usr/bin/restic").is_file(), "no restic: apt install restic");
        let program = Program::new("restic")
            .args(["--no-cache", "--repo", &self.path().display().to_string()])
            .args(args.iter().copied())
            .env("RESTIC_PASSWORD", REPOSITORY_PASSWORD)
            .output_bytes_max(256 << 20);
        run(program)
    }

    /// Puts shell scripts in place of some client programs.
    fn shim(&mut self, major: u32, scripts: &[(&str, &str)]) {
        let clients = self.folder.path().join("clients");
        let bin = clients.join(major.to_string()).join("bin");
        fs::create_dir_all(&bin).expect("a folder");
        for program in ["pg_dump", "pg_dumpall", "psql"] {
            let real = format!("{}/{}/bin/{program}", postgres::CLIENTS, postgres::MAJOR);
            let pass_on = format!("exec {real} \"$@\"");
            let script = scripts.iter().find(|(name, _)| *name == program);
            let body = script.map_or(pass_on, |(_, body)| body.replace("REAL", &real));
            let path = bin.join(program);
            fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("a script");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
        }
        self.clients = clients;
    }
}

fn cluster(kind: &str) -> Cluster {
    Cluster::start(kind, Path::new(env!("CARGO_TARGET_TMPDIR")))
}

/// A database with one of everything that a restore can lose.
fn seeded() -> Cluster {
    let cluster = cluster("source");
    cluster.sql(
        "postgres",
        "CREATE ROLE wiki LOGIN PASSWORD 'w'; CREATE ROLE reader; CREATE DATABASE wiki OWNER wiki",
    );
    cluster.sql(
        DATABASE,
        "CREATE EXTENSION citext;
         CREATE SCHEMA app AUTHORIZATION wiki;
         CREATE TYPE app.mood AS ENUM ('sad', 'ok');
         CREATE TABLE app.page (id serial PRIMARY KEY, title citext NOT NULL, t text, mood app.mood,
           body bytea, price numeric(10,2), seen timestamptz, ratio float8);
         ALTER TABLE app.page OWNER TO wiki;
         GRANT SELECT ON app.page TO reader;
         INSERT INTO app.page (title, t, mood, body, price, seen, ratio)
           SELECT 'title ' || i, md5(i::text), 'ok', decode(md5(i::text), 'hex'), i / 100.0,
             '2026-01-01 00:00:00+00'::timestamptz + i * interval '1 minute', 1.0 / i
           FROM generate_series(1, 20000) i;
         CREATE TABLE \"odd \"\"name\" (\"homelab row\" int, \"a b\" text);
         INSERT INTO \"odd \"\"name\" VALUES (1, NULL), (1, NULL), (2, '');
         CREATE INDEX page_title ON app.page (lower(t));
         CREATE VIEW app.titles AS SELECT title FROM app.page;
         ALTER VIEW app.titles OWNER TO reader;
         CREATE MATERIALIZED VIEW app.counts AS SELECT count(*) AS n FROM app.page;
         CREATE FUNCTION app.twice(i int) RETURNS int LANGUAGE sql AS 'SELECT 2 * i';
         CREATE TABLE log (at date, line text) PARTITION BY RANGE (at);
         CREATE TABLE log_2026 PARTITION OF log FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
         INSERT INTO log VALUES ('2026-02-03', 'x');
         SELECT lo_from_bytea(0, decode(repeat('00ff', 3000), 'hex'));
         ALTER TABLE app.page ENABLE ROW LEVEL SECURITY;
         CREATE POLICY everyone ON app.page USING (true);",
    );
    cluster
}

#[tokio::test]
async fn a_backup_is_listed_drilled_and_restored_equal() {
    let (source, nas, bench) = (seeded(), cluster("nas"), Bench::new());
    let backed = bench.backed(&source).await;
    assert_eq!(bench.snapshots(), [backed.snapshot.clone()]);
    let rows: u64 = backed.manifest.postgres.tables.iter().map(|table| table.rows).sum();
    assert_eq!(rows, 20_000 + 3 + 1 + 1);
    let report = bench.drill(&backed.snapshot, &nas).await.expect("a report");
    assert_eq!(report.verdict, Verdict::Passed);
    assert_eq!((report.rows, report.tables), (rows, 4));
    assert!(report.restore_elapsed > Duration::ZERO && report.restore_elapsed <= report.elapsed);
    assert_eq!(
        nas.sql("postgres", "SELECT count(*) FROM pg_database WHERE datname ~ 'homelab'"),
        "0"
    );
}
