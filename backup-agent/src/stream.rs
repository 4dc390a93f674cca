//! What flows from a source into a repository, measured on the way.
//!
//! A [`Measured`] reader counts and hashes every byte, keeps the last few, owns
//! whatever produces them, and turns "the producer failed" into a read error at
//! the end instead of a quiet end of file. It always fills the buffer it is
//! given: rustic_core 0.13's chunker keeps the size of the shortest read it ever
//! saw (`chunker/rabin.rs`), and a pipe's short reads would slow it down 30-fold.

use std::{
    fmt,
    io::{self, Cursor, Read},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
};

use ring::digest;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How many of the last bytes are kept, to look for the format's own end.
pub const TAIL_BYTES: usize = 512;

/// A SHA-256 digest, written as 64 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sha256(String);

impl Sha256 {
    /// Of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_digest(digest::digest(&digest::SHA256, bytes))
    }

    /// The digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn from_digest(digest: digest::Digest) -> Self {
        Self(hex(digest.as_ref()))
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Lower-case hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a stream turned out to be, once it was read to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Its length.
    pub bytes: u64,
    /// Its digest.
    pub sha256: Sha256,
    /// Its last bytes, at most [`TAIL_BYTES`].
    pub tail: Vec<u8>,
}

/// Why a stream was not read to its end.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StreamError {
    /// Whatever produces it failed.
    #[error("the source ended early")]
    Source(#[source] Arc<io::Error>),
    /// Somebody asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// The reader was put aside before the end.
    #[error("it was not read to its end")]
    Abandoned,
}

/// Bytes whose producer can say, after the end, whether that was all.
pub trait Content: Read + Send {
    /// Called once, at the end of the bytes: an error means that some are missing.
    ///
    /// # Errors
    ///
    /// What the producer died of.
    fn finish(&mut self) -> io::Result<()>;
}

impl Content for Cursor<Vec<u8>> {
    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes that come later, in one piece: reading waits for them.
#[derive(Debug)]
pub struct Later {
    promised: mpsc::Receiver<Vec<u8>>,
    arrived: Option<Cursor<Vec<u8>>>,
}

/// Delivers the bytes that a [`Later`] waits for; dropped, the reader fails.
#[derive(Debug)]
pub struct Promise(mpsc::SyncSender<Vec<u8>>);

impl Later {
    /// The reader, and what delivers to it.
    #[must_use]
    pub fn new() -> (Self, Promise) {
        let (sender, promised) = mpsc::sync_channel(1);
        (Self { promised, arrived: None }, Promise(sender))
    }
}

impl Promise {
    /// Delivers. A reader that has gone away is no error: whoever dropped it knows why.
    pub fn keep(self, bytes: Vec<u8>) {
        drop(self.0.send(bytes));
    }
}

impl Read for Later {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let arrived = match &mut self.arrived {
            Some(arrived) => arrived,
            waiting => waiting.insert(Cursor::new(
                self.promised
                    .recv()
                    .map_err(|_| io::Error::other("what was promised never came"))?,
            )),
        };
        arrived.read(buffer)
    }
}

impl Content for Later {
    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

type Outcome = Option<Result<Receipt, StreamError>>;

/// Watches a [`Measured`] reader from elsewhere.
#[derive(Clone, Debug)]
pub struct Gauge {
    bytes: Arc<AtomicU64>,
    outcome: watch::Receiver<Outcome>,
}

impl Gauge {
    /// Bytes read so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The receipt, when the end was reached.
    ///
    /// # Errors
    ///
    /// The stream failed, was cancelled, or has not been read to its end.
    pub fn receipt(&self) -> Result<Receipt, StreamError> {
        self.outcome.borrow().clone().unwrap_or(Err(StreamError::Abandoned))
    }

    /// Waits for the end. Cancel safety: safe.
    ///
    /// # Errors
    ///
    /// As [`Gauge::receipt`].
    pub async fn finished(&mut self) -> Result<Receipt, StreamError> {
        match self.outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Err(StreamError::Abandoned)),
            Err(_) => Err(StreamError::Abandoned),
        }
    }
}

/// Counts and hashes what passes.
#[derive(Clone)]
pub struct Meter {
    hash: digest::Context,
    tail: Vec<u8>,
    bytes: u64,
}

impl Default for Meter {
    fn default() -> Self {
        Self { hash: digest::Context::new(&digest::SHA256), tail: Vec::new(), bytes: 0 }
    }
}

impl Meter {
    /// This has passed.
    pub fn note(&mut self, chunk: &[u8]) {
        self.hash.update(chunk);
        self.bytes += chunk.len() as u64;
        let keep = &chunk[chunk.len().saturating_sub(TAIL_BYTES)..];
        self.tail.extend_from_slice(keep);
        self.tail.drain(..self.tail.len().saturating_sub(TAIL_BYTES));
    }

