//! Places that hang, lie, or are not what they were.

use std::{os::unix::fs::FileTypeExt, time::Instant};

use super::*;
use crate::repository::{identity::Transport, mount, storage::Listed};

#[test]
fn pitfall_16_a_place_that_hangs_is_given_up_in_time_and_used_again_later() {
    let rig = Rig::new();
    let repository = repository(place(&rig.path()), &rig.clock);
    let repository = repository.with_deadline(Duration::from_millis(300));
    // Opening a pipe that nobody writes to hangs as a dead NFS server does.
    let identity = rig.path().join(crate::repository::identity::FILE_NAME);
    let text = fs::read(&identity).expect("an identity");
    fs::remove_file(&identity).expect("removed");
    nix::unistd::mkfifo(&identity, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    assert!(fs::metadata(&identity).expect("a pipe").file_type().is_fifo());

    let began = Instant::now();
    let Err(error @ GuardError::Hanging(_)) = repository.guard() else { panic!("not given up") };
    assert!(error.to_string().contains("hangs since"), "{error}");
    // One question is outstanding; no further one waits behind it.
    for _ in 0..50 {
        assert!(matches!(repository.snapshots(), Err(RepositoryError::Guard(_))));
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());

    fs::write(&identity, &text).expect("the pipe's reader goes on");
    fs::remove_file(&identity).expect("removed");
    fs::write(&identity, &text).expect("an identity");
    let deadline = Instant::now() + Duration::from_secs(20);
    while repository.guard().is_err() {
        assert!(Instant::now() < deadline, "it never came back: {:?}", repository.guard());
        std::thread::yield_now();
    }
}

/// A place whose disk lies.
#[derive(Debug)]
struct Lying {
    inner: Arc<dyn Storage>,
    lie: Lie,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Lie {
    FlipsABitOfPacks,
    CutsPacks,
    FlipsABitOfTheIndex,
    LosesThePack,
    IsUnsafe,
}

#[derive(Debug)]
struct LyingSite(Place, Lie);

impl Site for LyingSite {
    fn location(&self) -> String {
        self.0.location()
    }

    fn id(&self) -> Uuid {
        self.0.id
    }

    fn transport(&self) -> Transport {
        self.0.transport()
    }

    fn enter(&self) -> Result<Arc<dyn Storage>, GuardError> {
        Ok(Arc::new(Lying { inner: self.0.enter()?, lie: self.1 }))
    }

    fn enter_empty(&self) -> Result<Arc<dyn Storage>, GuardError> {
        self.0.enter_empty()
    }

    fn mount(&self) -> io::Result<Option<mount::Mount>> {
        self.0.mount()
    }
}

impl Storage for Lying {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn list(&self, folder: &str) -> io::Result<Vec<Listed>> {
        self.inner.list(folder)
    }

    fn bytes_of(&self, path: &str) -> io::Result<u64> {
        self.inner.bytes_of(path)
    }

    fn read(&self, path: &str) -> io::Result<bytes::Bytes> {
        self.inner.read(path)
    }

    fn read_range(
        &self,
        path: &str,
        range: super::super::super::storage::Range,
    ) -> io::Result<bytes::Bytes> {
        self.inner.read_range(path, range)
    }

    fn read_back(&self, path: &str) -> io::Result<bytes::Bytes> {
        let content = self.inner.read_back(path);
        if self.lie == Lie::LosesThePack && path.starts_with("data/") {
            self.inner.remove(path)?;
        }
        content
    }

    fn write(&self, path: &str, content: bytes::Bytes) -> io::Result<()> {
        let mut content = content.to_vec();
        match self.lie {
            Lie::FlipsABitOfPacks if path.starts_with("data/") => {
                let middle = content.len() / 2;
                content[middle] ^= 1;
            }
            Lie::FlipsABitOfTheIndex if path.starts_with("index/") => content[20] ^= 1,
            Lie::CutsPacks if path.starts_with("data/") => content.truncate(content.len() - 1),
            _ => {}
        }
        self.inner.write(path, content.into())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.inner.remove(path)
    }

    fn make_folder(&self, path: &str) -> io::Result<()> {
        self.inner.make_folder(path)
    }

    fn probe(&self) -> io::Result<crate::repository::probe::Grade> {
        match self.lie {
            Lie::IsUnsafe => Ok(crate::repository::probe::Grade::Unsafe("it lies".to_owned())),
            _ => self.inner.probe(),
        }
    }

    fn available_bytes(&self) -> io::Result<Option<u64>> {
        self.inner.available_bytes()
    }

    fn is_writable(&self) -> io::Result<bool> {
        self.inner.is_writable()
    }
}

#[test]
fn pitfall_18_a_place_that_stores_something_else_than_it_was_given_is_found_out_at_once() {
    for lie in [Lie::FlipsABitOfPacks, Lie::CutsPacks, Lie::FlipsABitOfTheIndex] {
        let rig = Rig::new();
        let good = rig.store(&[("database.sql", rows(2_000, |_| false))]).expect("stored");
        let lying = repository(LyingSite(place(&rig.path()), lie), &rig.clock);
        let ended = store_in(&lying, &rig.clock, &[("database.sql", noise(2 << 20))]);
        assert!(matches!(ended, Err(RepositoryError::Damaged { .. })), "{lie:?}: {ended:?}");
        assert_eq!(
            rig.repository.snapshots().expect("a listing").as_slice(),
            std::slice::from_ref(&good),
            "{lie:?}"
        );
        assert!(rig.read(&good, "database.sql").is_ok());
    }
}

#[test]
fn a_pack_that_is_gone_before_the_snapshot_is_made_fails_the_run() {
    let rig = Rig::new();
    let lying = repository(LyingSite(place(&rig.path()), Lie::LosesThePack), &rig.clock);
    let ended = store_in(&lying, &rig.clock, &[("database.sql", noise(2 << 20))]);
    assert!(ended.is_err(), "{ended:?}");
    assert_eq!(rig.repository.snapshots().expect("a listing"), []);
}

#[test]
fn pitfall_17_nothing_is_stored_in_a_place_that_loses_data() {
    let rig = Rig::new();
    let lying = repository(LyingSite(place(&rig.path()), Lie::IsUnsafe), &rig.clock);
    let ended = store_in(&lying, &rig.clock, &[("database.sql", noise(1 << 20))]);
    let Err(RepositoryError::Guard(error @ GuardError::Unsafe { .. })) = ended else {
        panic!("stored: {ended:?}")
    };
    assert!(error.to_string().contains("it lies"), "{error}");
    assert!(walk(&rig.path().join("data")).is_empty());
}

#[test]
fn a_repository_that_is_mounted_from_elsewhere_is_told() {
    let rig = Rig::new();
    let first = rig.repository.probe().expect("probed");
    assert_eq!(first.moved_from, None);
    assert_eq!(rig.repository.probe().expect("probed").moved_from, None);
    let note = rig.path().join("homelab-hosts/hx310-db.json");
    let text = fs::read_to_string(&note).expect("a note");
    let source = first.mount.expect("a mount").source;
    let other = text.replace(&format!("\"{source}\""), "\"192.168.120.10:/backup\"");
    fs::write(&note, other).expect("a note");
    let moved = rig.repository.probe().expect("probed").moved_from.expect("it was told");
    assert_eq!(moved.source, "192.168.120.10:/backup");
    assert_eq!(rig.repository.probe().expect("probed").moved_from, None, "told for ever");
}
