//! A sample and its conditions, as in the protocol.

use homelab_proto::agent::v1 as pb;
use homelab_proto::common::v1 as common;
use homelab_rpc::node::to_proto;
use jiff::Timestamp;

use crate::convert::{Gaps, span};
use crate::health::{
    Access, Condition, ConditionKind, Disk, Filesystem, Interface, Load, Memory, Observation,
    Pressure, Sample, Sensor, SensorKind, Shares, Stall, StallLine, Status,
};
use crate::reading::{Aged, Reading};

/// One observation. Everything that could not be read is in `missing`, by the path of its field.
pub(crate) fn health(observation: Observation) -> pb::Health {
    let Observation { sample, conditions } = observation;
    let mut gaps = Gaps::default();
    let Sample { at, over, uptime, load, cpu, cores, pressure, memory, disks, interfaces, .. } =
        sample;
    let slow = sample.slow;
    let over = over.ok().map(span);
    let cpu = gaps.note("cpu", cpu).as_ref().map(usage);
    let cores = cores.into_iter().map(|core| {
        let shares = gaps.note(format!("cores.{}", core.number), core.shares);
        shares.as_ref().map_or_else(pb::CpuUsage::default, usage)
    });
    let cores = cores.collect();
    let load = gaps.note("load", load).as_ref().map(averages);
    let memory = gaps.note("memory", memory).map(|memory| bytes(memory, &mut gaps));
    let pressure = Some(stalls(pressure, &mut gaps));
    let disks = gaps.note("disks", disks).unwrap_or_default();
    let disks = disks.into_iter().map(|one| disk(one, &mut gaps)).collect();
    let networks = gaps.note("networks", interfaces).unwrap_or_default();
    let networks = networks.into_iter().map(|one| network(one, &mut gaps)).collect();
    let uptime = gaps.note("uptime", uptime).map(span);

    let filesystems = gaps.note("filesystems", borrowed(&slow.filesystems)).into_iter().flatten();
    let probed_at = slow.filesystems.measured_at;
    let filesystems = filesystems.map(|one| filesystem(one, probed_at, &mut gaps)).collect();
    let sensors = gaps.note("sensors", borrowed(&slow.sensors)).into_iter().flatten();
    let sensors = sensors.map(|one| sensor(one, &mut gaps)).collect();
    let failed_units = gaps.note("failed_units", borrowed(&slow.failed_units)).map(|names| {
        let observed_at = slow.failed_units.measured_at.map(to_proto);
        pb::FailedUnits { names: names.clone(), observed_at }
    });
    let time_sync = gaps.note("time_sync", borrowed(&slow.time_sync)).map(|sync| pb::TimeSync {
        synchronized: Some(sync.is_synchronized),
        source: sync.source.to_owned(),
        observed_at: slow.time_sync.measured_at.map(to_proto),
    });
    let process_count = gaps.note("process_count", slow.processes.reading.clone());
    pb::Health {
        observed_at: Some(to_proto(at)),
        over,
        cpu,
        cores,
        load,
        memory,
        pressure,
        disks,
        filesystems,
        networks,
        sensors,
        uptime,
        failed_units,
        time_sync,
        conditions: conditions.into_iter().map(condition).collect(),
        missing: gaps.0,
        process_count,
    }
}

fn borrowed<T>(aged: &Aged<T>) -> Reading<&T> {
    aged.reading.as_ref().map_err(Clone::clone)
}

/// Shares and averages need no more than the seven digits of the wire.
#[expect(clippy::cast_possible_truncation, reason = "rounds, and saturates at infinity")]
fn rounded(value: f64) -> f32 {
    value as f32
}

fn usage(shares: &Shares) -> pb::CpuUsage {
    pb::CpuUsage {
        user: Some(rounded(shares.user)),
        system: Some(rounded(shares.system)),
        iowait: Some(rounded(shares.iowait)),
        steal: Some(rounded(shares.steal)),
        idle: Some(rounded(shares.idle)),
    }
}

fn averages(load: &Load) -> pb::Load {
    pb::Load {
        one_minute: Some(rounded(load.one)),
        five_minutes: Some(rounded(load.five)),
        fifteen_minutes: Some(rounded(load.fifteen)),
    }
}

fn bytes(memory: Memory, gaps: &mut Gaps) -> pb::Memory {
    let swap = gaps.note("memory.swap_total_bytes", memory.swap);
    pb::Memory {
        total_bytes: Some(memory.total_bytes),
        available_bytes: gaps.note("memory.available_bytes", memory.available_bytes),
        arc_bytes: gaps.note("memory.arc_bytes", memory.arc).map(|arc| arc.size_bytes),
        swap_total_bytes: swap.map(|swap| swap.total_bytes),
        swap_used_bytes: swap.map(|swap| swap.total_bytes.saturating_sub(swap.free_bytes)),
    }
}

