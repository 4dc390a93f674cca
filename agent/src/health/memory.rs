//! Memory and swap, with the cache of ZFS counted as what it is: available.
//!
//! The kernel's `MemAvailable` takes the ARC for memory in use, because it is not page cache.
//! ZFS gives it back under pressure down to `c_min`, so a host with 32 GB of ARC is not full.

use crate::health::text::{lines, next_number, words};
use crate::reading::{Missing, Reading};

/// Memory of the host, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Usable by Linux.
    pub total_bytes: u64,
    /// What programs could get without swapping, the shrinkable part of the ARC included.
    pub available_bytes: Reading<u64>,
    /// The ARC; [`Missing::Absent`] where there is no ZFS.
    pub arc: Reading<Arc>,
    /// Swap space; both zero on a host without swap, which is a fact and not a lack.
    pub swap: Reading<Swap>,
}

/// Cache of ZFS, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arc {
    /// Size now.
    pub size_bytes: u64,
    /// Size that it shrinks to under pressure.
    pub min_bytes: u64,
    /// Size that it grows to.
    pub max_bytes: u64,
}

/// Swap space, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Swap {
    /// All of it.
    pub total_bytes: u64,
    /// Unused.
    pub free_bytes: u64,
}

/// Reads `/proc/meminfo` and adds the ARC.
///
/// # Errors
/// [`Missing::Malformed`] without a total.
pub(super) fn parse(text: &[u8], arc: Reading<Arc>) -> Reading<Memory> {
    let (mut total, mut available, mut swap_total, mut swap_free) = (None, None, None, None);
    for line in lines(text) {
        let mut words = words(line);
        let field = match words.next() {
            Some(b"MemTotal:") => &mut total,
            Some(b"MemAvailable:") => &mut available,
            Some(b"SwapTotal:") => &mut swap_total,
            Some(b"SwapFree:") => &mut swap_free,
            _ => continue,
        };
        // The unit says kB and means 1,024 bytes.
        *field = next_number(&mut words).and_then(|kib| kib.checked_mul(1024));
    }
    let malformed = Missing::Malformed("/proc/meminfo");
    let total_bytes = total.ok_or_else(|| malformed.clone())?;
    let shrinkable = arc.as_ref().map_or(0, |arc| arc.size_bytes.saturating_sub(arc.min_bytes));
    let available = available.map(|bytes| bytes.saturating_add(shrinkable).min(total_bytes));
    let swap =
        swap_total.zip(swap_free).map(|(total_bytes, free_bytes)| Swap { total_bytes, free_bytes });
    Ok(Memory {
        total_bytes,
        available_bytes: available.ok_or_else(|| malformed.clone()),
        arc,
        swap: swap.ok_or(malformed),
    })
}

/// Reads `/proc/spl/kstat/zfs/arcstats`: two lines of heading, then `name type value`.
///
/// # Errors
/// [`Missing::Malformed`] when one of the fields is not there.
pub(super) fn parse_arcstats(text: &[u8]) -> Reading<Arc> {
    let (mut size, mut min, mut max) = (None, None, None);
    for line in lines(text) {
        let mut words = words(line);
        let field = match words.next() {
            Some(b"size") => &mut size,
            Some(b"c_min") => &mut min,
            Some(b"c_max") => &mut max,
            _ => continue,
        };
        *field = words.nth(1).and_then(crate::health::text::number);
    }
    let read = || Some(Arc { size_bytes: size?, min_bytes: min?, max_bytes: max? });
    read().ok_or(Missing::Malformed("/proc/spl/kstat/zfs/arcstats"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MEMINFO: &[u8] = b"MemTotal:       1000 kB\nMemFree:         100 kB\n\
        MemAvailable:    300 kB\nCached:          150 kB\nDirty:  7 kB\n\
        SwapTotal:       512 kB\nSwapFree:        500 kB\nHugePages_Total:       0\n";
    const ARCSTATS: &[u8] = b"13 1 0x01 123 33456 1 2\n\
        name                            type data\n\
        hits                            4    900\n\
        misses                          4    100\n\
        c_min                           4    102400\n\
        c_max                           4    819200\n\
        size                            4    307200\n\
        arc_meta_used                   4    7\n";

    fn no_zfs() -> Reading<Arc> {
        Err(Missing::Absent("arcstats".into()))
    }

    #[test]
    fn the_shrinkable_part_of_the_arc_is_available() {
        let memory = parse(MEMINFO, parse_arcstats(ARCSTATS)).unwrap();
        // 300 KiB, and 300 KiB of ARC of which 100 KiB stay.
        assert_eq!(memory.available_bytes, Ok(500 * 1024));
        assert_eq!(memory.arc.unwrap().size_bytes, 300 * 1024);
    }

    #[test]
    fn available_never_exceeds_the_total() {
        let arc = Arc { size_bytes: u64::MAX, min_bytes: 0, max_bytes: 0 };
        let memory = parse(MEMINFO, Ok(arc)).unwrap();
        assert_eq!(memory.available_bytes, Ok(1000 * 1024));
    }

    #[test]
    fn a_host_without_zfs_has_no_arc_and_all_the_rest() {
        let memory = parse(MEMINFO, no_zfs()).unwrap();
        assert!(memory.arc.is_err());
        assert_eq!(memory.available_bytes, Ok(300 * 1024));
        assert_eq!(memory.swap.unwrap().free_bytes, 500 * 1024);
    }

    #[test]
    fn a_file_without_available_gives_none() {
        let memory = parse(b"MemTotal: 5 kB\n", no_zfs()).unwrap();
        assert!(memory.available_bytes.is_err());
        assert!(memory.swap.is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(text: Vec<u8>) {
            let _survived = parse(&text, parse_arcstats(&text));
        }

        #[test]
        fn any_cut_of_good_files_is_survived(a in 0..MEMINFO.len(), b in 0..ARCSTATS.len()) {
            let _survived = parse(&MEMINFO[..a], parse_arcstats(&ARCSTATS[..b]));
        }
    }
}
