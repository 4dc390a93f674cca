//! One value of a document, as parsers see it.

use super::{
    node::{Kind, Node},
    report::nearest,
};

/// The longest value that is shown in a report, in characters.
const SEEN_MAX: usize = 60;

/// A value with its place in the file.
#[derive(Clone, Copy, Debug)]
pub struct Value<'d> {
    pub(super) text: &'d str,
    pub(super) node: &'d Node,
}

impl<'d> Value<'d> {
    /// The text, if it is a string.
    #[must_use]
    pub fn as_str(&self) -> Option<&'d str> {
        match &self.node.kind {
            Kind::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The flag, if it is one.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match self.node.kind {
            Kind::Bool(flag) => Some(flag),
            _ => None,
        }
    }

    /// The number, if it is an integer that fits.
    #[must_use]
    pub fn as_integer(&self) -> Option<i64> {
        match self.node.kind {
            Kind::Integer(number) => number,
            _ => None,
        }
    }

    /// The number, if it is one (integers are numbers too).
    #[must_use]
    pub fn as_float(&self) -> Option<f64> {
        match self.node.kind {
            Kind::Float(number) => Some(number),
            Kind::Integer(number) => number.map(|number| number as f64),
            _ => None,
        }
    }

    /// The elements, if it is a list.
    #[must_use]
    pub fn as_list(&self) -> Option<Vec<Self>> {
        match &self.node.kind {
            Kind::List(list) => {
                Some(list.iter().map(|node| Value { text: self.text, node }).collect())
            }
            _ => None,
        }
    }

    /// The value as it stands in the file, on one line, shortened.
    #[must_use]
    pub fn seen(&self) -> String {
        let source = self.text.get(self.node.span.clone()).unwrap_or_default();
        let line: Vec<&str> = source.split_whitespace().collect();
        let line = line.join(" ");
        if line.chars().count() <= SEEN_MAX {
            return line;
        }
        line.chars().take(SEEN_MAX).chain("...".chars()).collect()
    }

    pub(super) fn line(&self) -> usize {
        line_of(self.text, self.node.span.start)
    }
}

/// The line, from 1, of the byte at `offset`.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}

/// A parser's refusal: what would be allowed instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    what: String,
    words: Vec<String>,
    hides: bool,
}

impl Allowed {
    /// Describes what is allowed, with an example: `an address with a port,
    /// such as "127.0.0.1:7450"`.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), words: Vec::new(), hides: false }
    }

    /// Keeps what was seen out of the report: where the place of a secret is
    /// expected, the secret itself may stand.
    #[must_use]
    pub fn hiding_what_was_seen(self) -> Self {
        Self { hides: true, ..self }
    }

    pub(super) fn seen(&self, value: &Value<'_>) -> Option<String> {
        (!self.hides).then(|| value.seen())
    }

    /// One of these words; the nearest to what was seen is proposed.
    pub fn one_of(words: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let words: Vec<String> = words.into_iter().map(Into::into).collect();
        let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
        Self { what: format!("one of {}", quoted.join(", ")), words, hides: false }
    }

    pub(super) fn describe(&self, value: &Value<'_>) -> String {
        let words = self.words.iter().map(String::as_str);
        match value.as_str().and_then(|seen| nearest(&seen.to_lowercase(), words)) {
            Some(word) => format!("{}; did you mean `{word}`?", self.what),
            None => self.what.clone(),
        }
    }
}
