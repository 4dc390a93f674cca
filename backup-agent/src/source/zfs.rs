//! One ZFS dataset: snapshots by policy, streams into the repository, a copy in
//! another pool.
//!
//! **A run makes a snapshot**, which alone already undoes a slip of the hand, and
//! sends it: as a stream into the repository, or to a copy in another pool, or both.
//! What is sent is what changed since the last time, and every eighth or thirtieth
//! time everything; [`plan`] decides and says why. Streams are raw where the dataset
//! is encrypted: the blocks pass as they lie on disk, neither repository nor copy
//! needs the key, and without a `zfs` that can do so nothing is sent.
//!
//! **Nothing is destroyed that is not ours.** A snapshot is ours when its name has our
//! prefix *and* it carries our mark, set on itself; holds of anybody are respected;
//! the last snapshot that a copy has in common is held, and before it ever goes a
//! bookmark remembers it. A copy is never rolled back or received over by force:
//! where only that would help, the run says which command a person has to consider.
//!
//! **A chain is as good as its first link.** The manifest names the streams of earlier
//! runs that must be received before its own, and retention keeps what is named.
//!
//! Datasets below the one that is named are not part of its backup; the manifest
//! says so and names them.

pub mod capability;
pub mod census;
pub mod config;
mod error;
pub mod inventory;
pub mod keep;
pub mod manifest;
pub mod names;
pub mod plan;
pub mod program;
mod prune;
mod replicate;
pub(crate) mod restore;
pub mod stream;

#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, path::Path, sync::Arc};

use async_trait::async_trait;
use homelab_common::{clock::Clock, error_chain::Chain};
use jiff::{Timestamp, tz::TimeZone};

pub use error::ZfsError;

use super::{Capture, Context, Source, SourceError};
use crate::{
    blocking, failpoint,
    ids::RunId,
    manifest::{Contents, FILE_NAME as MANIFEST, FORMAT, Manifest},
    repository::{Incoming, SourceKind, StoredFile, path_in_snapshot},
    stream::{Content, Gauge, Later, Measured, Promise},
};
use capability::Capabilities;
use inventory::{Dataset, Snapshot};
use keep::{Circumstances, Policy};
use manifest::{Link, ReplicaFacts, SnapshotFacts, Stream, ZfsContents};
use names::{DatasetName, Guid, PREFIX};
use plan::{ArchiveRules, Transfer};
use program::{Marks, Running, Zfs};
use replicate::Replication;
use stream::{Expected, Watched};

/// The stream, in every snapshot of a dataset that is archived.
pub const STREAM_FILE: &str = "stream.zfs";

/// A dataset to back up.
#[derive(Clone, Debug)]
pub struct ZfsSource {
    /// The dataset.
    pub dataset: DatasetName,
    /// The program that reads it.
    pub zfs: Zfs,
    /// How many snapshots stay on it.
    pub keep: Policy,
    /// How many streams in the repository build on a full one; none goes there if absent.
    pub full_every: Option<u32>,
    /// The copy in another pool.
    pub replica: Option<ReplicaTo>,
    /// Whether the files of each snapshot are counted.
    pub count_files: bool,
    /// Tells the moment of a snapshot.
    pub clock: Arc<dyn Clock>,
}

/// A copy in another pool.
#[derive(Clone, Debug)]
pub struct ReplicaTo {
    /// The dataset that it becomes.
    pub dataset: DatasetName,
    /// The program that writes it.
    pub zfs: Zfs,
    /// How many snapshots stay on it.
    pub keep: Policy,
}

#[async_trait]
impl Source for ZfsSource {
    fn kind(&self) -> SourceKind {
        SourceKind::Zfs
    }

    async fn inspect(&self, _run: RunId) -> Result<Vec<String>, SourceError> {
        let source = self.clone();
        Ok(blocking::run(move || source.findings()).await?)
    }

    async fn begin(&self, context: Context) -> Result<Capture, SourceError> {
        let (source, of) = (self.clone(), context.clone());
        let opened = blocking::run(move || source.open(&of)).await?;
        let (later, promise) = Later::new();
        let (content, gauge) = Measured::new(Box::new(later), context.cancel.clone());
        let manifest = Incoming { name: MANIFEST.to_owned(), content, gauge };
        let Opened { taken, archive } = opened;
        let (mut files, mut streaming) = (Vec::new(), None);
        let running = Arc::new(Running::new(&context.cancel));
        if let Some(Archive { sending, facts, expected }) = archive {
            running.add(sending.killer());
            let content = Child(Watched::new(sending, expected));
            let (content, gauge) = Measured::new(Box::new(content), context.cancel.clone());
            streaming = Some((facts, gauge.clone()));
            files.push(Incoming { name: STREAM_FILE.to_owned(), content, gauge });
        }
        files.push(manifest);
        let (taken_at, cancel) = (taken.at, context.cancel.clone());
        let completing = Completing {
            source: self.clone(),
            context,
            taken,
            streaming,
            promise,
            running: Arc::clone(&running),
        };
        let completion = Box::pin(async move {
            // Whoever drops this future has no use for the programs either.
            let _stop = program::StopOnDrop(Arc::clone(&running));
            tokio::select! {
                biased;
                () = cancel.cancelled() => Err(ZfsError::Cancelled.into()),
                done = completing.complete() => done.map_err(SourceError::from),
            }
        });
        Ok(Capture { taken_at, files, completion })
    }
}