    /// That was all.
    #[must_use]
    pub fn finish(self) -> Receipt {
        let sha256 = Sha256::from_digest(self.hash.finish());
        Receipt { bytes: self.bytes, sha256, tail: self.tail }
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meter").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// A reader that measures what passes through it; see the module.
pub struct Measured {
    content: Box<dyn Content>,
    cancel: CancellationToken,
    /// Taken at the end.
    meter: Option<Meter>,
    bytes: Arc<AtomicU64>,
    outcome: watch::Sender<Outcome>,
}

impl Measured {
    /// Measures `content` until its end or until `cancel`.
    #[must_use]
    pub fn new(content: Box<dyn Content>, cancel: CancellationToken) -> (Self, Gauge) {
        let (sender, receiver) = watch::channel(None);
        let bytes = Arc::new(AtomicU64::new(0));
        let gauge = Gauge { bytes: Arc::clone(&bytes), outcome: receiver };
        let meter = Some(Meter::default());
        (Self { content, cancel, meter, bytes, outcome: sender }, gauge)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, StreamError> {
        let mut filled = 0;
        while filled < buffer.len() {
            if self.cancel.is_cancelled() {
                return Err(StreamError::Cancelled);
            }
            match self.content.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(filled)
    }

    fn failed(&self, error: io::Error) -> StreamError {
        // A cancelled run kills its producers, which then fail: the cause comes first.
        if self.cancel.is_cancelled() {
            return StreamError::Cancelled;
        }
        StreamError::Source(Arc::new(error))
    }

    fn note(&mut self, chunk: &[u8]) {
        if let Some(meter) = &mut self.meter {
            meter.note(chunk);
            self.bytes.store(meter.bytes, Ordering::Relaxed);
        }
    }

    fn end(&mut self) -> Result<(), StreamError> {
        let Some(meter) = self.meter.take() else { return Ok(()) };
        self.content.finish().map_err(|error| self.failed(error))?;
        self.outcome.send_replace(Some(Ok(meter.finish())));
        Ok(())
    }
}

impl Read for Measured {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let step = self.fill(buffer).and_then(|filled| {
            self.note(&buffer[..filled]);
            if filled == 0 {
                self.end()?
            }
            Ok(filled)
        });
        step.map_err(|error| {
            let shown = io::Error::other(error.clone());
            self.outcome.send_replace(Some(Err(error)));
            shown
        })
    }
}

impl fmt::Debug for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Measured").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one byte per read and then fails or not.
    struct Drip {
        left: usize,
        verdict: Option<io::Error>,
    }

    impl Read for Drip {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.left == 0 {
                return Ok(0);
            }
            self.left -= 1;
            buffer[0] = b'x';
            Ok(1)
        }
    }

    impl Content for Drip {
        fn finish(&mut self) -> io::Result<()> {
            self.verdict.take().map_or(Ok(()), Err)
        }
    }

    fn drip(left: usize, verdict: Option<io::Error>) -> (Measured, Gauge) {
        Measured::new(Box::new(Drip { left, verdict }), CancellationToken::new())
    }

    #[test]
    fn short_reads_never_reach_the_reader() {
        let (mut measured, _gauge) = drip(1000, None);
        let mut buffer = [0; 600];
        assert_eq!(measured.read(&mut buffer).expect("read"), 600);
        assert_eq!(measured.read(&mut buffer).expect("read"), 400);
    }

    #[test]
    fn the_receipt_is_there_only_after_the_end() {
        let (mut measured, gauge) = drip(700, None);
        let mut buffer = [0; 1000];
        assert_eq!(measured.read(&mut buffer).expect("read"), 700);
        assert!(matches!(gauge.receipt(), Err(StreamError::Abandoned)));
        assert_eq!(measured.read(&mut buffer).expect("read"), 0);
        let receipt = gauge.receipt().expect("a receipt");
        assert_eq!((receipt.bytes, receipt.tail.len()), (700, TAIL_BYTES));
        assert_eq!(receipt.sha256, Sha256::of(&[b'x'; 700]));
    }

    #[test]
    fn a_producer_that_failed_makes_the_end_an_error() {
        let (mut measured, gauge) = drip(10, Some(io::Error::other("exit 3")));
        let mut all = Vec::new();
        assert!(measured.read_to_end(&mut all).is_err());
        assert!(matches!(gauge.receipt(), Err(StreamError::Source(_))));
    }

    #[test]
    fn a_cancelled_stream_stops_reading() {
        let cancel = CancellationToken::new();
        let content = Box::new(Drip { left: 10, verdict: None });
        let (mut measured, gauge) = Measured::new(content, cancel.clone());
        cancel.cancel();
        assert!(measured.read(&mut [0; 4]).is_err());
        assert!(matches!(gauge.receipt(), Err(StreamError::Cancelled)));
    }

    #[test]
    fn a_broken_promise_is_an_error_and_not_an_empty_file() {
        let (mut later, promise) = Later::new();
        drop(promise);
        assert!(later.read(&mut [0; 4]).is_err());
    }

    #[test]
    fn a_kept_promise_is_read_to_its_end() {
        let (mut later, promise) = Later::new();
        promise.keep(b"manifest".to_vec());
        let mut all = String::new();
        later.read_to_string(&mut all).expect("read");
        assert_eq!(all, "manifest");
    }
}
