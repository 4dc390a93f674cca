//! Bytes out of the repository, every blob checked against its hash.
//!
//! Runs of blobs that lie behind one another in a pack are read at once, and several
//! runs at a time are read, opened and hashed ahead of whoever writes them out. A
//! damaged index does not keep anybody from a restore: the packs say themselves what
//! they hold.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    num::NonZeroUsize,
    sync::{Condvar, Mutex},
    thread,
};

use rustic_core::repofile::{Node, Tree};
use tokio_util::sync::CancellationToken;

use super::{
    Opened,
    index::{Found, Index, damaged, pack_path},
    lock,
    vault::{Broken, Id},
};
use crate::{
    ids::SnapshotId,
    repository::{RepositoryError, storage::Range},
    stream::{Meter, Receipt, StreamError},
};

/// At most so much is read from a pack at once, in bytes.
const RUN_BYTES: u32 = 4 << 20;

/// Runs that are read ahead for each reading thread.
const AHEAD: usize = 2;

/// Reads one file of a snapshot into `sink`.
pub(super) fn read(
    opened: &Opened<'_>,
    id: &SnapshotId,
    path: &str,
    sink: &mut dyn Write,
    cancel: &CancellationToken,
) -> Result<Receipt, RepositoryError> {
    let repository = opened.repository;
    let snapshot = opened.find(id)?;
    let failed = |error| repository.place("read a file of the snapshot", error);
    let library = Library::open(opened).map_err(failed)?;
    let node = library.node(snapshot.tree.to_hex().as_str(), path).map_err(failed)?;
    let runs = library.runs(&node).map_err(failed)?;
    let mut meter = Meter::default();
    let mut writing = Ok(());
    library
        .deliver(&runs, cancel, &mut |bytes| {
            meter.note(bytes);
            writing = sink.write_all(bytes);
            writing.is_ok()
        })
        .map_err(failed)?;
    writing.map_err(|error| repository.failure("write out what was read", error.to_string()))?;
    if cancel.is_cancelled() {
        let (file, source) = (path.to_owned(), StreamError::Cancelled);
        return Err(RepositoryError::Incomplete { file, source });
    }
    let receipt = meter.finish();
    // A size that was never known is written as 0, by others than us.
    if node.meta.size != 0 && node.meta.size != receipt.bytes {
        let detail = format!("{} bytes instead of {}", receipt.bytes, node.meta.size);
        return Err(repository.mismatch(path, detail));
    }
    Ok(receipt)
}

/// Blobs that lie behind one another in one pack.
#[derive(Debug)]
struct Run {
    pack: Id,
    blobs: Vec<(Id, Found)>,
}

impl Run {
    fn end(&self) -> u32 {
        self.blobs.last().map_or(0, |(_, found)| found.offset + found.length)
    }

    fn start(&self) -> u32 {
        self.blobs.first().map_or(0, |(_, found)| found.offset)
    }

    fn takes(&self, next: &Found) -> bool {
        self.pack == next.pack
            && self.end() == next.offset
            && self.end() - self.start() + next.length <= RUN_BYTES
    }
}

struct Library<'a> {
    opened: &'a Opened<'a>,
    index: Index,
}

impl<'a> Library<'a> {
    fn open(opened: &'a Opened<'a>) -> io::Result<Self> {
        let (mut index, broken) = Index::salvage(opened.storage(), &opened.vault)?;
        if !broken.is_empty() {
            tracing::warn!(?broken, "the index is damaged; the packs are asked themselves");
            index.add_unindexed(opened.storage(), &opened.vault)?;
        }
        Ok(Self { opened, index })
    }

