//! The repository as a whole, with the `restic` program as its auditor.

mod damage;
mod kill;
mod place;
mod retention;
mod sftp;

use std::{
    fs,
    io::Cursor,
    path::{Path, PathBuf},
    sync::Arc,
};

use homelab_common::{
    chance::SystemChance,
    clock::{ManualClock, SystemClock},
    exec::{Exec, Program, SystemExec},
};
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::{
    repository::{SourceKind, identity::Place, path_in_snapshot},
    stream::Measured,
};

const PASSWORD: &str = "correct horse battery staple";

/// A repository in a scratch folder.
struct Rig {
    folder: TempDir,
    repository: ResticRepository,
    clock: ManualClock,
}

impl Rig {
    fn new() -> Self {
        let rig = Self::empty();
        rig.repository.init().expect("a repository");
        rig
    }

    fn empty() -> Self {
        let folder = tempfile::tempdir().expect("a scratch directory");
        fs::create_dir(folder.path().join("repository")).expect("a folder");
        let clock = ManualClock::new("2026-11-23T03:00:00Z".parse().expect("a time"));
        let repository = repository(place(&folder.path().join("repository")), &clock);
        Self { folder, repository, clock }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("repository")
    }

    /// The same repository as another host sees it.
    fn as_another(&self, access: Access) -> ResticRepository {
        repository(place(&self.path()), &self.clock).with_access(access)
    }

    fn store(&self, files: &[(&str, Vec<u8>)]) -> Result<Snapshot, RepositoryError> {
        store_in(&self.repository, &self.clock, files)
    }

    fn read(&self, snapshot: &Snapshot, file: &str) -> Result<Vec<u8>, RepositoryError> {
        let mut bytes = Vec::new();
        let path = snapshot.path_of(file);
        let cancel = CancellationToken::new();
        self.repository.read(&snapshot.id, &path, &mut bytes, &cancel)?;
        Ok(bytes)
    }

    fn restic(&self, args: &[&str]) -> (bool, String) {
        restic(&self.path(), args)
    }

    fn assert_sound_to_restic(&self) {
        let (sound, said) = self.restic(&["check", "--read-data"]);
        assert!(sound && said.contains("no errors were found"), "{said}");
    }
}

fn place(path: &Path) -> Place {
    Place { path: path.into(), id: Uuid::from_u128(0xbac0), mount: None }
}

fn repository(site: impl Site + 'static, clock: &ManualClock) -> ResticRepository {
    let password = Secret::new(PASSWORD.to_owned());
    let name = "nas".parse().expect("a name");
    ResticRepository::new(name, site, password, "hx310-db".to_owned(), Arc::new(clock.clone()))
}

fn store_in(
    repository: &ResticRepository,
    clock: &ManualClock,
    files: &[(&str, Vec<u8>)],
) -> Result<Snapshot, RepositoryError> {
    let stored = repository.store(&intent(clock), incoming(files))?;
    repository.publish(&stored, &Progress::unwatched(), &CancellationToken::new())
}

fn intent(clock: &ManualClock) -> Intent {
    Intent {
        run: RunId::generate(&SystemClock, &SystemChance),
        backup: "wiki-daily".parse().expect("a name"),
        kind: SourceKind::Postgres,
        taken_at: clock.now(),
    }
}

fn incoming(files: &[(&str, Vec<u8>)]) -> Vec<Incoming> {
    let incoming = |(name, bytes): &(&str, Vec<u8>)| {
        let content = Box::new(Cursor::new(bytes.clone()));
        let (content, gauge) = Measured::new(content, CancellationToken::new());
        Incoming { name: (*name).to_owned(), content, gauge }
    };
    files.iter().map(incoming).collect()
}

