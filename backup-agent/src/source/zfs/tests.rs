//! Whole runs and drills: against a program that answers like OpenZFS 2.3, and
//! against a real pool of zfs-fuse.

mod fuse;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use homelab_common::{chance::SystemChance, clock::SystemClock, exec::SystemExec, secret::Secret};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::*;
use crate::{
    backup::{Backed, Backup, BackupError},
    drill::{Compared, Drill, Report, Target, Verdict, zfs::ZfsTarget},
    ids::Name,
    progress::Progress,
    repository::{Repository, identity::Place, restic::ResticRepository},
};

const OPENZFS: &str = include_str!("tests/openzfs.py");

/// A dataset, a repository and a place to drill in.
struct House {
    folder: TempDir,
    repository: Arc<ResticRepository>,
    zfs: Zfs,
}

impl House {
    /// With the program that answers like OpenZFS.
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("zfs");
        fs::write(&program, OPENZFS).expect("a program");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).expect("executable");
        let house = Self::with(folder, &program);
        let mountpoint = format!("mountpoint={}", house.path("live"));
        house.tell(&["create", "tank"]);
        house.tell(&["create", "-o", "recordsize=1048576", "-o", &mountpoint, "tank/vault"]);
        house.tell(&["create", "safe"]);
        house.tell(&["create", "safe/drill"]);
        house.file("one", "1");
        house
    }

    fn with(folder: TempDir, program: &Path) -> Self {
        let place = folder.path().join("repository");
        fs::create_dir(&place).expect("a folder");
        let place = Place { path: place, id: Uuid::from_u128(1), mount: None };
        let password = Secret::new("correct horse".to_owned());
        let clock = Arc::new(SystemClock);
        let repository = ResticRepository::new(name("nas"), place, password, "here".into(), clock);
        repository.init().expect("a repository");
        let zfs = Zfs {
            exec: Arc::new(SystemExec),
            over: Vec::new(),
            program: program.display().to_string(),
            transfer_max: Duration::from_secs(60),
        };
        Self { folder, repository: Arc::new(repository), zfs }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn tell(&self, words: &[&str]) -> String {
        self.zfs.ask("prepare a test", words.iter().copied()).expect("zfs")
    }

    fn file(&self, path: &str, text: &str) {
        self.tell(&["test-file", "tank/vault", path, text]);
    }

    /// How many bytes of the next stream come through.
    fn cut(&self, bytes: usize) {
        fs::write(self.folder.path().join("cut"), bytes.to_string()).expect("a file");
    }

    fn calls(&self) -> String {
        fs::read_to_string(self.folder.path().join("calls")).expect("calls")
    }

    fn archived(&self) -> ZfsSource {
        ZfsSource {
            dataset: dataset("tank/vault"),
            zfs: self.zfs.clone(),
            keep: Policy::default(),
            full_every: Some(3),
            replica: None,
            count_files: false,
            clock: Arc::new(SystemClock),
        }
    }

    fn replicated(&self) -> ZfsSource {
        let to = ReplicaTo {
            dataset: dataset("safe/vault"),
            zfs: self.zfs.clone(),
            keep: Policy::default(),
        };
        ZfsSource { full_every: None, replica: Some(to), ..self.archived() }
    }

    fn find(&self, text: &str) -> Option<Dataset> {
        self.zfs.find(&dataset(text)).expect("an answer")
    }

    async fn run(&self, source: ZfsSource) -> Result<Backed, BackupError> {
        let backup = Backup {
            name: name("vault"),
            source: Arc::new(source),
            repository: Arc::clone(&self.repository) as Arc<dyn Repository>,
        };
        let run = RunId::generate(&SystemClock, &SystemChance);
        backup.run(run, &Progress::unwatched(), &CancellationToken::new()).await
    }

    async fn drill(&self, backed: &Backed, mount_below: Option<PathBuf>) -> Report {
        let target = ZfsTarget {
            name: name("scratch"),
            parent: dataset("safe/drill"),
            zfs: self.zfs.clone(),
            mount_below,
            owner: "here".to_owned(),
        };
        let drill = Drill {
            run: RunId::generate(&SystemClock, &SystemChance),
            snapshot: backed.snapshot.clone(),
            repository: Arc::clone(&self.repository) as Arc<dyn Repository>,
            target: Target::Zfs(target),
            clock: Arc::new(SystemClock),
        };
        drill.run(&Progress::unwatched(), &CancellationToken::new()).await.expect("a report")
    }
}

