//! Between the protocol and what the agent works with. Wire types stop here.

mod check;
mod health;
mod host;

use std::time::Duration;

use homelab_proto::common::v1::MissingReading;

use crate::reading::{Missing, Reading};

pub use check::InvalidChecks;
pub(crate) use check::{checks, interval, result, summary};
pub(crate) use health::health;
pub(crate) use host::host;

/// What is listed of what is missing; a host on which more is missing is told so by these.
const MISSING_MAX: usize = 64;

/// Gathers what is missing while readings are taken apart.
#[derive(Debug, Default)]
struct Gaps(Vec<MissingReading>);

impl Gaps {
    /// The value; when there is none, its reason is noted under the path `field`.
    ///
    /// That a first sample has no rates is said once, by the field `over`.
    fn note<T>(&mut self, field: impl Into<String>, reading: Reading<T>) -> Option<T> {
        match reading {
            Ok(value) => Some(value),
            Err(Missing::FirstSample) => None,
            Err(missing) => {
                if self.0.len() < MISSING_MAX {
                    self.0
                        .push(MissingReading { field: field.into(), reason: missing.to_string() });
                }
                None
            }
        }
    }
}

/// As in the protocol; a span that it cannot hold becomes the longest that it can.
fn span(span: Duration) -> prost_types::Duration {
    const LONGEST: prost_types::Duration =
        prost_types::Duration { seconds: 315_576_000_000, nanos: 999_999_999 };
    span.try_into().unwrap_or(LONGEST)
}
