//! Disks: what they moved and how busy they were since the sample before.

use std::sync::Arc;
use std::time::Duration;

use crate::health::source::Names;
use crate::health::text::{lines, next_number, words};
use crate::reading::{Missing, Reading};

/// `/proc/diskstats` counts in units of 512 bytes whatever the device's sector size is
/// (kernel, `Documentation/admin-guide/iostats.rst`).
const SECTOR_BYTES: u64 = 512;

/// A host with more than this has its disks behind something that should report them itself.
const DISKS_MAX: usize = 1024;

/// Totals of one disk since boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskCounters {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Reads completed.
    pub reads: u64,
    /// Writes completed.
    pub writes: u64,
    /// Requests that are under way now.
    pub in_flight: u64,
    reading_millis: u64,
    writing_millis: u64,
    busy_millis: u64,
}

/// One disk.
#[derive(Clone, Debug, PartialEq)]
pub struct Disk {
    /// Kernel name, for example `nvme0n1`.
    pub name: Arc<str>,
    /// Totals since boot.
    pub counters: DiskCounters,
    /// Rates since the sample before.
    pub rates: Reading<DiskRates>,
}

/// Rates of one disk.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DiskRates {
    /// Bytes read per second.
    pub read_bytes_per_second: f64,
    /// Bytes written per second.
    pub written_bytes_per_second: f64,
    /// Reads completed per second.
    pub reads_per_second: f64,
    /// Writes completed per second.
    pub writes_per_second: f64,
    /// Share of the time in which at least one request was under way, 0 to 1.
    pub busy_share: f64,
    /// Mean time that a request took, queueing included; `None` when none completed.
    pub mean_latency: Option<Duration>,
}

/// Reads `/proc/diskstats`: whole disks in the kernel's order, without partitions, RAM disks and
/// loop devices. What passes the bound of 1,024 is left out.
pub(crate) fn parse(text: &[u8], names: &mut Names) -> Vec<(Arc<str>, DiskCounters)> {
    let mut disks = Vec::with_capacity(16);
    for line in lines(text) {
        let mut words = words(line).skip(2);
        let Some(name) = words.next().and_then(|name| std::str::from_utf8(name).ok()) else {
            continue;
        };
        if is_left_out(name) || disks.len() >= DISKS_MAX {
            continue;
        }
        if let Some(counters) = counters(words) {
            disks.push((names.shared(name), counters));
        }
    }
    disks
}

/// The first eleven columns; later kernels append discards and flushes.
fn counters<'a>(mut words: impl Iterator<Item = &'a [u8]>) -> Option<DiskCounters> {
    let mut column = || next_number(&mut words);
    let (reads, _merged, sectors_read, reading_millis) =
        (column()?, column()?, column()?, column()?);
    let (writes, _merged, sectors_written) = (column()?, column()?, column()?);
    let (writing_millis, in_flight, busy_millis) = (column()?, column()?, column()?);
    Some(DiskCounters {
        read_bytes: sectors_read.saturating_mul(SECTOR_BYTES),
        written_bytes: sectors_written.saturating_mul(SECTOR_BYTES),
        reads,
        writes,
        in_flight,
        reading_millis,
        writing_millis,
        busy_millis,
    })
}

/// Rates between two samples that lie `elapsed` apart.
///
/// # Errors
/// [`Missing::CounterReset`] when a total went backwards, [`Missing::NoTimePassed`].
pub(super) fn rates(
    before: &DiskCounters,
    after: &DiskCounters,
    elapsed: Duration,
) -> Reading<DiskRates> {
    let seconds = elapsed.as_secs_f64();
    if seconds <= 0.0 {
        return Err(Missing::NoTimePassed);
    }
    let delta = |before: u64, after: u64| after.checked_sub(before).ok_or(Missing::CounterReset);
    let read_bytes = delta(before.read_bytes, after.read_bytes)?;
    let written_bytes = delta(before.written_bytes, after.written_bytes)?;
    let reads = delta(before.reads, after.reads)?;
    let writes = delta(before.writes, after.writes)?;
    let busy_millis = wrapped_delta(before.busy_millis, after.busy_millis);
    let waited_millis = wrapped_delta(before.reading_millis, after.reading_millis)
        .saturating_add(wrapped_delta(before.writing_millis, after.writing_millis));
    let completed = reads.saturating_add(writes);
    let mean_latency = (completed > 0)
        .then(|| Duration::try_from_secs_f64(waited_millis as f64 / 1e3 / completed as f64).ok());
    Ok(DiskRates {
        read_bytes_per_second: read_bytes as f64 / seconds,
        written_bytes_per_second: written_bytes as f64 / seconds,
        reads_per_second: reads as f64 / seconds,
        writes_per_second: writes as f64 / seconds,
        busy_share: (busy_millis as f64 / 1e3 / seconds).clamp(0.0, 1.0),
        mean_latency: mean_latency.flatten(),
    })
}

/// The kernel prints these milliseconds as 32-bit numbers, so they wrap after 49.7 days of work.
fn wrapped_delta(before: u64, after: u64) -> u64 {
    const WRAP: u64 = 1 << 32;
    match after.checked_sub(before) {
        Some(delta) => delta,
        None => after.saturating_add(WRAP).saturating_sub(before),
    }
}

