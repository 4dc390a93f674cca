//! What the gateway must know of a request; the rest goes to the engine as it came.

use homelab_domain::job::RequestForm;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::{context::Extension, error::ApiError};
use crate::documents::attach::ContextWish;

/// Longest title of a job, in characters.
const TITLE_CHARS_MAX: usize = 80;

/// Longest name of a model, in bytes.
const MODEL_BYTES_MAX: usize = 200;

/// The fields of a request that decide about its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Which API it is a request of.
    pub form: RequestForm,
    /// Model; empty takes the default.
    pub model: String,
    /// Whether the answer is wanted piece by piece.
    pub delivery: Delivery,
    /// First characters of the last message or of the text, for lists of jobs.
    pub title: String,
    /// Documents of the house to put before it.
    pub context: Option<ContextWish>,
}

/// How the client wants its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// One JSON object at the end.
    Whole,
    /// Events; the one with the usage only on demand.
    Stream {
        /// Whether the chunk with the usage was asked for.
        usage: Usage,
    },
}

/// Whether the client asked for the chunk that carries the usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// It did.
    Wanted,
    /// It did not, and clients may stumble over a chunk without choices.
    Hidden,
}

#[derive(Deserialize)]
struct Wire<'a> {
    model: Option<String>,
    stream: Option<bool>,
    stream_options: Option<StreamOptions>,
    #[serde(borrow)]
    messages: Option<&'a RawValue>,
    #[serde(borrow)]
    prompt: Option<&'a RawValue>,
    homelab: Option<Extension>,
}

#[derive(Deserialize)]
struct StreamOptions {
    include_usage: Option<bool>,
}

/// Looks into the body of a chat request.
///
/// # Errors
/// 400 in OpenAI's shape: no JSON object, a field of the wrong type, no messages.
pub fn read(body: &[u8]) -> Result<Question, ApiError> {
    let wire = wire(body, "a chat request")?;
    let messages: Option<Vec<&RawValue>> =
        wire.messages.map_or(Ok(None), |list| serde_json::from_str(list.get())).map_err(|_| {
            ApiError::invalid(Some("messages"), "`messages` is not a list of messages.")
        })?;
    let Some(last) = messages.as_ref().and_then(|messages| messages.last()) else {
        return Err(ApiError::invalid(Some("messages"), "`messages` is missing or empty."));
    };
    question(RequestForm::OpenaiChat, title(last.get()), wire)
}

/// Looks into the body of a request to continue a text.
///
/// # Errors
/// 400 in OpenAI's shape: no JSON object, a field of the wrong type, no text.
pub fn read_completion(body: &[u8]) -> Result<Question, ApiError> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Prompt {
        Text(String),
        Texts(Vec<String>),
        /// Tokens, or lists of them.
        Tokens(Vec<IgnoredAny>),
    }
    let wire = wire(body, "a request to continue a text")?;
    let prompt = wire.prompt.and_then(|prompt| serde_json::from_str(prompt.get()).ok());
    let title = match prompt {
        Some(Prompt::Text(text)) => shorten(&text),
        Some(Prompt::Texts(texts)) if !texts.is_empty() => shorten(&texts.join(" ")),
        Some(Prompt::Tokens(tokens)) if !tokens.is_empty() => String::new(),
        _ => {
            let words = "`prompt` is missing, empty, or neither text nor tokens.";
            return Err(ApiError::invalid(Some("prompt"), words));
        }
    };
    question(RequestForm::OpenaiCompletion, title, wire)
}

fn wire<'a>(body: &'a [u8], what: &str) -> Result<Wire<'a>, ApiError> {
    serde_json::from_slice(body)
        .map_err(|error| ApiError::invalid(None, format!("The body is not {what}: {error}.")))
}

fn question(form: RequestForm, title: String, wire: Wire<'_>) -> Result<Question, ApiError> {
    let model = wire.model.unwrap_or_default();
    if model.len() > MODEL_BYTES_MAX {
        return Err(ApiError::invalid(Some("model"), "`model` is longer than 200 bytes."));
    }
    let usage = match wire.stream_options.and_then(|options| options.include_usage) {
        Some(true) => Usage::Wanted,
        Some(false) | None => Usage::Hidden,
    };
    let delivery =
        if wire.stream.unwrap_or_default() { Delivery::Stream { usage } } else { Delivery::Whole };
    let context = wire.homelab.and_then(Extension::wish);
    Ok(Question { form, model, delivery, title, context })
}

