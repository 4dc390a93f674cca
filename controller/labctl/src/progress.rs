//! How far a long piece of work has come, on standard error: a bar that is drawn again and again for a
//! person, a line now and then for a log, nothing for a program that reads the result.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use homelab_proto::common::v1::Progress;

use crate::{lab::Lab, output::bytes};

/// How often a log gets a line.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// How soon a log gets a line about a new step.
const STEP_EVERY: Duration = Duration::from_secs(2);
/// How often a bar is drawn at most.
const DRAW_EVERY: Duration = Duration::from_millis(100);
/// How long bytes must have flown before their rate says anything.
const RATE_AFTER: Duration = Duration::from_secs(1);
/// Characters of the bar itself.
const WIDTH: usize = 24;

/// Shows one piece of work.
#[derive(Debug)]
pub struct Meter {
    form: Form,
    began: Instant,
    course: Course,
    shown_at: Option<Duration>,
    shown_step: String,
}

/// Who looks on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A program, which wants nothing but the result.
    Silent,
    /// A person at a terminal.
    Bar,
    /// A log.
    Lines,
}

impl Meter {
    /// A meter for one piece of work that begins now.
    #[must_use]
    pub fn new(lab: &Lab) -> Self {
        let form = match (lab.for_programs(), io::stderr().is_terminal()) {
            (true, _) => Form::Silent,
            (false, true) => Form::Bar,
            (false, false) => Form::Lines,
        };
        Self {
            form,
            began: Instant::now(),
            course: Course::default(),
            shown_at: None,
            shown_step: String::new(),
        }
    }

    /// Takes in how far it has come, and shows it when it is time.
    pub fn tell(&mut self, progress: &Progress) {
        let at = self.began.elapsed();
        self.course.take(at, progress);
        self.show(at);
    }

    /// Shows that time goes by.
    pub fn tick(&mut self) {
        self.show(self.began.elapsed());
    }

    /// Takes the bar away, before anything else is printed.
    pub fn clear(&mut self) {
        if self.form == Form::Bar && self.shown_at.take().is_some() {
            draw("\r\x1b[2K");
        }
    }

    fn show(&mut self, at: Duration) {
        let is_new = self.shown_step != self.course.now.step;
        if !is_due(self.form, self.shown_at.map(|shown| at.saturating_sub(shown)), is_new) {
            return;
        }
        match self.form {
            Form::Silent => return,
            // Without wrapping, so that a narrow window does not break the line that is drawn over.
            Form::Bar => draw(&format!("\r\x1b[2K\x1b[?7l{}\x1b[?7h", self.course.bar(at))),
            Form::Lines => draw(&format!("{}\n", self.course.line(at))),
        }
        self.shown_at = Some(at);
        self.shown_step.clone_from(&self.course.now.step);
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        self.clear();
    }
}

fn is_due(form: Form, since: Option<Duration>, is_new_step: bool) -> bool {
    let every = match form {
        Form::Silent => return false,
        Form::Bar => DRAW_EVERY,
        Form::Lines if is_new_step => STEP_EVERY,
        Form::Lines => LINE_EVERY,
    };
    since.is_none_or(|since| since >= every)
}

