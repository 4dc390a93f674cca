//! Small local state that survives a power cut.
//!
//! One JSON file per ledger, replaced as a whole: written beside the old file,
//! flushed, renamed over it, and the directory flushed. A reader sees the old
//! state or the new one, never a mixture; a checksum tells when the disk lies.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

/// The largest ledger that is read, in bytes. Larger state belongs in a store.
const LEDGER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The state in one file, with the last stored value in memory.
///
/// The calls block on the disk; call them where blocking is allowed. One writer
/// per file: whoever owns the `Ledger`.
#[derive(Debug)]
pub struct Ledger<T> {
    path: PathBuf,
    version: u32,
    generation: u64,
    value: Option<T>,
}

/// Why a ledger could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file exists but could not be read.
    #[error("could not read the state file `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is damaged. Its content is not guessed at.
    #[error(
        "the state file `{p}` is damaged ({what}); restore it from a backup, \
         or move it away to start without it",
        p = path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// Another version of the program wrote the file.
    #[error(
        "the state file `{}` has format {found}, this program reads {wanted}; \
         run the version that wrote it, or upgrade step by step",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// The format in the file.
        found: u32,
        /// The format that is read here.
        wanted: u32,
    },
    /// The new state could not be made durable; the old one stands.
    #[error("could not write the state file `{}`; the old state stands", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The value has no JSON form.
    #[error("could not write the state file `{}`: the state has no JSON form", path.display())]
    Encode {
        /// The file.
        path: PathBuf,
        /// What the encoder said.
        #[source]
        source: serde_json::Error,
    },
}

/// What stands in the file. The checksum is over version, generation and the
/// bytes of `body` as they are.
#[derive(Deserialize, Serialize)]
struct Envelope<B> {
    version: u32,
    generation: u64,
    sha256: String,
    body: B,
}

impl<T: Serialize + DeserializeOwned> Ledger<T> {
    /// Reads the file; a missing file is a ledger without a value. `version` is
    /// the format of `T`: raise it when old files can no longer be read.
    ///
    /// # Errors
    ///
    /// The file cannot be read, is damaged, or has another format.
    pub fn load(path: impl Into<PathBuf>, version: u32) -> Result<Self, LedgerError> {
        let path = path.into();
        let text = match read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Self { path, version, generation: 0, value: None });
            }
            Err(source) => return Err(LedgerError::Read { path, source }),
        };
        match parse(&text, version) {
            Ok((generation, value)) => Ok(Self { path, version, generation, value: Some(value) }),
            Err(Flaw::Damaged(what)) => Err(LedgerError::Damaged { path, what }),
            Err(Flaw::Version(found)) => Err(LedgerError::Version { path, found, wanted: version }),
        }
    }

    /// The value that was loaded or stored last.
    pub const fn get(&self) -> Option<&T> {
        self.value.as_ref()
    }

    /// How many times the state was stored; 0 = never.
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes `value` the state. When this returns, it is on the disk; on an
    /// error the old state stands, in memory and on the disk.
    ///
    /// # Errors
    ///
    /// The value has no JSON form, or the disk refused.
    pub fn store(&mut self, value: T) -> Result<(), LedgerError> {
        let generation = self.generation + 1;
        let text = render(&value, self.version, generation)
            .map_err(|source| LedgerError::Encode { path: self.path.clone(), source })?;
        replace(&self.path, text.as_bytes())
            .map_err(|source| LedgerError::Write { path: self.path.clone(), source })?;
        self.generation = generation;
        self.value = Some(value);
        Ok(())
    }
}

/// Puts `bytes` in place of the file `path` (mode 0600): complete and durable,
/// or not at all.
///
/// # Errors
///
/// What the system said; the old file is untouched then.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(".new");
    let temporary = directory.join(name);
    // Left behind by a crash; its mode would survive `create`.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&temporary, path)?;
    // Without this the rename itself may be lost with the power.
    File::open(directory)?.sync_all()
}

enum Flaw {
    Damaged(String),
    Version(u32),
}

fn read(path: &Path) -> io::Result<String> {
    let size = fs::metadata(path)?.len();
    if size > LEDGER_BYTES_MAX {
        return Err(io::Error::other(format!("larger than {LEDGER_BYTES_MAX} bytes")));
    }
    fs::read_to_string(path)
}

