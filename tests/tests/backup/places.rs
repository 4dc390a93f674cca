//! Places that hang, forget, refuse to flush and lie: what the kernel says of them, a repository
//! must take for what it is.

use std::{
    fs,
    io::{self, Read},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use homelab_backup_agent::{
    progress::Progress,
    repository::{
        Incoming, Repository, RepositoryError, Snapshot,
        identity::{GuardError, MountRule, Place},
        probe::Grade,
        restic::ResticRepository,
    },
    stream::{Content, Measured},
};
use homelab_common::{clock::SystemClock, error_chain::Chain, secret::Secret};
use homelab_tests::{
    faultfs::{Fault, FaultFs, TYPES},
    postgres::run,
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::bench::*;

const FILE: &str = "database.sql";

/// A share of a server with a repository in it, as this host mounts it.
struct Nas {
    // Unmounted before its folder goes.
    mount: Arc<FaultFs>,
    repository: ResticRepository,
    folder: TempDir,
}

impl Nas {
    fn new() -> Self {
        let nas = Self::empty();
        nas.repository.init().expect("a repository");
        nas
    }

    fn empty() -> Self {
        let folder = tempfile::tempdir().expect("a scratch directory");
        let (server, here) = (folder.path().join("server"), folder.path().join("mnt"));
        fs::create_dir_all(server.join("share")).expect("a folder");
        fs::create_dir(&here).expect("a folder");
        let mount = Arc::new(FaultFs::mount(&server, &here));
        let rule =
            MountRule { mount_point: here.clone(), filesystems: TYPES.map(str::to_owned).to_vec() };
        let place =
            Place { path: here.join("share"), id: Uuid::from_u128(0xbac0), mount: Some(rule) };
        let password = Secret::new(REPOSITORY_PASSWORD.to_owned());
        let host = "hx310-db".to_owned();
        let repository =
            ResticRepository::new(name("nas"), place, password, host, Arc::new(SystemClock))
                .with_deadline(Duration::from_secs(1));
        Self { mount, repository, folder }
    }

    /// The share as the server has it.
    fn share(&self) -> PathBuf {
        self.folder.path().join("server/share")
    }

    fn store(&self, content: impl Content + 'static) -> Result<Snapshot, RepositoryError> {
        let (content, gauge) = Measured::new(Box::new(content), CancellationToken::new());
        let files = vec![Incoming { name: FILE.to_owned(), content, gauge }];
        let stored = self.repository.store(&intent(new_run()), files)?;
        self.repository.publish(&stored, &Progress::unwatched(), &CancellationToken::new())
    }

    fn stored(&self, seed: u64) -> Snapshot {
        self.store(io::Cursor::new(noise(seed))).unwrap_or_else(|error| panic!("{}", Chain(&error)))
    }

    fn read(&self, snapshot: &Snapshot) -> Vec<u8> {
        let (mut bytes, path) = (Vec::new(), snapshot.path_of(FILE));
        let cancel = CancellationToken::new();
        self.repository.read(&snapshot.id, &path, &mut bytes, &cancel).expect("read");
        bytes
    }

    /// Nothing but these can be had, whole, and another program finds no fault.
    fn has_only(&self, expected: &[(&Snapshot, u64)]) {
        let listed = self.repository.snapshots().expect("a listing");
        assert_eq!(listed.len(), expected.len(), "{listed:?}");
        for (snapshot, seed) in expected {
            assert!(listed.contains(snapshot), "{snapshot:?} is gone");
            assert!(self.read(snapshot) == noise(*seed), "{snapshot:?} is another one");
        }
        let checking = Bench::restic_of(&self.share(), &["check", "--read-data", "--no-lock"]);
        let checked = run(checking).text();
        assert!(checked.contains("no errors were found"), "{checked}");
    }
}

/// As much as several packets, always the same for a seed.
fn noise(seed: u64) -> Vec<u8> {
    let step = |at: u64| at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(seed | 1);
    let states = std::iter::successors(Some(step(seed)), |at| Some(step(*at)));
    states.map(|at| (at >> 56) as u8).take(400_000).collect()
}

/// A stream in the middle of which something happens.
struct Struck<F> {
    bytes: io::Cursor<Vec<u8>>,
    strike: Option<F>,
}

impl<F: FnOnce() + Send> Read for Struck<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.bytes.position() > 200_000
            && let Some(strike) = self.strike.take()
        {
            strike();
        }
        let length = buffer.len().min(50_000);
        self.bytes.read(buffer.get_mut(..length).unwrap_or_default())
    }
}

