//! The form of a response.

use bytes::Bytes;
use homelab_domain::ids::JobId;
use serde_json::{Map, Value, json};

/// What is known of a response from its beginning.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) id: JobId,
    pub(super) model: String,
    pub(super) created_at: i64,
    /// What it repeats of the request.
    pub(super) echoed: Map<String, Value>,
}

/// How it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    InProgress,
    Completed,
    /// Cut off by the limit of tokens.
    Incomplete,
    Failed,
}

impl Status {
    /// By the engine's own word.
    pub(super) fn of(finish_reason: Option<&str>) -> Self {
        if finish_reason == Some("length") { Self::Incomplete } else { Self::Completed }
    }

    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Incomplete => "incomplete",
            Self::Failed => "failed",
        }
    }
}

impl Shape {
    /// The whole of it, from a whole chat.
    pub(super) fn whole(&self, chat: &Value) -> Bytes {
        let choice = &chat["choices"][0];
        let message = &choice["message"];
        let mut output = Vec::new();
        if let Some(text) = message["content"].as_str().filter(|text| !text.is_empty()) {
            output.push(self.message(text, Status::Completed));
        }
        for (index, call) in message["tool_calls"].as_array().into_iter().flatten().enumerate() {
            let function = &call["function"];
            output.push(self.call(index, &call["id"], &function["name"], &function["arguments"]));
        }
        let status = Status::of(choice["finish_reason"].as_str());
        let response = self.response(status, output, &chat["usage"], &Value::Null);
        response.to_string().into()
    }

    /// The object, as it stands.
    pub(super) fn response(
        &self,
        status: Status,
        output: Vec<Value>,
        usage: &Value,
        error: &Value,
    ) -> Value {
        let mut response = json!({
            "id": format!("resp_{}", self.id.uuid().simple()),
            "object": "response",
            "created_at": self.created_at,
            "status": status.word(),
            "error": error,
            "incomplete_details": (status == Status::Incomplete)
                .then(|| json!({"reason": "max_output_tokens"})),
            "model": self.model,
            "output": output,
            "usage": usage_of(usage),
            "store": false,
            "previous_response_id": null,
            "instructions": null,
            "max_output_tokens": null,
            "metadata": {},
            "parallel_tool_calls": true,
            "temperature": null,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": null,
            "truncation": "disabled",
        });
        if let Some(fields) = response.as_object_mut() {
            fields.extend(self.echoed.clone());
        }
        response
    }

    /// The item with the text.
    pub(super) fn message(&self, text: &str, status: Status) -> Value {
        let content = if status == Status::InProgress { vec![] } else { vec![text_part(text)] };
        json!({"id": self.message_id(), "type": "message", "role": "assistant",
            "status": status.word(), "content": content})
    }

    pub(super) fn message_id(&self) -> String {
        format!("msg_{}", self.id.uuid().simple())
    }

    /// The item of a call.
    pub(super) fn call(&self, index: usize, id: &Value, name: &Value, arguments: &Value) -> Value {
        json!({"id": self.call_id(index), "type": "function_call", "status": "completed",
            "call_id": id, "name": name, "arguments": arguments})
    }

    pub(super) fn call_id(&self, index: usize) -> String {
        format!("fc_{}_{index}", self.id.uuid().simple())
    }
}

/// The part with the text.
pub(super) fn text_part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": []})
}

fn usage_of(usage: &Value) -> Value {
    if usage.is_null() {
        return Value::Null;
    }
    let details = |from: &str, field: &str| usage[from][field].as_u64().unwrap_or(0);
    json!({
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {"cached_tokens": details("prompt_tokens_details", "cached_tokens")},
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details":
            {"reasoning_tokens": details("completion_tokens_details", "reasoning_tokens")},
        "total_tokens": usage["total_tokens"],
    })
}