fn parse<T: DeserializeOwned>(text: &str, wanted: u32) -> Result<(u64, T), Flaw> {
    let envelope: Envelope<&RawValue> =
        serde_json::from_str(text).map_err(|error| Flaw::Damaged(error.to_string()))?;
    let Envelope { version, generation, sha256, body } = envelope;
    if checksum(version, generation, body) != sha256 {
        return Err(Flaw::Damaged("its checksum does not fit its content".into()));
    }
    if version != wanted {
        return Err(Flaw::Version(version));
    }
    let value =
        serde_json::from_str(body.get()).map_err(|error| Flaw::Damaged(error.to_string()))?;
    Ok((generation, value))
}

fn render<T: Serialize>(value: &T, version: u32, generation: u64) -> serde_json::Result<String> {
    let body = serde_json::value::to_raw_value(value)?;
    let sha256 = checksum(version, generation, &body);
    let mut text = serde_json::to_string(&Envelope { version, generation, sha256, body })?;
    text.push('\n');
    Ok(text)
}

fn checksum(version: u32, generation: u64, body: &RawValue) -> String {
    let covered = format!("{version}\n{generation}\n{}", body.get());
    digest(&SHA256, covered.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn scratch() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let path = dir.path().join("state.json");
        (dir, path)
    }

    #[test]
    fn a_missing_file_is_an_empty_ledger() {
        let (_dir, path) = scratch();
        let ledger = Ledger::<Vec<u32>>::load(path, 1).expect("an empty ledger");
        assert_eq!((ledger.get(), ledger.generation()), (None, 0));
    }

    #[test]
    fn what_was_stored_is_loaded_again() {
        let (_dir, path) = scratch();
        let mut ledger = Ledger::load(&path, 1).expect("an empty ledger");
        ledger.store(vec![1, 2]).expect("stored");
        ledger.store(vec![3]).expect("stored");
        let again = Ledger::<Vec<u32>>::load(&path, 1).expect("a ledger");
        assert_eq!((again.get(), again.generation()), (Some(&vec![3]), 2));
    }

    #[test]
    fn only_the_owner_may_read_it() {
        let (_dir, path) = scratch();
        Ledger::load(&path, 1).expect("empty").store(1).expect("stored");
        let mode = fs::metadata(&path).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_left_over_temporary_file_does_no_harm() {
        let (dir, path) = scratch();
        fs::write(dir.path().join("state.json.new"), "half").expect("a scratch file");
        Ledger::load(&path, 1).expect("empty").store(1).expect("stored");
        assert_eq!(Ledger::<u32>::load(&path, 1).expect("a ledger").get(), Some(&1));
        assert!(!dir.path().join("state.json.new").exists());
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        let (_dir, path) = scratch();
        Ledger::load(&path, 1).expect("empty").store("abc def".to_owned()).expect("stored");
        let good = fs::read(&path).expect("bytes");
        let end = good.len() - 1; // the line break is not content
        for index in 0..end {
            let mut bad = good.clone();
            bad[index] ^= 1;
            fs::write(&path, &bad).expect("a scratch file");
            let loaded = Ledger::<String>::load(&path, 1);
            assert!(loaded.is_err(), "byte {index} went unnoticed");
        }
    }

    #[test]
    fn a_damaged_file_names_itself_and_the_remedy() {
        let (_dir, path) = scratch();
        fs::write(&path, "{}").expect("a scratch file");
        let message = Ledger::<u32>::load(&path, 1).expect_err("damaged").to_string();
        assert!(message.contains(&path.display().to_string()), "{message}");
        assert!(message.contains("restore it from a backup"), "{message}");
    }

    #[test]
    fn an_empty_file_is_damage_and_not_an_empty_ledger() {
        let (_dir, path) = scratch();
        fs::write(&path, "").expect("a scratch file");
        assert!(matches!(Ledger::<u32>::load(&path, 1), Err(LedgerError::Damaged { .. })));
    }

    #[test]
    fn another_format_is_named_as_such() {
        let (_dir, path) = scratch();
        Ledger::load(&path, 1).expect("empty").store(1).expect("stored");
        let error = Ledger::<u32>::load(&path, 2).expect_err("another format");
        assert!(matches!(error, LedgerError::Version { found: 1, wanted: 2, .. }));
    }

    #[test]
    fn a_failed_write_leaves_the_old_state() {
        let (dir, path) = scratch();
        let mut ledger = Ledger::load(&path, 1).expect("empty");
        ledger.store(1).expect("stored");
        // A directory in the place of the temporary file cannot be removed as a file.
        fs::create_dir(dir.path().join("state.json.new")).expect("a directory");
        assert!(matches!(ledger.store(2), Err(LedgerError::Write { .. })));
        assert_eq!((ledger.get(), ledger.generation()), (Some(&1), 1));
        assert_eq!(Ledger::<u32>::load(&path, 1).expect("a ledger").get(), Some(&1));
    }
}
