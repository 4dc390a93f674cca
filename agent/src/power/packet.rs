//! Magic packets: six bytes of ones and the hardware address sixteen times, as a broadcast.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::str::FromStr;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

/// The port of the discard service: whoever is awake throws the packet away.
const PORT: u16 = 9;

/// Nobody acknowledges a packet, and one may be lost on the way through switches.
const COPIES: u32 = 3;

/// The hardware address of one network card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac([u8; 6]);

/// The text is no hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a unicast hardware address such as 00:1b:21:3c:4d:5e is wanted")]
pub struct InvalidMac;

impl FromStr for Mac {
    type Err = InvalidMac;

    fn from_str(text: &str) -> Result<Self, InvalidMac> {
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or(InvalidMac)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| InvalidMac)?;
        }
        // The lowest bit of the first byte marks groups, which no card has.
        let one_card = bytes[0] & 1 == 0 && bytes != [0; 6];
        if parts.next().is_none() && one_card { Ok(Self(bytes)) } else { Err(InvalidMac) }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// The packet that wakes the card.
#[must_use]
pub fn magic(mac: Mac) -> [u8; 102] {
    let mut packet = [0xff; 102];
    for copy in packet[6..].chunks_exact_mut(6) {
        copy.copy_from_slice(&mac.0);
    }
    packet
}

/// What was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Packets.
    pub packets: u32,
    /// Interfaces that they were sent from.
    pub interfaces: Vec<String>,
}

/// Why nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No interface can broadcast.
    #[error("no interface of this host is up with an IPv4 broadcast address{}", named(.0.as_deref()))]
    NoInterface(Option<String>),
    /// The system refused.
    #[error("the packet could not be sent from {interface}")]
    Io {
        /// From where.
        interface: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Interfaces could not be listed.
    #[error("the interfaces of this host could not be listed")]
    List(#[source] io::Error),
}

fn named(interface: Option<&str>) -> String {
    interface.map(|name| format!(" and called {name}")).unwrap_or_default()
}

/// Broadcasts the packet from one interface, or from every one that can: to the address that means
/// everybody in that interface's own network, so that it leaves there and nowhere else.
///
/// # Errors
/// Nothing was sent from any of them.
pub fn send(mac: Mac, interface: Option<&str>) -> Result<Sent, SendError> {
    let mut sent = Sent { packets: 0, interfaces: Vec::new() };
    let mut failed = None;
    for place in places().map_err(SendError::List)? {
        if interface.is_some_and(|name| name != place.interface) {
            continue;
        }
        match broadcast(mac, &place) {
            Ok(()) => {
                sent.packets += COPIES;
                sent.interfaces.push(place.interface);
            }
            Err(source) => failed = Some(SendError::Io { interface: place.interface, source }),
        }
    }
    match failed {
        _ if sent.packets > 0 => Ok(sent),
        Some(error) => Err(error),
        None => Err(SendError::NoInterface(interface.map(str::to_owned))),
    }
}

struct Place {
    interface: String,
    address: Ipv4Addr,
    broadcast: Ipv4Addr,
}

fn places() -> io::Result<Vec<Place>> {
    let wanted = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_BROADCAST;
    let mut places = Vec::new();
    for one in getifaddrs()? {
        let loops = one.flags.contains(InterfaceFlags::IFF_LOOPBACK);
        let ip = |address: Option<nix::sys::socket::SockaddrStorage>| {
            address.and_then(|it| it.as_sockaddr_in().map(nix::sys::socket::SockaddrIn::ip))
        };
        if let (Some(address), Some(broadcast)) = (ip(one.address), ip(one.broadcast))
            && one.flags.contains(wanted)
            && !loops
            && broadcast != address
        {
            places.push(Place { interface: one.interface_name, address, broadcast });
        }
    }
    Ok(places)
}

fn broadcast(mac: Mac, place: &Place) -> io::Result<()> {
    let socket = UdpSocket::bind(SocketAddrV4::new(place.address, 0))?;
    socket.set_broadcast(true)?;
    let packet = magic(mac);
    for _ in 0..COPIES {
        socket.send_to(&packet, SocketAddrV4::new(place.broadcast, PORT))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_ones_and_the_address_sixteen_times() {
        let mac: Mac = "02:00:c0:a8:c8:28".parse().unwrap();
        let packet = magic(mac);
        assert_eq!(packet[..6], [0xff; 6]);
        assert!(packet[6..].chunks(6).all(|copy| copy == [2, 0, 0xc0, 0xa8, 0xc8, 0x28]));
        assert_eq!(mac.to_string(), "02:00:c0:a8:c8:28");
    }

    #[test]
    fn a_group_is_nobody_to_wake() {
        for wrong in ["", "ff:ff:ff:ff:ff:ff", "02:00:c0:a8:c8", "02:00:c0:a8:c8:28:01"] {
            assert!(wrong.parse::<Mac>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_interface_that_is_not_there_is_named() {
        let error = send("02:00:00:00:00:01".parse().unwrap(), Some("wan7")).unwrap_err();
        assert!(error.to_string().ends_with("and called wan7"), "{error}");
    }
}
