//! Parsers of single values: each gives the value, or says what is allowed.

use std::{
    fmt::Display,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use super::{Allowed, Value};
use crate::secret;

/// Text that is not empty.
///
/// # Errors
///
/// It is no text, or empty.
pub fn string(value: &Value<'_>) -> Result<String, Allowed> {
    match value.as_str() {
        Some(text) if !text.trim().is_empty() => Ok(text.into()),
        _ => Err(Allowed::new("text in quotes")),
    }
}

/// `true` or `false`.
///
/// # Errors
///
/// It is neither.
pub fn bool(value: &Value<'_>) -> Result<bool, Allowed> {
    value.as_bool().ok_or_else(|| Allowed::new("true or false, without quotes"))
}

/// A whole number within `range`.
pub fn integer<T>(range: RangeInclusive<T>) -> impl Fn(&Value<'_>) -> Result<T, Allowed>
where
    T: TryFrom<i64> + PartialOrd + Display + Copy,
{
    move |value| {
        value
            .as_integer()
            .and_then(|number| T::try_from(number).ok())
            .filter(|number| range.contains(number))
            .ok_or_else(|| {
                Allowed::new(format!("a whole number from {} to {}", range.start(), range.end()))
            })
    }
}

/// A number within `range`; integers count.
pub fn float(range: RangeInclusive<f64>) -> impl Fn(&Value<'_>) -> Result<f64, Allowed> {
    move |value| {
        value.as_float().filter(|number| range.contains(number)).ok_or_else(|| {
            Allowed::new(format!("a number from {} to {}", range.start(), range.end()))
        })
    }
}

/// A span of time: `250ms`, `30s`, `5m`, `1h30m`, `7d`, `2w`.
///
/// # Errors
///
/// It is no such text.
pub fn duration(value: &Value<'_>) -> Result<Duration, Allowed> {
    value
        .as_str()
        .and_then(parse_duration)
        .ok_or_else(|| Allowed::new("a span of time such as \"30s\", \"5m\", \"1h30m\" or \"7d\""))
}

/// A [`duration`] within `range`.
pub fn duration_in(
    range: RangeInclusive<Duration>,
) -> impl Fn(&Value<'_>) -> Result<Duration, Allowed> {
    move |value| {
        let span = duration(value)?;
        if range.contains(&span) {
            return Ok(span);
        }
        let (shortest, longest) = (show_duration(*range.start()), show_duration(*range.end()));
        Err(Allowed::new(format!("a span of time from {shortest} to {longest}")))
    }
}

/// A size in bytes: `512 B`, `32 KiB`, `4MiB`, `1 GB`, `2 TiB`.
///
/// # Errors
///
/// It is no such text.
pub fn bytes(value: &Value<'_>) -> Result<u64, Allowed> {
    value
        .as_str()
        .and_then(parse_bytes)
        .ok_or_else(|| Allowed::new("a size such as \"512 B\", \"32 KiB\", \"4 MiB\" or \"1 GB\""))
}

/// A size ([`bytes()`]) within `range`.
pub fn bytes_in(range: RangeInclusive<u64>) -> impl Fn(&Value<'_>) -> Result<u64, Allowed> {
    move |value| {
        let size = bytes(value)?;
        if range.contains(&size) {
            return Ok(size);
        }
        let (least, most) = (show_bytes(*range.start()), show_bytes(*range.end()));
        Err(Allowed::new(format!("a size from {least} to {most}")))
    }
}

/// An address with a port, not a name: `127.0.0.1:7450`, `[::1]:7450`.
///
/// # Errors
///
/// It is no such text.
pub fn socket_addr(value: &Value<'_>) -> Result<SocketAddr, Allowed> {
    from_str("an address with a port, such as \"127.0.0.1:7450\" or \"[::1]:7450\"")(value)
}

/// An IPv4 or IPv6 address.
///
/// # Errors
///
/// It is no such text.
pub fn ip_addr(value: &Value<'_>) -> Result<IpAddr, Allowed> {
    from_str("an IP address, such as \"192.0.2.7\"")(value)
}

/// An absolute path.
///
/// # Errors
///
/// It is no such text.
pub fn path(value: &Value<'_>) -> Result<PathBuf, Allowed> {
    value
        .as_str()
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .ok_or_else(|| Allowed::new("a path that begins with `/`"))
}

/// Where a secret comes from, see [`secret::Source`].
///
/// # Errors
///
/// It is neither an absolute path nor `credential:NAME`.
pub fn secret_source(value: &Value<'_>) -> Result<secret::Source, Allowed> {
    let text = value.as_str().unwrap_or_default();
    text.parse().map_err(|error: secret::InvalidSource| {
        Allowed::new(error.to_string()).hiding_what_was_seen()
    })
}

/// One of some words, each with what it means.
pub fn word<T: Clone>(words: &[(&str, T)]) -> impl Fn(&Value<'_>) -> Result<T, Allowed> {
    move |value| {
        words
            .iter()
            .find(|(word, _)| value.as_str() == Some(*word))
            .map(|(_, meaning)| meaning.clone())
            .ok_or_else(|| Allowed::one_of(words.iter().map(|(word, _)| *word)))
    }
}

/// Text that a type parses by itself; `what` says what is allowed.
pub fn from_str<T: FromStr>(what: &str) -> impl Fn(&Value<'_>) -> Result<T, Allowed> {
    move |value| value.as_str().and_then(|text| text.parse().ok()).ok_or_else(|| Allowed::new(what))
}

/// Text that `parse` checks; the error's text says what is allowed.
pub fn text<T, E: Display>(
    parse: impl Fn(&str) -> Result<T, E>,
) -> impl Fn(&Value<'_>) -> Result<T, Allowed> {
    move |value| {
        let text = value.as_str().ok_or_else(|| Allowed::new("text in quotes"))?;
        parse(text).map_err(|error| Allowed::new(error.to_string()))
    }
}

const DURATION_UNITS: [(&str, u64); 6] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
    ("w", 604_800_000),
];

const BYTE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// Units must go down (`1h30m`, not `30m1h`), each at most once.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut millis: u64 = 0;
    let mut last_unit = u64::MAX;
    while !rest.is_empty() {
        let (number, after) = take_number(rest)?;
        let letters = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (name, after) = after.split_at_checked(letters)?;
        let unit = unit(&DURATION_UNITS, name)?;
        if unit >= last_unit {
            return None;
        }
        last_unit = unit;
        millis = millis.checked_add(number.checked_mul(unit)?)?;
        rest = after.trim_start();
    }
    (last_unit != u64::MAX).then(|| Duration::from_millis(millis))
}

