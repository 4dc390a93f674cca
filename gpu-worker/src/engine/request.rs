//! The body of a request to the engine.
//!
//! A caller's JSON keeps the order, the spelling and the numbers of every field;
//! only what our own contract with the engine needs is replaced: the model's name
//! there, and that the answer is streamed with its cost at the end.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

/// A chat given by typed fields.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Chat {
    /// Who said what, oldest first.
    pub messages: Vec<Message>,
    /// Most tokens to answer with; absent leaves it to the engine.
    pub tokens_max: Option<u32>,
    /// Sampling temperature.
    pub temperature: Option<f32>,
    /// Seed for repeatable answers.
    pub seed: Option<i64>,
}

/// One message of a chat.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Message {
    /// Who said it.
    pub role: Role,
    /// What.
    pub content: String,
}

/// Who says something in a chat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

/// Why a caller's JSON cannot be passed on.
#[derive(Debug, thiserror::Error)]
pub enum InvalidRequest {
    /// It is not a JSON object.
    #[error("the request is not a JSON object")]
    NotAnObject(#[source] serde_json::Error),
    /// `stream_options` is there and is not an object.
    #[error("`stream_options` of the request is not an object")]
    StreamOptions(#[source] serde_json::Error),
    /// It could not be written again.
    #[error("the request cannot be written as JSON")]
    Write(#[source] serde_json::Error),
}

/// The body for a typed chat.
///
/// # Errors
/// [`InvalidRequest::Write`]: a temperature that is not a number.
pub fn from_chat(chat: &Chat, model: &str) -> Result<Bytes, InvalidRequest> {
    #[derive(serde::Serialize)]
    struct Body<'a> {
        model: &'a str,
        messages: &'a [Message],
        #[serde(skip_serializing_if = "Option::is_none")]
        max_tokens: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        temperature: Option<f32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        seed: Option<i64>,
        stream: bool,
        stream_options: StreamOptions,
    }
    #[derive(serde::Serialize)]
    struct StreamOptions {
        include_usage: bool,
    }
    let body = Body {
        model,
        messages: &chat.messages,
        max_tokens: chat.tokens_max,
        temperature: chat.temperature,
        seed: chat.seed,
        stream: true,
        stream_options: StreamOptions { include_usage: true },
    };
    serde_json::to_vec(&body).map(Bytes::from).map_err(InvalidRequest::Write)
}

/// A text to be continued, by typed fields.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Completion<'a> {
    /// The text.
    pub prompt: &'a str,
    /// Most tokens to add; absent leaves it to the engine.
    pub tokens_max: Option<u32>,
    /// Sampling temperature.
    pub temperature: Option<f32>,
    /// Seed for repeatable answers.
    pub seed: Option<i64>,
}

/// A question and the texts that are to be ordered by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question<'a> {
    /// The question.
    pub query: &'a str,
    /// The texts.
    pub documents: &'a [String],
    /// How many of them to give back; absent for all.
    pub top_n: Option<u32>,
}

/// The body for a typed text that is to be continued.
///
/// # Errors
/// [`InvalidRequest::Write`]: a temperature that is not a number.
pub fn from_completion(completion: &Completion<'_>, model: &str) -> Result<Bytes, InvalidRequest> {
    let Completion { prompt, tokens_max, temperature, seed } = completion;
    let mut body = serde_json::json!({
        "model": model,
        "prompt": prompt,
        "stream": true,
        "stream_options": { "include_usage": true },
    });
    if let Some(tokens_max) = tokens_max {
        body["max_tokens"] = (*tokens_max).into();
    }
    if let Some(temperature) = temperature {
        body["temperature"] = (*temperature).into();
    }
    if let Some(seed) = seed {
        body["seed"] = (*seed).into();
    }
    write(&body)
}

/// The body for texts that are to become vectors.
///
/// # Errors
/// [`InvalidRequest::Write`].
pub fn from_inputs(inputs: &[String], model: &str) -> Result<Bytes, InvalidRequest> {
    write(&serde_json::json!({ "model": model, "input": inputs }))
}

/// The body for texts that are to be put in order.
///
/// # Errors
/// [`InvalidRequest::Write`].
pub fn from_question(question: &Question<'_>, model: &str) -> Result<Bytes, InvalidRequest> {
    let Question { query, documents, top_n } = question;
    let mut body = serde_json::json!({ "model": model, "query": query, "documents": documents });
    if let Some(top_n) = top_n {
        body["top_n"] = (*top_n).into();
    }
    write(&body)
}

/// The body for a caller's own JSON whose answer comes in one piece: only the model's
/// name is replaced.
///
/// # Errors
/// [`InvalidRequest`] when `json` is not an object.
pub fn whole_from_json(json: &[u8], model: &str) -> Result<Bytes, InvalidRequest> {
    let mut request: Object<'_> =
        serde_json::from_slice(json).map_err(InvalidRequest::NotAnObject)?;
    let model = serde_json::value::to_raw_value(model).map_err(InvalidRequest::Write)?;
    request.set("model", &model);
    write(&request)
}

fn write(body: &impl Serialize) -> Result<Bytes, InvalidRequest> {
    serde_json::to_vec(body).map(Bytes::from).map_err(InvalidRequest::Write)
}