fn name(text: &str) -> Name {
    text.parse().expect("a name")
}

fn dataset(text: &str) -> DatasetName {
    text.parse().expect("a dataset")
}

fn contents_of(backed: &Backed) -> &ZfsContents {
    let Contents::Zfs(contents) = &backed.manifest.contents else { panic!("a ZFS manifest") };
    contents
}

fn needs(backed: &Backed) -> usize {
    contents_of(backed).needs().len()
}

fn chain_of(error: &BackupError) -> String {
    Chain(error).to_string()
}

fn count(report: &Report, what: &str) -> u64 {
    let of = |it: &&Compared| it.what == what;
    report.compared.iter().find(of).map_or(0, |it| it.count)
}

#[tokio::test]
async fn runs_build_on_each_other_and_begin_anew_after_a_while() {
    let house = House::new();
    let mut lengths = Vec::new();
    for number in 0..4 {
        house.file("one", &number.to_string());
        let backed = house.run(house.archived()).await.expect("a run");
        assert_eq!(backed.snapshot.summary.needs, contents_of(&backed).needs());
        lengths.push(needs(&backed));
    }
    assert_eq!(lengths, [0, 1, 2, 0]);
}

#[tokio::test]
async fn a_drill_receives_the_whole_chain_and_leaves_nothing() {
    let house = House::new();
    house.tell(&["mount", "tank/vault"]);
    let source = ZfsSource { count_files: true, ..house.archived() };
    house.run(source.clone()).await.expect("a run");
    house.file("two", "22");
    let backed = house.run(source).await.expect("a run");
    assert_eq!(backed.manifest.warnings, Vec::<String>::new());
    let report = house.drill(&backed, Some(house.folder.path().to_path_buf())).await;
    assert_eq!(report.verdict, Verdict::Passed);
    assert_eq!((count(&report, "streams"), count(&report, "snapshots by guid")), (2, 2));
    assert_eq!((count(&report, "files"), count(&report, "files by content")), (2, 2));
    assert_eq!(house.find("safe/drill").expect("the parent").children, Vec::<String>::new());
}

#[tokio::test]
async fn a_chain_with_a_lost_link_fails_its_drill() {
    let house = House::new();
    let first = house.run(house.archived()).await.expect("a run");
    let second = house.run(house.archived()).await.expect("a run");
    // Somebody forgot the full one with plain restic.
    fs::remove_file(
        house.folder.path().join("repository/snapshots").join(first.snapshot.id.to_string()),
    )
    .expect("a snapshot file");
    let report = house.drill(&second, None).await;
    let Verdict::Failed { differences } = &report.verdict else { panic!("{report:?}") };
    assert!(differences[0].contains("builds on, is not in the repository"), "{differences:?}");
    // The next run sees it as well and does not build on half a chain.
    let third = house.run(house.archived()).await.expect("a run");
    assert_eq!(needs(&third), 0);
}

#[tokio::test]
async fn a_stream_that_is_cut_leaves_nothing_in_the_repository() {
    let house = House::new();
    house.cut(20_000);
    let error = chain_of(&house.run(house.archived()).await.expect_err("cut"));
    assert!(error.contains("nothing of it was kept"), "{error}");
    assert!(error.contains("Input/output error"), "{error}");
    assert_eq!(house.repository.snapshots().expect("a listing"), []);
    // The failed run's snapshot stays until the policy has no use for it.
    assert_eq!(house.find("tank/vault").expect("the dataset").snapshots.len(), 1);
}

