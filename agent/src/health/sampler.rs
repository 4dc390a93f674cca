//! One look at the files of `/proc` that change all the time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::health::cpu::{self, CpuCounters};
use crate::health::disk::{self, DiskCounters};
use crate::health::memory::{self, Memory};
use crate::health::network::{self, InterfaceCounters};
use crate::health::pressure::{self, Pressure, Stall};
use crate::health::source::{Buffer, Names, Roots, Source};
use crate::health::uptime::{self, Load};
use crate::reading::Reading;

/// What one look saw: totals since boot, and what is true at the moment.
#[derive(Clone, Debug)]
pub struct Counters {
    /// When, by the clock on the wall.
    pub at: Timestamp,
    /// When, by the clock that never jumps.
    pub taken: Instant,
    /// Which boot this is.
    pub boot_id: Reading<Arc<str>>,
    /// Time since boot.
    pub uptime: Reading<Duration>,
    /// Load averages.
    pub load: Reading<Load>,
    /// Processors.
    pub cpu: Reading<CpuCounters>,
    /// Pressure.
    pub pressure: Pressure,
    /// Memory.
    pub memory: Reading<Memory>,
    /// Whole disks by name, in the kernel's order.
    pub disks: Reading<Vec<(Arc<str>, DiskCounters)>>,
    /// Interfaces by name, in the kernel's order.
    pub interfaces: Reading<Vec<(Arc<str>, InterfaceCounters)>>,
}

/// Reads [`Counters`] again and again: little more than a dozen `pread`s into one buffer.
#[derive(Debug)]
pub struct Sampler {
    buffer: Buffer,
    names: Names,
    boot_id: Reading<Arc<str>>,
    uptime: Source,
    load: Source,
    stat: Source,
    meminfo: Source,
    arcstats: Source,
    pressure_cpu: Source,
    pressure_memory: Source,
    pressure_io: Source,
    disks: Source,
    interfaces: Source,
}

impl Sampler {
    /// A sampler of the kernel at `roots`. Files that are missing now may appear later.
    #[must_use]
    pub fn new(roots: &Roots) -> Self {
        let source = |path| Source::new(&roots.proc, path);
        let whole = |path| Source::whole(&roots.proc, path);
        let mut buffer = Buffer::default();
        let mut boot_id = source("sys/kernel/random/boot_id");
        let boot_id = boot_id.read(&mut buffer).and_then(uptime::parse_boot_id).map(Arc::from);
        Self {
            boot_id,
            uptime: whole("uptime"),
            load: whole("loadavg"),
            stat: whole("stat"),
            meminfo: whole("meminfo"),
            arcstats: source("spl/kstat/zfs/arcstats"),
            pressure_cpu: whole("pressure/cpu"),
            pressure_memory: whole("pressure/memory"),
            pressure_io: whole("pressure/io"),
            disks: source("diskstats"),
            interfaces: source("net/dev"),
            names: Names::default(),
            buffer,
        }
    }

    /// Looks now, which is `at` on the wall and `taken` on the clock that never jumps.
    pub fn read(&mut self, at: Timestamp, taken: Instant) -> Counters {
        let Self { buffer, names, .. } = self;
        let arc = self.arcstats.read(buffer).and_then(memory::parse_arcstats);
        let mut stall = |source: &mut Source| -> Reading<Stall> {
            source.read(buffer).and_then(pressure::parse)
        };
        let pressure = Pressure {
            cpu: stall(&mut self.pressure_cpu),
            memory: stall(&mut self.pressure_memory),
            io: stall(&mut self.pressure_io),
        };
        Counters {
            at,
            taken,
            boot_id: self.boot_id.clone(),
            uptime: self.uptime.read(buffer).and_then(uptime::parse_uptime),
            load: self.load.read(buffer).and_then(uptime::parse_load),
            cpu: self.stat.read(buffer).and_then(cpu::parse),
            pressure,
            memory: self.meminfo.read(buffer).and_then(|text| memory::parse(text, arc)),
            disks: self.disks.read(buffer).map(|text| disk::parse(text, names)),
            interfaces: self.interfaces.read(buffer).map(|text| network::parse(text, names)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::Missing;

    fn read(roots: &Roots) -> Counters {
        Sampler::new(roots).read(Timestamp::UNIX_EPOCH, Instant::now())
    }

    #[test]
    fn this_machine_is_read() {
        let counters = read(&Roots::default());
        assert!(!counters.cpu.unwrap().cores.is_empty());
        assert!(counters.memory.unwrap().available_bytes.unwrap() > 0);
        assert!(counters.uptime.unwrap() > Duration::ZERO);
        assert!(counters.load.is_ok());
        assert!(counters.boot_id.is_ok());
        let interfaces = counters.interfaces.unwrap();
        assert!(interfaces.iter().any(|(name, _)| name.as_ref() == "lo"));
    }

    #[test]
    fn a_kernel_without_any_file_gives_reasons_and_no_value() {
        let root = tempfile::tempdir().unwrap();
        let roots = Roots { proc: root.path().to_owned(), ..Roots::default() };
        let counters = read(&roots);
        assert!(matches!(counters.cpu, Err(Missing::Absent(_))));
        assert!(matches!(counters.memory, Err(Missing::Absent(_))));
        assert!(matches!(counters.disks, Err(Missing::Absent(_))));
        assert!(matches!(counters.interfaces, Err(Missing::Absent(_))));
        assert!(matches!(counters.pressure.io, Err(Missing::Absent(_))));
        assert!(counters.boot_id.is_err());
        assert!(counters.uptime.is_err());
        assert!(counters.load.is_err());
    }
}
