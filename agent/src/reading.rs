//! A measured value, or the reason why there is none.
//!
//! Nothing in this crate turns "could not be read" into a number: a zero on a dashboard that
//! means "no idea" is how a dead sensor stays dead for a year.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

/// A value, or why it is missing.
pub type Reading<T> = Result<T, Missing>;

/// Why a reading has no value. `Display` is written for the person who looks at the host.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// The kernel or the host does not have this source at all.
    #[error("this host has no {0}")]
    Absent(Arc<str>),
    /// The source is there but refused to be read.
    #[error("{what} cannot be read: {why}")]
    Unreadable {
        /// Which source.
        what: Arc<str>,
        /// What the system said.
        why: io::ErrorKind,
    },
    /// The source was read and does not look as it should.
    #[error("{0} has an unexpected format")]
    Malformed(&'static str),
    /// The source is larger than we are willing to read.
    #[error("{what} is larger than {bytes_max} bytes")]
    TooLarge {
        /// Which source.
        what: Arc<str>,
        /// The bound.
        bytes_max: usize,
    },
    /// A rate needs two samples and there is only one.
    #[error("a rate needs two samples and this is the first")]
    FirstSample,
    /// A counter went backwards: the device was replaced or the counter was reset.
    #[error("the counter was reset since the last sample")]
    CounterReset,
    /// The two samples lie too close together for a rate.
    #[error("no measurable time passed since the last sample")]
    NoTimePassed,
    /// The device gives no value now, for example a link that is down has no speed.
    #[error("the device reports no value")]
    NoValue,
    /// A slow reading was not taken yet since the agent started.
    #[error("not measured yet")]
    NotMeasuredYet,
    /// The probe did not come back; it is not asked again before it does.
    #[error("no answer within {} s; it is left alone until it answers", .after.as_secs_f64())]
    Hung {
        /// How long we waited.
        after: Duration,
    },
    /// Too many other probes hang, so this one was not started.
    #[error("not probed: {0} other probes hang")]
    ProbesExhausted(usize),
    /// A program that would know could not tell.
    #[error("{program}: {why}")]
    Program {
        /// The program asked.
        program: &'static str,
        /// What it answered, bounded.
        why: Arc<str>,
    },
}

impl Missing {
    /// The reason for an input/output error on `what`.
    #[must_use]
    pub fn from_io(what: &Arc<str>, error: &io::Error) -> Self {
        // ENOTSUP/EOPNOTSUPP is how the kernel answers a read of /proc/pressure/* when it was
        // booted with psi=0, and ENODEV how a removed device answers: both mean "has none".
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::Unsupported => Self::Absent(Arc::clone(what)),
            why => Self::Unreadable { what: Arc::clone(what), why },
        }
    }
}

/// A reading that is taken at its own slow pace, with the time at which it was taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Aged<T> {
    /// The newest reading.
    pub reading: Reading<T>,
    /// When it was taken; `None` until the first attempt ended.
    pub measured_at: Option<Timestamp>,
}

impl<T> Default for Aged<T> {
    fn default() -> Self {
        Self { reading: Err(Missing::NotMeasuredYet), measured_at: None }
    }
}

impl<T> Aged<T> {
    /// A reading taken at `now`.
    #[must_use]
    pub fn new(now: Timestamp, reading: Reading<T>) -> Self {
        Self { reading, measured_at: Some(now) }
    }

    /// How old the reading is at `now`; zero when the clock went backwards.
    #[must_use]
    pub fn age(&self, now: Timestamp) -> Option<Duration> {
        let age = now.duration_since(self.measured_at?);
        Some(Duration::try_from(age).unwrap_or_default())
    }

    /// The value, if it is younger than `age_max` at `now`.
    #[must_use]
    pub fn fresh(&self, now: Timestamp, age_max: Duration) -> Option<&T> {
        let young = self.age(now).is_some_and(|age| age <= age_max);
        self.reading.as_ref().ok().filter(|_| young)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_value_is_not_fresh() {
        let taken = Timestamp::UNIX_EPOCH;
        let aged = Aged::new(taken, Ok(7));
        let later = taken + Duration::from_secs(61);
        assert_eq!(aged.fresh(taken, Duration::from_secs(60)), Some(&7));
        assert_eq!(aged.fresh(later, Duration::from_secs(60)), None);
    }

    #[test]
    fn a_clock_that_went_back_gives_age_zero() {
        let aged = Aged::new(Timestamp::UNIX_EPOCH + Duration::from_secs(60), Ok(7));
        assert_eq!(aged.age(Timestamp::UNIX_EPOCH), Some(Duration::ZERO));
    }

    #[test]
    fn a_kernel_without_psi_is_absent_and_not_an_error() {
        let what = Arc::from("/proc/pressure/cpu");
        let error = io::Error::from_raw_os_error(nix::libc::EOPNOTSUPP);
        assert_eq!(Missing::from_io(&what, &error), Missing::Absent(what));
    }
}
