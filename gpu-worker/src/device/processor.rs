//! The processor as a device.

use std::path::Path;

use super::{Device, DeviceId, Roots, hwmons, millidegrees, noted, read_text};

/// Drivers whose first temperature is that of the whole package.
const PACKAGE_SENSORS: [&str; 3] = ["coretemp", "k10temp", "zenpower"];

pub(super) fn read(roots: &Roots) -> Device {
    let mut missing = Vec::new();
    let memory = noted(&mut missing, "memory_bytes", memory(&roots.proc));
    let temperature = temperature(&roots.sys);
    Device {
        id: DeviceId::Cpu,
        name: name(&roots.proc).unwrap_or_else(|| "CPU".to_owned()),
        driver: None,
        memory_bytes: memory.map(|memory| memory.total),
        memory_used_bytes: memory.map(|memory| memory.total.saturating_sub(memory.available)),
        temperature_celsius: noted(&mut missing, "temperature_celsius", temperature),
        power: None,
        missing,
    }
}

#[derive(Clone, Copy)]
struct Memory {
    total: u64,
    available: u64,
}

fn memory(proc: &Path) -> Result<Memory, String> {
    let text = read_text(&proc.join("meminfo"))?;
    let bytes = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .and_then(|value| value.trim().strip_suffix("kB"))
            .and_then(|kibibytes| kibibytes.trim().parse::<u64>().ok())
            .map(|kibibytes| kibibytes.saturating_mul(1024))
            .ok_or_else(|| format!("/proc/meminfo has no {name}"))
    };
    Ok(Memory { total: bytes("MemTotal")?, available: bytes("MemAvailable")? })
}

fn name(proc: &Path) -> Option<String> {
    let text = read_text(&proc.join("cpuinfo")).ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    line.split_once(':').map(|(_, name)| name.trim().to_owned())
}

fn temperature(sys: &Path) -> Result<f32, String> {
    let sensors = hwmons(&sys.join("class/hwmon"));
    let sensor = sensors
        .iter()
        .find(|(name, _)| PACKAGE_SENSORS.contains(&name.as_str()))
        .ok_or("no sensor of the processor's package (coretemp, k10temp or zenpower)")?;
    millidegrees(&sensor.1.join("temp1_input"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn roots(files: &[(&str, &str)]) -> (tempfile::TempDir, Roots) {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let roots = Roots { sys: folder.path().join("sys"), proc: folder.path().join("proc") };
        (folder, roots)
    }

    #[test]
    fn a_processor_is_read_from_what_linux_shows() {
        let (_folder, roots) = roots(&[
            ("proc/meminfo", "MemTotal:       1000 kB\nMemFree: 10 kB\nMemAvailable:    400 kB\n"),
            ("proc/cpuinfo", "processor\t: 0\nmodel name\t: AMD Ryzen 7 8845HS\n"),
            ("sys/class/hwmon/hwmon0/name", "nvme\n"),
            ("sys/class/hwmon/hwmon1/name", "k10temp\n"),
            ("sys/class/hwmon/hwmon1/temp1_input", "45125\n"),
        ]);
        let device = read(&roots);
        assert_eq!(device.name, "AMD Ryzen 7 8845HS");
        assert_eq!(device.memory_bytes, Some(1_024_000));
        assert_eq!(device.memory_used_bytes, Some(614_400));
        assert_eq!(device.temperature_celsius, Some(45.125));
        assert_eq!(device.missing, []);
    }

    #[test]
    fn what_linux_does_not_show_is_missing_with_a_reason() {
        let (_folder, roots) = roots(&[("proc/meminfo", "MemTotal: many\n")]);
        let device = read(&roots);
        assert_eq!((device.memory_bytes, device.temperature_celsius), (None, None));
        let fields: Vec<&str> = device.missing.iter().map(|missing| missing.field).collect();
        assert_eq!(fields, ["memory_bytes", "temperature_celsius"]);
        assert_eq!(device.missing[0].reason, "/proc/meminfo has no MemTotal");
    }
}
