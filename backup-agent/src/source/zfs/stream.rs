//! The two ends of a ZFS stream.
//!
//! A stream is a row of records (`dmu_replay_record_t`, zfs/sys/zfs_ioctl.h), 312
//! bytes each beside their payloads. The first says which snapshot it makes and on
//! which it builds; the last says that the sender came to its end. Both are looked at
//! while the bytes pass, so that a stream that was cut, or is not the one that was
//! planned, is an error and never a file. The checksums inside are ZFS's to check,
//! when it receives.

use std::io::{self, Read};

use super::names::Guid;

/// Bytes of a record.
const RECORD_BYTES: usize = 312;
/// `DMU_BACKUP_MAGIC`.
const MAGIC: u64 = 0x2_F5BA_CBAC;
/// `DRR_BEGIN`.
const BEGIN: u32 = 0;
/// `DRR_END`.
const END: u32 = 5;
/// `DMU_SUBSTREAM`: one snapshot, and no bundle of several.
const SUBSTREAM: u64 = 1;
/// `DMU_BACKUP_FEATURE_RAW`, a bit of the features that follow the stream's type.
const FEATURE_RAW: u64 = 1 << 24;

/// Which stream is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// The snapshot that it makes.
    pub to: Guid,
    /// The snapshot that it builds on; none for a full stream.
    pub from: Option<Guid>,
    /// Whether encrypted blocks must pass as they are.
    pub raw: bool,
}

/// Why bytes are not the stream that was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamFault {
    /// It does not begin like a stream.
    #[error("it does not begin like a ZFS stream")]
    NoStream,
    /// It makes another snapshot, or builds on another one.
    #[error(
        "it makes snapshot {to} on top of {from}, expected was {expected_to} on top of {expected_from}"
    )]
    Other {
        /// What it makes.
        to: Guid,
        /// What it builds on; 0 for a full one.
        from: Guid,
        /// What it should make.
        expected_to: Guid,
        /// What it should build on.
        expected_from: Guid,
    },
    /// Encrypted data would pass in the clear.
    #[error("it holds an encrypted dataset in the clear")]
    NotRaw,
    /// The end record is missing.
    #[error("it stops after {bytes} bytes without the record that ends a ZFS stream")]
    Cut {
        /// How much there was.
        bytes: u64,
    },
}

/// Watches a stream pass; see the module.
#[derive(Debug)]
pub struct Watched<R> {
    inner: R,
    expected: Expected,
    ends: Ends,
}

/// The first and the last record, and how much there was.
#[derive(Clone, Debug, Default)]
pub struct Ends {
    head: Vec<u8>,
    tail: Vec<u8>,
    bytes: u64,
}

impl<R: Read> Watched<R> {
    /// Watches `inner`, which must be the `expected` stream.
    pub const fn new(inner: R, expected: Expected) -> Self {
        Self { inner, expected, ends: Ends { head: Vec::new(), tail: Vec::new(), bytes: 0 } }
    }

    /// Bytes that have passed.
    pub const fn passed_bytes(&self) -> u64 {
        self.ends.bytes
    }
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let size = self.inner.read(buffer)?;
        let headless = self.ends.head.len() < RECORD_BYTES;
        self.ends.note(&buffer[..size]);
        if size == 0 && !buffer.is_empty() {
            self.ends.check(self.expected).map_err(io::Error::other)?;
        } else if headless && self.ends.head.len() == RECORD_BYTES {
            // Before anything of another stream is passed on.
            self.ends.check_head(self.expected).map_err(io::Error::other)?;
        }
        Ok(size)
    }
}

impl Ends {
    /// Takes the next bytes in.
    pub fn note(&mut self, bytes: &[u8]) {
        let wanted = RECORD_BYTES - self.head.len();
        self.head.extend_from_slice(&bytes[..bytes.len().min(wanted)]);
        let kept = &bytes[bytes.len().saturating_sub(RECORD_BYTES)..];
        self.tail.extend_from_slice(kept);
        self.tail.drain(..self.tail.len().saturating_sub(RECORD_BYTES));
        self.bytes += bytes.len() as u64;
    }

    /// Whether these are both ends of the expected stream.
    ///
    /// # Errors
    ///
    /// What is wrong.
    pub fn check(&self, expected: Expected) -> Result<(), StreamFault> {
        let head = self.check_head(expected)?;
        let tail = Record { bytes: &self.tail, big_endian: head.big_endian };
        let is_end = self.bytes >= 2 * RECORD_BYTES as u64
            && tail.kind() == END
            && tail.u32_at(4) == 0
            && tail.u64_at(40) == expected.to.0;
        if is_end { Ok(()) } else { Err(StreamFault::Cut { bytes: self.bytes }) }
    }

