//! A run's streams into a snapshot that is proved before anybody sees it.

use std::{collections::BTreeMap, ffi::OsStr, sync::Arc};

use jiff::{Timestamp, Zoned, tz::TimeZone};
use rustic_core::{
    DataId,
    repofile::{Metadata, Node, NodeType, SnapshotFile, SnapshotSummary, Tree},
};
use tokio_util::sync::CancellationToken;

use super::{
    Opened,
    index::{Index, Shelf, pack_path},
    record,
    vault::Id,
    write::{Added, Desk, Stream, WriteError},
};
use crate::{
    failpoint,
    ids::Name,
    progress::{Progress, Stage},
    repository::{
        Incoming, Intent, RepositoryError, Snapshot, Stored, StoredFile, Summary,
        lock::{Lock, Purpose},
        path_in_snapshot,
    },
};

/// Backups hold whole databases: for their owner's eyes.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// The same in every run: the snapshot has the time, and a listing with equal files
/// must be an equal listing.
const FILE_TIME: Timestamp = Timestamp::UNIX_EPOCH;

/// What a run stored, as [`publish`] must find it again.
#[derive(Clone, Debug)]
pub(crate) struct Proof {
    /// The listing of the snapshot's root.
    tree: Id,
    /// Every blob of the snapshot, listings too, with its plain size in bytes.
    blobs: Arc<BTreeMap<Id, u32>>,
    /// The index that chunks were looked up in.
    index: Arc<Index>,
    /// What this run added, and when it began and ended.
    summary: Box<SnapshotSummary>,
    /// Keeps prunes away until there is a snapshot, or none any more.
    _lock: Arc<Lock>,
}

/// Writes `files`, proves what is new of them, and leaves no snapshot behind.
pub(super) fn store(
    opened: &Opened<'_>,
    intent: &Intent,
    files: Vec<Incoming>,
) -> Result<Stored, RepositoryError> {
    let clock = &opened.repository.clock;
    let began = clock.now();
    let lock = opened.lock(Purpose::Store)?;
    let (storage, vault) = (opened.storage(), &opened.vault);
    let index = Index::load(storage, vault)
        .map_err(|error| opened.repository.place("read the index", error))?;
    let shelf = Shelf::new(storage, vault, Arc::clone(clock));
    let desk = Desk { storage, vault, index: &index };
    let mut added = Added::default();
    let streams = desk.streams(files, &shelf, &mut added);
    let stored = streams.and_then(|streams| {
        let trees = listings(&intent.backup, &streams)?;
        desk.trees(&trees, &shelf, &mut added)?;
        Ok((streams, trees))
    });
    // After a failure as well: what is there and proved, the next run need not store again.
    let closed = shelf.close();
    failpoint::reach("backup.indexed");
    let (streams, trees) = stored.map_err(|error| failed(opened, error))?;
    let index_bytes = closed.map_err(|error| opened.repository.place("write the index", error))?;

    let blobs = lengths(opened, &index, &added, &streams, &trees)?;
    let added_bytes = added.stored_bytes() + index_bytes;
    let span = (began, opened.repository.clock.now());
    let summary = Box::new(summary(&added, &streams, span));
    let tree = trees.last().map_or_else(|| Id::of(&[]), |(id, _)| *id);
    let stored_file = |stream: &Stream| StoredFile {
        name: stream.name.clone(),
        bytes: stream.receipt.bytes,
        sha256: stream.receipt.sha256.clone(),
    };
    Ok(Stored {
        intent: intent.clone(),
        files: streams.iter().map(stored_file).collect(),
        added_bytes,
        warnings: streams.iter().filter_map(warning).collect(),
        summary: Summary::default(),
        proof: Proof {
            tree,
            blobs: Arc::new(blobs),
            index: Arc::new(index),
            summary,
            _lock: Arc::new(lock),
        },
    })
}

