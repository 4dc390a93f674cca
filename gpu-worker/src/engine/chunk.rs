//! What one event of an OpenAI-compatible answer means.
//!
//! The engine's bytes are kept whole beside what is decoded, so that a field that
//! we do not know still reaches the caller. Decoding is lenient for the same
//! reason: a field of an unexpected type counts as absent, and only data that is
//! no JSON object at all is an error.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

use crate::engine::sse::Event;

/// One event, understood.
#[derive(Debug, Clone, PartialEq)]
pub enum Decoded {
    /// A piece of the answer.
    Chunk(Chunk),
    /// The engine says that it has finished: `[DONE]`.
    Done,
    /// The engine broke the answer off and says why.
    Error(EngineError),
    /// A sign of life without content.
    Ping,
}

/// A piece of the answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Chunk {
    /// The engine's JSON, exactly as it came.
    pub raw: Bytes,
    /// Text of the first choice; empty when the chunk carries none.
    pub content: String,
    /// Reasoning of the first choice, under whichever of its three names.
    pub reasoning: String,
    /// Why the first choice ended, in the chunk that ends it.
    pub finish_reason: Option<String>,
    /// What the answer cost, in the last chunk.
    pub usage: Usage,
}

/// What an answer cost, as far as the engine says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Tokens of the prompt, those taken from the cache included.
    pub prompt_tokens: Option<u32>,
    /// Tokens of the answer.
    pub completion_tokens: Option<u32>,
    /// Time that reading the prompt took.
    pub prompt_elapsed: Option<Duration>,
    /// Time that writing the answer took.
    pub completion_elapsed: Option<Duration>,
}

impl Usage {
    /// Takes over what `later` says and keeps what it does not.
    pub fn merge(&mut self, later: Self) {
        self.prompt_tokens = later.prompt_tokens.or(self.prompt_tokens);
        self.completion_tokens = later.completion_tokens.or(self.completion_tokens);
        self.prompt_elapsed = later.prompt_elapsed.or(self.prompt_elapsed);
        self.completion_elapsed = later.completion_elapsed.or(self.completion_elapsed);
    }
}

/// An error in the engine's own words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the engine says: {message}")]
pub struct EngineError {
    /// HTTP-like code, when it is a number.
    pub code: Option<u16>,
    /// The engine's class of the error, such as `exceed_context_size_error`; may be empty.
    pub kind: String,
    /// Its words.
    pub message: String,
    /// The error as JSON, exactly as it came; empty when it was no JSON object.
    pub raw: Bytes,
}

/// The engine sent data that is not a JSON object.
#[derive(Debug, thiserror::Error)]
#[error("the engine sent {length} bytes that are not a chunk, beginning with {beginning:?}")]
pub struct NotAChunk {
    length: usize,
    beginning: String,
    #[source]
    source: serde_json::Error,
}

/// Understands one event.
///
/// # Errors
/// [`NotAChunk`] when the data is neither `[DONE]` nor a JSON object.
pub fn decode(event: Event) -> Result<Decoded, NotAChunk> {
    let Event::Message { is_error, data } = event else {
        return Ok(Decoded::Ping);
    };
    if data.starts_with(b"[DONE]") {
        return Ok(Decoded::Done);
    }
    let object: Value = match serde_json::from_slice::<serde_json::Map<_, _>>(&data) {
        Ok(object) => Value::Object(object),
        Err(source) => return Err(not_a_chunk(&data, source)),
    };
    if is_error || is_truthy(object.get("error")) {
        return Ok(Decoded::Error(engine_error(data, &object)));
    }
    Ok(Decoded::Chunk(chunk(data, &object)))
}

/// Reads the error out of the body of a refusal, whatever that is.
pub fn refusal(body: Bytes) -> EngineError {
    match serde_json::from_slice::<serde_json::Map<_, _>>(&body) {
        Ok(object) => engine_error(body, &Value::Object(object)),
        Err(_) => engine_error(Bytes::new(), &Value::from(String::from_utf8_lossy(&body).as_ref())),
    }
}

