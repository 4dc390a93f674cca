//! The little XML that a `config.xml` needs: elements, attributes, text.
//!
//! Read by a reader that resolves nothing but characters and the five predefined
//! entities, refuses document types, and is bounded in depth, size and number of
//! elements, so that neither a hostile nor a broken file can hurt. Comments and
//! processing instructions are dropped: nothing of OPNsense lives in them, and a
//! comment could carry anything into the redacted copy.

use quick_xml::{
    Reader, XmlVersion,
    events::{BytesStart, Event},
};

/// The largest file that is read, in bytes: a thousand times a usual one.
pub const BYTES_MAX: usize = 64 * 1024 * 1024;

const DEPTH_MAX: usize = 64;
const ELEMENTS_MAX: usize = 1_000_000;

/// An element with all that is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// Its name, prefix included.
    pub name: String,
    /// Its attributes, in the order of the file.
    pub attributes: Vec<(String, String)>,
    /// The elements in it, in the order of the file.
    pub children: Vec<Self>,
    /// Its own text. Where there are elements too, only what is more than space.
    pub text: String,
}

/// Why bytes are no document that can be read.
#[derive(Debug, thiserror::Error)]
pub enum XmlError {
    /// It is too large.
    #[error("it is larger than {BYTES_MAX} bytes")]
    TooLarge,
    /// It is no UTF-8.
    #[error("it is not UTF-8 text")]
    NotText(#[source] std::str::Utf8Error),
    /// It is not well-formed.
    #[error("it is not well-formed XML at byte {at}")]
    Syntax {
        /// Where.
        at: u64,
        /// What the reader said.
        #[source]
        source: quick_xml::Error,
    },
    /// It uses what is not allowed here.
    #[error("it has {what} at byte {at}, which is not allowed in a config.xml")]
    Forbidden {
        /// What.
        what: &'static str,
        /// Where.
        at: u64,
    },
    /// It has no or several roots, or ends early.
    #[error("it has no single root element that is closed")]
    NoRoot,
}

impl Element {
    /// Reads a document; gives its root.
    ///
    /// # Errors
    ///
    /// Why these bytes are no document.
    pub fn parse(bytes: &[u8]) -> Result<Self, XmlError> {
        if bytes.len() > BYTES_MAX {
            return Err(XmlError::TooLarge);
        }
        let text = std::str::from_utf8(bytes).map_err(XmlError::NotText)?;
        let mut reader = Reader::from_str(text);
        let mut building = Building::default();
        loop {
            let at = reader.buffer_position();
            let event = reader
                .read_event()
                .map_err(|source| XmlError::Syntax { at: reader.error_position(), source })?;
            if matches!(event, Event::Eof) {
                return building.root();
            }
            building.take(event, at)?;
        }
    }

    /// The first element of that name in this one.
    #[must_use]
    pub fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The element at the end of a path of names below this one.
    #[must_use]
    pub fn at(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |element, name| element.child(name))
    }

    /// The trimmed text of an element below this one, unless it is empty.
    #[must_use]
    pub fn text_at(&self, path: &[&str]) -> Option<&str> {
        self.at(path).map(|element| element.text.trim()).filter(|text| !text.is_empty())
    }

    /// All elements of that name in this one.
    pub fn all<'e>(&'e self, name: &'e str) -> impl Iterator<Item = &'e Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The document, the same bytes for the same tree: two spaces a level, one
    /// element a line, text as it is.
    #[must_use]
    pub fn to_document(&self) -> String {
        let mut document = "<?xml version=\"1.0\"?>\n".to_owned();
        self.write(&mut document, 0);
        document
    }

    fn write(&self, out: &mut String, depth: usize) {
        let indent = "  ".repeat(depth);
        out.push_str(&format!("{indent}<{}", self.name));
        for (name, value) in &self.attributes {
            out.push_str(&format!(" {name}=\"{}\"", escaped(value)));
        }
        if self.children.is_empty() && self.text.is_empty() {
            out.push_str("/>\n");
            return;
        }
        out.push('>');
        out.push_str(&escaped(&self.text));
        if !self.children.is_empty() {
            out.push('\n');
            self.children.iter().for_each(|child| child.write(out, depth + 1));
            out.push_str(&indent);
        }
        out.push_str(&format!("</{}>\n", self.name));
    }
}

/// Text for an element or an attribute. A carriage return would be read back as a
/// line feed, so that it stands as a reference.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\r' => out.push_str("&#13;"),
            c => out.push(c),
        }
    }
    out
}

#[derive(Default)]
struct Building {
    open: Vec<Element>,
    root: Option<Element>,
    elements: usize,
}

