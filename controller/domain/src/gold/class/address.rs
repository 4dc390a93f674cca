//! Addresses of private networks and of network cards.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::Range,
};

use super::{before, runs};
use crate::site::Cidr;

/// Ends of groups that an address may reach to: eight groups, with `::` counted apart.
const GROUP_ENDS_MAX: usize = 10;

/// Addresses that the site itself uses, private or not.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) networks: Vec<Cidr>,
}

impl Known {
    pub(super) fn find(&self, text: &str, found: &mut impl FnMut(Range<usize>)) {
        for run in runs(text, |byte| byte.is_ascii_digit() || byte == b'.') {
            self.v4_within(text, run, found);
        }
        for run in runs(text, |byte| byte.is_ascii_hexdigit() || b":.".contains(&byte)) {
            self.v6_within(text, run, found);
        }
        for separator in [b':', b'-', b'.'] {
            let fits = move |byte: u8| byte.is_ascii_hexdigit() || byte == separator;
            for run in runs(text, fits) {
                let part = text.get(run.clone()).unwrap_or_default();
                let ends = [char::from(separator)];
                let inner = part.trim_matches(ends);
                if is_card(inner, char::from(separator)) {
                    let start = run.start + part.len() - part.trim_start_matches(ends).len();
                    found(start..start + inner.len());
                }
            }
        }
    }

    /// Any four numbers in a row, so that nothing is hidden by a fifth.
    fn v4_within(&self, text: &str, run: Range<usize>, found: &mut impl FnMut(Range<usize>)) {
        let mut numbers: Vec<(Range<usize>, Option<u8>)> = Vec::new();
        let mut start = run.start;
        for part in text.get(run).unwrap_or_default().split('.') {
            let digits = part.trim_start_matches('0');
            let number = match (part.is_empty(), digits.is_empty()) {
                (true, _) => None,
                (false, true) => Some(0),
                (false, false) => digits.parse().ok(),
            };
            numbers.push((start..start + part.len(), number));
            start += part.len() + 1;
        }
        for four in numbers.windows(4) {
            let [(first, Some(a)), (_, Some(b)), (_, Some(c)), (last, Some(d))] = four else {
                continue;
            };
            if self.is_private(Ipv4Addr::new(*a, *b, *c, *d).into()) {
                found(first.start..last.end);
            }
        }
    }

    /// Any groups in a row that make an address, so that neither the colon of a sentence nor a number
    /// before it hides one: `addr:fd00::1`, `12:fd00::1`.
    fn v6_within(&self, text: &str, run: Range<usize>, found: &mut impl FnMut(Range<usize>)) {
        let part = text.get(run.clone()).unwrap_or_default().trim_end_matches('.');
        if part.matches(':').count() < 2 {
            return;
        }
        let colons: Vec<usize> = part.match_indices(':').map(|(index, _)| index).collect();
        // Where a group ends: before a colon, behind two of them, or at the end.
        let doubles = colons.windows(2).filter(|two| two[0] + 1 == two[1]).map(|two| two[1] + 1);
        let mut ends: Vec<usize> =
            colons.iter().copied().chain(doubles).chain([part.len()]).collect();
        ends.sort_unstable();
        // Where one begins: at the start unless that is the rest of a word, at a colon, behind one.
        let is_word = before(text, run.start).is_some_and(char::is_alphanumeric);
        let starts = colons.iter().flat_map(|colon| [*colon, colon + 1]);
        let starts = (!is_word || part.starts_with(':')).then_some(0).into_iter().chain(starts);
        let mut done = 0;
        for start in starts {
            if start < done {
                continue;
            }
            let first = ends.partition_point(|end| *end <= start);
            let last = ends.len().min(first + GROUP_ENDS_MAX);
            let behind = ends.get(first..last).unwrap_or_default();
            let private = behind.iter().rev().copied().find(|end| {
                let inner = part.get(start..*end).unwrap_or_default();
                inner.parse::<Ipv6Addr>().is_ok_and(|address| self.is_private(address.into()))
            });
            if let Some(end) = private {
                found(run.start + start..run.start + end);
                done = end;
            }
        }
    }

    fn is_private(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address) && !address.is_loopback()
            || self.networks.iter().any(|network| network.contains(address))
            || match address {
                IpAddr::V4(v4) => is_private_v4(v4),
                IpAddr::V6(v6) => is_private_v6(v6),
            }
    }
}

/// RFC 1918, link-local (RFC 3927), and the shared space of RFC 6598 that overlay
/// networks give their members.
const fn is_private_v4(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    address.is_private() || address.is_link_local() || (a == 100 && b & 0xc0 == 64)
}

/// Unique local (RFC 4193), link-local, the old site-local, and IPv4 in disguise.
fn is_private_v6(address: Ipv6Addr) -> bool {
    let first = address.segments()[0];
    first & 0xfe00 == 0xfc00
        || first & 0xff80 == 0xfe80
        || address.to_ipv4_mapped().is_some_and(is_private_v4)
}

/// Six pairs of digits, or three groups of four between dots.
fn is_card(text: &str, separator: char) -> bool {
    let (groups, digits) = if separator == '.' { (3, 4) } else { (6, 2) };
    let mut count = 0;
    let all = text.split(separator).all(|group| {
        count += 1;
        group.len() == digits
    });
    all && count == groups && (separator != '.' || text.contains(|c: char| c.is_ascii_alphabetic()))
}
