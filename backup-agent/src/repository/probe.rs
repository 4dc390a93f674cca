//! Can this place be trusted with a backup?
//!
//! Network file systems differ in what their promises are worth: some cannot flush a
//! folder, some replace no file on rename, some give back what they remember instead
//! of what they stored. So before a repository is used, a canary file is written,
//! renamed over another one, flushed, and read back from the place.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::identity::is_unsupported;

/// The name of a canary begins like this; one that is left behind by a crash is
/// removed by the next probe.
pub const CANARY: &str = "homelab-canary-";

/// The canary's size in bytes: several pages and several network packets.
pub const CANARY_BYTES: usize = 256 * 1024;

/// What a place is worth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "grade", content = "because")]
pub enum Grade {
    /// What it confirms survives a power cut.
    Durable,
    /// It works, and after a power cut of the server the newest files may be missing.
    Weak(Vec<String>),
    /// It loses or mixes up data; nothing is stored here.
    Unsafe(String),
}

impl Grade {
    /// The word for it.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Durable => "durable",
            Self::Weak(_) => "weak",
            Self::Unsafe(_) => "unsafe",
        }
    }
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())?;
        match self {
            Self::Durable => Ok(()),
            Self::Weak(because) => write!(f, ": {}", because.join("; ")),
            Self::Unsafe(because) => write!(f, ": {because}"),
        }
    }
}

/// The single steps of a probe, as a place can do them.
///
/// Names are plain file names in the repository's root.
pub trait Steps {
    /// Writes a new file; `Ok(false)` when there is no way to flush it.
    ///
    /// # Errors
    ///
    /// The place failed, or refuses a flush that every file would be given.
    fn write_flushed(&self, name: &str, content: &[u8]) -> std::io::Result<bool>;

    /// Renames, replacing what is there.
    ///
    /// # Errors
    ///
    /// The place failed.
    fn rename(&self, from: &str, to: &str) -> std::io::Result<()>;

    /// Flushes the root's names; `Ok(false)` when that cannot be done.
    ///
    /// # Errors
    ///
    /// The place failed.
    fn flush_names(&self) -> std::io::Result<bool>;

    /// Reads a file from the medium, as far as that can be had; `None` when it is not there.
    ///
    /// # Errors
    ///
    /// The place failed.
    fn read_back(&self, name: &str) -> std::io::Result<Option<Vec<u8>>>;

    /// Removes a file.
    ///
    /// # Errors
    ///
    /// The place failed.
    fn remove(&self, name: &str) -> std::io::Result<()>;
}

/// Grades a place. `suffix` makes the names unique, `noise` fills the canaries.
///
/// # Errors
///
/// The place failed at something that every place can do: it is offline or full.
pub fn grade(steps: &dyn Steps, suffix: &str, noise: &[u8]) -> std::io::Result<Grade> {
    let (first, second) = (format!("{CANARY}{suffix}-a"), format!("{CANARY}{suffix}-b"));
    let graded = grade_with(steps, (&first, &second), noise);
    // Whatever of them is there; the grade, or the first error, says more.
    for name in [&first, &second] {
        drop(steps.remove(name));
    }
    graded
}

