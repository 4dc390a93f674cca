//! The models that a person has configured.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

use crate::engine::backend::Backend;

/// Weights are read in pieces of this size to be hashed.
const HASH_PIECE_BYTES: usize = 1 << 20;

/// The name that callers use for a model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModelName(Arc<str>);

/// The text cannot name a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("1 to 96 characters out of letters, digits and `._:/-`, the first a letter or digit")]
pub struct InvalidModelName;

impl ModelName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ModelName {
    type Err = InvalidModelName;

    fn from_str(text: &str) -> Result<Self, InvalidModelName> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/-".contains(&byte);
        let starts_well = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        // No comma: llama-server would take two aliases for it.
        if starts_well && text.len() <= 96 && text.bytes().all(is_plain) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidModelName)
        }
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A SHA-256 as it stands in a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sha256([u8; SHA256_OUTPUT_LEN]);

/// The text is no SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 of 64 hexadecimal digits, as `sha256sum` prints it")]
pub struct InvalidSha256;

impl FromStr for Sha256 {
    type Err = InvalidSha256;

    fn from_str(text: &str) -> Result<Self, InvalidSha256> {
        let mut bytes = [0; SHA256_OUTPUT_LEN];
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != bytes.len() || !rest.is_empty() {
            return Err(InvalidSha256);
        }
        for (byte, pair) in bytes.iter_mut().zip(pairs) {
            let digits = pair.map(|digit| char::from(digit).to_digit(16));
            let [Some(high), Some(low)] = digits else { return Err(InvalidSha256) };
            *byte = u8::try_from(high * 16 + low).map_err(|_| InvalidSha256)?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

/// How a model is to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// What the weights must hash to.
    pub sha256: Option<Sha256>,
    /// Tokens that one conversation may hold.
    pub context_tokens: u32,
    /// Requests at once.
    pub slots: u32,
    /// The backends that may run it, best first; empty for the engine's own order.
    pub backends: Vec<Backend>,
    /// What is added to the engine's arguments.
    pub arguments: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sha256: None,
            context_tokens: 4096,
            slots: 1,
            backends: Vec::new(),
            arguments: Vec::new(),
        }
    }
}

/// One configured model.
#[derive(Debug)]
pub struct Model {
    /// What callers call it.
    pub name: ModelName,
    /// Its weights; `None` when the engine finds them by the name.
    pub path: Option<PathBuf>,
    /// How it is to be run.
    pub options: Options,
    checked: Mutex<Option<Stamp>>,
}

/// When and how large a file was that had the right hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    size_bytes: u64,
    modified: Option<SystemTime>,
}

/// Why a model cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ModelFileError {
    /// The file cannot be read.
    #[error("cannot read the weights of `{model}` at {}; check the path and that the worker's user may read it", path.display())]
    Read {
        /// The model.
        model: ModelName,
        /// Its file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is another one than configured.
    #[error("the weights of `{model}` at {} hash to {found}, configured is {expected}; fetch the file again or correct `sha256`", path.display())]
    Hash {
        /// The model.
        model: ModelName,
        /// Its file.
        path: PathBuf,
        /// The hash that it has.
        found: Sha256,
        /// The hash that it should have.
        expected: Sha256,
    },
}

impl Model {
    /// A model; nothing is read yet.
    pub fn new(name: ModelName, path: Option<PathBuf>, options: Options) -> Self {
        Self { name, path, options, checked: Mutex::new(None) }
    }

    /// What the engine is told to load: the file, or else the name.
    pub fn location(&self) -> String {
        match &self.path {
            Some(path) => path.display().to_string(),
            None => self.name.to_string(),
        }
    }

    /// Size of the weights; `None` when there is no file to look at.
    ///
    /// # Errors
    /// [`ModelFileError::Read`].
    pub fn size_bytes(&self) -> Result<Option<u64>, ModelFileError> {
        let Some(path) = &self.path else { return Ok(None) };
        self.stamp(path).map(|stamp| Some(stamp.size_bytes))
    }