/// The first characters of a message's text, on one line.
#[must_use]
pub fn shorten(text: &str) -> String {
    let spaced = text.split_whitespace().flat_map(|word| std::iter::once(' ').chain(word.chars()));
    spaced.skip(1).take(TITLE_CHARS_MAX).collect()
}

/// Text of a message: a string, or the text parts of a list. Anything else has no title.
fn title(message: &str) -> String {
    #[derive(Deserialize)]
    struct Message {
        content: Option<Content>,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Content {
        Text(String),
        Parts(Vec<Part>),
    }
    #[derive(Deserialize)]
    struct Part {
        text: Option<String>,
    }
    match serde_json::from_str::<Message>(message).ok().and_then(|message| message.content) {
        Some(Content::Text(text)) => shorten(&text),
        Some(Content::Parts(parts)) => {
            shorten(&parts.into_iter().filter_map(|part| part.text).collect::<Vec<_>>().join(" "))
        }
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_fields_that_decide_are_read() {
        let body = br#"{"model":"qwen","stream":true,"stream_options":{"include_usage":true,"new":1},
            "messages":[{"role":"user","content":"What is\n  up?"}],"tools":[{"x":null}],"x_future":{"a":[1e400]}}"#;
        let request = read(body).expect("is valid");
        assert_eq!(request.model, "qwen");
        assert_eq!(request.delivery, Delivery::Stream { usage: Usage::Wanted });
        assert_eq!(request.title, "What is up?");
    }

    #[test]
    fn content_in_parts_has_a_title_too() {
        let body = br#"{"messages":[{"role":"user","content":[{"type":"text","text":"Look:"},
            {"type":"image_url","image_url":{"url":"data:"}}]}]}"#;
        let request = read(body).expect("is valid");
        assert_eq!((request.title.as_str(), request.delivery), ("Look:", Delivery::Whole));
    }

    #[test]
    fn a_title_is_cut_between_characters() {
        let long = "é".repeat(500);
        assert_eq!(shorten(&long).chars().count(), TITLE_CHARS_MAX);
    }

    #[test]
    fn wrong_bodies_are_refused() {
        for body in [
            &b"[]"[..],
            b"{",
            b"",
            br#"{"messages":[]}"#,
            br#"{"messages":"hi"}"#,
            br#"{"messages":[{}],"stream":"yes"}"#,
            br#"{"messages":[{}],"model":7}"#,
            br#"{"model":"a","model":"b","messages":[{}]}"#,
        ] {
            let error = read(body).expect_err("is invalid");
            assert_eq!(error.status(), 400, "{}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn a_text_to_be_continued_is_text_or_tokens() {
        for (prompt, title) in [
            (r#""Once  upon""#, "Once upon"),
            (r#"["Once","upon"]"#, "Once upon"),
            ("[1,2]", ""),
            ("[[1],[2,3]]", ""),
        ] {
            let body = format!(r#"{{"model":"m","prompt":{prompt},"echo":true,"messages":7}}"#);
            let question = read_completion(body.as_bytes()).expect(&body);
            assert_eq!((question.model.as_str(), question.title.as_str()), ("m", title));
            assert_eq!(question.form, RequestForm::OpenaiCompletion);
        }
        for wrong in ["{}", r#"{"prompt":null}"#, r#"{"prompt":[]}"#, r#"{"prompt":7}"#, "[]"] {
            assert_eq!(read_completion(wrong.as_bytes()).expect_err(wrong).status(), 400);
        }
    }

    #[test]
    fn deep_nesting_is_refused_or_skipped_but_never_overflows() {
        let deep = "[".repeat(1_000_000);
        let body = format!("{{\"messages\":[{{\"content\":{deep}");
        assert!(read(body.as_bytes()).is_err());
    }
}