fn grade_with(
    steps: &dyn Steps,
    (first, second): (&str, &str),
    noise: &[u8],
) -> std::io::Result<Grade> {
    let (old, new) = noise.split_at(noise.len() / 2);
    let mut because = Vec::new();
    let mut flushed = match steps.write_flushed(second, old) {
        Err(error) if is_unsupported(&error) => {
            return Ok(Grade::Unsafe(format!("files cannot be flushed: {error}")));
        }
        flushed => flushed?,
    };
    flushed &= steps.write_flushed(first, new)?;
    if !flushed {
        because.push("files cannot be flushed".to_owned());
    }
    if let Err(error) = steps.rename(first, second) {
        return Ok(Grade::Unsafe(format!("a file cannot be renamed over another one: {error}")));
    }
    if !steps.flush_names()? {
        because.push("names of files cannot be flushed".to_owned());
    }
    match (steps.read_back(first)?, steps.read_back(second)?) {
        (None, Some(found)) if found == new => {}
        (None, Some(found)) if found == old => {
            return Ok(Grade::Unsafe("after a rename the old file is read".to_owned()));
        }
        (None, Some(found)) => {
            let (found, wrote) = (found.len(), new.len());
            return Ok(Grade::Unsafe(format!(
                "a file of {wrote} bytes was read back with other content ({found} bytes)"
            )));
        }
        (None, None) => return Ok(Grade::Unsafe("a file is gone after its rename".to_owned())),
        (Some(_), _) => {
            return Ok(Grade::Unsafe("a rename leaves the file under its old name".to_owned()));
        }
    }
    steps.remove(second)?;
    if steps.read_back(second)?.is_some() {
        return Ok(Grade::Unsafe("a removed file is still there".to_owned()));
    }
    Ok(if because.is_empty() { Grade::Durable } else { Grade::Weak(because) })
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::BTreeMap, io};

    use super::*;

    /// A place with one vice.
    #[derive(Default)]
    struct Place {
        files: RefCell<BTreeMap<String, Vec<u8>>>,
        vice: Vice,
    }

    #[derive(Clone, Copy, Default, PartialEq)]
    enum Vice {
        #[default]
        None,
        NoFlush,
        RefusesToFlush,
        NoFlushOfNames,
        NoReplacing,
        CopyOnRename,
        RenameIsLost,
        Truncates,
        FlipsABit,
        Undead,
        LosesOnRename,
    }

    impl Steps for Place {
        fn write_flushed(&self, name: &str, content: &[u8]) -> io::Result<bool> {
            let mut content = content.to_vec();
            match self.vice {
                Vice::Truncates => content.truncate(4096),
                Vice::FlipsABit => content[77] ^= 4,
                Vice::RefusesToFlush => return Err(io::ErrorKind::InvalidInput.into()),
                _ => {}
            }
            self.files.borrow_mut().insert(name.to_owned(), content);
            Ok(self.vice != Vice::NoFlush)
        }

        fn rename(&self, from: &str, to: &str) -> io::Result<()> {
            let mut files = self.files.borrow_mut();
            match self.vice {
                Vice::NoReplacing => return Err(io::ErrorKind::AlreadyExists.into()),
                Vice::RenameIsLost => drop(files.remove(from)),
                Vice::LosesOnRename => files.clear(),
                _ => {
                    let content = files[from].clone();
                    if self.vice != Vice::CopyOnRename {
                        files.remove(from);
                    }
                    files.insert(to.to_owned(), content);
                }
            }
            Ok(())
        }

        fn flush_names(&self) -> io::Result<bool> {
            Ok(self.vice != Vice::NoFlushOfNames)
        }

        fn read_back(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
            Ok(self.files.borrow().get(name).cloned())
        }

        fn remove(&self, name: &str) -> io::Result<()> {
            if self.vice != Vice::Undead {
                self.files.borrow_mut().remove(name);
            }
            Ok(())
        }
    }

    fn graded(vice: Vice) -> Grade {
        let place = Place { vice, ..Place::default() };
        let noise: Vec<u8> = (0..=250).cycle().take(CANARY_BYTES).collect();
        grade(&place, "1", &noise).expect("a grade")
    }

    #[test]
    fn pitfall_17_what_cannot_be_flushed_is_weak_and_said_so() {
        assert_eq!(graded(Vice::None), Grade::Durable);
        assert!(graded(Vice::NoFlush).to_string().contains("files cannot be flushed"));
        let names = graded(Vice::NoFlushOfNames);
        assert_eq!(names.word(), "weak");
        assert!(names.to_string().contains("names of files"), "{names}");
    }

    #[test]
    fn pitfall_17_a_place_that_loses_or_mixes_up_files_is_unsafe() {
        for vice in [
            Vice::RefusesToFlush,
            Vice::NoReplacing,
            Vice::CopyOnRename,
            Vice::RenameIsLost,
            Vice::LosesOnRename,
            Vice::Truncates,
            Vice::FlipsABit,
            Vice::Undead,
        ] {
            assert_eq!(graded(vice).word(), "unsafe");
        }
    }
}
