//! Between the protocol and what the worker works with.

mod answer;
mod show;
mod whole;

use bytes::Bytes;
use homelab_proto::inference::v1 as pb;

pub use answer::{classify, classify_not_woken, delta, done, failed, failure, not_woken, reason};
pub use whole::{embeddings, ranking};

use crate::engine::{
    request::{self, Chat, InvalidRequest, Message, Role},
    session::{Api, Ask},
};
use crate::worker::Reach;

/// The largest request in JSON, in bytes. The protocol promises it.
pub const REQUEST_BYTES_MAX: usize = 16 << 20;

/// The longest identifier of a job, in bytes: it goes into every log line.
const JOB_ID_BYTES_MAX: usize = 128;

/// Texts that may be turned into vectors, or put in order, at once.
const TEXTS_MAX: usize = 256;

/// A request that can be sent to an engine.
#[derive(Debug, Clone)]
pub struct ChatRequest {
    /// Name of the model.
    pub model: String,
    /// In which form the caller asked, and wants to be answered.
    pub form: Form,
    /// What goes to the engine.
    pub ask: Ask,
    /// Where its model may be loaded for it.
    pub reach: Reach,
}

/// The form of a request and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Typed messages; pieces without text are left out.
    Typed,
    /// OpenAI's JSON; every chunk is passed on, with its bytes.
    Json,
}

/// Why a chat request is not one.
#[derive(Debug, thiserror::Error)]
pub enum InvalidChat {
    /// A field breaks a rule.
    #[error("`{field}` {rule}")]
    Field {
        /// Which.
        field: String,
        /// The rule.
        rule: &'static str,
    },
    /// The JSON cannot be passed on.
    #[error("`openai_request` cannot be passed on")]
    Json(#[from] InvalidRequest),
}

impl InvalidChat {
    /// The field that is wrong.
    pub fn field(&self) -> &str {
        match self {
            Self::Field { field, .. } => field,
            Self::Json(_) => "openai_request",
        }
    }
}

impl TryFrom<pb::ChatCompleteRequest> for ChatRequest {
    type Error = InvalidChat;

    fn try_from(wire: pb::ChatCompleteRequest) -> Result<Self, InvalidChat> {
        check_head(&wire.model, &wire.job_id)?;
        let (body, form) = if wire.openai_request.is_empty() {
            (request::from_chat(&typed_chat(&wire)?, &wire.model)?, Form::Typed)
        } else {
            let given = [
                ("messages", !wire.messages.is_empty()),
                ("tokens_max", wire.tokens_max.is_some()),
                ("temperature", wire.temperature.is_some()),
                ("seed", wire.seed.is_some()),
            ];
            refuse_beside_json(&wire.openai_request, &given)?;
            (request::from_json(&wire.openai_request, &wire.model)?, Form::Json)
        };
        let ask = Ask { api: Api::Chat, body, job: wire.job_id, attempt: wire.attempt };
        Ok(Self { model: wire.model, form, ask, reach: reach(wire.make_room) })
    }
}

impl TryFrom<pb::CompleteRequest> for ChatRequest {
    type Error = InvalidChat;

    fn try_from(wire: pb::CompleteRequest) -> Result<Self, InvalidChat> {
        check_head(&wire.model, &wire.job_id)?;
        let (body, form) = if wire.openai_request.is_empty() {
            check_limits(wire.tokens_max, wire.temperature)?;
            if wire.prompt.is_empty() {
                let rule = "is empty, and so is `openai_request`; give one of them";
                return Err(broken("prompt", rule));
            }
            let completion = request::Completion {
                prompt: &wire.prompt,
                tokens_max: wire.tokens_max,
                temperature: wire.temperature,
                seed: wire.seed,
            };
            (request::from_completion(&completion, &wire.model)?, Form::Typed)
        } else {
            let given = [
                ("prompt", !wire.prompt.is_empty()),
                ("tokens_max", wire.tokens_max.is_some()),
                ("temperature", wire.temperature.is_some()),
                ("seed", wire.seed.is_some()),
            ];
            refuse_beside_json(&wire.openai_request, &given)?;
            (request::from_json(&wire.openai_request, &wire.model)?, Form::Json)
        };
        let ask = Ask { api: Api::Completion, body, job: wire.job_id, attempt: wire.attempt };
        Ok(Self { model: wire.model, form, ask, reach: reach(wire.make_room) })
    }
}

impl TryFrom<pb::EmbedRequest> for ChatRequest {
    type Error = InvalidChat;

