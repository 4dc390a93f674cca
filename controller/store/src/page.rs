//! Long lists, a page at a time.

use std::{fmt, str::FromStr};

/// Entries on a page for which no size was asked.
const SIZE_DEFAULT: u32 = 100;
/// Most entries on a page.
const SIZE_MAX: u32 = 1_000;

/// Where a page ends: the sort key of its last entry. Opaque to callers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    pub(crate) key: i64,
    pub(crate) id: String,
}

/// The text is no page token of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the page token is not one that was handed out; begin without one")]
pub struct InvalidCursor;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.key, self.id)
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let (key, id) = text.split_once('.').ok_or(InvalidCursor)?;
        let key = key.parse().map_err(|_| InvalidCursor)?;
        if id.len() > 200 {
            return Err(InvalidCursor);
        }
        Ok(Self { key, id: id.to_owned() })
    }
}

/// Which page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageRequest {
    size: u32,
    after: Option<Cursor>,
}

impl PageRequest {
    /// As the protocol asks (AIP-158): 0 or less means 100 entries, more than
    /// 1,000 counts as 1,000, an empty token begins at the start.
    pub fn try_new(size: i32, token: &str) -> Result<Self, InvalidCursor> {
        let after = if token.is_empty() { None } else { Some(token.parse()?) };
        Ok(Self { size: u32::try_from(size).unwrap_or(0), after })
    }

    /// The first page, of at most `size` entries.
    #[must_use]
    pub const fn first(size: u32) -> Self {
        Self { size, after: None }
    }

    /// The page after `cursor`.
    #[must_use]
    pub const fn after(size: u32, cursor: Cursor) -> Self {
        Self { size, after: Some(cursor) }
    }

    pub(crate) const fn limit(&self) -> u32 {
        match self.size {
            0 => SIZE_DEFAULT,
            size if size > SIZE_MAX => SIZE_MAX,
            size => size,
        }
    }

    /// The key to begin below, when the list goes down.
    pub(crate) fn below(&self) -> (i64, &str) {
        self.after.as_ref().map_or((i64::MAX, ""), |cursor| (cursor.key, cursor.id.as_str()))
    }
}

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The entries.
    pub items: Vec<T>,
    /// Where the next page begins; none when this was the last.
    pub next: Option<Cursor>,
}

impl<T> Page<T> {
    /// The token for the next page; empty when this was the last.
    #[must_use]
    pub fn next_token(&self) -> String {
        self.next.as_ref().map(ToString::to_string).unwrap_or_default()
    }

    /// A page of `request.limit()` entries out of one more than that, by which
    /// it is known whether there is another page.
    pub(crate) fn cut(
        mut items: Vec<T>,
        request: &PageRequest,
        cursor: impl Fn(&T) -> Cursor,
    ) -> Self {
        let limit = usize::try_from(request.limit()).unwrap_or(usize::MAX);
        let more = items.len() > limit;
        items.truncate(limit);
        let next = if more { items.last().map(cursor) } else { None };
        Self { items, next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bounded_as_the_protocol_says() {
        let limit = |size| PageRequest::try_new(size, "").unwrap().limit();
        assert_eq!([limit(0), limit(-1), limit(7), limit(5_000)], [100, 100, 7, 1_000]);
    }

    #[test]
    fn a_cursor_survives_its_text_form() {
        let cursor = Cursor { key: -42, id: "a.b".to_owned() };
        assert_eq!(cursor.to_string().parse::<Cursor>().unwrap(), cursor);
        assert_eq!(PageRequest::try_new(1, "nonsense"), Err(InvalidCursor));
    }
}
