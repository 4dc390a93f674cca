//! A tree in a fixed order, by open folders.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    vec,
};

use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{AtFlags, OFlag, openat, readlinkat},
    sys::stat::{FileStat, Mode, SFlag, fstatat},
};

use super::{DEPTH_MAX, ENTRIES_MAX, Exclude};

/// Where a tree begins, and what it is called in the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// The folder or file.
    pub path: PathBuf,
    /// Its path in the archive; empty where the content of a folder stands at the
    /// top of the archive and the folder itself is not an entry.
    pub inside: PathBuf,
}

impl Root {
    /// Under its own path without the leading slash, as tar does it.
    #[must_use]
    pub fn under_own_path(path: &Path) -> Self {
        let inside = path.strip_prefix("/").unwrap_or(path).to_owned();
        Self { path: path.to_owned(), inside }
    }
}

/// Whether a walk enters what is mounted below a root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Filesystems {
    /// Mount points stay empty folders.
    #[default]
    One,
    /// Whatever is mounted is read as well.
    All,
}

/// What of a tree is read.
#[derive(Clone, Debug)]
pub struct Rules {
    /// What is left out.
    pub exclude: Exclude,
    /// Whether mount points are entered.
    pub filesystems: Filesystems,
}

impl Default for Rules {
    fn default() -> Self {
        Self { exclude: Exclude::nothing(), filesystems: Filesystems::One }
    }
}

/// What was found at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Folder,
    File,
    Symlink,
    /// A socket, pipe or device.
    Special,
}

/// A path of the tree, not yet read.
#[derive(Clone, Debug)]
pub(super) struct Found {
    /// Its path in the archive.
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
    pub(super) stat: FileStat,
    name: OsString,
}

/// Why the walk could not go on at a path.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// This path alone is affected.
    #[error("`{}`", path.display())]
    Path {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A bound was met; the walk is over.
    #[error("more than {ENTRIES_MAX} entries")]
    TooMany,
    /// As above.
    #[error("`{}` is nested more than {DEPTH_MAX} deep", path.display())]
    TooDeep { path: PathBuf },
}

/// The entries of some roots, parents before what is in them, siblings by the bytes of
/// their names. Entries that vanish meanwhile are passed over.
#[derive(Debug)]
pub(super) struct Walk {
    roots: vec::IntoIter<Root>,
    rules: Rules,
    levels: Vec<Level>,
    /// The device of the current root.
    device: u64,
    seen: usize,
    /// What was left out by a rule.
    pub(super) excluded: u64,
    /// Mount points that were not entered.
    pub(super) mounts: Vec<PathBuf>,
}

#[derive(Debug)]
struct Level {
    folder: Dir,
    names: vec::IntoIter<OsString>,
    at: At,
}

#[derive(Debug)]
enum At {
    /// Holds one root, which has this path in the archive.
    AboveRoot(PathBuf),
    /// A folder of the tree.
    Folder(PathBuf),
}

impl Walk {
    pub(super) fn new(roots: Vec<Root>, rules: Rules) -> Self {
        let roots = roots.into_iter();
        Self {
            roots,
            rules,
            levels: Vec::new(),
            device: 0,
            seen: 0,
            excluded: 0,
            mounts: Vec::new(),
        }
    }

    /// The next entry. After trouble with one path it goes on behind it.
    pub(super) fn next(&mut self) -> Option<Result<Found, Trouble>> {
        loop {
            let Some(level) = self.levels.last_mut() else {
                let root = self.roots.next()?;
                if let Err(trouble) = self.enter_root(root) {
                    return Some(Err(trouble));
                }
                continue;
            };
            let Some(name) = level.names.next() else {
                self.levels.pop();
                continue;
            };
            match self.look_at(name) {
                Ok(Some(found)) => return Some(Ok(found)),
                Ok(None) => {}
                Err(trouble) => return Some(Err(trouble)),
            }
        }
    }

    /// Opens what [`Walk::next`] gave last, if it is a file.
    pub(super) fn open(&self, found: &Found) -> io::Result<File> {
        let folder = self.levels.last().ok_or(Errno::ENOENT)?;
        // Nobody may make us wait by putting a pipe in the place of the file.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        Ok(openat(&folder.folder, found.name.as_os_str(), flags, Mode::empty())?.into())
    }