    fn check_head(&self, expected: Expected) -> Result<Record<'_>, StreamFault> {
        let head = Record::of(&self.head).ok_or(StreamFault::NoStream)?;
        let version = head.u64_at(16);
        if head.kind() != BEGIN || head.u64_at(8) != MAGIC || version & 3 != SUBSTREAM {
            return Err(StreamFault::NoStream);
        }
        let (to, from) = (Guid(head.u64_at(40)), Guid(head.u64_at(48)));
        let expected_from = expected.from.unwrap_or(Guid(0));
        if (to, from) != (expected.to, expected_from) {
            return Err(StreamFault::Other { to, from, expected_to: expected.to, expected_from });
        }
        if expected.raw && (version >> 2) & FEATURE_RAW == 0 {
            return Err(StreamFault::NotRaw);
        }
        Ok(head)
    }
}

/// A record, in the byte order of whoever wrote the stream.
struct Record<'b> {
    bytes: &'b [u8],
    big_endian: bool,
}

impl<'b> Record<'b> {
    /// The first record: its magic number tells the byte order.
    fn of(bytes: &'b [u8]) -> Option<Self> {
        let little = Self { bytes, big_endian: false };
        let is_big = little.u64_at(8) == MAGIC.swap_bytes();
        (bytes.len() == RECORD_BYTES).then_some(Self { bytes, big_endian: is_big })
    }

    fn kind(&self) -> u32 {
        self.u32_at(0)
    }

    fn u32_at(&self, offset: usize) -> u32 {
        let Some(bytes) = self.bytes.get(offset..).and_then(<[u8]>::first_chunk) else {
            return u32::MAX;
        };
        if self.big_endian { u32::from_be_bytes(*bytes) } else { u32::from_le_bytes(*bytes) }
    }

    fn u64_at(&self, offset: usize) -> u64 {
        let Some(bytes) = self.bytes.get(offset..).and_then(<[u8]>::first_chunk) else {
            return u64::MAX;
        };
        if self.big_endian { u64::from_be_bytes(*bytes) } else { u64::from_le_bytes(*bytes) }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A stream of two records with `payload` between them.
    pub(crate) fn stream(to: Guid, from: Option<Guid>, raw: bool, payload: &[u8]) -> Vec<u8> {
        let mut begin = vec![0; RECORD_BYTES];
        begin[8..16].copy_from_slice(&MAGIC.to_le_bytes());
        let features = if raw { FEATURE_RAW } else { 0 };
        begin[16..24].copy_from_slice(&(SUBSTREAM | features << 2).to_le_bytes());
        begin[40..48].copy_from_slice(&to.0.to_le_bytes());
        begin[48..56].copy_from_slice(&from.unwrap_or(Guid(0)).0.to_le_bytes());
        let mut end = vec![0; RECORD_BYTES];
        end[..4].copy_from_slice(&END.to_le_bytes());
        end[40..48].copy_from_slice(&to.0.to_le_bytes());
        [begin, payload.to_vec(), end].concat()
    }

    fn expected() -> Expected {
        Expected { to: Guid(7), from: Some(Guid(3)), raw: false }
    }

    fn read(bytes: &[u8], expected: Expected) -> Result<u64, String> {
        let mut watched = Watched::new(bytes, expected);
        let all = io::copy(&mut watched, &mut io::sink());
        all.map_err(|error| error.to_string())
    }

    #[test]
    fn a_whole_stream_passes() {
        let bytes = stream(Guid(7), Some(Guid(3)), false, b"payload");
        assert_eq!(read(&bytes, expected()), Ok(bytes.len() as u64));
    }

    #[test]
    fn a_stream_cut_anywhere_is_an_error() {
        let bytes = stream(Guid(7), Some(Guid(3)), false, &[9; 100]);
        for size in 0..bytes.len() {
            assert!(read(&bytes[..size], expected()).is_err(), "cut at {size}");
        }
    }

    #[test]
    fn another_snapshot_or_base_is_an_error() {
        for (to, from) in [(8, Some(3)), (7, Some(4)), (7, None)] {
            let bytes = stream(Guid(to), from.map(Guid), false, b"x");
            let error = read(&bytes, expected()).expect_err("another stream");
            assert!(error.contains("expected was 7 on top of 3"), "{error}");
        }
    }

    #[test]
    fn an_encrypted_dataset_never_passes_in_the_clear() {
        let raw = Expected { raw: true, ..expected() };
        let clear = stream(Guid(7), Some(Guid(3)), false, b"x");
        assert!(read(&clear, raw).expect_err("clear").contains("in the clear"));
        let bytes = stream(Guid(7), Some(Guid(3)), true, b"x");
        assert_eq!(read(&bytes, raw), Ok(bytes.len() as u64));
    }

    #[test]
    fn the_byte_order_is_the_senders() {
        let mut bytes = stream(Guid(7), Some(Guid(3)), false, b"");
        for at in [8, 16, 40, 48, RECORD_BYTES + 40] {
            bytes[at..at + 8].reverse();
        }
        bytes[RECORD_BYTES..RECORD_BYTES + 4].reverse();
        assert_eq!(read(&bytes, expected()), Ok(bytes.len() as u64));
    }
}