impl Building {
    fn take(&mut self, event: Event<'_>, at: u64) -> Result<(), XmlError> {
        match event {
            Event::Start(start) => self.start(&start, at)?,
            Event::Empty(start) => {
                self.start(&start, at)?;
                self.end(at)?;
            }
            Event::End(_) => self.end(at)?,
            Event::Text(text) => self.text(&text.xml10_content(), at)?,
            Event::CData(text) => self.text(&text.xml10_content(), at)?,
            Event::GeneralRef(reference) => {
                let syntax = |source| XmlError::Syntax { at, source };
                let character = match reference.resolve_char_ref().map_err(syntax)? {
                    Some(character) => character.to_string(),
                    None => predefined(&reference.xml10_content())
                        .ok_or(XmlError::Forbidden { what: "an entity of its own", at })?
                        .to_owned(),
                };
                self.text(&character, at)?;
            }
            Event::DocType(_) => {
                return Err(XmlError::Forbidden { what: "a document type", at });
            }
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::Eof => {}
        }
        Ok(())
    }

    fn start(&mut self, start: &BytesStart<'_>, at: u64) -> Result<(), XmlError> {
        self.elements += 1;
        if self.open.len() >= DEPTH_MAX || self.elements > ELEMENTS_MAX {
            return Err(XmlError::Forbidden { what: "too many or too deep elements", at });
        }
        let mut element = Element { name: start.name().as_ref().to_owned(), ..Element::default() };
        for attribute in start.attributes() {
            let syntax = |source| XmlError::Syntax { at, source };
            let attribute = attribute.map_err(|source| syntax(source.into()))?;
            let value = attribute.normalized_value(XmlVersion::Implicit1_0).map_err(syntax)?;
            element.attributes.push((attribute.key.as_ref().to_owned(), value.into_owned()));
        }
        self.open.push(element);
        Ok(())
    }

    fn end(&mut self, at: u64) -> Result<(), XmlError> {
        let Some(mut element) = self.open.pop() else { return Err(XmlError::NoRoot) };
        if !element.children.is_empty() && element.text.trim().is_empty() {
            element.text.clear();
        }
        match self.open.last_mut() {
            Some(parent) => parent.children.push(element),
            None if self.root.is_none() => self.root = Some(element),
            None => return Err(XmlError::Forbidden { what: "a second root element", at }),
        }
        Ok(())
    }

    fn text(&mut self, text: &str, at: u64) -> Result<(), XmlError> {
        match self.open.last_mut() {
            Some(element) => element.text.push_str(text),
            None if text.trim().is_empty() => {}
            None => return Err(XmlError::Forbidden { what: "text outside of its root", at }),
        }
        Ok(())
    }

    fn root(self) -> Result<Element, XmlError> {
        if !self.open.is_empty() {
            return Err(XmlError::NoRoot);
        }
        self.root.ok_or(XmlError::NoRoot)
    }
}

fn predefined(name: &str) -> Option<&'static str> {
    match name {
        "amp" => Some("&"),
        "lt" => Some("<"),
        "gt" => Some(">"),
        "quot" => Some("\""),
        "apos" => Some("'"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Element, XmlError> {
        Element::parse(text.as_bytes())
    }

    #[test]
    fn text_survives_reading_and_writing() {
        let text = "<a x=\"1 &amp; 2\"><b>\u{e4}&lt;&#x41;<![CDATA[<raw>]]></b><c/></a>";
        let element = parse(text).expect("a document");
        assert_eq!(element.text_at(&["b"]), Some("\u{e4}<A<raw>"));
        assert_eq!(element.attributes, [("x".to_owned(), "1 & 2".to_owned())]);
        let again = parse(&element.to_document()).expect("a document");
        assert_eq!(again, element);
    }

    #[test]
    fn entities_of_its_own_are_never_resolved() {
        let bomb = "<!DOCTYPE a [<!ENTITY b \"boom\">]><a>&b;</a>";
        assert!(matches!(parse(bomb), Err(XmlError::Forbidden { .. })));
        assert!(matches!(parse("<a>&b;</a>"), Err(XmlError::Forbidden { .. })));
    }

    #[test]
    fn what_is_cut_or_mixed_up_is_refused() {
        for text in ["", "<a>", "<a><b></a></b>", "<a/><b/>", "<a/>text", "</a>", "<a x=1/>"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let deep = "<a>".repeat(DEPTH_MAX + 1) + &"</a>".repeat(DEPTH_MAX + 1);
        assert!(matches!(parse(&deep), Err(XmlError::Forbidden { .. })));
    }
}
