//! Routes of the main table.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::Arc;

use crate::health::{label, lines, words};
use crate::reading::{Missing, Reading};

/// More than these are not listed.
const ROUTES_MAX: usize = 1024;

/// Flags of a route (kernel, `uapi/linux/route.h` and `uapi/linux/ipv6_route.h`).
const FLAG_UP: u32 = 0x0001;
const FLAG_REJECT: u32 = 0x0200;
const FLAG_ANYCAST: u32 = 0x0010_0000;
const FLAG_LOCAL: u32 = 0x8000_0000;

/// One route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination with prefix length; `0.0.0.0/0` and `::/0` are the default routes.
    pub destination: String,
    /// Gateway; `None` for a directly connected network.
    pub gateway: Option<String>,
    /// Interface name.
    pub interface: String,
    /// Metric; lower wins.
    pub metric: u32,
}

/// Reads the routes of both families. Blocks.
///
/// # Errors
/// [`Missing::Absent`] or [`Missing::Unreadable`] without the table of IPv4; a host without IPv6
/// has no table for it.
pub(super) fn read(proc: &Path) -> Reading<Vec<Route>> {
    let text = |file: &str| {
        let path = proc.join(file);
        let what = Arc::from(path.to_string_lossy());
        std::fs::read(path).map_err(|error| Missing::from_io(&what, &error))
    };
    let v4 = text("net/route")?;
    let v6 = text("net/ipv6_route").unwrap_or_default();
    let routes = lines(&v4).filter_map(parse_v4).chain(lines(&v6).filter_map(parse_v6));
    Ok(routes.take(ROUTES_MAX).collect())
}

/// `Iface Destination Gateway Flags RefCnt Use Metric Mask ...`, addresses as the hexadecimal
/// form of the number that the network order makes on this machine.
fn parse_v4(line: &[u8]) -> Option<Route> {
    let mut words = words(line);
    let interface = words.next()?;
    let mut hex = || u32::from_str_radix(std::str::from_utf8(words.next()?).ok()?, 16).ok();
    let (destination, gateway, flags) = (hex()?, hex()?, hex()?);
    let metric = std::str::from_utf8(words.nth(2)?).ok()?.parse().ok()?;
    let mask = u32::from_str_radix(std::str::from_utf8(words.next()?).ok()?, 16).ok()?;
    if flags & FLAG_UP == 0 || flags & FLAG_REJECT != 0 {
        return None;
    }
    let address = |number: u32| Ipv4Addr::from(number.to_ne_bytes());
    let gateway = address(gateway);
    Some(Route {
        destination: format!("{}/{}", address(destination), mask.count_ones()),
        gateway: (!gateway.is_unspecified()).then(|| gateway.to_string()),
        interface: label(interface, 64),
        metric,
    })
}

/// `destination length source length gateway metric references use flags interface`, all numbers
/// in hexadecimal. The file holds the tables of local and multicast addresses as well, and every
/// link has its own link-local network: these are left out.
fn parse_v6(line: &[u8]) -> Option<Route> {
    let words: Vec<&str> = words(line).filter_map(|word| std::str::from_utf8(word).ok()).collect();
    let [destination, length, _, _, gateway, metric, _, _, flags, interface] = words.as_slice()
    else {
        return None;
    };
    let address = |hex: &str| Some(Ipv6Addr::from(u128::from_str_radix(hex, 16).ok()?));
    let number = |hex: &str| u32::from_str_radix(hex, 16).ok();
    let (destination, gateway) = (address(destination)?, address(gateway)?);
    let flags = number(flags)?;
    let is_own = flags & (FLAG_LOCAL | FLAG_ANYCAST | FLAG_REJECT) != 0 || *interface == "lo";
    let is_link = destination.is_unicast_link_local() || destination.is_multicast();
    if flags & FLAG_UP == 0 || is_own || is_link {
        return None;
    }
    Some(Route {
        destination: format!("{destination}/{}", number(length).filter(|length| *length <= 128)?),
        gateway: (!gateway.is_unspecified()).then(|| gateway.to_string()),
        interface: label(interface.as_bytes(), 64),
        metric: number(metric)?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn route(destination: &str, gateway: Option<&str>, metric: u32) -> Option<Route> {
        Some(Route {
            destination: destination.to_owned(),
            gateway: gateway.map(ToOwned::to_owned),
            interface: "vmbr0".to_owned(),
            metric,
        })
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn routes_of_ipv4_are_read() {
        for (line, expected) in [
            (
                "vmbr0\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0",
                route("0.0.0.0/0", Some("192.168.0.1"), 100),
            ),
            (
                "vmbr0\t0000A8C0\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0",
                route("192.168.0.0/16", None, 0),
            ),
            ("vmbr0\t0000A8C0\t00000000\t0201\t0\t0\t0\t0000FFFF\t0\t0\t0", None),
            (
                "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT",
                None,
            ),
        ] {
            assert_eq!(parse_v4(line.as_bytes()), expected);
        }
    }

    #[test]
    fn routes_of_ipv6_are_read_without_those_of_links_and_own_addresses() {
        let any = "00000000000000000000000000000000";
        let ula = "fd000000000000000000000000000000";
        let own = "fd000000000000000000000000000001";
        let link = "fe800000000000000000000000000000";
        for (line, expected) in [
            (
                format!("{any} 00 {any} 00 {own} 00000400 1 0 00000003 vmbr0"),
                route("::/0", Some("fd00::1"), 1024),
            ),
            (
                format!("{ula} 40 {any} 00 {any} 00000100 1 0 00000001 vmbr0"),
                route("fd00::/64", None, 256),
            ),
            (format!("{own} 80 {any} 00 {any} 00000000 1 0 80000001 vmbr0"), None),
            (format!("{link} 40 {any} 00 {any} 00000100 1 0 00000001 vmbr0"), None),
            (format!("{any} 00 {any} 00 {any} ffffffff 1 0 00200200 lo"), None),
        ] {
            assert_eq!(parse_v6(line.as_bytes()), expected, "{line}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(line: Vec<u8>) {
            let _routes = (parse_v4(&line), parse_v6(&line));
        }
    }
}
