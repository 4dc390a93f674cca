//! Results on standard output: tables for people, JSON and YAML for programs, names for pipes.

use std::io::{self, IsTerminal, Write};

use anyhow::Context as _;
use jiff::{Timestamp, tz::TimeZone};
use serde_json::Value;

use crate::args::Output;

/// Columns for people, and for each row the name that `-o name` prints.
#[derive(Debug, Default)]
pub struct Rows {
    head: Vec<&'static str>,
    rows: Vec<(String, Vec<String>)>,
    empty: &'static str,
}

impl Rows {
    /// A table with these columns, and what to say when it stays empty.
    #[must_use]
    pub fn new(head: &[&'static str], empty: &'static str) -> Self {
        Self { head: head.to_vec(), rows: Vec::new(), empty }
    }

    /// Adds a row.
    pub fn push(&mut self, name: impl Into<String>, cells: impl IntoIterator<Item = String>) {
        self.rows.push((name.into(), cells.into_iter().collect()));
    }

    fn names(&self) -> String {
        self.rows.iter().map(|(name, _)| format!("{name}\n")).collect()
    }

    /// The table for people, or what there is to say when it is empty.
    #[must_use]
    pub fn text(&self) -> String {
        if self.rows.is_empty() {
            return format!("{}\n", self.empty);
        }
        let head = self.head.iter().map(|word| word.to_uppercase()).collect::<Vec<_>>();
        let cells = self.rows.iter().map(|(_, cells)| cells.as_slice());
        let lines: Vec<_> = std::iter::once(head.as_slice()).chain(cells).collect();
        let widths = widths(&lines);
        lines.iter().map(|cells| line(cells, &widths)).collect()
    }
}

/// The widest cell of each column, in characters.
fn widths(lines: &[&[String]]) -> Vec<usize> {
    let columns = lines.iter().map(|cells| cells.len()).max().unwrap_or_default();
    let widest = |column: usize| {
        lines.iter().filter_map(|cells| cells.get(column)).map(|cell| cell.chars().count()).max()
    };
    (0..columns).map(|column| widest(column).unwrap_or_default()).collect()
}

fn line(cells: &[String], widths: &[usize]) -> String {
    let padded: Vec<_> =
        cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
    format!("{}\n", padded.join("  ").trim_end())
}

/// Prints a result in the form that was asked for.
///
/// # Errors
/// When standard output is closed or full.
pub fn print(form: Output, json: &Value, rows: &Rows) -> anyhow::Result<()> {
    let text = match form {
        Output::Table | Output::Wide => rows.text(),
        Output::Name => rows.names(),
        Output::Json => format!("{}\n", serde_json::to_string_pretty(json)?),
        Output::Yaml => serde_norway::to_string(json).context("write YAML")?,
    };
    write(&text)
}

/// Writes text to standard output and flushes it; a closed pipe ends the process's output quietly.
///
/// # Errors
/// When standard output is full or broken.
pub fn write(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("write to standard output"),
    }
}

/// Writes words for the person to standard error.
pub fn say(words: &str) {
    // Nobody can be told when standard error itself is gone.
    drop(writeln!(io::stderr().lock(), "{words}"));
}

/// Clears the screen before the next round of `--watch`, when a person is looking.
///
/// # Errors
/// As [`write()`].
pub fn next_round() -> anyhow::Result<()> {
    if io::stdout().is_terminal() { write("\x1b[H\x1b[2J") } else { Ok(()) }
}

/// A moment as its distance to `now`: `3 min ago`, `in 2 h`; `never` without one.
#[must_use]
pub fn distance(now: Timestamp, moment: Option<prost_types::Timestamp>) -> String {
    let Some(moment) = moment else { return "never".to_owned() };
    let seconds = now.as_second() - moment.seconds;
    let size = duration(seconds.unsigned_abs());
    match seconds {
        -1..=1 => "now".to_owned(),
        seconds if seconds > 0 => format!("{size} ago"),
        _ => format!("in {size}"),
    }
}