#[tokio::test]
async fn a_bookmark_carries_the_chain_on_when_its_base_is_gone() {
    let house = House::new();
    let first = house.run(house.archived()).await.expect("a run");
    let base = &contents_of(&first).snapshot.name;
    let full = format!("tank/vault@{base}");
    house.tell(&["bookmark", &full, &format!("tank/vault#{base}")]);
    house.tell(&["release", "homelab-vault", &full]);
    house.tell(&["destroy", &full]);
    let second = house.run(house.archived()).await.expect("a run");
    assert_eq!(needs(&second), 1);
    assert!(house.calls().contains(&format!("-i tank/vault#{base} ")));
    assert_eq!(house.drill(&second, None).await.verdict, Verdict::Passed);
}

#[tokio::test]
async fn an_encrypted_dataset_is_sent_raw_or_not_at_all() {
    let house = House::new();
    house.tell(&["set", "encryption=aes-256-gcm", "tank/vault"]);
    let backed = house.run(house.archived()).await.expect("a run");
    assert!(house.calls().contains("send -w tank/vault@"));
    assert_eq!(contents_of(&backed).encryption.as_deref(), Some("aes-256-gcm"));
    assert_eq!(house.drill(&backed, None).await.verdict, Verdict::Passed);
    // A program that takes `-w` and sends in the clear all the same.
    fs::write(house.folder.path().join("clear"), "").expect("a file");
    let error = chain_of(&house.run(house.archived()).await.expect_err("in the clear"));
    assert!(error.contains("encrypted dataset in the clear"), "{error}");
}

#[tokio::test]
async fn a_copy_that_was_interrupted_goes_on_from_its_token() {
    let house = House::new();
    house.cut(30_000);
    let error = chain_of(&house.run(house.replicated()).await.expect_err("cut"));
    assert!(error.contains("the next run goes on from there"), "{error}");
    let half = house.find("safe/vault").expect("half a copy");
    assert_eq!(half.snapshots, []);
    house.file("one", "2");
    let backed = house.run(house.replicated()).await.expect("a run");
    let replica = contents_of(&backed).replica.clone().expect("a copy");
    assert!(replica.how.contains("are there already; then @"), "{}", replica.how);
    let copy = house.find("safe/vault").expect("a copy");
    assert_eq!(copy.snapshots.len(), 2);
    assert_eq!(copy.snapshots[1].guid, contents_of(&backed).snapshot.guid);
    assert!(house.calls().contains("send -t 1-") && house.calls().contains("receive -u -s "));
    assert_eq!(house.drill(&backed, None).await.verdict, Verdict::Passed);
}

#[tokio::test]
async fn holds_move_on_with_the_last_common_snapshot() {
    let house = House::new();
    for _ in 0..2 {
        house.run(house.replicated()).await.expect("a run");
    }
    for place in ["tank/vault", "safe/vault"] {
        let held: Vec<u64> =
            house.find(place).expect("a dataset").snapshots.iter().map(|it| it.holds).collect();
        assert_eq!(held.last(), Some(&1), "{place}: {held:?}");
    }
    let copy = house.find("safe/vault").expect("a copy");
    assert_eq!(copy.value("readonly"), Some("on"));
    assert_eq!(copy.snapshots[0].holds, 0);
    assert!(copy.snapshots.iter().all(|it| it.owner.is_some()));
}

#[tokio::test]
async fn a_copy_that_went_its_own_way_is_refused_and_not_touched() {
    let house = House::new();
    house.run(house.replicated()).await.expect("a run");
    house.tell(&["snapshot", "safe/vault@by-hand"]);
    let before = house.find("safe/vault");
    let error = chain_of(&house.run(house.replicated()).await.expect_err("refused"));
    assert!(error.contains("by-hand") && error.contains("zfs rollback -r"), "{error}");
    assert_eq!(house.find("safe/vault"), before);
}

