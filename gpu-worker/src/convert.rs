//! Between the protocol and what the worker works with.

use std::time::Duration;

use bytes::Bytes;
use homelab_common::error_chain::Chain;
use homelab_proto::{common::v1 as common, inference::v1 as pb};
use homelab_rpc::{node::to_proto, status::Reason};

use crate::{
    device::{DeviceId, Missing},
    engine::{
        State,
        build::Age,
        chunk::{Chunk, EngineError, Usage},
        http::HttpError,
        request::{self, Chat, InvalidRequest, Message, Role},
        stream::{AnswerError, Ending},
    },
    worker::{EngineView, ModelState, ModelView, NotWoken, Reading, Refusal, Snapshot},
};

/// The largest request in JSON, in bytes. The protocol promises it.
pub const REQUEST_BYTES_MAX: usize = 16 << 20;

/// The longest identifier of a job, in bytes: it goes into every log line.
const JOB_ID_BYTES_MAX: usize = 128;

/// A chat request that can be sent to an engine.
#[derive(Debug, Clone)]
pub struct ChatRequest {
    /// Name of the model.
    pub model: String,
    /// Body for the engine.
    pub body: Bytes,
    /// In which form the caller asked, and wants to be answered.
    pub form: Form,
    /// The job, or nothing.
    pub job: String,
    /// Number of the attempt.
    pub attempt: u32,
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
        if wire.model.is_empty() {
            return Err(broken("model", "is empty; `ListModels` names the models"));
        }
        if wire.job_id.len() > JOB_ID_BYTES_MAX {
            return Err(broken("job_id", "is longer than 128 bytes"));
        }
        let (body, form) = if wire.openai_request.is_empty() {
            (request::from_chat(&typed_chat(&wire)?, &wire.model)?, Form::Typed)
        } else {
            refuse_typed_fields(&wire)?;
            (request::from_json(&wire.openai_request, &wire.model)?, Form::Json)
        };
        Ok(Self { model: wire.model, body, form, job: wire.job_id, attempt: wire.attempt })
    }
}

