//! What the tests of backups stand on: a repository, a database with everything in it, stand-ins.

use std::{
    fs,
    io::Cursor,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use homelab_backup_agent::{
    backup::{Backed, Backup, BackupError},
    drill::{Drill, DrillError, Report, Target, Verdict, postgres::PostgresTarget},
    ids::{Name, RunId},
    manifest::{Contents, Manifest},
    progress::Progress,
    repository::{
        Incoming, Intent, Repository, RepositoryError, Snapshot, SourceKind,
        identity::{MountRule, Place},
        restic::ResticRepository,
    },
    source::postgres::{
        Databases, Limits, PostgresSource, Server, Tools, manifest::DatabaseContents,
    },
    stream::{Measured, Sha256},
};
use homelab_common::{
    chance::SystemChance,
    clock::{ManualClock, SystemClock},
    error_chain::Chain,
    exec::{Output, Program, SystemExec},
    secret::Secret,
};
use homelab_tests::postgres::{self, Cluster, PASSWORD, USER, run};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub(crate) const REPOSITORY_PASSWORD: &str = "correct horse battery staple";
pub(crate) const DATABASE: &str = "wiki";

pub(crate) fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

pub(crate) fn new_run() -> RunId {
    RunId::generate(&SystemClock, &SystemChance)
}

pub(crate) fn server(cluster: &Cluster) -> Server {
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
pub(crate) struct Bench {
    pub(crate) folder: TempDir,
    pub(crate) repository: Arc<ResticRepository>,
    pub(crate) clients: PathBuf,
    pub(crate) limits: Limits,
    pub(crate) clock: ManualClock,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a scratch directory");
        let path = folder.path().join("repository");
        fs::create_dir(&path).expect("a folder");
        let bench = Self::at(folder, &path, None);
        bench.repository.init().expect("a repository");
        bench
    }

    pub(crate) fn at(folder: TempDir, path: &Path, mount: Option<MountRule>) -> Self {
        fs::create_dir(folder.path().join("scratch")).expect("a folder");
        let place = Place { path: path.into(), id: Uuid::from_u128(0xbac0), mount };
        let repository = Arc::new(ResticRepository::new(
            name("nas"),
            place,
            Secret::new(REPOSITORY_PASSWORD.to_owned()),
            "hx310-db".to_owned(),
            Arc::new(SystemClock),
        ));
        Self {
            folder,
            repository,
            clients: postgres::CLIENTS.into(),
            limits: Limits::default(),
            clock: ManualClock::new("2026-11-23T03:00:00Z".parse().expect("a time")),
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("repository")
    }

    pub(crate) fn tools(&self) -> Tools {
        Tools {
            exec: Arc::new(SystemExec),
            clock: Arc::new(self.clock.clone()),
            clients: self.clients.clone(),
            scratch: self.folder.path().join("scratch"),
            limits: self.limits,
        }
    }

    pub(crate) fn backup(&self, cluster: &Cluster) -> Backup {
        let source = PostgresSource {
            server: server(cluster),
            databases: Databases::One(DATABASE.to_owned()),
            tools: self.tools(),
        };
        Backup {
            name: name("wiki-daily"),
            source: Arc::new(source),
            repository: Arc::clone(&self.repository) as _,
        }
    }

    pub(crate) async fn run(&self, cluster: &Cluster) -> Result<Backed, BackupError> {
        let cancel = CancellationToken::new();
        self.backup(cluster).run(new_run(), &Progress::unwatched(), &cancel).await
    }

    pub(crate) async fn backed(&self, cluster: &Cluster) -> Backed {
        match self.run(cluster).await {
            Ok(backed) => backed,
            Err(error) => panic!("{}", Chain(&error)),
        }
    }

    pub(crate) fn target(&self, cluster: &Cluster) -> Target {
        Target::Postgres(PostgresTarget {
            name: name("nas-postgres"),
            server: server(cluster),
            database: "postgres".to_owned(),
            owner: "hx310-db".to_owned(),
            tools: self.tools(),
        })
    }

    pub(crate) async fn drill(
        &self,
        snapshot: &Snapshot,
        cluster: &Cluster,
    ) -> Result<Report, DrillError> {
        let drill = Drill {
            run: new_run(),
            snapshot: snapshot.clone(),
            repository: Arc::clone(&self.repository) as _,
            target: self.target(cluster),
            clock: Arc::new(self.clock.clone()),
        };
        drill.run(&Progress::unwatched(), &CancellationToken::new()).await
    }

    pub(crate) fn snapshots(&self) -> Vec<Snapshot> {
        self.repository.snapshots().expect("a listing")
    }

    /// Nothing of a failed run is visible: not to us, and there is no file that any
    /// other program could show as a snapshot.
    pub(crate) async fn assert_nothing_is_there(&self) {
        let count = |folder: PathBuf| fs::read_dir(folder).expect("a folder").count();
        assert_eq!(self.snapshots(), []);
        assert_eq!(count(self.path().join("snapshots")), 0, "a snapshot is left");
        // A program that was told to end has a moment to do so, and its file goes with it.
        let scratch = self.folder.path().join("scratch");
        let gone = async {
            while count(scratch.clone()) > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let gone = tokio::time::timeout(Duration::from_secs(10), gone).await;
        assert!(gone.is_ok(), "password files are left");
    }

    pub(crate) fn assert_sound_to_restic(&self) {
        let checked = self.restic(&["check", "--read-data"]).text();
        assert!(checked.contains("no errors were found"), "{checked}");
    }

    /// Stores a dump that no source ever wrote, as if it had been proved.
    pub(crate) fn forge(&self, manifest: &Manifest, dump: &str) -> Snapshot {
        let mut manifest = manifest.clone();
        manifest.files[0].sha256 = Sha256::of(dump.as_bytes());
        let files =
            vec![("database.sql", dump.as_bytes().to_vec()), ("globals.sql", b"--".to_vec())];
        self.forge_from(manifest, files)
    }

    /// Stores the files of a snapshot with another manifest.
    pub(crate) fn forge_files(&self, manifest: &Manifest, snapshot: &Snapshot) -> Snapshot {
        let names = snapshot.files.iter().map(|file| file.name.as_str());
        let files = names
            .filter(|name| *name != "manifest.json")
            .map(|name| (name, self.read(snapshot, name).expect("a file").into_bytes()));
        self.forge_from(manifest.clone(), files.collect())
    }

    fn forge_from(&self, manifest: Manifest, mut files: Vec<(&str, Vec<u8>)>) -> Snapshot {
        let run = new_run();
        let manifest = Manifest { run, ..manifest };
        files.push(("manifest.json", manifest.to_bytes().expect("a manifest")));
        let files = files.into_iter().map(|(name, bytes)| incoming(name, bytes)).collect();
        let stored = self.repository.store(&intent(run), files).expect("stored");
        let (progress, cancel) = (Progress::unwatched(), CancellationToken::new());
        self.repository.publish(&stored, &progress, &cancel).expect("published")
    }

    pub(crate) fn read(&self, snapshot: &Snapshot, file: &str) -> Result<String, RepositoryError> {
        let mut bytes = Vec::new();
        let path = snapshot.path_of(file);
        self.repository.read(&snapshot.id, &path, &mut bytes, &CancellationToken::new())?;
        Ok(String::from_utf8(bytes).expect("text"))
    }

    pub(crate) fn restic_of(path: &Path, args: &[&str]) -> Program {
        assert!(Path::new("/usr/bin/restic").is_file(), "no restic: apt install restic");
        Program::new("restic")
            .args(["--no-cache", "--repo", &path.display().to_string()])
            .args(args.iter().copied())
            .env("RESTIC_PASSWORD", REPOSITORY_PASSWORD)
            .output_bytes_max(256 << 20)
    }

    /// Plain restic on our repository.
    pub(crate) fn restic(&self, args: &[&str]) -> Output {
        run(Self::restic_of(&self.path(), args))
    }

    /// Lets a run choose among the client programs of all versions that are there.
    pub(crate) fn use_all_clients(&mut self) {
        let clients = self.folder.path().join("all-clients");
        fs::create_dir(&clients).expect("a folder");
        for major in [postgres::MAJOR].into_iter().chain(homelab_tests::majors::NEWER) {
            let link = clients.join(major.to_string());
            std::os::unix::fs::symlink(postgres::home(major), link).expect("a link");
        }
        self.clients = clients;
    }

    /// Puts shell scripts in place of some client programs.
    pub(crate) fn shim(&mut self, major: u32, scripts: &[(&str, &str)]) {
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

pub(crate) fn cluster(kind: &str) -> Cluster {
    cluster_of(postgres::MAJOR, kind)
}

pub(crate) fn cluster_of(major: u32, kind: &str) -> Cluster {
    Cluster::start_of(major, kind, Path::new(env!("CARGO_TARGET_TMPDIR")))
}

/// A database with one of everything that a restore can lose.
pub(crate) fn seeded() -> Cluster {
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

pub(crate) fn intent(run: RunId) -> Intent {
    Intent {
        run,
        backup: name("wiki-daily"),
        kind: SourceKind::Postgres,
        taken_at: "2026-11-23T03:00:00Z".parse().expect("a time"),
    }
}

pub(crate) fn incoming(name: &str, bytes: Vec<u8>) -> Incoming {
    let (content, gauge) = Measured::new(Box::new(Cursor::new(bytes)), CancellationToken::new());
    Incoming { name: name.to_owned(), content, gauge }
}

/// What a database held, by a manifest.
pub(crate) fn contents(manifest: &Manifest) -> &DatabaseContents {
    let Contents::Postgres(contents) = &manifest.contents else { panic!("a database") };
    &contents.databases[0].contents
}

pub(crate) fn contents_mut(manifest: &mut Manifest) -> &mut DatabaseContents {
    let Contents::Postgres(contents) = &mut manifest.contents else { panic!("a database") };
    &mut contents.databases[0].contents
}

pub(crate) fn message(result: Result<Backed, BackupError>) -> String {
    Chain(&result.expect_err("the run must fail")).to_string()
}

/// As restic shows it.
pub(crate) fn short(id: &str) -> &str {
    id.get(..8).expect("64 digits")
}

/// Looks again until it is so.
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

pub(crate) fn differences(report: &Report) -> String {
    match &report.verdict {
        Verdict::Failed { differences } => differences.join("\n"),
        other => panic!("expected a failed drill, got {other:?}"),
    }
}

/// A mount of its own for a test; unmounted with the value.
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    pub(crate) fn tmpfs(path: &Path, size: &str) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test mounts a small file system and needs root: run it with sudo"
        );
        let options = format!("size={size},mode=0700");
        let path_text = path.display().to_string();
        run(Program::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs", &path_text]));
        Self(path.into())
    }

    pub(crate) fn detach(&self) {
        run(Program::new("umount").args(["-l", &self.0.display().to_string()]));
    }

    pub(crate) fn rule(&self) -> MountRule {
        MountRule { mount_point: self.0.clone(), filesystems: vec!["tmpfs".to_owned()] }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // 32: a test has detached it already.
        let path = self.0.display().to_string();
        run(Program::new("umount").args(["-l", &path]).accept([0, 32]));
    }
}

/// A stand-in must still answer what it is.
pub(crate) fn only_when_dumping(script: &str) -> String {
    format!("case \"$*\" in *--version*|*--help*) exec REAL \"$@\" ;; esac\n{script}")
}