fn restic(path: &Path, args: &[&str]) -> (bool, String) {
    assert!(Path::new("/usr/bin/restic").is_file(), "no restic: apt install restic");
    let program = Program::new("restic")
        .args(["--no-cache", "--repo", &path.display().to_string()])
        .args(args.iter().copied())
        .env("RESTIC_PASSWORD", PASSWORD)
        .env("HOME", "/nonexistent")
        .output_bytes_max(256 << 20);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.expect("a runtime").block_on(SystemExec.run(program)) {
        Ok(output) => (true, String::from_utf8_lossy(&output.stdout).into_owned()),
        Err(error) => (false, Chain(&error).to_string()),
    }
}

/// Rows like those of a dump; `changed` says which ones are other than usual.
fn rows(count: usize, changed: impl Fn(usize) -> bool) -> Vec<u8> {
    let row = |number: usize| {
        let seed = if changed(number) { number + 1_000_000_007 } else { number };
        let digest = crate::stream::Sha256::of(&seed.to_le_bytes());
        format!("{number}\tpage {number}\t{digest}\t{}\n", "lorem ipsum ".repeat(number % 9))
    };
    (0..count).map(row).collect::<String>().into_bytes()
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut noise).expect("noise");
    noise
}

#[test]
fn what_is_stored_reads_back_here_and_with_plain_restic() {
    let rig = Rig::new();
    let (dump, blob) = (rows(40_000, |_| false), noise(20 << 20));
    let files =
        [("database.sql", dump.clone()), ("empty", Vec::new()), ("manifest.json", b"{}".to_vec())];
    let snapshot = rig.store(&files).expect("stored");
    let second = rig.store(&[("blob.tar", blob.clone())]).expect("stored");
    assert_eq!(rig.read(&snapshot, "database.sql").expect("read"), dump);
    assert_eq!(rig.read(&snapshot, "empty").expect("read"), b"");
    assert_eq!(rig.read(&second, "blob.tar").expect("read"), blob);
    assert_eq!(rig.repository.snapshots().expect("a listing"), [second, snapshot.clone()]);

    rig.assert_sound_to_restic();
    let path = snapshot.path_of("database.sql");
    let (there, dumped) = rig.restic(&["dump", snapshot.id.as_str(), &path]);
    assert!(there && dumped.as_bytes() == dump, "{} bytes", dumped.len());
    // Not what is streamed, but what is restored: a file of size 0 would be made empty.
    let target = rig.folder.path().join("restored").display().to_string();
    let (restored, said) = rig.restic(&["restore", snapshot.id.as_str(), "--target", &target]);
    assert!(restored, "{said}");
    assert_eq!(fs::read(format!("{target}{path}")).expect("a file"), dump);
    let manifest = path_in_snapshot(&snapshot.backup, "manifest.json");
    assert_eq!(fs::read(format!("{target}{manifest}")).expect("a file"), b"{}");
}

#[test]
fn what_is_not_published_is_not_listed_and_is_not_stored_twice() {
    let rig = Rig::new();
    let files = [("database.sql", noise(3 << 20))];
    let stored = rig.repository.store(&intent(&rig.clock), incoming(&files)).expect("stored");
    assert!(stored.added_bytes > 3 << 20);
    assert_eq!(rig.repository.snapshots().expect("a listing"), []);
    let count = fs::read_dir(rig.path().join("snapshots")).expect("a folder").count();
    assert_eq!(count, 0, "something that other programs would show");
    drop(stored);
    let again = rig.store(&files).expect("stored");
    assert!(again.added_bytes.expect("a number") < 4096, "{again:?}");
}

