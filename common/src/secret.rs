//! Values that must not be printed, and where they come from.

use std::{
    fmt, fs, io,
    io::Read,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    str::FromStr,
};

/// The largest secret that is read, in bytes: a key with its chain fits.
const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// A value without `Display`, whose `Debug` is `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    /// Wraps `value`.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself. Each use of this word is a place to look at in review.
    pub const fn expose(&self) -> &T {
        &self.0
    }

    /// Turns the value into another secret.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Secret<U> {
        Secret(change(self.0))
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl<T> From<T> for Secret<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

/// Why a secret could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file could not be read.
    #[error("could not read the secret file `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Others than the owner may read the file.
    #[error(
        "the secret file `{p}` can be read by others (mode {mode:04o}); run: chmod 600 {p}",
        p = path.display()
    )]
    Permissions {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file holds nothing but a line break.
    #[error("the secret file `{}` is empty", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The file is larger than any secret.
    #[error("the secret file `{}` is larger than {SECRET_BYTES_MAX} bytes", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is not UTF-8 text.
    #[error("the secret file `{}` is not UTF-8 text", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// A systemd credential is named, but the service was given none.
    #[error(
        "there is no credential `{name}`: $CREDENTIALS_DIRECTORY is not set; \
         add `LoadCredential={name}:PATH` to the unit"
    )]
    NoCredentials {
        /// The credential.
        name: String,
    },
}

/// Reads a text secret from a file that only its owner may read; one trailing
/// line break is dropped.
///
/// # Errors
///
/// The file is missing, empty, too large, not text, or readable by others.
pub fn from_file(path: impl AsRef<Path>) -> Result<Secret<String>, SecretError> {
    text(path.as_ref(), read(path.as_ref(), Reader::OwnerOnly)?)
}

/// Like [`from_file`] for secrets that are not text; nothing is dropped.
///
/// # Errors
///
/// As [`from_file`], except that any bytes are accepted.
pub fn bytes_from_file(path: impl AsRef<Path>) -> Result<Secret<Vec<u8>>, SecretError> {
    read(path.as_ref(), Reader::OwnerOnly).map(Secret)
}

/// Where a secret comes from, as a configuration names it: an absolute path, or
/// `credential:NAME` for a file in systemd's `$CREDENTIALS_DIRECTORY`
/// (systemd.exec(5), `LoadCredential=`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file that only its owner may read.
    File(PathBuf),
    /// The name of a systemd credential.
    Credential(String),
}

impl Source {
    /// Reads the secret.
    ///
    /// # Errors
    ///
    /// As [`from_file`]; besides, a credential needs `$CREDENTIALS_DIRECTORY`.
    pub fn load(&self) -> Result<Secret<String>, SecretError> {
        let directory = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        self.load_with(directory.as_deref())
    }

    /// Reads the secret, credentials from `credentials` instead of the
    /// directory that systemd names.
    ///
    /// # Errors
    ///
    /// As [`Source::load`].
    pub fn load_with(&self, credentials: Option<&Path>) -> Result<Secret<String>, SecretError> {
        match self {
            Self::File(path) => from_file(path),
            Self::Credential(name) => {
                let Some(directory) = credentials else {
                    return Err(SecretError::NoCredentials { name: name.clone() });
                };
                let path = directory.join(name);
                text(&path, read(&path, Reader::ServiceManager)?)
            }
        }
    }
}

/// The text is neither an absolute path nor `credential:NAME`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an absolute path, or `credential:NAME` with a name of letters, digits, `-`, `_` and `.`")]
pub struct InvalidSource;

impl FromStr for Source {
    type Err = InvalidSource;

    fn from_str(text: &str) -> Result<Self, InvalidSource> {
        let Some(name) = text.strip_prefix("credential:") else {
            let path = Path::new(text);
            return if path.is_absolute() {
                Ok(Self::File(path.into()))
            } else {
                Err(InvalidSource)
            };
        };
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if name.is_empty() || name.starts_with('.') || !name.chars().all(is_plain) {
            return Err(InvalidSource);
        }
        Ok(Self::Credential(name.into()))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Credential(name) => write!(f, "credential:{name}"),
        }
    }
}

