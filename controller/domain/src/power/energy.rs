//! What a host used, and for whom.

use std::time::Duration;

use jiff::Timestamp;

use super::since;
use crate::{ids::JobId, site::Price};

/// A longer gap between two readings says nothing about what was used in it.
pub const GAP_MAX: Duration = Duration::from_mins(1);

/// One reading of a host's power.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    /// When.
    pub at: Timestamp,
    /// Watts.
    pub watts: f64,
}

/// What was used between two readings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// By each job, in millijoules.
    pub jobs: Vec<(JobId, u64)>,
    /// By nobody: the host was on and had nothing to do.
    pub idle_millijoules: u64,
}

impl Used {
    /// All of it, in millijoules.
    #[must_use]
    pub fn millijoules(&self) -> u64 {
        self.jobs.iter().map(|(_, used)| used).sum::<u64>() + self.idle_millijoules
    }
}

/// Splits what was used between two readings evenly among the jobs that ran at the
/// second; what cannot be split without rest goes to the first. Nothing is known of a
/// gap that is too long, of a clock that went back, or of a reading that makes no sense.
#[must_use]
pub fn split(before: Option<Reading>, now: Reading, jobs: &[JobId]) -> Used {
    let Some(before) = before.filter(|before| before.at < now.at) else { return Used::default() };
    let span = since(before.at, now.at);
    let watts = f64::midpoint(before.watts, now.watts);
    let sane = watts.is_finite() && (0.0..=100_000.0).contains(&watts);
    if span > GAP_MAX || !sane {
        return Used::default();
    }
    let used = millijoules(watts, span);
    let Some(share) = used.checked_div(jobs.len() as u64) else {
        return Used { jobs: Vec::new(), idle_millijoules: used };
    };
    let rest = used - share * jobs.len() as u64;
    let part = |(index, job): (usize, &JobId)| (*job, share + if index == 0 { rest } else { 0 });
    Used { jobs: jobs.iter().enumerate().map(part).collect(), idle_millijoules: 0 }
}

/// What so much energy costs, in ten-thousandths of the currency unit.
#[must_use]
pub const fn cost(millijoules: u64, price: Price) -> u64 {
    // 1 kWh is 3.6e9 mJ; the product of a year of 1 kW and a price fits.
    (millijoules / 3_600).saturating_mul(price.0 as u64) / 1_000_000
}

/// Watts are bounded by the caller and the span by [`GAP_MAX`], so the product is far below
/// what an integer holds exactly.
fn millijoules(watts: f64, span: Duration) -> u64 {
    let micros = Duration::try_from_secs_f64(watts * span.as_secs_f64()).unwrap_or_default();
    u64::try_from(micros.as_millis()).unwrap_or(u64::MAX)
}
