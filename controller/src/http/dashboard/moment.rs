//! Moments, spans and shares as people read them, exact in a tooltip.

use std::fmt;

use askama::filters::HtmlSafe;
use jiff::{SignedDuration, Timestamp};

/// Who writes down how long ago something was.
///
/// A section that is sent to many browsers carries only the moment: the browser counts. A page that
/// is fetched is readable without scripts, so it carries the words too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ages {
    /// The browser.
    Counted,
    /// We, as of this moment.
    Written(Timestamp),
}

/// A moment, shown by its distance from now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    at: Option<Timestamp>,
    ages: Ages,
    form: Form,
    stale_after: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// `5 min ago`, `in 3 h`.
    Distance,
    /// `5 min`.
    Span,
}

impl Moment {
    /// Shown as `5 min ago` or `in 3 h`.
    #[must_use]
    pub fn new(at: Option<Timestamp>, ages: Ages) -> Self {
        Self { at, ages, form: Form::Distance, stale_after: None }
    }

    /// Shown as the time that has gone since, without `ago`.
    #[must_use]
    pub fn span(at: Option<Timestamp>, ages: Ages) -> Self {
        Self { form: Form::Span, ..Self::new(at, ages) }
    }

    /// The row around it is greyed once it is older than this many seconds.
    #[must_use]
    pub fn stale_after(self, secs: u64) -> Self {
        Self { stale_after: Some(secs), ..self }
    }

    /// Whether there is a moment at all.
    #[must_use]
    pub fn is_some(&self) -> bool {
        self.at.is_some()
    }

    /// Whether it is known to be too old; a browser that counts finds out by itself.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        match (self.at, self.ages, self.stale_after) {
            (Some(at), Ages::Written(now), Some(secs)) => {
                now.duration_since(at).as_secs() > i64::try_from(secs).unwrap_or(i64::MAX)
            }
            _ => false,
        }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(at) = self.at else { return f.write_str("<span class=\"absent\">never</span>") };
        write!(f, "<time datetime=\"{at:.0}\"")?;
        if self.form == Form::Span {
            f.write_str(" data-form=\"span\"")?;
        }
        if let Some(secs) = self.stale_after {
            write!(f, " data-stale=\"{secs}\"")?;
        }
        match self.ages {
            Ages::Counted => f.write_str("></time>"),
            Ages::Written(now) => {
                let gone = now.duration_since(at);
                let words = span(gone.abs());
                let text = match self.form {
                    Form::Span => words,
                    Form::Distance if gone.abs().as_secs() < 1 => "now".to_owned(),
                    Form::Distance if gone.is_negative() => format!("in {words}"),
                    Form::Distance => format!("{words} ago"),
                };
                write!(f, " title=\"{at:.0}\">{text}</time>")
            }
        }
    }
}

/// Written by us from a time and numbers only.
impl HtmlSafe for Moment {}

/// A share of something, as a bar and in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gauge {
    share: Option<(u8, String)>,
}

impl Gauge {
    /// A bar for `percent` with figures beside it; a missing reading is a dash, not a zero.
    #[must_use]
    pub fn new(reading: Option<(f64, String)>) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to 0..=100"
        )]
        let share =
            reading.map(|(percent, figures)| (percent.clamp(0.0, 100.0).round() as u8, figures));
        Self { share }
    }
}

impl fmt::Display for Gauge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((percent, figures)) = &self.share else {
            return f.write_str("<span class=\"absent\">–</span>");
        };
        let level = match percent {
            0..85 => "",
            85..95 => " high",
            _ => " full",
        };
        write!(
            f,
            "<div class=\"gauge{level}\"><svg viewBox=\"0 0 100 8\" preserveAspectRatio=\"none\" \
             aria-hidden=\"true\"><rect width=\"{percent}\" height=\"8\"/></svg><span>{figures}</span></div>"
        )
    }
}

/// Its figures are written by `bytes` and `percent`.
impl HtmlSafe for Gauge {}

/// `42 s`, `5 min`, `3 h`, `2 d`: one unit, rounded down; the browser's script does the same.
#[must_use]
pub fn span(duration: SignedDuration) -> String {
    let secs = duration.as_secs();
    match secs {
        ..120 => format!("{secs} s"),
        120..7_200 => format!("{} min", secs / 60),
        7_200..172_800 => format!("{} h", secs / 3_600),
        _ => format!("{} d", secs / 86_400),
    }
}

/// `3.4 GiB`.
#[must_use]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    #[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = usize::from(unit > 0 && value < 100.0);
    format!("{value:.decimals$} {}", UNITS.get(unit).copied().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + secs).expect("in range")
    }

    #[test]
    fn a_written_age_is_readable_without_scripts() {
        let moment = Moment::new(Some(at(0)), Ages::Written(at(300))).stale_after(10);
        assert_eq!(
            moment.to_string(),
            "<time datetime=\"2023-11-14T22:13:20Z\" data-stale=\"10\" title=\"2023-11-14T22:13:20Z\">5 min ago</time>"
        );
        assert!(moment.is_stale());
    }

    #[test]
    fn a_counted_age_does_not_change_with_time() {
        let moment = Moment::new(Some(at(0)), Ages::Counted);
        assert_eq!(moment.to_string(), "<time datetime=\"2023-11-14T22:13:20Z\"></time>");
    }

    #[test]
    fn the_future_is_ahead() {
        let text = Moment::new(Some(at(7_300)), Ages::Written(at(0))).to_string();
        assert!(text.ends_with(">in 2 h</time>"), "{text}");
    }

    #[test]
    fn sizes_have_one_unit() {
        assert_eq!(
            [0, 1023, 1024, 3_650_722_201, u64::MAX].map(bytes),
            ["0 B", "1023 B", "1.0 KiB", "3.4 GiB", "16777216 TiB"]
        );
    }

    #[test]
    fn a_missing_reading_is_not_a_zero() {
        assert!(Gauge::new(None).to_string().contains('–'));
    }
}
