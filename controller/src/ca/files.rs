//! The files of an identity: written whole or not at all, keys readable by their owner only.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// Root certificates that a daemon trusts.
pub const ROOTS: &str = "ca.pem";
/// The certificate chain of a daemon or person.
pub const CHAIN: &str = "cert.pem";
/// Its private key.
pub const KEY: &str = "key.pem";
/// The certificate of the issuing CA.
pub const ISSUING: &str = "issuing.pem";
/// Its private key.
pub const ISSUING_KEY: &str = "issuing-key.pem";

/// A file or folder of an identity could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("could not {what} `{}`", path.display())]
pub struct FileError {
    what: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl FileError {
    fn at(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self { what, path, source }
    }

    /// Whether the file was there already.
    #[must_use]
    pub fn is_already_there(&self) -> bool {
        self.source.kind() == io::ErrorKind::AlreadyExists
    }
}

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readers {
    /// Its owner: keys.
    Owner,
    /// Everybody: certificates.
    All,
}

impl Readers {
    const fn mode(self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::All => 0o644,
        }
    }
}

/// Makes a folder that only its owner may enter, with its parents.
///
/// # Errors
///
/// The system refuses.
pub fn make_folder(path: &Path) -> Result<(), FileError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(FileError::at("make the folder", path))
}

/// Reads a text file.
///
/// # Errors
///
/// The system refuses, or it is not text.
pub fn read(path: &Path) -> Result<String, FileError> {
    fs::read_to_string(path).map_err(FileError::at("read", path))
}

/// Writes a file that must not be there yet, down to the disk.
///
/// # Errors
///
/// It is there, or the system refuses.
pub fn create(path: &Path, content: &str, readers: Readers) -> Result<(), FileError> {
    write(path, content, readers).map_err(FileError::at("write", path))
}

/// Puts `content` in the place of what was there: after a power cut there is either the old or the new.
///
/// # Errors
///
/// The system refuses; the old content stays.
pub fn replace(path: &Path, content: &str, readers: Readers) -> Result<(), FileError> {
    let fresh = path.with_extension("new");
    let replaced = remove_left_over(&fresh)
        .and_then(|()| write(&fresh, content, readers))
        .and_then(|()| fs::rename(&fresh, path))
        .and_then(|()| sync_folder(path));
    replaced.map_err(FileError::at("replace", path))
}

fn write(path: &Path, content: &str, readers: Readers) -> io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(readers.mode()).open(path)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    sync_folder(path)
}

fn remove_left_over(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_readable_by_its_owner_only_and_never_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(KEY);
        create(&path, "first", Readers::Owner).expect("is new");
        let mode = fs::metadata(&path).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(create(&path, "second", Readers::Owner).expect_err("is there").is_already_there());
        assert_eq!(read(&path).expect("readable"), "first");
    }

    #[test]
    fn a_replacement_survives_a_left_over_of_the_last_try() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(CHAIN);
        create(&path, "first", Readers::All).expect("is new");
        fs::write(path.with_extension("new"), "half").expect("writable");
        replace(&path, "second", Readers::All).expect("replaced");
        assert_eq!(read(&path).expect("readable"), "second");
    }
}