fn stalls(pressure: Pressure, gaps: &mut Gaps) -> pb::Pressure {
    let mut one = |field: &str, reading| gaps.note(field, reading).map(stall);
    pb::Pressure {
        cpu: one("pressure.cpu", pressure.cpu),
        memory: one("pressure.memory", pressure.memory),
        io: one("pressure.io", pressure.io),
    }
}

fn stall(stall: Stall) -> pb::Stall {
    let share = |percent: f64| Some(rounded(percent / 100.0));
    let full = |window: fn(&StallLine) -> f64| stall.full.as_ref().map(window).and_then(share);
    pb::Stall {
        some_ten_seconds: share(stall.some.average_10s_percent),
        some_sixty_seconds: share(stall.some.average_60s_percent),
        some_five_minutes: share(stall.some.average_300s_percent),
        full_ten_seconds: full(|line| line.average_10s_percent),
        full_sixty_seconds: full(|line| line.average_60s_percent),
        full_five_minutes: full(|line| line.average_300s_percent),
    }
}

fn disk(disk: Disk, gaps: &mut Gaps) -> pb::Disk {
    let rates = gaps.note(format!("disks.{}", disk.name), disk.rates);
    let latency = rates.and_then(|rates| rates.mean_latency);
    pb::Disk {
        name: disk.name.as_ref().to_owned(),
        read_bytes_per_second: rates.map(|rates| rates.read_bytes_per_second),
        written_bytes_per_second: rates.map(|rates| rates.written_bytes_per_second),
        reads_per_second: rates.map(|rates| rates.reads_per_second),
        writes_per_second: rates.map(|rates| rates.writes_per_second),
        busy: rates.map(|rates| rounded(rates.busy_share)),
        await_milliseconds: latency.map(|latency| rounded(latency.as_secs_f64() * 1e3)),
    }
}

fn network(interface: Interface, gaps: &mut Gaps) -> pb::NetworkUsage {
    let rates = gaps.note(format!("networks.{}", interface.name), interface.rates);
    let (received, sent) = (interface.counters.received, interface.counters.sent);
    pb::NetworkUsage {
        name: interface.name.as_ref().to_owned(),
        received_bytes_per_second: rates.map(|rates| rates.received.bytes),
        sent_bytes_per_second: rates.map(|rates| rates.sent.bytes),
        received_packets_per_second: rates.map(|rates| rates.received.packets),
        sent_packets_per_second: rates.map(|rates| rates.sent.packets),
        errors: Some(received.errors.saturating_add(sent.errors)),
        drops: Some(received.drops.saturating_add(sent.drops)),
    }
}

fn filesystem(
    filesystem: &Filesystem,
    probed_at: Option<Timestamp>,
    gaps: &mut Gaps,
) -> pb::Filesystem {
    let mount = &filesystem.mount;
    let usage = gaps.note(format!("filesystems.{}", mount.point), filesystem.usage.clone());
    let inodes = usage.and_then(|usage| usage.inodes);
    pb::Filesystem {
        mount_point: mount.point.clone(),
        r#type: mount.kind.clone(),
        source: mount.source.clone(),
        size_bytes: usage.map(|usage| usage.size_bytes),
        available_bytes: usage.map(|usage| usage.available_bytes),
        inodes: inodes.map(|inodes| inodes.total),
        inodes_free: inodes.map(|inodes| inodes.free),
        read_only: mount.access != Access::Writable,
        observed_at: probed_at.map(to_proto),
    }
}

fn sensor(sensor: &Sensor, gaps: &mut Gaps) -> pb::Sensor {
    let Sensor { chip, label, kind, value, critical } = sensor;
    let kind = match kind {
        SensorKind::Temperature => pb::SensorKind::TemperatureCelsius,
        SensorKind::Fan => pb::SensorKind::FanRpm,
        SensorKind::Power => pb::SensorKind::PowerWatts,
    };
    pb::Sensor {
        chip: chip.clone(),
        label: label.clone(),
        kind: kind.into(),
        value: gaps.note(format!("sensors.{chip}.{label}"), value.clone()),
        critical: *critical,
    }
}

