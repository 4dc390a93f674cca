//! One table of a document.

use super::{
    Allowed, Document, Problem, Value,
    document::join,
    node::{Kind, Node, Table},
    value::line_of,
};

/// A table that is being read. It remembers which keys were asked for; the rest
/// is reported by [`Document::finish`]. A table that is not in the file is an
/// empty section, so that defaults apply and required keys are missed.
#[derive(Clone, Debug)]
pub struct Section<'d> {
    document: &'d Document,
    path: String,
    table: Option<&'d Table>,
    line: Option<usize>,
}

impl<'d> Section<'d> {
    pub(super) fn open(
        document: &'d Document,
        path: String,
        table: Option<&'d Table>,
        line: Option<usize>,
    ) -> Self {
        document.open(&path);
        Self { document, path, table, line }
    }

    /// Its path in the file, such as `ai.tier[0]`; empty at the top.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether the table stands in the file.
    #[must_use]
    pub const fn is_present(&self) -> bool {
        self.table.is_some()
    }

    /// The line of its header, from 1; the top of the file has none.
    #[must_use]
    pub const fn line(&self) -> Option<usize> {
        self.line
    }

    /// Whether the key stands in the file; asking counts as knowing it.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.node(key).is_some()
    }

    /// The keys that stand in the file, for tables whose keys are free. Read
    /// each of them then, or it counts as unknown.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        self.table.map(|table| table.entries.keys().cloned().collect()).unwrap_or_default()
    }

    /// A value that may be left out. `None` also when it is wrong, which is then
    /// in the report.
    pub fn optional<T>(
        &self,
        key: &str,
        parse: impl FnOnce(&Value<'d>) -> Result<T, Allowed>,
    ) -> Option<T> {
        let value = self.value(key)?;
        parse(&value).map_err(|allowed| self.refuse(&join(&self.path, key), &value, &allowed)).ok()
    }

    /// A value that must stand in the file. `None` when it is missing or wrong,
    /// which is then in the report.
    pub fn required<T>(
        &self,
        key: &str,
        parse: impl FnOnce(&Value<'d>) -> Result<T, Allowed>,
    ) -> Option<T> {
        if !self.has(key) {
            self.add(self.line, key, None, "missing; it has no default".into());
            return None;
        }
        self.optional(key, parse)
    }

    /// A value with a default, which also stands in for a wrong value: the
    /// report then keeps it from being used.
    pub fn or<T>(
        &self,
        key: &str,
        default: T,
        parse: impl FnOnce(&Value<'d>) -> Result<T, Allowed>,
    ) -> T {
        self.optional(key, parse).unwrap_or(default)
    }

    /// A list whose elements are parsed one by one; empty when it is left out.
    /// Every wrong element is reported.
    pub fn list<T>(
        &self,
        key: &str,
        mut parse: impl FnMut(&Value<'d>) -> Result<T, Allowed>,
    ) -> Vec<T> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let Some(elements) = value.as_list() else {
            self.refuse(&join(&self.path, key), &value, &Allowed::new("a list: [..., ...]"));
            return Vec::new();
        };
        let mut parsed = Vec::with_capacity(elements.len());
        for (index, element) in elements.iter().enumerate() {
            match parse(element) {
                Ok(element) => parsed.push(element),
                Err(allowed) => {
                    let key = format!("{}[{index}]", join(&self.path, key));
                    self.refuse(&key, element, &allowed);
                }
            }
        }
        parsed
    }

    /// [`Section::list`] that must have at least one element.
    pub fn required_list<T>(
        &self,
        key: &str,
        parse: impl FnMut(&Value<'d>) -> Result<T, Allowed>,
    ) -> Vec<T> {
        match self.value(key) {
            None => self.add(self.line, key, None, "missing; it has no default".into()),
            Some(value) if value.as_list().is_some_and(|list| list.is_empty()) => {
                self.problem(key, "at least one element");
            }
            Some(_) => {}
        }
        self.list(key, parse)
    }

    /// A table below this one; an empty section when it is left out.
    #[must_use]
    pub fn table(&self, key: &str) -> Section<'d> {
        self.optional_table(key)
            .unwrap_or_else(|| Section::open(self.document, join(&self.path, key), None, self.line))
    }

    /// A table below this one, if it stands in the file.
    #[must_use]
    pub fn optional_table(&self, key: &str) -> Option<Section<'d>> {
        let node = self.node(key)?;
        let path = join(&self.path, key);
        let section = self.section(path.clone(), node);
        if section.is_none() {
            let what = Allowed::new(format!("a table: [{path}]"));
            self.refuse(&path, &self.wrap(node), &what);
        }
        section
    }

    /// The tables of a list of tables (`[[key]]`); empty when it is left out.
    #[must_use]
    pub fn tables(&self, key: &str) -> Vec<Section<'d>> {
        let Some(node) = self.node(key) else { return Vec::new() };
        let path = join(&self.path, key);
        let what = Allowed::new(format!("a list of tables: [[{path}]]"));
        let Kind::List(list) = &node.kind else {
            self.refuse(&path, &self.wrap(node), &what);
            return Vec::new();
        };
        let mut sections = Vec::with_capacity(list.len());
        for (index, element) in list.iter().enumerate() {
            let path = format!("{path}[{index}]");
            match self.section(path.clone(), element) {
                Some(section) => sections.push(section),
                None => self.refuse(&path, &self.wrap(element), &what),
            }
        }
        sections
    }

    /// Reports a rule that a parser cannot see, such as one about two keys:
    /// `what` says what is allowed. Points at the key's line and shows its
    /// value; for a missing key, at the table's line.
    pub fn problem(&self, key: &str, what: impl Into<String>) {
        match self.value(key) {
            Some(value) => {
                self.refuse(&join(&self.path, key), &value, &Allowed::new(what));
            }
            None => self.add(self.line, key, None, what.into()),
        }
    }

    /// The value of a key, to be looked at by hand; asking counts as knowing it.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<Value<'d>> {
        self.node(key).map(|node| self.wrap(node))
    }

    /// Reports that `value`, found under `key`, is not what is allowed.
    fn refuse(&self, key: &str, value: &Value<'_>, allowed: &Allowed) {
        self.document.add(Problem {
            line: Some(value.line()),
            column: None,
            key: key.into(),
            seen: allowed.seen(value),
            allowed: allowed.describe(value),
        });
    }

    fn add(&self, line: Option<usize>, key: &str, seen: Option<String>, allowed: String) {
        let key = join(&self.path, key);
        self.document.add(Problem { line, column: None, key, seen, allowed });
    }

    fn node(&self, key: &str) -> Option<&'d Node> {
        self.document.ask(&self.path, key);
        self.table?.get(key)
    }

    fn wrap(&self, node: &'d Node) -> Value<'d> {
        Value { text: self.document.text(), node }
    }

    fn section(&self, path: String, node: &'d Node) -> Option<Self> {
        let Kind::Table(table) = &node.kind else { return None };
        let line = line_of(self.document.text(), node.span.start);
        Some(Section::open(self.document, path, Some(table), Some(line)))
    }
}
