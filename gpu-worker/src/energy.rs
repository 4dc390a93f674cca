//! Joules: of each device over time, and of each request.
//!
//! A device's meter counts for all who use it, so what it counts between two readings
//! is shared out evenly among the requests that ran then. Readings are taken whenever
//! a request begins or ends; so a request's share is exact as far as the meter is.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use homelab_common::lifecycle::Tasks;
use tokio::time;

use crate::device::{self, DeviceId, Roots};

/// A card that hangs can block whoever reads its files.
const READ_DEADLINE: Duration = Duration::from_secs(1);

/// The meters of cards are 32 bits wide and wrap after some five minutes at full power;
/// the driver counts on only when it is asked.
const PERIOD: Duration = Duration::from_secs(60);

/// The meters of one host. Clones are the same.
#[derive(Debug, Clone)]
pub struct Energy {
    roots: Roots,
    tasks: Tasks,
    accounts: Arc<Mutex<HashMap<DeviceId, Account>>>,
}

/// What is known of one meter.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Account {
    meter: Option<u64>,
    /// Since the first reading.
    joules: f64,
    /// What one request would have used that had run from the first reading on.
    share: f64,
    /// Requests that run.
    running: u32,
    /// How often the meter could not be read, or went back.
    breaks: u32,
}

impl Account {
    fn note(&mut self, meter: Option<u64>) {
        let used = match (self.meter, meter) {
            (Some(earlier), Some(now)) => now.checked_sub(earlier),
            (None, Some(_)) => Some(0),
            (_, None) => None,
        };
        self.meter = meter;
        let Some(microjoules) = used else {
            self.breaks = self.breaks.wrapping_add(1);
            return;
        };
        // Exact enough: 2^53 microjoules are 2.5 kWh between two readings.
        let joules = microjoules as f64 / 1e6;
        self.joules += joules;
        if self.running > 0 {
            self.share += joules / f64::from(self.running);
        }
    }
}

/// A request that uses devices, until it is dropped.
#[derive(Debug)]
pub struct Use {
    energy: Energy,
    devices: Vec<DeviceId>,
    /// Share and breaks at the beginning; `None` for a device without a meter.
    began: Vec<Option<(f64, u32)>>,
}

impl Energy {
    /// Meters below `roots`.
    pub fn new(roots: Roots, tasks: Tasks) -> Self {
        Self { roots, tasks, accounts: Arc::default() }
    }

    /// Reads all meters from time to time, so that none wraps unseen.
    pub async fn keep(self, devices: Vec<DeviceId>) {
        let stopping = self.tasks.stopping();
        loop {
            self.read(&devices).await;
            tokio::select! {
                () = time::sleep(PERIOD) => {}
                () = stopping.cancelled() => return,
            }
        }
    }

    /// Joules of a device since the worker's start; `None` without a meter.
    pub fn joules(&self, device: &DeviceId) -> Option<f64> {
        let accounts = self.accounts();
        let account = accounts.get(device)?;
        account.meter.map(|_| account.joules)
    }

    /// Begins to count what a request uses of `devices`.
    pub async fn begin(&self, devices: &[DeviceId]) -> Use {
        // Those without a meter are looked at by `keep` only: a request shall not wait.
        if !self.lacks_meter(devices) {
            self.read(devices).await;
        }
        let mut accounts = self.accounts();
        let began = devices.iter().map(|device| {
            let account = accounts.entry(device.clone()).or_default();
            account.running += 1;
            account.meter.map(|_| (account.share, account.breaks))
        });
        let began = began.collect();
        Use { energy: self.clone(), devices: devices.to_vec(), began }
    }

    /// Whether one of them was found to have no meter.
    fn lacks_meter(&self, devices: &[DeviceId]) -> bool {
        let accounts = self.accounts();
        let lacks = |device| accounts.get(device).is_some_and(|account| account.meter.is_none());
        devices.iter().any(lacks)
    }

