//! One observation as text, for a person at the console.

use std::fmt::{self, Display};
use std::sync::Arc;
use std::time::Duration;

use homelab_common::clock::{Clock, SystemClock};
use homelab_common::config::parse::{show_bytes, show_duration};
use homelab_common::exec::Exec;

use crate::health::{
    Disk, Filesystem, Interface, Memory, Monitor, Observation, Roots, Sensor, SensorKind, Shares,
    SlowReader, Stall, Status, Thresholds,
};
use crate::reading::Reading;

/// Long enough for rates that mean something.
const WINDOW: Duration = Duration::from_secs(1);

/// Looks twice, a second apart, and asks all that is slow in between.
pub async fn observe_now(roots: &Roots, exec: Arc<dyn Exec>) -> Observation {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let reader = SlowReader::new(roots.clone(), Arc::clone(&clock), exec);
    let monitor = Monitor::new(roots, Thresholds::default(), clock, reader.newest());
    let mut watcher = Arc::new(monitor).watcher();
    let _first = watcher.observe();
    tokio::join!(reader.read_all(), tokio::time::sleep(WINDOW));
    watcher.observe()
}

/// An observation as lines of text.
#[derive(Debug)]
pub struct Text<'o>(pub &'o Observation);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Observation { sample, conditions } = self.0;
        for condition in conditions {
            let mark = match condition.status {
                Status::True => "ok",
                Status::False => "BAD",
                Status::Unknown => "unknown",
            };
            writeln!(f, "{mark:<8}{:?}: {}", condition.kind, condition.message)?;
        }
        writeln!(f)?;
        row(f, "taken", &sample.at)?;
        reading(f, "uptime", &sample.uptime, |uptime| {
            show_duration(Duration::from_secs(uptime.as_secs()))
        })?;
        reading(f, "load", &sample.load, |load| {
            format!("{:.2} {:.2} {:.2}", load.one, load.five, load.fifteen)
        })?;
        reading(f, "processes", &sample.slow.processes.reading, ToString::to_string)?;
        reading(f, "cpu", &sample.cpu, shares)?;
        for core in &sample.cores {
            reading(f, &format!("cpu {}", core.number), &core.shares, shares)?;
        }
        reading(f, "memory", &sample.memory, memory)?;
        reading(f, "pressure cpu", &sample.pressure.cpu, stall)?;
        reading(f, "pressure memory", &sample.pressure.memory, stall)?;
        reading(f, "pressure io", &sample.pressure.io, stall)?;
        readings(f, "disk", &sample.disks, |disk| disk.name.to_string(), show_disk)?;
        let filesystems = &sample.slow.filesystems.reading;
        readings(f, "filesystem", filesystems, |one| one.mount.point.clone(), filesystem)?;
        readings(f, "network", &sample.interfaces, |one| one.name.to_string(), interface)?;
        let name = |sensor: &Sensor| format!("{} {}", sensor.chip, sensor.label);
        readings(f, "sensor", &sample.slow.sensors.reading, name, sensor)?;
        reading(f, "failed units", &sample.slow.failed_units.reading, |units| {
            if units.is_empty() { "none".to_owned() } else { units.join(" ") }
        })?;
        reading(f, "clock", &sample.slow.time_sync.reading, |sync| {
            let word = if sync.is_synchronized { "synchronised" } else { "not synchronised" };
            format!("{word}, says {}", sync.source)
        })
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, value: &dyn Display) -> fmt::Result {
    writeln!(f, "{name:<23} {value}")
}

fn reading<T>(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    reading: &Reading<T>,
    show: impl Fn(&T) -> String,
) -> fmt::Result {
    match reading {
        Ok(value) => row(f, name, &show(value)),
        Err(missing) => row(f, name, &format_args!("- ({missing})")),
    }
}

/// One row for each, or one that says why there are none.
fn readings<T>(
    f: &mut fmt::Formatter<'_>,
    kind: &str,
    all: &Reading<Vec<T>>,
    name: impl Fn(&T) -> String,
    show: impl Fn(&T) -> String,
) -> fmt::Result {
    match all {
        Ok(all) => {
            all.iter().try_for_each(|one| row(f, &format!("{kind} {}", name(one)), &show(one)))
        }
        Err(missing) => row(f, kind, &format_args!("- ({missing})")),
    }
}

