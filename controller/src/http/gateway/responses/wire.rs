//! A request for a response, as a chat.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::http::gateway::error::ApiError;

/// A request that was understood.
#[derive(Debug)]
pub(super) struct Wish {
    /// The same as a chat.
    pub(super) chat: Bytes,
    /// What the answer repeats of it.
    pub(super) echoed: Map<String, Value>,
}

/// Fields that mean the same in a chat.
const SAME: [&str; 13] = [
    "model",
    // Tags in it say what may not leave the house.
    "metadata",
    "stream",
    "temperature",
    "top_p",
    "parallel_tool_calls",
    "presence_penalty",
    "frequency_penalty",
    "seed",
    "stop",
    "top_k",
    "min_p",
    "chat_template_kwargs",
];

/// Fields that change nothing here: there is one level of service and no account to bill.
const WITHOUT_EFFECT: [&str; 7] = [
    "store",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "service_tier",
    "stream_options",
    "text",
];

/// What the answer repeats.
const ECHOED: [&str; 9] = [
    "instructions",
    "max_output_tokens",
    "metadata",
    "parallel_tool_calls",
    "temperature",
    "text",
    "tool_choice",
    "tools",
    "top_p",
];

/// Translates a request.
///
/// # Errors
/// 400: it is none, or asks for what a chat cannot give; says which field.
pub(super) fn read(body: &[u8]) -> Result<Wish, ApiError> {
    let wish: Map<String, Value> = serde_json::from_slice(body).map_err(|error| {
        ApiError::invalid(None, format!("The body is not a request for a response: {error}."))
    })?;
    refuse(&wish)?;
    let mut chat = Map::new();
    let mut messages = Vec::new();
    if let Some(text) = wish.get("instructions").and_then(Value::as_str) {
        messages.push(json!({"role": "system", "content": text}));
    }
    match wish.get("input") {
        Some(Value::String(text)) => messages.push(json!({"role": "user", "content": text})),
        Some(Value::Array(items)) => {
            for item in items {
                push(&mut messages, item)?;
            }
        }
        _ => return Err(ApiError::invalid(Some("input"), "`input` must be a text or a list.")),
    }
    chat.insert("messages".to_owned(), messages.into());
    for field in SAME {
        copy(&wish, field, &mut chat, field);
    }
    copy(&wish, "max_output_tokens", &mut chat, "max_tokens");
    if let Some(effort) = wish.get("reasoning").and_then(|reasoning| reasoning.get("effort")) {
        chat.insert("reasoning_effort".to_owned(), effort.clone());
    }
    if let Some(tools) =
        wish.get("tools").and_then(Value::as_array).filter(|tools| !tools.is_empty())
    {
        let tools: Vec<_> = tools.iter().map(tool).collect::<Result<_, _>>()?;
        chat.insert("tools".to_owned(), tools.into());
    }
    if let Some(choice) = wish.get("tool_choice") {
        chat.insert("tool_choice".to_owned(), tool_choice(choice));
    }
    if let Some(format) = wish.get("text").and_then(|text| text.get("format")) {
        chat.insert("response_format".to_owned(), response_format(format));
    }
    if wish.get("stream") == Some(&Value::Bool(true)) {
        chat.insert("stream_options".to_owned(), json!({"include_usage": true}));
    }
    let mut echoed = Map::new();
    for field in ECHOED {
        copy(&wish, field, &mut echoed, field);
    }
    Ok(Wish { chat: Value::Object(chat).to_string().into(), echoed })
}

