//! Text put before a chat without touching a byte of what its caller wrote.

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

/// The request is no chat of OpenAI's API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no chat: `messages` with at least one message is wanted")]
pub struct NotAChat;

#[derive(Deserialize)]
struct Chat<'a> {
    #[serde(borrow)]
    messages: &'a RawValue,
}

#[derive(Deserialize)]
struct Message<'a> {
    role: Option<String>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
}

/// A chat request as JSON with `text` before everything else that is said in it.
///
/// When it begins with a system message, the text is added to that one, since the templates of many
/// models take one such message and only as the first; otherwise it becomes one. All other bytes
/// stay as they are.
pub fn spliced(request: &[u8], text: &str) -> Result<Vec<u8>, NotAChat> {
    let chat: Chat<'_> = serde_json::from_slice(request).map_err(|_| NotAChat)?;
    let messages: Vec<&RawValue> =
        serde_json::from_str(chat.messages.get()).map_err(|_| NotAChat)?;
    let first = messages.first().ok_or(NotAChat)?;
    let own = || (begin(request, chat.messages.get()) + 1, format!("{},", system(text)));
    let (at, insert) = after_system(request, first, text).unwrap_or_else(own);
    let (before, after) = request.split_at_checked(at).ok_or(NotAChat)?;
    Ok([before, insert.as_bytes(), after].concat())
}

fn system(text: &str) -> Value {
    serde_json::json!({ "role": "system", "content": text })
}

/// The end of what a system message says, and what is to stand there.
fn after_system(request: &[u8], first: &RawValue, text: &str) -> Option<(usize, String)> {
    let message: Message<'_> = serde_json::from_str(first.get()).ok()?;
    if !["system", "developer"].contains(&message.role?.as_str()) {
        return None;
    }
    let content = message.content?.get();
    let end = begin(request, content) + content.len() - 1;
    if content.starts_with('"') {
        let quoted = Value::from(format!("\n\n{text}")).to_string();
        let bare = quoted.strip_prefix('"')?.strip_suffix('"')?;
        return Some((end, bare.to_owned()));
    }
    let parts: Vec<&RawValue> = serde_json::from_str(content).ok()?;
    let part = serde_json::json!({ "type": "text", "text": text }).to_string();
    Some((end, if parts.is_empty() { part } else { format!(",{part}") }))
}

/// Where a part of the request begins; `part` must have been borrowed from it.
fn begin(request: &[u8], part: &str) -> usize {
    part.as_ptr().addr().saturating_sub(request.as_ptr().addr())
}

/// What a chat asks: the text of its last message of a user.
#[must_use]
pub fn question(request: &Value) -> String {
    let messages = request.get("messages").and_then(Value::as_array);
    let is_user = |message: &&Value| message.get("role").is_some_and(|role| role == "user");
    let last = messages.into_iter().flatten().rev().find(is_user);
    match last.and_then(|message| message.get("content")) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => {
            let texts = parts.iter().filter_map(|part| part.get("text")?.as_str());
            texts.collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn after(request: &str) -> Value {
        let bytes = spliced(request.as_bytes(), "say \"[1]\"\n").expect("is a chat");
        serde_json::from_slice::<Value>(&bytes).expect("is JSON")["messages"].clone()
    }

    #[test]
    fn text_goes_before_everything_and_no_other_byte_changes() {
        let request =
            r#"{ "x" : 1e400, "messages" : [ {"role":"user","content":"hi"} ] , "y":[] }"#;
        let bytes = spliced(request.as_bytes(), "T").expect("is a chat");
        let expected = r#"{ "x" : 1e400, "messages" : [{"content":"T","role":"system"}, {"role":"user","content":"hi"} ] , "y":[] }"#;
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    #[test]
    fn a_system_message_stays_the_only_one_and_the_first() {
        let chat = r#"{"messages":[{"role":"system","content":"Be \"kind\"."},{"role":"user","content":"a"}]}"#;
        let expected = json!([
            {"role": "system", "content": "Be \"kind\".\n\nsay \"[1]\"\n"},
            {"role": "user", "content": "a"},
        ]);
        assert_eq!(after(chat), expected);
        let parts = r#"{"messages":[{"role":"developer","content":[{"type":"text","text":"x"}]}]}"#;
        assert_eq!(after(parts)[0]["content"][1], json!({"type": "text", "text": "say \"[1]\"\n"}));
        let empty = r#"{"messages":[{"content":[ ],"role":"system"}]}"#;
        assert_eq!(after(empty)[0]["content"].as_array().unwrap().len(), 1);
        let none = r#"{"messages":[{"role":"system"}]}"#;
        assert_eq!(after(none)[0]["content"], "say \"[1]\"\n");
    }

    #[test]
    fn what_is_no_chat_is_refused() {
        for wrong in ["", "[]", "{}", r#"{"messages":[]}"#, r#"{"messages":"hi"}"#] {
            assert_eq!(spliced(wrong.as_bytes(), "T"), Err(NotAChat), "{wrong}");
        }
    }

    #[test]
    fn the_question_is_what_the_user_said_last() {
        let chat = json!({"messages": [
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": "yes?"},
            {"role": "user", "content": [{"type": "text", "text": "last"}, {"type": "image_url"}]},
            {"role": "tool", "content": "result"},
        ]});
        assert_eq!(question(&chat), "last");
        assert_eq!(question(&json!({"messages": 7})), "");
    }
}
