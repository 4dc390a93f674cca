//! The processor as a device.

use std::path::{Path, PathBuf};

use super::{
    Device, DeviceId, Power, Roots, hwmons, millidegrees, narrow, noted, read_number, read_text,
};

/// Drivers whose first temperature is that of the whole package.
const PACKAGE_SENSORS: [&str; 3] = ["coretemp", "k10temp", "zenpower"];

const NO_METER: &str = "the processor has no energy meter that Linux shows (powercap)";

/// Since Linux 5.10, because the meter betrays what others compute.
const ROOT_ONLY: &str = "the kernel shows it to root alone unless the file's mode is changed";

pub(super) fn read(roots: &Roots) -> Device {
    let mut missing = Vec::new();
    let memory = noted(&mut missing, "memory_bytes", memory(&roots.proc));
    let temperature = temperature(&roots.sys);
    let packages = packages(&roots.sys);
    Device {
        id: DeviceId::Cpu,
        name: name(&roots.proc).unwrap_or_else(|| "CPU".to_owned()),
        driver: None,
        memory_bytes: memory.map(|memory| memory.total),
        memory_used_bytes: memory.map(|memory| memory.total.saturating_sub(memory.available)),
        temperature_celsius: noted(&mut missing, "temperature_celsius", temperature),
        power: noted(&mut missing, "power_watts", energy(&packages)),
        power_limit_watts: noted(&mut missing, "power_limit_watts", limit(&packages)),
        missing,
    }
}

/// Main memory that a process has in use, mapped files included.
pub(super) fn resident(proc: &Path, pid: u32) -> Option<u64> {
    let status = read_text(&proc.join(pid.to_string()).join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
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

/// The energy meters of the processor's packages: a board may have two.
fn packages(sys: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(sys.join("class/powercap")) else { return Vec::new() };
    let is_package = |folder: &PathBuf| {
        read_text(&folder.join("name")).is_ok_and(|name| name.starts_with("package-"))
    };
    entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_package).collect()
}

/// The power of the processor alone, which is asked for often.
pub(super) fn power(sys: &Path) -> Option<Power> {
    energy(&packages(sys)).ok()
}

fn energy(packages: &[PathBuf]) -> Result<Power, String> {
    if packages.is_empty() {
        return Err(NO_METER.to_owned());
    }
    let meters = packages.iter().map(|folder| read_number::<u64>(&folder.join("energy_uj")));
    let sum = meters.sum::<Result<u64, String>>();
    sum.map(Power::MeterMicrojoules).map_err(|reason| format!("{reason}; {ROOT_ONLY}"))
}

fn limit(packages: &[PathBuf]) -> Result<f32, String> {
    if packages.is_empty() {
        return Err(NO_METER.to_owned());
    }
    let file = "constraint_0_power_limit_uw";
    let limits = packages.iter().map(|folder| read_number::<u32>(&folder.join(file)));
    let microwatts: f64 = limits.map(|limit| limit.map(f64::from)).sum::<Result<f64, String>>()?;
    Ok(narrow(microwatts / 1e6))
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
            ("sys/class/powercap/intel-rapl:0/name", "package-0\n"),
            ("sys/class/powercap/intel-rapl:0/energy_uj", "1000000\n"),
            ("sys/class/powercap/intel-rapl:0/constraint_0_power_limit_uw", "65000000\n"),
            ("sys/class/powercap/intel-rapl:1/name", "package-1\n"),
            ("sys/class/powercap/intel-rapl:1/energy_uj", "500000\n"),
            ("sys/class/powercap/intel-rapl:1/constraint_0_power_limit_uw", "65000000\n"),
            ("sys/class/powercap/intel-rapl:0:0/name", "core\n"),
        ]);
        let device = read(&roots);
        assert_eq!(device.name, "AMD Ryzen 7 8845HS");
        assert_eq!(device.memory_bytes, Some(1_024_000));
        assert_eq!(device.memory_used_bytes, Some(614_400));
        assert_eq!(device.temperature_celsius, Some(45.125));
        assert_eq!(device.power, Some(Power::MeterMicrojoules(1_500_000)));
        assert_eq!(device.power_limit_watts, Some(130.0));
        assert_eq!(device.missing, []);
    }

    #[test]
    fn what_linux_does_not_show_is_missing_with_a_reason() {
        let (_folder, roots) = roots(&[("proc/meminfo", "MemTotal: many\n")]);
        let device = read(&roots);
        assert_eq!((device.memory_bytes, device.temperature_celsius), (None, None));
        let fields: Vec<&str> = device.missing.iter().map(|missing| missing.field).collect();
        let expected = ["memory_bytes", "temperature_celsius", "power_watts", "power_limit_watts"];
        assert_eq!(fields, expected);
        assert_eq!(device.missing[0].reason, "/proc/meminfo has no MemTotal");
    }
}
