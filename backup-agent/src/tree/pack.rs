//! A tree into a tar stream.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fmt,
    fs::File,
    io::{self, Cursor, Read},
    os::unix::ffi::OsStrExt,
    path::Path,
};

use nix::sys::stat::{FileStat, fstat};
use ring::digest;
use tar::{EntryType, Header};
use tokio::sync::oneshot;

use super::{
    ENTRIES_MAX, Entry, NAMES_MAX, Root, Rules, What, escape,
    walk::{Found, Kind, Trouble, Walk},
};
use crate::stream::Content;

/// tar's unit: headers are one block, contents are filled up to whole ones.
const BLOCK: u64 = 512;

/// Two empty blocks end an archive.
const END_BYTES: usize = 1024;

/// How often a file that changes under the reader is read before that is a finding.
const ATTEMPTS_MAX: u8 = 3;

/// What a file means that changed every time it was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Changing {
    /// The run fails: a torn file is no backup of it.
    #[default]
    Fail,
    /// It is stored as it was read last, with a warning.
    Warn,
}

/// What went into an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Every entry, in the order of the archive.
    pub entries: Vec<Entry>,
    /// What somebody should know, a sentence each.
    pub warnings: Vec<String>,
    /// How many paths a pattern left out, not counting what was in folders.
    pub excluded: u64,
    /// Mount points below a root that were not entered, escaped.
    pub mounts: Vec<Box<str>>,
}

/// Why a tree is not in an archive.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// Some paths could not be read.
    #[error("could not read {paths}; let the service's user read them, or exclude them")]
    Unreadable {
        /// The first of them, with what the system said.
        paths: Names,
    },
    /// Some files never stood still.
    #[error(
        "{paths} changed each of {ATTEMPTS_MAX} times that it was read; exclude it, back it up \
         from a snapshot, or accept it with `changing = \"warn\"`"
    )]
    Changing {
        /// The first of them.
        paths: Names,
    },
    /// Too many entries.
    #[error(
        "the tree has more than {ENTRIES_MAX} entries; exclude some, or declare several backups"
    )]
    TooMany,
    /// Too deep.
    #[error("`{path}` is nested too deep; exclude it")]
    TooDeep {
        /// Where.
        path: Box<str>,
    },
}

/// Some names and how many there were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    shown: Vec<String>,
    more: u64,
}

impl Names {
    pub(crate) fn push(&mut self, name: impl FnOnce() -> String) {
        if self.shown.len() < NAMES_MAX {
            self.shown.push(name());
        } else {
            self.more += 1;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.shown.is_empty()
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown.join(", "))?;
        if self.more > 0 {
            write!(f, " and {} more", self.more)?;
        }
        Ok(())
    }
}

/// Reads some roots as a tar archive. The second value resolves when the archive has
/// been read to its end; dropped, the archive failed.
#[must_use]
pub fn pack(
    roots: Vec<Root>,
    rules: Rules,
    changing: Changing,
) -> (Pack, oneshot::Receiver<Packed>) {
    let (done, packed) = oneshot::channel();
    let pack = Pack {
        walk: Walk::new(roots, rules),
        changing,
        pending: Cursor::default(),
        body: None,
        ended: false,
        links: HashMap::new(),
        entries: Vec::new(),
        special: Names::default(),
        changed: Names::default(),
        unreadable: Names::default(),
        done: Some(done),
    };
    (pack, packed)
}

/// A tar archive of a tree, made while it is read: no more than a block of it and
/// the list of its entries are held in memory.
///
/// A file that changes while it is read is written again right after itself. Readers
/// of tar take the last of two entries with one name, so that nothing has to be held
/// back for a second look.
#[derive(Debug)]
pub struct Pack {
    walk: Walk,
    changing: Changing,
    /// Headers and fillings that wait to be read.
    pending: Cursor<Vec<u8>>,
    body: Option<Body>,
    ended: bool,
    /// The first name of each file that has several.
    links: HashMap<(u64, u64), Box<str>>,
    entries: Vec<Entry>,
    special: Names,
    changed: Names,
    unreadable: Names,
    done: Option<oneshot::Sender<Packed>>,
}

/// A file that is being read.
struct Body {
    found: Found,
    file: File,
    before: Stamp,
    left: u64,
    hash: digest::Context,
    attempt: u8,
    torn: Option<io::Error>,
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body").field("path", &self.found.path).finish_non_exhaustive()
    }
}

