//! Text as a reader takes it: without what cannot be seen, and with the wide
//! forms of ASCII made narrow. Who hides an address from a machine by them has
//! not hidden it from a model.

use std::{borrow::Cow, ops::Range};

/// Folded text, and where each of its bytes came from.
#[derive(Debug)]
pub(super) struct Folded<'t> {
    text: Cow<'t, str>,
    /// Start and end of the original character of each byte; none when nothing
    /// was changed.
    origins: Option<Vec<Range<usize>>>,
}

impl<'t> Folded<'t> {
    pub(super) fn of(text: &'t str) -> Self {
        if text.chars().all(|c| folded(c) == Some(c)) {
            return Self { text: Cow::Borrowed(text), origins: None };
        }
        let mut plain = String::with_capacity(text.len());
        let mut origins = Vec::with_capacity(text.len());
        for (start, original) in text.char_indices() {
            let Some(c) = folded(original) else { continue };
            plain.push(c);
            let origin = start..start + original.len_utf8();
            origins.extend(std::iter::repeat_n(origin, c.len_utf8()));
        }
        Self { text: Cow::Owned(plain), origins: Some(origins) }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Where a part of the folded text stands in the original.
    pub(super) fn original(&self, span: Range<usize>) -> Range<usize> {
        let Some(origins) = &self.origins else { return span };
        let inside = origins.get(span).unwrap_or_default();
        match (inside.first(), inside.last()) {
            (Some(first), Some(last)) => first.start..last.end,
            _ => 0..0,
        }
    }
}

fn folded(c: char) -> Option<char> {
    match c {
        _ if is_unseen(c) => None,
        // Full-width forms stand in the order of ASCII.
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(u32::from(c) - 0xff01 + 0x21),
        // One dot leader and the ideographic full stop, which resolvers take for a dot.
        '\u{2024}' | '\u{3002}' | '\u{ff61}' => Some('.'),
        // Hyphens that are not ASCII's.
        '\u{2010}' | '\u{2011}' => Some('-'),
        _ => Some(c),
    }
}

/// Whether a reader sees nothing of it: what Unicode calls default ignorable (soft hyphen, joiners,
/// zero-width characters, marks and isolates of direction, variation selectors, tags, fillers),
/// annotation marks, and control characters that are no space.
fn is_unseen(c: char) -> bool {
    match c {
        ' '..='~' | '\t'..='\r' => false,
        '\0'..='\u{9f}' => true,
        '\u{ad}'
        | '\u{34f}'
        | '\u{61c}'
        | '\u{115f}'..='\u{1160}'
        | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}'
        | '\u{feff}'
        | '\u{ffa0}'
        | '\u{fff0}'..='\u{fffb}'
        | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}' => true,
        _ => false,
    }
}
