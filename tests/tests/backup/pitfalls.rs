//! What goes wrong with backups elsewhere, each with the right behaviour.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use homelab_backup_agent::{
    drill::{self, Drill, DrillError, Verdict},
    ids::RunId,
    progress::{Progress, Stage},
    repository::{Depth, Repository, RepositoryError, identity::MountRule},
    restore::{self},
    verify,
};
use homelab_common::exec::{Exec, SystemExec};
use homelab_tests::postgres::{self, PASSWORD, USER, run};
use tokio_util::sync::CancellationToken;

use crate::bench::*;

/// Everything up to some line in the middle of the largest table.
fn cut_in_a_table(dump: &str) -> &str {
    let table = dump.find("COPY app.page").expect("the table");
    let mut rows = dump.match_indices('\n').map(|(at, _)| at).filter(|at| *at > table);
    let end = rows.nth(5000).expect("a row");
    dump.get(..=end).expect("a line break is one byte")
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
    assert_eq!(bench.snapshots(), vec![good.snapshot.clone()]);

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
        bench.assert_nothing_is_there().await;
    }
    // Nothing at all, with exit code 0.
    bench.shim(postgres::MAJOR, &[("pg_dump", &only_when_dumping("exit 0"))]);
    let said = message(bench.run(&source).await);
    assert!(said.contains("without the end mark"), "{said}");
    bench.assert_nothing_is_there().await;
    bench.assert_sound_to_restic();
}

#[tokio::test]
async fn pitfall_03_a_dump_that_lacks_only_its_last_words_is_refused() {
    let (source, mut bench) = (seeded(), Bench::new());
    for program in ["pg_dump", "pg_dumpall"] {
        bench.shim(postgres::MAJOR, &[(program, &only_when_dumping("REAL \"$@\" | head -c -130"))]);
        let said = message(bench.run(&source).await);
        assert!(said.contains("without the end mark"), "{said}");
        bench.assert_nothing_is_there().await;
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
    let restored = restore::restore(
        repository,
        &backed.snapshot,
        &restore::Place::new(&target),
        new_run(),
        &progress,
        &cancel,
    );
    assert!(restored.is_err() && !target.exists(), "{restored:?}");
    let found =
        verify::verify(repository, Depth::Data, &progress, &cancel).expect("a verification");
    let of_file = |problem: &String| problem.contains("`database.sql` cannot be read");
    assert!(found.problems.iter().any(of_file), "{:?}", found.problems);
    let report = bench.drill(&backed.snapshot, &nas).await.expect("a report");
    assert!(differences(&report).contains("the dump cannot be read"), "{report:?}");
}

#[tokio::test]
async fn a_verification_that_is_cancelled_does_not_call_anything_sound() {
    let (source, bench) = (seeded(), Bench::new());
    bench.backed(&source).await;
    let (progress, cancel) = (Progress::unwatched(), CancellationToken::new());
    cancel.cancel();
    let found = verify::verify(bench.repository.as_ref(), Depth::Data, &progress, &cancel);
    assert!(matches!(found, Err(verify::VerifyError::Cancelled)), "{found:?}");
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
    bench.assert_nothing_is_there().await;
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
    bench.assert_nothing_is_there().await;
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
    assert!(growth < 5_000, "an unchanged run grew the repository by {growth} bytes");
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
    assert_eq!(bench.snapshots(), vec![good.clone()]);
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
    let database = |run: RunId| format!("{}{}", drill::postgres::PREFIX, run.compact());
    let marked = |name: &str, run: RunId| {
        nas.sql("postgres", &format!("CREATE DATABASE {name}"));
        let comment =
            format!("COMMENT ON DATABASE {name} IS '{} {run} hx310-db'", drill::postgres::MARKER);
        nas.sql("postgres", &comment);
    };
    marked(&database(dead), dead);
    marked(&database(alive), alive);
    marked("precious", dead);
    let unmarked = database(new_run());
    nas.sql("postgres", &format!("CREATE DATABASE {unmarked}"));
    let role = format!(
        "CREATE ROLE left_over; COMMENT ON ROLE left_over IS '{} {dead} hx310-db'",
        drill::postgres::MARKER
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
    // Those that restore are those whose answers nobody takes apart.
    let stuck = "case \"$*\" in *--no-align*) ;; *) sleep 60 ;; esac\nexec REAL \"$@\"";
    bench.shim(postgres::MAJOR, &[("psql", stuck)]);
    let (progress, mut watcher) = Progress::new();
    let cancel = CancellationToken::new();
    let drill = Drill {
        run: new_run(),
        snapshot,
        repository: Arc::clone(&bench.repository) as _,
        target: bench.target(&nas),
        clock: Arc::new(bench.clock.clone()),
    };
    let databases = "SELECT count(*) FROM pg_database WHERE datname ~ '^homelab_scratch_'";
    let cancelling = async {
        watcher.wait_for(|step| step.stage == Stage::Restoring).await.expect("it restores");
        assert_eq!(nas.sql("postgres", databases), "1");
        cancel.cancel();
    };
    let (ended, ()) = tokio::join!(drill.run(&progress, &cancel), cancelling);
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