/// What changes when a file does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl From<&FileStat> for Stamp {
    fn from(stat: &FileStat) -> Self {
        Self {
            bytes: u64::try_from(stat.st_size).unwrap_or_default(),
            modified: (stat.st_mtime, stat.st_mtime_nsec),
            changed: (stat.st_ctime, stat.st_ctime_nsec),
        }
    }
}

impl Read for Pack {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let count = self.pending.read(buffer)?;
            if count > 0 || buffer.is_empty() {
                return Ok(count);
            }
            if let Some(body) = &mut self.body {
                if body.left > 0 {
                    return Ok(body.read(buffer));
                }
                self.finish_body()?;
            } else if self.ended {
                return Ok(0);
            } else {
                self.advance()?;
            }
        }
    }
}

impl Content for Pack {
    fn finish(&mut self) -> io::Result<()> {
        if !self.unreadable.is_empty() {
            let paths = std::mem::take(&mut self.unreadable);
            return Err(io::Error::other(PackError::Unreadable { paths }));
        }
        let mut warnings = Vec::new();
        if !self.changed.is_empty() {
            let paths = std::mem::take(&mut self.changed);
            if self.changing == Changing::Fail {
                return Err(io::Error::other(PackError::Changing { paths }));
            }
            warnings.push(format!("changed while being read, stored as read last: {paths}"));
        }
        if !self.special.is_empty() {
            warnings.push(format!("sockets, pipes and devices are not stored: {}", self.special));
        }
        let mounts = self.walk.mounts.iter().map(|path| escape(path.as_os_str().as_bytes()));
        let packed = Packed {
            entries: std::mem::take(&mut self.entries),
            warnings,
            excluded: self.walk.excluded,
            mounts: mounts.collect(),
        };
        // Whoever does not wait for it any more has another cause to report.
        drop(self.done.take().map(|done| done.send(packed)));
        Ok(())
    }
}

impl Pack {
    /// Takes the next entry of the walk.
    fn advance(&mut self) -> io::Result<()> {
        match self.walk.next() {
            None => {
                self.ended = true;
                self.emit(vec![0; END_BYTES]);
            }
            Some(Ok(found)) => self.take(found),
            Some(Err(Trouble::Path { path, source })) => self.note_unreadable(&path, &source),
            Some(Err(Trouble::TooMany)) => return Err(io::Error::other(PackError::TooMany)),
            Some(Err(Trouble::TooDeep { path })) => {
                let path = escape(path.as_os_str().as_bytes());
                return Err(io::Error::other(PackError::TooDeep { path }));
            }
        }
        Ok(())
    }

    fn take(&mut self, found: Found) {
        match found.kind {
            Kind::Folder => {
                self.emit(header(EntryType::Directory, &found, 0, None));
                self.list(&found, What::Folder);
            }
            Kind::Symlink => match self.walk.read_link(&found) {
                Ok(target) => {
                    self.emit(header(EntryType::Symlink, &found, 0, Some(&target)));
                    let target = escape(target.as_bytes());
                    self.list(&found, What::Symlink { target });
                }
                Err(error) => self.note_unreadable(&found.path, &error),
            },
            Kind::File => self.take_file(found),
            Kind::Special => {
                self.special.push(|| escape(found.path.as_os_str().as_bytes()).into());
            }
        }
    }

    fn take_file(&mut self, found: Found) {
        let identity = (found.stat.st_dev, found.stat.st_ino);
        if found.stat.st_nlink > 1
            && let Some(to) = self.links.get(&identity).cloned()
        {
            let target = super::unescape(&to).unwrap_or_default();
            let target = OsStr::from_bytes(&target);
            self.emit(header(EntryType::Link, &found, 0, Some(target)));
            self.list(&found, What::HardLink { to });
            return;
        }
        self.begin(found, 1);
    }

    /// Opens the file and writes its header.
    fn begin(&mut self, mut found: Found, attempt: u8) {
        let opened = self.walk.open(&found).and_then(|file| Ok((fstat(&file)?, file)));
        let (stat, file) = match opened {
            Ok(opened) => opened,
            // Gone since the folder was listed: the tree no longer holds it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return self.note_unreadable(&found.path, &error),
        };
        found.stat = stat;
        let before = Stamp::from(&stat);
        self.emit(header(EntryType::Regular, &found, before.bytes, None));
        let hash = digest::Context::new(&digest::SHA256);
        let left = before.bytes;
        self.body = Some(Body { found, file, before, left, hash, attempt, torn: None });
    }

