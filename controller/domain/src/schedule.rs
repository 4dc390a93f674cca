//! When something is due: a cron expression read in a time zone.

mod due;
mod punctual;

use std::{fmt, str::FromStr, time::Duration};

use croner::{
    Cron, JobType,
    parser::{CronParser, Seconds, Year},
};
use jiff::{
    SignedDuration, Timestamp, Zoned,
    tz::{Offset, TimeZone},
};

pub use due::{Due, History, Hold, Missed, Policy};
pub use punctual::{Punctuality, Served};

/// An IANA time zone, such as `Europe/Amsterdam`. The zones are compiled in,
/// so that a host without a zone database reads the same times.
#[derive(Clone, PartialEq, Eq)]
pub struct Zone(TimeZone);

/// The text is no time zone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no IANA time zone such as Europe/Amsterdam")]
pub struct InvalidZone(String);

impl Zone {
    /// Coordinated universal time.
    pub const UTC: Self = Self(TimeZone::UTC);

    /// Looks a zone up by its IANA name; case does not matter.
    pub fn try_new(name: &str) -> Result<Self, InvalidZone> {
        let refused = || InvalidZone(name.chars().take(80).collect());
        let zone = TimeZone::get(name).map_err(|_| refused())?;
        if zone.iana_name().is_none() {
            return Err(refused());
        }
        Ok(Self(zone))
    }

    /// The IANA name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.iana_name().unwrap_or("UTC")
    }

    /// The local reading of an instant, for people.
    #[must_use]
    pub fn local(&self, at: Timestamp) -> Zoned {
        at.to_zoned(self.0.clone())
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Zone({})", self.name())
    }
}

impl FromStr for Zone {
    type Err = InvalidZone;

    fn from_str(name: &str) -> Result<Self, InvalidZone> {
        Self::try_new(name)
    }
}

/// A cron expression (minute, hour, day of month, month, day of week) read in a
/// time zone.
///
/// On the night when clocks go forward, a time that does not exist fires once
/// at the end of the gap. On the night when they go back, a fixed time that
/// exists twice fires at the first of both; `*` and steps in minute or hour
/// fire in both, since real time passes.
#[derive(Clone, PartialEq)]
pub struct Schedule {
    cron: Cron,
    zone: Zone,
}

/// The text is no cron expression, or one that never comes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{cron}` is no schedule: {why}; five fields are wanted: minute hour day month weekday")]
pub struct InvalidSchedule {
    /// What was given.
    pub cron: String,
    /// What is wrong with it, for people.
    pub why: String,
}

impl Schedule {
    /// Reads a cron expression; refuses those that never come, such as 30 February.
    pub fn try_new(cron: &str, zone: Zone) -> Result<Self, InvalidSchedule> {
        let refused = |why: String| InvalidSchedule { cron: cron.chars().take(80).collect(), why };
        let parsed = CronParser::builder()
            .seconds(Seconds::Disallowed)
            .year(Year::Disallowed)
            .build()
            .parse(cron)
            .map_err(|error| refused(error.to_string()))?;
        let schedule = Self { cron: parsed, zone };
        match schedule.next_after(Timestamp::UNIX_EPOCH) {
            Some(_) => Ok(schedule),
            None => Err(refused("it never comes".to_owned())),
        }
    }

    /// The expression as it was written.
    #[must_use]
    pub fn cron(&self) -> &str {
        self.cron.as_str()
    }

    /// The zone that it is read in.
    #[must_use]
    pub const fn zone(&self) -> &Zone {
        &self.zone
    }

    /// The first time strictly after `after`; none when there is none within the
    /// reach of the calendar.
    #[must_use]
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let start = self.zone.local(after);
        let next = self.cron.find_next_occurrence(&start, false).ok()?.timestamp();
        Some(self.end_of_silent_gap(after, next).unwrap_or(next))
    }

    /// The newest time in `(after, until]`; none when there is none.
    #[must_use]
    pub fn newest_in(&self, after: Timestamp, until: Timestamp) -> Option<Timestamp> {
        self.passed(after, until).map(|passed| passed.newest)
    }

    /// The longest time between two firings within the next `sample` of them;
    /// what a target for the age of a backup must not be shorter than.
    #[must_use]
    pub fn longest_gap(&self, from: Timestamp, sample: usize) -> Duration {
        let mut longest = SignedDuration::ZERO;
        let Some(mut last) = self.next_after(from) else { return Duration::MAX };
        for _ in 0..sample {
            let Some(next) = self.next_after(last) else { break };
            longest = longest.max(next.duration_since(last));
            last = next;
        }
        longest.unsigned_abs()
    }

    /// An expression with `*` or steps, such as `*/30 2 * * *`, may lie whole in
    /// the hour that a spring night leaves out, and would then miss the day
    /// without a word. It fires once at the end of the gap instead, unless its
    /// own next time comes within the length of the gap anyway.
    fn end_of_silent_gap(&self, after: Timestamp, next: Timestamp) -> Option<Timestamp> {
        if self.cron.determine_job_type() == JobType::FixedTime {
            return None;
        }
        let zone = &self.zone.0;
        for shift in zone.following(after).take_while(|shift| shift.timestamp() < next) {
            let end = shift.timestamp();
            let before = zone.to_offset(end.checked_sub(SignedDuration::from_secs(1)).ok()?);
            let length = SignedDuration::from_secs(
                i64::from(shift.offset().seconds()) - i64::from(before.seconds()),
            );
            if length.is_positive()
                && next.duration_since(end) > length
                && self.names_a_time_between(before, end, length)
            {
                return Some(end);
            }
        }
        None
    }

    /// Whether the expression names a civil minute of the gap, which is the time
    /// from `end` on as it would have been read without the shift.
    fn names_a_time_between(&self, before: Offset, end: Timestamp, gap: SignedDuration) -> bool {
        let civil = before.to_datetime(end);
        (0..gap.as_mins()).any(|minute| {
            civil
                .checked_add(SignedDuration::from_mins(minute))
                .is_ok_and(|at| self.cron.is_time_matching(&at).unwrap_or(false))
        })
    }
}

impl Eq for Schedule {}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.cron(), self.zone)
    }
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schedule({self})")
    }
}

#[cfg(test)]
mod tests;
