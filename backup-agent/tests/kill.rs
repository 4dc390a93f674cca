//! The real program, killed at every step that is listed: earlier snapshots stay intact, the
//! next run goes on, and nothing of anybody else is removed.

#![expect(clippy::expect_used, clippy::panic, reason = "a test may stop at the first surprise")]

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use homelab_backup_agent::{
    drill::{
        self, Target,
        folder::{FolderTarget, FolderTools, MARKER, PREFIX},
    },
    failpoint::{STEPS, VARIABLE},
    ids::RunId,
    repository::{Repository, Snapshot, identity::Place, restic::ResticRepository},
};
use homelab_common::{
    chance::SystemChance,
    clock::SystemClock,
    exec::{Exec, ExecError, Program, SystemExec},
    secret::Secret,
};
use tempfile::TempDir;
use uuid::Uuid;

const PASSWORD: &str = "correct horse battery staple";
const HOST: &str = "hx310-db";
const RUN_MAX: Duration = Duration::from_secs(300);

fn steps(of: &str) -> Vec<&'static str> {
    let prefix = format!("{of}.");
    STEPS.iter().copied().filter(|step| step.starts_with(&prefix)).collect()
}

#[test]
fn every_listed_step_belongs_to_one_of_these_tests() {
    let groups: BTreeSet<&str> =
        STEPS.iter().map(|step| step.split('.').next().expect("a group")).collect();
    // Those of `zfs`, and of drills in databases and datasets, are reached on real ones beside the lab.
    let known = ["backup", "copy", "drill", "prune", "restore", "retention", "zfs"];
    assert_eq!(groups, BTreeSet::from(known));
}

/// A host with a tree to back up, a repository, a spool and a folder to drill in.
struct Host {
    folder: TempDir,
}

