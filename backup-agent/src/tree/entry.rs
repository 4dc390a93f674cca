//! One line per path: what a tree holds, in a manifest.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::stream::hex;

/// Something in a tree. In a manifest it is one line of text, so that a hundred
/// thousand of them stay readable and small:
///
/// ```text
/// d 0755 1000:1000 1764000000 photos
/// f 0644 1000:1000 1764000000 photos/a.jpg 31337 9f86d081…
/// l 0777 1000:1000 1764000000 photos/latest a.jpg
/// h 0644 1000:1000 1764000000 photos/b.jpg photos/a.jpg
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its path within the tree, as [`escape`] writes it.
    pub path: Box<str>,
    /// Permissions, with the set-id and sticky bits.
    pub mode: u32,
    /// Number of the owner.
    pub uid: u32,
    /// Number of the group.
    pub gid: u32,
    /// Time of the last change, in seconds since 1970.
    pub mtime: i64,
    /// What it is.
    pub what: What,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A folder.
    Folder,
    /// A file.
    File {
        /// Its size.
        bytes: u64,
        /// SHA-256 of its content.
        sha256: [u8; 32],
    },
    /// A symbolic link.
    Symlink {
        /// Where it points, escaped.
        target: Box<str>,
    },
    /// Another name of a file that came earlier.
    HardLink {
        /// The path of that file, escaped.
        to: Box<str>,
    },
}

impl Entry {
    /// Bytes of content, none for what is no file.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        match self.what {
            What::File { bytes, .. } => bytes,
            _ => 0,
        }
    }
}

/// A path in printable text without blanks: bytes that are blanks, control
/// characters, backslashes or no UTF-8 become `\xNN`. Equal paths give equal text.
#[must_use]
pub fn escape(path: &[u8]) -> Box<str> {
    let mut text = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character == '\\' || character.is_whitespace() || character.is_control() {
                let mut buffer = [0; 4];
                character.encode_utf8(&mut buffer).bytes().for_each(|byte| push(&mut text, byte));
            } else {
                text.push(character);
            }
        }
        chunk.invalid().iter().for_each(|byte| push(&mut text, *byte));
    }
    text.into_boxed_str()
}

fn push(text: &mut String, byte: u8) {
    text.push_str("\\x");
    text.push_str(&hex(&[byte]));
}

/// The bytes that [`escape`] was given; nothing for other text.
#[must_use]
pub fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        bytes.extend_from_slice(plain.as_bytes());
        let digits = escaped.strip_prefix('x')?.get(..2)?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = escaped.get(3..)?;
    }
    bytes.extend_from_slice(rest.as_bytes());
    Some(bytes)
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let letter = match self.what {
            What::Folder => 'd',
            What::File { .. } => 'f',
            What::Symlink { .. } => 'l',
            What::HardLink { .. } => 'h',
        };
        let Self { path, mode, uid, gid, mtime, what } = self;
        write!(f, "{letter} {mode:04o} {uid}:{gid} {mtime} {path}")?;
        match what {
            What::Folder => Ok(()),
            What::File { bytes, sha256 } => write!(f, " {bytes} {}", hex(sha256)),
            What::Symlink { target } => write!(f, " {target}"),
            What::HardLink { to } => write!(f, " {to}"),
        }
    }
}

/// The text is no line of a manifest.
#[derive(Debug, thiserror::Error)]
#[error("`{line}` does not describe an entry of a tree")]
pub struct InvalidEntry {
    /// What was given.
    pub line: String,
}

impl FromStr for Entry {
    type Err = InvalidEntry;

    fn from_str(line: &str) -> Result<Self, InvalidEntry> {
        parse(line).ok_or_else(|| InvalidEntry { line: line.to_owned() })
    }
}

fn parse(line: &str) -> Option<Entry> {
    let mut words = line.split(' ');
    let letter = words.next()?;
    let mode = u32::from_str_radix(words.next()?, 8).ok()?;
    let (uid, gid) = words.next()?.split_once(':')?;
    let mtime = words.next()?.parse().ok()?;
    let path = words.next()?;
    let what = match letter {
        "d" => What::Folder,
        "f" => What::File { bytes: words.next()?.parse().ok()?, sha256: digest_of(words.next()?)? },
        "l" => What::Symlink { target: words.next()?.into() },
        "h" => What::HardLink { to: words.next()?.into() },
        _ => return None,
    };
    let ends = words.next().is_none();
    let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
    (ends && !path.is_empty()).then(|| Entry { path: path.into(), mode, uid, gid, mtime, what })
}

fn digest_of(digits: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if digits.len() != 2 * bytes.len() {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(bytes)
}

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_entry_reads_back_from_its_line() {
        let target: Box<str> = escape(b"../a b\\c");
        let base = Entry {
            path: escape("zürich/\u{7f}\n".as_bytes()),
            mode: 0o4755,
            uid: 1000,
            gid: 0,
            mtime: -1,
            what: What::Folder,
        };
        for what in [
            What::Folder,
            What::File { bytes: 7, sha256: [0xa5; 32] },
            What::Symlink { target: target.clone() },
            What::HardLink { to: target },
        ] {
            let entry = Entry { what, ..base.clone() };
            let json = serde_json::to_string(&entry).expect("JSON");
            assert_eq!(serde_json::from_str::<Entry>(&json).expect("an entry"), entry, "{json}");
        }
    }

    #[test]
    fn what_is_no_line_is_refused() {
        for line in
            ["", "f 0644 0:0 0 a 1 00", "x 0644 0:0 0 a", "d 0755 0:0 0 a b", "d 0755 0:0 0 "]
        {
            assert!(line.parse::<Entry>().is_err(), "{line}");
        }
    }

    proptest! {
        #[test]
        fn every_path_survives_being_written(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let text = escape(&bytes);
            prop_assert!(!text.contains(char::is_whitespace));
            prop_assert_eq!(unescape(&text), Some(bytes));
        }
    }
}
