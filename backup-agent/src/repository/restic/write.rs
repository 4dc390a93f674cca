//! Streams into packs, several steps at once.
//!
//! One thread for each stream reads, measures and cuts; a thread for each core hashes
//! chunks and compresses and seals those that are new; this thread fills packs; two
//! more write them and prove each at once: read back from the place and every blob in
//! it opened again. So the proof of what a run stores is done when its last byte is.
//! Queues between the steps are short: a slow place slows the dump down, and memory
//! stays bounded.
//!
//! After a failure the steps go on taking what comes and throw it away, so that none
//! waits for a step that has ended.

use std::{
    collections::{HashMap, HashSet},
    io::{self, Read},
    num::NonZeroUsize,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};

use super::{
    chunk::{CHUNK_BYTES_MAX, Cutter},
    index::{Index, Shelf, damaged, pack_path},
    pack::{self, Blob, Filling, Kind, Pack},
    vault::{Id, Packing, Sealed, Vault},
};
use crate::{
    failpoint,
    repository::{Incoming, storage::Storage},
    stream::{Gauge, Measured, StreamError},
};

/// Streams that are read at once; further ones wait for their turn.
const STREAMS_MAX: usize = 16;

/// Chunks, and sealed chunks, that wait for the next step.
const QUEUE: usize = 32;

/// Threads that write and prove packs: one writes while the other proves.
const WRITERS: usize = 2;

/// Bytes read at a time.
const READ_BYTES: usize = 4 * CHUNK_BYTES_MAX;

/// What a run writes with.
pub(super) struct Desk<'a> {
    pub(super) storage: &'a dyn Storage,
    pub(super) vault: &'a Vault,
    pub(super) index: &'a Index,
}

/// Why streams were not stored.
#[derive(Debug)]
pub(super) enum WriteError {
    /// A stream failed.
    Stream { file: String, source: StreamError },
    /// The place failed.
    Place(io::Error),
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        Self::Place(error)
    }
}

/// A stream that was stored to its end.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) name: String,
    pub(super) receipt: crate::stream::Receipt,
    /// Its chunks in order, with their lengths.
    pub(super) chunks: Vec<(Id, u32)>,
    /// The format, where it begins like something that is compressed already.
    pub(super) compressed: Option<&'static str>,
}

