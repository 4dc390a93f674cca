//! The parsed file as a tree that owns its text, with places.

use std::{collections::BTreeMap, ops::Range};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// A value and the bytes of the file where it stands.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) span: Range<usize>,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug)]
pub(super) enum Kind {
    Text(String),
    /// `None` when it does not fit.
    Integer(Option<i64>),
    Float(f64),
    Bool(bool),
    Time,
    List(Vec<Node>),
    Table(Table),
}

/// Keys with their values.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub(super) entries: BTreeMap<String, Entry>,
}

#[derive(Clone, Debug)]
pub(super) struct Entry {
    /// Where the key stands.
    pub(super) key: Range<usize>,
    pub(super) node: Node,
}

impl Table {
    pub(super) fn get(&self, key: &str) -> Option<&Node> {
        self.entries.get(key).map(|entry| &entry.node)
    }
}

impl From<&DeTable<'_>> for Table {
    fn from(table: &DeTable<'_>) -> Self {
        let entry = |(key, value): (&Spanned<_>, &Spanned<_>)| {
            let name: &std::borrow::Cow<'_, str> = key.get_ref();
            (name.to_string(), Entry { key: key.span(), node: Node::from(value) })
        };
        Self { entries: table.iter().map(entry).collect() }
    }
}

impl From<&Spanned<DeValue<'_>>> for Node {
    fn from(value: &Spanned<DeValue<'_>>) -> Self {
        let kind = match value.get_ref() {
            DeValue::String(text) => Kind::Text(text.to_string()),
            DeValue::Integer(number) => {
                Kind::Integer(i64::from_str_radix(number.as_str(), number.radix()).ok())
            }
            // TOML's floats, `inf` and `nan` included, are also Rust's.
            DeValue::Float(number) => Kind::Float(number.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(flag) => Kind::Bool(*flag),
            DeValue::Datetime(_) => Kind::Time,
            DeValue::Array(list) => Kind::List(list.iter().map(Self::from).collect()),
            DeValue::Table(table) => Kind::Table(Table::from(table)),
        };
        Self { span: value.span(), kind }
    }
}
