//! A tar stream into a new folder, trusting nothing that it says.

use std::{
    ffi::{OsStr, OsString},
    fs::{DirBuilder, File},
    io::{self, Read, Write},
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, fs::DirBuilderExt},
    },
    path::{Component, Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, openat},
    sys::{
        stat::{Mode, SFlag, fchmod, fstatat, futimens, mkdirat},
        time::TimeSpec,
    },
    unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat},
};
use ring::digest;
use tar::{Archive, EntryType};
use tokio_util::sync::CancellationToken;

use super::{DEPTH_MAX, ENTRIES_MAX, Entry, What, escape};

/// The size of the pieces in which contents are written.
const PIECE_BYTES: usize = 256 * 1024;

/// Set-id and sticky bits have no business in a folder for looking at things.
const MODE_MASK: u32 = 0o777;

/// What came out of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extracted {
    /// Every entry, as its header describes it, with the digest of what was written.
    pub entries: Vec<Entry>,
    /// Bytes of all files.
    pub bytes: u64,
}

/// Why an archive was not extracted. What was written until then lies in the folder.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// The archive is cut or is none.
    #[error("the archive cannot be read to its end")]
    Archive(#[source] io::Error),
    /// An entry would lie outside the folder, or behind a symbolic link.
    #[error("entry `{path}` of the archive leads out of the folder")]
    Escapes {
        /// The entry.
        path: Box<str>,
    },
    /// An entry that [`super::pack`] never makes.
    #[error("entry `{path}` of the archive is of a kind that is not extracted")]
    Unsupported {
        /// The entry.
        path: Box<str>,
    },
    /// More entries than any archive of ours has.
    #[error("the archive has more than {ENTRIES_MAX} entries")]
    TooMany,
    /// The disk refused, or the folder is not new.
    #[error("could not write `{}`", path.display())]
    Write {
        /// What was written.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Somebody asked to stop.
    #[error("cancelled")]
    Cancelled,
}

/// Extracts `archive` into the folder `into`, which is made. Owners are not given;
/// modes and times of folders come last, so that none is in the way. Blocks.
///
/// # Errors
///
/// [`ExtractError`].
pub fn extract(
    archive: impl Read,
    into: &Path,
    cancel: &CancellationToken,
) -> Result<Extracted, ExtractError> {
    let write = |source| ExtractError::Write { path: into.to_owned(), source };
    DirBuilder::new().mode(0o700).create(into).map_err(write)?;
    let root = File::open(into).map_err(write)?.into();
    let mut extraction = Extraction {
        root,
        into,
        cancel,
        parent: None,
        done: Extracted { entries: Vec::new(), bytes: 0 },
        piece: vec![0; PIECE_BYTES],
    };
    let mut archive = Archive::new(archive);
    for entry in archive.entries().map_err(ExtractError::Archive)? {
        extraction.take(entry.map_err(ExtractError::Archive)?)?;
    }
    extraction.finish_folders()?;
    Ok(extraction.done)
}

struct Extraction<'a> {
    root: OwnedFd,
    into: &'a Path,
    cancel: &'a CancellationToken,
    /// The folder of the last entry: the next one is mostly in it as well.
    parent: Option<(PathBuf, OwnedFd)>,
    done: Extracted,
    piece: Vec<u8>,
}

