//! The head of a GGUF file: what a model is, without its weights.
//!
//! The format is that of ggml's own description (docs/gguf.md there), versions 2 and 3,
//! little-endian. A file is not trusted: every length is bounded before it is read, and
//! what is too large or of no interest is stepped over.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufReader, Read, Seek},
    path::Path,
};

/// Far more than any model has.
const KEYS_MAX: u64 = 1 << 16;

/// The longest key, in bytes.
const KEY_BYTES_MAX: u64 = 1 << 16;

/// Longer texts (chat templates) are stepped over.
const TEXT_BYTES_MAX: u64 = 1 << 12;

/// Longer lists (vocabularies) are stepped over; only their length is kept.
const LIST_MAX: u64 = 1 << 12;

/// No vocabulary comes near it.
const ELEMENTS_MAX: u64 = 1 << 24;

/// How much of a file may be its head.
const HEAD_BYTES_MAX: u64 = 1 << 30;

/// What is known of a model from its file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Header {
    /// The family, such as `llama` or `qwen3`.
    pub architecture: String,
    /// How the weights are stored, such as `Q4_K_M`; `None` for one we do not know.
    pub quantization: Option<&'static str>,
    /// Tokens of context that it was trained for.
    pub context_trained: Option<u32>,
    /// Into how many files it is split; 1 for none.
    pub parts: u32,
    /// Width of its state.
    pub embedding: u64,
    /// Size of its vocabulary.
    pub vocabulary: u64,
    /// Heads whose keys and values are kept, for each layer.
    pub kept_heads: Vec<u64>,
    /// Numbers in one key.
    pub key_length: u64,
    /// Numbers in one value.
    pub value_length: u64,
}

/// Why the head of a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum NotGguf {
    /// The file cannot be read, or ends too early.
    #[error("the file cannot be read")]
    Read(#[from] io::Error),
    /// It begins otherwise.
    #[error("the file is no GGUF")]
    Magic,
    /// Too old, too new, or of the other byte order.
    #[error("the file is GGUF of version {0}; 2 and 3 are known")]
    Version(u32),
    /// A length is out of all reason.
    #[error("the file says that it has {count} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: u64,
    },
    /// A type that the format does not have.
    #[error("the file has a value of the unknown type {0}")]
    Type(u32),
    /// Something is missing without which nothing can be said.
    #[error("the file does not say `{0}`")]
    Missing(String),
}

impl Header {
    /// Reads the head of a file. Blocks.
    ///
    /// # Errors
    /// [`NotGguf`].
    pub fn read(path: &Path) -> Result<Self, NotGguf> {
        Self::parse(&mut BufReader::with_capacity(1 << 16, File::open(path)?))
    }

    fn parse<R: Read + Seek>(reader: &mut R) -> Result<Self, NotGguf> {
        Self::from_values(&values(reader)?)
    }

    fn from_values(values: &HashMap<String, Value>) -> Result<Self, NotGguf> {
        let Some(Value::Text(architecture)) = values.get("general.architecture") else {
            return Err(NotGguf::Missing("general.architecture".to_owned()));
        };
        let key = |name: &str| format!("{architecture}.{name}");
        let number = |name: &str| values.get(&key(name)).and_then(Value::number);
        let needed = |name: &str| number(name).ok_or_else(|| NotGguf::Missing(key(name)));

        let layers = needed("block_count")?;
        if layers > KEYS_MAX {
            return Err(NotGguf::TooMany { what: "layers", count: layers });
        }
        let embedding = needed("embedding_length")?;
        let heads = values.get(&key("attention.head_count")).map(|heads| heads.each(layers));
        let most_heads = heads.iter().flatten().copied().max().unwrap_or(0);
        let kept = values.get(&key("attention.head_count_kv")).map(|heads| heads.each(layers));
        let head_length = embedding.checked_div(most_heads).unwrap_or(0);
        let vocabulary = values.get("tokenizer.ggml.tokens").and_then(Value::length);
        Ok(Self {
            quantization: values.get("general.file_type").and_then(Value::number).and_then(named),
            context_trained: number("context_length").and_then(|length| length.try_into().ok()),
            parts: values
                .get("split.count")
                .and_then(Value::number)
                .and_then(|parts| parts.try_into().ok())
                .unwrap_or(1)
                .max(1),
            embedding,
            vocabulary: vocabulary.or_else(|| number("vocab_size")).unwrap_or(0),
            // A model without attention keeps no keys.
            kept_heads: kept.or(heads).unwrap_or_default(),
            key_length: number("attention.key_length").unwrap_or(head_length),
            value_length: number("attention.value_length").unwrap_or(head_length),
            architecture: architecture.clone(),
        })
    }
}