/// Makes a snapshot of what was stored. New packs were proved when they were written;
/// here every blob must be in the index as it is now, and its pack must lie there in
/// full length, for somebody may have pruned since.
pub(super) fn publish(
    opened: &Opened<'_>,
    stored: &Stored,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<Snapshot, RepositoryError> {
    let proof = &stored.proof;
    progress.enter(Stage::Proving, Some(stored.files.iter().map(|file| file.bytes).sum()));
    let packs = packs_of(opened, proof)?;
    for (pack, expected) in packs {
        if cancel.is_cancelled() {
            let source = crate::stream::StreamError::Cancelled;
            return Err(RepositoryError::Incomplete { file: "the snapshot".to_owned(), source });
        }
        let path = pack_path(&pack);
        let found = opened
            .storage()
            .bytes_of(&path)
            .map_err(|error| opened.repository.place("find a pack of the snapshot", error))?;
        if found != expected {
            let detail = format!("`{path}` has {found} bytes instead of {expected}");
            return Err(opened.repository.mismatch("the snapshot", detail));
        }
    }
    // From the path again: the mount may have gone meanwhile.
    let opened = &opened.repository.open()?;
    let file = snapshot_file(opened, stored)?;
    opened
        .engine
        .save_snapshots(vec![file])
        .map_err(|error| opened.repository.engine("publish the snapshot", &error))?;
    // Read back from the place: what is listed there is what there is.
    let (readable, _) = opened.readable()?;
    let mut ours = readable.iter().filter_map(record::to_snapshot);
    let run = stored.intent.run;
    ours.find(|snapshot| snapshot.run == run && snapshot.backup == stored.intent.backup).ok_or_else(
        || opened.repository.failure("find the published snapshot", "it is not listed".to_owned()),
    )
}

/// The packs that hold the snapshot, with their sizes.
fn packs_of(opened: &Opened<'_>, proof: &Proof) -> Result<BTreeMap<Id, u64>, RepositoryError> {
    let unreadable = |error| opened.repository.place("read the index", error);
    // The new packs are in index files that were not there when this index was read.
    let index = Index::load(opened.storage(), &opened.vault).map_err(unreadable)?;
    let mut packs = BTreeMap::new();
    for (id, bytes) in proof.blobs.as_ref() {
        match index.find(id) {
            Some(found) if found.bytes() == *bytes => {
                packs.insert(found.pack, found.pack_bytes);
            }
            _ => {
                let pruned = !proof.index.is_current(opened.storage()).map_err(unreadable)?;
                let why = if pruned { "; somebody pruned meanwhile, run it again" } else { "" };
                let detail = format!("blob {id} is not in the index{why}");
                return Err(opened.repository.mismatch("the snapshot", detail));
            }
        }
    }
    Ok(packs)
}

fn snapshot_file(opened: &Opened<'_>, stored: &Stored) -> Result<SnapshotFile, RepositoryError> {
    let repository = opened.repository;
    let describe = |text: String| opened.repository.failure("describe the snapshot", text);
    let mut file = record::unnamed(&stored.intent, &repository.host);
    file.tree =
        stored.proof.tree.to_string().parse().map_err(|_| describe("no tree".to_owned()))?;
    file.summary = Some((*stored.proof.summary).clone());
    file.paths = format!("/{}", stored.intent.backup)
        .parse()
        .map_err(|_| describe("a path that is none".to_owned()))?;
    let moment = (repository.clock.now(), repository.elapsed_since(&stored.intent));
    record::verify(&mut file, stored, moment).map_err(|error| describe(error.to_string()))?;
    Ok(file)
}

/// The listings of the snapshot, the root's last: a folder of the backup's name with
/// its files, and beside it the manifest (see [`path_in_snapshot`]).
fn listings(backup: &Name, streams: &[Stream]) -> Result<Vec<(Id, Vec<u8>)>, WriteError> {
    let (mut inner, mut outer) = (Vec::new(), Vec::new());
    for stream in streams {
        let path = path_in_snapshot(backup, &stream.name);
        let path = path.trim_start_matches('/');
        match path.split_once('/') {
            Some((_, name)) => inner.push(node(name, stream)?),
            None => outer.push(node(path, stream)?),
        }
    }
    let (folder_id, folder) = listing(inner)?;
    let metadata = metadata(FOLDER_MODE, 0);
    let mut entry = Node::new_node(OsStr::new(backup.as_str()), NodeType::Dir, metadata);
    entry.subtree = Some(folder_id.to_string().parse().map_err(std::io::Error::other)?);
    outer.push(entry);
    let root = listing(outer)?;
    Ok(vec![(folder_id, folder), root])
}

/// Readers expect the entries in the order of their names.
fn listing(mut nodes: Vec<Node>) -> Result<(Id, Vec<u8>), WriteError> {
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    let (bytes, _) = Tree { nodes }.serialize().map_err(std::io::Error::other)?;
    Ok((Id::of(&bytes), bytes))
}

fn node(name: &str, stream: &Stream) -> Result<Node, WriteError> {
    let metadata = metadata(FILE_MODE, stream.receipt.bytes);
    let mut node = Node::new_node(OsStr::new(name), NodeType::File, metadata);
    let id = |(id, _): &(Id, u32)| id.to_string().parse::<DataId>();
    let content = stream.chunks.iter().map(id).collect::<Result<_, _>>();
    node.content = Some(content.map_err(std::io::Error::other)?);
    Ok(node)
}

fn metadata(mode: u32, size: u64) -> Metadata {
    Metadata { mode: Some(mode), mtime: Some(FILE_TIME), size, links: 1, ..Metadata::default() }
}

/// Every blob with its length, as the index has it; for each file they must add up to
/// the bytes that came in.
fn lengths(
    opened: &Opened<'_>,
    index: &Index,
    added: &Added,
    streams: &[Stream],
    trees: &[(Id, Vec<u8>)],
) -> Result<BTreeMap<Id, u32>, RepositoryError> {
    let mut blobs = BTreeMap::new();
    let mut note = |id: &Id| {
        let new = added.blobs.get(id).map(|(_, bytes)| *bytes);
        let bytes = new.or_else(|| index.find(id).map(|found| found.bytes()))?;
        blobs.insert(*id, bytes);
        Some(u64::from(bytes))
    };
    for stream in streams {
        let sum: Option<u64> = stream.chunks.iter().map(|(id, _)| note(id)).sum();
        if sum != Some(stream.receipt.bytes) {
            let found = sum.map_or_else(|| "not all".to_owned(), |sum| sum.to_string());
            let detail = format!("{found} of {} bytes are stored", stream.receipt.bytes);
            return Err(opened.repository.mismatch(&stream.name, detail));
        }
    }
    for (id, _) in trees {
        if note(id).is_none() {
            return Err(opened
                .repository
                .mismatch("the snapshot", format!("listing {id} is not stored")));
        }
    }
    Ok(blobs)
}

/// Compressed bytes change wholly with every change of what they hold.
fn warning(stream: &Stream) -> Option<String> {
    let format = stream.compressed?;
    Some(format!(
        "`{}` is compressed ({format}): every run stores all of it anew; let the source deliver it \
         uncompressed, the repository compresses it",
        stream.name
    ))
}

fn failed(opened: &Opened<'_>, error: WriteError) -> RepositoryError {
    match error {
        WriteError::Stream { file, source } => RepositoryError::Incomplete { file, source },
        WriteError::Place(error) => opened.repository.place("store the streams", error),
    }
}

/// What plain restic shows of a snapshot.
fn summary(
    added: &Added,
    streams: &[Stream],
    (began, ended): (Timestamp, Timestamp),
) -> SnapshotSummary {
    let seconds = ended.duration_since(began).as_secs_f64();
    let zoned = |time: Timestamp| -> Zoned { time.to_zoned(TimeZone::UTC) };
    let count = streams.len() as u64;
    let mut summary = SnapshotSummary::default();
    summary.files_new = count;
    summary.total_files_processed = count;
    summary.total_bytes_processed = streams.iter().map(|stream| stream.receipt.bytes).sum();
    summary.data_blobs = added.blobs.len() as u64;
    summary.data_added = added.plain_bytes;
    summary.data_added_packed = added.stored_bytes();
    summary.backup_start = zoned(began);
    summary.backup_end = zoned(ended);
    summary.backup_duration = seconds;
    summary.total_duration = seconds;
    summary
}
