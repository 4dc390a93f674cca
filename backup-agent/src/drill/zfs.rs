//! A dataset, received below a scratch dataset.
//!
//! The streams go from the repository straight into `zfs receive`, the whole chain in
//! its order; nothing lies on disk in between. ZFS checks every block on the way. At
//! the end the received snapshot must have the guid of the one that was backed up,
//! which no other snapshot has; and where its files were counted and it can be
//! mounted here, they are counted again. A raw stream of an encrypted dataset is
//! received without its key and not mounted.

mod scratch;

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
    time::{Duration, Instant},
};

use homelab_common::{
    error_chain::Chain,
    exec::{ExecError, Streaming},
};

use super::{Compared, DrillError, Shown, Verdict, Work, target_error};
use crate::{
    failpoint,
    ids::Name,
    manifest::{Contents, Manifest},
    progress::{Progress, Stage},
    repository::{RepositoryError, Snapshot},
    source::zfs::{
        STREAM_FILE, ZfsError,
        census::{self, Census},
        inventory::Dataset,
        manifest::{Link, ReplicaFacts, ZfsContents},
        names::DatasetName,
        plan::How,
        program::{Zfs, failed},
        stream::{Ends, Expected},
    },
};
use scratch::Scratch;
pub use scratch::{MARK, PREFIX};

/// A dataset to receive below.
#[derive(Clone, Debug)]
pub struct ZfsTarget {
    /// Its name.
    pub name: Name,
    /// The dataset. It must exist; what a drill makes lies directly below it.
    pub parent: DatasetName,
    /// The program.
    pub zfs: Zfs,
    /// The folder below which what was received is mounted to count its files; where
    /// absent they are not counted.
    pub mount_below: Option<PathBuf>,
    /// This host: what it makes there carries the name.
    pub owner: String,
}

impl ZfsTarget {
    pub(super) fn inspect(
        &self,
        work: &Work<'_>,
        manifest: &Manifest,
    ) -> Result<String, DrillError> {
        let contents = self.contents(work, manifest)?;
        self.parent(work, contents)?;
        Ok(format!("a dataset of its own below `{}`", self.parent))
    }

    pub(super) fn show(&self, work: &Work<'_>, manifest: &Manifest) -> Result<Shown, DrillError> {
        let contents = self.contents(work, manifest)?;
        self.parent(work, contents)?;
        let can = self.zfs.capabilities().map_err(|error| self.error(error))?;
        if contents.encryption.is_some() && !can.can_send_raw() {
            return Ok(Shown::unverified(vec![format!(
                "the dataset is encrypted, and {} cannot receive raw streams; install OpenZFS 0.8 \
                 or later on the drill target",
                can.name()
            )]));
        }
        let scratch = Scratch::make(self, work.drill.run).map_err(|error| self.error(error))?;
        failpoint::reach("drill.scratch-made");
        let shown = Attempt { target: self, work, contents }.in_scratch(&scratch);
        work.progress.enter(Stage::CleaningUp, None);
        failpoint::reach("drill.examined");
        scratch.remove();
        failpoint::reach("drill.removed");
        shown
    }

    /// Removes what drills left below the parent.
    pub(super) fn sweep(
        &self,
        is_alive: impl Fn(crate::ids::RunId) -> bool,
    ) -> Result<Vec<String>, DrillError> {
        scratch::sweep(self, is_alive).map_err(|error| self.error(error))
    }

    fn contents<'m>(
        &self,
        work: &Work<'_>,
        manifest: &'m Manifest,
    ) -> Result<&'m ZfsContents, DrillError> {
        match &manifest.contents {
            Contents::Zfs(contents) => Ok(contents),
            Contents::Postgres(_) => Err(work.unsuited(manifest, "postgres")),
            _ => Err(work.unsuited(manifest, "folder")),
        }
    }

    /// The parent, which must not be what was backed up.
    fn parent(&self, work: &Work<'_>, contents: &ZfsContents) -> Result<Dataset, DrillError> {
        let parent = self.zfs.dataset(&self.parent).map_err(|error| self.error(error))?;
        if parent.guid == contents.guid {
            return Err(DrillError::TargetIsSource {
                target: self.name.clone(),
                backup: work.drill.snapshot.backup.clone(),
                identifier: parent.guid.to_string(),
            });
        }
        Ok(parent)
    }

    fn error(&self, source: ZfsError) -> DrillError {
        target_error(&self.name, source)
    }
}

/// One drill of one dataset.
struct Attempt<'a> {
    target: &'a ZfsTarget,
    work: &'a Work<'a>,
    contents: &'a ZfsContents,
}

