//! Networks of a site.

use std::{fmt, net::IpAddr, str::FromStr};

use crate::ids::NetworkName;

/// A range of addresses, such as `192.168.200.0/24`, without host bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// The text is no address range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no address range: {rule}")]
pub struct InvalidCidr {
    /// What was given.
    pub text: String,
    /// What is wrong with it, for people.
    pub rule: &'static str,
}

impl Cidr {
    /// First address of the range.
    #[must_use]
    pub const fn address(&self) -> IpAddr {
        self.address
    }

    /// Length of the prefix in bits.
    #[must_use]
    pub const fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether an address lies in the range.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4()
            && masked(address, self.prefix) == Some(self.address)
    }

    /// Whether two ranges have an address in common.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }
}

impl FromStr for Cidr {
    type Err = InvalidCidr;

    fn from_str(text: &str) -> Result<Self, InvalidCidr> {
        let refused = |rule| InvalidCidr { text: text.chars().take(80).collect(), rule };
        let (address, prefix) =
            text.split_once('/').ok_or_else(|| refused("a prefix such as /24 is missing"))?;
        let address: IpAddr =
            address.parse().map_err(|_| refused("the part before / is no IP address"))?;
        let prefix: u8 = prefix.parse().map_err(|_| refused("the prefix is no number"))?;
        match masked(address, prefix) {
            None => Err(refused("the prefix is longer than the address")),
            Some(first) if first != address => {
                Err(refused("bits after the prefix are set; name the first address of the range"))
            }
            Some(_) => Ok(Self { address, prefix }),
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cidr({self})")
    }
}

/// The address with all bits after the prefix cleared; none when the prefix is
/// longer than the address.
fn masked(address: IpAddr, prefix: u8) -> Option<IpAddr> {
    let shift = |bits: u32| bits.checked_sub(u32::from(prefix));
    Some(match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(shift(32)?).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(shift(128)?).unwrap_or(0);
            IpAddr::V6((v6.to_bits() & mask).into())
        }
    })
}

/// The hardware address of a network card.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MacAddress([u8; 6]);

/// The text is no hardware address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no unicast hardware address such as 00:1b:21:3c:4d:5e")]
pub struct InvalidMac(String);

impl MacAddress {
    /// The six bytes.
    #[must_use]
    pub const fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl FromStr for MacAddress {
    type Err = InvalidMac;

    fn from_str(text: &str) -> Result<Self, InvalidMac> {
        let refused = || InvalidMac(text.chars().take(80).collect());
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(refused)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| refused())?;
        }
        // The lowest bit of the first byte marks groups (IEEE 802), which no card has.
        let one_card = bytes[0] & 1 == 0 && bytes != [0; 6];
        if parts.next().is_some() || !one_card {
            return Err(refused());
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MacAddress({self})")
    }
}

/// One segment of the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSegment {
    /// Name.
    pub name: NetworkName,
    /// VLAN tag; none for untagged.
    pub vlan: Option<u16>,
    /// Addresses.
    pub cidr: Cidr,
}

/// Whether something may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentVerdict {
    /// It must pass.
    Allow,
    /// It must not.
    Deny,
}

/// What may or may not pass from one segment to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentRule {
    /// From here.
    pub from: NetworkName,
    /// To there.
    pub to: NetworkName,
    /// TCP ports; empty means all.
    pub ports: Vec<u16>,
    /// May it pass.
    pub verdict: SegmentVerdict,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_knows_its_addresses() {
        let range: Cidr = "192.168.200.0/24".parse().unwrap();
        assert!(range.contains("192.168.200.40".parse().unwrap()));
        assert!(!range.contains("192.168.201.40".parse().unwrap()));
        assert!(!range.contains("::1".parse().unwrap()));
        assert!(range.overlaps(&"192.168.0.0/16".parse().unwrap()));
        let all: Cidr = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("8.8.8.8".parse().unwrap()));
    }

    #[test]
    fn a_range_with_host_bits_is_refused() {
        let error = "192.168.200.1/24".parse::<Cidr>().unwrap_err();
        assert!(error.to_string().contains("first address"), "{error}");
        assert!("192.168.200.0/33".parse::<Cidr>().is_err());
        assert!("192.168.200.0".parse::<Cidr>().is_err());
    }

    #[test]
    fn only_the_address_of_one_card_can_be_woken() {
        let mac: MacAddress = "00-1B-21-3c-4d-5e".parse().unwrap();
        assert_eq!(mac.to_string(), "00:1b:21:3c:4d:5e");
        for wrong in
            ["", "00:1b:21:3c:4d", "00:1b:21:3c:4d:5e:6f", "ff:ff:ff:ff:ff:ff", "0:1b:21:3c:4d:5e0"]
        {
            assert!(wrong.parse::<MacAddress>().is_err(), "{wrong}");
        }
    }
}