fn condition(condition: Condition) -> common::Condition {
    let kind = match condition.kind {
        ConditionKind::FilesystemsHaveRoom => "FilesystemsHaveRoom",
        ConditionKind::FilesystemsWritable => "FilesystemsWritable",
        ConditionKind::MemorySufficient => "MemorySufficient",
        ConditionKind::TemperaturesNormal => "TemperaturesNormal",
        ConditionKind::UnitsRunning => "UnitsRunning",
        ConditionKind::ClockSynchronized => "ClockSynchronized",
    };
    let status = match condition.status {
        Status::True => common::ConditionStatus::True,
        Status::False => common::ConditionStatus::False,
        Status::Unknown => common::ConditionStatus::Unknown,
    };
    common::Condition {
        r#type: kind.to_owned(),
        status: status.into(),
        reason: condition.reason.to_owned(),
        message: condition.message,
        since: Some(to_proto(condition.since)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::health::{DiskCounters, DiskRates, Mount, Slow, Usage};
    use crate::reading::Missing;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn shown(sample: Sample) -> pb::Health {
        health(Observation { sample, conditions: Vec::new() })
    }

    fn fields(health: &pb::Health) -> Vec<&str> {
        health.missing.iter().map(|missing| missing.field.as_str()).collect()
    }

    #[test]
    fn what_is_unknown_is_absent_with_a_reason_and_never_zero() {
        let health = shown(Sample::unknown(NOW));
        assert_eq!(health.cpu, None);
        assert_eq!(health.memory, None);
        assert_eq!(health.load, None);
        assert_eq!(health.uptime, None);
        assert_eq!(health.process_count, None);
        assert_eq!(health.failed_units, None);
        for field in ["cpu", "load", "memory", "pressure.io", "disks", "networks", "filesystems"] {
            assert!(fields(&health).contains(&field), "{field} in {:?}", health.missing);
        }
    }

    #[test]
    fn a_first_sample_lacks_its_rates_without_listing_each() {
        let disk = Disk {
            name: "sda".into(),
            counters: DiskCounters::default(),
            rates: Err(Missing::FirstSample),
        };
        let health = shown(Sample { disks: Ok(vec![disk]), ..Sample::unknown(NOW) });
        assert_eq!(health.over, None);
        assert_eq!(health.disks[0].busy, None);
        assert!(fields(&health).iter().all(|field| !field.starts_with("disks")));
    }

    #[test]
    fn rates_come_in_the_units_of_the_protocol() {
        let rates = DiskRates {
            read_bytes_per_second: 1.0,
            written_bytes_per_second: 2.0,
            reads_per_second: 3.0,
            writes_per_second: 4.0,
            busy_share: 0.5,
            mean_latency: Some(Duration::from_micros(1500)),
        };
        let disk = Disk { name: "sda".into(), counters: DiskCounters::default(), rates: Ok(rates) };
        let line = StallLine {
            average_10s_percent: 50.0,
            average_60s_percent: 25.0,
            average_300s_percent: 0.0,
            total_micros: 0,
        };
        let mut sample = Sample::unknown(NOW);
        sample.disks = Ok(vec![disk]);
        sample.pressure.io = Ok(Stall { some: line, full: None });
        let health = shown(sample);
        assert_eq!(health.disks[0].await_milliseconds, Some(1.5));
        assert_eq!(health.disks[0].busy, Some(0.5));
        let io = health.pressure.unwrap().io.unwrap();
        assert_eq!((io.some_ten_seconds, io.some_five_minutes), (Some(0.5), Some(0.0)));
        assert_eq!(io.full_ten_seconds, None);
    }

    #[test]
    fn a_hung_filesystem_is_listed_without_figures() {
        let mount = Mount {
            device: (0, 44),
            point: "/mnt/nas".to_owned(),
            kind: "nfs4".to_owned(),
            source: "nas:/backup".to_owned(),
            access: Access::Writable,
        };
        let usage: Reading<Usage> = Err(Missing::Hung { after: Duration::from_secs(3) });
        let filesystems = Aged::new(NOW, Ok(vec![Filesystem { mount, usage }]));
        let slow = Arc::new(Slow { filesystems, ..Slow::default() });
        let health = shown(Sample { slow, ..Sample::unknown(NOW) });
        assert_eq!(health.filesystems[0].available_bytes, None);
        let reason = health.missing.iter().find(|missing| missing.field == "filesystems./mnt/nas");
        assert!(reason.unwrap().reason.contains("no answer within 3 s"));
    }

    #[test]
    fn the_list_of_gaps_is_bounded() {
        let disk = |n: usize| Disk {
            name: format!("sd{n}").into(),
            counters: DiskCounters::default(),
            rates: Err(Missing::CounterReset),
        };
        let disks = Ok((0..1000).map(disk).collect());
        let health = shown(Sample { disks, ..Sample::unknown(NOW) });
        assert!(health.missing.len() <= crate::convert::MISSING_MAX);
    }
}