fn draw(text: &str) {
    let mut out = io::stderr().lock();
    // Nobody can be told when standard error itself is gone.
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

/// What has been heard of the work.
#[derive(Debug, Default)]
struct Course {
    now: Progress,
    /// When the present step was first heard of, and how many bytes it had then.
    step_began: (Duration, u64),
    /// When it was last heard of.
    heard_at: Duration,
}

impl Course {
    fn take(&mut self, at: Duration, progress: &Progress) {
        let (before, now) = (self.now.done_bytes.unwrap_or(0), progress.done_bytes.unwrap_or(0));
        if progress.step != self.now.step || now < before {
            self.step_began = (at, now);
        }
        self.heard_at = at;
        self.now = progress.clone();
    }

    /// Bytes a second since the step began.
    fn rate(&self) -> Option<u64> {
        let (began_at, began_with) = self.step_began;
        let took = self.heard_at.checked_sub(began_at).filter(|took| *took >= RATE_AFTER)?;
        let done = self.now.done_bytes?.saturating_sub(began_with);
        u64::try_from(u128::from(done) * 1_000 / took.as_millis().max(1)).ok()
    }

    /// Thousandths that are done, when it is known how much there is.
    fn share(&self) -> Option<u64> {
        let of = |done: Option<u64>, total: Option<u64>| {
            let (done, total) = (done?, total.filter(|total| *total > 0)?);
            u64::try_from(u128::from(done.min(total)) * 1_000 / u128::from(total)).ok()
        };
        let now = &self.now;
        of(now.done_bytes, now.total_bytes).or_else(|| of(now.done_items, now.total_items))
    }

    /// The figures, without the bar: `1.0 GiB of 4.0 GiB, 256 MiB/s, 0:12 left`.
    fn figures(&self) -> Vec<String> {
        let now = &self.now;
        let mut figures = Vec::new();
        match (now.done_bytes, now.total_bytes) {
            (Some(done), Some(total)) => {
                figures.push(format!("{} of {}", bytes(done), bytes(total)));
            }
            (Some(done), None) => figures.push(bytes(done)),
            (None, _) => {}
        }
        match (now.done_items, now.total_items) {
            (Some(done), Some(total)) => figures.push(format!("{done} of {total}")),
            (Some(done), None) => figures.push(done.to_string()),
            (None, _) => {}
        }
        if let Some(rate) = self.rate().filter(|rate| *rate > 0) {
            figures.push(format!("{}/s", bytes(rate)));
            if let (Some(done), Some(total)) = (now.done_bytes, now.total_bytes) {
                let left = Duration::from_secs(total.saturating_sub(done) / rate);
                figures.push(format!("{} left", clock(left)));
            }
        }
        figures
    }

    fn bar(&self, at: Duration) -> String {
        let mut parts = vec![clock(at)];
        if let Some(share) = self.share() {
            let filled = usize::try_from(share).unwrap_or_default() * WIDTH / 1_000;
            let bar = format!("[{}{}]", "#".repeat(filled), ".".repeat(WIDTH - filled));
            parts.push(format!("{bar} {:>3} %", share / 10));
        }
        parts.extend(self.figures());
        parts.push(self.step());
        parts.join("  ")
    }

    fn line(&self, at: Duration) -> String {
        let mut parts = vec![format!("{} {}", clock(at), self.step())];
        parts.extend(self.share().map(|share| format!("{} %", share / 10)));
        parts.extend(self.figures());
        parts.join(", ")
    }

    /// The agent's words for people, on one line.
    fn step(&self) -> String {
        let words = self.now.step.split_whitespace().collect::<Vec<_>>().join(" ");
        if words.is_empty() { "waiting".to_owned() } else { words }
    }
}

/// `0:07`, `12:30`, `1:02:03`.
fn clock(span: Duration) -> String {
    let seconds = span.as_secs();
    let (hours, minutes, seconds) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    if hours == 0 {
        format!("{minutes}:{seconds:02}")
    } else {
        format!("{hours}:{minutes:02}:{seconds:02}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn dumping(done: u64, total: Option<u64>) -> Progress {
        Progress {
            step: "dumping".to_owned(),
            done_bytes: Some(done),
            total_bytes: total,
            ..Progress::default()
        }
    }

    #[test]
    fn a_bar_shows_share_bytes_rate_what_is_left_and_the_step() {
        let mut course = Course::default();
        course.take(secs(2), &dumping(0, Some(400 * MIB)));
        course.take(secs(12), &dumping(100 * MIB, Some(400 * MIB)));
        assert_eq!(
            course.bar(secs(13)),
            "0:13  [######..................]  25 %  100 MiB of 400 MiB  10.0 MiB/s  0:30 left  dumping"
        );
        assert_eq!(
            course.line(secs(13)),
            "0:13 dumping, 25 %, 100 MiB of 400 MiB, 10.0 MiB/s, 0:30 left"
        );
    }

    #[test]
    fn without_a_total_there_is_no_share_and_no_promise() {
        let mut course = Course::default();
        course.take(secs(0), &dumping(0, None));
        course.take(secs(2), &dumping(6 * MIB, None));
        assert_eq!(course.bar(secs(3_723)), "1:02:03  6.0 MiB  3.0 MiB/s  dumping");
    }

    #[test]
    fn a_new_step_has_a_rate_of_its_own() {
        let mut course = Course::default();
        course.take(secs(0), &dumping(0, None));
        course.take(secs(10), &dumping(90 * MIB, None));
        let proving = Progress { step: "proving".to_owned(), ..dumping(90 * MIB, None) };
        course.take(secs(11), &proving);
        assert_eq!(course.rate(), None, "nothing has flown in this step");
    }

    #[test]
    fn items_count_where_bytes_do_not() {
        let mut course = Course::default();
        let items = Progress { done_items: Some(3), total_items: Some(4), ..Progress::default() };
        course.take(secs(1), &items);
        assert_eq!(course.bar(secs(1)), "0:01  [##################......]  75 %  3 of 4  waiting");
    }

    #[test]
    fn more_than_all_is_all() {
        let mut course = Course::default();
        course.take(secs(1), &dumping(900, Some(400)));
        assert_eq!(course.share(), Some(1_000));
    }

    #[test]
    fn a_log_gets_few_lines_and_a_program_none() {
        let just_now = Some(secs(1));
        assert!(is_due(Form::Lines, None, false), "the first");
        assert!(!is_due(Form::Lines, just_now, true) && is_due(Form::Lines, Some(secs(2)), true));
        assert!(!is_due(Form::Lines, Some(secs(9)), false));
        assert!(is_due(Form::Lines, Some(secs(10)), false));
        assert!(!is_due(Form::Silent, None, true));
    }
}