    /// Fills the last block up; a file that changed is read again.
    fn finish_body(&mut self) -> io::Result<()> {
        let Some(Body { found, file, before, hash, attempt, torn, .. }) = self.body.take() else {
            return Ok(());
        };
        self.emit(vec![0; filling(before.bytes)]);
        if let Some(error) = torn {
            self.note_unreadable(&found.path, &error);
            return Ok(());
        }
        let changed = Stamp::from(&fstat(&file)?) != before;
        if changed && attempt < ATTEMPTS_MAX {
            self.begin(found.clone(), attempt + 1);
            if self.body.is_some() {
                return Ok(());
            }
            // Deleted after it had changed: what was read is all that there is.
        }
        if changed {
            self.changed.push(|| escape(found.path.as_os_str().as_bytes()).into());
        }
        if found.stat.st_nlink > 1 {
            let identity = (found.stat.st_dev, found.stat.st_ino);
            self.links.insert(identity, escape(found.path.as_os_str().as_bytes()));
        }
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(hash.finish().as_ref());
        self.list(&found, What::File { bytes: before.bytes, sha256 });
        Ok(())
    }

    fn list(&mut self, found: &Found, what: What) {
        self.entries.push(Entry {
            path: escape(found.path.as_os_str().as_bytes()),
            mode: found.stat.st_mode & 0o7777,
            uid: found.stat.st_uid,
            gid: found.stat.st_gid,
            mtime: found.stat.st_mtime.max(0),
            what,
        });
    }

    fn emit(&mut self, bytes: Vec<u8>) {
        let rest = self.pending.position();
        if rest >= self.pending.get_ref().len() as u64 {
            self.pending = Cursor::new(bytes);
        } else {
            self.pending.get_mut().extend_from_slice(&bytes);
        }
    }

    fn note_unreadable(&mut self, path: &Path, error: &io::Error) {
        self.unreadable.push(|| format!("{} ({error})", escape(path.as_os_str().as_bytes())));
    }
}

impl Body {
    /// Reads into the front of `buffer`; what the file no longer has is zeros, for the
    /// size stands in the header already.
    fn read(&mut self, buffer: &mut [u8]) -> usize {
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let part = &mut buffer[..wanted];
        let count = match self.file.read(part) {
            Ok(0) => {
                part.fill(0);
                wanted
            }
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return self.read(buffer),
            Err(error) => {
                self.torn.get_or_insert(error);
                part.fill(0);
                wanted
            }
        };
        self.hash.update(&buffer[..count]);
        self.left -= count as u64;
        count
    }
}

/// How many zeros follow a content of this size.
fn filling(bytes: u64) -> usize {
    usize::try_from(bytes.next_multiple_of(BLOCK) - bytes).unwrap_or_default()
}

/// The header of an entry in GNU's form, with those for long names in front.
fn header(kind: EntryType, found: &Found, bytes: u64, link: Option<&OsStr>) -> Vec<u8> {
    let mut path = found.path.as_os_str().as_bytes().to_vec();
    if kind == EntryType::Directory {
        path.push(b'/');
    }
    let mut blocks = Vec::new();
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(found.stat.st_mode & 0o7777);
    header.set_uid(found.stat.st_uid.into());
    header.set_gid(found.stat.st_gid.into());
    header.set_mtime(u64::try_from(found.stat.st_mtime).unwrap_or_default());
    header.set_size(bytes);
    if let Some(gnu) = header.as_gnu_mut() {
        if let Some(link) = link {
            put(&mut gnu.linkname, link.as_bytes(), EntryType::GNULongLink, &mut blocks);
        }
        put(&mut gnu.name, &path, EntryType::GNULongName, &mut blocks);
    }
    header.set_cksum();
    blocks.extend_from_slice(header.as_bytes());
    blocks
}

/// Puts a name into its field, and in front of the header as a whole if it is longer.
fn put(field: &mut [u8], name: &[u8], long: EntryType, blocks: &mut Vec<u8>) {
    let fits = name.len().min(field.len());
    field[..fits].copy_from_slice(&name[..fits]);
    if fits == name.len() {
        return;
    }
    let bytes = name.len() as u64 + 1;
    let mut header = Header::new_gnu();
    if let Some(gnu) = header.as_gnu_mut() {
        gnu.name[..LONG_NAME.len()].copy_from_slice(LONG_NAME);
    }
    header.set_entry_type(long);
    header.set_size(bytes);
    header.set_cksum();
    blocks.extend_from_slice(header.as_bytes());
    blocks.extend_from_slice(name);
    blocks.resize(blocks.len() + 1 + filling(bytes), 0);
}

/// The name that GNU tar gives to the entries that hold a long name.
const LONG_NAME: &[u8] = b"././@LongLink";
