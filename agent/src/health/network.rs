//! Network interfaces: what they moved since the sample before, and the state of their links.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::health::source::{Names, read_small};
use crate::health::text::{label, lines, next_number, words};
use crate::reading::{Missing, Reading};

/// A Proxmox host has up to five interfaces for each guest; what passes this is left out.
const INTERFACES_MAX: usize = 4096;

/// Totals of one interface since it was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceCounters {
    /// Received.
    pub received: Traffic,
    /// Sent.
    pub sent: Traffic,
}

/// Totals of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets that were broken.
    pub errors: u64,
    /// Packets that nobody could take.
    pub drops: u64,
}

/// One interface.
#[derive(Clone, Debug, PartialEq)]
pub struct Interface {
    /// Kernel name, for example `vmbr0`.
    pub name: Arc<str>,
    /// Totals since it was created.
    pub counters: InterfaceCounters,
    /// Rates since the sample before.
    pub rates: Reading<InterfaceRates>,
}

/// Rates of both directions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InterfaceRates {
    /// Received.
    pub received: TrafficRates,
    /// Sent.
    pub sent: TrafficRates,
}

/// Rates of one direction, each per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TrafficRates {
    /// Bytes.
    pub bytes: f64,
    /// Packets.
    pub packets: f64,
    /// Packets that were broken.
    pub errors: f64,
    /// Packets that nobody could take.
    pub drops: f64,
}

/// State of one link, which changes seldom and is dear to ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// `up`, `down`, `lowerlayerdown`, `dormant`, `testing`, `notpresent` or `unknown`: the words
    /// of RFC 2863 as the kernel writes them. Loopback and many tunnels say `unknown` while they
    /// work.
    pub state: Reading<String>,
    /// Speed in bits per second; missing while the link is down and for virtual interfaces.
    pub speed_bits_per_second: Reading<u64>,
}

/// Links by interface name.
pub type Links = HashMap<String, Link>;

/// Reads `/proc/net/dev`: two lines of heading, then `name: ` and sixteen columns.
pub(crate) fn parse(text: &[u8], names: &mut Names) -> Vec<(Arc<str>, InterfaceCounters)> {
    let mut interfaces = Vec::with_capacity(16);
    for line in lines(text) {
        // Old kernels leave no space behind the colon, and names may not contain one.
        let Some(colon) = line.iter().position(|&byte| byte == b':') else { continue };
        let (name, columns) = line.split_at(colon);
        let Ok(name) = std::str::from_utf8(name.trim_ascii()) else { continue };
        if interfaces.len() >= INTERFACES_MAX {
            break;
        }
        if let Some(counters) = counters(words(columns.get(1..).unwrap_or_default())) {
            interfaces.push((names.shared(name), counters));
        }
    }
    interfaces
}

fn counters<'a>(mut words: impl Iterator<Item = &'a [u8]>) -> Option<InterfaceCounters> {
    let received = traffic(&mut words)?;
    // fifo, frame, compressed, multicast
    let sent = traffic(&mut words.by_ref().skip(4))?;
    Some(InterfaceCounters { received, sent })
}

fn traffic<'a>(words: &mut impl Iterator<Item = &'a [u8]>) -> Option<Traffic> {
    Some(Traffic {
        bytes: next_number(words)?,
        packets: next_number(words)?,
        errors: next_number(words)?,
        drops: next_number(words)?,
    })
}

/// Rates between two samples that lie `elapsed` apart.
///
/// # Errors
/// [`Missing::CounterReset`] when a total went backwards, [`Missing::NoTimePassed`].
pub(super) fn rates(
    before: &InterfaceCounters,
    after: &InterfaceCounters,
    elapsed: Duration,
) -> Reading<InterfaceRates> {
    let seconds = elapsed.as_secs_f64();
    if seconds <= 0.0 {
        return Err(Missing::NoTimePassed);
    }
    let per_second = |before: u64, after: u64| {
        let delta = after.checked_sub(before).ok_or(Missing::CounterReset)?;
        Ok(delta as f64 / seconds)
    };
    let direction = |before: &Traffic, after: &Traffic| {
        Ok(TrafficRates {
            bytes: per_second(before.bytes, after.bytes)?,
            packets: per_second(before.packets, after.packets)?,
            errors: per_second(before.errors, after.errors)?,
            drops: per_second(before.drops, after.drops)?,
        })
    };
    Ok(InterfaceRates {
        received: direction(&before.received, &after.received)?,
        sent: direction(&before.sent, &after.sent)?,
    })
}

