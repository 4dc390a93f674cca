//! A response that is told event by event.

use bytes::Bytes;
use homelab_store::Piece;
use serde_json::{Value, json};

use super::shape::{Shape, Status, text_part};
use crate::http::gateway::{answer::Answer, error::ApiError, frame, tale::Voice};

/// Turns pieces of a chat into the events of a response.
#[derive(Debug)]
pub(super) struct Speech {
    shape: Shape,
    sequence: u64,
    text: String,
    has_message: bool,
    /// All pieces, for calls and usage, which come whole.
    chat: Answer,
}

impl Speech {
    pub(super) fn new(shape: Shape) -> Self {
        Self {
            shape,
            sequence: 0,
            text: String::new(),
            has_message: false,
            chat: Answer::default(),
        }
    }

    fn event(&mut self, kind: &str, mut fields: Value) -> Bytes {
        if let Some(fields) = fields.as_object_mut() {
            fields.insert("type".to_owned(), kind.into());
            fields.insert("sequence_number".to_owned(), self.sequence.into());
        }
        self.sequence += 1;
        frame::named(kind, fields.to_string().as_bytes())
    }

    fn place(&self) -> Value {
        json!({"item_id": self.shape.message_id(), "output_index": 0, "content_index": 0})
    }

    fn with(&self, field: &str, value: Value) -> Value {
        let mut place = self.place();
        place[field] = value;
        place
    }

    fn begin_message(&mut self) -> Vec<Bytes> {
        self.has_message = true;
        let item = self.shape.message("", Status::InProgress);
        let part = self.with("part", text_part(""));
        vec![
            self.event("response.output_item.added", json!({"output_index": 0, "item": item})),
            self.event("response.content_part.added", part),
        ]
    }

    fn end_message(&mut self) -> Vec<Bytes> {
        let text = self.with("text", self.text.clone().into());
        let part = self.with("part", text_part(&self.text));
        let item = self.shape.message(&self.text, Status::Completed);
        vec![
            self.event("response.output_text.done", text),
            self.event("response.content_part.done", part),
            self.event("response.output_item.done", json!({"output_index": 0, "item": item})),
        ]
    }

    fn call(&mut self, output_index: usize, index: usize, call: &Value) -> (Value, Vec<Bytes>) {
        let function = &call["function"];
        let item = self.shape.call(index, &call["id"], &function["name"], &function["arguments"]);
        let mut begun = item.clone();
        begun["status"] = "in_progress".into();
        begun["arguments"] = "".into();
        let id = self.shape.call_id(index);
        let arguments = &function["arguments"];
        let delta = json!({"item_id": id, "output_index": output_index, "delta": arguments});
        let done = json!({"item_id": id, "output_index": output_index, "name": function["name"],
            "arguments": arguments});
        let frames = vec![
            self.event(
                "response.output_item.added",
                json!({"output_index": output_index, "item": begun}),
            ),
            self.event("response.function_call_arguments.delta", delta),
            self.event("response.function_call_arguments.done", done),
            self.event(
                "response.output_item.done",
                json!({"output_index": output_index, "item": item}),
            ),
        ];
        (item, frames)
    }
}

impl Voice for Speech {
    fn opening(&mut self) -> Vec<Bytes> {
        let response =
            self.shape.response(Status::InProgress, Vec::new(), &Value::Null, &Value::Null);
        vec![
            self.event("response.created", json!({"response": response})),
            self.event("response.in_progress", json!({"response": response})),
        ]
    }

    fn piece(&mut self, piece: &Piece) -> Vec<Bytes> {
        // A piece that cannot be read has no text either.
        let _unread = self.chat.add(&piece.openai_chunk);
        if piece.content.is_empty() {
            return Vec::new();
        }
        let mut frames = if self.has_message { Vec::new() } else { self.begin_message() };
        self.text.push_str(&piece.content);
        let delta = self.with("delta", piece.content.clone().into());
        frames.push(self.event("response.output_text.delta", delta));
        frames
    }

    fn ending(&mut self) -> Vec<Bytes> {
        let chat = std::mem::take(&mut self.chat).into_value();
        let mut frames = Vec::new();
        let mut output = Vec::new();
        if self.has_message {
            frames.extend(self.end_message());
            output.push(self.shape.message(&self.text, Status::Completed));
        }
        let choice = &chat["choices"][0];
        for (index, call) in
            choice["message"]["tool_calls"].as_array().into_iter().flatten().enumerate()
        {
            let (item, told) = self.call(output.len(), index, call);
            frames.extend(told);
            output.push(item);
        }
        let status = Status::of(choice["finish_reason"].as_str());
        let response = self.shape.response(status, output, &chat["usage"], &Value::Null);
        let kind = format!("response.{}", status.word());
        frames.push(self.event(&kind, json!({"response": response})));
        frames
    }

    fn failure(&mut self, error: &ApiError) -> Vec<Bytes> {
        let said = json!({"code": "server_error", "message": error.message()});
        let response = self.shape.response(Status::Failed, Vec::new(), &Value::Null, &said);
        vec![self.event("response.failed", json!({"response": response}))]
    }
}
