//! What the kernel knows of a file system: numbers of files and folders, and of open files.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use fuser::{Errno, FileHandle, INodeNo};

/// Numbers that were given out; paths are below the folder that is shown.
#[derive(Debug)]
pub(super) struct Nodes {
    paths: HashMap<u64, PathBuf>,
    numbers: HashMap<PathBuf, u64>,
    open: HashMap<u64, (Arc<File>, PathBuf)>,
    next: u64,
}

impl Default for Nodes {
    fn default() -> Self {
        let root = INodeNo::ROOT.0;
        Self {
            paths: HashMap::from([(root, PathBuf::new())]),
            numbers: HashMap::from([(PathBuf::new(), root)]),
            open: HashMap::new(),
            next: root,
        }
    }
}

impl Nodes {
    /// Only the root is known by its old number; no number is given out twice.
    pub(super) fn forget_all(&mut self) {
        *self = Self { next: self.next, ..Self::default() };
    }

    pub(super) fn path(&self, node: INodeNo) -> Result<PathBuf, Errno> {
        self.paths.get(&node.0).cloned().ok_or(Errno::ESTALE)
    }

    pub(super) fn child(&self, parent: INodeNo, name: &OsStr) -> Result<PathBuf, Errno> {
        Ok(self.path(parent)?.join(name))
    }

    pub(super) fn number(&mut self, path: &Path) -> u64 {
        if let Some(number) = self.numbers.get(path) {
            return *number;
        }
        self.next += 1;
        self.paths.insert(self.next, path.to_owned());
        self.numbers.insert(path.to_owned(), self.next);
        self.next
    }

    /// Something is no longer under this name.
    pub(super) fn gone(&mut self, path: &Path) {
        if let Some(number) = self.numbers.remove(path) {
            self.paths.remove(&number);
        }
    }

    /// Something, with all that is in it, has another name.
    pub(super) fn renamed(&mut self, from: &Path, to: &Path) {
        self.gone(to);
        // Joined part by part: a path that ends in a slash is one of a folder.
        let moved = |path: &Path| {
            let rest = path.strip_prefix(from).ok()?;
            Some(to.components().chain(rest.components()).collect::<PathBuf>())
        };
        for path in self.paths.values_mut() {
            if let Some(new) = moved(path) {
                *path = new;
            }
        }
        self.numbers = self.paths.iter().map(|(number, path)| (path.clone(), *number)).collect();
    }

    pub(super) fn opened(&mut self, file: File, path: PathBuf) -> FileHandle {
        self.next += 1;
        self.open.insert(self.next, (Arc::new(file), path));
        FileHandle(self.next)
    }

    pub(super) fn file(&self, handle: FileHandle) -> Result<(Arc<File>, PathBuf), Errno> {
        self.open.get(&handle.0).cloned().ok_or(Errno::ESTALE)
    }

    pub(super) fn closed(&mut self, handle: FileHandle) {
        self.open.remove(&handle.0);
    }
}