fn typed_chat(wire: &pb::ChatCompleteRequest) -> Result<Chat, InvalidChat> {
    if wire.messages.is_empty() {
        return Err(broken("messages", "are empty, and so is `openai_request`; give one of them"));
    }
    if wire.tokens_max == Some(0) {
        return Err(broken("tokens_max", "is 0; leave it out for no limit"));
    }
    if wire.temperature.is_some_and(|temperature| !(0.0..=2.0).contains(&temperature)) {
        return Err(broken("temperature", "is not between 0 and 2"));
    }
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
fn refuse_typed_fields(wire: &pb::ChatCompleteRequest) -> Result<(), InvalidChat> {
    const RULE: &str = "stands beside `openai_request`; say it in there";
    let given = [
        ("messages", !wire.messages.is_empty()),
        ("tokens_max", wire.tokens_max.is_some()),
        ("temperature", wire.temperature.is_some()),
        ("seed", wire.seed.is_some()),
    ];
    if let Some((field, _)) = given.iter().find(|(_, is_given)| *is_given) {
        return Err(broken(field, RULE));
    }
    if wire.openai_request.len() > REQUEST_BYTES_MAX {
        return Err(broken("openai_request", "is larger than 16 MiB"));
    }
    Ok(())
}

fn broken(field: &str, rule: &'static str) -> InvalidChat {
    InvalidChat::Field { field: field.to_owned(), rule }
}

/// One piece of an answer; `None` when it holds nothing for this form.
pub fn delta(chunk: Chunk, index: u32, form: Form) -> Option<pb::ChatCompleteResponse> {
    let openai_chunk = match form {
        Form::Typed if chunk.content.is_empty() && chunk.reasoning.is_empty() => return None,
        Form::Typed => Bytes::new(),
        Form::Json => chunk.raw,
    };
    let delta = pb::ChatDelta { content: chunk.content, reasoning: chunk.reasoning, index };
    Some(pb::ChatCompleteResponse {
        event: Some(pb::chat_complete_response::Event::Delta(delta)),
        openai_chunk,
    })
}

/// The end of a complete answer.
pub fn done(ending: Ending) -> pb::ChatCompleteResponse {
    let Ending { finish_reason, usage } = ending;
    let done = pb::ChatDone { finish_reason, usage: Some(usage.into()) };
    pb::ChatCompleteResponse {
        event: Some(pb::chat_complete_response::Event::Done(done)),
        openai_chunk: Bytes::new(),
    }
}

/// The end of a broken answer. For a caller with JSON the engine's own error, where
/// it gave one, stands beside it.
pub fn failed(model: &str, error: &AnswerError, form: Form) -> pb::ChatCompleteResponse {
    let raw = match (form, engine_error(error)) {
        (Form::Json, Some(said)) => said.raw.clone(),
        _ => Bytes::new(),
    };
    pb::ChatCompleteResponse {
        event: Some(pb::chat_complete_response::Event::Failure(failure(model, error))),
        openai_chunk: raw,
    }
}

/// The end of a request that waited for its model in vain.
pub fn not_woken(error: &NotWoken) -> pb::ChatCompleteResponse {
    let (reason, retryable) = classify_not_woken(error);
    let next = if retryable { "ask again" } else { "see InferenceService.GetWorker" };
    let message = format!("{error}; {next}");
    let failure = common::Failure { reason: reason.to_owned(), message, retryable };
    pb::ChatCompleteResponse {
        event: Some(pb::chat_complete_response::Event::Failure(failure)),
        openai_chunk: Bytes::new(),
    }
}

/// The reason of a request that waited in vain, and whether asking again may help.
pub fn classify_not_woken(error: &NotWoken) -> (&'static str, bool) {
    match error {
        NotWoken::NotLoaded { failure, .. } => (reason::MODEL_NOT_LOADED, failure.is_retryable),
        NotWoken::Refused(Refusal::Busy { .. }) => (Reason::SLOTS_BUSY.as_str(), true),
        NotWoken::Refused(_) => (Reason::ENGINE_NOT_READY.as_str(), true),
    }
}

/// Stable reasons of broken answers.
pub mod reason {
    /// The engine's process ended or was killed because it hung.
    pub const ENGINE_CRASHED: &str = "ENGINE_CRASHED";
    /// The engine does not answer although its process runs.
    pub const ENGINE_UNREACHABLE: &str = "ENGINE_UNREACHABLE";
    /// The engine says that the request is wrong.
    pub const ENGINE_REFUSED: &str = "ENGINE_REFUSED";
    /// The engine says that it failed.
    pub const ENGINE_FAILED: &str = "ENGINE_FAILED";
    /// The engine has said nothing for too long.
    pub const ENGINE_SILENT: &str = "ENGINE_SILENT";
    /// The connection to the engine broke.
    pub const ANSWER_CUT: &str = "ANSWER_CUT";
    /// The engine's answer cannot be understood.
    pub const ANSWER_GARBLED: &str = "ANSWER_GARBLED";
    /// The caller does not read.
    pub const CALLER_TOO_SLOW: &str = "CALLER_TOO_SLOW";
    /// Another model would have to make room and still answers.
    pub const ENGINE_BUSY: &str = "ENGINE_BUSY";
    /// The model could not be loaded.
    pub const MODEL_NOT_LOADED: &str = "MODEL_NOT_LOADED";
}

/// The reason of a broken answer, and whether asking again may help.
pub fn classify(error: &AnswerError) -> (&'static str, bool) {
    use reason::*;
    match error {
        AnswerError::EngineEnded { .. } => (ENGINE_CRASHED, true),
        AnswerError::Start(HttpError::Refused { status, .. }) => by_status(status.as_u16()),
        AnswerError::Start(_) => (ENGINE_UNREACHABLE, true),
        AnswerError::Engine(said) => by_status(said.code.unwrap_or(500)),
        AnswerError::Silent { .. } => (ENGINE_SILENT, true),
        AnswerError::Cut(_) | AnswerError::Unfinished => (ANSWER_CUT, true),
        AnswerError::NotAStream { .. } | AnswerError::Events(_) | AnswerError::Garbage(_) => {
            (ANSWER_GARBLED, false)
        }
    }
}

fn by_status(status: u16) -> (&'static str, bool) {
    match status {
        408 | 429 => (reason::ENGINE_REFUSED, true),
        400..500 => (reason::ENGINE_REFUSED, false),
        _ => (reason::ENGINE_FAILED, true),
    }
}

fn failure(model: &str, error: &AnswerError) -> common::Failure {
    let (reason, retryable) = classify(error);
    let next = match (reason, retryable) {
        (_, true) => "ask again",
        (reason::ENGINE_REFUSED, false) => "correct the request",
        _ => "look at the engine's log and version",
    };
    common::Failure {
        reason: reason.to_owned(),
        message: format!("the answer of `{model}` broke off: {}; {next}", Chain(error)),
        retryable,
    }
}

fn engine_error(error: &AnswerError) -> Option<&EngineError> {
    match error {
        AnswerError::Start(HttpError::Refused { error, .. }) | AnswerError::Engine(error) => {
            Some(error)
        }
        _ => None,
    }
}

impl From<Usage> for pb::Usage {
    fn from(usage: Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            prompt_elapsed: usage.prompt_elapsed.and_then(duration),
            completion_elapsed: usage.completion_elapsed.and_then(duration),
        }
    }
}

fn duration(span: Duration) -> Option<prost_types::Duration> {
    span.try_into().ok()
}

impl From<Reading> for pb::Device {
    fn from(Reading { device, power_watts }: Reading) -> Self {
        let kind = match device.id {
            DeviceId::Cpu => pb::DeviceKind::Cpu,
            DeviceId::Pci(_) => pb::DeviceKind::Gpu,
        };
        Self {
            id: device.id.to_string(),
            kind: kind.into(),
            name: device.name,
            driver: device.driver,
            memory_bytes: device.memory_bytes,
            memory_used_bytes: device.memory_used_bytes,
            temperature_celsius: device.temperature_celsius,
            power_watts,
            power_limit_watts: device.power_limit_watts,
            missing: device.missing.into_iter().map(missing).collect(),
        }
    }
}

