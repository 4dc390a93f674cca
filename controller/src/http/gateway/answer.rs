//! One whole answer out of its pieces, for clients that do not stream.
//!
//! Pieces are merged by form, not by a list of known fields, so that a field that an engine adds
//! tomorrow is in the answer too: text is joined, objects are merged, list items with an `index`
//! are merged with their like, and of anything else the last one counts.

use bytes::Bytes;
use serde_json::{Map, Value};

/// Texts that are said once and not piece by piece.
const WHOLE_TEXTS: [&str; 4] = ["finish_reason", "id", "role", "type"];

/// Most entries that one list of an answer may hold: choices, tool calls, log probabilities.
const LIST_ENTRIES_MAX: usize = 100_000;

/// An answer that grows.
#[derive(Debug, Default)]
pub(super) struct Answer {
    whole: Map<String, Value>,
}

/// A piece that is not a JSON object.
#[derive(Debug, thiserror::Error)]
#[error("a piece of the answer is not a JSON object")]
pub(super) struct NotAPiece(#[source] serde_json::Error);

impl Answer {
    /// Adds the next piece.
    ///
    /// # Errors
    /// [`NotAPiece`] when it is not a JSON object.
    pub(super) fn add(&mut self, chunk: &[u8]) -> Result<(), NotAPiece> {
        let piece: Map<String, Value> = serde_json::from_slice(chunk).map_err(NotAPiece)?;
        for (key, value) in piece {
            match key.as_str() {
                "choices" => merge(&key, self.whole.entry("choices").or_insert(Value::Null), value),
                _ => {
                    self.whole.insert(key, value);
                }
            }
        }
        Ok(())
    }

    /// The same with our own part in it.
    #[must_use]
    pub(super) fn with(mut self, ours: Option<Value>) -> Self {
        self.whole.extend(ours.map(|ours| ("homelab".to_owned(), ours)));
        self
    }

    /// The answer as one `chat.completion`, written down.
    #[must_use]
    pub(super) fn finish(self) -> Bytes {
        serde_json::to_vec(&self.into_value()).map(Bytes::from).unwrap_or_default()
    }

    /// The answer as one `text_completion`, whose pieces have the form of the whole.
    #[must_use]
    pub(super) fn finish_text(mut self) -> Bytes {
        self.whole.insert("object".to_owned(), Value::from("text_completion"));
        order_choices(&mut self.whole);
        serde_json::to_vec(&self.whole).map(Bytes::from).unwrap_or_default()
    }

    /// The answer as one `chat.completion`.
    #[must_use]
    pub(super) fn into_value(mut self) -> Value {
        self.whole.insert("object".to_owned(), Value::from("chat.completion"));
        for choice in order_choices(&mut self.whole) {
            let Some(choice) = choice.as_object_mut() else { continue };
            let mut message = choice.remove("delta").unwrap_or_default();
            if let Some(message) = message.as_object_mut() {
                message.entry("role").or_insert_with(|| Value::from("assistant"));
                message.entry("content").or_insert(Value::Null);
                drop_indices(message);
            }
            choice.insert("message".to_owned(), message);
        }
        Value::Object(self.whole)
    }
}

/// Puts the choices of an answer in their order, which need not be the one in which they began.
fn order_choices(whole: &mut Map<String, Value>) -> &mut [Value] {
    let choices = whole.entry("choices").or_insert_with(|| Value::Array(Vec::new()));
    let choices = choices.as_array_mut().map(Vec::as_mut_slice).unwrap_or_default();
    choices.sort_by_key(|choice| choice.get("index").and_then(Value::as_u64));
    choices
}

/// Merges `piece`, which stood under `key`, into what there is.
fn merge(key: &str, whole: &mut Value, piece: Value) {
    match (whole, piece) {
        (_, Value::Null) => {}
        (Value::String(text), Value::String(more)) if !WHOLE_TEXTS.contains(&key) => {
            text.push_str(&more);
        }
        (Value::Object(fields), Value::Object(more)) => {
            for (key, value) in more {
                match fields.get_mut(&key) {
                    Some(field) => merge(&key, field, value),
                    None => {
                        let mut field = Value::Null;
                        merge(&key, &mut field, value);
                        fields.insert(key, field);
                    }
                }
            }
        }
        (Value::Array(items), Value::Array(more)) => {
            for item in more {
                merge_item(key, items, item);
            }
        }
        (whole @ Value::Null, Value::Array(more)) => {
            let mut items = Vec::new();
            for item in more {
                merge_item(key, &mut items, item);
            }
            *whole = Value::Array(items);
        }
        (whole, piece) => *whole = piece,
    }
}

fn merge_item(key: &str, items: &mut Vec<Value>, item: Value) {
    let index = |item: &Value| item.get("index").and_then(Value::as_u64);
    let wanted = index(&item);
    let place = items.iter().position(|other| wanted.is_some() && index(other) == wanted);
    if let Some(place) = place {
        merge(key, &mut items[place], item);
    } else if items.len() < LIST_ENTRIES_MAX {
        items.push(item);
    }
}

/// `index` tells pieces of tool calls apart; a whole answer has none.
fn drop_indices(message: &mut Map<String, Value>) {
    let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut);
    for call in calls.into_iter().flatten().filter_map(Value::as_object_mut) {
        call.remove("index");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn joined(pieces: &[Value]) -> Value {
        let mut answer = Answer::default();
        for piece in pieces {
            answer.add(piece.to_string().as_bytes()).expect("is an object");
        }
        serde_json::from_slice(&answer.finish()).expect("is JSON")
    }

    #[test]
    fn the_pieces_of_an_engine_become_one_completion() {
        let head = json!({"id": "chatcmpl-1", "model": "qwen", "object": "chat.completion.chunk", "created": 5});
        let piece = |rest: Value| {
            let mut piece = head.clone();
            piece
                .as_object_mut()
                .expect("an object")
                .extend(rest.as_object().expect("an object").clone());
            piece
        };
        let whole = joined(&[
            piece(json!({"choices": [{"index": 0, "delta": {"role": "assistant", "content": null},
                "finish_reason": null}]})),
            piece(
                json!({"choices": [{"index": 0, "delta": {"content": "Hel"}, "finish_reason": null}]}),
            ),
            piece(
                json!({"choices": [{"index": 0, "delta": {"content": "lo"}, "finish_reason": null}]}),
            ),
            piece(json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})),
            piece(
                json!({"choices": [], "usage": {"total_tokens": 34}, "timings": {"predicted_n": 3}}),
            ),
        ]);
        assert_eq!(
            whole,
            json!({
                "id": "chatcmpl-1", "model": "qwen", "object": "chat.completion", "created": 5,
                "choices": [{"index": 0, "finish_reason": "stop",
                    "message": {"role": "assistant", "content": "Hello"}}],
                "usage": {"total_tokens": 34}, "timings": {"predicted_n": 3}
            })
        );
    }

    #[test]
    fn tool_calls_are_put_together_by_index() {
        let call =
            |call: Value| json!({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]});
        let whole = joined(&[
            call(
                json!({"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}),
            ),
            call(json!({"index": 0, "function": {"arguments": "{\"x\""}})),
            call(
                json!({"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}}),
            ),
            call(json!({"index": 0, "function": {"arguments": ":1}"}})),
        ]);
        assert_eq!(
            whole["choices"][0]["message"]["tool_calls"],
            json!([
                {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}},
                {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
            ])
        );
        assert_eq!(whole["choices"][0]["message"]["content"], Value::Null);
    }

    #[test]
    fn choices_and_unknown_fields_are_kept() {
        let whole = joined(&[
            json!({"x_top": 1, "choices": [{"index": 1, "delta": {"content": "b", "x_inner": "u"}}]}),
            json!({"x_top": 2, "choices": [{"index": 0, "delta": {"content": "a"},
                "logprobs": {"content": [{"token": "a"}]}}]}),
            json!({"choices": [{"index": 1, "delta": {"content": "B", "x_inner": "v"}}]}),
            json!({"choices": [{"index": 0, "delta": {}, "logprobs": {"content": [{"token": "A"}]}}]}),
        ]);
        assert_eq!(whole["x_top"], 2);
        assert_eq!(
            whole["choices"][1]["message"],
            json!({"role": "assistant", "content": "bB", "x_inner": "uv"})
        );
        assert_eq!(
            whole["choices"][0]["logprobs"],
            json!({"content": [{"token": "a"}, {"token": "A"}]})
        );
    }

    #[test]
    fn the_pieces_of_a_continued_text_become_one() {
        let mut answer = Answer::default();
        for piece in [
            json!({"id": "cmpl-1", "object": "text_completion", "choices": [{"index": 0, "text": "four,",
                "finish_reason": null, "logprobs": {"tokens": ["four"], "text_offset": [0]}}]}),
            json!({"id": "cmpl-1", "object": "text_completion", "choices": [{"index": 0, "text": " five",
                "finish_reason": "length", "logprobs": {"tokens": [" five"], "text_offset": [5]}}],
                "usage": {"total_tokens": 9}}),
        ] {
            answer.add(piece.to_string().as_bytes()).expect("is an object");
        }
        let whole: Value = serde_json::from_slice(&answer.finish_text()).expect("is JSON");
        assert_eq!(
            whole,
            json!({"id": "cmpl-1", "object": "text_completion", "usage": {"total_tokens": 9},
                "choices": [{"index": 0, "text": "four, five", "finish_reason": "length",
                    "logprobs": {"tokens": ["four", " five"], "text_offset": [0, 5]}}]})
        );
    }

    #[test]
    fn a_piece_that_is_no_object_is_refused() {
        assert!(Answer::default().add(b"[1]").is_err());
    }
}