/// One value, as far as it is of use.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Number(u64),
    Text(String),
    Numbers(Vec<u64>),
    /// A list that was stepped over.
    Length(u64),
    Other,
}

impl Value {
    fn number(&self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }

    fn length(&self) -> Option<u64> {
        match self {
            Self::Length(length) => Some(*length),
            Self::Numbers(numbers) => u64::try_from(numbers.len()).ok(),
            _ => None,
        }
    }

    /// The value of each layer: one for all, or a list.
    fn each(&self, layers: u64) -> Vec<u64> {
        match self {
            Self::Number(number) => (0..layers).map(|_| *number).collect(),
            Self::Numbers(numbers) => numbers.clone(),
            _ => Vec::new(),
        }
    }
}

/// How the weights are stored, by llama.cpp's numbers (`enum llama_ftype`).
fn named(file_type: u64) -> Option<&'static str> {
    const NAMES: [(u64, &str); 33] = [
        (0, "F32"),
        (1, "F16"),
        (2, "Q4_0"),
        (3, "Q4_1"),
        (7, "Q8_0"),
        (8, "Q5_0"),
        (9, "Q5_1"),
        (10, "Q2_K"),
        (11, "Q3_K_S"),
        (12, "Q3_K_M"),
        (13, "Q3_K_L"),
        (14, "Q4_K_S"),
        (15, "Q4_K_M"),
        (16, "Q5_K_S"),
        (17, "Q5_K_M"),
        (18, "Q6_K"),
        (19, "IQ2_XXS"),
        (20, "IQ2_XS"),
        (21, "Q2_K_S"),
        (22, "IQ3_XS"),
        (23, "IQ3_XXS"),
        (24, "IQ1_S"),
        (25, "IQ4_NL"),
        (26, "IQ3_S"),
        (27, "IQ3_M"),
        (28, "IQ2_S"),
        (29, "IQ2_M"),
        (30, "IQ4_XS"),
        (31, "IQ1_M"),
        (32, "BF16"),
        (36, "TQ1_0"),
        (37, "TQ2_0"),
        (38, "MXFP4_MOE"),
    ];
    NAMES.iter().find(|(number, _)| *number == file_type).map(|(_, name)| *name)
}

fn values<R: Read + Seek>(reader: &mut R) -> Result<HashMap<String, Value>, NotGguf> {
    if bytes::<4>(reader)? != *b"GGUF" {
        return Err(NotGguf::Magic);
    }
    let version = u32::from_le_bytes(bytes(reader)?);
    if !(2..=3).contains(&version) {
        return Err(NotGguf::Version(version));
    }
    let _tensors = u64::from_le_bytes(bytes(reader)?);
    let keys = bounded("keys", u64::from_le_bytes(bytes(reader)?), KEYS_MAX)?;
    let mut values = HashMap::new();
    for _ in 0..keys {
        let length =
            bounded("letters in a key", u64::from_le_bytes(bytes(reader)?), KEY_BYTES_MAX)?;
        let key = text(reader, length)?;
        let kind = u32::from_le_bytes(bytes(reader)?);
        let value = value(reader, kind)?;
        bounded("bytes of head", reader.stream_position()?, HEAD_BYTES_MAX)?;
        values.insert(key, value);
    }
    Ok(values)
}

const TEXT: u32 = 8;
const LIST: u32 = 9;

fn value<R: Read + Seek>(reader: &mut R, kind: u32) -> Result<Value, NotGguf> {
    match kind {
        TEXT => {
            let length = u64::from_le_bytes(bytes(reader)?);
            if length <= TEXT_BYTES_MAX {
                return text(reader, length).map(Value::Text);
            }
            skip(reader, length)?;
            Ok(Value::Other)
        }
        LIST => list(reader),
        _ => scalar(reader, kind),
    }
}