fn missing(Missing { field, reason }: Missing) -> common::MissingReading {
    common::MissingReading { field: field.to_owned(), reason }
}

impl From<ModelView> for pb::Model {
    fn from(model: ModelView) -> Self {
        let state = match model.state {
            ModelState::Unloaded => pb::ModelState::Unloaded,
            ModelState::Loading => pb::ModelState::Loading,
            ModelState::Loaded => pb::ModelState::Loaded,
            ModelState::Failed => pb::ModelState::Failed,
        };
        Self {
            name: model.name.to_string(),
            state: state.into(),
            engine: model.engine.unwrap_or_default(),
            context_tokens: Some(model.context_tokens),
            slots: Some(model.slots),
            size_bytes: model.size_bytes,
            message: model.message,
        }
    }
}

impl From<EngineView> for pb::Engine {
    fn from(engine: EngineView) -> Self {
        let status = engine.status;
        let variant = status.variant.as_deref();
        let backend = variant.and_then(|variant| variant.backend);
        let state = match status.state {
            State::Stopped => pb::EngineState::Stopped,
            State::Starting | State::Loading => pb::EngineState::Starting,
            State::Ready(_) => pb::EngineState::Ready,
            State::Failed => pb::EngineState::Failed,
            State::Quarantined => pb::EngineState::Quarantined,
        };
        Self {
            name: engine.name,
            state: state.into(),
            device: engine.devices.first().map(ToString::to_string).unwrap_or_default(),
            devices: engine.devices.iter().map(ToString::to_string).collect(),
            backend: backend.map(|backend| backend.to_string()).unwrap_or_default(),
            program: variant
                .map(|variant| variant.command.program().to_owned())
                .unwrap_or_default(),
            previous_build: variant.is_some_and(|variant| variant.age == Age::Previous),
            model: status.model.map(|model| model.name.to_string()).unwrap_or_default(),
            slots: engine.slots,
            slots_busy: engine.slots_busy,
            pid: status.pid,
            starts: status.starts,
            last_failure: status
                .last_incident
                .map(|incident| incident.because.clone())
                .unwrap_or_default(),
            completion_tokens: engine.completion_tokens,
            since: Some(to_proto(status.since)),
        }
    }
}

impl From<Snapshot> for pb::Worker {
    fn from(snapshot: Snapshot) -> Self {
        Self {
            host: snapshot.host,
            engines: snapshot.engines.into_iter().map(Into::into).collect(),
            devices: snapshot.devices.into_iter().map(Into::into).collect(),
            models: snapshot.models.into_iter().map(Into::into).collect(),
            draining: snapshot.is_draining,
            observed_at: Some(to_proto(snapshot.observed_at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
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
        assert_eq!((chat.form, chat.job.as_str(), chat.attempt), (Form::Typed, "j", 2));
        let body: Value = serde_json::from_slice(&chat.body).unwrap();
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
        let body = String::from_utf8(chat.body.to_vec()).unwrap();
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
    fn only_json_callers_get_chunks_without_text() {
        let empty = || Chunk { raw: Bytes::from_static(b"{}"), ..Chunk::default() };
        assert_eq!(delta(empty(), 0, Form::Typed), None);
        assert_eq!(delta(empty(), 0, Form::Json).unwrap().openai_chunk, "{}");
        let text = Chunk { content: "a".into(), ..empty() };
        assert!(delta(text, 0, Form::Typed).unwrap().openai_chunk.is_empty());
    }

    #[test]
    fn a_refusal_reaches_the_caller_in_the_engines_words() {
        let raw = Bytes::from_static(br#"{"error":{"code":400,"message":"too long"}}"#);
        let said = EngineError {
            code: Some(400),
            kind: String::new(),
            message: "too long".into(),
            raw: raw.clone(),
        };
        let refused = HttpError::Refused { status: StatusCode::BAD_REQUEST, error: said };
        let answer = failed("small", &AnswerError::Start(refused), Form::Json);
        assert_eq!(answer.openai_chunk, raw);
        let Some(pb::chat_complete_response::Event::Failure(failure)) = answer.event else {
            panic!("{answer:?}");
        };
        assert_eq!((failure.reason.as_str(), failure.retryable), ("ENGINE_REFUSED", false));
        assert_eq!(
            failure.message,
            "the answer of `small` broke off: the engine did not take the request: the engine \
             refused with status 400 Bad Request: the engine says: too long; correct the request"
        );
    }

    #[test]
    fn an_engine_that_died_is_worth_asking_again() {
        let error = AnswerError::EngineEnded { because: "it was killed".into() };
        assert_eq!(classify(&error), ("ENGINE_CRASHED", true));
    }
}