fn parse_bytes(text: &str) -> Option<u64> {
    let (number, name) = take_number(text.trim())?;
    number.checked_mul(unit(&BYTE_UNITS, name.trim_start())?)
}

fn take_number(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at_checked(digits)?;
    Some((number.parse().ok()?, rest))
}

fn unit(units: &[(&str, u64)], name: &str) -> Option<u64> {
    units.iter().find(|(known, _)| *known == name).map(|(_, size)| *size)
}

/// As [`duration`] reads it: `1h30m`.
#[must_use]
pub fn show_duration(span: Duration) -> String {
    let mut millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let mut shown = String::new();
    for (name, size) in DURATION_UNITS.iter().rev() {
        if millis >= *size {
            shown.push_str(&format!("{}{name}", millis / size));
            millis %= size;
        }
    }
    if shown.is_empty() { "0s".into() } else { shown }
}

/// As [`bytes()`] reads it, in the largest binary unit that divides it: `32 KiB`.
#[must_use]
pub fn show_bytes(size: u64) -> String {
    let fits = |(_, unit): &&(&str, u64)| size >= *unit && size.is_multiple_of(*unit);
    let (name, unit) = BYTE_UNITS.iter().take(5).rfind(fits).unwrap_or(&BYTE_UNITS[0]);
    format!("{} {name}", size / unit)
}
