//! Tables and chapters, for the terminal and for `docs/benchmarks.md` alike.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;

use super::machine::Machine;

/// One table with what must be known to read it.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    title: String,
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new<const N: usize>(title: &str, columns: [&str; N]) -> Self {
        let columns = columns.into_iter().map(str::to_owned).collect();
        Self { title: title.to_owned(), columns, rows: Vec::new() }
    }

    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// As Markdown whose columns are aligned, so that a terminal shows it well too.
    fn render(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().chain([&self.columns]).filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<_> = (0..self.columns.len()).map(width).collect();
        let line = |cells: &[String]| {
            let padded = cells.iter().zip(&widths).map(|(cell, width)| format!(" {cell:width$} |"));
            format!("|{}\n", padded.collect::<String>())
        };
        let rule = widths.iter().map(|width| format!("{:-<1$}|", "", width + 2));
        let mut text = format!("**{}**\n\n", self.title);
        text.push_str(&line(&self.columns));
        text.push_str(&format!("|{}\n", rule.collect::<String>()));
        text.extend(self.rows.iter().map(|row| line(row)));
        text
    }
}

/// All about one section.
#[derive(Clone, Debug, Default)]
pub(super) struct Chapter {
    title: &'static str,
    method: &'static str,
    tables: Vec<Table>,
    circumstances: String,
}

impl Chapter {
    pub(super) fn new(title: &'static str, method: &'static str, tables: Vec<Table>) -> Self {
        Self { title, method, tables, circumstances: String::new() }
    }

    /// Notes what it was measured under.
    pub(super) fn close(&mut self, date: &str, load_before: &str, took: Duration) {
        let seconds = took.as_secs();
        self.circumstances =
            format!("Measured {date} in {seconds} s; load average before: {load_before}.");
    }

    pub(super) fn render(&self) -> String {
        let mut text = format!("## {}\n\n{}\n", self.title, self.method);
        for table in &self.tables {
            text.push('\n');
            text.push_str(&table.render());
        }
        text.push_str(&format!("\n{}\n", self.circumstances));
        text
    }
}

/// Writes the document anew and says where.
pub(super) fn write(machine: &Machine, chapters: &[Chapter]) -> anyhow::Result<PathBuf> {
    let mut text = String::from(
        "# Benchmarks\n\n\
         Written by `make bench`, which measures ours and a peer minutes apart on one machine; do not edit.\n\
         A single part is measured again by `target/install/homelab-bench agent` (`gateway`, `queue`,\n\
         `planner`, `engine`, `backup`), `--quick` shortens it. CPU time is the steadier figure; wall clock depends on what else\n\
         the machine did. Sizes in bytes and MB (10^6 bytes) as the kernel and the file system tell them.\n\n",
    );
    writeln!(text, "{}", machine.describe())?;
    for chapter in chapters {
        writeln!(text, "{}", chapter.render())?;
    }
    let path = document();
    let text = format!("{}\n", text.trim_end());
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// Puts chapters that were measured again in the place of their former selves, new ones at the end, and
/// says where.
pub(super) fn replace(chapters: &[Chapter]) -> anyhow::Result<PathBuf> {
    let path = document();
    let mut text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    for chapter in chapters {
        text = with_chapter(&text, chapter)
            .unwrap_or_else(|| format!("{}\n\n{}", text.trim_end(), chapter.render()));
    }
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// `text` with this chapter instead of the one of the same title.
fn with_chapter(text: &str, chapter: &Chapter) -> Option<String> {
    let (before, rest) = text.split_once(&format!("## {}\n", chapter.title))?;
    let after = rest.split_once("\n## ").map(|(_, after)| after);
    let new = chapter.render();
    Some(match after {
        Some(after) => format!("{before}{new}\n## {after}"),
        None => format!("{before}{new}"),
    })
}

fn document() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().unwrap_or(tests).join("docs/benchmarks.md")
}

/// Milliseconds with as many digits as say something.
pub(super) fn ms(duration: Duration) -> String {
    significant(duration.as_secs_f64() * 1e3)
}

/// Seconds.
pub(super) fn secs(duration: Duration) -> String {
    significant(duration.as_secs_f64())
}

/// Millions of bytes.
pub(super) fn mb(bytes: u64) -> String {
    significant(bytes as f64 / 1e6)
}

/// Bytes with thousands apart.
pub(super) fn bytes(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// How one figure stands to another: `0.25x`.
pub(super) fn ratio(ours: f64, theirs: f64) -> String {
    if theirs > 0.0 { format!("{}x", significant(ours / theirs)) } else { "-".to_owned() }
}

/// A figure against its limit: `0.31 of 0.5: ok`.
pub(super) fn verdict(value: f64, limit: f64) -> String {
    let word = if value <= limit { "ok" } else { "over" };
    format!("≤ {}: {word}", significant(limit))
}

/// Three digits that count.
pub(super) fn significant(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        size if size >= 0.1 => format!("{value:.3}"),
        size if size >= 0.0005 => format!("{value:.4}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_markdown() {
        let mut table = Table::new("Speed", ["who", "ms"]);
        table.row(["ours".to_owned(), "0.31".to_owned()]);
        table.row(["theirs".to_owned(), "11.5".to_owned()]);
        assert_eq!(
            table.render(),
            "**Speed**\n\n\
             | who    | ms   |\n\
             |--------|------|\n\
             | ours   | 0.31 |\n\
             | theirs | 11.5 |\n"
        );
    }

    #[test]
    fn figures_have_the_digits_that_say_something() {
        let shown = [0.0, 0.001_23, 0.123_4, 1.234, 12.34, 1234.5].map(significant);
        assert_eq!(shown, ["0", "0.0012", "0.123", "1.23", "12.3", "1234"]);
        assert_eq!(bytes(1_234_567), "1,234,567");
        assert_eq!(bytes(12), "12");
        assert_eq!(ratio(1.0, 4.0), "0.250x");
    }

    #[test]
    fn a_limit_that_is_reached_is_kept_and_one_that_is_passed_is_not() {
        assert_eq!(verdict(0.5, 0.5), "≤ 0.500: ok");
        assert_eq!(verdict(0.51, 0.5), "≤ 0.500: over");
    }

    #[test]
    fn a_chapter_that_is_measured_again_leaves_the_others_as_they_were() {
        let chapter = |title, method| Chapter::new(title, method, Vec::new());
        let old = [("Agent", "one"), ("Queue", "two"), ("Backup", "three")];
        let text: Vec<_> = old.map(|(title, method)| chapter(title, method).render()).into();
        let text = format!("# Benchmarks\n\n{}", text.join("\n"));
        for (title, method) in old {
            let new = with_chapter(&text, &chapter(title, "new"));
            assert_eq!(new.as_deref(), Some(text.replace(method, "new").as_str()));
        }
        assert_eq!(with_chapter(&text, &chapter("Gateway", "new")), None);
    }
}
