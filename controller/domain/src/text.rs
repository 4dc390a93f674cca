//! How spans of time read in sentences.

use std::time::Duration;

/// A span as a person would say it: the two largest units, `1 d 4 h`, `43 s`.
#[must_use]
pub fn span(span: Duration) -> String {
    const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
    let secs = span.as_secs();
    let Some(largest) = UNITS.iter().position(|(unit, _)| secs >= *unit) else {
        return format!("{} ms", span.as_millis());
    };
    let (unit, word) = UNITS[largest];
    let mut text = format!("{} {word}", secs / unit);
    if let Some((next, word)) = UNITS.get(largest + 1) {
        let rest = secs % unit / next;
        if rest > 0 {
            text.push_str(&format!(" {rest} {word}"));
        }
    }
    text
}

/// A count with its noun: `1 job`, `3 jobs`.
#[must_use]
pub fn count(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_shows_its_two_largest_units() {
        assert_eq!(span(Duration::from_millis(20)), "20 ms");
        assert_eq!(span(Duration::from_secs(43)), "43 s");
        assert_eq!(span(Duration::from_secs(3_600)), "1 h");
        assert_eq!(span(Duration::from_secs(100_800)), "1 d 4 h");
    }
}