fn shares(shares: &Shares) -> String {
    let Shares { user, system, iowait, steal, idle } = shares;
    let percent = |share: &f64| share * 100.0;
    format!(
        "user {:.1} % system {:.1} % iowait {:.1} % steal {:.1} % idle {:.1} %",
        percent(user),
        percent(system),
        percent(iowait),
        percent(steal),
        percent(idle)
    )
}

fn memory(memory: &Memory) -> String {
    let available = match &memory.available_bytes {
        Ok(available) => about(*available),
        Err(missing) => missing.to_string(),
    };
    let arc = memory.arc.as_ref().map(|arc| format!(", ZFS cache {}", about(arc.size_bytes)));
    let swap = memory.swap.as_ref().map(|swap| {
        let used = swap.total_bytes.saturating_sub(swap.free_bytes);
        format!(", swap {} of {} used", about(used), about(swap.total_bytes))
    });
    let (arc, swap) = (arc.unwrap_or_default(), swap.unwrap_or_default());
    format!("{available} of {} available{arc}{swap}", about(memory.total_bytes))
}

fn stall(stall: &Stall) -> String {
    let some = stall.some;
    format!(
        "some {:.1} % of 10 s, {:.1} % of 60 s, {:.1} % of 300 s",
        some.average_10s_percent, some.average_60s_percent, some.average_300s_percent
    )
}

fn show_disk(disk: &Disk) -> String {
    match &disk.rates {
        Ok(rates) => format!(
            "read {:.0} B/s, written {:.0} B/s, busy {:.1} %",
            rates.read_bytes_per_second,
            rates.written_bytes_per_second,
            rates.busy_share * 100.0
        ),
        Err(missing) => format!("- ({missing})"),
    }
}

fn filesystem(filesystem: &Filesystem) -> String {
    let kind = &filesystem.mount.kind;
    match &filesystem.usage {
        Ok(usage) => format!(
            "{kind}, {} of {} available",
            about(usage.available_bytes),
            about(usage.size_bytes)
        ),
        Err(missing) => format!("{kind}, - ({missing})"),
    }
}

fn interface(interface: &Interface) -> String {
    match &interface.rates {
        Ok(rates) => {
            format!("received {:.0} B/s, sent {:.0} B/s", rates.received.bytes, rates.sent.bytes)
        }
        Err(missing) => format!("- ({missing})"),
    }
}

fn sensor(sensor: &Sensor) -> String {
    let unit = match sensor.kind {
        SensorKind::Temperature => "°C",
        SensorKind::Fan => "rpm",
        SensorKind::Power => "W",
    };
    match &sensor.value {
        Ok(value) => format!("{value:.1} {unit}"),
        Err(missing) => format!("- ({missing})"),
    }
}

/// To the next smaller MiB, so that it is short.
fn about(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    show_bytes(if bytes >= MIB { bytes / MIB * MIB } else { bytes })
}

#[cfg(test)]
mod tests {
    use homelab_common::exec::fake::FakeExec;
    use jiff::Timestamp;

    use super::*;
    use crate::health::Sample;

    #[test]
    fn what_is_unknown_is_shown_with_its_reason() {
        let sample = Sample::unknown(Timestamp::UNIX_EPOCH);
        let text = Text(&Observation { sample, conditions: Vec::new() }).to_string();
        for name in ["uptime", "cpu", "memory", "disk", "filesystem", "network", "clock"] {
            let line = text.lines().find(|line| line.starts_with(name)).expect(name);
            assert!(line.ends_with("- (not measured yet)"), "{line}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn this_machine_is_shown() {
        let exec = Arc::new(FakeExec::default());
        let text = Text(&observe_now(&Roots::default(), exec).await).to_string();
        assert!(text.contains("MemorySufficient"), "{text}");
        assert!(text.contains("network lo"), "{text}");
        assert!(text.contains("filesystem /"), "{text}");
    }
}
