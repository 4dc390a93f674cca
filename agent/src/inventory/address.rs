//! Network interfaces and their addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use nix::ifaddrs::{InterfaceAddress, getifaddrs};

use crate::health::{label, read_small};
use crate::reading::{Missing, Reading};

/// More than these are not listed; guests of a Proxmox host bring up to five each.
const INTERFACES_MAX: usize = 1024;
const ADDRESSES_MAX: usize = 64;

/// One network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Name, such as `vmbr0`.
    pub name: String,
    /// Hardware address, lower case with colons.
    pub mac: Option<String>,
    /// Addresses with prefix length.
    pub addresses: Vec<String>,
    /// Operational state as the kernel names it.
    pub state: Option<String>,
    /// Speed in megabit per second, while the link is up.
    pub speed_mbps: Option<u32>,
    /// Largest packet in bytes.
    pub mtu_bytes: Option<u32>,
}

/// Reads the interfaces, by name. Blocks.
///
/// # Errors
/// [`Missing::Unreadable`] when the kernel does not tell.
pub(super) fn read(sys: &Path) -> Reading<Vec<Interface>> {
    let addresses = getifaddrs()
        .map_err(|errno| Missing::from_io(&"the list of addresses".into(), &errno.into()))?;
    let mut interfaces: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for address in addresses {
        let is_known = interfaces.contains_key(&address.interface_name);
        if !is_known && interfaces.len() >= INTERFACES_MAX {
            continue;
        }
        let listed = interfaces.entry(address.interface_name.clone()).or_default();
        if let Some(shown) = with_prefix(&address)
            && listed.len() < ADDRESSES_MAX
        {
            listed.push(shown);
        }
    }
    Ok(interfaces.into_iter().map(|(name, addresses)| describe(sys, name, addresses)).collect())
}

fn describe(sys: &Path, name: String, addresses: Vec<String>) -> Interface {
    let folder = sys.join("class/net").join(&name);
    let text = |file: &str| read_small(&folder.join(file)).ok().filter(|text| !text.is_empty());
    let number = |file: &str| text(file)?.parse().ok();
    Interface {
        mac: text("address").map(|mac| label(mac.to_ascii_lowercase().as_bytes(), 64)),
        addresses,
        state: text("operstate"),
        // The kernel says -1 while a link is down, which is no number without a sign.
        speed_mbps: number("speed"),
        mtu_bytes: number("mtu"),
        name,
    }
}

fn with_prefix(entry: &InterfaceAddress) -> Option<String> {
    let ip = |storage: Option<nix::sys::socket::SockaddrStorage>| -> Option<IpAddr> {
        let storage = storage?;
        let v4 = storage.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| storage.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    };
    let (address, mask) = (ip(entry.address)?, ip(entry.netmask)?);
    let length = match mask {
        IpAddr::V4(mask) => mask.to_bits().count_ones(),
        IpAddr::V6(mask) => mask.to_bits().count_ones(),
    };
    Some(format!("{address}/{length}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_does_not_tell_is_left_out() {
        let sys = tempfile::tempdir().unwrap();
        let folder = sys.path().join("class/net/eno1");
        std::fs::create_dir_all(&folder).unwrap();
        for (file, text) in [
            ("address", "AA:BB:CC:00:11:22\n"),
            ("operstate", "down\n"),
            ("speed", "-1\n"),
            ("mtu", "9000\n"),
        ] {
            std::fs::write(folder.join(file), text).unwrap();
        }
        let interface = describe(sys.path(), "eno1".to_owned(), Vec::new());
        assert_eq!(interface.mac.as_deref(), Some("aa:bb:cc:00:11:22"));
        assert_eq!(interface.state.as_deref(), Some("down"));
        assert_eq!(interface.speed_mbps, None);
        assert_eq!(interface.mtu_bytes, Some(9000));
    }
}