/// How compressed files begin.
const COMPRESSED: [(&[u8], &str); 7] = [
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\0", "xz"),
    (b"BZh", "bzip2"),
    (b"PK\x03\x04", "zip"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
    (b"\x04\x22\x4d\x18", "LZ4"),
];

/// What a run added; all of it is proved.
#[derive(Debug, Default)]
pub(super) struct Added {
    /// The pack and length of each new blob.
    pub(super) blobs: HashMap<Id, (Id, u32)>,
    /// Packs with their sizes.
    pub(super) packs: HashMap<Id, u64>,
    /// Plain bytes of the new blobs.
    pub(super) plain_bytes: u64,
}

impl Added {
    fn take(&mut self, pack: &Pack, blobs: &[Blob]) {
        self.packs.insert(pack.id, pack.content.len() as u64);
        for blob in blobs {
            self.blobs.insert(blob.id, (pack.id, blob.plain_bytes()));
            self.plain_bytes += u64::from(blob.plain_bytes());
        }
    }

    /// Bytes of the new packs.
    pub(super) fn stored_bytes(&self) -> u64 {
        self.packs.values().sum()
    }
}

impl Desk<'_> {
    /// Stores streams. The packs of streams that fail stay, indexed and unreferenced:
    /// the next run builds on them, or a prune removes them.
    pub(super) fn streams(
        &self,
        files: Vec<Incoming>,
        shelf: &Shelf<'_>,
        added: &mut Added,
    ) -> Result<Vec<Stream>, WriteError> {
        let gauges: Vec<(String, Gauge)> =
            files.iter().map(|file| (file.name.clone(), file.gauge.clone())).collect();
        let cutter = Cutter::new(self.vault);
        let shared = Shared {
            desk: self,
            cutter: &cutter,
            shelf,
            streams: Mutex::new(files.into_iter().map(|file| file.content).enumerate().collect()),
            chunks: gauges.iter().map(|_| Mutex::default()).collect(),
            compressed: Mutex::default(),
            claimed: Mutex::default(),
            added: Mutex::new(std::mem::take(added)),
            failure: Failure::default(),
        };
        thread::scope(|scope| shared.run(scope, gauges.len()))?;
        let Shared { chunks, compressed, added: done, failure, .. } = shared;
        let compressed = compressed.into_inner().unwrap_or_else(PoisonError::into_inner);
        *added = done.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(error) = failure.take() {
            return Err(error.into());
        }
        let finish = |(number, ((name, gauge), chunks)): (usize, (_, Mutex<Vec<_>>))| {
            let (name, gauge): (String, Gauge) = (name, gauge);
            let receipt = match gauge.receipt() {
                Ok(receipt) => receipt,
                Err(source) => return Err(WriteError::Stream { file: name, source }),
            };
            let mut chunks = chunks.into_inner().unwrap_or_else(PoisonError::into_inner);
            chunks.sort_unstable_by_key(|(number, ..): &(u64, Id, u32)| *number);
            let chunks = chunks.into_iter().map(|(_, id, bytes)| (id, bytes)).collect();
            let compressed = compressed.get(&number).copied();
            Ok(Stream { name, receipt, chunks, compressed })
        };
        gauges.into_iter().zip(chunks).enumerate().map(finish).collect()
    }

    /// Stores folder listings that are not there yet.
    pub(super) fn trees(
        &self,
        trees: &[(Id, Vec<u8>)],
        shelf: &Shelf<'_>,
        added: &mut Added,
    ) -> Result<(), WriteError> {
        let (mut packing, mut filling) = (Packing::new()?, Filling::new(Kind::Tree));
        for (id, plain) in trees {
            if self.index.find(id).is_none() && !added.blobs.contains_key(id) {
                filling.add(*id, &self.vault.pack(&mut packing, plain)?);
            }
        }
        if let Some(pack) = filling.close(self.vault)? {
            let blobs = self.put(&pack)?;
            added.take(&pack, &blobs);
            shelf.add(pack.id, blobs)?;
        }
        Ok(())
    }

    /// Writes a pack and proves it from what the place gives back.
    fn put(&self, pack: &Pack) -> io::Result<Vec<Blob>> {
        let path = pack_path(&pack.id);
        self.storage.write(&path, pack.content.clone())?;
        let back = self.storage.read_back(&path)?;
        pack::prove(self.vault, &pack.id, &back).map_err(|broken| {
            // A later run must not build on it; what cannot be removed is in no index.
            drop(self.storage.remove(&path));
            damaged(&path, broken)
        })
    }
}

struct Chunk {
    stream: usize,
    number: u64,
    bytes: Vec<u8>,
}

struct Shared<'a> {
    desk: &'a Desk<'a>,
    cutter: &'a Cutter,
    shelf: &'a Shelf<'a>,
    /// Streams that nobody reads yet, in order.
    streams: Mutex<std::collections::VecDeque<(usize, Measured)>>,
    /// Of each stream: number, id and length of its chunks.
    chunks: Vec<Mutex<Vec<(u64, Id, u32)>>>,
    /// Of streams that are compressed: how.
    compressed: Mutex<HashMap<usize, &'static str>>,
    /// New blobs that some thread has taken upon itself.
    claimed: Mutex<HashSet<Id>>,
    added: Mutex<Added>,
    failure: Failure,
}