/// Refuses what would silently be something else.
fn refuse(wish: &Map<String, Value>) -> Result<(), ApiError> {
    let is_set = |field: &str| {
        wish.get(field).is_some_and(|value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::Array(list) => !list.is_empty(),
            _ => true,
        })
    };
    for (field, words) in [
        (
            "previous_response_id",
            "No response is kept here. Send the whole conversation in `input`.",
        ),
        ("conversation", "No conversation is kept here. Send all of it in `input`."),
        ("background", "Nothing is answered in the background here. Use `/v1/batches`."),
        ("prompt", "No prompts are kept here. Send it in `instructions` and `input`."),
        ("include", "Nothing more than the answer can be included."),
        ("max_tool_calls", "Tools are called by the client, which counts them itself."),
    ] {
        if is_set(field) {
            return Err(ApiError::invalid(Some(field), words));
        }
    }
    if wish.get("truncation").is_some_and(|value| !value.is_null() && value != "disabled") {
        let words = "A conversation that is too long is refused and never cut.";
        return Err(ApiError::invalid(Some("truncation"), words));
    }
    let known = |field: &str| {
        SAME.contains(&field)
            || WITHOUT_EFFECT.contains(&field)
            || [
                "input",
                "instructions",
                "max_output_tokens",
                "reasoning",
                "tools",
                "tool_choice",
                "truncation",
            ]
            .contains(&field)
    };
    match wish.keys().find(|field| !known(field) && is_set(field)) {
        None => Ok(()),
        Some(field) => {
            let field: String = field.chars().take(80).collect();
            Err(ApiError::invalid(None, format!("`{field}` is not supported in a response.")))
        }
    }
}

fn copy(from: &Map<String, Value>, field: &str, to: &mut Map<String, Value>, name: &str) {
    if let Some(value) = from.get(field).filter(|value| !value.is_null()) {
        to.insert(name.to_owned(), value.clone());
    }
}

/// One item of `input` as messages.
fn push(messages: &mut Vec<Value>, item: &Value) -> Result<(), ApiError> {
    let wrong = |words: String| ApiError::invalid(Some("input"), words);
    match item.get("type").and_then(Value::as_str).unwrap_or("message") {
        "message" => {
            let role = match item.get("role").and_then(Value::as_str) {
                Some("developer") => "system",
                Some(role @ ("user" | "assistant" | "system")) => role,
                _ => {
                    return Err(wrong(
                        "A message needs the role user, assistant or system.".to_owned(),
                    ));
                }
            };
            let content = item.get("content").unwrap_or(&Value::Null);
            messages.push(json!({"role": role, "content": content_of(content)?}));
        }
        "function_call" => {
            let call = json!({"id": item["call_id"], "type": "function",
                "function": {"name": item["name"], "arguments": item["arguments"]}});
            // Calls of one turn belong to one message.
            let last = messages.last_mut().filter(|last| last["role"] == "assistant");
            match last.and_then(|last| last.get_mut("tool_calls")?.as_array_mut()) {
                Some(calls) => calls.push(call),
                None => messages
                    .push(json!({"role": "assistant", "content": null, "tool_calls": [call]})),
            }
        }
        "function_call_output" => {
            let output = content_of(&item["output"])?;
            messages
                .push(json!({"role": "tool", "tool_call_id": item["call_id"], "content": output}));
        }
        // What the model thought belongs to a turn that is over.
        "reasoning" => {}
        other => {
            let other: String = other.chars().take(40).collect();
            return Err(wrong(format!("An item of the type `{other}` is not supported.")));
        }
    }
    Ok(())
}

fn content_of(content: &Value) -> Result<Value, ApiError> {
    let Value::Array(parts) = content else { return Ok(content.clone()) };
    let part = |part: &Value| match part.get("type").and_then(Value::as_str) {
        Some("input_text" | "output_text" | "text") => {
            Ok(json!({"type": "text", "text": part["text"]}))
        }
        Some("refusal") => Ok(json!({"type": "text", "text": part["refusal"]})),
        Some("input_image") if part.get("image_url").is_some_and(Value::is_string) => {
            Ok(json!({"type": "image_url", "image_url": {"url": part["image_url"]}}))
        }
        other => {
            let other: String = other.unwrap_or("none").chars().take(40).collect();
            let words = format!("A part of the type `{other}` is not supported.");
            Err(ApiError::invalid(Some("input"), words))
        }
    };
    parts.iter().map(part).collect::<Result<Vec<_>, _>>().map(Value::Array)
}