    fn find(&self, id: &str) -> io::Result<(Id, Found)> {
        let missing = || {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("blob {id} is in no pack that can be read"),
            )
        };
        let id = Id::parse(id).ok_or_else(missing)?;
        self.index.find(&id).map(|found| (id, found)).ok_or_else(missing)
    }

    /// Goes down the listings to a file.
    fn node(&self, tree: &str, path: &str) -> io::Result<Node> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("there is no `{path}`"));
        let mut parts = path.split('/').filter(|part| !part.is_empty()).peekable();
        let mut tree = tree.to_owned();
        while let Some(part) = parts.next() {
            let (id, found) = self.find(&tree)?;
            let run = Run { pack: found.pack, blobs: vec![(id, found)] };
            let json = self.open_run(&run)?;
            let listing: Tree = serde_json::from_slice(&json)
                .map_err(|_| damaged(&pack_path(&found.pack), Broken::Form))?;
            let node = listing.nodes.into_iter().find(|node| node.name == part);
            let node = node.ok_or_else(missing)?;
            if parts.peek().is_none() {
                return Ok(node);
            }
            tree = node.subtree.ok_or_else(missing)?.to_hex().as_str().to_owned();
        }
        Err(missing())
    }

    fn runs(&self, node: &Node) -> io::Result<Vec<Run>> {
        let mut runs: Vec<Run> = Vec::new();
        for id in node.content.iter().flatten() {
            let (id, found) = self.find(id.to_hex().as_str())?;
            match runs.last_mut() {
                Some(run) if run.takes(&found) => run.blobs.push((id, found)),
                _ => runs.push(Run { pack: found.pack, blobs: vec![(id, found)] }),
            }
        }
        Ok(runs)
    }

    /// The plain bytes of a run.
    fn open_run(&self, run: &Run) -> io::Result<Vec<u8>> {
        let path = pack_path(&run.pack);
        let (start, length) = (run.start(), (run.end() - run.start()) as usize);
        let range = Range { offset: start.into(), length };
        let sealed = self.opened.storage().read_range(&path, range).map_err(|error| {
            // A pack that ends too early is damaged, whatever the system calls it.
            match error.kind() {
                io::ErrorKind::UnexpectedEof => damaged(&path, Broken::Form),
                _ => error,
            }
        })?;
        let mut plain = Vec::new();
        for (id, found) in &run.blobs {
            let at = (found.offset - start) as usize;
            let blob = sealed.get(at..at + found.length as usize);
            let opened = blob.ok_or(Broken::Form).and_then(|blob| {
                let opened = self.opened.vault.unpack(blob, found.plain)?;
                if Id::of(&opened) == *id { Ok(opened) } else { Err(Broken::Hash) }
            });
            plain.extend(opened.map_err(|broken| damaged(&path, broken))?);
        }
        Ok(plain)
    }

    /// Hands out the runs in order, read ahead by several threads, until `take` has
    /// enough or `cancel` fires.
    fn deliver(
        &self,
        runs: &[Run],
        cancel: &CancellationToken,
        take: &mut dyn FnMut(&[u8]) -> bool,
    ) -> io::Result<()> {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let line = Line::new(cores * AHEAD);
        thread::scope(|scope| {
            for _ in 0..cores.min(runs.len()) {
                scope.spawn(|| {
                    while let Some(run) = line.next(runs.len()) {
                        line.put(run, self.open_run(&runs[run]));
                    }
                });
            }
            let delivered: io::Result<()> = (0..runs.len()).try_for_each(|run| {
                let bytes = line.wait_for(run)?;
                let goes_on = !cancel.is_cancelled() && take(&bytes);
                if goes_on { Ok(()) } else { Err(io::ErrorKind::Interrupted.into()) }
            });
            line.stop();
            match delivered {
                // Whoever stopped knows why.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
                delivered => delivered,
            }
        })
    }
}

/// Runs that were read ahead, in their order.
struct Line {
    ahead: usize,
    state: Mutex<Ready>,
    changed: Condvar,
}

#[derive(Default)]
struct Ready {
    /// The next run that nobody reads yet.
    next: usize,
    /// The run that is delivered next.
    delivered: usize,
    runs: BTreeMap<usize, io::Result<Vec<u8>>>,
    stopped: bool,
}

impl Line {
    fn new(ahead: usize) -> Self {
        Self { ahead, state: Mutex::default(), changed: Condvar::new() }
    }

    /// The next run to read, as soon as it is not too far ahead.
    fn next(&self, count: usize) -> Option<usize> {
        let mut state = lock(&self.state);
        while !state.stopped && state.next < count && state.next >= state.delivered + self.ahead {
            state = self.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        if state.stopped || state.next >= count {
            return None;
        }
        state.next += 1;
        Some(state.next - 1)
    }

    fn put(&self, run: usize, bytes: io::Result<Vec<u8>>) {
        lock(&self.state).runs.insert(run, bytes);
        self.changed.notify_all();
    }

    fn wait_for(&self, run: usize) -> io::Result<Vec<u8>> {
        let mut state = lock(&self.state);
        loop {
            if let Some(bytes) = state.runs.remove(&run) {
                state.delivered = run + 1;
                self.changed.notify_all();
                return bytes;
            }
            state = self.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
    }

    fn stop(&self) {
        lock(&self.state).stopped = true;
        self.changed.notify_all();
    }
}