impl<F: FnOnce() + Send> Content for Struck<F> {
    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn struck(seed: u64, strike: impl FnOnce() + Send + 'static) -> impl Content {
    Struck { bytes: io::Cursor::new(noise(seed)), strike: Some(strike) }
}

#[test]
fn pitfall_16_a_mount_that_hangs_in_the_middle_of_a_run_ends_it_and_serves_the_next() {
    let nas = Nas::new();
    let first = nas.stored(1);
    let mount = Arc::clone(&nas.mount);
    let began = Instant::now();
    let ended = nas.store(struck(2, move || mount.suffer(Fault::Hangs)));
    let Err(RepositoryError::Guard(error @ GuardError::Hanging(_))) = ended else {
        panic!("not given up: {ended:?}")
    };
    assert!(error.to_string().contains("hangs since"), "{error}");
    // Whoever asks meanwhile is told so at once, and waits behind nothing.
    for _ in 0..50 {
        let refused = nas.repository.snapshots();
        assert!(matches!(refused, Err(RepositoryError::Guard(GuardError::Hanging(_)))));
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    nas.mount.recover();
    wait_until("the mount serves again", || nas.repository.guard().is_ok());
    let next = nas.stored(2);
    nas.has_only(&[(&first, 1), (&next, 2)]);
}

#[test]
fn pitfall_16_a_server_that_forgets_all_handles_in_the_middle_of_a_run_fails_nothing() {
    let nas = Nas::new();
    let first = nas.stored(1);
    let mount = Arc::clone(&nas.mount);
    let second = nas.store(struck(2, move || mount.forget_handles())).expect("stored");
    nas.has_only(&[(&first, 1), (&second, 2)]);
}

#[test]
fn pitfall_16_after_a_stale_handle_only_the_same_repository_is_written_to() {
    let nas = Nas::new();
    let first = nas.stored(1);
    let (mount, share) = (Arc::clone(&nas.mount), nas.share());
    let aside = share.with_file_name("aside");
    let (from, to) = (share.clone(), aside.clone());
    let ended = nas.store(struck(2, move || {
        fs::rename(&from, &to).expect("moved");
        fs::create_dir(&from).expect("another share");
        mount.forget_handles();
    }));
    let said = Chain(&ended.expect_err("another place")).to_string();
    assert!(said.contains("holds no homelab repository"), "{said}");
    assert_eq!(fs::read_dir(&share).expect("a folder").count(), 0, "something was made there");
    fs::remove_dir(&share).expect("removed");
    fs::rename(&aside, &share).expect("moved back");
    nas.mount.forget_handles();
    nas.has_only(&[(&first, 1)]);
}

#[test]
fn pitfall_17_a_mount_without_flushing_of_names_is_used_and_called_weak() {
    let nas = Nas::empty();
    nas.mount.suffer(Fault::NoFlushOfNames);
    nas.repository.init().expect("a repository");
    let Grade::Weak(because) = nas.repository.probe().expect("probed").grade else {
        panic!("not weak")
    };
    assert_eq!(because, ["names of files cannot be flushed"]);
    let snapshot = nas.stored(1);
    let warnings = &snapshot.summary.warnings;
    assert!(warnings.iter().any(|it| it.contains("names of files cannot be")), "{warnings:?}");
    nas.has_only(&[(&snapshot, 1)]);
}

#[test]
fn pitfall_17_a_flush_that_fails_fails_the_run() {
    let nas = Nas::new();
    let first = nas.stored(1);
    nas.mount.suffer(Fault::FailsToFlushNames);
    assert!(nas.store(io::Cursor::new(noise(2))).is_err());
    nas.mount.recover();
    nas.has_only(&[(&first, 1)]);
}

#[test]
fn pitfall_17_nothing_is_stored_on_a_mount_that_loses_or_mixes_up_files() {
    let nas = Nas::new();
    for (fault, what) in [
        (Fault::NoFlush, "files cannot be flushed"),
        (Fault::NoReplacing, "cannot be renamed over"),
        (Fault::ForgetsRenames, "leaves the file under its old name"),
        (Fault::ForgetsRemovals, "a removed file is still there"),
        (Fault::FlipsABit(""), "with other content"),
        (Fault::Cuts(""), "with other content"),
    ] {
        nas.mount.suffer(fault);
        let ended = nas.store(io::Cursor::new(noise(1)));
        let Err(RepositoryError::Guard(error @ GuardError::Unsafe { .. })) = ended else {
            panic!("{fault:?}: {ended:?}")
        };
        assert!(error.to_string().contains(what), "{fault:?}: {error}");
        nas.mount.recover();
    }
    nas.has_only(&[]);
    let good = nas.stored(1);
    nas.has_only(&[(&good, 1)]);
}

#[test]
fn pitfall_18_what_only_close_says_was_lost_fails_the_run() {
    let nas = Nas::new();
    let first = nas.stored(1);
    for (below, seed) in [("share/data", 2), ("share/index", 3), ("share/snapshots", 4)] {
        nas.mount.suffer(Fault::FailsToClose(below));
        let ended = nas.store(io::Cursor::new(noise(seed)));
        assert!(matches!(ended, Err(RepositoryError::NoRoom { .. })), "{below}: {ended:?}");
        nas.mount.recover();
        nas.has_only(&[(&first, 1)]);
    }
    let next = nas.stored(2);
    nas.has_only(&[(&first, 1), (&next, 2)]);
}

#[test]
fn pitfall_18_what_the_server_keeps_otherwise_than_it_was_sent_is_found_out_at_once() {
    let nas = Nas::new();
    let mut good = vec![nas.stored(1)];
    for below in ["share/data", "share/index", "share/snapshots"] {
        for fault in [Fault::FlipsABit(below), Fault::Cuts(below)] {
            let seed = good.len() as u64 + 1;
            nas.mount.suffer(fault);
            let ended = nas.store(io::Cursor::new(noise(seed)));
            assert!(matches!(ended, Err(RepositoryError::Damaged { .. })), "{fault:?}: {ended:?}");
            nas.mount.recover();
            assert_eq!(nas.repository.snapshots().expect("a listing").len(), good.len());
            good.push(nas.stored(seed));
        }
    }
    let seeds = good.iter().zip(1..);
    nas.has_only(&seeds.collect::<Vec<_>>());
}

#[test]
fn a_place_that_dies_after_any_number_of_changes_keeps_what_it_had_and_takes_the_next_run() {
    let nas = Nas::new();
    let first = nas.stored(1);
    let mut changes = 0;
    let last = loop {
        nas.mount.suffer(Fault::DiesAfter(changes));
        // Another one each time: what a run has stored, the next need not store again.
        let seed = 2 + u64::from(changes);
        let ended = nas.store(io::Cursor::new(noise(seed)));
        let is_dead = nas.mount.changes() > changes;
        nas.mount.recover();
        let listed = nas.repository.snapshots().expect("a listing");
        if let Err(error) = &ended {
            assert!(is_dead, "{}", Chain(error));
        }
        // Not there at all; or whole, if it died once the snapshot had its name.
        if let [last, _] = listed.as_slice() {
            break (last.clone(), seed);
        }
        assert_eq!(listed, std::slice::from_ref(&first), "after {changes} changes");
        assert!(ended.is_err(), "after {changes} changes");
        changes += 1;
    };
    assert!(changes > 20, "a run changes more than {changes} times");
    nas.has_only(&[(&first, 1), (&last.0, last.1)]);
    let next = nas.stored(1);
    nas.has_only(&[(&first, 1), (&last.0, last.1), (&next, 1)]);
}