    fn try_from(wire: pb::EmbedRequest) -> Result<Self, InvalidChat> {
        check_head(&wire.model, &wire.job_id)?;
        let (body, form) = if wire.openai_request.is_empty() {
            check_texts("inputs", &wire.inputs)?;
            (request::from_inputs(&wire.inputs, &wire.model)?, Form::Typed)
        } else {
            refuse_beside_json(&wire.openai_request, &[("inputs", !wire.inputs.is_empty())])?;
            (request::whole_from_json(&wire.openai_request, &wire.model)?, Form::Json)
        };
        let ask = Ask { api: Api::Embeddings, body, job: wire.job_id, attempt: wire.attempt };
        Ok(Self { model: wire.model, form, ask, reach: Reach::Free })
    }
}

impl TryFrom<pb::RerankRequest> for ChatRequest {
    type Error = InvalidChat;

    fn try_from(wire: pb::RerankRequest) -> Result<Self, InvalidChat> {
        check_head(&wire.model, &wire.job_id)?;
        let (body, form) = if wire.openai_request.is_empty() {
            check_texts("documents", &wire.documents)?;
            let question = request::Question {
                query: &wire.query,
                documents: &wire.documents,
                top_n: wire.results_max,
            };
            (request::from_question(&question, &wire.model)?, Form::Typed)
        } else {
            let given = [
                ("query", !wire.query.is_empty()),
                ("documents", !wire.documents.is_empty()),
                ("results_max", wire.results_max.is_some()),
            ];
            refuse_beside_json(&wire.openai_request, &given)?;
            (request::whole_from_json(&wire.openai_request, &wire.model)?, Form::Json)
        };
        let ask = Ask { api: Api::Rerank, body, job: wire.job_id, attempt: wire.attempt };
        Ok(Self { model: wire.model, form, ask, reach: Reach::Free })
    }
}

fn check_head(model: &str, job: &str) -> Result<(), InvalidChat> {
    if model.is_empty() {
        return Err(broken("model", "is empty; `ListModels` names the models"));
    }
    if job.len() > JOB_ID_BYTES_MAX {
        return Err(broken("job_id", "is longer than 128 bytes"));
    }
    Ok(())
}

fn check_texts(field: &str, texts: &[String]) -> Result<(), InvalidChat> {
    if !(1..=TEXTS_MAX).contains(&texts.len()) {
        return Err(broken(field, "are not 1 to 256 texts"));
    }
    Ok(())
}

fn check_limits(tokens_max: Option<u32>, temperature: Option<f32>) -> Result<(), InvalidChat> {
    if tokens_max == Some(0) {
        return Err(broken("tokens_max", "is 0; leave it out for no limit"));
    }
    if temperature.is_some_and(|temperature| !(0.0..=2.0).contains(&temperature)) {
        return Err(broken("temperature", "is not between 0 and 2"));
    }
    Ok(())
}

fn reach(make_room: bool) -> Reach {
    if make_room { Reach::Any } else { Reach::Free }
}

fn typed_chat(wire: &pb::ChatCompleteRequest) -> Result<Chat, InvalidChat> {
    if wire.messages.is_empty() {
        return Err(broken("messages", "are empty, and so is `openai_request`; give one of them"));
    }
    check_limits(wire.tokens_max, wire.temperature)?;
    let messages = wire.messages.iter().enumerate().map(|(place, message)| {
        let role = match message.role() {
            pb::ChatRole::System => Role::System,
            pb::ChatRole::User => Role::User,
            pb::ChatRole::Assistant => Role::Assistant,
            pb::ChatRole::Unspecified => {
                let field = format!("messages[{place}].role");
                return Err(InvalidChat::Field { field, rule: "is not said or not known" });
            }
        };
        Ok(Message { role, content: message.content.clone() })
    });
    Ok(Chat {
        messages: messages.collect::<Result<_, _>>()?,
        tokens_max: wire.tokens_max,
        temperature: wire.temperature,
        seed: wire.seed,
    })
}

/// What stands beside a JSON request would be silently lost.
fn refuse_beside_json(json: &Bytes, given: &[(&str, bool)]) -> Result<(), InvalidChat> {
    const RULE: &str = "stands beside `openai_request`; say it in there";
    if let Some((field, _)) = given.iter().find(|(_, is_given)| *is_given) {
        return Err(broken(field, RULE));
    }
    if json.len() > REQUEST_BYTES_MAX {
        return Err(broken("openai_request", "is larger than 16 MiB"));
    }
    Ok(())
}

fn broken(field: &str, rule: &'static str) -> InvalidChat {
    InvalidChat::Field { field: field.to_owned(), rule }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn wire() -> pb::ChatCompleteRequest {
        let message = pb::ChatMessage { role: pb::ChatRole::User.into(), content: "hi".into() };
        pb::ChatCompleteRequest {
            model: "small".into(),
            messages: vec![message],
            ..Default::default()
        }
    }

    #[test]
    fn a_typed_chat_is_taken() {
        let chat = ChatRequest::try_from(pb::ChatCompleteRequest {
            tokens_max: Some(5),
            job_id: "j".into(),
            attempt: 2,
            ..wire()
        })
        .unwrap();
        assert_eq!((chat.form, chat.ask.job.as_str(), chat.ask.attempt), (Form::Typed, "j", 2));
        let body: Value = serde_json::from_slice(&chat.ask.body).unwrap();
        assert_eq!((&body["model"], &body["max_tokens"]), (&json!("small"), &json!(5)));
    }

    #[test]
    fn a_chat_in_json_keeps_its_fields() {
        let chat = ChatRequest::try_from(pb::ChatCompleteRequest {
            messages: Vec::new(),
            openai_request: Bytes::from_static(br#"{"model":"x","tools":[{"a":1.0}]}"#),
            ..wire()
        })
        .unwrap();
        assert_eq!(chat.form, Form::Json);
        let body = String::from_utf8(chat.ask.body.to_vec()).unwrap();
        assert!(body.starts_with(r#"{"model":"small","tools":[{"a":1.0}],"#), "{body}");
    }

    #[test]
    fn each_broken_rule_names_its_field() {
        let json = || Bytes::from_static(b"{}");
        let unknown = pb::ChatMessage { role: 99, content: String::new() };
        let table = [
            ("model", pb::ChatCompleteRequest { model: String::new(), ..wire() }),
            ("messages", pb::ChatCompleteRequest { messages: vec![], ..wire() }),
            ("messages[0].role", pb::ChatCompleteRequest { messages: vec![unknown], ..wire() }),
            ("tokens_max", pb::ChatCompleteRequest { tokens_max: Some(0), ..wire() }),
            ("temperature", pb::ChatCompleteRequest { temperature: Some(f32::NAN), ..wire() }),
            ("job_id", pb::ChatCompleteRequest { job_id: "x".repeat(129), ..wire() }),
            ("messages", pb::ChatCompleteRequest { openai_request: json(), ..wire() }),
            (
                "seed",
                pb::ChatCompleteRequest {
                    messages: vec![],
                    seed: Some(1),
                    openai_request: json(),
                    ..wire()
                },
            ),
            (
                "openai_request",
                pb::ChatCompleteRequest {
                    messages: vec![],
                    openai_request: Bytes::from_static(b"[]"),
                    ..wire()
                },
            ),
        ];
        for (field, wire) in table {
            assert_eq!(ChatRequest::try_from(wire).unwrap_err().field(), field);
        }
    }

    #[test]
    fn texts_and_questions_become_what_engines_understand() {
        let embed = pb::EmbedRequest {
            model: "small".into(),
            inputs: vec!["a".into(), "b".into()],
            ..Default::default()
        };
        let ask = ChatRequest::try_from(embed).unwrap().ask;
        assert_eq!(ask.api.path(), "/v1/embeddings");
        let body: Value = serde_json::from_slice(&ask.body).unwrap();
        assert_eq!(body, json!({"model": "small", "input": ["a", "b"]}));
        let rerank = pb::RerankRequest {
            model: "small".into(),
            query: "q".into(),
            documents: vec!["a".into()],
            results_max: Some(1),
            ..Default::default()
        };
        let ask = ChatRequest::try_from(rerank).unwrap().ask;
        let body: Value = serde_json::from_slice(&ask.body).unwrap();
        let expected = json!({"model": "small", "query": "q", "documents": ["a"], "top_n": 1});
        assert_eq!((ask.api.path(), body), ("/v1/rerank", expected));
        let json = pb::EmbedRequest {
            model: "small".into(),
            openai_request: Bytes::from_static(br#"{"input":[1,2],"model":"gpt","x":1.0}"#),
            ..Default::default()
        };
        let ask = ChatRequest::try_from(json).unwrap().ask;
        assert_eq!(ask.body, br#"{"input":[1,2],"model":"small","x":1.0}"#.as_slice());
    }

    #[test]
    fn too_many_texts_are_refused() {
        for count in [0, 257] {
            let embed = pb::EmbedRequest {
                model: "small".into(),
                inputs: vec!["a".into(); count],
                ..Default::default()
            };
            assert_eq!(ChatRequest::try_from(embed).unwrap_err().field(), "inputs");
        }
    }
}
