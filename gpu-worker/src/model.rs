//! The models that a person has configured.

pub mod gguf;
mod hashes;
pub mod need;

use std::{
    fmt,
    fs::Metadata,
    io,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use homelab_common::error_chain::Chain;
use ring::digest::SHA256_OUTPUT_LEN;
use tracing::warn;

pub use hashes::{Hashes, Identity};

use self::{
    gguf::Header,
    need::{Load, Need},
};
use crate::engine::backend::Backend;

/// More files than any model is split into.
const PARTS_MAX: u32 = 256;

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

impl Sha256 {
    fn from_bytes(bytes: [u8; SHA256_OUTPUT_LEN]) -> Self {
        Self(bytes)
    }
}

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
    /// What it is for, which a llama-server has to be told.
    pub purpose: Purpose,
}

/// What a model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Purpose {
    /// Chats and texts.
    #[default]
    Text,
    /// Vectors.
    Embeddings,
    /// The order of texts by a question.
    Rerank,
}

impl Purpose {
    /// The words of the configuration.
    pub const WORDS: [(&'static str, Self); 3] =
        [("text", Self::Text), ("embeddings", Self::Embeddings), ("rerank", Self::Rerank)];

    /// What a llama-server is told.
    pub const fn argument(self) -> Option<&'static str> {
        match self {
            Self::Text => None,
            Self::Embeddings => Some("--embeddings"),
            Self::Rerank => Some("--reranking"),
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = Self::WORDS.iter().find(|(_, purpose)| purpose == self);
        formatter.write_str(found.map_or("", |(word, _)| word))
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sha256: None,
            context_tokens: 4096,
            slots: 1,
            backends: Vec::new(),
            arguments: Vec::new(),
            purpose: Purpose::Text,
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
    looked_at: Mutex<Option<(Identity, Option<Arc<Header>>)>>,
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
        Self { name, path, options, looked_at: Mutex::default() }
    }

    /// What the engine is told to load: the file, or else the name.
    pub fn location(&self) -> String {
        match &self.path {
            Some(path) => path.display().to_string(),
            None => self.name.to_string(),
        }
    }

    /// Size of the weights, all their files together; `None` when there is no file to
    /// look at.
    ///
    /// # Errors
    /// [`ModelFileError::Read`].
    pub fn size_bytes(&self) -> Result<Option<u64>, ModelFileError> {
        let Some(path) = &self.path else { return Ok(None) };
        let mut sum = 0_u64;
        for part in parts(path, self.header().map_or(1, |header| header.parts)) {
            sum = sum.saturating_add(self.metadata(&part)?.len());
        }
        Ok(Some(sum))
    }

    /// Makes sure that the weights are there and are the right ones, and looks at what
    /// they say of themselves. Blocks: the first time a file is seen it is read whole if
    /// its hash is configured. Of weights in several files the first is hashed.
    ///
    /// # Errors
    /// [`ModelFileError`].
    pub fn check(&self, hashes: &Hashes) -> Result<(), ModelFileError> {
        let Some(path) = &self.path else { return Ok(()) };
        let identity = Identity::from(&self.metadata(path)?);
        if let Some(expected) = self.options.sha256 {
            let found = hashes.of(path, identity);
            let found = found.map_err(|source| self.unreadable(path, source))?;
            if found != expected {
                let (model, path) = (self.name.clone(), path.clone());
                return Err(ModelFileError::Hash { model, path, found, expected });
            }
        }
        self.look_at(path, identity);
        Ok(())
    }

    /// Looks at what the weights say of themselves, so that [`Model::header`] tells it.
    /// Blocks.
    pub fn look(&self) {
        let Some(path) = &self.path else { return };
        // What is wrong with the file is told when it is to be loaded.
        if let Ok(metadata) = self.metadata(path) {
            self.look_at(path, Identity::from(&metadata));
        }
    }

    fn look_at(&self, path: &Path, identity: Identity) {
        let mut looked_at = self.looked_at.lock().unwrap_or_else(PoisonError::into_inner);
        if looked_at.as_ref().is_some_and(|(known, _)| *known == identity) {
            return;
        }
        let header = match Header::read(path) {
            Ok(header) => Some(Arc::new(header)),
            Err(error) => {
                let error = Chain(&error).to_string();
                warn!(model = %self.name, %error, "what a model needs cannot be told");
                None
            }
        };
        *looked_at = Some((identity, header));
    }

    /// What the weights say of themselves, once they were looked at; `None` too for
    /// files that are no GGUF.
    pub fn header(&self) -> Option<Arc<Header>> {
        let looked_at = self.looked_at.lock().unwrap_or_else(PoisonError::into_inner);
        looked_at.as_ref().and_then(|(_, header)| header.clone())
    }

    /// What it needs under `load`; `None` when its file does not tell.
    pub fn need(&self, load: Load) -> Option<Need> {
        let weights = self.size_bytes().ok()??;
        Some(Need::of(self.header()?.as_ref(), weights, load))
    }

    fn metadata(&self, path: &Path) -> Result<Metadata, ModelFileError> {
        std::fs::metadata(path)
            .and_then(|metadata| {
                if metadata.is_file() {
                    Ok(metadata)
                } else {
                    Err(io::ErrorKind::IsADirectory.into())
                }
            })
            .map_err(|source| self.unreadable(path, source))
    }

    fn unreadable(&self, path: &Path, source: io::Error) -> ModelFileError {
        ModelFileError::Read { model: self.name.clone(), path: path.into(), source }
    }
}

/// The files of weights that are split: `NAME-00001-of-00003.gguf` and those after it.
fn parts(path: &Path, count: u32) -> Vec<PathBuf> {
    let count = count.min(PARTS_MAX);
    let numbered = path
        .file_name()
        .and_then(|name| name.to_str())
        .and_then(|name| name.split_once("-00001-of-"));
    match numbered {
        Some((before, after)) if count > 1 => (1..=count)
            .map(|number| path.with_file_name(format!("{before}-{number:05}-of-{after}")))
            .collect(),
        _ => vec![path.to_owned()],
    }
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

    fn hashes(folder: &tempfile::TempDir) -> Hashes {
        Hashes::load(&folder.path().join("hashes.json")).unwrap()
    }

    #[test]
    fn weights_in_several_files_are_counted_together() {
        let folder = tempfile::tempdir().unwrap();
        let first = folder.path().join("big-00001-of-00002.gguf");
        let head = gguf::tests::qwen().number("split.count", 2).bytes();
        std::fs::write(&first, &head).unwrap();
        let model = model(&first, None);
        model.check(&hashes(&folder)).unwrap();
        assert!(model.size_bytes().is_err(), "the second is missing");
        std::fs::write(folder.path().join("big-00002-of-00002.gguf"), "12345").unwrap();
        assert_eq!(model.size_bytes().unwrap(), Some(head.len() as u64 + 5));
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
        let hashes = hashes(&folder);
        model(&path, None).check(&hashes).unwrap();
        let model = model(&path, Some(ABC));
        model.check(&hashes).unwrap();
        model.check(&hashes).unwrap();
        assert_eq!(model.size_bytes().unwrap(), Some(3));
        assert_eq!(model.header(), None, "it is no GGUF, and may be loaded all the same");
    }

    #[test]
    fn weights_that_changed_are_noticed_even_after_a_good_check() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        std::fs::write(&path, "abc").unwrap();
        let (model, hashes) = (model(&path, Some(ABC)), hashes(&folder));
        model.check(&hashes).unwrap();
        std::fs::write(&path, "abcd").unwrap();
        let message = model.check(&hashes).unwrap_err().to_string();
        assert!(message.contains("configured is ba78"), "{message}");
    }

    #[test]
    fn missing_weights_are_named_with_their_path() {
        let folder = tempfile::tempdir().unwrap();
        let hashes = hashes(&folder);
        let missing = model(Path::new("/nonexistent/m.gguf"), None);
        let message = missing.check(&hashes).unwrap_err().to_string();
        assert!(message.contains("`small` at /nonexistent/m.gguf"), "{message}");
        assert!(model(Path::new("/"), None).check(&hashes).is_err(), "a folder holds no weights");
    }

    #[test]
    fn a_model_without_a_file_is_the_engines_business() {
        let model = Model::new("llama3:8b".parse().unwrap(), None, Options::default());
        let folder = tempfile::tempdir().unwrap();
        model.check(&hashes(&folder)).unwrap();
        assert_eq!((model.location().as_str(), model.size_bytes().unwrap()), ("llama3:8b", None));
    }
}