/// The snapshot of a run.
#[derive(Clone, Debug)]
struct Taken {
    at: Timestamp,
    can: Capabilities,
    dataset: Dataset,
    snapshot: Snapshot,
    options: String,
    warnings: Vec<String>,
}

struct Opened {
    taken: Taken,
    archive: Option<Archive>,
}

/// A stream on its way into the repository.
struct Archive {
    sending: homelab_common::exec::Streaming,
    facts: Stream,
    expected: Expected,
}

impl ZfsSource {
    fn findings(&self) -> Result<Vec<String>, ZfsError> {
        let can = self.zfs.capabilities()?;
        let dataset = self.zfs.dataset(&self.dataset)?;
        self.options(&can, &dataset)?;
        let ours = dataset.snapshots.iter().filter(|it| it.owner.is_some()).count();
        let mut findings = vec![format!(
            "`{}` would be snapshot and sent by {}; it has {} snapshots, {ours} of them ours",
            self.dataset,
            can.name(),
            dataset.snapshots.len()
        )];
        findings.extend(can.missing());
        if !dataset.children.is_empty() {
            findings.push(left_out(&dataset));
        }
        if let Some(replica) = &self.replica {
            let there = replica.zfs.capabilities()?;
            let copy = replica.zfs.find(&replica.dataset)?;
            let state = match &copy {
                Some(copy) => format!("has {} snapshots", copy.snapshots.len()),
                None => "would be made".to_owned(),
            };
            findings.push(format!("the copy `{}` ({}) {state}", replica.dataset, there.name()));
        }
        Ok(findings)
    }

    /// Takes the snapshot and starts its stream. Blocks.
    fn open(&self, context: &Context) -> Result<Opened, ZfsError> {
        let can = self.zfs.capabilities()?;
        let before = self.zfs.dataset(&self.dataset)?;
        let options = self.options(&can, &before)?;
        let marks = marks(context);
        let at = self.clock.now();
        // A run that comes again after a restart has its snapshot already.
        if before.by_run(&marks.run).is_none() {
            self.zfs.snapshot(&self.dataset, &snapshot_name(at, &marks.backup), &marks)?;
            failpoint::reach("zfs.snapshot-made");
        }
        let dataset = self.zfs.dataset(&self.dataset)?;
        let missing = || ZfsError::NotOurs { name: self.dataset.at(&marks.run) };
        let snapshot = dataset.by_run(&marks.run).cloned().ok_or_else(missing)?;
        let mut warnings = Vec::new();
        if !dataset.children.is_empty() {
            warnings.push(left_out(&dataset));
        }
        let taken = Taken { at, can, dataset, snapshot, options, warnings };
        let archive = match self.full_every {
            Some(full_every) => Some(self.archive(context, &taken, full_every)?),
            None => None,
        };
        Ok(Opened { taken, archive })
    }

    fn archive(
        &self,
        context: &Context,
        taken: &Taken,
        full_every: u32,
    ) -> Result<Archive, ZfsError> {
        let links = links(context);
        let rules = ArchiveRules { full_every, options: taken.options.clone() };
        let Transfer { how, because } =
            plan::archive(&taken.dataset, &taken.snapshot, &links, &rules);
        let needs = match (how.from(), links.first()) {
            (Some(_), Some(newest)) => plan::chain(&links, newest).unwrap_or_default(),
            _ => Vec::new(),
        };
        let link = Link {
            run: context.run,
            dataset: taken.dataset.guid,
            to: taken.snapshot.guid,
            from: how.from(),
            options: taken.options.clone(),
        };
        let raw = taken.dataset.encryption().is_some();
        let expected = Expected { to: link.to, from: link.from, raw };
        let needs = needs.into_iter().cloned().collect();
        let path = path_in_snapshot(&context.backup, STREAM_FILE);
        let facts = Stream { file: STREAM_FILE.to_owned(), path, link, needs, because };
        let name = &taken.snapshot.name;
        let sending = self.zfs.send(&self.dataset, name, &how, &taken.options)?;
        Ok(Archive { sending, facts, expected })
    }

