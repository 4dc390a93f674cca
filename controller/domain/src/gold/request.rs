//! A request of the OpenAI chat API: the text in it, and what of it leaves.

use std::fmt;

use serde_json::{Map, Value};

use super::DataClass;

/// Fields that a provider is sent. Whatever else a caller writes stays here:
/// addresses and keys of other providers, names of people, models to fall back
/// to at another price.
const SENT: [&str; 22] = [
    "messages",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "stop",
    "seed",
    "response_format",
    "n",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "reasoning_effort",
    "reasoning",
    "verbosity",
    "modalities",
];

/// Fields that are ours to set.
const OWN: [&str; 5] = ["model", "stream", "stream_options", "max_tokens", "max_completion_tokens"];

/// Parts of a message that nobody reads here.
const ATTACHMENTS: [&str; 8] = [
    "image_url",
    "input_image",
    "image",
    "input_audio",
    "audio",
    "video_url",
    "file",
    "input_file",
];

/// A place within a request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Which text, such as `messages[2].content`.
    pub path: String,
    /// Line of it, from 1.
    pub line: u32,
    /// Character of that line, from 1.
    pub column: u32,
}

impl Place {
    pub(super) fn within(path: &str, text: &str, at: usize) -> Self {
        let before = text.get(..at).unwrap_or_default();
        let line = before.rsplit('\n').next().unwrap_or_default();
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Self {
            path: path.to_owned(),
            line: number(before.matches('\n').count() + 1),
            column: number(line.chars().count() + 1),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} line {} character {}", self.path, self.line, self.column)
    }
}

/// Something that was found in a request, without its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where.
    pub place: Place,
    /// What it is: one class or more, the most delicate last.
    pub classes: Vec<DataClass>,
}

/// A part of a request that is looked at.
#[derive(Debug)]
pub(super) enum Part<'t> {
    /// Text, to be read.
    Text(&'t str),
    /// Something that cannot be read.
    Attachment,
}

/// Takes out of a request what a provider is not sent, and names it.
pub(super) fn reduced(request: &Value) -> (Map<String, Value>, Vec<String>) {
    let mut sent = Map::new();
    let mut withheld = Vec::new();
    for (field, value) in request.as_object().into_iter().flatten() {
        if field == "tools" {
            let (functions, others) = functions_of(value);
            sent.insert(field.clone(), functions.into());
            withheld.extend(others.then(|| "tools that are no functions".to_owned()));
        } else if SENT.contains(&field.as_str()) {
            sent.insert(field.clone(), value.clone());
        } else if !OWN.contains(&field.as_str()) {
            withheld.push(field.chars().take(40).collect());
        }
    }
    if sent.get("tools").and_then(Value::as_array).is_some_and(Vec::is_empty) {
        // An empty list is refused by many, and so is a choice among nothing.
        for field in ["tools", "tool_choice", "parallel_tool_calls"] {
            sent.remove(field);
        }
    }
    (sent, withheld)
}

/// The tools that the caller runs. Those that the provider would run cost extra
/// and look at the world.
fn functions_of(tools: &Value) -> (Vec<Value>, bool) {
    let all = tools.as_array().map(Vec::as_slice).unwrap_or_default();
    let is_function = |tool: &&Value| tool.get("type").is_none_or(|kind| kind == "function");
    let functions: Vec<Value> = all.iter().filter(is_function).cloned().collect();
    let others = functions.len() < all.len();
    (functions, others)
}

