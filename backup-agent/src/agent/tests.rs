//! Several repositories, real ones, and a source that always has something to say.

use std::{fs, io::Cursor, path::PathBuf};

use async_trait::async_trait;
use homelab_common::{chance::SystemChance, clock::SystemClock, lifecycle::Tasks, secret::Secret};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    journal::Journal,
    manifest::{Contents, FILE_NAME as MANIFEST, FORMAT, Manifest},
    progress::Progress,
    replicate::{ReplicateError, Replication},
    repository::{Incoming, SourceKind, identity::Place, restic::ResticRepository},
    source::{
        Capture, Context, Source, SourceError,
        postgres::{DATABASE_FILE, manifest::PostgresContents},
    },
    stream::{Later, Measured},
};

/// A source whose one file is this long.
#[derive(Debug)]
struct Bytes(usize);

#[async_trait]
impl Source for Bytes {
    fn kind(&self) -> SourceKind {
        SourceKind::Postgres
    }

    async fn inspect(&self, _run: RunId) -> Result<Vec<String>, SourceError> {
        Ok(Vec::new())
    }

    async fn begin(&self, context: Context) -> Result<Capture, SourceError> {
        let bytes: Vec<u8> = (0..=250_u8).cycle().take(self.0).collect();
        let (content, gauge) = Measured::new(Box::new(Cursor::new(bytes)), context.cancel.clone());
        let mut dumped = gauge.clone();
        let (later, promise) = Later::new();
        let (last, last_gauge) = Measured::new(Box::new(later), context.cancel.clone());
        let files = vec![
            Incoming { name: DATABASE_FILE.to_owned(), content, gauge },
            Incoming { name: MANIFEST.to_owned(), content: last, gauge: last_gauge },
        ];
        let taken_at = Timestamp::now();
        let completion = Box::pin(async move {
            let receipt = dumped.finished().await.expect("read to its end");
            let file = crate::repository::StoredFile {
                name: DATABASE_FILE.to_owned(),
                bytes: receipt.bytes,
                sha256: receipt.sha256,
            };
            let manifest = Manifest {
                format: FORMAT,
                run: context.run,
                backup: context.backup,
                taken_at,
                files: vec![file],
                warnings: vec!["a branch was rewritten".to_owned()],
                contents: Contents::Postgres(nothing()),
            };
            promise.keep(manifest.to_bytes().expect("a manifest"));
            Ok(manifest)
        });
        Ok(Capture { taken_at, files, completion })
    }
}

const fn nothing() -> PostgresContents {
    PostgresContents { dump_version: String::new(), tablespaces: Vec::new(), databases: Vec::new() }
}

fn named(text: &str) -> Name {
    text.parse().expect("a name")
}

fn repository(folder: &std::path::Path, name: &str) -> Arc<dyn Repository> {
    let place =
        Place { path: folder.join(name), id: Uuid::from_u128(name.len() as u128), mount: None };
    let password = Secret::new("correct horse".to_owned());
    let (host, clock) = ("db".to_owned(), Arc::new(SystemClock));
    let repository = ResticRepository::new(named(name), place, password, host, clock);
    if !folder.join(name).exists() {
        fs::create_dir(folder.join(name)).expect("a folder");
        repository.init().expect("a repository");
    }
    Arc::new(repository)
}

/// An agent with a backup `wiki` in `nas`, copied to `usb`, with `local` as its spool.
fn agent(folder: &std::path::Path) -> Agent {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let journal = Arc::new(Journal::open(folder).expect("a journal"));
    let mut repositories = BTreeMap::new();
    for name in ["nas", "usb", "local"] {
        let kept = Kept {
            repository: repository(folder, name),
            path: folder.join(name),
            id: Uuid::nil(),
            whereabouts: Whereabouts::default(),
            door: Door::default(),
        };
        repositories.insert(named(name), kept);
    }
    let of = |name: &str| Arc::clone(&repositories[&named(name)].repository);
    let backup =
        Backup { name: named("wiki"), source: Arc::new(Bytes(300_000)), repository: of("nas") };
    let declared =
        Declared { backup, copies: vec![of("usb")], spool: Some(of("local")), drill_target: None };
    Agent {
        backups: BTreeMap::from([(named("wiki"), declared)]),
        repositories,
        targets: BTreeMap::new(),
        runs: Runs::new(journal, Tasks::default(), Arc::clone(&clock)),
        copies: Copies::default(),
        clock,
        chance: Arc::new(SystemChance),
    }
}

/// Runs the backup to its end and says where it is.
async fn back_up(agent: &Agent) -> Name {
    let mut watched = agent.run_backup(agent.new_run(), "wiki").await.expect("begun");
    let ended = watched.end.wait_for(Option::is_some).await.expect("an end").clone();
    match &ended.expect("an end").end {
        End::Backup(backed) => backed.repository.clone(),
        other => panic!("{other:?}"),
    }
}

fn away(folder: &std::path::Path, name: &str) -> (PathBuf, PathBuf) {
    let (here, elsewhere) = (folder.join(name), folder.join(format!("{name}-away")));
    fs::rename(&here, &elsewhere).expect("moved");
    (elsewhere, here)
}

fn back((elsewhere, here): (PathBuf, PathBuf)) {
    fs::rename(elsewhere, here).expect("moved back");
}

