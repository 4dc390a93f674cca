//! The devices with their power, read at most once in a while.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use homelab_common::lifecycle::Tasks;
use tokio::time::{self, Instant};

use crate::{
    device::{self, Device, DeviceId, Missing, Power, Roots},
    energy::Energy,
};

/// Readings are this old at most. A watcher is told of every slot that changes
/// hands, and sysfs asks the card for some of its values.
const AGE_MAX: Duration = Duration::from_secs(2);

/// A card that hangs can block whoever reads its files.
const READ_DEADLINE: Duration = Duration::from_secs(3);

/// A device and its power.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// The device.
    pub device: Device,
    /// Watts, the mean since the reading before.
    pub power_watts: Option<f32>,
    /// Joules since the worker's start.
    pub energy_joules: Option<f64>,
}

/// Reads devices and remembers what it read.
#[derive(Debug)]
pub(super) struct Devices {
    roots: Roots,
    tasks: Tasks,
    energy: Energy,
    last: Mutex<Option<(Instant, Vec<Reading>)>>,
}

impl Devices {
    pub(super) fn new(roots: Roots, tasks: Tasks, energy: Energy) -> Self {
        Self { roots, tasks, energy, last: Mutex::default() }
    }

    pub(super) fn roots(&self) -> &Roots {
        &self.roots
    }

    /// The devices as they were at most two seconds ago; older ones, or none, when
    /// the kernel does not answer in time. `engines` are the processes whose video
    /// memory is counted.
    pub(super) async fn read(&self, engines: Vec<u32>) -> Vec<Reading> {
        let now = Instant::now();
        let last = self.last();
        if let Some((at, readings)) = &last
            && now.saturating_duration_since(*at) < AGE_MAX
        {
            return readings.clone();
        }
        let roots = self.roots.clone();
        let reading = self.tasks.blocking(move || device::list(&roots, &engines));
        let Ok(Ok(devices)) = time::timeout(READ_DEADLINE, reading).await else {
            return last.map(|(_, readings)| readings).unwrap_or_default();
        };
        let mut readings = with_power(devices, last.as_ref(), now);
        for reading in &mut readings {
            reading.energy_joules = self.energy.joules(&reading.device.id);
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, readings.clone()));
        readings
    }

    fn last(&self) -> Option<(Instant, Vec<Reading>)> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn with_power(
    devices: Vec<Device>,
    last: Option<&(Instant, Vec<Reading>)>,
    now: Instant,
) -> Vec<Reading> {
    let mut meters: HashMap<&DeviceId, (Instant, u64)> = HashMap::new();
    if let Some((at, readings)) = last {
        for Reading { device, .. } in readings {
            if let Some(Power::MeterMicrojoules(meter)) = device.power {
                meters.insert(&device.id, (*at, meter));
            }
        }
    }
    let reading = |mut device: Device| {
        let power_watts = match device.power {
            None => None,
            Some(Power::Watts(watts)) => Some(watts),
            Some(Power::MeterMicrojoules(meter)) => {
                let mean = meters.get(&device.id).and_then(|(at, earlier)| {
                    device::mean_watts(*earlier, meter, now.saturating_duration_since(*at))
                });
                if mean.is_none() {
                    let reason = "an energy meter needs a second reading".to_owned();
                    device.missing.push(Missing { field: "power_watts", reason });
                }
                mean
            }
        };
        Reading { device, power_watts, energy_joules: None }
    };
    devices.into_iter().map(reading).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card(power: Option<Power>) -> Device {
        Device {
            id: "0000:03:00.0".parse().unwrap(),
            name: "card".to_owned(),
            driver: None,
            memory_bytes: None,
            memory_used_bytes: None,
            temperature_celsius: None,
            power,
            power_limit_watts: None,
            missing: Vec::new(),
        }
    }

    #[test]
    fn a_meter_gives_watts_from_the_second_reading_on() {
        let began = Instant::now();
        let first = with_power(vec![card(Some(Power::MeterMicrojoules(1_000_000)))], None, began);
        assert_eq!(first[0].power_watts, None);
        assert_eq!(first[0].device.missing[0].field, "power_watts");
        let later = began + Duration::from_secs(2);
        let second = with_power(
            vec![card(Some(Power::MeterMicrojoules(91_000_000)))],
            Some(&(began, first)),
            later,
        );
        assert_eq!(second[0].power_watts, Some(45.0));
        assert_eq!(second[0].device.missing, []);
    }

    #[test]
    fn watts_are_passed_on() {
        let readings = with_power(vec![card(Some(Power::Watts(11.5)))], None, Instant::now());
        assert_eq!(readings[0].power_watts, Some(11.5));
    }

    #[tokio::test]
    async fn readings_are_not_taken_again_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let roots = Roots { sys: folder.path().into(), proc: folder.path().into() };
        let tasks = Tasks::default();
        let energy = Energy::new(roots.clone(), tasks.clone());
        let devices = Devices::new(roots, tasks, energy);
        assert_eq!(devices.read(Vec::new()).await[0].device.name, "CPU");
        std::fs::write(folder.path().join("cpuinfo"), "model name : New\n").unwrap();
        assert_eq!(devices.read(Vec::new()).await[0].device.name, "CPU");
    }
}