/// Shows `visit` every text of a value, names of fields too, and puts in its
/// place what it gives back.
pub(super) fn rewrite(
    value: &mut Value,
    path: &str,
    visit: &mut dyn FnMut(&str, Part<'_>) -> Option<String>,
) {
    match value {
        Value::String(text) => {
            if let Some(changed) = rewrite_text(text, path, visit) {
                *text = changed;
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                rewrite(item, &format!("{path}[{index}]"), visit);
            }
        }
        Value::Object(fields) => rewrite_fields(fields, path, visit),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn rewrite_fields(
    fields: &mut Map<String, Value>,
    path: &str,
    visit: &mut dyn FnMut(&str, Part<'_>) -> Option<String>,
) {
    let kind = fields.get("type").and_then(Value::as_str).unwrap_or_default();
    if ATTACHMENTS.contains(&kind) {
        // Not read, so not sent without a rule that says so. The rest of it, such as
        // the address of a picture, is text like any other.
        visit(path, Part::Attachment);
    }
    for (field, mut value) in std::mem::take(fields) {
        let place = if path.is_empty() { field.clone() } else { format!("{path}.{field}") };
        let name = visit(&place, Part::Text(&field)).unwrap_or(field);
        rewrite(&mut value, &place, visit);
        fields.insert(name, value);
    }
}

fn rewrite_text(
    text: &str,
    path: &str,
    visit: &mut dyn FnMut(&str, Part<'_>) -> Option<String>,
) -> Option<String> {
    if is_data_url(text) {
        visit(path, Part::Attachment);
        return None;
    }
    // Arguments of a tool are JSON in a string: read as what they mean.
    if path.ends_with(".arguments")
        && let Ok(mut inner @ Value::Object(_)) = serde_json::from_str::<Value>(text)
    {
        rewrite(&mut inner, path, visit);
        // What was read is what is sent: of a key that stands there twice only the last was read.
        return Some(inner.to_string());
    }
    visit(path, Part::Text(text))
}

/// One data URL and nothing else (RFC 2397): what follows the comma is base64 to the end.
fn is_data_url(text: &str) -> bool {
    let Some((head, data)) = text.strip_prefix("data:").and_then(|rest| rest.split_once(','))
    else {
        return false;
    };
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=-_".contains(&byte);
    head.ends_with(";base64")
        && head.bytes().all(|byte| byte.is_ascii_graphic())
        && data.bytes().all(is_base64)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_provider_need_not_know_stays_here() {
        let request = json!({
            "model": "x", "stream": true, "messages": [], "temperature": 0.5,
            "base_url": "https://evil.example", "api_key": "k", "user": "ann",
            "metadata": {"tags": "a"}, "models": ["dear"], "headers": {"x": "y"},
        });
        let (sent, withheld) = reduced(&request);
        assert_eq!(Value::from(sent), json!({"messages": [], "temperature": 0.5}));
        assert_eq!(withheld, ["api_key", "base_url", "headers", "metadata", "models", "user"]);
    }

    #[test]
    fn tools_that_the_provider_would_run_stay_here() {
        let function = json!({"type": "function", "function": {"name": "f"}});
        let (sent, withheld) = reduced(&json!({"tools": [{"type": "web_search"}, function]}));
        assert_eq!(sent["tools"], json!([function]));
        assert_eq!(withheld, ["tools that are no functions"]);
        let (sent, _) = reduced(&json!({"tools": [{"type": "x"}], "tool_choice": "auto"}));
        assert!(sent.is_empty());
    }

    #[test]
    fn nothing_is_sent_that_was_not_read() {
        let arguments = r#"{"a":"ghp_secret","a":"x"}"#;
        let mut request = json!({"function": {"arguments": arguments}});
        rewrite(&mut request, "", &mut |_, _| None);
        assert_eq!(request["function"]["arguments"], r#"{"a":"x"}"#);
        let is_read = |text: &str| {
            let mut read = false;
            rewrite(&mut json!(text), "content", &mut |_, part| {
                read |= matches!(part, Part::Text(_));
                None
            });
            read
        };
        assert!(!is_read("data:image/png;base64,iVBORw0KGgo="));
        for hidden in [
            "data: see ;base64, the key is ghp_secret",
            "data:image/png;base64,AAAA the key is ghp_secret",
            "data:text/plain,the key is ghp_secret",
        ] {
            assert!(is_read(hidden), "{hidden}");
        }
    }

    #[test]
    fn every_text_is_looked_at_wherever_it_stands() {
        let mut request = json!({
            "messages": [
                {"role": "user", "name": "ann", "content": [{"type": "text", "text": "hi"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
                {"role": "assistant", "tool_calls": [
                    {"function": {"name": "f", "arguments": "{\"host\":\"x99\"}"}}]},
            ],
            "tools": [{"function": {"parameters": {"properties": {"x99": {}}}}}],
        });
        let mut texts = Vec::new();
        let mut attachments = Vec::new();
        rewrite(&mut request, "", &mut |path, part| {
            match part {
                Part::Text(text) => texts.push(format!("{path}={text}")),
                Part::Attachment => attachments.push(path.to_owned()),
            }
            None
        });
        for wanted in [
            "messages[0].name=ann",
            "messages[0].content[0].text=hi",
            "messages[1].tool_calls[0].function.arguments.host=x99",
            "tools[0].function.parameters.properties.x99=x99",
        ] {
            assert!(texts.iter().any(|text| text == wanted), "{wanted}: {texts:?}");
        }
        let picture = "messages[0].content[1]";
        assert_eq!(attachments, [picture.to_owned(), format!("{picture}.image_url.url")]);
    }

    #[test]
    fn arguments_that_were_changed_stay_json() {
        let mut call = json!({"function": {"arguments": "{\"host\":\"x\\\"99\"}"}});
        rewrite(&mut call, "", &mut |_, part| match part {
            Part::Text("x\"99") => Some("HOST".to_owned()),
            _ => None,
        });
        assert_eq!(call["function"]["arguments"], "{\"host\":\"HOST\"}");
    }

    #[test]
    fn a_place_is_where_a_person_would_look() {
        let place = Place::within("messages[0].content", "é\nab 10.0.0.1", 6);
        assert_eq!(place.to_string(), "messages[0].content line 2 character 4");
    }
}