/// The state of every link below `/sys/class/net`. Reading a speed may take the kernel's network
/// lock and ask the hardware, so this blocks and belongs on the slow path.
///
/// # Errors
/// [`Missing::Absent`] or [`Missing::Unreadable`] when the folder cannot be listed.
pub(super) fn read_links(sys: &Path) -> Reading<Links> {
    let folder = sys.join("class/net");
    let listed = std::fs::read_dir(&folder);
    let what = || Arc::from(folder.to_string_lossy());
    let entries = listed.map_err(|error| Missing::from_io(&what(), &error))?;
    let mut links = Links::new();
    for entry in entries.flatten().take(INTERFACES_MAX) {
        let name = entry.file_name().to_string_lossy().into_owned();
        links.insert(name, read_link(&entry.path()));
    }
    Ok(links)
}

fn read_link(interface: &Path) -> Link {
    // The kernel answers EINVAL where it has no speed, and -1 where the link is down.
    let speed = match read_small(&interface.join("speed")) {
        Ok(megabits) => megabits.parse::<u64>().ok(),
        Err(_) => None,
    };
    let state = read_small(&interface.join("operstate"));
    Link {
        state: state.map(|state| label(state.as_bytes(), 32)),
        speed_bits_per_second: speed
            .and_then(|megabits| megabits.checked_mul(1_000_000))
            .ok_or(Missing::NoValue),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::fs;

    use proptest::prelude::*;

    use super::*;

    const DEV: &[u8] = b"Inter-|   Receive                            |  Transmit\n \
        face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n\
            lo:  100     10    0    0    0     0          0         0   100     10    0    0    0     0       0          0\n\
          eno1:5000     50    1    2    0     0          0         9   7000     70    3    4    0     0       0          0\n";

    fn parsed(text: &[u8]) -> Vec<(Arc<str>, InterfaceCounters)> {
        parse(text, &mut Names::default())
    }

    #[test]
    fn both_directions_are_read_even_without_a_space_behind_the_colon() {
        let interfaces = parsed(DEV);
        assert_eq!(interfaces.len(), 2);
        let (name, eno1) = &interfaces[1];
        assert_eq!(name.as_ref(), "eno1");
        assert_eq!(eno1.received, Traffic { bytes: 5000, packets: 50, errors: 1, drops: 2 });
        assert_eq!(eno1.sent, Traffic { bytes: 7000, packets: 70, errors: 3, drops: 4 });
    }

    #[test]
    fn rates_follow_the_difference() {
        let before = parsed(DEV)[1].1;
        let mut after = before;
        after.received.bytes += 1000;
        after.sent.drops += 4;
        let rates = rates(&before, &after, Duration::from_secs(2)).unwrap();
        assert_eq!(rates.received.bytes, 500.0);
        assert_eq!(rates.sent.drops, 2.0);
    }

    #[test]
    fn an_interface_that_was_made_anew_has_no_rate() {
        let before = parsed(DEV)[1].1;
        let reset = rates(&before, &InterfaceCounters::default(), Duration::from_secs(1));
        assert_eq!(reset, Err(Missing::CounterReset));
    }

    #[test]
    fn the_number_of_interfaces_is_bounded() {
        let mut text = String::new();
        for n in 0..INTERFACES_MAX + 10 {
            writeln!(text, "veth{n}: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0").unwrap();
        }
        assert_eq!(parsed(text.as_bytes()).len(), INTERFACES_MAX);
    }

    #[test]
    fn a_link_that_is_down_has_a_state_and_no_speed() {
        let sys = tempfile::tempdir().unwrap();
        for (name, state, speed) in [("eno1", "up", "2500"), ("eno2", "down", "-1")] {
            let folder = sys.path().join("class/net").join(name);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("operstate"), format!("{state}\n")).unwrap();
            fs::write(folder.join("speed"), format!("{speed}\n")).unwrap();
        }
        let links = read_links(sys.path()).unwrap();
        assert_eq!(links["eno1"].speed_bits_per_second, Ok(2_500_000_000));
        assert_eq!(links["eno2"].state.as_deref(), Ok("down"));
        assert_eq!(links["eno2"].speed_bits_per_second, Err(Missing::NoValue));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(text: Vec<u8>) {
            parsed(&text);
        }

        #[test]
        fn any_cut_is_survived(end in 0..DEV.len()) {
            parsed(&DEV[..end]);
        }
    }
}
