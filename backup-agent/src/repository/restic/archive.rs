//! Bytes into the repository and out of it.

use std::{
    io::{self, PipeReader, Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use jiff::Timestamp;
use rustic_core::{
    BackupOptions, IndexedFullStatus, ReadSource, ReadSourceEntry, ReadSourceOpen, RusticResult,
    repofile::{Metadata, Node, NodeType, SnapshotFile},
};
use tokio_util::sync::CancellationToken;

use super::{Guarded, Open, record};
use crate::{
    ids::SnapshotId,
    progress::{Progress, Stage},
    repository::{
        Incoming, Intent, RepositoryError, Snapshot, Stored, StoredFile, Summary, path_in_snapshot,
    },
    stream::{Content, Gauge, Measured, Receipt},
};

type Indexed = Arc<rustic_core::Repository<IndexedFullStatus>>;

/// Backups hold whole databases: for their owner's eyes.
const FILE_MODE: u32 = 0o600;

/// The same in every run: the snapshot has the time, and a listing with equal files
/// must be an equal listing.
const FILE_TIME: Timestamp = Timestamp::UNIX_EPOCH;

/// The size of the pieces in which the repository is read, in bytes.
const READ_BYTES: usize = 1 << 20;

/// Writes `files` as an unverified snapshot.
pub(super) fn store(
    guarded: &Guarded<'_>,
    intent: &Intent,
    files: Vec<Incoming>,
) -> Result<Stored, RepositoryError> {
    let gauges: Vec<_> = files.iter().map(|file| (file.name.clone(), file.gauge.clone())).collect();
    let entries = files
        .into_iter()
        .map(|file| Entry {
            path: path_in_snapshot(&intent.backup, &file.name).into(),
            bytes: 0,
            content: file.content,
        })
        .collect();
    let file = archive(guarded, guarded.open()?, intent, entries)?;
    let files = gauges
        .into_iter()
        .map(|(name, gauge)| match gauge.receipt() {
            Ok(receipt) => Ok(stored_file(name, receipt)),
            Err(source) => Err(RepositoryError::Incomplete { file: name, source }),
        })
        .collect::<Result<Vec<_>, _>>()?;
    expect_files(guarded, &file, files.len())?;
    let added_bytes = file.summary.as_ref().map_or(0, |summary| summary.data_added_packed);
    let (intent, id) = (intent.clone(), id_of(guarded, &file)?);
    Ok(Stored { intent, id, files, added_bytes, summary: Summary::default() })
}

/// Archives the stored files again from the repository itself, this time with
/// their sizes; see the parent module. What differs on the way is not published.
pub(super) fn publish(
    guarded: &Guarded<'_>,
    stored: &Stored,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<Snapshot, RepositoryError> {
    let mut file = read_back(guarded, stored, progress, cancel)?;
    // Durable before anybody may rely on it.
    guarded.flush()?;
    let repository = guarded.repository;
    let moment = (repository.clock.now(), repository.elapsed_since(&stored.intent));
    record::verify(&mut file, stored, moment)
        .map_err(|error| guarded.failure("describe the snapshot", error.to_string()))?;
    repository.place.guard()?;
    let open = guarded.open()?;
    open.save_snapshots(vec![file])
        .map_err(|error| guarded.engine("publish the snapshot", &error))?;
    guarded.flush()?;
    let all = guarded.all(&open)?;
    let mut ours = all.iter().filter_map(record::to_snapshot);
    ours.find(|snapshot| snapshot.run == stored.intent.run).ok_or_else(|| {
        guarded.failure("find the published snapshot", "it is not listed".to_owned())
    })
}

fn read_back(
    guarded: &Guarded<'_>,
    stored: &Stored,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<SnapshotFile, RepositoryError> {
    progress.enter(Stage::Proving, Some(stored.files.iter().map(|file| file.bytes).sum()));
    let unproved = guarded.find(&guarded.open()?, &stored.id)?;
    let indexed = indexed(guarded)?;
    let done = Arc::new(AtomicU64::new(0));
    let mut entries = Vec::new();
    let mut gauges = Vec::new();
    for file in &stored.files {
        let path = path_in_snapshot(&stored.intent.backup, &file.name);
        let node = node(guarded, &indexed, &unproved, &path)?;
        let report = Report { progress: progress.clone(), done: Arc::clone(&done) };
        let content = ReadBack::new(Arc::clone(&indexed), node, report);
        let (content, gauge) = Measured::new(Box::new(content), cancel.clone());
        entries.push(Entry { path: path.into(), bytes: file.bytes, content });
        gauges.push(gauge);
    }
    let file = archive(guarded, guarded.open()?, &stored.intent, entries)?;
    for (expected, gauge) in stored.files.iter().zip(&gauges) {
        compare(guarded, expected, gauge)?;
    }
    expect_files(guarded, &file, stored.files.len())?;
    let fresh = file.summary.as_ref().map_or(u64::MAX, |summary| summary.data_added_files);
    if fresh != 0 {
        let detail = format!("{fresh} bytes were cut into chunks that had not been stored");
        return Err(guarded.mismatch("the snapshot", detail));
    }
    Ok(file)
}

/// Reads one file of a snapshot into `sink`.
pub(super) fn read(
    guarded: &Guarded<'_>,
    id: &SnapshotId,
    path: &str,
    sink: &mut dyn Write,
    cancel: &CancellationToken,
) -> Result<Receipt, RepositoryError> {
    let snapshot = guarded.find(&guarded.open()?, id)?;
    let indexed = indexed(guarded)?;
    let node = node(guarded, &indexed, &snapshot, path)?;
    let report = Report { progress: Progress::unwatched(), done: Arc::default() };
    let content = Box::new(ReadBack::new(indexed, node, report));
    let (mut content, gauge) = Measured::new(content, cancel.clone());
    let mut buffer = vec![0; READ_BYTES];
    while let Ok(count) = content.read(&mut buffer)
        && count > 0
    {
        sink.write_all(&buffer[..count])
            .map_err(|error| guarded.failure("write out what was read", error.to_string()))?;
    }
    gauge.receipt().map_err(|source| RepositoryError::Incomplete { file: path.to_owned(), source })
}

fn archive(
    guarded: &Guarded<'_>,
    open: Open,
    intent: &Intent,
    entries: Vec<Entry>,
) -> Result<SnapshotFile, RepositoryError> {
    let template = record::unverified(intent, &guarded.repository.host);
    let source = Source { entries: Mutex::new(entries) };
    let shown = PathBuf::from(format!("/{}", intent.backup));
    let mut options = BackupOptions::default();
    // No parent: streams have no times by which one could call them unchanged.
    options.parent_opts.force = true;
    options.no_scan = true;
    open.to_indexed_ids()
        .and_then(|indexed| indexed.archive(&options, &source, template, &[shown]))
        .map_err(|error| guarded.engine("store a snapshot", &error))
}

/// The engine drops a file that it could not read and goes on; we do not.
fn expect_files(
    guarded: &Guarded<'_>,
    file: &SnapshotFile,
    wanted: usize,
) -> Result<(), RepositoryError> {
    let found = file.summary.as_ref().map_or(0, |summary| summary.total_files_processed);
    if found == wanted as u64 {
        return Ok(());
    }
    Err(guarded.mismatch("the snapshot", format!("{found} of {wanted} files were stored")))
}

fn compare(
    guarded: &Guarded<'_>,
    expected: &StoredFile,
    gauge: &Gauge,
) -> Result<(), RepositoryError> {
    let found = gauge
        .receipt()
        .map_err(|source| RepositoryError::Incomplete { file: expected.name.clone(), source })?;
    if found.sha256 == expected.sha256 && found.bytes == expected.bytes {
        return Ok(());
    }
    let detail = format!(
        "{} bytes with SHA-256 {} instead of {} bytes with {}",
        found.bytes, found.sha256, expected.bytes, expected.sha256
    );
    Err(guarded.mismatch(&expected.name, detail))
}

fn indexed(guarded: &Guarded<'_>) -> Result<Indexed, RepositoryError> {
    guarded
        .open()?
        .to_indexed()
        .map(Arc::new)
        .map_err(|error| guarded.engine("read the index", &error))
}

fn node(
    guarded: &Guarded<'_>,
    indexed: &Indexed,
    snapshot: &SnapshotFile,
    path: &str,
) -> Result<Node, RepositoryError> {
    indexed
        .node_from_path(snapshot.tree, Path::new(path))
        .map_err(|error| guarded.engine("find a file of the snapshot", &error))
}

fn stored_file(name: String, receipt: Receipt) -> StoredFile {
    StoredFile { name, bytes: receipt.bytes, sha256: receipt.sha256 }
}

fn id_of(guarded: &Guarded<'_>, file: &SnapshotFile) -> Result<SnapshotId, RepositoryError> {
    record::id_of(file)
        .ok_or_else(|| guarded.failure("name the snapshot", "it has no identifier".to_owned()))
}

/// One file for the engine.
struct Entry {
    path: PathBuf,
    /// 0 while unknown.
    bytes: u64,
    content: Measured,
}

/// Our files, handed to the engine in the order of their paths, which the listing of
/// a folder must have.
struct Source {
    entries: Mutex<Vec<Entry>>,
}

impl ReadSource for Source {
    type Open = Opening;
    type Iter = std::vec::IntoIter<RusticResult<ReadSourceEntry<Opening>>>;

    fn size(&self) -> RusticResult<Option<u64>> {
        Ok(None)
    }

    fn entries(&self) -> Self::Iter {
        let mut entries =
            std::mem::take(&mut *self.entries.lock().unwrap_or_else(PoisonError::into_inner));
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        let with_node = |Entry { path, bytes, content }| {
            let metadata = Metadata {
                size: bytes,
                mode: Some(FILE_MODE),
                mtime: Some(FILE_TIME),
                links: 1,
                ..Metadata::default()
            };
            let name = path.file_name().unwrap_or_default();
            let node = Node::new_node(name, NodeType::File, metadata);
            Ok(ReadSourceEntry { path, node, open: Some(Opening(content)) })
        };
        entries.into_iter().map(with_node).collect::<Vec<_>>().into_iter()
    }
}

struct Opening(Measured);

impl ReadSourceOpen for Opening {
    type Reader = Measured;

    fn open(self) -> RusticResult<Measured> {
        Ok(self.0)
    }
}

/// A file of the repository as a reader. The engine only writes into a sink, and
/// does so with several threads at once: a pipe turns that round.
struct ReadBack {
    start: Option<(Indexed, Node, Report)>,
    pipe: Option<PipeReader>,
    writer: Option<thread::JoinHandle<Result<(), String>>>,
}

impl ReadBack {
    fn new(indexed: Indexed, node: Node, report: Report) -> Self {
        Self { start: Some((indexed, node, report)), pipe: None, writer: None }
    }

    fn begin(&mut self) -> io::Result<()> {
        let Some((indexed, node, report)) = self.start.take() else { return Ok(()) };
        let (reader, writer) = io::pipe()?;
        let work = move || {
            let sink = io::BufWriter::with_capacity(READ_BYTES, writer);
            let mut sink = Reporting { sink, report };
            indexed.dump(&node, &mut sink).map_err(|error| error.display_log())?;
            sink.flush().map_err(|error| error.to_string())
        };
        self.writer = Some(thread::Builder::new().name("read-back".to_owned()).spawn(work)?);
        self.pipe = Some(reader);
        Ok(())
    }
}

impl Read for ReadBack {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.begin()?;
        self.pipe.as_mut().map_or(Ok(0), |pipe| pipe.read(buffer))
    }
}

impl Content for ReadBack {
    fn finish(&mut self) -> io::Result<()> {
        let verdict = self.writer.take().map_or(Ok(Ok(())), thread::JoinHandle::join);
        verdict
            .unwrap_or_else(|_| Err("the reading thread panicked".to_owned()))
            .map_err(io::Error::other)
    }
}

/// Where bytes read are counted; several files of a snapshot share one count.
struct Report {
    progress: Progress,
    done: Arc<AtomicU64>,
}

/// Passes bytes on and counts them.
struct Reporting<W> {
    sink: W,
    report: Report,
}

impl<W: Write> Write for Reporting<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.sink.write(buffer)?;
        let before = self.report.done.fetch_add(count as u64, Ordering::Relaxed);
        self.report.progress.done(before + count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}