fn list<R: Read + Seek>(reader: &mut R) -> Result<Value, NotGguf> {
    let kind = u32::from_le_bytes(bytes(reader)?);
    let length = bounded("elements in a list", u64::from_le_bytes(bytes(reader)?), ELEMENTS_MAX)?;
    match kind {
        TEXT => {
            for _ in 0..length {
                let length = u64::from_le_bytes(bytes(reader)?);
                skip(reader, length)?;
            }
            Ok(Value::Length(length))
        }
        // A list of lists has no known use, and no bound on its depth.
        LIST => Err(NotGguf::Type(LIST)),
        _ if length <= LIST_MAX => {
            let mut numbers = Vec::new();
            for _ in 0..length {
                numbers.push(scalar(reader, kind)?.number().unwrap_or(0));
            }
            Ok(Value::Numbers(numbers))
        }
        _ => {
            skip(reader, length.saturating_mul(width(kind)?))?;
            Ok(Value::Length(length))
        }
    }
}

fn scalar<R: Read + Seek>(reader: &mut R, kind: u32) -> Result<Value, NotGguf> {
    let number = match kind {
        0 | 7 => u64::from(bytes::<1>(reader)?[0]),
        2 => u64::from(u16::from_le_bytes(bytes(reader)?)),
        4 => u64::from(u32::from_le_bytes(bytes(reader)?)),
        // What should be a count is none when it is negative.
        5 => u64::try_from(i32::from_le_bytes(bytes(reader)?)).unwrap_or(0),
        10 => u64::from_le_bytes(bytes(reader)?),
        11 => u64::try_from(i64::from_le_bytes(bytes(reader)?)).unwrap_or(0),
        _ => {
            skip(reader, width(kind)?)?;
            return Ok(Value::Other);
        }
    };
    Ok(Value::Number(number))
}

/// Bytes of one value.
fn width(kind: u32) -> Result<u64, NotGguf> {
    match kind {
        0 | 1 | 7 => Ok(1),
        2 | 3 => Ok(2),
        4..=6 => Ok(4),
        10..=12 => Ok(8),
        other => Err(NotGguf::Type(other)),
    }
}

