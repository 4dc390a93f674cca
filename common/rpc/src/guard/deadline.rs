//! How long a call may last.

use std::time::Duration;

use http::HeaderMap;
use tonic::{Code, Status};

use super::UNARY_MAX;
use crate::status::{Failure, Reason};

/// What the caller asks for. A header that cannot be read asks for nothing.
pub(super) fn asked(headers: &HeaderMap) -> Option<Duration> {
    parse(headers.get("grpc-timeout")?.to_str().ok()?)
}

/// What the call gets: unary calls never more than [`UNARY_MAX`], streams what they ask for.
pub(super) fn allowed(asked: Option<Duration>, streams: bool) -> Option<Duration> {
    if streams { asked } else { Some(asked.map_or(UNARY_MAX, |asked| asked.min(UNARY_MAX))) }
}

pub(super) fn passed(path: &str, allowed: Duration) -> Status {
    let message = format!(
        "`{path}` was not done within {} ms; whether it had an effect is unknown",
        allowed.as_millis()
    );
    Failure::new(Code::DeadlineExceeded, Reason::DEADLINE_PASSED, message)
        .with("allowed_ms", allowed.as_millis().to_string())
        .into()
}

/// One to eight digits and a unit (gRPC over HTTP/2, "Timeout").
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3_600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_in_every_unit() {
        let read = |text| parse(text).map(|span| span.as_nanos());
        assert_eq!(read("1H"), Some(3_600_000_000_000));
        assert_eq!(read("2M"), Some(120_000_000_000));
        assert_eq!(read("3S"), Some(3_000_000_000));
        assert_eq!(read("4m"), Some(4_000_000));
        assert_eq!(read("5u"), Some(5_000));
        assert_eq!(read("6n"), Some(6));
        assert_eq!(read("99999999H"), Some(99_999_999 * 3_600 * 1_000_000_000));
    }

    #[test]
    fn what_is_no_timeout_asks_for_nothing() {
        for text in ["", "S", "1", "1s", "-1S", "123456789S", "1.5S", "+1S", "é"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_unary_call_gets_at_most_a_minute() {
        let (short, long) = (Duration::from_secs(5), Duration::from_secs(3_600));
        assert_eq!(allowed(None, false), Some(UNARY_MAX));
        assert_eq!(allowed(Some(short), false), Some(short));
        assert_eq!(allowed(Some(long), false), Some(UNARY_MAX));
    }

    #[test]
    fn a_stream_lasts_as_long_as_it_asks_for() {
        let long = Duration::from_secs(3_600);
        assert_eq!(allowed(None, true), None);
        assert_eq!(allowed(Some(long), true), Some(long));
    }
}
