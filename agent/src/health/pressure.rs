//! Pressure stall information: for how much of the time tasks waited for a resource.

use crate::health::text::{decimal, lines, number, words};
use crate::reading::{Missing, Reading};

/// Pressure on the three resources that the kernel accounts.
#[derive(Clone, Debug, PartialEq)]
pub struct Pressure {
    /// Waiting for a processor.
    pub cpu: Reading<Stall>,
    /// Waiting for memory to be reclaimed or read back.
    pub memory: Reading<Stall>,
    /// Waiting for a device.
    pub io: Reading<Stall>,
}

/// Pressure on one resource.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stall {
    /// At least one task waited.
    pub some: StallLine,
    /// All tasks that were not idle waited; kernels before 5.13 do not have it for processors.
    pub full: Option<StallLine>,
}

/// Averages over three windows, as percentages, and the time since boot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StallLine {
    /// Over 10 s, 0 to 100.
    pub average_10s_percent: f64,
    /// Over 60 s, 0 to 100.
    pub average_60s_percent: f64,
    /// Over 300 s, 0 to 100.
    pub average_300s_percent: f64,
    /// Time waited since boot, in microseconds.
    pub total_micros: u64,
}

/// Reads one of `/proc/pressure/{cpu,memory,io}`.
///
/// # Errors
/// [`Missing::Malformed`] without a well-formed line `some`.
pub(super) fn parse(text: &[u8]) -> Reading<Stall> {
    let (mut some, mut full) = (None, None);
    for line in lines(text) {
        let mut words = words(line);
        match words.next() {
            Some(b"some") => some = stall_line(words),
            Some(b"full") => full = stall_line(words),
            _ => {}
        }
    }
    let some = some.ok_or(Missing::Malformed("/proc/pressure"))?;
    Ok(Stall { some, full })
}

fn stall_line<'a>(words: impl Iterator<Item = &'a [u8]>) -> Option<StallLine> {
    let (mut a10, mut a60, mut a300, mut total) = (None, None, None, None);
    for word in words {
        if let Some(value) = word.strip_prefix(b"avg10=") {
            a10 = decimal(value);
        } else if let Some(value) = word.strip_prefix(b"avg60=") {
            a60 = decimal(value);
        } else if let Some(value) = word.strip_prefix(b"avg300=") {
            a300 = decimal(value);
        } else if let Some(value) = word.strip_prefix(b"total=") {
            total = number(value);
        }
    }
    Some(StallLine {
        average_10s_percent: a10?,
        average_60s_percent: a60?,
        average_300s_percent: a300?,
        total_micros: total?,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const IO: &[u8] = b"some avg10=1.25 avg60=2.50 avg300=3.75 total=4000\n\
        full avg10=0.50 avg60=0.60 avg300=0.70 total=3000\n";

    #[test]
    fn both_lines_are_read() {
        let stall = parse(IO).unwrap();
        assert_eq!(stall.some.average_60s_percent, 2.5);
        assert_eq!(stall.some.total_micros, 4000);
        assert_eq!(stall.full.unwrap().average_300s_percent, 0.7);
    }

    #[test]
    fn an_old_kernel_has_no_full_line_for_processors() {
        let stall = parse(b"some avg10=0.00 avg60=0.00 avg300=0.00 total=1\n").unwrap();
        assert_eq!(stall.full, None);
    }

    #[test]
    fn a_line_that_lacks_a_field_is_missing_and_not_zero() {
        assert!(parse(b"some avg10=0.00 avg60=0.00 total=1\n").is_err());
        assert!(parse(b"").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(text: Vec<u8>) {
            let _survived = parse(&text);
        }

        #[test]
        fn any_cut_is_survived(end in 0..IO.len()) {
            let _survived = parse(&IO[..end]);
        }
    }
}