/// A moment as a date in a zone, to the minute: `2026-02-03 02:31`; `-` without one. A zone that is not known
/// counts as UTC.
#[must_use]
pub fn date(moment: Option<prost_types::Timestamp>, zone: &str) -> String {
    let moment = moment.and_then(|moment| Timestamp::new(moment.seconds, moment.nanos).ok());
    let zone = TimeZone::get(zone).unwrap_or(TimeZone::UTC);
    moment.map_or_else(
        || "-".to_owned(),
        |moment| moment.to_zoned(zone).strftime("%Y-%m-%d %H:%M").to_string(),
    )
}

/// The first digits of an identifier, as people name it; `-` for none.
#[must_use]
pub fn short(id: &str) -> String {
    if id.is_empty() { "-".to_owned() } else { id.chars().take(8).collect() }
}

/// `yes` or `no`.
#[must_use]
pub const fn yes(is_so: bool) -> &'static str {
    if is_so { "yes" } else { "no" }
}

/// Lines, each set in by so many spaces.
#[must_use]
pub fn indented(text: &str, spaces: usize) -> String {
    text.lines().map(|line| format!("{:spaces$}{line}\n", "")).collect()
}

/// A number of seconds in its largest sensible unit.
#[must_use]
pub fn duration(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// A span of the wire; `-` without one.
#[must_use]
pub fn span(span: Option<prost_types::Duration>) -> String {
    span.map_or_else(
        || "-".to_owned(),
        |span| match u64::try_from(span.seconds).unwrap_or_default() {
            seconds @ 0..=9 => format!("{}.{} s", seconds, span.nanos.unsigned_abs() / 100_000_000),
            seconds => duration(seconds),
        },
    )
}

/// Bytes in binary units.
#[must_use]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut whole = count;
    let mut rest = 0;
    let mut unit = 0;
    while whole >= 1024 && unit + 1 < UNITS.len() {
        rest = whole % 1024;
        whole /= 1024;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    if unit == 0 || whole >= 100 {
        format!("{whole} {name}")
    } else {
        format!("{whole}.{} {name}", rest * 10 / 1024)
    }
}

/// The last word of an enum value's name in lower case: `RUN_STATE_SUCCEEDED` → `succeeded`.
#[must_use]
pub fn word(value: &str, prefix: &str) -> String {
    value
        .strip_prefix(prefix)
        .unwrap_or(value)
        .trim_start_matches('_')
        .to_lowercase()
        .replace('_', "-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Option<prost_types::Timestamp> {
        Some(prost_types::Timestamp { seconds, nanos: 0 })
    }

    #[test]
    fn moments_are_told_by_their_distance() {
        let now = Timestamp::from_second(1_000_000).expect("a moment");
        assert_eq!(distance(now, at(999_700)), "5 min ago");
        assert_eq!(distance(now, at(1_007_300)), "in 2 h");
        assert_eq!(distance(now, at(1_000_000)), "now");
        assert_eq!(distance(now, None), "never");
    }

    #[test]
    fn a_date_is_that_of_the_zone() {
        let moment = Some(prost_types::Timestamp { seconds: 1_770_100_260, nanos: 0 });
        assert_eq!(date(moment, "Europe/Amsterdam"), "2026-02-03 07:31");
        assert_eq!(date(moment, "Nowhere/Land"), "2026-02-03 06:31");
        assert_eq!(date(None, "UTC"), "-");
    }

    #[test]
    fn bytes_are_told_in_binary_units() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1_536), "1.5 KiB");
        assert_eq!(bytes(3_758_096_384), "3.5 GiB");
    }

    #[test]
    fn a_table_is_aligned_and_has_no_frame() {
        let mut rows = Rows::new(&["host", "state"], "No hosts yet.");
        rows.push("x99", ["x99".to_owned(), "asleep".to_owned()]);
        rows.push("hx310-db", ["hx310-db".to_owned(), "healthy".to_owned()]);
        assert_eq!(rows.text(), "HOST      STATE\nx99       asleep\nhx310-db  healthy\n");
        assert_eq!(rows.names(), "x99\nhx310-db\n");
    }

    #[test]
    fn an_empty_table_says_what_to_do() {
        assert_eq!(Rows::new(&["host"], "No hosts yet.").text(), "No hosts yet.\n");
    }

    #[test]
    fn enum_values_become_words() {
        assert_eq!(word("RUN_STATE_SUCCEEDED", "RUN_STATE"), "succeeded");
        assert_eq!(word("HOST_STATE_NOT_ENROLLED", "HOST_STATE"), "not-enrolled");
    }
}
