//! What an engine can run on: the processor, and graphics cards by PCI slot.
//!
//! Cards are named by slot because every index (of DRM, of SYCL, of Vulkan) moves
//! when a card is added or a driver loads later. Each reading may be missing: which
//! files there are depends on driver and kernel, and a missing one says why.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

mod card;
mod fdinfo;
mod processor;

/// Where the kernel shows its devices; a folder elsewhere in tests.
#[derive(Debug, Clone)]
pub struct Roots {
    /// `/sys`.
    pub sys: PathBuf,
    /// `/proc`.
    pub proc: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self { sys: "/sys".into(), proc: "/proc".into() }
    }
}

/// Which device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceId {
    /// The processor.
    Cpu,
    /// A card, by the slot that it is plugged into.
    Pci(PciSlot),
}

/// A PCI slot such as `0000:03:00.0`: domain, bus, device, function.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciSlot(String);

/// The text names no device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("`cpu`, or a PCI slot such as `0000:03:00.0`")]
pub struct InvalidDeviceId;

impl FromStr for DeviceId {
    type Err = InvalidDeviceId;

    fn from_str(text: &str) -> Result<Self, InvalidDeviceId> {
        if text == "cpu" { Ok(Self::Cpu) } else { text.parse().map(Self::Pci) }
    }
}

impl PciSlot {
    /// The slot as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PciSlot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl FromStr for PciSlot {
    type Err = InvalidDeviceId;

    fn from_str(text: &str) -> Result<Self, InvalidDeviceId> {
        let is_hex = |part: &str, length: usize| {
            part.len() == length && part.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        let mut parts = text.split([':', '.']);
        let well_formed = [4, 2, 2, 1]
            .into_iter()
            .all(|length| parts.next().is_some_and(|part| is_hex(part, length)));
        let separators: String = text.chars().filter(|c| matches!(c, ':' | '.')).collect();
        if well_formed && parts.next().is_none() && separators == "::." {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(InvalidDeviceId)
        }
    }
}

impl fmt::Display for DeviceId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => formatter.write_str("cpu"),
            Self::Pci(slot) => slot.fmt(formatter),
        }
    }
}

impl DeviceId {
    /// The slot, of a card.
    pub fn slot(&self) -> Option<&PciSlot> {
        match self {
            Self::Cpu => None,
            Self::Pci(slot) => Some(slot),
        }
    }
}

/// One device, as the kernel shows it now.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    /// Which.
    pub id: DeviceId,
    /// Name for people.
    pub name: String,
    /// Kernel driver that is bound to it.
    pub driver: Option<String>,
    /// Memory in bytes: main memory of the processor, VRAM of a card.
    pub memory_bytes: Option<u64>,
    /// How much of it is in use; under i915 and xe, by our own engines.
    pub memory_used_bytes: Option<u64>,
    /// Degrees Celsius.
    pub temperature_celsius: Option<f32>,
    /// Power, or the meter it is to be computed from.
    pub power: Option<Power>,
    /// Watts that it is held to over some seconds.
    pub power_limit_watts: Option<f32>,
    /// What could not be read, and why.
    pub missing: Vec<Missing>,
}

/// What a device says about its power.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Power {
    /// Watts.
    Watts(f32),
    /// Microjoules since some time in the past.
    MeterMicrojoules(u64),
}

/// A reading that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Which.
    pub field: &'static str,
    /// Why.
    pub reason: String,
}

/// Lists the processor first and then the cards, by slot. `engines` are the processes
/// whose video memory is ours. Blocks on the kernel, which may ask the cards.
pub fn list(roots: &Roots, engines: &[u32]) -> Vec<Device> {
    let mut devices = vec![processor::read(roots)];
    devices.extend(card::list(&roots.sys, &fdinfo::held(&roots.proc, engines)));
    devices
}

/// Bytes that the process `pid` holds on these cards, or in main memory when there are
/// none; `None` when that cannot be read.
pub fn held_by(roots: &Roots, pid: u32, slots: &[PciSlot]) -> Option<u64> {
    if slots.is_empty() {
        return processor::resident(&roots.proc, pid);
    }
    let held = fdinfo::held(&roots.proc, &[pid]);
    slots.iter().map(|slot| held.on(slot).ok()).sum()
}

/// What the energy meter of a device shows, in microjoules; `None` without one.
pub fn meter(roots: &Roots, device: &DeviceId) -> Option<u64> {
    let power = match device {
        DeviceId::Cpu => processor::power(&roots.sys),
        DeviceId::Pci(slot) => card::power(&roots.sys, slot),
    };
    match power {
        Some(Power::MeterMicrojoules(meter)) => Some(meter),
        _ => None,
    }
}

/// Mean power between two readings of an energy meter; `None` when the meter went
/// back, as it does when the driver is loaded again.
pub fn mean_watts(
    earlier_microjoules: u64,
    now_microjoules: u64,
    elapsed: Duration,
) -> Option<f32> {
    let used = now_microjoules.checked_sub(earlier_microjoules)?;
    if elapsed.is_zero() {
        return None;
    }
    // Exact enough: a meter of 2^53 microjoules is 285 kWh.
    Some(narrow(used as f64 / 1e6 / elapsed.as_secs_f64()))
}

#[expect(clippy::cast_possible_truncation, reason = "a reading for people: 24 bits are plenty")]
fn narrow(reading: f64) -> f32 {
    reading as f32
}

/// Reads a small file and drops the line break at its end.
fn read_text(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path)
        .map(|text| text.trim().to_owned())
        .map_err(|error| format!("{}: {error}", path.display()))
}

fn read_number<T: FromStr>(path: &Path) -> Result<T, String> {
    let text = read_text(path)?;
    text.parse().map_err(|_| format!("{}: {text:?} is not a number", path.display()))
}

/// The hwmon folders under `device` (or of the class) with their names.
fn hwmons(folder: &Path) -> Vec<(String, PathBuf)> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<(String, PathBuf)> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            Some((read_text(&path.join("name")).ok()?, path))
        })
        .collect();
    found.sort();
    found
}

fn watts(path: &Path) -> Result<f32, String> {
    read_number::<u32>(path).map(|microwatts| narrow(f64::from(microwatts) / 1e6))
}

fn millidegrees(path: &Path) -> Result<f32, String> {
    read_number::<i32>(path).map(|millidegrees| millidegrees as f32 / 1000.0)
}

/// Keeps the value or notes why there is none.
fn noted<T>(
    missing: &mut Vec<Missing>,
    field: &'static str,
    reading: Result<T, String>,
) -> Option<T> {
    reading.map_err(|reason| missing.push(Missing { field, reason })).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_by_word_or_slot() {
        assert_eq!("cpu".parse(), Ok(DeviceId::Cpu));
        let card: DeviceId = "0000:8A:00.1".parse().unwrap();
        assert_eq!(card.to_string(), "0000:8a:00.1");
        for wrong in
            ["", "0", "CPU", "card0", "03:00.0", "0000:03:00", "0000.03:00:0", "0000:03:00.0:1"]
        {
            assert_eq!(wrong.parse::<DeviceId>(), Err(InvalidDeviceId), "{wrong}");
        }
    }

    #[test]
    fn power_is_the_mean_between_two_readings() {
        let second = Duration::from_secs(1);
        assert_eq!(mean_watts(1_000_000, 46_000_000, second), Some(45.0));
        assert_eq!(mean_watts(0, 10_000_000, 4 * second), Some(2.5));
        assert_eq!(mean_watts(5, 4, second), None);
        assert_eq!(mean_watts(5, 6, Duration::ZERO), None);
    }
}