/// Who vouches for the permissions of the file.
#[derive(Clone, Copy)]
enum Reader {
    OwnerOnly,
    /// systemd grants the service's user by an ACL, whose mask shows up as group
    /// bits; the directory itself is closed to others.
    ServiceManager,
}

fn read(path: &Path, reader: Reader) -> Result<Vec<u8>, SecretError> {
    let unreadable = |source| SecretError::Read { path: path.into(), source };
    let file = fs::File::open(path).map_err(unreadable)?;
    // Asked of the open file, so that it cannot be swapped after the check.
    let metadata = file.metadata().map_err(unreadable)?;
    let mode = metadata.permissions().mode() & 0o7777;
    let forbidden = match reader {
        Reader::OwnerOnly => 0o077,
        Reader::ServiceManager => 0o007,
    };
    if mode & forbidden != 0 {
        return Err(SecretError::Permissions { path: path.into(), mode });
    }
    if metadata.size() > SECRET_BYTES_MAX {
        return Err(SecretError::TooLarge { path: path.into() });
    }
    let mut bytes = Vec::new();
    file.take(SECRET_BYTES_MAX).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.is_empty() {
        return Err(SecretError::Empty { path: path.into() });
    }
    Ok(bytes)
}

fn text(path: &Path, bytes: Vec<u8>) -> Result<Secret<String>, SecretError> {
    let Ok(mut text) = String::from_utf8(bytes) else {
        return Err(SecretError::NotText { path: path.into() });
    };
    if text.ends_with('\n') {
        text.pop();
    }
    if text.is_empty() {
        return Err(SecretError::Empty { path: path.into() });
    }
    Ok(Secret(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &str, mode: u32) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let path = dir.path().join("key");
        fs::write(&path, content).expect("a scratch file");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
        (dir, path)
    }

    #[test]
    fn debug_shows_stars_only() {
        assert_eq!(format!("{:?}", Some(Secret::new("hunter2"))), "Some(***)");
    }

    #[test]
    fn one_trailing_line_break_is_dropped() {
        let (_dir, path) = file("hunter2\n\n", 0o600);
        assert_eq!(from_file(path).expect("a secret").expose(), "hunter2\n");
    }

    #[test]
    fn a_file_that_others_may_read_is_refused_with_the_remedy() {
        for mode in [0o640, 0o604, 0o620] {
            let (_dir, path) = file("hunter2", mode);
            let message = from_file(&path).expect_err("refused").to_string();
            assert!(message.contains(&format!("chmod 600 {}", path.display())), "{message}");
            assert!(!message.contains("hunter2"));
        }
    }

    #[test]
    fn nothing_is_not_a_secret() {
        for content in ["", "\n"] {
            let (_dir, path) = file(content, 0o600);
            assert!(matches!(from_file(path), Err(SecretError::Empty { .. })));
        }
    }

    #[test]
    fn a_huge_file_is_not_a_secret() {
        let (_dir, path) = file(&"x".repeat(65 * 1024), 0o600);
        assert!(matches!(from_file(path), Err(SecretError::TooLarge { .. })));
    }

    #[test]
    fn bytes_need_not_be_text() {
        let (_dir, path) = file("", 0o600);
        fs::write(&path, [0xff, b'\n']).expect("a scratch file");
        assert!(matches!(from_file(&path), Err(SecretError::NotText { .. })));
        assert_eq!(bytes_from_file(&path).expect("bytes").expose(), &[0xff, b'\n']);
    }

    #[test]
    fn a_credential_may_show_the_group_bits_of_its_acl() {
        let (dir, _path) = file("hunter2", 0o440);
        let source: Source = "credential:key".parse().expect("a source");
        let secret = source.load_with(Some(dir.path())).expect("a secret");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn a_credential_without_systemd_says_what_to_add() {
        let message =
            Source::Credential("key".into()).load_with(None).expect_err("none").to_string();
        assert!(message.contains("LoadCredential=key:PATH"), "{message}");
    }

    #[test]
    fn sources_are_absolute_paths_or_plain_names() {
        assert_eq!("/run/key".parse(), Ok(Source::File("/run/key".into())));
        for bad in ["", "key", "credential:", "credential:../key", "credential:a/b"] {
            assert_eq!(bad.parse::<Source>(), Err(InvalidSource), "{bad}");
        }
    }
}