impl Host {
    fn new() -> Self {
        let host = Self { folder: tempfile::tempdir().expect("a scratch directory") };
        for folder in ["tree", "nas", "local", "drills"] {
            fs::create_dir(host.path(folder)).expect("a folder");
        }
        let noise: Vec<u8> =
            (0..400_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        fs::write(host.path("tree/noise"), noise).expect("a file");
        fs::write(host.path("tree/text"), "first").expect("a file");
        let password = host.path("password");
        fs::write(&password, PASSWORD).expect("a secret");
        fs::set_permissions(&password, fs::Permissions::from_mode(0o600)).expect("chmod");
        fs::write(host.path("backup-agent.toml"), host.config()).expect("a configuration");
        for name in ["nas", "local"] {
            host.repository(name).init().expect("a repository");
        }
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn config(&self) -> String {
        let path = |name: &str| self.path(name).display().to_string();
        let repository = |name: &str| {
            format!(
                "[[repository]]\nname = \"{name}\"\npath = \"{}\"\nid = \"{}\"\npassword = \"{}\"\n\
                 require-mount = false\n",
                path(name),
                id_of(name),
                path("password")
            )
        };
        format!(
            "listen = \"127.0.0.1:0\"\nstate-dir = \"{}\"\nadmin-socket = false\nhost = \"{HOST}\"\n\
             {}{}[[backup]]\nname = \"etc\"\nsource = \"files\"\nrepository = \"nas\"\n\
             spool = \"local\"\nroots = [\"{}\"]\n\
             [[drill-target]]\nname = \"scratch\"\nkind = \"folder\"\npath = \"{}\"\n",
            path("state"),
            repository("nas"),
            repository("local"),
            path("tree"),
            path("drills")
        )
    }

    fn repository(&self, name: &str) -> ResticRepository {
        let place = Place { path: self.path(name), id: id_of(name), mount: None };
        let (password, clock) = (Secret::new(PASSWORD.to_owned()), Arc::new(SystemClock));
        let name = name.parse().expect("a name");
        ResticRepository::new(name, place, password, HOST.to_owned(), clock)
    }

    fn snapshots(&self, name: &str) -> Vec<Snapshot> {
        self.repository(name).snapshots().expect("a listing")
    }

    fn program(&self, args: &[&str]) -> Program {
        let config = self.path("backup-agent.toml").display().to_string();
        Program::new(env!("CARGO_BIN_EXE_homelab-backup-agent"))
            .args(["--config", &config])
            .args(args.iter().copied())
            // What one that is killed leaves behind goes with the host.
            .env("TMPDIR", self.folder.path().display().to_string())
            .deadline(RUN_MAX)
    }

    /// Runs it to its end.
    async fn does(&self, args: &[&str]) -> String {
        match SystemExec.run(self.program(args)).await {
            Ok(output) => String::from_utf8(output.stdout).expect("text"),
            Err(error) => panic!("{args:?}: {error:?}"),
        }
    }

    /// Runs it until it is killed at this step.
    async fn dies(&self, args: &[&str], step: &str) {
        match SystemExec.run(self.program(args).env(VARIABLE, step)).await {
            Err(ExecError::Exit { signal: Some(9), .. }) => {}
            other => panic!("{step} was not reached by {args:?}: {other:?}"),
        }
    }

    /// By the independent program: everything is whole.
    async fn is_sound_to_restic(&self, name: &str) {
        assert!(Path::new("/usr/bin/restic").is_file(), "no restic: apt install restic");
        let checking = Program::new("restic")
            .args(["--no-cache", "--repo", &self.path(name).display().to_string()])
            .args(["check", "--read-data"])
            .env("RESTIC_PASSWORD", PASSWORD)
            .deadline(RUN_MAX);
        let checked = SystemExec.run(checking).await;
        let text = String::from_utf8(checked.expect("a sound repository").stdout).expect("text");
        assert!(text.contains("no errors were found"), "{text}");
    }

    fn target(&self) -> Target {
        let (exec, clock) = (Arc::new(SystemExec), Arc::new(SystemClock));
        Target::Folder(FolderTarget {
            vaultwarden: None,
            name: "scratch".parse().expect("a name"),
            path: self.path("drills"),
            owner: HOST.to_owned(),
            tools: FolderTools { exec, clock, run_max: RUN_MAX },
        })
    }
}

fn id_of(name: &str) -> Uuid {
    Uuid::from_u128(name.len() as u128)
}

fn names_in(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).expect("a folder").flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[tokio::test]
async fn a_backup_killed_at_any_step_harms_nothing_and_the_next_one_goes_on() {
    let host = Host::new();
    host.does(&["backup", "etc"]).await;
    let first = host.snapshots("nas").remove(0);
    fs::write(host.path("tree/text"), "second, and longer").expect("a file");
    for step in steps("backup") {
        let before = host.snapshots("nas");
        host.dies(&["backup", "etc"], step).await;
        let after = host.snapshots("nas");
        assert!(before.iter().all(|snapshot| after.contains(snapshot)), "{step}");
        // Complete, or not there at all.
        let is_published = step == "backup.published";
        assert_eq!(after.len(), before.len() + usize::from(is_published), "{step}");
    }
    host.is_sound_to_restic("nas").await;
    host.does(&["backup", "etc"]).await;
    assert!(host.snapshots("nas").contains(&first));
    host.does(&["verify", "nas", "--read-data"]).await;
    host.does(&["drill", "nas", "latest:etc", "scratch"]).await;
    host.is_sound_to_restic("nas").await;
}

#[tokio::test]
async fn what_a_killed_command_left_in_the_temporary_folder_is_gone_with_the_next() {
    let host = Host::new();
    let private = || {
        let names = names_in(host.folder.path()).into_iter();
        names.filter(|name| name.starts_with("homelab-backup-agent-")).count()
    };
    host.dies(&["backup", "etc"], "backup.source-open").await;
    assert_eq!(private(), 1, "a killed command cannot clear up");
    host.does(&["backup", "etc"]).await;
    assert_eq!(private(), 0);
}

#[tokio::test]
async fn a_spool_killed_at_any_step_of_draining_loses_nothing_and_stores_nothing_twice() {
    let host = Host::new();
    for step in steps("copy") {
        let known = host.snapshots("nas").len();
        let elsewhere = host.path("nas-away");
        fs::rename(host.path("nas"), &elsewhere).expect("moved");
        let said = host.does(&["backup", "etc"]).await;
        assert!(said.contains("repository `local`"), "{said}");
        let run = host.snapshots("local").remove(0).run;
        fs::rename(&elsewhere, host.path("nas")).expect("moved back");

        host.dies(&["copy", "etc"], step).await;
        let places = ["nas", "local"].map(|name| host.snapshots(name));
        assert!(places.iter().flatten().any(|snapshot| snapshot.run == run), "{step} lost it");
        host.does(&["copy", "etc"]).await;
        assert_eq!(host.snapshots("local"), [], "{step}");
        assert_eq!(host.snapshots("nas").len(), known + 1, "{step}");
        assert_eq!(host.snapshots("nas")[0].run, run, "{step}");
    }
    host.is_sound_to_restic("nas").await;
    host.is_sound_to_restic("local").await;
}

#[tokio::test]
async fn a_drill_killed_at_any_step_is_swept_by_name_and_marker_and_nothing_else_is() {
    let host = Host::new();
    host.does(&["backup", "etc"]).await;
    let drills = host.path("drills");
    let foreign = RunId::generate(&SystemClock, &SystemChance);
    let unmarked = drills.join(format!("{PREFIX}{foreign}"));
    fs::create_dir(&unmarked).expect("a folder");
    fs::write(unmarked.join("precious"), "theirs").expect("a file");
    let another = RunId::generate(&SystemClock, &SystemChance);
    let of_another_host = drills.join(format!("{PREFIX}{another}"));
    fs::create_dir(&of_another_host).expect("a folder");
    fs::write(of_another_host.join(MARKER), format!("{another} nas\n")).expect("a marker");
    let theirs = names_in(&drills);
    for step in steps("drill") {
        host.dies(&["drill", "nas", "latest:etc", "scratch"], step).await;
        let left = names_in(&drills).len() - theirs.len();
        assert_eq!(left, usize::from(step != "drill.removed"), "{step}");
        let sweeper = RunId::generate(&SystemClock, &SystemChance);
        let removed = drill::sweep(&host.target(), sweeper, |_| false).expect("swept");
        assert_eq!((removed.len(), names_in(&drills)), (left, theirs.clone()), "{step}");
    }
    assert_eq!(fs::read(unmarked.join("precious")).expect("a file"), b"theirs");
    let said = host.does(&["drill", "nas", "latest:etc", "scratch"]).await;
    assert!(said.starts_with("passed"), "{said}");
    assert_eq!(names_in(&drills), theirs);
    host.is_sound_to_restic("nas").await;
}

#[tokio::test]
async fn a_restore_over_a_folder_killed_at_any_step_keeps_the_old_content_or_the_new_whole() {
    let host = Host::new();
    host.does(&["backup", "etc"]).await;
    for step in steps("restore") {
        let target = host.path(&format!("target-{step}"));
        fs::create_dir(&target).expect("a folder");
        fs::write(target.join("old"), "precious").expect("a file");
        let target_text = target.display().to_string();
        let args = ["restore", "nas", "latest:etc", &target_text, "--replace", "etc"];
        host.dies(&args, step).await;
        let is_new = target.join("manifest.json").exists();
        assert_eq!(is_new, step == "restore.exchanged", "{step}");
        assert_ne!(target.join("old").exists(), is_new, "{step}");
        let beside: Vec<PathBuf> = names_in(host.folder.path())
            .into_iter()
            .filter(|name| name.starts_with(&format!("target-{step}.before-")))
            .map(|name| host.path(&name))
            .collect();
        let kept = |folder: &PathBuf| folder.join("old").exists();
        assert!(!is_new || beside.iter().any(kept), "{step} lost the old content");
        host.does(&args).await;
        assert!(target.join("manifest.json").exists() && !target.join("old").exists(), "{step}");
    }
}

#[tokio::test]
async fn retention_by_hand_killed_at_any_step_deletes_nothing_that_was_not_named() {
    let host = Host::new();
    for text in ["first", "second", "third"] {
        fs::write(host.path("tree/text"), text).expect("a file");
        host.does(&["backup", "etc"]).await;
    }
    let all = host.snapshots("nas");
    let (oldest, others) = all.split_last().expect("three snapshots");
    let id = oldest.id.as_str();
    let hide = ["forget", "nas", id];
    let delete = ["forget", "nas", id, "--delete", "--after-days", "0"];

    host.dies(&hide, "retention.shown").await;
    assert_eq!(host.snapshots("nas"), all);
    host.dies(&hide, "retention.hidden").await;
    // Hidden, and there to be had back.
    assert_eq!(host.snapshots("nas"), others);
    assert_eq!(host.repository("nas").forgotten().expect("a listing")[0].snapshot, *oldest);
    host.dies(&delete, "retention.deleted").await;
    for step in steps("prune") {
        host.dies(&["prune", "nas"], step).await;
        assert_eq!(host.snapshots("nas"), others, "{step}");
        host.is_sound_to_restic("nas").await;
    }
    host.does(&["prune", "nas"]).await;
    host.does(&["verify", "nas", "--read-data"]).await;
    host.does(&["backup", "etc"]).await;
    host.is_sound_to_restic("nas").await;
}
