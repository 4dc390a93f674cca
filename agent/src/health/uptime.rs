//! How long the host is up, which boot it is, and how loaded it is.

use std::time::Duration;

use crate::health::text::{decimal, number, words};
use crate::reading::{Missing, Reading};

/// Load averages and tasks, as `/proc/loadavg` has them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// Over one minute.
    pub one: f64,
    /// Over five minutes.
    pub five: f64,
    /// Over fifteen minutes.
    pub fifteen: f64,
    /// Threads on the host.
    pub threads: Option<u64>,
}

/// Reads `/proc/loadavg`.
///
/// # Errors
/// [`Missing::Malformed`] unless it begins with three fractions.
pub(super) fn parse_load(text: &[u8]) -> Reading<Load> {
    let mut words = words(text);
    let mut average = || words.next().and_then(decimal);
    let averages = average().zip(average()).zip(average());
    let ((one, five), fifteen) = averages.ok_or(Missing::Malformed("/proc/loadavg"))?;
    let threads = words.next().and_then(|tasks| number(tasks.rsplit(|&b| b == b'/').next()?));
    Ok(Load { one, five, fifteen, threads })
}

/// Reads `/proc/uptime`: time since boot, time asleep included.
///
/// # Errors
/// [`Missing::Malformed`] unless it begins with a number of seconds.
pub(super) fn parse_uptime(text: &[u8]) -> Reading<Duration> {
    let seconds = words(text).next().and_then(decimal);
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or(Missing::Malformed("/proc/uptime"))
}

/// Reads `/proc/sys/kernel/random/boot_id`: new with each boot, so that two samples can be told
/// to be of the same one.
///
/// # Errors
/// [`Missing::Malformed`] unless it is a UUID.
pub(super) fn parse_boot_id(text: &[u8]) -> Reading<String> {
    let id = text.trim_ascii();
    let is_uuid = id.len() == 36 && id.iter().all(|b| b.is_ascii_hexdigit() || *b == b'-');
    if !is_uuid {
        return Err(Missing::Malformed("/proc/sys/kernel/random/boot_id"));
    }
    Ok(String::from_utf8_lossy(id).into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn load_and_threads_are_read() {
        let load = parse_load(b"0.50 1.25 2.75 3/456 789\n").unwrap();
        assert_eq!((load.one, load.five, load.fifteen), (0.5, 1.25, 2.75));
        assert_eq!(load.threads, Some(456));
    }

    #[test]
    fn uptime_is_read() {
        assert_eq!(parse_uptime(b"61.50 100.00\n"), Ok(Duration::from_millis(61_500)));
        assert!(parse_uptime(b"-1.0 3\n").is_err());
        assert!(parse_uptime(b"99999999999999999999999 3\n").is_err());
    }

    #[test]
    fn a_boot_id_is_a_uuid_or_missing() {
        let id = b"0b9bd9bb-7cd1-4d34-8b9f-92e9b1bb4b4c\n";
        assert_eq!(parse_boot_id(id).unwrap().len(), 36);
        assert!(parse_boot_id(b"").is_err());
        assert!(parse_boot_id(b"<script>alert(1)</script>           ").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(text: Vec<u8>) {
            let _survived = (parse_load(&text), parse_uptime(&text), parse_boot_id(&text));
        }
    }
}