impl Attempt<'_> {
    fn in_scratch(&self, scratch: &Scratch<'_>) -> Result<Shown, DrillError> {
        let began = Instant::now();
        let received = match (&self.contents.stream, &self.contents.replica) {
            (Some(_), _) => self.receive_chain(scratch)?,
            (None, Some(replica)) => self.receive_copy(scratch, replica)?,
            (None, None) => Err("the backup holds neither a stream nor a copy".to_owned()),
        };
        let elapsed = began.elapsed();
        failpoint::reach("drill.restored");
        let streams = match received {
            Ok(streams) => streams,
            Err(difference) => return Ok(shown(vec![difference], elapsed, Vec::new())),
        };
        self.work.progress.enter(Stage::Comparing, None);
        let copy = self.target.zfs.dataset(&scratch.data).map_err(|it| self.target.error(it))?;
        let wanted = &self.contents.snapshot;
        let mut differences = Vec::new();
        if copy.by_guid(wanted.guid).is_none() {
            differences.push(format!(
                "what was received has no snapshot with guid {} (@{})",
                wanted.guid, wanted.name
            ));
        }
        let mut compared = vec![
            Compared { what: "streams", count: streams },
            Compared { what: "snapshots by guid", count: copy.snapshots.len() as u64 },
        ];
        if let Some((was, is)) = self.count(scratch, &copy)? {
            differences.extend(was.differences(&is));
            compared.push(Compared { what: "files", count: is.files });
            compared.push(Compared { what: "files by content", count: is.sampled });
        }
        Ok(shown(differences, elapsed, compared))
    }

    /// Receives every stream of the chain. The inner error fails the drill.
    fn receive_chain(&self, scratch: &Scratch<'_>) -> Result<Result<u64, String>, DrillError> {
        let drill = self.work.drill;
        let stored =
            drill.repository.snapshots().map_err(|error| self.work.repository_error(error))?;
        let mut links = Vec::new();
        for link in self.contents.chain() {
            let is_it = |it: &&Snapshot| it.run == link.run && it.backup == drill.snapshot.backup;
            let Some(snapshot) = stored.iter().find(is_it) else {
                return Ok(Err(format!(
                    "the stream of run {}, which this one builds on, is not in the repository any \
                     more",
                    link.run
                )));
            };
            links.push((link, snapshot));
        }
        let bytes =
            |(_, snapshot): &(&Link, &Snapshot)| snapshot.file(STREAM_FILE).map(|it| it.bytes);
        self.work.progress.enter(Stage::Restoring, links.iter().map(bytes).sum());
        let (mut done, mut streams) = (0, 0);
        for (link, snapshot) in links {
            match self.receive(scratch, link, snapshot, &mut done)? {
                Ok(received) => streams += received,
                Err(difference) => return Ok(Err(difference)),
            }
        }
        Ok(Ok(streams))
    }

    fn receive(
        &self,
        scratch: &Scratch<'_>,
        link: &Link,
        snapshot: &Snapshot,
        done: &mut u64,
    ) -> Result<Result<u64, String>, DrillError> {
        let (zfs, cancel) = (&self.target.zfs, &self.work.stop.cancel);
        let mut receiving =
            zfs.receive(&scratch.data, &["-u"]).map_err(|it| self.target.error(it))?;
        self.work.stop.add(receiving.killer());
        let mut sink = Checked::new(&mut receiving, self.work.progress, *done);
        let path = snapshot.path_of(STREAM_FILE);
        let read = self.work.drill.repository.read(&snapshot.id, &path, &mut sink, cancel);
        // The end of its input: the receiver waits for it.
        let ends = sink.end(done);
        let received = receiving.finish();
        if cancel.is_cancelled() {
            return Err(DrillError::Cancelled);
        }
        let receipt = match read {
            Err(error @ RepositoryError::Guard(_)) => {
                return Err(self.work.repository_error(error));
            }
            Err(error @ RepositoryError::Incomplete { .. }) => {
                return Ok(Err(format!("a stream cannot be read: {}", Chain(&error))));
            }
            // What could not be written has its cause in the receiver's own end.
            other => other.ok(),
        };
        let raw = self.contents.encryption.is_some();
        let expected = Expected { to: link.to, from: link.from, raw };
        if receipt.is_some()
            && let Err(fault) = ends.check(expected)
        {
            return Ok(Err(format!("the stream of run {} is wrong: {fault}", link.run)));
        }
        if let Err(error) = received {
            return self.not_received(error, &format!("run {}", link.run));
        }
        let stored = snapshot.file(STREAM_FILE).map(|file| &file.sha256);
        match receipt {
            Some(receipt) if stored.is_none_or(|stored| *stored == receipt.sha256) => Ok(Ok(1)),
            Some(_) => Ok(Err(format!("the stream of run {} is not what was stored", link.run))),
            None => Ok(Err("zfs receive ended before it had read the whole stream".to_owned())),
        }
    }

    /// A pool that is full, gone or too slow says nothing about the backup.
    fn not_received(
        &self,
        error: ExecError,
        which: &str,
    ) -> Result<Result<u64, String>, DrillError> {
        const OF_TARGET: [&str; 6] =
            ["out of space", "no space", "quota", "suspended", "permission denied", "I/O error"];
        match &error {
            ExecError::Exit { stderr_tail, .. }
                if !OF_TARGET.iter().any(|text| stderr_tail.contains(text)) =>
            {
                Ok(Err(format!("the stream of {which} cannot be received: {error}")))
            }
            _ => {
                let what = format!("receive a stream below `{}`", self.target.parent);
                Err(self.target.error(failed(&what, error)))
            }
        }
    }

    /// Sends the copy in another pool once more, in full.
    fn receive_copy(
        &self,
        scratch: &Scratch<'_>,
        replica: &ReplicaFacts,
    ) -> Result<Result<u64, String>, DrillError> {
        let (target, zfs) = (self.target, &self.target.zfs);
        let copy = zfs.find(&replica.dataset).map_err(|error| target.error(error))?;
        let Some(copy) = copy.filter(|_| replica.host.is_none()) else {
            let missing = ZfsError::NoDataset {
                dataset: replica.dataset.clone(),
                host: replica.host.clone(),
            };
            return Err(target.error(missing));
        };
        let Some(snapshot) = copy.by_guid(replica.guid) else {
            return Ok(Err(format!("`{}` has no snapshot with guid {}", copy.name, replica.guid)));
        };
        let options = if copy.encryption().is_some() { "-w" } else { "" };
        let started = zfs.send(&copy.name, &snapshot.name, &How::Full, options);
        let mut sending = started.map_err(|error| target.error(error))?;
        self.work.stop.add(sending.killer());
        let mut receiving =
            zfs.receive(&scratch.data, &["-u"]).map_err(|error| target.error(error))?;
        self.work.stop.add(receiving.killer());
        self.work.progress.enter(Stage::Restoring, None);
        let mut sink = Checked::new(&mut receiving, self.work.progress, 0);
        let copied = io::copy(&mut sending, &mut sink);
        sink.end(&mut 0);
        let received = receiving.finish();
        if self.work.stop.cancel.is_cancelled() {
            return Err(DrillError::Cancelled);
        }
        if let Err(error) = received {
            let done = self.not_received(error, &format!("snapshot {}", replica.guid))?;
            return Ok(done);
        }
        Ok(copied.map(|_| 1).map_err(|error| format!("the copy cannot be sent: {error}")))
    }

    /// Counts the files on both sides of the comparison, where they can be.
    fn count(
        &self,
        scratch: &Scratch<'_>,
        copy: &Dataset,
    ) -> Result<Option<(&Census, Census)>, DrillError> {
        let Some(was) = &self.contents.census else { return Ok(None) };
        let Some(below) = &self.target.mount_below else { return Ok(None) };
        // Its key is not here, and need not be.
        if self.contents.encryption.is_some() || copy.is_volume() {
            return Ok(None);
        }
        let path = below.join(format!("{PREFIX}{}", self.work.drill.run));
        let refused = |source| DrillError::Folder {
            target: self.target.name.clone(),
            path: path.clone(),
            source,
        };
        fs::create_dir(&path).map_err(refused)?;
        let counted = scratch.mounted(&path, || census::take(&path, &self.work.stop.cancel));
        drop(fs::remove_dir(&path));
        if self.work.stop.cancel.is_cancelled() {
            return Err(DrillError::Cancelled);
        }
        let counted = counted.map_err(|error| self.target.error(error))?;
        Ok(Some((was, counted.map_err(refused)?)))
    }
}

fn shown(differences: Vec<String>, restore_elapsed: Duration, compared: Vec<Compared>) -> Shown {
    Shown { verdict: Verdict::of(differences), restore_elapsed, compared }
}

/// Looks at a stream on its way to the receiver, and says how far it is.
struct Checked<'p> {
    sink: Box<dyn Write + Send>,
    ends: Ends,
    progress: &'p Progress,
    done: u64,
}

impl<'p> Checked<'p> {
    fn new(receiving: &mut Streaming, progress: &'p Progress, done: u64) -> Self {
        let sink = receiving.take_stdin().unwrap_or_else(|| Box::new(io::sink()));
        Self { sink, ends: Ends::default(), progress, done }
    }

    /// Closes the receiver's input; gives what was seen, and adds how much it was.
    fn end(self, done: &mut u64) -> Ends {
        *done = self.done;
        self.ends
    }
}

impl Write for Checked<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let size = self.sink.write(bytes)?;
        self.ends.note(&bytes[..size]);
        self.done += size as u64;
        self.progress.done(self.done);
        Ok(size)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}
