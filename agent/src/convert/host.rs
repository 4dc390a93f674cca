//! What a host is, as in the protocol.

use homelab_proto::agent::v1 as pb;
use homelab_rpc::node::to_proto;

use crate::convert::Gaps;
use crate::health::Sample;
use crate::inventory::{Host, Interface, Route, System};
use crate::reading::{Missing, Reading};

/// The host called `name` in the inventory; boot and uptime are from `sample`.
pub(crate) fn host(name: &str, host: &Host, sample: &Sample) -> pb::Host {
    let mut gaps = Gaps::default();
    let system = gaps.note("hostname", host.system.clone());
    let from_system = |get: fn(&System) -> Option<String>| system.as_ref().and_then(get);
    // The time of the boot is told to the second, as the kernel's own figure jumps by less.
    let booted_at = gaps.note("booted_at", sample.uptime.clone()).and_then(|uptime| {
        let booted_at = sample.at.checked_sub(uptime).ok()?;
        Some(prost_types::Timestamp { nanos: 0, ..to_proto(booted_at) })
    });
    let proxmox_version = match &host.proxmox_version {
        // A host that is no Proxmox host lacks nothing.
        Err(Missing::Absent(_)) => None,
        version => gaps.note("proxmox_version", version.clone()),
    };
    let boot_id = gaps.note("boot_id", sample.boot_id.clone());
    pb::Host {
        name: name.to_owned(),
        hostname: from_system(|system| system.hostname.clone()),
        kernel: from_system(|system| system.kernel.clone()),
        os: from_system(|system| system.os.clone()),
        proxmox_version,
        cpu_model: from_system(|system| system.cpu_model.clone()),
        cpu_count: system.as_ref().and_then(|system| u32::try_from(system.cpu_count).ok()),
        core_count: system
            .as_ref()
            .and_then(|system| system.core_count)
            .and_then(|cores| u32::try_from(cores).ok()),
        memory_bytes: system.as_ref().map(|system| system.memory_bytes),
        virtualization: gaps.note("virtualization", host.virtualization.clone()),
        boot_id: boot_id.map(|id| id.as_ref().to_owned()),
        booted_at,
        interfaces: list(&mut gaps, "interfaces", &host.interfaces, interface),
        routes: list(&mut gaps, "routes", &host.routes, route),
        observed_at: Some(to_proto(host.observed_at)),
        missing: gaps.0,
    }
}

fn list<T, U>(
    gaps: &mut Gaps,
    field: &str,
    reading: &Reading<Vec<T>>,
    convert: fn(&T) -> U,
) -> Vec<U> {
    let items = gaps.note(field, reading.as_ref().map_err(Clone::clone));
    items.into_iter().flatten().map(convert).collect()
}

fn interface(interface: &Interface) -> pb::Interface {
    pb::Interface {
        name: interface.name.clone(),
        mac: interface.mac.clone(),
        addresses: interface.addresses.clone(),
        state: interface.state.clone(),
        speed_mbps: interface.speed_mbps,
        mtu_bytes: interface.mtu_bytes,
    }
}

fn route(route: &Route) -> pb::Route {
    pb::Route {
        destination: route.destination.clone(),
        gateway: route.gateway.clone().unwrap_or_default(),
        interface: route.interface.clone(),
        metric: Some(route.metric),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jiff::Timestamp;

    use super::*;

    fn empty() -> Host {
        Host {
            observed_at: Timestamp::UNIX_EPOCH,
            system: Err(Missing::NotMeasuredYet),
            proxmox_version: Err(Missing::Absent("pve-manager".into())),
            virtualization: Err(Missing::Absent("systemd-detect-virt".into())),
            interfaces: Err(Missing::NotMeasuredYet),
            routes: Ok(Vec::new()),
        }
    }

    #[test]
    fn a_host_without_proxmox_lacks_nothing() {
        let host = host("qotom", &empty(), &Sample::unknown(Timestamp::UNIX_EPOCH));
        assert_eq!(host.name, "qotom");
        assert_eq!(host.cpu_count, None);
        let missing: Vec<&str> = host.missing.iter().map(|m| m.field.as_str()).collect();
        assert!(!missing.contains(&"proxmox_version"), "{missing:?}");
        assert!(missing.contains(&"interfaces"), "{missing:?}");
        assert!(missing.contains(&"virtualization"), "{missing:?}");
    }

    #[test]
    fn the_boot_is_an_uptime_ago() {
        let now = Timestamp::from_second(1_000_000).unwrap();
        let uptime = Ok(Duration::from_millis(100_400));
        let sample = Sample { uptime, ..Sample::unknown(now) };
        let booted_at = host("qotom", &empty(), &sample).booted_at.unwrap();
        assert_eq!((booted_at.seconds, booted_at.nanos), (999_899, 0));
    }
}