/// Reads the error out of an object; falls back to its whole text.
fn engine_error(raw: Bytes, object: &Value) -> EngineError {
    let body = object.get("error").unwrap_or(object);
    let text = |key: &str| body.get(key).and_then(Value::as_str).map(str::to_owned);
    EngineError {
        code: body.get("code").and_then(Value::as_u64).and_then(|code| u16::try_from(code).ok()),
        kind: text("type").unwrap_or_default(),
        message: text("message").unwrap_or_else(|| match body {
            Value::String(message) => clip(message),
            other => clip(&other.to_string()),
        }),
        raw,
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct WireUsage {
    prompt_tokens: Option<u32>,
    completion_tokens: Option<u32>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct WireTimings {
    cache_n: Option<u32>,
    prompt_n: Option<u32>,
    prompt_ms: Option<f64>,
    predicted_n: Option<u32>,
    predicted_ms: Option<f64>,
}

fn chunk(raw: Bytes, object: &Value) -> Chunk {
    let choice = object.pointer("/choices/0");
    let delta = choice.and_then(|choice| choice.get("delta").or_else(|| choice.get("message")));
    let text = |keys: &[&str]| {
        keys.iter().find_map(|key| delta?.get(key)?.as_str()).unwrap_or_default().to_owned()
    };
    let content = match choice.and_then(|choice| choice.get("text")).and_then(Value::as_str) {
        // The older completions API puts the text beside the delta.
        Some(plain) => plain.to_owned(),
        None => text(&["content"]),
    };
    Chunk {
        raw,
        content,
        reasoning: text(&["reasoning_content", "reasoning", "thinking"]),
        finish_reason: choice
            .and_then(|choice| choice.get("finish_reason")?.as_str())
            .map(str::to_owned),
        usage: usage(object),
    }
}

/// Token counts come from `usage`, times from llama.cpp's `timings`; where there
/// is no `usage` the timings also count.
fn usage(object: &Value) -> Usage {
    let usage: WireUsage = part(object, "usage");
    let timings: WireTimings = part(object, "timings");
    let counted_prompt =
        timings.prompt_n.map(|new| new.saturating_add(timings.cache_n.unwrap_or(0)));
    Usage {
        prompt_tokens: usage.prompt_tokens.or(counted_prompt),
        completion_tokens: usage.completion_tokens.or(timings.predicted_n),
        prompt_elapsed: timings.prompt_ms.and_then(milliseconds),
        completion_elapsed: timings.predicted_ms.and_then(milliseconds),
    }
}

fn part<T: for<'a> Deserialize<'a> + Default>(object: &Value, key: &str) -> T {
    object.get(key).and_then(|value| T::deserialize(value).ok()).unwrap_or_default()
}

fn milliseconds(count: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(count / 1000.0).ok()
}

/// `"error": null` and the like are how some engines say that there is none.
fn is_truthy(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null | Value::Bool(false)) => false,
        Some(Value::String(text)) => !text.is_empty(),
        Some(_) => true,
    }
}

fn not_a_chunk(data: &Bytes, source: serde_json::Error) -> NotAChunk {
    NotAChunk { length: data.len(), beginning: clip(&String::from_utf8_lossy(data)), source }
}

fn clip(text: &str) -> String {
    const CHARACTERS_MAX: usize = 200;
    text.chars().take(CHARACTERS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(data: &str) -> Decoded {
        decode(message(data)).unwrap()
    }

    fn message(data: &str) -> Event {
        Event::Message { is_error: false, data: Bytes::copy_from_slice(data.as_bytes()) }
    }

    fn read_chunk(data: &str) -> Chunk {
        match read(data) {
            Decoded::Chunk(chunk) => chunk,
            other => panic!("{data} is {other:?}"),
        }
    }

    // The shapes below are those of llama-server as it answered in development.
    const FIRST: &str = r#"{"choices":[{"finish_reason":null,"index":0,"delta":{"role":"assistant","content":null}}],"object":"chat.completion.chunk"}"#;
    const WORD: &str =
        r#"{"choices":[{"finish_reason":null,"index":0,"delta":{"content":" there"}}],"x-new":1}"#;
    const LAST: &str = r#"{"choices":[{"finish_reason":"length","index":0,"delta":{}}]}"#;
    const COST: &str = r#"{"choices":[],"usage":{"completion_tokens":5,"prompt_tokens":32,"total_tokens":37},"timings":{"cache_n":31,"prompt_n":1,"prompt_ms":133.0,"predicted_n":5,"predicted_ms":36.5}}"#;

    #[test]
    fn the_chunks_of_a_real_answer_are_understood() {
        assert_eq!(read_chunk(FIRST).content, "");
        assert_eq!(read_chunk(WORD).content, " there");
        assert_eq!(read_chunk(LAST).finish_reason.as_deref(), Some("length"));
        assert_eq!(
            read_chunk(COST).usage,
            Usage {
                prompt_tokens: Some(32),
                completion_tokens: Some(5),
                prompt_elapsed: Some(Duration::from_millis(133)),
                completion_elapsed: Some(Duration::from_micros(36_500)),
            }
        );
        assert_eq!(read("[DONE]"), Decoded::Done);
    }

    #[test]
    fn the_bytes_of_a_chunk_are_kept_with_fields_that_nobody_knows() {
        assert_eq!(read_chunk(WORD).raw, WORD.as_bytes());
    }

    #[test]
    fn reasoning_is_found_under_each_of_its_names() {
        for name in ["reasoning_content", "reasoning", "thinking"] {
            let data = format!(r#"{{"choices":[{{"delta":{{"{name}":"hm"}}}}]}}"#);
            assert_eq!(read_chunk(&data).reasoning, "hm", "{name}");
        }
    }

    #[test]
    fn plain_completions_are_read_too() {
        assert_eq!(read_chunk(r#"{"choices":[{"text":" and","index":0}]}"#).content, " and");
    }

    #[test]
    fn timings_count_where_usage_is_missing() {
        let usage =
            read_chunk(r#"{"choices":[],"timings":{"cache_n":10,"prompt_n":2,"predicted_n":7}}"#)
                .usage;
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (Some(12), Some(7)));
    }

    #[test]
    fn fields_of_an_unexpected_type_count_as_absent() {
        let chunk = read_chunk(
            r#"{"choices":[{"delta":{"content":[1]},"finish_reason":3}],"usage":"none","timings":{"prompt_ms":-1}}"#,
        );
        assert_eq!(Chunk { raw: Bytes::new(), ..chunk }, Chunk::default());
        assert_eq!(read_chunk("{}").content, "");
    }

    #[test]
    fn errors_in_the_middle_of_a_stream_are_recognised() {
        let table = [
            (
                r#"{"error":{"code":500,"message":"slot died","type":"server_error"}}"#,
                (Some(500), "server_error", "slot died"),
            ),
            (r#"{"error":"out of memory"}"#, (None, "", "out of memory")),
            (
                r#"{"error":{"code":"rate","reason":1}}"#,
                (None, "", r#"{"code":"rate","reason":1}"#),
            ),
        ];
        for (data, (code, kind, said)) in table {
            let raw = Bytes::from_static(data.as_bytes());
            let expected = EngineError { code, kind: kind.into(), message: said.into(), raw };
            assert_eq!(read(data), Decoded::Error(expected), "{data}");
        }
        assert!(matches!(read(r#"{"error":null,"choices":[]}"#), Decoded::Chunk(_)));
    }

    #[test]
    fn a_refusal_need_not_be_json() {
        let error = refusal(Bytes::from_static(b"<h1>Bad Gateway</h1>"));
        assert_eq!((error.message.as_str(), error.raw.len()), ("<h1>Bad Gateway</h1>", 0));
    }

    #[test]
    fn an_event_named_error_is_one_whatever_it_says() {
        let data = Bytes::from_static(br#"{"code":503,"message":"gone"}"#);
        let decoded = decode(Event::Message { is_error: true, data }).unwrap();
        assert!(matches!(decoded, Decoded::Error(error) if error.message == "gone"));
    }

    #[test]
    fn garbage_is_named_by_its_beginning() {
        for data in ["<html>", "[1,2]", "\"text\"", "{\"cut\":"] {
            let error = decode(message(data)).unwrap_err();
            assert!(error.to_string().contains(&format!("{data:?}")), "{error}");
        }
    }

    #[test]
    fn a_comment_is_a_ping() {
        assert_eq!(decode(Event::Comment).unwrap(), Decoded::Ping);
    }
}
