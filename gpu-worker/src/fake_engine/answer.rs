//! What a scripted engine answers.

use std::time::Duration;

/// One step of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Sends a chunk with this text.
    Text(&'static str),
    /// Sends these bytes as they are, inside the stream of events.
    Raw(&'static str),
    /// Sends the reason to end, what it cost, and `[DONE]`.
    Finish,
    /// Closes the answer properly, without `[DONE]` unless that was sent.
    End,
    /// Drops the connection in the middle.
    Cut,
    /// Does nothing for a while.
    Wait(Duration),
    /// Does nothing any more, and keeps the connection.
    Hang,
    /// In place of an answer: this status and body.
    Refuse(u16, &'static str),
    /// In place of a stream of events: this as JSON.
    Json(&'static str),
}

/// What an engine says that no script was given for.
pub(super) fn hello() -> Vec<Step> {
    vec![Step::Text("Hello"), Step::Text(" there"), Step::Finish]
}

pub(super) fn chunk(text: &str) -> String {
    let text = serde_json::Value::from(text);
    event(&format!(
        r#"{{"choices":[{{"finish_reason":null,"index":0,"delta":{{"content":{text}}}}}],"object":"chat.completion.chunk"}}"#
    ))
}

pub(super) fn finish(completion_tokens: u32) -> String {
    let last = event(r#"{"choices":[{"finish_reason":"stop","index":0,"delta":{}}]}"#);
    let cost = event(&format!(
        r#"{{"choices":[],"usage":{{"prompt_tokens":7,"completion_tokens":{completion_tokens}}},"timings":{{"prompt_ms":12.5,"predicted_ms":40}}}}"#
    ));
    last + &cost + &event("[DONE]")
}

fn event(data: &str) -> String {
    format!("data: {data}\n\n")
}