fn bytes<const N: usize>(reader: &mut impl Read) -> Result<[u8; N], NotGguf> {
    let mut bytes = [0; N];
    reader.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn text(reader: &mut impl Read, length: u64) -> Result<String, NotGguf> {
    let mut bytes = Vec::new();
    reader.take(length).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).ok() != Some(length) {
        return Err(NotGguf::Read(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn skip(reader: &mut impl Seek, length: u64) -> Result<(), NotGguf> {
    let length = bounded("bytes in a value", length, HEAD_BYTES_MAX)?;
    Ok(reader.seek_relative(i64::try_from(length).unwrap_or(i64::MAX))?)
}

fn bounded(what: &'static str, count: u64, most: u64) -> Result<u64, NotGguf> {
    if count <= most { Ok(count) } else { Err(NotGguf::TooMany { what, count }) }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    /// Writes the head of a GGUF file, key by key.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct Written {
        keys: u64,
        body: Vec<u8>,
    }

    impl Written {
        fn key(mut self, name: &str, kind: u32, value: &[u8]) -> Self {
            self.keys += 1;
            self.body.extend(string(name));
            self.body.extend(kind.to_le_bytes());
            self.body.extend(value);
            self
        }

        pub(crate) fn number(self, name: &str, value: u32) -> Self {
            self.key(name, 4, &value.to_le_bytes())
        }

        pub(crate) fn text(self, name: &str, value: &str) -> Self {
            self.key(name, TEXT, &string(value))
        }

        fn numbers(self, name: &str, values: &[i32]) -> Self {
            let mut bytes = 5_u32.to_le_bytes().to_vec();
            bytes.extend((values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| bytes.extend(value.to_le_bytes()));
            self.key(name, LIST, &bytes)
        }

        pub(crate) fn words(self, name: &str, count: usize) -> Self {
            let mut bytes = TEXT.to_le_bytes().to_vec();
            bytes.extend((count as u64).to_le_bytes());
            (0..count).for_each(|_| bytes.extend(string("token")));
            self.key(name, LIST, &bytes)
        }

        pub(crate) fn bytes(&self) -> Vec<u8> {
            let mut file = b"GGUF".to_vec();
            file.extend(3_u32.to_le_bytes());
            file.extend(0_u64.to_le_bytes());
            file.extend(self.keys.to_le_bytes());
            file.extend(&self.body);
            file
        }

        fn header(&self) -> Result<Header, NotGguf> {
            Header::parse(&mut Cursor::new(self.bytes()))
        }
    }

    fn string(text: &str) -> Vec<u8> {
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend(text.as_bytes());
        bytes
    }

    /// Roughly Qwen3 8B.
    pub(crate) fn qwen() -> Written {
        Written::default()
            .text("general.architecture", "qwen3")
            .text("tokenizer.chat_template", &"x".repeat(9000))
            .number("general.file_type", 15)
            .number("qwen3.block_count", 36)
            .number("qwen3.embedding_length", 4096)
            .number("qwen3.context_length", 40_960)
            .number("qwen3.attention.head_count", 32)
            .number("qwen3.attention.head_count_kv", 8)
            .number("qwen3.attention.key_length", 128)
            .number("qwen3.attention.value_length", 128)
            .key("qwen3.rope.freq_base", 6, &1e6_f32.to_le_bytes())
            .words("tokenizer.ggml.tokens", 1000)
    }

    #[test]
    fn a_model_is_read_from_its_head() {
        let header = qwen().header().unwrap();
        assert_eq!(header.architecture, "qwen3");
        assert_eq!(header.quantization, Some("Q4_K_M"));
        assert_eq!(header.context_trained, Some(40_960));
        assert_eq!(header.kept_heads, [8; 36]);
        assert_eq!((header.key_length, header.value_length), (128, 128));
        assert_eq!((header.vocabulary, header.parts), (1000, 1));
    }

    #[test]
    fn what_a_file_does_not_say_follows_from_what_it_says() {
        let written = Written::default()
            .text("general.architecture", "llama")
            .number("llama.block_count", 2)
            .number("llama.embedding_length", 576)
            .number("llama.attention.head_count", 9)
            .numbers("llama.attention.head_count_kv", &[3, 0])
            .number("split.count", 4);
        let header = written.header().unwrap();
        assert_eq!(header.kept_heads, [3, 0]);
        assert_eq!((header.key_length, header.parts), (64, 4));
        let recurrent = Written::default()
            .text("general.architecture", "mamba")
            .number("mamba.block_count", 2)
            .number("mamba.embedding_length", 576);
        assert_eq!(recurrent.header().unwrap().kept_heads, [] as [u64; 0]);
    }

    #[test]
    fn each_fault_of_a_file_is_named() {
        let mut foreign = qwen().bytes();
        foreign[0] = b'g';
        let mut old = qwen().bytes();
        old[4] = 1;
        let mut many = qwen().bytes();
        many[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
        let cut = qwen().bytes()[..100].to_vec();
        let nested = qwen().key("x", LIST, &[&LIST.to_le_bytes()[..], &[1; 8]].concat());
        let nested = Written { body: nested.body[..nested.body.len() - 8].to_vec(), ..nested };
        let nested = [&nested.bytes()[..], &1_u64.to_le_bytes()].concat();
        let nameless = Written::default().number("llama.block_count", 1).bytes();
        let table = [
            (foreign, "the file is no GGUF"),
            (old, "the file is GGUF of version 1; 2 and 3 are known"),
            (many, "the file says that it has 18446744073709551615 keys"),
            (cut, "the file cannot be read"),
            (nested, "the file has a value of the unknown type 9"),
            (nameless, "the file does not say `general.architecture`"),
        ];
        for (bytes, expected) in table {
            let error = Header::parse(&mut Cursor::new(bytes)).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_harm_the_reader(mut noise in prop::collection::vec(any::<u8>(), 0..200), at in 0_usize..400) {
            drop(Header::parse(&mut Cursor::new(&noise)));
            let mut file = qwen().bytes();
            let end = (at + noise.len()).min(file.len());
            let start = at.min(end);
            noise.truncate(end - start);
            file[start..end].copy_from_slice(&noise);
            drop(Header::parse(&mut Cursor::new(file)));
        }
    }
}