#[tokio::test]
async fn pitfall_39_a_copy_that_fails_beside_an_archive_is_said_and_counts_for_itself() {
    let house = House::new();
    let both = ZfsSource { full_every: Some(3), ..house.replicated() };
    house.run(both.clone()).await.expect("a run");
    house.tell(&["test-written", "safe/vault"]);
    let backed = house.run(both).await.expect("the archive is good");
    assert_eq!(contents_of(&backed).replica, None);
    let warnings = backed.snapshot.summary.warnings.join("\n");
    assert!(warnings.contains("the copy `safe/vault` is behind"), "{warnings}");
    assert!(warnings.contains("8192 bytes of `safe/vault` were written"), "{warnings}");
}

#[tokio::test]
async fn the_policy_destroys_only_what_this_backup_made() {
    let house = House::new();
    house.tell(&["snapshot", "tank/vault@homelab-20200101T000000Z-vault"]);
    house.tell(&["snapshot", "tank/vault@by-hand"]);
    let keep = Policy { hourly: 1, daily: 0, weekly: 0, monthly: 0 };
    let source = ZfsSource { keep, ..house.archived() };
    for _ in 0..4 {
        house.run(source.clone()).await.expect("a run");
    }
    let left = house.find("tank/vault").expect("the dataset").snapshots;
    let ours = left.iter().filter(|it| it.owner.is_some()).count();
    // The newest, and the one before, which the repository is known to hold.
    assert_eq!((left.len() - ours, ours), (2, 2), "{left:?}");
    for line in house.calls().lines().filter(|line| line.starts_with("destroy")) {
        assert!(line.starts_with("destroy tank/vault@homelab-2"), "{line}");
    }
}

#[tokio::test]
async fn what_somebody_else_calls_a_drill_is_not_swept() {
    let house = House::new();
    let run = RunId::generate(&SystemClock, &SystemChance);
    let foreign = format!("safe/drill/homelab-drill-{run}");
    house.tell(&["create", &foreign]);
    let run = RunId::generate(&SystemClock, &SystemChance);
    let ours = format!("safe/drill/homelab-drill-{run}");
    house.tell(&["create", "-o", &format!("homelab:drill={run}:here"), &ours]);
    let target = Target::Zfs(ZfsTarget {
        name: name("scratch"),
        parent: dataset("safe/drill"),
        zfs: house.zfs.clone(),
        mount_below: None,
        owner: "here".to_owned(),
    });
    let removed = crate::drill::sweep(&target, run, |_| false).expect("swept");
    assert_eq!(removed, [ours]);
    assert_eq!(house.find("safe/drill").expect("the parent").children, [foreign]);
}

#[tokio::test]
async fn the_printed_commands_name_the_chain_in_order() {
    let house = House::new();
    let first = house.run(house.archived()).await.expect("a run");
    let second = house.run(house.archived()).await.expect("a run");
    let steps = crate::restore::next_steps(Path::new("/srv/it's"), &second.manifest.contents);
    let at = |text: &str| {
        let found = steps.iter().position(|step| step.contains(text));
        found.unwrap_or_else(|| panic!("{text}: {steps:#?}"))
    };
    let earlier = at(&format!("restic dump --tag homelab,verified,run={}", first.snapshot.run));
    assert!(
        steps[earlier].contains(" latest /vault/stream.zfs | zfs receive -u tank/vault-restored")
    );
    let own = at(r"zfs receive -u tank/vault-restored < '/srv/it'\''s/stream.zfs'");
    assert!(earlier < own && own < at("zfs get -H -o value guid"));
    assert!(own < at("zfs set recordsize=1048576 tank/vault-restored"));
}

#[tokio::test]
async fn an_inspection_names_what_is_left_out_and_changes_nothing() {
    let house = House::new();
    house.tell(&["create", "tank/vault/child"]);
    let run = RunId::generate(&SystemClock, &SystemChance);
    let findings = house.replicated().inspect(run).await.expect("findings").join("\n");
    assert!(findings.contains("not part of this backup: tank/vault/child"), "{findings}");
    assert!(findings.contains("`safe/vault` (zfs-2.3.9-1) would be made"), "{findings}");
    assert_eq!(house.find("tank/vault").expect("the dataset").snapshots, []);
}
