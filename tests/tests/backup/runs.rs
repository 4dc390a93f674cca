//! Runs that go well, or are cancelled.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use homelab_backup_agent::{
    backup::BackupError,
    drill::Verdict,
    progress::Progress,
    repository::Repository,
    restore::{self, RestoreError},
    stream::Sha256,
};
use homelab_common::exec::{Exec, SystemExec};
use homelab_tests::postgres::{self, run};
use tokio_util::sync::CancellationToken;

use crate::bench::*;

#[tokio::test]
async fn a_backup_is_listed_drilled_and_equal_to_its_manifest() {
    let (source, nas, bench) = (seeded(), cluster("nas"), Bench::new());
    let backed = bench.backed(&source).await;
    assert_eq!(bench.snapshots(), vec![backed.snapshot.clone()]);
    let rows: u64 = contents(&backed.manifest).tables.iter().map(|table| table.rows).sum();
    assert_eq!(rows, 20_000 + 3 + 1 + 1);
    let report = bench.drill(&backed.snapshot, &nas).await.expect("a report");
    assert_eq!(report.verdict, Verdict::Passed);
    assert_eq!((report.count("rows"), report.count("tables")), (rows, 4));
    assert!(report.restore_elapsed > Duration::ZERO && report.restore_elapsed <= report.elapsed);
}

#[tokio::test]
async fn plain_restic_lists_checks_and_restores_what_we_wrote() {
    let (source, nas, bench) = (seeded(), cluster("nas"), Bench::new());
    let backed = bench.backed(&source).await;
    let listed = bench.restic(&["snapshots", "--tag", "homelab,verified"]).text();
    assert!(listed.contains(short(backed.snapshot.id.as_str())), "{listed}");
    bench.assert_sound_to_restic();

    let target = bench.folder.path().join("restored");
    let id = backed.snapshot.id.as_str();
    bench.restic(&["restore", id, "--target", &target.display().to_string()]);
    for file in &backed.snapshot.files {
        // An engine that forgets sizes makes restic restore empty files, with exit code 0.
        let bytes =
            fs::read(format!("{}{}", target.display(), backed.snapshot.path_of(&file.name)))
                .expect("a file");
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
        restore::restore(
            repository,
            &backed.snapshot,
            &restore::Place::new(&target),
            new_run(),
            &progress,
            &cancel,
        )
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
    let (backup, progress) = (bench.backup(&source), Progress::unwatched());
    let cancelling = async {
        let stuck = tokio::task::spawn_blocking(move || {
            wait_until("the dump is stuck", || stuck.exists());
        });
        stuck.await.expect("the dump is stuck");
        cancel.cancel();
    };
    let (ended, ()) = tokio::join!(backup.run(new_run(), &progress, &cancel), cancelling);
    assert!(matches!(ended, Err(BackupError::Cancelled { .. })), "{ended:?}");
    bench.assert_nothing_is_there().await;
}

#[tokio::test]
async fn what_is_not_published_is_listed_nowhere() {
    let bench = Bench::new();
    let run = new_run();
    let files = vec![incoming("database.sql", vec![b'x'; 100_000])];
    bench.repository.store(&intent(run), files).expect("stored");
    assert_eq!(bench.snapshots(), []);
    bench.assert_nothing_is_there().await;
}

#[tokio::test]
async fn a_missing_extension_is_neither_passed_nor_failed() {
    let (source, nas, bench) = (seeded(), cluster("nas"), Bench::new());
    let backed = bench.backed(&source).await;
    let mut manifest = backed.manifest.clone();
    contents_mut(&mut manifest).extensions[0].name = "postgis".to_owned();
    let dump = bench.read(&backed.snapshot, "database.sql").expect("a dump");
    let report = bench.drill(&bench.forge(&manifest, &dump), &nas).await.expect("a report");
    let Verdict::Unverified { because } = report.verdict else { panic!("{:?}", report.verdict) };
    assert!(because[0].contains("extension postgis"), "{because:?}");
}