async fn state_of(agent: &Agent, name: &str) -> CopyStanding {
    let standings = agent.standings("wiki").await.expect("standings");
    standings.into_iter().find(|one| one.repository == named(name)).expect("a standing")
}

async fn replicate(agent: &Agent) {
    agent.replicate(&agent.backups[&named("wiki")]).await;
}

fn listed(agent: &Agent, name: &str) -> Vec<Snapshot> {
    agent.repositories[&named(name)].repository.snapshots().expect("a listing")
}

#[tokio::test]
async fn pitfall_39_each_repository_has_its_own_standing_and_a_copy_that_failed_is_made_later() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let agent = agent(dir.path());
    let usb = away(dir.path(), "usb");
    assert_eq!(back_up(&agent).await, named("nas"));
    replicate(&agent).await;
    assert_eq!(state_of(&agent, "nas").await.state, CopyState::Stored);
    let CopyState::Unknown(why) = state_of(&agent, "usb").await.state else { panic!("known") };
    assert!(why.is_of_place(), "{why:?}");
    back(usb);
    // Known again, and what went wrong last is still said.
    let standing = state_of(&agent, "usb").await;
    assert!(matches!(standing.state, CopyState::Failed(_)), "{standing:?}");
    assert_eq!(standing.waiting, 1);
    replicate(&agent).await;
    let standing = state_of(&agent, "usb").await;
    assert_eq!((standing.state, standing.waiting), (CopyState::Stored, 0));
    let (first, copy) = (&listed(&agent, "nas")[0], &listed(&agent, "usb")[0]);
    assert_eq!((first.run, &first.files), (copy.run, &copy.files));
    assert_eq!((first.taken_at, &first.summary), (copy.taken_at, &copy.summary));
}

#[tokio::test]
async fn pitfall_16_a_run_goes_to_the_spool_and_drains_by_itself_even_after_a_restart() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let first = agent(dir.path());
    let nas = away(dir.path(), "nas");
    assert_eq!(back_up(&first).await, named("local"));
    assert!(matches!(state_of(&first, "nas").await.state, CopyState::Unknown(_)));
    replicate(&first).await;
    assert_eq!(listed(&first, "local").len(), 1, "it waits");
    assert_eq!(listed(&first, "usb").len(), 1, "and is copied meanwhile");
    drop(first);

    back(nas);
    let again = agent(dir.path());
    assert_eq!(state_of(&again, "nas").await.waiting, 1);
    replicate(&again).await;
    assert_eq!(listed(&again, "local"), []);
    assert_eq!(listed(&again, "nas").len(), 1);
    let standing = state_of(&again, "nas").await;
    assert_eq!((standing.state, standing.waiting), (CopyState::Stored, 0));
    assert_eq!(back_up(&again).await, named("nas"));
}

#[tokio::test]
async fn what_was_drained_and_not_forgotten_is_not_stored_twice() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let agent = agent(dir.path());
    let nas = away(dir.path(), "nas");
    back_up(&agent).await;
    back(nas);
    let spooled = listed(&agent, "local").remove(0);
    let of = |name: &str| Arc::clone(&agent.repositories[&named(name)].repository);
    let replication = Replication { snapshot: spooled, from: of("local"), to: of("nas") };
    let copied = tokio::task::spawn_blocking(move || {
        replication.run(&Progress::unwatched(), &CancellationToken::new())
    });
    copied.await.expect("copied").expect("copied");
    // As if the process had died right there.
    replicate(&agent).await;
    assert_eq!((listed(&agent, "nas").len(), listed(&agent, "local").len()), (1, 0));
}

#[tokio::test]
async fn a_damaged_snapshot_is_not_copied() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let agent = agent(dir.path());
    back_up(&agent).await;
    let snapshot = listed(&agent, "nas").remove(0);
    let packs = fs::read_dir(dir.path().join("nas/data")).expect("a folder").flatten();
    for pack in packs.flat_map(|folder| fs::read_dir(folder.path()).expect("a folder").flatten()) {
        let mut bytes = fs::read(pack.path()).expect("a pack");
        bytes[40] ^= 1;
        fs::remove_file(pack.path()).expect("removed");
        fs::write(pack.path(), bytes).expect("written");
    }
    let of = |name: &str| Arc::clone(&agent.repositories[&named(name)].repository);
    let replication = Replication { snapshot, from: of("nas"), to: of("usb") };
    let copied = tokio::task::spawn_blocking(move || {
        replication.run(&Progress::unwatched(), &CancellationToken::new())
    });
    let error = copied.await.expect("ended").expect_err("damaged");
    assert!(matches!(error, ReplicateError::Read { .. }), "{error:?}");
    assert_eq!(listed(&agent, "usb"), []);
    assert_eq!(of("usb").unverified().expect("a listing"), []);
}

#[tokio::test]
async fn a_new_repository_begins_with_the_newest_run() {
    let dir = tempfile::tempdir().expect("a scratch directory");
    let agent = agent(dir.path());
    for _ in 0..3 {
        back_up(&agent).await;
    }
    replicate(&agent).await;
    let (nas, usb) = (listed(&agent, "nas"), listed(&agent, "usb"));
    assert_eq!((nas.len(), usb.len()), (3, 1));
    assert_eq!(nas[0].run, usb[0].run);
    back_up(&agent).await;
    back_up(&agent).await;
    replicate(&agent).await;
    assert_eq!(listed(&agent, "usb").len(), 3);
}