    /// Options of `zfs send`, the same for a whole chain.
    fn options(&self, can: &Capabilities, dataset: &Dataset) -> Result<String, ZfsError> {
        if dataset.encryption().is_some() {
            return if can.can_send_raw() {
                Ok("-w".to_owned())
            } else {
                let (dataset, program) = (self.dataset.clone(), can.name().to_owned());
                Err(ZfsError::ClearOnly { dataset, program })
            };
        }
        let options = ['L', 'c', 'e'].into_iter().filter(|letter| can.send.contains(letter));
        Ok(options.map(|letter| format!("-{letter}")).collect::<Vec<_>>().join(" "))
    }
}

/// What is left to do while and after the stream is read.
struct Completing {
    source: ZfsSource,
    context: Context,
    taken: Taken,
    streaming: Option<(Stream, Gauge)>,
    promise: Promise,
    running: Arc<Running>,
}

impl Completing {
    async fn complete(self) -> Result<Manifest, ZfsError> {
        let Self { source, context, mut taken, streaming, promise, running } = self;
        let (mut files, mut stream) = (Vec::new(), None);
        if let Some((facts, mut gauge)) = streaming {
            let failed = |source| ZfsError::Stream { file: STREAM_FILE, source };
            let receipt = gauge.finished().await.map_err(failed)?;
            let (name, bytes, sha256) = (facts.file.clone(), receipt.bytes, receipt.sha256);
            files.push(StoredFile { name, bytes, sha256 });
            stream = Some(facts);
            failpoint::reach("zfs.sent");
        }
        let finish = move || {
            let replica = source.replicate(&context, &mut taken, stream.is_some(), &running)?;
            let census = source.count(&mut taken, &running);
            source.tidy(&context, &mut taken, replica.as_ref());
            let properties = source.zfs.properties(&source.dataset)?;
            let contents = contents(&taken, properties, stream, replica, census);
            Ok::<_, ZfsError>(Manifest {
                format: FORMAT,
                run: context.run,
                backup: context.backup,
                taken_at: taken.at,
                files,
                warnings: taken.warnings,
                contents: Contents::Zfs(contents),
            })
        };
        let manifest = blocking::run(finish).await?;
        promise.keep(manifest.to_bytes().map_err(ZfsError::Encode)?);
        Ok(manifest)
    }
}