impl Shared<'_> {
    fn run<'scope>(
        &'scope self,
        scope: &'scope thread::Scope<'scope, '_>,
        streams: usize,
    ) -> io::Result<()> {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let (chunk_sender, chunks) = sync_channel(QUEUE);
        let (blob_sender, blobs) = sync_channel(QUEUE);
        let (pack_sender, packs) = sync_channel(0);
        for _ in 0..streams.min(STREAMS_MAX) {
            let sender = chunk_sender.clone();
            spawn(scope, "read", move || self.read_streams(&sender))?;
        }
        drop(chunk_sender);
        let chunks = Arc::new(Mutex::new(chunks));
        for _ in 0..cores {
            let (chunks, sender) = (Arc::clone(&chunks), blob_sender.clone());
            spawn(scope, "seal", move || self.seal_chunks(&chunks, &sender))?;
        }
        drop(blob_sender);
        let packs = Arc::new(Mutex::new(packs));
        for _ in 0..WRITERS {
            let packs = Arc::clone(&packs);
            spawn(scope, "write", move || self.write_packs(&packs))?;
        }
        self.fill_packs(&blobs, &pack_sender);
        Ok(())
    }

    fn read_streams(&self, sender: &SyncSender<Chunk>) {
        loop {
            let Some((stream, content)) = lock(&self.streams).pop_front() else { return };
            self.cut(stream, content, sender);
        }
    }

    /// A stream that fails says so through its gauge.
    fn cut(&self, stream: usize, mut content: Measured, sender: &SyncSender<Chunk>) {
        let mut buffer = vec![0; READ_BYTES];
        let (mut start, mut end, mut at_end) = (0, 0, false);
        for number in 0.. {
            if !at_end && end - start < CHUNK_BYTES_MAX {
                buffer.copy_within(start..end, 0);
                (start, end) = (0, end - start);
                while !at_end && end < buffer.len() {
                    match content.read(&mut buffer[end..]) {
                        Ok(count) => (end, at_end) = (end + count, count == 0),
                        Err(_) => return,
                    }
                }
            }
            if start == end || self.failure.is_there() {
                return;
            }
            let format = COMPRESSED.iter().find(|(magic, _)| buffer[start..end].starts_with(magic));
            if let (0, Some((_, format))) = (number, format) {
                lock(&self.compressed).insert(stream, *format);
            }
            let length = self.cutter.cut(&buffer[start..end]);
            let bytes = buffer[start..start + length].to_vec();
            start += length;
            if sender.send(Chunk { stream, number, bytes }).is_err() {
                return;
            }
        }
    }

    fn seal_chunks(&self, chunks: &Mutex<Receiver<Chunk>>, sender: &SyncSender<(Id, Sealed)>) {
        let mut packing = self.failure.note(Packing::new());
        loop {
            let Ok(chunk) = lock(chunks).recv() else { return };
            let Some(packing) = packing.as_mut().filter(|_| !self.failure.is_there()) else {
                continue;
            };
            let id = Id::of(&chunk.bytes);
            let bytes = u32::try_from(chunk.bytes.len()).unwrap_or(u32::MAX);
            if let Some(list) = self.chunks.get(chunk.stream) {
                lock(list).push((chunk.number, id, bytes));
            }
            if self.desk.index.find(&id).is_some() || !lock(&self.claimed).insert(id) {
                continue;
            }
            if let Some(sealed) = self.failure.note(self.desk.vault.pack(packing, &chunk.bytes)) {
                // The next step takes until all of us have ended.
                drop(sender.send((id, sealed)));
            }
        }
    }

    fn fill_packs(&self, blobs: &Receiver<(Id, Sealed)>, sender: &SyncSender<Pack>) {
        let mut filling = Filling::new(Kind::Data);
        let close = |filling: &mut Filling| {
            let closed = self.failure.note(filling.close(self.desk.vault)).flatten();
            if let Some(pack) = closed {
                drop(sender.send(pack));
            }
        };
        for (id, sealed) in blobs {
            if self.failure.is_there() {
                continue;
            }
            filling.add(id, &sealed);
            if filling.is_full() {
                close(&mut filling);
            }
        }
        if !self.failure.is_there() {
            close(&mut filling);
        }
    }

    fn write_packs(&self, packs: &Mutex<Receiver<Pack>>) {
        loop {
            let Ok(pack) = lock(packs).recv() else { return };
            if self.failure.is_there() {
                continue;
            }
            let Some(blobs) = self.failure.note(self.desk.put(&pack)) else { continue };
            failpoint::reach("backup.pack-proved");
            lock(&self.added).take(&pack, &blobs);
            self.failure.note(self.shelf.add(pack.id, blobs));
        }
    }
}

/// The first error of any step.
#[derive(Default)]
struct Failure {
    there: AtomicBool,
    first: Mutex<Option<io::Error>>,
}

impl Failure {
    fn is_there(&self) -> bool {
        self.there.load(Ordering::Relaxed)
    }

    fn note<T>(&self, outcome: io::Result<T>) -> Option<T> {
        match outcome {
            Ok(value) => Some(value),
            Err(error) => {
                lock(&self.first).get_or_insert(error);
                self.there.store(true, Ordering::Relaxed);
                None
            }
        }
    }

    fn take(self) -> Option<io::Error> {
        self.first.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

fn spawn<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() + Send + 'scope,
) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, work).map(drop)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
