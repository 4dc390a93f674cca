//! Readings that are dear, may hang, or change seldom: each is taken at its own pace in the
//! background, and a sample carries the newest one with its age.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use homelab_common::clock::Clock;
use homelab_common::exec::Exec;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::health::filesystem::{Filesystem, Rooms, mounts, with_data};
use crate::health::network::{self, Links};
use crate::health::probe::Probes;
use crate::health::sensor::{self, Sensor};
use crate::health::source::Roots;
use crate::health::time_sync::{self, TimeSync};
use crate::health::unit::{self, FailedUnits};
use crate::reading::{Aged, Missing, Reading};

/// Links and sensors.
const DEVICES_EVERY: Duration = Duration::from_secs(15);
/// A disk does not fill in less.
const FILESYSTEMS_EVERY: Duration = Duration::from_secs(30);
/// What needs a program to be run, about 10 ms of CPU each, or a walk through all processes.
const PROGRAMS_EVERY: Duration = Duration::from_secs(60);

/// How long one of the device readings may take before it counts as hung.
const DEVICES_PATIENCE: Duration = Duration::from_secs(5);
/// One thread for each kind of device reading.
const DEVICES_MAX: usize = 3;

/// The newest slow readings.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Slow {
    /// State of the network links.
    pub links: Aged<Links>,
    /// Filesystems that hold data, by mount point.
    pub filesystems: Aged<Vec<Filesystem>>,
    /// Temperatures, fans and power.
    pub sensors: Aged<Vec<Sensor>>,
    /// Units of systemd that failed.
    pub failed_units: Aged<FailedUnits>,
    /// Whether the clock is kept in step.
    pub time_sync: Aged<TimeSync>,
    /// Processes alive.
    pub processes: Aged<u32>,
}

/// Takes the slow readings.
#[derive(Debug)]
pub struct SlowReader {
    roots: Roots,
    clock: Arc<dyn Clock>,
    exec: Arc<dyn Exec>,
    rooms: Rooms,
    devices: Probes,
    newest: watch::Sender<Arc<Slow>>,
}

impl SlowReader {
    /// A reader that has read nothing yet.
    #[must_use]
    pub fn new(roots: Roots, clock: Arc<dyn Clock>, exec: Arc<dyn Exec>) -> Self {
        let rooms = Rooms::default();
        let devices = Probes::new(DEVICES_PATIENCE, DEVICES_MAX);
        Self { roots, clock, exec, rooms, devices, newest: watch::Sender::default() }
    }

    /// Where the newest readings can be had.
    #[must_use]
    pub fn newest(&self) -> watch::Receiver<Arc<Slow>> {
        self.newest.subscribe()
    }

    /// Reads for ever, everything at once at the start.
    ///
    /// Cancel safety: may be dropped at any time; programs that run are killed.
    pub async fn run(&self) {
        tokio::join!(
            forever(DEVICES_EVERY, || self.read_devices()),
            forever(FILESYSTEMS_EVERY, || self.read_filesystems()),
            forever(PROGRAMS_EVERY, || self.ask_programs()),
        );
    }

    /// Reads everything once.
    pub async fn read_all(&self) {
        tokio::join!(self.read_devices(), self.read_filesystems(), self.ask_programs());
    }

    async fn read_devices(&self) {
        // One after the other, so that one thread serves both as long as neither hangs.
        let sys = self.roots.sys.clone();
        let links = self.devices.run("links", move || network::read_links(&sys)).await;
        self.store(|slow, now| slow.links = Aged::new(now, links));
        let sys = self.roots.sys.clone();
        let sensors = self.devices.run("sensors", move || sensor::read(&sys)).await;
        self.store(|slow, now| slow.sensors = Aged::new(now, sensors));
    }

    async fn read_filesystems(&self) {
        let filesystems = match mounts(&self.roots.proc) {
            Ok(mounts) => Ok(self.rooms.ask(with_data(mounts)).await),
            Err(missing) => Err(missing),
        };
        self.store(|slow, now| slow.filesystems = Aged::new(now, filesystems));
    }

    async fn ask_programs(&self) {
        let failed_units = unit::read(&self.roots.run, self.exec.as_ref()).await;
        let time_sync = time_sync::read(&self.roots.run, self.exec.as_ref()).await;
        let proc = self.roots.proc.clone();
        let processes = self.devices.run("processes", move || count_processes(&proc)).await;
        self.store(|slow, now| {
            slow.failed_units = Aged::new(now, failed_units);
            slow.time_sync = Aged::new(now, time_sync);
            slow.processes = Aged::new(now, processes);
        });
    }

    fn store(&self, change: impl FnOnce(&mut Slow, jiff::Timestamp)) {
        let now = self.clock.now();
        self.newest.send_modify(|slow| change(Arc::make_mut(slow), now));
    }
}

async fn forever<F: Future<Output = ()>>(period: Duration, work: impl Fn() -> F) {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        work().await;
    }
}

/// Counts the folders under `/proc` that are named by a number.
fn count_processes(proc: &Path) -> Reading<u32> {
    let what = || Arc::from(proc.to_string_lossy());
    let entries = std::fs::read_dir(proc).map_err(|error| Missing::from_io(&what(), &error))?;
    let is_process = |name: &[u8]| name.iter().all(u8::is_ascii_digit);
    let processes =
        entries.flatten().filter(|entry| is_process(entry.file_name().as_encoded_bytes())).count();
    u32::try_from(processes).map_err(|_| Missing::Malformed("/proc"))
}

#[cfg(test)]
mod tests {
    use homelab_common::clock::SystemClock;
    use homelab_common::exec::SystemExec;

    use super::*;

    #[tokio::test]
    async fn an_empty_root_gives_reasons_everywhere_and_no_value() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("none");
        let roots = Roots { proc: path.clone(), sys: path.clone(), run: path };
        let reader = SlowReader::new(roots, Arc::new(SystemClock), Arc::new(SystemExec));
        let newest = reader.newest();
        reader.read_all().await;
        let slow = newest.borrow().clone();
        assert!(slow.links.reading.is_err());
        assert!(slow.filesystems.reading.is_err());
        assert!(slow.sensors.reading.is_err());
        assert!(slow.failed_units.reading.is_err());
        assert!(slow.time_sync.reading.is_err());
        assert!(slow.processes.reading.is_err());
        assert!(slow.processes.measured_at.is_some());
    }

    #[tokio::test]
    async fn this_machine_has_filesystems_links_and_processes() {
        let (clock, exec) = (Arc::new(SystemClock), Arc::new(SystemExec));
        let reader = SlowReader::new(Roots::default(), clock, exec);
        let newest = reader.newest();
        reader.read_all().await;
        let slow = newest.borrow().clone();
        assert!(slow.links.reading.as_ref().unwrap().contains_key("lo"));
        assert!(*slow.processes.reading.as_ref().unwrap() > 0);
        assert!(slow.filesystems.reading.is_ok());
    }
}