impl ZfsSource {
    /// Brings the copy up to date. A copy that fails beside a stream that is stored is
    /// a warning: one of two is better than none, and neither hides the other.
    fn replicate(
        &self,
        context: &Context,
        taken: &mut Taken,
        is_archived: bool,
        running: &Running,
    ) -> Result<Option<ReplicaFacts>, ZfsError> {
        let Some(to) = &self.replica else { return Ok(None) };
        let sent = self.replication(to, context, taken).and_then(|replication| {
            let facts = replication.run(taken.snapshot.guid, running)?;
            Ok((replication, facts))
        });
        match sent {
            Ok((replication, facts)) => {
                taken.warnings.extend(replication.hold(facts.guid));
                Ok(Some(facts))
            }
            Err(error) if is_archived && !running.is_cancelled() => {
                let why = Chain(&error).to_string();
                taken.warnings.push(format!("the copy `{}` is behind: {why}", to.dataset));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn replication(
        &self,
        to: &ReplicaTo,
        context: &Context,
        taken: &Taken,
    ) -> Result<Replication, ZfsError> {
        Ok(Replication {
            source: self.zfs.clone(),
            source_can: taken.can.clone(),
            target: to.zfs.clone(),
            target_can: to.zfs.capabilities()?,
            dataset: self.dataset.clone(),
            replica: to.dataset.clone(),
            options: taken.options.clone(),
            marks: marks(context),
        })
    }

    /// Counts the files of the snapshot, where it can be browsed.
    fn count(&self, taken: &mut Taken, running: &Running) -> Option<census::Census> {
        if !self.count_files || taken.dataset.is_volume() {
            return None;
        }
        let name = self.dataset.at(&taken.snapshot.name);
        let is_mounted = taken.dataset.value("mounted") == Some("yes");
        let mountpoint = taken.dataset.value("mountpoint").filter(|_| is_mounted);
        let counted = match mountpoint {
            Some(path) => {
                let path = Path::new(path).join(".zfs/snapshot").join(&taken.snapshot.name);
                census::take(&path, running.cancel())
            }
            None => Err(std::io::Error::other("the dataset is not mounted here")),
        };
        match counted {
            Ok(census) => Some(census),
            Err(source) => {
                let error = ZfsError::Files { name, source };
                let why = Chain(&error).to_string();
                taken
                    .warnings
                    .push(format!("files were not counted, a drill compares guids: {why}"));
                None
            }
        }
    }

    /// Moves the holds on and destroys what the policy no longer keeps, at both ends.
    /// Only after all is sent: a run that fails destroys nothing.
    fn tidy(&self, context: &Context, taken: &mut Taken, replica: Option<&ReplicaFacts>) {
        let (now, backup) = (self.clock.now(), context.backup.as_str());
        let bases = self.bases(context, taken);
        let tag = tag(backup);
        let moved = replicate::move_holds(&self.zfs, &self.dataset, &bases, &tag, backup);
        taken.warnings.extend(moved);
        failpoint::reach("zfs.holds-moved");
        let bookmarks = taken.can.bookmarks;
        let here = Circumstances {
            backup: backup.to_owned(),
            bases: bases.into_iter().collect(),
            bookmarks,
        };
        let pruned = prune_one(&self.zfs, &self.dataset, self.keep, &here, now);
        taken.warnings.extend(pruned);
        failpoint::reach("zfs.tidied");
        if let (Some(facts), Some(to)) = (replica, &self.replica) {
            let there = Circumstances {
                backup: backup.to_owned(),
                bases: BTreeSet::from([facts.guid]),
                bookmarks: false,
            };
            taken.warnings.extend(prune_one(&to.zfs, &to.dataset, to.keep, &there, now));
        }
    }

    /// Snapshots that a next increment may build on: this run's, the one that the
    /// repository is known to hold, and the one that a copy left behind ends with.
    fn bases(&self, context: &Context, taken: &Taken) -> Vec<Guid> {
        let mut bases = vec![taken.snapshot.guid];
        bases.extend(links(context).first().map(|link| link.to));
        if let Some(to) = &self.replica
            && let Ok(Some(copy)) = to.zfs.find(&to.dataset)
        {
            let known = |guid| taken.dataset.by_guid(guid).is_some();
            bases.extend(copy.snapshots.iter().rev().map(|it| it.guid).find(|it| known(*it)));
        }
        bases
    }
}

fn prune_one(
    zfs: &Zfs,
    name: &DatasetName,
    policy: Policy,
    circumstances: &Circumstances,
    now: Timestamp,
) -> Vec<String> {
    let dataset = match zfs.dataset(name) {
        Ok(dataset) => dataset,
        Err(error) => return vec![format!("`{name}` was not tidied: {}", Chain(&error))],
    };
    let plan = keep::plan(&dataset, policy, circumstances, now);
    let pruned = prune::prune(zfs, name, &circumstances.backup, &plan);
    if !pruned.destroyed.is_empty() {
        tracing::info!(dataset = %name, snapshots = ?pruned.destroyed, "destroyed by policy");
    }
    pruned.warnings
}

fn contents(
    taken: &Taken,
    properties: inventory::Properties,
    stream: Option<Stream>,
    replica: Option<ReplicaFacts>,
    census: Option<census::Census>,
) -> ZfsContents {
    let dataset = &taken.dataset;
    ZfsContents {
        dataset: dataset.name.clone(),
        guid: dataset.guid,
        volume: dataset.is_volume(),
        encryption: dataset.encryption().map(str::to_owned),
        properties: manifest::set_properties(&properties),
        snapshot: SnapshotFacts::from(&taken.snapshot),
        stream,
        replica,
        census,
        zfs: taken.can.name().to_owned(),
        without: taken.can.missing(),
        children: dataset.children.clone(),
    }
}

/// The streams of this backup that the repository still holds, newest first.
fn links(context: &Context) -> Vec<Link> {
    let Some(Contents::Zfs(contents)) = context.before.manifest().map(|it| it.contents) else {
        return Vec::new();
    };
    let Some(stream) = contents.stream else { return Vec::new() };
    let is_stored = |link: &Link| context.before.holds(link.run);
    let mut links: Vec<Link> =
        stream.needs.into_iter().chain([stream.link]).filter(is_stored).collect();
    links.reverse();
    links
}

fn marks(context: &Context) -> Marks {
    Marks { run: context.run.to_string(), backup: context.backup.to_string() }
}

/// The tag of our holds.
fn tag(backup: &str) -> String {
    format!("{PREFIX}{backup}")
}

/// `homelab-20261123T080000Z-vault`: sorts by time, and says whose it is.
fn snapshot_name(at: Timestamp, backup: &str) -> String {
    let at = at.to_zoned(TimeZone::UTC).strftime("%Y%m%dT%H%M%S%.3fZ").to_string();
    format!("{PREFIX}{at}-{backup}")
}

fn left_out(dataset: &Dataset) -> String {
    format!(
        "{} datasets below `{}` are not part of this backup: {}",
        dataset.children.len(),
        dataset.name,
        dataset.children.join(", ")
    )
}

/// A program's output. The reader itself fails when the program did, or its stream
/// is not whole.
struct Child(Watched<homelab_common::exec::Streaming>);

impl std::io::Read for Child {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Content for Child {
    fn finish(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