impl Extraction<'_> {
    fn take<R: Read>(&mut self, mut entry: tar::Entry<'_, R>) -> Result<(), ExtractError> {
        if self.cancel.is_cancelled() {
            return Err(ExtractError::Cancelled);
        }
        if self.done.entries.len() >= ENTRIES_MAX {
            return Err(ExtractError::TooMany);
        }
        let raw = entry.path_bytes().into_owned();
        let path = safe(&raw)?;
        let described = describe(&entry, &path).map_err(ExtractError::Archive)?;
        let link = entry.link_name_bytes().map(std::borrow::Cow::into_owned).unwrap_or_default();
        let what = match entry.header().entry_type() {
            EntryType::Directory => {
                self.folder(&path)?;
                What::Folder
            }
            EntryType::Regular => self.file(&path, &mut entry, &described)?,
            EntryType::Symlink => {
                let (parent, name) = self.parent_of(&path)?;
                symlinkat(OsStr::from_bytes(&link), parent, name.as_os_str())
                    .map_err(|source| self.write_error(&path, source))?;
                What::Symlink { target: escape(&link) }
            }
            EntryType::Link => {
                self.hard_link(&path, &safe(&link)?)?;
                What::HardLink { to: escape(&link) }
            }
            _ => return Err(ExtractError::Unsupported { path: described.path }),
        };
        self.done.bytes += if let What::File { bytes, .. } = what { bytes } else { 0 };
        self.done.entries.push(Entry { what, ..described });
        Ok(())
    }

    fn folder(&mut self, path: &Path) -> Result<(), ExtractError> {
        let (parent, name) = self.parent_of(path)?;
        match mkdirat(parent, name.as_os_str(), Mode::S_IRWXU) {
            Ok(()) => Ok(()),
            // Made for something below it; a link in its place shows when it is entered.
            Err(Errno::EEXIST) => self.enter(path).map(drop),
            Err(source) => Err(self.write_error(path, source)),
        }
    }

    fn file(
        &mut self,
        path: &Path,
        content: &mut impl Read,
        described: &Entry,
    ) -> Result<What, ExtractError> {
        let (parent, name) = self.parent_of(path)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let mut opened = openat(parent, name.as_os_str(), flags, mode);
        if opened.as_ref().is_err_and(|it| *it == Errno::EEXIST) && self.was_file(&described.path) {
            // A file that changed while it was read stands there twice; the last one counts.
            let (parent, name) = self.parent_of(path)?;
            opened = unlinkat(parent, name.as_os_str(), UnlinkatFlags::NoRemoveDir)
                .and_then(|()| openat(parent, name.as_os_str(), flags, mode));
        }
        let mut file: File = opened.map_err(|source| self.write_error(path, source))?.into();
        let mut hash = digest::Context::new(&digest::SHA256);
        let mut bytes = 0;
        loop {
            if self.cancel.is_cancelled() {
                return Err(ExtractError::Cancelled);
            }
            let count = content.read(&mut self.piece).map_err(ExtractError::Archive)?;
            if count == 0 {
                break;
            }
            let piece = &self.piece[..count];
            hash.update(piece);
            bytes += count as u64;
            let written = file.write_all(piece);
            written.map_err(|source| ExtractError::Write { path: self.into.join(path), source })?;
        }
        if described.bytes() != bytes {
            return Err(ExtractError::Archive(io::ErrorKind::UnexpectedEof.into()));
        }
        settle(&file, described).map_err(|source| self.write_error(path, source))?;
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(hash.finish().as_ref());
        Ok(What::File { bytes, sha256 })
    }

    /// Whether this path was extracted as a file; it is forgotten then.
    fn was_file(&mut self, path: &str) -> bool {
        let same = |entry: &Entry| &*entry.path == path && matches!(entry.what, What::File { .. });
        let Some(index) = self.done.entries.iter().rposition(same) else { return false };
        let entry = self.done.entries.remove(index);
        self.done.bytes -= entry.bytes();
        true
    }

    fn hard_link(&mut self, path: &Path, to: &Path) -> Result<(), ExtractError> {
        let (folder, source) = self.parent_of(to)?;
        let folder = folder.try_clone();
        let folder = folder.map_err(|source| ExtractError::Write { path: to.into(), source })?;
        let stat = fstatat(&folder, source.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(|source| self.write_error(to, source))?;
        if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
            return Err(ExtractError::Escapes { path: escape(path.as_os_str().as_bytes()) });
        }
        let (parent, name) = self.parent_of(path)?;
        linkat(&folder, source.as_os_str(), parent, name.as_os_str(), AtFlags::empty())
            .map_err(|source| self.write_error(path, source))
    }

    /// The open folder in which `path` lies, and its name there.
    fn parent_of(&mut self, path: &Path) -> Result<(&OwnedFd, OsString), ExtractError> {
        let name = path.file_name().unwrap_or_default().to_owned();
        let parent = path.parent().unwrap_or_else(|| Path::new(""));
        if self.parent.as_ref().is_none_or(|(known, _)| known != parent) {
            let folder = self.enter(parent)?;
            self.parent = Some((parent.to_owned(), folder));
        }
        match &self.parent {
            Some((_, folder)) => Ok((folder, name)),
            None => Err(ExtractError::Escapes { path: escape(path.as_os_str().as_bytes()) }),
        }
    }

    /// Opens a folder step by step, so that no link is followed; makes what is missing.
    fn enter(&self, path: &Path) -> Result<OwnedFd, ExtractError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut folder = self
            .root
            .try_clone()
            .map_err(|source| ExtractError::Write { path: self.into.to_owned(), source })?;
        for name in path {
            let step = match openat(&folder, name, flags, Mode::empty()) {
                Err(Errno::ENOENT) => mkdirat(&folder, name, Mode::S_IRWXU)
                    .and_then(|()| openat(&folder, name, flags, Mode::empty())),
                step => step,
            };
            folder = step.map_err(|source| match source {
                Errno::ELOOP | Errno::ENOTDIR => {
                    ExtractError::Escapes { path: escape(path.as_os_str().as_bytes()) }
                }
                source => self.write_error(path, source),
            })?;
        }
        Ok(folder)
    }

    fn finish_folders(&mut self) -> Result<(), ExtractError> {
        let folders = self.done.entries.iter().rev().filter(|it| it.what == What::Folder);
        for entry in folders {
            let path = super::unescape(&entry.path).unwrap_or_default();
            let path = Path::new(OsStr::from_bytes(&path));
            let folder = File::from(self.enter(path)?);
            settle(&folder, entry).map_err(|source| self.write_error(path, source))?;
        }
        Ok(())
    }

    fn write_error(&self, path: &Path, source: Errno) -> ExtractError {
        ExtractError::Write { path: self.into.join(path), source: source.into() }
    }
}

/// Gives mode and time of change.
fn settle(file: &File, entry: &Entry) -> nix::Result<()> {
    fchmod(file, Mode::from_bits_truncate(entry.mode & MODE_MASK))?;
    let modified = TimeSpec::new(entry.mtime, 0);
    futimens(file, &modified, &modified)
}

/// A path that stays in the folder: relative, no dots, not too deep.
fn safe(raw: &[u8]) -> Result<PathBuf, ExtractError> {
    let path = Path::new(OsStr::from_bytes(raw));
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    let depth = path.components().count();
    // `a/../b` and `/a` have other components; `a/./b` would lose one.
    if depth == 0 || depth > DEPTH_MAX || !path.components().all(plain) || raw.contains(&0) {
        return Err(ExtractError::Escapes { path: escape(raw) });
    }
    Ok(path.components().collect())
}

/// What the header says; the digest is known later.
fn describe<R: Read>(entry: &tar::Entry<'_, R>, path: &Path) -> io::Result<Entry> {
    let header = entry.header();
    let number = |value: u64| u32::try_from(value).map_err(io::Error::other);
    Ok(Entry {
        path: escape(path.as_os_str().as_bytes()),
        mode: header.mode()? & 0o7777,
        uid: number(header.uid()?)?,
        gid: number(header.gid()?)?,
        mtime: i64::try_from(header.mtime()?).map_err(io::Error::other)?,
        what: What::File { bytes: entry.size(), sha256: [0; 32] },
    })
}