fn tool(tool: &Value) -> Result<Value, ApiError> {
    if tool["type"] != "function" {
        let words = "Only tools of the type `function` are supported; the client calls them.";
        return Err(ApiError::invalid(Some("tools"), words));
    }
    let mut function = Map::new();
    for field in ["name", "description", "parameters", "strict"] {
        if let Some(value) = tool.get(field).filter(|value| !value.is_null()) {
            function.insert(field.to_owned(), value.clone());
        }
    }
    Ok(json!({"type": "function", "function": function}))
}

fn tool_choice(choice: &Value) -> Value {
    match choice.get("name") {
        Some(name) => json!({"type": "function", "function": {"name": name}}),
        None => choice.clone(),
    }
}

fn response_format(format: &Value) -> Value {
    if format["type"] != "json_schema" {
        return json!({"type": format["type"]});
    }
    json!({"type": "json_schema", "json_schema": {"name": format["name"],
        "schema": format["schema"], "strict": format["strict"]}})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(wish: &Value) -> Value {
        let wish = read(wish.to_string().as_bytes()).expect("is understood");
        serde_json::from_slice(&wish.chat).expect("JSON")
    }

    #[test]
    fn a_text_becomes_a_chat() {
        let chat = chat(&json!({"model": "m", "instructions": "Be brief.", "input": "Hi",
            "max_output_tokens": 5, "temperature": 0.5, "stream": true}));
        assert_eq!(
            chat,
            json!({"model": "m", "max_tokens": 5, "temperature": 0.5, "stream": true,
                "stream_options": {"include_usage": true},
                "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]})
        );
    }

    #[test]
    fn a_conversation_with_tools_becomes_messages() {
        let chat = chat(&json!({"model": "m", "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "Weather?"},
                {"type": "input_image", "image_url": "data:x"}]},
            {"type": "reasoning", "summary": []},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "sun"}],
            "tools": [{"type": "function", "name": "f", "parameters": {}, "strict": null}],
            "tool_choice": {"type": "function", "name": "f"}}));
        assert_eq!(chat["messages"][0]["content"][1]["image_url"]["url"], "data:x");
        assert_eq!(chat["messages"][1]["tool_calls"][1]["function"]["name"], "g");
        assert_eq!(
            chat["messages"][2],
            json!({"role": "tool", "tool_call_id": "c1", "content": "sun"})
        );
        assert_eq!(
            chat["tools"],
            json!([{"type": "function", "function": {"name": "f", "parameters": {}}}])
        );
        assert_eq!(chat["tool_choice"]["function"]["name"], "f");
    }

    #[test]
    fn what_cannot_be_given_is_refused_by_name() {
        for (field, value) in [
            ("previous_response_id", json!("resp_1")),
            ("conversation", json!({"id": "c"})),
            ("background", json!(true)),
            ("include", json!(["file_search_call.results"])),
            ("truncation", json!("auto")),
            ("tools", json!([{"type": "web_search"}])),
            ("x_future", json!(1)),
        ] {
            let wish = json!({"model": "m", "input": "x", field: value});
            let error = read(wish.to_string().as_bytes()).expect_err(field);
            let said = String::from_utf8(error.body().to_vec()).expect("text");
            assert!(said.contains(field) && error.status() == 400, "{field}: {said}");
        }
        for harmless in
            [json!({"background": false}), json!({"include": []}), json!({"store": true})]
        {
            let mut wish = json!({"model": "m", "input": "x"});
            wish.as_object_mut()
                .expect("an object")
                .extend(harmless.as_object().expect("one").clone());
            read(wish.to_string().as_bytes()).expect("changes nothing");
        }
    }
}
