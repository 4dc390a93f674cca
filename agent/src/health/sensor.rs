//! Temperatures, fans and power as the kernel's hwmon drivers report them.
//!
//! Files and units: kernel, `Documentation/hwmon/sysfs-interface.rst`. Chips are numbered in the
//! order in which they were found, so they are known by name and never by number.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use crate::health::source::read_small;
use crate::health::text::{label, signed};
use crate::reading::{Missing, Reading};

/// A server board with its drives has about a hundred.
const SENSORS_MAX: usize = 512;
const CHIPS_MAX: usize = 256;

/// One sensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Sensor {
    /// Chip, such as `coretemp`; `nvme@nvme1` where several chips have the same name.
    pub chip: String,
    /// What the chip calls it, or the kernel's name such as `temp1`.
    pub label: String,
    /// What it measures, and in which unit.
    pub kind: SensorKind,
    /// The reading; a sleeping device or a broken sensor has none.
    pub value: Reading<f64>,
    /// From where on it is too much, where the chip says so.
    pub critical: Option<f64>,
}

/// What a sensor measures, and in which unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SensorKind {
    /// Degrees Celsius.
    Temperature,
    /// Turns per minute.
    Fan,
    /// Watts.
    Power,
}

/// Reads all sensors below `/sys/class/hwmon`. Some chips are asked over slow buses, so this
/// blocks and belongs on the slow path.
///
/// # Errors
/// [`Missing::Absent`] without hwmon, or with hwmon and no chip, as in most virtual machines.
pub(super) fn read(sys: &Path) -> Reading<Vec<Sensor>> {
    let folder = sys.join("class/hwmon");
    let what = Arc::from(folder.to_string_lossy());
    let entries = std::fs::read_dir(&folder).map_err(|e| Missing::from_io(&what, &e))?;
    let mut chips: Vec<Chip> =
        entries.flatten().take(CHIPS_MAX).filter_map(|entry| read_chip(&entry.path())).collect();
    if chips.is_empty() {
        return Err(Missing::Absent(what));
    }
    name_apart(&mut chips);
    chips.sort_by(|a, b| a.name.cmp(&b.name));
    let sensors = chips.into_iter().flat_map(|chip| {
        let name = chip.name;
        chip.sensors.into_iter().map(move |sensor| Sensor { chip: name.clone(), ..sensor })
    });
    Ok(sensors.take(SENSORS_MAX).collect())
}

struct Chip {
    name: String,
    device: Option<String>,
    sensors: Vec<Sensor>,
}

fn read_chip(folder: &Path) -> Option<Chip> {
    // Drivers of some boards put their files beside the device and not into the hwmon folder.
    let folder =
        if folder.join("name").exists() { folder.to_owned() } else { folder.join("device") };
    let name = read_small(&folder.join("name")).ok()?;
    let device = folder.join("device").canonicalize().ok();
    let device = device.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    let mut files: Vec<String> = std::fs::read_dir(&folder)
        .ok()?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    files.sort_unstable();
    let sensors = files.iter().filter_map(|file| read_sensor(&folder, file)).collect();
    Some(Chip { name: label(name.as_bytes(), 64), device, sensors })
}

/// Chips of the same name get their device behind it: `nvme@nvme0`, `nvme@nvme1`.
fn name_apart(chips: &mut [Chip]) {
    let mut counts: HashMap<String, usize> = HashMap::new();
    for chip in chips.iter() {
        *counts.entry(chip.name.clone()).or_default() += 1;
    }
    for chip in chips {
        let is_shared = counts.get(&chip.name).is_some_and(|count| *count > 1);
        if let Some(device) = chip.device.as_ref().filter(|_| is_shared) {
            chip.name = format!("{}@{}", chip.name, label(device.as_bytes(), 64));
        }
    }
}

