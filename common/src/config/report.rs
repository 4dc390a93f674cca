//! What is wrong with a file.

use std::fmt;

/// The widest cell that is padded to its neighbours; longer ones stick out.
const COLUMN_MAX: usize = 48;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The line, from 1; `None` when it is about something that is not there.
    pub line: Option<usize>,
    /// The column, from 1; only for text that is not TOML at all.
    pub column: Option<usize>,
    /// The path of the key, such as `host[2].address`; empty for the whole file.
    pub key: String,
    /// The value as it stands in the file, shortened to one line.
    pub seen: Option<String>,
    /// What is allowed, and what to do.
    pub allowed: String,
}

impl Problem {
    fn place(&self) -> String {
        match (self.line, self.column) {
            (Some(line), Some(column)) => format!("{line}:{column}"),
            (Some(line), None) => line.to_string(),
            (None, _) => "-".into(),
        }
    }

    fn subject(&self) -> String {
        match &self.seen {
            Some(seen) if self.key.is_empty() => seen.clone(),
            Some(seen) => format!("{} = {seen}", self.key),
            None => self.key.clone(),
        }
    }
}

/// All that is wrong with one file, in the order of its lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    file: String,
    problems: Vec<Problem>,
}

impl Report {
    pub(super) fn new(file: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| (problem.line, problem.column));
        problems.dedup();
        Self { file: file.into(), problems }
    }

    /// A report of one problem with the file as a whole.
    #[must_use]
    pub fn of_file(file: &str, allowed: impl Into<String>) -> Self {
        let allowed = allowed.into();
        let problem = Problem { line: None, column: None, key: String::new(), seen: None, allowed };
        Self::new(file, vec![problem])
    }

    /// The file's name.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Never empty.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        write!(f, "{}: {count} problem{}", self.file, if count == 1 { "" } else { "s" })?;
        let rows: Vec<_> = self.problems.iter().map(|p| (p.place(), p.subject(), p)).collect();
        let width = |cells: &mut dyn Iterator<Item = &String>| {
            cells.map(|cell| cell.chars().count()).filter(|n| *n <= COLUMN_MAX).max().unwrap_or(0)
        };
        let places = width(&mut rows.iter().map(|(place, ..)| place));
        let subjects = width(&mut rows.iter().map(|(_, subject, _)| subject));
        for (place, subject, problem) in &rows {
            write!(f, "\n  {place:>places$} | ")?;
            if subjects > 0 {
                write!(f, "{subject:<subjects$}   ")?;
            }
            f.write_str(&problem.allowed)?;
        }
        Ok(())
    }
}

impl std::error::Error for Report {}

/// The word among `known` that was most likely meant.
pub(super) fn nearest<'w>(word: &str, known: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    // A third of the letters may be wrong: `intervall` yes, `name` for `path` no.
    let edits_max = (word.chars().count() / 3).max(1);
    known
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(edits, _)| *edits > 0 && *edits <= edits_max)
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typing_mistake_finds_its_word() {
        let known = ["interval", "path", "keep-daily"];
        let find = |word| nearest(word, known.iter().copied());
        assert_eq!(find("intervall"), Some("interval"));
        assert_eq!(find("keep_daily"), Some("keep-daily"));
        assert_eq!(find("pahts"), None);
        assert_eq!(find("pth"), Some("path"));
        assert_eq!(find("name"), None);
    }
}