    /// Makes sure that the weights are there and are the right ones. Blocks: a
    /// first check reads the whole file; it is not read again while its size and
    /// time stay as they were.
    ///
    /// # Errors
    /// [`ModelFileError`].
    pub fn check(&self) -> Result<(), ModelFileError> {
        let Some(path) = &self.path else { return Ok(()) };
        let stamp = self.stamp(path)?;
        let Some(expected) = self.options.sha256 else { return Ok(()) };
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if *checked == Some(stamp) {
            return Ok(());
        }
        let found = hash(path).map_err(|source| self.unreadable(path, source))?;
        if found != expected {
            let (model, path) = (self.name.clone(), path.clone());
            return Err(ModelFileError::Hash { model, path, found, expected });
        }
        *checked = Some(stamp);
        Ok(())
    }

    fn stamp(&self, path: &Path) -> Result<Stamp, ModelFileError> {
        let metadata = std::fs::metadata(path)
            .and_then(|metadata| {
                if metadata.is_file() {
                    Ok(metadata)
                } else {
                    Err(io::ErrorKind::IsADirectory.into())
                }
            })
            .map_err(|source| self.unreadable(path, source))?;
        Ok(Stamp { size_bytes: metadata.len(), modified: metadata.modified().ok() })
    }

    fn unreadable(&self, path: &Path, source: io::Error) -> ModelFileError {
        ModelFileError::Read { model: self.name.clone(), path: path.into(), source }
    }
}

fn hash(path: &Path) -> io::Result<Sha256> {
    let mut file = File::open(path)?;
    let mut context = Context::new(&SHA256);
    let mut piece = vec![0; HASH_PIECE_BYTES];
    loop {
        let length = file.read(&mut piece)?;
        let Some(read) = piece.get(..length).filter(|read| !read.is_empty()) else { break };
        context.update(read);
    }
    let mut bytes = [0; SHA256_OUTPUT_LEN];
    bytes.copy_from_slice(context.finish().as_ref());
    Ok(Sha256(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    // SHA-256 of "abc": the first example of FIPS 180-2.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn model(path: &Path, sha256: Option<&str>) -> Model {
        let sha256 = sha256.map(|text| text.parse().unwrap());
        let options = Options { sha256, ..Options::default() };
        Model::new("small".parse().unwrap(), Some(path.into()), options)
    }

    #[test]
    fn names_are_plain() {
        for name in ["smollm2", "qwen3:14b", "ggml-org/gemma-3_4b.Q4"] {
            assert_eq!(name.parse::<ModelName>().unwrap().as_str(), name);
        }
        let long = "a".repeat(97);
        for name in ["", "-m", "a b", "a,b", "ä", "../x", long.as_str()] {
            assert_eq!(name.parse::<ModelName>(), Err(InvalidModelName), "{name}");
        }
    }

    #[test]
    fn hashes_are_read_as_sha256sum_prints_them() {
        assert_eq!(ABC.parse::<Sha256>().unwrap().to_string(), ABC);
        for wrong in ["", "ba78", &format!("{ABC}00"), &format!("{ABC}0"), &ABC.replace('b', "g")] {
            assert_eq!(wrong.parse::<Sha256>(), Err(InvalidSha256), "{wrong}");
        }
    }

    #[test]
    fn weights_that_are_there_and_right_pass() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, "abc").unwrap();
        model(&path, None).check().unwrap();
        let model = model(&path, Some(ABC));
        model.check().unwrap();
        model.check().unwrap();
        assert_eq!(model.size_bytes().unwrap(), Some(3));
    }

    #[test]
    fn weights_that_changed_are_noticed_even_after_a_good_check() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, "abc").unwrap();
        let model = model(&path, Some(ABC));
        model.check().unwrap();
        std::fs::write(&path, "abcd").unwrap();
        let message = model.check().unwrap_err().to_string();
        assert!(message.contains("configured is ba78"), "{message}");
    }

    #[test]
    fn missing_weights_are_named_with_their_path() {
        let message =
            model(Path::new("/nonexistent/m.gguf"), None).check().unwrap_err().to_string();
        assert!(message.contains("`small` at /nonexistent/m.gguf"), "{message}");
        assert!(model(Path::new("/"), None).check().is_err(), "a folder holds no weights");
    }

    #[test]
    fn a_model_without_a_file_is_the_engines_business() {
        let model = Model::new("llama3:8b".parse().unwrap(), None, Options::default());
        model.check().unwrap();
        assert_eq!((model.location().as_str(), model.size_bytes().unwrap()), ("llama3:8b", None));
    }
}
