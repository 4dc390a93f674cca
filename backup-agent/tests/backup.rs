//! Backups against real PostgreSQL and real restic.

#[path = "../../tests/src/postgres.rs"]
mod postgres;

use std::{
    fs,
    io::{BufRead, BufReader, Cursor, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use homelab_backup_agent::{
    app::{App, Deps},
    backup::{Backed, Backup, BackupError},
    config::Config,
    drill::{self, Drill, DrillError, Report, Target, Verdict},
    ids::{Name, RunId},
    journal::{Entry, Journal, Work},
    manifest::Manifest,
    offline,
    progress::{Progress, Stage},
    repository::{
        Depth, Incoming, Intent, Repository, RepositoryError, Snapshot, SourceKind,
        identity::{GuardError, MountRule, Place},
        restic::ResticRepository,
    },
    restore::{self, RestoreError},
    source::postgres::{Limits, PostgresSource, Server, Tools},
    stream::{Measured, Sha256},
    verify,
};
use homelab_common::{
    chance::SystemChance,
    clock::{ManualClock, SystemClock},
    error_chain::Chain,
    exec::{Exec, Output, Program, SystemExec},
    lifecycle::Tasks,
    secret::Secret,
    tls::install_crypto_provider,
};
use homelab_proto::{
    backup::v1::{
        self as pb, backup_service_client::BackupServiceClient,
        run_backup_response::Event as RunEvent,
    },
    common::v1::ConditionStatus,
};
use homelab_rpc::{
    peer::{Kind, SpiffeId},
    status::reason_of,
    testing::{TestSite, target},
};
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
    clock: ManualClock,
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
        Self {
            folder,
            repository,
            clients: postgres::CLIENTS.into(),
            limits: Limits::default(),
            clock: ManualClock::new("2026-11-23T03:00:00Z".parse().expect("a time")),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("repository")
    }

    fn tools(&self) -> Tools {
        Tools {
            exec: Arc::new(SystemExec),
            clock: Arc::new(self.clock.clone()),
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
            owner: "hx310-db".to_owned(),
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
        assert_eq!(self.restic(&["snapshots", "--json"]).text().trim(), "[]");
        self.assert_sound_to_restic();
        let scratch = fs::read_dir(self.folder.path().join("scratch")).expect("a folder");
        assert_eq!(scratch.count(), 0, "password files are left");
    }

    fn assert_sound_to_restic(&self) {
        let checked = self.restic(&["check", "--read-data"]).text();
        assert!(checked.contains("no errors were found"), "{checked}");
    }

    /// Stores a dump that no source ever wrote, as if it had been proved.
    fn forge(&self, manifest: &Manifest, dump: &str) -> Snapshot {
        let run = new_run();
        let mut manifest = Manifest { run, ..manifest.clone() };
        manifest.files[0].sha256 = Sha256::of(dump.as_bytes());
        let files = [
            ("database.sql", dump.as_bytes().to_vec()),
            ("globals.sql", b"--".to_vec()),
            ("manifest.json", manifest.to_bytes().expect("a manifest")),
        ];
        let files = files.map(|(name, bytes)| incoming(name, bytes));
        let stored = self.repository.store(&intent(run), files.into()).expect("stored");
        let (progress, cancel) = (Progress::unwatched(), CancellationToken::new());
        self.repository.publish(&stored, &progress, &cancel).expect("published")
    }

    fn read(&self, snapshot: &Snapshot, file: &str) -> Result<String, RepositoryError> {
        let mut bytes = Vec::new();
        let path = format!("{}/{file}", snapshot.folder());
        self.repository.read(&snapshot.id, &path, &mut bytes, &CancellationToken::new())?;
        Ok(String::from_utf8(bytes).expect("text"))
    }

    fn restic_of(path: &Path, args: &[&str]) -> Program {
        assert!(Path::new("/usr/bin/restic").is_file(), "no restic: apt install restic");
        Program::new("restic")
            .args(["--no-cache", "--repo", &path.display().to_string()])
            .args(args.iter().copied())
            .env("RESTIC_PASSWORD", REPOSITORY_PASSWORD)
            .output_bytes_max(256 << 20)
    }

    /// Plain restic on our repository.
    fn restic(&self, args: &[&str]) -> Output {
        run(Self::restic_of(&self.path(), args))
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

fn intent(run: RunId) -> Intent {
    Intent {
        run,
        backup: name("wiki-daily"),
        kind: SourceKind::Postgres,
        taken_at: "2026-11-23T03:00:00Z".parse().expect("a time"),
    }
}

fn incoming(name: &'static str, bytes: Vec<u8>) -> Incoming {
    let (content, gauge) = Measured::new(Box::new(Cursor::new(bytes)), CancellationToken::new());
    Incoming { name, content, gauge }
}

fn message(result: Result<Backed, BackupError>) -> String {
    Chain(&result.expect_err("the run must fail")).to_string()
}

/// Looks again until it is so.
fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

fn differences(report: &Report) -> String {
    match &report.verdict {
        Verdict::Failed { differences } => differences.join("\n"),
        other => panic!("expected a failed drill, got {other:?}"),
    }
}

/// A mount of its own for a test; unmounted with the value.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(path: &Path, size: &str) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test mounts a small file system and needs root: run it with sudo"
        );
        let options = format!("size={size},mode=0700");
        let path_text = path.display().to_string();
        run(Program::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs", &path_text]));
        Self(path.into())
    }

    fn detach(&self) {
        run(Program::new("umount").args(["-l", &self.0.display().to_string()]));
    }

    fn rule(&self) -> MountRule {
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

#[tokio::test]
async fn a_backup_is_listed_drilled_and_equal_to_its_manifest() {
    let (source, nas, bench) = (seeded(), cluster("nas"), Bench::new());
    let backed = bench.backed(&source).await;
    assert_eq!(bench.snapshots(), [backed.snapshot.clone()]);
    let rows: u64 = backed.manifest.postgres.tables.iter().map(|table| table.rows).sum();
    assert_eq!(rows, 20_000 + 3 + 1 + 1);
    let report = bench.drill(&backed.snapshot, &nas).await.expect("a report");
    assert_eq!(report.verdict, Verdict::Passed);
    assert_eq!((report.rows, report.tables), (rows, 4));
    assert!(report.restore_elapsed > Duration::ZERO && report.restore_elapsed <= report.elapsed);
}

#[tokio::test]
async fn plain_restic_lists_checks_and_restores_what_we_wrote() {
    let (source, nas, bench) = (seeded(), cluster("nas"), Bench::new());
    let backed = bench.backed(&source).await;
    let listed = bench.restic(&["snapshots", "--tag", "homelab,verified"]).text();
    assert!(listed.contains(&backed.snapshot.id.as_str()[..8]), "{listed}");
    bench.assert_sound_to_restic();

    let target = bench.folder.path().join("restored");
    let id = backed.snapshot.id.as_str();
    bench.restic(&["restore", id, "--target", &target.display().to_string()]);
    for file in &backed.snapshot.files {
        // An engine that forgets sizes makes restic restore empty files, with exit code 0.
        let bytes = fs::read(target.join("wiki-daily").join(&file.name)).expect("a file");
        assert_eq!(Sha256::of(&bytes), file.sha256, "{}", file.name);
    }

    let globals = bench.restic(&["dump", id, "/wiki-daily/globals.sql"]).text();
    let roles = globals.replace("CREATE ROLE labadmin;", "");
    run(nas.psql("postgres").stdin(roles));
    nas.sql("postgres", "CREATE DATABASE by_hand TEMPLATE template0");
    let dump = bench.restic(&["dump", id, "/wiki-daily/database.sql"]).stdout;
    run(nas.psql("by_hand").stdin(dump));
    let count = "SELECT count(*), md5(string_agg(page::text, '' ORDER BY id)) FROM app.page page";
    assert_eq!(nas.sql("by_hand", count), source.sql(DATABASE, count));
}

#[tokio::test]
async fn a_snapshot_is_restored_to_files_whole_or_not_at_all() {
    let (source, bench) = (seeded(), Bench::new());
    let backed = bench.backed(&source).await;
    let target = bench.folder.path().join("restored");
    let restore_it = || {
        let (progress, cancel) = (Progress::unwatched(), CancellationToken::new());
        let repository = bench.repository.as_ref();
        restore::restore(repository, &backed.snapshot, &target, new_run(), &progress, &cancel)
    };
    let restored = restore_it().expect("restored");
    assert_eq!(restored.files, backed.snapshot.files);
    assert!(restored.next_steps[1].starts_with("createdb -T template0 -E UTF8"));
    let mode = fs::metadata(target.join("database.sql")).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(matches!(restore_it(), Err(RestoreError::TargetExists { .. })));
}

#[tokio::test]
async fn writes_during_the_dump_do_not_disturb_the_comparison() {
    let (source, nas, bench) = (seeded(), cluster("nas"), Bench::new());
    source.sql("postgres", "ALTER SYSTEM SET synchronous_commit = off");
    let writer = source.psql(DATABASE).stdin(
        "DO $$ BEGIN FOR i IN 1..10000000 LOOP
           INSERT INTO app.page (title) VALUES ('more'); DELETE FROM app.page WHERE id = i; COMMIT;
         END LOOP; END $$",
    );
    let writer = SystemExec.stream(writer).expect("a writer");
    let rows = || source.sql(DATABASE, "SELECT last_value FROM app.page_id_seq");
    let before = rows();
    wait_until("the writer writes", || rows() != before);
    let backed = bench.backed(&source).await;
    let during = rows();
    wait_until("the writer still writes", || rows() != during);
    drop(writer);
    let report = bench.drill(&backed.snapshot, &nas).await.expect("a report");
    assert_eq!(report.verdict, Verdict::Passed);
}

#[tokio::test]
async fn a_cancelled_backup_leaves_nothing() {
    let (source, mut bench) = (seeded(), Bench::new());
    let stuck = bench.folder.path().join("stuck");
    let script = format!("REAL \"$@\" | head -c 100000; touch {}; sleep 60", stuck.display());
    bench.shim(postgres::MAJOR, &[("pg_dump", &only_when_dumping(&script))]);
    let cancel = CancellationToken::new();
    let (backup, token) = (bench.backup(&source), cancel.clone());
    let running =
        tokio::spawn(async move { backup.run(new_run(), &Progress::unwatched(), &token).await });
    tokio::task::spawn_blocking(move || wait_until("the dump is stuck", || stuck.exists()))
        .await
        .expect("the dump is stuck");
    cancel.cancel();
    let ended = running.await.expect("the run ends");
    assert!(matches!(ended, Err(BackupError::Cancelled { .. })), "{ended:?}");
    bench.assert_nothing_is_there();
}

#[test]
fn what_is_not_published_is_not_listed_and_can_be_discarded() {
    let bench = Bench::new();
    let run = new_run();
    let files = vec![incoming("database.sql", vec![b'x'; 100_000])];
    bench.repository.store(&intent(run), files).expect("stored");
    assert_eq!(bench.snapshots(), []);
    assert_eq!(bench.repository.unverified().expect("a listing")[0].run, Some(run));
    assert_eq!(bench.repository.discard(new_run()).expect("discarded"), 0);
    assert_eq!(bench.repository.discard(run).expect("discarded"), 1);
    bench.assert_nothing_is_there();
}

#[tokio::test]
async fn a_missing_extension_is_neither_passed_nor_failed() {
    let (source, nas, bench) = (seeded(), cluster("nas"), Bench::new());
    let backed = bench.backed(&source).await;
    let mut manifest = backed.manifest.clone();
    manifest.postgres.extensions[0].name = "postgis".to_owned();
    let dump = bench.read(&backed.snapshot, "database.sql").expect("a dump");
    let report = bench.drill(&bench.forge(&manifest, &dump), &nas).await.expect("a report");
    let Verdict::Unverified { because } = report.verdict else { panic!("{:?}", report.verdict) };
    assert!(because[0].contains("extension postgis"), "{because:?}");
}

/// A stand-in must still answer what it is.
fn only_when_dumping(script: &str) -> String {
    format!("case \"$*\" in *--version*|*--help*) exec REAL \"$@\" ;; esac\n{script}")
}

/// Everything up to some line in the middle of the largest table.
fn cut_in_a_table(dump: &str) -> &str {
    let table = dump.find("COPY app.page").expect("the table");
    let line = dump[table..].match_indices('\n').nth(5000).expect("a row").0;
    &dump[..=table + line]
}

#[tokio::test]
async fn pitfall_01_a_cut_dump_that_psql_restores_without_complaint_is_never_kept() {
    let (source, nas, mut bench) = (seeded(), cluster("nas"), Bench::new());
    let good = bench.backed(&source).await;
    let dump = bench.read(&good.snapshot, "database.sql").expect("a dump");
    let cut = cut_in_a_table(&dump);
    nas.sql("postgres", "CREATE ROLE wiki; CREATE ROLE reader");
    nas.sql("postgres", "CREATE DATABASE careless");
    // The danger: exit code 0, although most rows are missing.
    run(nas.psql("careless").stdin(cut));
    assert_eq!(nas.sql("careless", "SELECT count(*) FROM app.page"), "5000");

    let script = format!("REAL \"$@\" | head -c {}", cut.len());
    bench.shim(postgres::MAJOR, &[("pg_dump", &only_when_dumping(&script))]);
    let said = message(bench.run(&source).await);
    assert!(said.contains("without the end mark"), "{said}");
    assert_eq!(bench.snapshots(), [good.snapshot.clone()]);

    // And if one were there all the same, the drill would tell.
    let report = bench.drill(&bench.forge(&good.manifest, cut), &nas).await.expect("a report");
    let found = differences(&report);
    assert!(found.contains("table app.page has 5000 of 20000 rows"), "{found}");
}

#[tokio::test]
async fn pitfall_02_a_dump_that_dies_in_the_pipe_leaves_no_snapshot() {
    let (source, mut bench) = (seeded(), Bench::new());
    for death in ["kill -9 $$", "exit 3"] {
        let script = format!("REAL \"$@\" | head -c 500000; {death}");
        bench.shim(postgres::MAJOR, &[("pg_dump", &only_when_dumping(&script))]);
        let said = message(bench.run(&source).await);
        assert!(said.contains("SIGKILL") || said.contains("exit code 3"), "{said}");
        bench.assert_nothing_is_there();
    }
}

#[tokio::test]
async fn pitfall_03_a_dump_that_lacks_only_its_last_words_is_refused() {
    let (source, mut bench) = (seeded(), Bench::new());
    for program in ["pg_dump", "pg_dumpall"] {
        bench.shim(postgres::MAJOR, &[(program, &only_when_dumping("REAL \"$@\" | head -c -130"))]);
        let said = message(bench.run(&source).await);
        assert!(said.contains("without the end mark"), "{said}");
        bench.assert_nothing_is_there();
    }
}

#[tokio::test]
async fn pitfall_04_one_flipped_bit_is_found_and_never_restored() {
    let (source, nas, bench) = (seeded(), cluster("nas"), Bench::new());
    let backed = bench.backed(&source).await;
    let pack = largest_file(&bench.path().join("data"));
    let mut bytes = fs::read(&pack).expect("a pack");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::set_permissions(&pack, fs::Permissions::from_mode(0o600)).expect("chmod");
    fs::write(&pack, bytes).expect("a pack");

    assert!(bench.read(&backed.snapshot, "database.sql").is_err());
    let target = bench.folder.path().join("restored");
    let (progress, cancel) = (Progress::unwatched(), CancellationToken::new());
    let repository = bench.repository.as_ref();
    let restored =
        restore::restore(repository, &backed.snapshot, &target, new_run(), &progress, &cancel);
    assert!(restored.is_err() && !target.exists(), "{restored:?}");
    let found =
        verify::verify(repository, Depth::Data, &progress, &cancel).expect("a verification");
    let of_file = |problem: &String| problem.contains("`database.sql` cannot be read");
    assert!(found.problems.iter().any(of_file), "{:?}", found.problems);
    let report = bench.drill(&backed.snapshot, &nas).await.expect("a report");
    assert!(differences(&report).contains("the dump cannot be read"), "{report:?}");
}

fn largest_file(folder: &Path) -> PathBuf {
    let mut largest = (0, PathBuf::new());
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        let path = if path.is_dir() { largest_file(&path) } else { path };
        let size = fs::metadata(&path).map_or(0, |metadata| metadata.len());
        largest = largest.max((size, path));
    }
    largest.1
}

#[tokio::test]
async fn pitfall_05_an_error_in_the_middle_of_a_restore_fails_the_drill() {
    let (source, nas, bench) = (seeded(), cluster("nas"), Bench::new());
    let backed = bench.backed(&source).await;
    let dump = bench.read(&backed.snapshot, "database.sql").expect("a dump");
    let broken = dump
        .replace("ALTER TABLE app.page OWNER TO wiki", "ALTER TABLE app.page OWNER TO nobody_here");
    // The danger: without ON_ERROR_STOP psql goes on and ends with exit code 0.
    nas.sql("postgres", "CREATE DATABASE careless");
    run(nas.psql("careless").args(["--set", "ON_ERROR_STOP=0"]).stdin(broken.clone()));
    let report =
        bench.drill(&bench.forge(&backed.manifest, &broken), &nas).await.expect("a report");
    let found = differences(&report);
    assert!(found.contains("role \"nobody_here\" does not exist"), "{found}");
}

#[tokio::test]
async fn pitfall_06_roles_are_backed_up_and_a_drill_makes_only_the_missing_ones() {
    let (source, nas, bench) = (seeded(), cluster("nas"), Bench::new());
    let backed = bench.backed(&source).await;
    let globals = bench.read(&backed.snapshot, "globals.sql").expect("globals");
    assert!(
        globals.contains("CREATE ROLE wiki;") && globals.contains("SCRAM-SHA-256$"),
        "{globals}"
    );
    nas.sql("postgres", "CREATE ROLE reader");
    let report = bench.drill(&backed.snapshot, &nas).await.expect("a report");
    // Owners and rights are part of the comparison.
    assert_eq!(report.verdict, Verdict::Passed);
    let roles = "SELECT string_agg(rolname, ' ') FROM pg_roles WHERE rolname !~ '^pg_'";
    assert_eq!(nas.sql("postgres", roles), format!("{USER} reader"));
}

#[tokio::test]
async fn pitfall_08_a_client_older_than_the_server_is_refused_with_the_package_to_install() {
    let (source, mut bench) = (seeded(), Bench::new());
    bench.shim(14, &[]);
    let said = message(bench.run(&source).await);
    assert!(said.contains("only 14 is installed"), "{said}");
    assert!(said.contains("apt install postgresql-client-15"), "{said}");
    bench.assert_nothing_is_there();
}

#[tokio::test]
async fn pitfall_11_a_locked_table_ends_the_run_and_names_who_holds_it() {
    let (source, mut bench) = (seeded(), Bench::new());
    bench.limits.lock_wait = Duration::from_millis(300);
    let mut holder = SystemExec.stream(source.psql(DATABASE).stdin_piped()).expect("a psql");
    let mut input = holder.take_stdin().expect("its input");
    input
        .write_all(b"BEGIN; LOCK TABLE app.page; SELECT pg_backend_pid();\n")
        .and_then(|()| input.flush())
        .expect("written");
    let mut pid = String::new();
    BufReader::new(&mut holder).read_line(&mut pid).expect("a process id");
    let said = message(bench.run(&source).await);
    assert!(said.contains(&format!("process {} ({USER}", pid.trim())), "{said}");
    assert!(said.contains("app.page"), "{said}");
    bench.assert_nothing_is_there();
}

#[tokio::test]
async fn pitfall_12_an_unchanged_database_gives_the_same_bytes_and_next_to_no_growth() {
    let (source, bench) = (seeded(), Bench::new());
    let first = bench.backed(&source).await.snapshot;
    let before = bench.repository.stored_bytes().expect("a size");
    let second = bench.backed(&source).await.snapshot;
    let growth = bench.repository.stored_bytes().expect("a size") - before;
    for file in ["database.sql", "globals.sql"] {
        assert_eq!(first.file(file), second.file(file));
    }
    assert!(growth < 10_000, "an unchanged run grew the repository by {growth} bytes");
}

#[tokio::test]
async fn pitfall_15_a_missing_mount_is_refused_and_nothing_is_made_in_its_place() {
    let source = seeded();
    let folder = tempfile::tempdir().expect("a scratch directory");
    let path = folder.path().join("repository");
    let bench = Bench::at(folder, &path, None);
    assert!(message(bench.run(&source).await).contains("is never created"));
    assert!(!path.exists());

    fs::create_dir(&path).expect("a folder");
    assert!(message(bench.run(&source).await).contains("init-repository"));
    let rule = MountRule { mount_point: path.clone(), filesystems: vec!["nfs4".to_owned()] };
    let folder = tempfile::tempdir().expect("a scratch directory");
    let guarded = Bench::at(folder, &path, Some(rule));
    assert!(message(guarded.run(&source).await).contains("nothing is mounted at"));
    assert!(matches!(guarded.repository.init(), Err(RepositoryError::Guard(_))));
    assert_eq!(fs::read_dir(&path).expect("a folder").count(), 0);
}

#[tokio::test]
async fn pitfall_15_a_mount_that_vanishes_during_a_run_fails_it_and_spares_the_disk_below() {
    let source = seeded();
    let folder = tempfile::tempdir().expect("a scratch directory");
    let path = folder.path().join("repository");
    fs::create_dir(&path).expect("a folder");
    let mount = Mounted::tmpfs(&path, "64m");
    let mut bench = Bench::at(folder, &path, Some(mount.rule()));
    bench.repository.init().expect("a repository");
    let (half, go) = (bench.folder.path().join("half"), bench.folder.path().join("go"));
    let script = format!(
        "REAL \"$@\" | (head -c 500000; touch {}; until [ -e {} ]; do sleep 0.05; done; cat)",
        half.display(),
        go.display()
    );
    bench.shim(postgres::MAJOR, &[("pg_dump", &only_when_dumping(&script))]);
    let vanish = tokio::task::spawn_blocking(move || {
        wait_until("half of the dump is read", || half.exists());
        mount.detach();
        fs::write(go, "").expect("a file");
        mount
    });
    let said = message(bench.run(&source).await);
    let _mount = vanish.await.expect("detached");
    assert!(said.contains("nothing is mounted at"), "{said}");
    assert_eq!(fs::read_dir(&path).expect("a folder").count(), 0);
}

#[tokio::test]
async fn pitfall_20_a_full_disk_fails_the_run_and_harms_no_earlier_snapshot() {
    let source = seeded();
    let folder = tempfile::tempdir().expect("a scratch directory");
    let path = folder.path().join("repository");
    fs::create_dir(&path).expect("a folder");
    let mount = Mounted::tmpfs(&path, "6m");
    let bench = Bench::at(folder, &path, Some(mount.rule()));
    bench.repository.init().expect("a repository");
    let good = bench.backed(&source).await.snapshot;
    source.sql(
        DATABASE,
        "CREATE TABLE noise AS SELECT (SELECT decode(string_agg(md5(random()::text), ''), 'hex')
         FROM generate_series(1, 32000) WHERE i = i) AS bytes FROM generate_series(1, 12) i",
    );
    let said = message(bench.run(&source).await);
    assert!(said.contains("no room left in repository `nas`"), "{said}");
    assert_eq!(bench.snapshots(), [good.clone()]);
    assert!(bench.read(&good, "database.sql").expect("a dump").contains("dump complete"));
    // Without a lock file, for which there is no room either.
    let checked = run(Bench::restic_of(&path, &["check", "--read-data", "--no-lock"])).text();
    assert!(checked.contains("no errors were found"), "{checked}");

    let available = bench.repository.available_bytes().expect("a size");
    let filler = vec![0; usize::try_from(available).expect("a size") - (1 << 20)];
    fs::write(path.join("filler"), filler).expect("a file");
    // Half as much again as last time does not fit: the next one does not even begin.
    let said = message(bench.run(&source).await);
    assert!(said.contains("may be needed; make room first"), "{said}");
}

#[tokio::test]
async fn pitfall_25_the_evidence_of_a_drill_names_its_snapshot_and_how_old_that_was() {
    let (source, nas, bench) = (seeded(), cluster("nas"), Bench::new());
    let old = bench.backed(&source).await.snapshot;
    bench.clock.advance(Duration::from_secs(3 * 24 * 3600));
    let report = bench.drill(&old, &nas).await.expect("a report");
    assert_eq!(report.snapshot, old.id);
    assert_eq!(report.snapshot_age, Duration::from_secs(3 * 24 * 3600));
    assert_eq!(report.verdict, Verdict::Passed);
}

#[tokio::test]
async fn pitfall_26_leftovers_are_swept_by_name_and_marker_and_nothing_else_is() {
    let (nas, bench) = (cluster("nas"), Bench::new());
    let (dead, alive) = (new_run(), new_run());
    let database = |run: RunId| format!("{}{}", drill::PREFIX, run.compact());
    let marked = |name: &str, run: RunId| {
        nas.sql("postgres", &format!("CREATE DATABASE {name}"));
        let comment = format!("COMMENT ON DATABASE {name} IS '{} {run} hx310-db'", drill::MARKER);
        nas.sql("postgres", &comment);
    };
    marked(&database(dead), dead);
    marked(&database(alive), alive);
    marked("precious", dead);
    let unmarked = database(new_run());
    nas.sql("postgres", &format!("CREATE DATABASE {unmarked}"));
    let role = format!(
        "CREATE ROLE left_over; COMMENT ON ROLE left_over IS '{} {dead} hx310-db'",
        drill::MARKER
    );
    nas.sql("postgres", &role);

    let target = bench.target(&nas);
    let sweeping = move || drill::sweep(&target, new_run(), |run| run == alive);
    let removed = tokio::task::spawn_blocking(sweeping).await.expect("swept").expect("swept");
    assert_eq!(removed, [database(dead), "role left_over".to_owned()]);
    let left = nas.sql("postgres", "SELECT datname FROM pg_database WHERE NOT datistemplate");
    for name in [database(alive), "precious".to_owned(), unmarked] {
        assert!(left.contains(&name), "{name} is gone: {left}");
    }
}

#[tokio::test]
async fn pitfall_26_a_cancelled_drill_cleans_up_behind_itself() {
    let (source, nas, mut bench) = (seeded(), cluster("nas"), Bench::new());
    let snapshot = bench.backed(&source).await.snapshot;
    // The one psql that restores is the one without output.
    let stuck = "case \"$*\" in *--output=/dev/null*) sleep 60 ;; esac\nexec REAL \"$@\"";
    bench.shim(postgres::MAJOR, &[("psql", stuck)]);
    let (progress, mut watcher) = Progress::new();
    let cancel = CancellationToken::new();
    let drill = Drill {
        run: new_run(),
        snapshot,
        repository: Arc::clone(&bench.repository) as _,
        target: bench.target(&nas),
    };
    let token = cancel.clone();
    let running = tokio::spawn(async move { drill.run(&progress, &token).await });
    watcher.wait_for(|step| step.stage == Stage::Restoring).await.expect("it restores");
    let databases = "SELECT count(*) FROM pg_database WHERE datname ~ '^homelab_scratch_'";
    assert_eq!(nas.sql("postgres", databases), "1");
    cancel.cancel();
    let ended = running.await.expect("the drill ends");
    assert!(matches!(ended, Err(DrillError::Cancelled)), "{ended:?}");
    assert_eq!(nas.sql("postgres", databases), "0");
    let roles = "SELECT string_agg(rolname, ' ') FROM pg_roles WHERE rolname !~ '^pg_'";
    assert_eq!(nas.sql("postgres", roles), USER);
}

#[tokio::test]
async fn pitfall_27_a_drill_into_the_source_itself_is_refused() {
    let (source, bench) = (seeded(), Bench::new());
    let snapshot = bench.backed(&source).await.snapshot;
    let before = source.sql("postgres", "SELECT count(*) FROM pg_database");
    let refused = bench.drill(&snapshot, &source).await;
    assert!(matches!(refused, Err(DrillError::TargetIsSource { .. })), "{refused:?}");
    assert_eq!(source.sql("postgres", "SELECT count(*) FROM pg_database"), before);
}

#[tokio::test]
async fn pitfall_36_no_password_is_on_a_command_line_or_in_an_environment() {
    let (source, nas, mut bench) = (seeded(), cluster("nas"), Bench::new());
    let seen = bench.folder.path().join("seen");
    let script = format!(
        "{{ tr '\\0' '\\n' < /proc/$$/cmdline; env; [ -z \"$PGPASSFILE\" ] || stat -c %a \"$PGPASSFILE\"; }} >> {}\nexec REAL \"$@\"",
        seen.display()
    );
    bench
        .shim(postgres::MAJOR, &[("pg_dump", &script), ("pg_dumpall", &script), ("psql", &script)]);
    let snapshot = bench.backed(&source).await.snapshot;
    bench.drill(&snapshot, &nas).await.expect("a report");
    let seen = fs::read_to_string(seen).expect("what was seen");
    assert!(seen.contains("PGPASSFILE=") && seen.contains("\n600\n"), "{seen}");
    for secret in [PASSWORD, "pa:ss", REPOSITORY_PASSWORD] {
        assert!(!seen.contains(secret), "a password was seen: {seen}");
    }
    assert!(!format!("{:?}", bench.backup(&source)).contains("pa:ss"));
}

/// The daemon over real TLS, with one backup, one drill target and two certificates.
struct Served {
    tasks: Tasks,
    client: BackupServiceClient<tonic::transport::Channel>,
    viewer: BackupServiceClient<tonic::transport::Channel>,
    address: std::net::SocketAddr,
    config: Config,
}

impl Served {
    async fn start(bench: &Bench, source: &Cluster, nas: &Cluster) -> Self {
        install_crypto_provider();
        let site = TestSite::new("home");
        let id = site.daemon(Kind::BackupAgent, "hx310-db");
        let config = Config::parse("backup-agent.toml", &config_of(bench, source, nas));
        let config = config.unwrap_or_else(|report| panic!("{report}"));
        write_identity(&site, &id, &config.daemon.pki_dir);
        let tasks = Tasks::default();
        let deps = Deps {
            tasks: tasks.clone(),
            clock: Arc::new(SystemClock),
            chance: Arc::new(SystemChance),
            exec: Arc::new(SystemExec),
            log: None,
        };
        let app = App::start(config.clone(), deps).await;
        let app = app.unwrap_or_else(|error| panic!("{}", Chain(&error)));
        let connect = |grant| {
            let dialer = site.dialer(&site.user("rob", grant));
            dialer.dial(target(app.address, &id)).expect("a channel")
        };
        Self {
            tasks,
            client: BackupServiceClient::new(connect("admin")),
            viewer: BackupServiceClient::new(connect("viewer")),
            address: app.address,
            config,
        }
    }

    async fn run_backup(&self, request: pb::RunBackupRequest) -> Result<pb::Snapshot, String> {
        let answer = self.client.clone().run_backup(request).await;
        let mut stream = answer.expect("a stream").into_inner();
        let mut last = None;
        while let Some(message) = stream.message().await.expect("a message") {
            assert!(last.is_none_or(|event| matches!(event, RunEvent::Progress(_))));
            last = message.event;
        }
        match last.expect("an end") {
            RunEvent::Snapshot(snapshot) => Ok(snapshot),
            RunEvent::Failure(failure) => Err(failure.reason),
            other => panic!("the stream ended with {other:?}"),
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.tasks.stop_hard();
    }
}

fn config_of(bench: &Bench, source: &Cluster, nas: &Cluster) -> String {
    let folder = bench.folder.path();
    let secret = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).expect("a secret");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
        path.display().to_string()
    };
    let (password, postgres) =
        (secret("password", REPOSITORY_PASSWORD), secret("postgres-password", PASSWORD));
    format!(
        r#"
listen = "127.0.0.1:0"
state-dir = "{state}"
admin-socket = false
host = "hx310-db"

[postgres]
clients = "{clients}"

[[repository]]
name = "nas"
path = "{repository}"
id = "{id}"
password = "{password}"
require-mount = false

[[backup]]
name = "wiki-daily"
source = "postgres"
repository = "nas"
host = "127.0.0.1"
port = {source}
user = "{USER}"
password = "{postgres}"
database = "{DATABASE}"
drill-target = "nas-postgres"

[[drill-target]]
name = "nas-postgres"
host = "127.0.0.1"
port = {nas}
user = "{USER}"
password = "{postgres}"
"#,
        state = folder.join("state").display(),
        clients = bench.clients.display(),
        repository = bench.path().display(),
        id = Uuid::from_u128(0xbac0),
        source = source.port(),
        nas = nas.port(),
    )
}

fn write_identity(site: &TestSite, id: &SpiffeId, pki: &Path) {
    fs::create_dir_all(pki).expect("a folder");
    let leaf = site.leaf(id);
    let key = leaf.key_pem.expose().clone();
    let files =
        [("cert.pem", leaf.chain_pem), ("key.pem", key), ("ca.pem", site.root_pem().to_owned())];
    for (name, text) in files {
        let path = pki.join(name);
        fs::write(&path, text).expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
    }
}

fn wiki(request_id: &str) -> pb::RunBackupRequest {
    pb::RunBackupRequest {
        request_id: request_id.to_owned(),
        validate_only: false,
        backup: "wiki-daily".to_owned(),
    }
}

#[tokio::test]
async fn the_service_backs_up_lists_verifies_drills_and_restores() {
    let (source, nas, bench) = (seeded(), cluster("nas"), Bench::new());
    let served = Served::start(&bench, &source, &nas).await;
    let request_id = new_run().to_string();
    let snapshot = served.run_backup(wiki(&request_id)).await.expect("a snapshot");
    assert_eq!(
        (snapshot.run_id.as_str(), snapshot.host.as_str()),
        (request_id.as_str(), "hx310-db")
    );
    let manifest = snapshot.manifest.as_ref().and_then(|manifest| manifest.postgres.as_ref());
    assert_eq!(manifest.expect("a manifest").tables.len(), 4);
    // The same request again is the same run.
    let again = served.run_backup(wiki(&request_id)).await.expect("the same snapshot");
    assert_eq!(again, snapshot);

    let mut client = served.client.clone();
    let listed = client.list_snapshots(pb::ListSnapshotsRequest::default()).await;
    let listed = listed.expect("a page").into_inner().snapshots;
    assert_eq!(listed, [pb::Snapshot { manifest: None, ..snapshot.clone() }]);

    let verify = pb::VerifyRepositoryRequest { read_data: true, ..Default::default() };
    let mut stream = client.verify_repository(verify).await.expect("a stream").into_inner();
    let mut last = None;
    while let Some(message) = stream.message().await.expect("a message") {
        last = message.event;
    }
    let Some(pb::verify_repository_response::Event::Report(report)) = last else {
        panic!("{last:?}")
    };
    assert!(report.sound && report.snapshots == 1, "{report:?}");

    let drill = pb::RunDrillRequest { backup: "wiki-daily".to_owned(), ..Default::default() };
    let mut stream = client.run_drill(drill).await.expect("a stream").into_inner();
    let mut last = None;
    while let Some(message) = stream.message().await.expect("a message") {
        last = message.event;
    }
    let Some(pb::run_drill_response::Event::Report(report)) = last else { panic!("{last:?}") };
    assert_eq!((report.verdict(), report.rows), (pb::DrillVerdict::Passed, 20_005));
    assert_eq!(report.snapshot_id, snapshot.id);

    let folder = bench.folder.path().join("restored");
    let restore = pb::RestoreRequest {
        snapshot_id: snapshot.id[..8].to_owned(),
        target: folder.display().to_string(),
        ..Default::default()
    };
    let mut stream = client.restore(restore.clone()).await.expect("a stream").into_inner();
    let mut last = None;
    while let Some(message) = stream.message().await.expect("a message") {
        last = message.event;
    }
    let Some(pb::restore_response::Event::Report(report)) = last else { panic!("{last:?}") };
    let sizes =
        |files: &[pb::SnapshotFile]| files.iter().map(|f| f.sha256.clone()).collect::<Vec<_>>();
    assert_eq!(sizes(&report.files), sizes(&snapshot.files));
    let refused = client.restore(restore).await.expect_err("it exists");
    assert_eq!(reason_of(&refused).as_deref(), Some("TARGET_EXISTS"));

    let repository = client.get_repository(pb::GetRepositoryRequest::default()).await;
    let repository = repository.expect("a repository").into_inner().repository.expect("it");
    assert_eq!((repository.snapshots, repository.conditions.len()), (Some(1), 4));
    let unmet = repository.conditions.iter().filter(|c| c.status() != ConditionStatus::True);
    assert_eq!(unmet.count(), 0, "{repository:?}");
}

#[tokio::test]
async fn a_second_run_of_a_backup_is_refused_and_the_first_can_be_cancelled() {
    let (source, nas, mut bench) = (seeded(), cluster("nas"), Bench::new());
    let stuck = bench.folder.path().join("stuck");
    let script = format!("REAL \"$@\" | head -c 100000; touch {}; sleep 60", stuck.display());
    bench.shim(postgres::MAJOR, &[("pg_dump", &only_when_dumping(&script))]);
    let served = Served::start(&bench, &source, &nas).await;
    let mut client = served.client.clone();
    let run_id = new_run().to_string();
    let mut first = client.run_backup(wiki(&run_id)).await.expect("a stream").into_inner();
    tokio::task::spawn_blocking(move || wait_until("the dump is stuck", || stuck.exists()))
        .await
        .expect("the dump is stuck");
    let refused = client.run_backup(wiki("")).await.expect_err("one goes on");
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert_eq!(reason_of(&refused).as_deref(), Some("RUN_IN_PROGRESS"));

    let denied =
        served.viewer.clone().cancel_run(pb::CancelRunRequest { run_id: run_id.clone() }).await;
    assert_eq!(denied.expect_err("a viewer").code(), tonic::Code::PermissionDenied);
    let cancel = || pb::CancelRunRequest { run_id: run_id.clone() };
    let told = client.cancel_run(cancel()).await.expect("an answer").into_inner();
    assert!(told.was_running);
    let mut last = None;
    while let Some(message) = first.message().await.expect("a message") {
        last = message.event;
    }
    let Some(RunEvent::Failure(failure)) = last else { panic!("{last:?}") };
    assert_eq!(failure.reason, "CANCELLED");
    let told = client.cancel_run(cancel()).await.expect("an answer").into_inner();
    assert!(!told.was_running);
    bench_is_clean(&bench);
}

fn bench_is_clean(bench: &Bench) {
    assert_eq!(bench.snapshots(), []);
    assert_eq!(bench.repository.unverified().expect("a listing"), []);
}

#[tokio::test]
async fn what_is_refused_says_why_by_a_stable_reason() {
    let (source, nas, bench) = (seeded(), cluster("nas"), Bench::new());
    let served = Served::start(&bench, &source, &nas).await;
    let mut client = served.client.clone();
    let unknown = pb::RunBackupRequest { backup: "wik".to_owned(), ..Default::default() };
    let refused = client.run_backup(unknown).await.expect_err("unknown");
    assert_eq!(reason_of(&refused).as_deref(), Some("BACKUP_NOT_FOUND"));
    assert!(refused.message().contains("there is: wiki-daily"), "{refused:?}");
    let refused = client.run_backup(wiki("not a uuid")).await.expect_err("no uuid");
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    let drill = pb::RunDrillRequest { backup: "wiki-daily".to_owned(), ..Default::default() };
    let refused = client.run_drill(drill).await.expect_err("nothing to drill");
    assert_eq!(reason_of(&refused).as_deref(), Some("SNAPSHOT_NOT_FOUND"));
    let refused = client.plan_retention(pb::PlanRetentionRequest::default()).await;
    assert_eq!(reason_of(&refused.expect_err("not built")).as_deref(), Some("NOT_BUILT_YET"));

    let validate = pb::RunBackupRequest { validate_only: true, ..wiki("") };
    let mut stream = client.run_backup(validate).await.expect("a stream").into_inner();
    let message = stream.message().await.expect("a message").expect("one message");
    let Some(RunEvent::Validation(validation)) = message.event else { panic!("{message:?}") };
    assert!(validation.findings[0].contains("would be dumped by pg_dump 15."), "{validation:?}");

    fs::rename(bench.path(), bench.folder.path().join("elsewhere")).expect("moved");
    let refused = client.run_backup(wiki("")).await.expect_err("unavailable");
    assert_eq!(reason_of(&refused).as_deref(), Some("REPOSITORY_UNAVAILABLE"));
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    assert!(!bench.path().exists());
}

#[tokio::test]
async fn a_restarted_daemon_clears_up_after_the_runs_that_died_with_it() {
    let (source, nas, bench) = (seeded(), cluster("nas"), Bench::new());
    let run = new_run();
    let files = vec![incoming("database.sql", vec![b'x'; 100_000])];
    bench.repository.store(&intent(run), files).expect("stored");
    let state = bench.folder.path().join("state");
    fs::create_dir_all(state.join("scratch")).expect("a folder");
    fs::write(state.join("scratch/pgpass"), "secret").expect("a file");
    let work = Work::Backup { backup: name("wiki-daily"), repository: name("nas") };
    let journal = Journal::open(&state).expect("a journal");
    journal.begin(Entry { run, started_at: jiff::Timestamp::UNIX_EPOCH, work }).expect("written");
    drop(journal);

    let served = Served::start(&bench, &source, &nas).await;
    assert_eq!(fs::read_dir(state.join("scratch")).expect("a folder").count(), 0);
    let repository = Arc::clone(&bench.repository);
    let swept = move || {
        wait_until("the dead run is swept", || {
            repository.unverified().expect("a listing").is_empty()
        });
    };
    tokio::task::spawn_blocking(swept).await.expect("swept");
    drop(served);
}

#[tokio::test]
async fn a_snapshot_is_restored_without_daemon_and_controller() {
    let (source, nas, bench) = (seeded(), cluster("nas"), Bench::new());
    let backed = bench.backed(&source).await;
    let config = Config::parse("backup-agent.toml", &config_of(&bench, &source, &nas));
    let config = config.expect("a configuration");
    let listed = offline::list(&config, "nas").expect("a list");
    assert!(listed.contains(&backed.snapshot.id.as_str()[..8]), "{listed}");
    let folder = bench.folder.path().join("restored");
    let said = offline::restore(&config, "nas", "latest:wiki-daily", &folder).expect("restored");
    assert!(said.contains("psql -X -v ON_ERROR_STOP=1 -d wiki -f"), "{said}");
    let dump = fs::read(folder.join("database.sql")).expect("a dump");
    assert_eq!(Some(&Sha256::of(&dump)), backed.snapshot.file("database.sql").map(|f| &f.sha256));
    let again = offline::init(&config, "nas").expect_err("it is there already");
    assert!(Chain(&again).to_string().contains("is not empty"));
}