    /// Where the symbolic link that [`Walk::next`] gave last points.
    pub(super) fn read_link(&self, found: &Found) -> io::Result<OsString> {
        let folder = self.levels.last().ok_or(Errno::ENOENT)?;
        Ok(readlinkat(&folder.folder, found.name.as_os_str())?)
    }

    fn enter_root(&mut self, root: Root) -> Result<(), Trouble> {
        let trouble =
            |source: Errno| Trouble::Path { path: root.path.clone(), source: source.into() };
        // `/` has neither a parent nor a name.
        let parent = root.path.parent().unwrap_or(&root.path);
        let name = root.path.file_name().unwrap_or_else(|| OsStr::new("."));
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let folder = Dir::open(parent, flags, Mode::empty()).map_err(trouble)?;
        let stat = fstatat(&folder, name, AtFlags::AT_SYMLINK_NOFOLLOW).map_err(trouble)?;
        if kind_of(&stat) == Kind::Symlink {
            // Read as a link it would be a backup of nothing.
            return Err(trouble(Errno::ELOOP));
        }
        self.device = stat.st_dev;
        let (names, at) = (vec![name.to_owned()].into_iter(), At::AboveRoot(root.inside));
        self.levels.push(Level { folder, names, at });
        Ok(())
    }

    fn look_at(&mut self, name: OsString) -> Result<Option<Found>, Trouble> {
        let Some(level) = self.levels.last() else { return Ok(None) };
        let (path, is_root) = match &level.at {
            At::AboveRoot(inside) => (inside.clone(), true),
            At::Folder(folder) => (folder.join(&name), false),
        };
        if !is_root && self.rules.exclude.matches(&path) {
            self.excluded += 1;
            return Ok(None);
        }
        let stat = fstatat(&level.folder, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
        let stat = match stat {
            Err(Errno::ENOENT) if !is_root => return Ok(None),
            stat => {
                stat.map_err(|source| Trouble::Path { path: path.clone(), source: source.into() })?
            }
        };
        let found = Found { kind: kind_of(&stat), path, stat, name };
        if found.kind == Kind::Folder && !self.enter(&found)? {
            return Ok(None);
        }
        // A root's content may stand at the top of the archive, without the root itself.
        if found.path.as_os_str().is_empty() { Ok(None) } else { Ok(Some(found)) }
    }

    /// Says whether the folder is still there.
    fn enter(&mut self, found: &Found) -> Result<bool, Trouble> {
        if self.rules.filesystems == Filesystems::One && found.stat.st_dev != self.device {
            self.mounts.push(found.path.clone());
            return Ok(true);
        }
        // One level is above the root.
        if self.levels.len() > DEPTH_MAX {
            self.end();
            return Err(Trouble::TooDeep { path: found.path.clone() });
        }
        let Some(level) = self.levels.last() else { return Ok(false) };
        let trouble =
            |source: Errno| Trouble::Path { path: found.path.clone(), source: source.into() };
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let folder = match openat(&level.folder, found.name.as_os_str(), flags, Mode::empty()) {
            Err(Errno::ENOENT) => return Ok(false),
            folder => folder.map_err(trouble)?,
        };
        let (folder, names) = list(folder, ENTRIES_MAX - self.seen).map_err(trouble)?;
        self.seen += names.len();
        if self.seen >= ENTRIES_MAX {
            self.end();
            return Err(Trouble::TooMany);
        }
        let (names, at) = (names.into_iter(), At::Folder(found.path.clone()));
        self.levels.push(Level { folder, names, at });
        Ok(true)
    }

    fn end(&mut self) {
        self.levels.clear();
        self.roots = Vec::new().into_iter();
    }
}

/// The names in a folder, sorted; no more than `max`.
fn list(folder: OwnedFd, max: usize) -> nix::Result<(Dir, Vec<OsString>)> {
    let mut folder = Dir::from_fd(folder)?;
    let mut names = Vec::new();
    for entry in folder.iter().take(max.saturating_add(2)) {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    names.sort_unstable();
    Ok((folder, names))
}

fn kind_of(stat: &FileStat) -> Kind {
    match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFDIR => Kind::Folder,
        SFlag::S_IFREG => Kind::File,
        SFlag::S_IFLNK => Kind::Symlink,
        _ => Kind::Special,
    }
}