/// The body for a caller's own JSON whose answer is streamed.
///
/// # Errors
/// [`InvalidRequest`] when `json` is not an object or its `stream_options` is not one.
pub fn from_json(json: &[u8], model: &str) -> Result<Bytes, InvalidRequest> {
    let mut request: Object<'_> =
        serde_json::from_slice(json).map_err(InvalidRequest::NotAnObject)?;

    let mut options = match request.get("stream_options") {
        Some(raw) if raw.get() != "null" => {
            serde_json::from_str(raw.get()).map_err(InvalidRequest::StreamOptions)?
        }
        _ => Object::default(),
    };
    let yes = serde_json::value::to_raw_value(&true).map_err(InvalidRequest::Write)?;
    options.set("include_usage", &yes);
    let options = serde_json::value::to_raw_value(&options).map_err(InvalidRequest::Write)?;
    let model = serde_json::value::to_raw_value(model).map_err(InvalidRequest::Write)?;

    request.set("model", &model);
    request.set("stream", &yes);
    request.set("stream_options", &options);
    serde_json::to_vec(&request).map(Bytes::from).map_err(InvalidRequest::Write)
}

/// A JSON object whose values stay the text that they were.
#[derive(Default)]
struct Object<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Object<'a> {
    fn get(&self, key: &str) -> Option<&'a RawValue> {
        // JSON leaves open what a repeated key means; readers take the last.
        self.0.iter().rev().find(|(name, _)| name == key).map(|(_, value)| *value)
    }

    /// Puts `value` where `key` first stood, or at the end.
    fn set(&mut self, key: &'static str, value: &'a RawValue) {
        let place = self.0.iter().position(|(name, _)| name == key).unwrap_or(self.0.len());
        self.0.retain(|(name, _)| name != key);
        self.0.insert(place.min(self.0.len()), (Cow::Borrowed(key), value));
    }
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Object<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some((name, value)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
                    fields.push((name.0, value));
                }
                Ok(Object(fields))
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// A key, borrowed where it holds no escape.
#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn patched(json: &str) -> String {
        String::from_utf8(from_json(json.as_bytes(), "smollm2").unwrap().to_vec()).unwrap()
    }

    #[test]
    fn only_three_fields_of_a_callers_request_are_replaced() {
        let table = [
            (
                r#"{"zeta":1.50,"model":"Chat","messages":[ {"role":"user"} ],"seed":12345678901234567890123}"#,
                r#"{"zeta":1.50,"model":"smollm2","messages":[ {"role":"user"} ],"seed":12345678901234567890123,"stream":true,"stream_options":{"include_usage":true}}"#,
            ),
            (
                r#"{"stream":false,"model":"a","stream_options":{"include_usage":false,"x":{"y":[]}}}"#,
                r#"{"stream":true,"model":"smollm2","stream_options":{"include_usage":true,"x":{"y":[]}}}"#,
            ),
            (
                r#"{"stream_options":null,"caf\u00e9":"\u00e9"}"#,
                r#"{"stream_options":{"include_usage":true},"café":"\u00e9","model":"smollm2","stream":true}"#,
            ),
            (
                r#"{"model":"a","n":1,"model":"b"}"#,
                r#"{"model":"smollm2","n":1,"stream":true,"stream_options":{"include_usage":true}}"#,
            ),
        ];
        for (given, expected) in table {
            assert_eq!(patched(given), expected, "{given}");
        }
    }

    #[test]
    fn what_is_not_an_object_is_refused() {
        for given in ["", "[]", "\"text\"", "{", "{}x", "7"] {
            assert!(
                matches!(from_json(given.as_bytes(), "m"), Err(InvalidRequest::NotAnObject(_))),
                "{given}"
            );
        }
        assert!(matches!(
            from_json(br#"{"stream_options":[1]}"#, "m"),
            Err(InvalidRequest::StreamOptions(_))
        ));
    }

    #[test]
    fn a_deep_request_is_refused_or_passed_but_never_overflows() {
        let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        // The engine decides what it makes of it.
        drop(from_json(deep.as_bytes(), "m"));
    }

    #[test]
    fn typed_messages_become_an_openai_request() {
        let chat = Chat {
            messages: vec![
                Message { role: Role::System, content: "be brief".into() },
                Message { role: Role::User, content: "hello \"you\"".into() },
            ],
            tokens_max: Some(9),
            ..Chat::default()
        };
        let body: Value = serde_json::from_slice(&from_chat(&chat, "smollm2").unwrap()).unwrap();
        assert_eq!(
            body,
            json!({
                "model": "smollm2",
                "messages": [
                    {"role": "system", "content": "be brief"},
                    {"role": "user", "content": "hello \"you\""},
                ],
                "max_tokens": 9,
                "stream": true,
                "stream_options": {"include_usage": true},
            })
        );
    }

    proptest! {
        #[test]
        fn every_other_field_survives(
            fields in proptest::collection::btree_map("[a-z]{1,9}", any::<i64>(), 0..8),
        ) {
            let given = serde_json::to_string(&fields).unwrap();
            let sent: Value = serde_json::from_str(&patched(&given)).unwrap();
            for (name, value) in &fields {
                if !["model", "stream"].contains(&name.as_str()) {
                    prop_assert_eq!(&sent[name], &json!(value));
                }
            }
        }
    }
}
