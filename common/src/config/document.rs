//! A whole file.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
};

use toml::de::DeTable;

use super::{
    Problem, Report, Section,
    node::{Kind, Node, Table},
    report::nearest,
    value::line_of,
};

/// The largest file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// A TOML file that is being read.
#[derive(Debug)]
pub struct Document {
    file: String,
    text: String,
    table: Table,
    state: RefCell<State>,
}

/// What was found out so far.
#[derive(Debug, Default)]
struct State {
    problems: Vec<Problem>,
    /// Path of each section that was opened → the keys that were asked for.
    asked: BTreeMap<String, BTreeSet<String>>,
}

impl Document {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// The file cannot be read, is larger than 4 MiB, or is not TOML.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Report> {
        let path = path.as_ref();
        let file = path.display().to_string();
        let text = read(path).map_err(|error| {
            let remedy = match error.kind() {
                io::ErrorKind::NotFound => "; create it, or name another one with --config",
                io::ErrorKind::PermissionDenied => "; let the service's user read it",
                _ => "",
            };
            Report::of_file(&file, format!("could not be read: {error}{remedy}"))
        })?;
        Self::parse(&file, text)
    }

    /// Takes `text` as the content of `file`, a name for reports.
    ///
    /// # Errors
    ///
    /// The text is not TOML; all places where it is not are reported.
    pub fn parse(file: &str, text: impl Into<String>) -> Result<Self, Report> {
        let text = text.into();
        let (spanned, errors) = DeTable::parse_recoverable(&text);
        if !errors.is_empty() {
            let problems = errors.iter().map(|error| syntax_problem(&text, error)).collect();
            return Err(Report::new(file, problems));
        }
        let table = Table::from(spanned.get_ref());
        Ok(Self { file: file.into(), text, table, state: RefCell::default() })
    }

    /// The top of the file.
    #[must_use]
    pub fn root(&self) -> Section<'_> {
        Section::open(self, String::new(), Some(&self.table), None)
    }

    /// Adds what was not asked for to the problems, and tells them all. Call it
    /// after everything was read.
    ///
    /// # Errors
    ///
    /// All problems of the file.
    pub fn finish(&self) -> Result<(), Report> {
        let mut unknown = Vec::new();
        self.find_unknown(&self.table, "", &mut unknown);
        let mut problems = self.state.borrow().problems.clone();
        problems.extend(unknown);
        if problems.is_empty() { Ok(()) } else { Err(Report::new(&self.file, problems)) }
    }

    /// [`Document::finish`], then puts the values together. `build` runs only
    /// when there are no problems, so that every required value is there and
    /// `?` on each of them suits.
    ///
    /// # Errors
    ///
    /// All problems of the file.
    pub fn finish_with<T>(&self, build: impl FnOnce() -> Option<T>) -> Result<T, Report> {
        self.finish()?;
        build().ok_or_else(|| Report::of_file(&self.file, "a value is missing"))
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn add(&self, problem: Problem) {
        self.state.borrow_mut().problems.push(problem);
    }

    pub(super) fn open(&self, path: &str) {
        self.state.borrow_mut().asked.entry(path.into()).or_default();
    }

    pub(super) fn ask(&self, path: &str, key: &str) {
        self.state.borrow_mut().asked.entry(path.into()).or_default().insert(key.into());
    }

    fn find_unknown(&self, table: &Table, path: &str, found: &mut Vec<Problem>) {
        let state = self.state.borrow();
        // A table that was read as one value has no sections.
        let Some(asked) = state.asked.get(path) else { return };
        for (name, entry) in &table.entries {
            if asked.contains(name) {
                self.find_unknown_below(&entry.node, &join(path, name), found);
                continue;
            }
            let allowed = match nearest(name, asked.iter().map(String::as_str)) {
                Some(known) => format!("no such key; did you mean `{known}`?"),
                None if asked.is_empty() => "no such key; nothing is allowed here".into(),
                None => format!("no such key; known: {}", listed(asked)),
            };
            found.push(Problem {
                line: Some(line_of(&self.text, entry.key.start)),
                column: None,
                key: join(path, name),
                // Not shown: what was put in a wrong place may be a secret.
                seen: None,
                allowed,
            });
        }
    }

    fn find_unknown_below(&self, node: &Node, path: &str, found: &mut Vec<Problem>) {
        match &node.kind {
            Kind::Table(table) => self.find_unknown(table, path, found),
            Kind::List(list) => {
                for (index, element) in list.iter().enumerate() {
                    if let Kind::Table(table) = &element.kind {
                        self.find_unknown(table, &format!("{path}[{index}]"), found);
                    }
                }
            }
            _ => {}
        }
    }
}

/// `a` + `b` → `a.b`.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.into() } else { format!("{path}.{key}") }
}

fn listed(keys: &BTreeSet<String>) -> String {
    keys.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")
}

fn read(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it is larger than {FILE_BYTES_MAX} bytes")));
    }
    fs::read_to_string(path)
}

fn syntax_problem(text: &str, error: &toml::de::Error) -> Problem {
    let offset = error.span().map_or(0, |span| span.start).min(text.len());
    let line_start = text.get(..offset).and_then(|head| head.rfind('\n')).map_or(0, |at| at + 1);
    let before = text.get(line_start..offset).unwrap_or_default();
    let line = text.get(line_start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
    Problem {
        line: Some(line_of(text, offset)),
        column: Some(before.chars().count() + 1),
        key: String::new(),
        seen: Some(line.trim().chars().take(60).collect()),
        allowed: error.message().into(),
    }
}