fn read_sensor(folder: &Path, file: &str) -> Option<Sensor> {
    let (name, suffix) = file.split_once('_')?;
    let (kind, per_unit) = match (name.trim_end_matches(|c: char| c.is_ascii_digit()), suffix) {
        ("temp", "input") => (SensorKind::Temperature, 1e3),
        ("fan", "input") => (SensorKind::Fan, 1.0),
        // A chip has one of the two; an average is what a power sensor of a graphics card has.
        ("power", "average") => (SensorKind::Power, 1e6),
        ("power", "input") if !folder.join(format!("{name}_average")).exists() => {
            (SensorKind::Power, 1e6)
        }
        _ => return None,
    };
    let number = |file: &str| {
        let text = read_small(&folder.join(file))?;
        let value = signed(text.as_bytes()).ok_or(Missing::Malformed("a sensor's value"))?;
        Ok(value as f64 / per_unit)
    };
    let critical = number(&format!("{name}_crit")).ok();
    let label = read_small(&folder.join(format!("{name}_label")))
        .ok()
        .filter(|label| !label.is_empty())
        .map_or_else(|| name.to_owned(), |text| label(text.as_bytes(), 64));
    Some(Sensor {
        chip: String::new(),
        label,
        kind,
        value: number(file),
        // Chips without a limit report zero, or the most that the register holds.
        critical: critical.filter(|limit| is_plausible(kind, *limit)),
    })
}

fn is_plausible(kind: SensorKind, limit: f64) -> bool {
    match kind {
        SensorKind::Temperature => (1.0..=200.0).contains(&limit),
        SensorKind::Fan | SensorKind::Power => limit > 0.0,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn chip(sys: &Path, number: u32, device: &str, files: &[(&str, &str)]) {
        let device = sys.join("devices").join(device);
        let folder = sys.join(format!("class/hwmon/hwmon{number}"));
        fs::create_dir_all(&device).unwrap();
        fs::create_dir_all(&folder).unwrap();
        std::os::unix::fs::symlink(device, folder.join("device")).unwrap();
        for (file, content) in files {
            fs::write(folder.join(file), format!("{content}\n")).unwrap();
        }
    }

    #[test]
    fn temperatures_fans_and_power_come_in_their_units() {
        let sys = tempfile::tempdir().unwrap();
        let files = [
            ("name", "nct6775"),
            ("temp1_input", "-4500"),
            ("temp1_label", "SYSTIN"),
            ("temp1_crit", "95000"),
            ("temp1_crit_alarm", "0"),
            ("fan2_input", "1200"),
            ("power1_average", "65500000"),
            ("power1_input", "70000000"),
        ];
        chip(sys.path(), 0, "nct6775.656", &files);
        let sensors = read(sys.path()).unwrap();
        let seen: Vec<_> =
            sensors.iter().map(|s| (s.label.as_str(), s.kind, s.value.clone())).collect();
        let expected = [
            ("fan2", SensorKind::Fan, Ok(1200.0)),
            ("power1", SensorKind::Power, Ok(65.5)),
            ("SYSTIN", SensorKind::Temperature, Ok(-4.5)),
        ];
        assert_eq!(seen, expected);
        assert_eq!(sensors[2].critical, Some(95.0));
    }

    #[test]
    fn two_chips_of_one_name_are_told_apart_by_their_device() {
        let sys = tempfile::tempdir().unwrap();
        chip(sys.path(), 0, "nvme1", &[("name", "nvme"), ("temp1_input", "40000")]);
        chip(sys.path(), 1, "nvme0", &[("name", "nvme"), ("temp1_input", "50000")]);
        let chips: Vec<_> = read(sys.path()).unwrap().into_iter().map(|s| s.chip).collect();
        assert_eq!(chips, ["nvme@nvme0", "nvme@nvme1"]);
    }

    #[test]
    fn a_sensor_with_garbage_is_missing_and_an_unset_limit_is_none() {
        let sys = tempfile::tempdir().unwrap();
        let files = [("name", "x"), ("temp1_input", "warm"), ("temp1_crit", "0")];
        chip(sys.path(), 0, "x", &files);
        let sensors = read(sys.path()).unwrap();
        assert!(sensors[0].value.is_err());
        assert_eq!(sensors[0].critical, None);
    }

    #[test]
    fn a_machine_without_chips_has_no_sensors_rather_than_none_too_hot() {
        let sys = tempfile::tempdir().unwrap();
        assert!(matches!(read(sys.path()), Err(Missing::Absent(_))));
        fs::create_dir_all(sys.path().join("class/hwmon")).unwrap();
        assert!(matches!(read(sys.path()), Err(Missing::Absent(_))));
    }
}
