//! From two looks to one sample: rates over the time between them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::health::cpu::{self, Core, CpuCounters, Shares};
use crate::health::disk::{self, Disk, DiskCounters};
use crate::health::memory::Memory;
use crate::health::network::{self, Interface, InterfaceCounters};
use crate::health::pressure::Pressure;
use crate::health::sampler::Counters;
use crate::health::slow::Slow;
use crate::health::uptime::Load;
use crate::reading::{Missing, Reading};

/// How a host fares at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// When it was taken.
    pub at: Timestamp,
    /// Time that the rates are over.
    pub over: Reading<Duration>,
    /// Which boot this is.
    pub boot_id: Reading<Arc<str>>,
    /// Time since boot.
    pub uptime: Reading<Duration>,
    /// Load averages.
    pub load: Reading<Load>,
    /// All processors together.
    pub cpu: Reading<Shares>,
    /// Each processor that is online.
    pub cores: Vec<Core>,
    /// Pressure.
    pub pressure: Pressure,
    /// Memory.
    pub memory: Reading<Memory>,
    /// Whole disks.
    pub disks: Reading<Vec<Disk>>,
    /// Network interfaces.
    pub interfaces: Reading<Vec<Interface>>,
    /// What is read at a slower pace.
    pub slow: Arc<Slow>,
}

impl Sample {
    /// A sample in which nothing could be read.
    #[must_use]
    pub fn unknown(at: Timestamp) -> Self {
        const WHY: Missing = Missing::NotMeasuredYet;
        Self {
            at,
            over: Err(WHY),
            boot_id: Err(WHY),
            uptime: Err(WHY),
            load: Err(WHY),
            cpu: Err(WHY),
            cores: Vec::new(),
            pressure: Pressure { cpu: Err(WHY), memory: Err(WHY), io: Err(WHY) },
            memory: Err(WHY),
            disks: Err(WHY),
            interfaces: Err(WHY),
            slow: Arc::default(),
        }
    }
}

/// The counters of the look before. One for each watcher.
#[derive(Clone, Debug, Default)]
pub struct Window {
    taken: Option<Instant>,
    cpu: Option<CpuCounters>,
    disks: HashMap<Arc<str>, DiskCounters>,
    interfaces: HashMap<Arc<str>, InterfaceCounters>,
}

impl Window {
    /// How long ago, at `taken`, the window was opened; `None` before the first look.
    #[must_use]
    pub fn width(&self, taken: Instant) -> Option<Duration> {
        Some(taken.saturating_duration_since(self.taken?))
    }

    /// The sample of `counters`, with rates since the window was opened.
    #[must_use]
    pub fn sample(&self, counters: &Counters, slow: Arc<Slow>) -> Sample {
        let over = self.width(counters.taken).ok_or(Missing::FirstSample);
        let (cpu, cores) = self.processors(&counters.cpu);
        let disks = counters.disks.as_ref().map_err(Clone::clone);
        let interfaces = counters.interfaces.as_ref().map_err(Clone::clone);
        Sample {
            at: counters.at,
            boot_id: counters.boot_id.clone(),
            uptime: counters.uptime.clone(),
            load: counters.load.clone(),
            cpu,
            cores,
            pressure: counters.pressure.clone(),
            memory: counters.memory.clone(),
            disks: disks.map(|disks| self.disks(disks, &over)),
            interfaces: interfaces.map(|interfaces| self.interfaces(interfaces, &over)),
            over,
            slow,
        }
    }

    /// Closes the window at `counters` and opens the next one there.
    pub fn advance(&mut self, counters: Counters) {
        self.taken = Some(counters.taken);
        self.cpu = counters.cpu.ok();
        // What could not be read this time has no rate next time, rather than one over a time
        // that nobody told.
        self.disks.clear();
        self.disks.extend(counters.disks.into_iter().flatten());
        self.interfaces.clear();
        self.interfaces.extend(counters.interfaces.into_iter().flatten());
    }

    fn processors(&self, now: &Reading<CpuCounters>) -> (Reading<Shares>, Vec<Core>) {
        let now = match now {
            Ok(now) => now,
            Err(missing) => return (Err(missing.clone()), Vec::new()),
        };
        match &self.cpu {
            Some(before) => {
                (cpu::shares(&before.total, &now.total), cpu::cores(&before.cores, &now.cores))
            }
            None => (Err(Missing::FirstSample), cpu::cores(&[], &now.cores)),
        }
    }