fn is_left_out(name: &str) -> bool {
    ["ram", "loop", "fd"].iter().any(|kind| {
        name.strip_prefix(kind).is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()))
    }) || is_partition(name)
}

/// `sda1` and `nvme0n1p2` are partitions; `sda`, `nvme0n1`, `dm-3`, `md127` and `zd16` are not.
fn is_partition(name: &str) -> bool {
    let disk = name.trim_end_matches(|c: char| c.is_ascii_digit());
    if disk.len() == name.len() {
        return false;
    }
    let by_letter = ["sd", "hd", "vd", "xvd"].iter().any(|kind| {
        disk.strip_prefix(kind)
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_lowercase()))
    });
    let by_p = disk.strip_suffix('p').is_some_and(|d| d.ends_with(|c: char| c.is_ascii_digit()));
    by_letter || by_p
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DISKSTATS: &[u8] = b"   7       0 loop0 9 9 9 9 9 9 9 9 9 9 9\n\
          8       0 sda 100 5 2048 300 50 6 1024 200 2 400 500\n\
          8       1 sda1 100 5 2048 300 50 6 1024 200 0 400 500\n\
        259       0 nvme0n1 10 0 80 3 5 0 40 2 0 4 5 1 0 8 1 2 3\n\
        259       1 nvme0n1p1 10 0 80 3 5 0 40 2 0 4 5\n\
        252       3 dm-3 1 0 8 1 1 0 8 1 0 1 1\n";

    fn parsed(text: &[u8]) -> Vec<(Arc<str>, DiskCounters)> {
        parse(text, &mut Names::default())
    }

    fn busy(reads: u64, busy_millis: u64) -> DiskCounters {
        DiskCounters { reads, busy_millis, ..DiskCounters::default() }
    }

    #[test]
    fn whole_disks_are_read_and_partitions_are_not() {
        let disks = parsed(DISKSTATS);
        let names: Vec<&str> = disks.iter().map(|(name, _)| name.as_ref()).collect();
        assert_eq!(names, ["sda", "nvme0n1", "dm-3"]);
        assert_eq!(disks[0].1.read_bytes, 2048 * 512);
        assert_eq!(disks[0].1.in_flight, 2);
    }

    #[test]
    fn a_partition_is_told_by_its_name() {
        for name in ["sda1", "vdb12", "xvda1", "nvme0n1p1", "mmcblk0p2", "md0p1", "zd16p1"] {
            assert!(is_left_out(name), "{name}");
        }
        for name in ["sda", "sdaa", "nvme0n1", "mmcblk0", "md127", "dm-0", "zd16", "sr0", "p1"] {
            assert!(!is_left_out(name), "{name}");
        }
    }

    #[test]
    fn rates_follow_the_difference() {
        let before = parsed(b"8 0 sda 100 0 1000 100 50 0 500 100 0 1000 0\n")[0].1;
        let after = parsed(b"8 0 sda 120 0 3000 140 80 0 500 160 0 2000 0\n")[0].1;
        let rates = rates(&before, &after, Duration::from_secs(2)).unwrap();
        assert_eq!(rates.read_bytes_per_second, 512_000.0);
        assert_eq!(rates.reads_per_second, 10.0);
        assert_eq!(rates.writes_per_second, 15.0);
        assert_eq!(rates.busy_share, 0.5);
        assert_eq!(rates.mean_latency, Some(Duration::from_millis(2)));
    }

    #[test]
    fn an_idle_disk_has_no_latency_rather_than_zero() {
        let rates = rates(&busy(1, 0), &busy(1, 0), Duration::from_secs(1)).unwrap();
        assert_eq!(rates.mean_latency, None);
        assert_eq!(rates.busy_share, 0.0);
    }

    #[test]
    fn a_replaced_disk_has_no_rate_instead_of_a_huge_one() {
        let reset = rates(&busy(1000, 10), &busy(3, 1), Duration::from_secs(1));
        assert_eq!(reset, Err(Missing::CounterReset));
    }

    #[test]
    fn milliseconds_wrap_at_32_bits() {
        let wrapped = u64::from(u32::MAX) - 99;
        let rates = rates(&busy(1, wrapped), &busy(2, 400), Duration::from_secs(1)).unwrap();
        assert_eq!(rates.busy_share, 0.5);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(text: Vec<u8>) {
            parsed(&text);
        }

        #[test]
        fn any_cut_is_survived(end in 0..DISKSTATS.len()) {
            parsed(&DISKSTATS[..end]);
        }

        #[test]
        fn rates_are_finite_and_not_negative(a: [u64; 8], b: [u64; 8], millis in 1_u64..100_000) {
            let [before, after] = [a, b].map(|[rb, wb, r, w, f, rm, wm, bm]| DiskCounters {
                read_bytes: rb, written_bytes: wb, reads: r, writes: w, in_flight: f,
                reading_millis: rm, writing_millis: wm, busy_millis: bm,
            });
            if let Ok(rates) = rates(&before, &after, Duration::from_millis(millis)) {
                prop_assert!(rates.read_bytes_per_second.is_finite());
                prop_assert!(rates.writes_per_second >= 0.0);
                prop_assert!((0.0..=1.0).contains(&rates.busy_share));
            }
        }
    }
}