#[test]
fn a_stream_that_fails_leaves_no_snapshot() {
    struct Broken;
    impl io::Read for Broken {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            buffer.fill(7);
            Ok(buffer.len().min(100_000))
        }
    }
    impl crate::stream::Content for Broken {
        fn finish(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let rig = Rig::new();
    let cancel = CancellationToken::new();
    let (content, gauge) = Measured::new(Box::new(Broken), cancel.clone());
    let endless = Incoming { name: "database.sql".to_owned(), content, gauge: gauge.clone() };
    let ended = std::thread::scope(|scope| {
        let storing = scope.spawn(|| rig.repository.store(&intent(&rig.clock), vec![endless]));
        while gauge.bytes() < 5 << 20 {
            std::thread::yield_now();
        }
        cancel.cancel();
        storing.join().expect("no panic")
    });
    assert!(matches!(ended, Err(RepositoryError::Incomplete { .. })), "{ended:?}");
    assert_eq!(rig.repository.snapshots().expect("a listing"), []);
    rig.assert_sound_to_restic();
}

#[test]
fn pitfall_13_compressed_streams_are_stored_and_warned_about() {
    let rig = Rig::new();
    let plain = |changed: bool| rows(60_000, |row| changed && row % 6_000 == 0);
    let squeeze = |bytes: &[u8]| zstd::bulk::compress(bytes, 3).expect("compressed");
    let growth = |files: &[(&str, Vec<u8>)]| {
        let snapshot = rig.store(files).expect("stored");
        (snapshot.added_bytes.expect("a number"), snapshot.summary.warnings)
    };
    let (first, warnings) = growth(&[("plain.sql", plain(false))]);
    assert!(warnings.is_empty(), "{warnings:?}");
    let (again, _) = growth(&[("plain.sql", plain(true))]);
    let (_, warnings) = growth(&[("dump.zst", squeeze(&plain(false)))]);
    assert!(warnings[0].contains("`dump.zst` is compressed (zstd)"), "{warnings:?}");
    let (squeezed, _) = growth(&[("dump.zst", squeeze(&plain(true)))]);
    assert!(again * 2 < squeezed, "plain grew by {again} of {first}, compressed by {squeezed}");
}

#[test]
fn pitfall_14_scattered_updates_grow_the_repository_by_a_fraction() {
    let rig = Rig::new();
    let first = rig.store(&[("database.sql", rows(100_000, |_| false))]).expect("stored");
    // 20 of 100,000 rows, far apart.
    let dump = rows(100_000, |row| row % 5_000 == 7);
    let second = rig.store(&[("database.sql", dump)]).expect("stored");
    let (first, second) = (first.added_bytes.expect("a number"), second.added_bytes.expect("one"));
    assert!(second * 8 < first, "grew by {second} after {first}");
}

#[test]
fn a_repository_of_restic_is_read_and_added_to() {
    let rig = Rig::empty();
    let (made, said) = rig.restic(&["init"]);
    assert!(made, "{said}");
    let identity = format!("{{\"format\":1,\"id\":\"{}\"}}", Uuid::from_u128(0xbac0));
    fs::write(rig.path().join(super::super::identity::FILE_NAME), identity).expect("written");
    let source = rig.folder.path().join("source");
    fs::create_dir(&source).expect("a folder");
    let page = rows(5_000, |_| false);
    fs::write(source.join("page.txt"), &page).expect("a file");
    let (backed, said) = rig.restic(&["backup", &source.display().to_string()]);
    assert!(backed, "{said}");

    let ours = rig.store(&[("database.sql", rows(5_000, |_| true))]).expect("stored");
    assert_eq!(rig.repository.snapshots().expect("a listing").as_slice(), [ours]);
    let opened = rig.repository.open().expect("opened");
    let all = opened.all().expect("a listing");
    let theirs = all.iter().find(|file| !file.tags.contains("homelab")).expect("theirs");
    let id = record::id_of(theirs).expect("an id");
    let mut read = Vec::new();
    let path = source.join("page.txt").display().to_string();
    rig.repository.read(&id, &path, &mut read, &CancellationToken::new()).expect("read");
    assert_eq!(read, page);
    rig.assert_sound_to_restic();
}

/// Every file below a folder.
fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

/// A small file system of its own; unmounted with the value.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(path: &Path, size: &str) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test mounts a small file system and needs root: run it with sudo"
        );
        let options = format!("size={size},mode=0700");
        let (flags, none) = (nix::mount::MsFlags::empty(), None::<&str>);
        nix::mount::mount(none, path, Some("tmpfs"), flags, Some(options.as_str()))
            .expect("mounted");
        Self(path.into())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH).expect("unmounted");
    }
}