    fn disks(&self, now: &[(Arc<str>, DiskCounters)], over: &Reading<Duration>) -> Vec<Disk> {
        let disk = |(name, counters): &(Arc<str>, DiskCounters)| {
            let before = self.disks.get(name).ok_or(Missing::FirstSample);
            let rates = before.and_then(|before| disk::rates(before, counters, over.clone()?));
            Disk { name: Arc::clone(name), counters: *counters, rates }
        };
        now.iter().map(disk).collect()
    }

    fn interfaces(
        &self,
        now: &[(Arc<str>, InterfaceCounters)],
        over: &Reading<Duration>,
    ) -> Vec<Interface> {
        let interface = |(name, counters): &(Arc<str>, InterfaceCounters)| {
            let before = self.interfaces.get(name).ok_or(Missing::FirstSample);
            let rates = before.and_then(|before| network::rates(before, counters, over.clone()?));
            Interface { name: Arc::clone(name), counters: *counters, rates }
        };
        now.iter().map(interface).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::health::sampler::Sampler;
    use crate::health::source::Roots;

    fn write(proc: &Path, round: u64) {
        fs::create_dir_all(proc.join("net")).unwrap();
        let (user, idle) = (100 + 25 * round, 100 + 75 * round);
        fs::write(proc.join("stat"), format!("cpu {user} 0 0 {idle}\ncpu0 {user} 0 0 {idle}\n"))
            .unwrap();
        let sectors = 2000 * round;
        fs::write(proc.join("diskstats"), format!("8 0 sda {round} 0 {sectors} 0 0 0 0 0 0 0 0\n"))
            .unwrap();
        let bytes = 1000 * round;
        fs::write(proc.join("net/dev"), format!("eno1: {bytes} 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n"))
            .unwrap();
    }

    #[test]
    fn the_first_sample_has_no_rates_and_the_second_has() {
        let root = tempfile::tempdir().unwrap();
        let roots = Roots { proc: root.path().to_owned(), ..Roots::default() };
        let (mut sampler, mut window) = (Sampler::new(&roots), Window::default());
        let start = Instant::now();

        write(root.path(), 1);
        let counters = sampler.read(Timestamp::UNIX_EPOCH, start);
        let first = window.sample(&counters, Arc::default());
        window.advance(counters);
        assert_eq!(first.over, Err(Missing::FirstSample));
        assert_eq!(first.cpu, Err(Missing::FirstSample));
        assert_eq!(first.cores[0].shares, Err(Missing::FirstSample));
        assert_eq!(first.disks.unwrap()[0].rates, Err(Missing::FirstSample));
        assert_eq!(first.interfaces.unwrap()[0].rates, Err(Missing::FirstSample));

        write(root.path(), 2);
        let counters = sampler.read(Timestamp::UNIX_EPOCH, start + Duration::from_secs(2));
        let second = window.sample(&counters, Arc::default());
        assert_eq!(second.over, Ok(Duration::from_secs(2)));
        assert_eq!(second.cpu.unwrap().user, 0.25);
        assert_eq!(second.cores[0].shares.as_ref().unwrap().idle, 0.75);
        let disks = second.disks.unwrap();
        assert_eq!(disks[0].rates.as_ref().unwrap().read_bytes_per_second, 512_000.0);
        let interfaces = second.interfaces.unwrap();
        assert_eq!(interfaces[0].rates.as_ref().unwrap().received.bytes, 500.0);
    }

    #[test]
    fn a_disk_that_was_plugged_in_has_no_rate_while_the_others_have() {
        let root = tempfile::tempdir().unwrap();
        let roots = Roots { proc: root.path().to_owned(), ..Roots::default() };
        let (mut sampler, mut window) = (Sampler::new(&roots), Window::default());
        let start = Instant::now();
        let line = |name: &str| format!("8 0 {name} 1 0 1 0 0 0 0 0 0 0 0\n");

        fs::write(root.path().join("diskstats"), line("sda")).unwrap();
        window.advance(sampler.read(Timestamp::UNIX_EPOCH, start));
        fs::write(root.path().join("diskstats"), line("sdb") + &line("sda")).unwrap();
        let counters = sampler.read(Timestamp::UNIX_EPOCH, start + Duration::from_secs(1));
        let disks = window.sample(&counters, Arc::default()).disks.unwrap();
        assert_eq!(disks[0].rates, Err(Missing::FirstSample));
        assert!(disks[1].rates.is_ok());
    }
}