    async fn read(&self, devices: &[DeviceId]) {
        let (roots, wanted) = (self.roots.clone(), devices.to_vec());
        let reading = self.tasks.blocking(move || {
            wanted.iter().map(|device| device::meter(&roots, device)).collect::<Vec<_>>()
        });
        let meters = match time::timeout(READ_DEADLINE, reading).await {
            Ok(Ok(meters)) => meters,
            // Those that do not answer in time count as broken.
            Ok(Err(_)) | Err(_) => vec![None; devices.len()],
        };
        let mut accounts = self.accounts();
        for (device, meter) in devices.iter().zip(meters) {
            accounts.entry(device.clone()).or_default().note(meter);
        }
    }

    fn accounts(&self) -> MutexGuard<'_, HashMap<DeviceId, Account>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Use {
    /// Joules so far; `None` unless each device has a meter that was sound all the time.
    pub async fn joules(&self) -> Option<f64> {
        // Nothing is read for devices without a meter.
        if self.began.is_empty() || self.began.iter().any(Option::is_none) {
            return None;
        }
        self.energy.read(&self.devices).await;
        let accounts = self.energy.accounts();
        let of = |(device, began): (&DeviceId, &Option<(f64, u32)>)| {
            let (share, breaks) = (*began)?;
            let account = accounts.get(device)?;
            (account.meter.is_some() && account.breaks == breaks).then_some(account.share - share)
        };
        self.devices.iter().zip(&self.began).map(of).sum()
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let mut accounts = self.energy.accounts();
        for device in &self.devices {
            if let Some(account) = accounts.get_mut(device) {
                account.running = account.running.saturating_sub(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const SLOT: &str = "0000:03:00.0";

    /// A card whose meter a test sets.
    struct Host {
        folder: tempfile::TempDir,
        energy: Energy,
        device: DeviceId,
    }

    impl Host {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let card = folder.path().join("bus/pci/devices").join(SLOT);
            fs::create_dir_all(card.join("hwmon/hwmon4")).unwrap();
            fs::write(card.join("uevent"), "DRIVER=i915\n").unwrap();
            fs::write(card.join("hwmon/hwmon4/name"), "i915\n").unwrap();
            let roots = Roots { sys: folder.path().into(), proc: folder.path().into() };
            let energy = Energy::new(roots, Tasks::default());
            Self { folder, energy, device: SLOT.parse().unwrap() }
        }

        fn meter(&self, joules: u64) {
            let file = self.folder.path().join("bus/pci/devices").join(SLOT);
            let file = file.join("hwmon/hwmon4/energy1_input");
            fs::write(file, format!("{}\n", joules * 1_000_000)).unwrap();
        }

        async fn begin(&self) -> Use {
            self.energy.begin(std::slice::from_ref(&self.device)).await
        }
    }

    #[tokio::test]
    async fn a_request_alone_has_used_all_that_its_card_used() {
        let host = Host::new();
        host.meter(1000);
        let first = host.begin().await;
        host.meter(1090);
        assert_eq!(first.joules().await, Some(90.0));
        drop(first);
        host.meter(1500);
        let second = host.begin().await;
        host.meter(1510);
        assert_eq!(second.joules().await, Some(10.0));
        assert_eq!(host.energy.joules(&host.device), Some(510.0));
    }

    #[tokio::test]
    async fn those_that_run_at_once_share() {
        let host = Host::new();
        host.meter(0);
        let first = host.begin().await;
        host.meter(100);
        let second = host.begin().await;
        host.meter(200);
        assert_eq!(second.joules().await, Some(50.0));
        drop(second);
        host.meter(230);
        assert_eq!(first.joules().await, Some(180.0));
    }

    #[tokio::test]
    async fn what_was_not_measured_is_absent() {
        let without = Host::new();
        assert_eq!(without.begin().await.joules().await, None);
        assert_eq!(without.energy.joules(&without.device), None);
        let host = Host::new();
        host.meter(100);
        let broken = host.begin().await;
        host.meter(40);
        assert_eq!(broken.joules().await, None, "the meter went back");
        let cpu = host.energy.begin(&[DeviceId::Cpu]).await;
        assert_eq!(cpu.joules().await, None);
    }
}
