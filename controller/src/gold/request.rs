//! The request of a job in the one form that the rules read.

use homelab_domain::job::{JobRequest, JobSpec, RequestForm};
use homelab_proto::inference::v1::{ChatCompleteRequest, ChatRole};
use prost::Message as _;
use serde_json::{Map, Value, json};

/// A request of OpenAI's chat API; none when it is another, or cannot be read, and then stays in the house.
pub(super) fn openai(request: &JobRequest) -> Option<Value> {
    match request.form {
        RequestForm::OpenaiChat => {
            let value: Value = serde_json::from_slice(&request.bytes).ok()?;
            value.is_object().then_some(value)
        }
        RequestForm::OpenaiCompletion => None,
        RequestForm::Chat => {
            let chat = ChatCompleteRequest::decode(request.bytes.as_slice()).ok()?;
            let messages: Vec<Value> = chat
                .messages
                .iter()
                .map(|message| json!({ "role": role(message.role()), "content": message.content }))
                .collect();
            let mut fields = Map::from_iter([("messages".to_owned(), messages.into())]);
            let mut put = |field: &str, value: Option<Value>| {
                fields.extend(value.map(|value| (field.to_owned(), value)));
            };
            put("temperature", chat.temperature.map(|value| f64::from(value).into()));
            put("seed", chat.seed.map(Value::from));
            put("max_tokens", chat.tokens_max.map(Value::from));
            Some(fields.into())
        }
    }
}

/// From which the pseudonyms of a job are drawn: the same for each attempt.
pub(super) fn seed(spec: &JobSpec) -> u64 {
    let (high, low) = spec.id.uuid().as_u64_pair();
    high ^ low
}

const fn role(role: ChatRole) -> &'static str {
    match role {
        ChatRole::System => "system",
        ChatRole::Assistant => "assistant",
        ChatRole::User | ChatRole::Unspecified => "user",
    }
}
