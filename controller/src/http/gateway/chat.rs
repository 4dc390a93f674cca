//! `POST /v1/chat/completions`.
//!
//! Whoever streams gets headers at once, then comments while the job waits, then the engine's own
//! chunks byte for byte. Whoever does not stream waits for the whole. Either way the connection is
//! the job's life line: when the last client of a job has gone, it is cancelled.

use axum::{
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

use super::{
    Gateway,
    answer::Answer,
    ask::{self, Asked},
    body, context,
    error::ApiError,
    frame,
    head::Known,
    request::{self, Delivery, Question, Usage},
    tale::{self, Tale, Voice},
    whole,
};
use homelab_store::Piece;

/// Answers a chat.
pub(super) async fn complete(
    State(gateway): State<Gateway>,
    Known(key): Known,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let body = body::read(body).await?;
    let question = request::read(&body)?;
    let asked = ask::ask(&gateway, &key, &headers, &question, &body).await?;
    answer(asked, &question, Answer::finish).await
}

/// The answer as it is wished for; `finish` makes a whole one of it.
///
/// # Errors
/// Why there is none.
pub(super) async fn answer(
    asked: Asked,
    question: &Question,
    finish: impl FnOnce(Answer) -> Bytes,
) -> Result<Response, ApiError> {
    let headers = ask::headers_of(&asked);
    let ours = context::of_job(&asked.accepted.job);
    let mut response = match question.delivery {
        Delivery::Whole => json(finish(whole::whole(asked).await?.with(ours))),
        Delivery::Stream { usage } => {
            let chunks = Chunks { usage, ours };
            tale::streamed(Tale::new(asked, Box::new(chunks), &question.model))
        }
    };
    response.headers_mut().extend(headers);
    Ok(response)
}

/// An answer that is JSON already.
pub(super) fn json(body: Bytes) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}

/// The engine's own chunks.
#[derive(Debug)]
struct Chunks {
    usage: Usage,
    /// Our part of the answer, which goes with its last words.
    ours: Option<Value>,
}

impl Voice for Chunks {
    fn piece(&mut self, piece: &Piece) -> Vec<Bytes> {
        if piece.openai_chunk.is_empty() || (self.usage == Usage::Hidden && is_usage(piece)) {
            return Vec::new();
        }
        match self.ours.as_ref().and_then(|ours| context::last_chunk(piece, ours)) {
            Some(chunk) => vec![frame::data(&chunk)],
            None => vec![frame::data(&piece.openai_chunk)],
        }
    }

    fn ending(&mut self) -> Vec<Bytes> {
        vec![frame::DONE]
    }

    /// A stream that has begun cannot change its status: the error is its last event, and no
    /// `[DONE]` follows.
    fn failure(&mut self, error: &ApiError) -> Vec<Bytes> {
        vec![frame::data(&error.body())]
    }
}

/// The chunk that the gateway asks for on its own account: usage, and no choice. Only a chunk
/// without text is looked into.
fn is_usage(piece: &Piece) -> bool {
    #[derive(Deserialize)]
    struct Chunk {
        #[serde(default)]
        choices: Vec<IgnoredAny>,
        usage: Option<IgnoredAny>,
    }
    piece.content.is_empty()
        && piece.reasoning.is_empty()
        && serde_json::from_slice::<Chunk>(&piece.openai_chunk)
            .is_ok_and(|chunk| chunk.choices.is_empty() && chunk.usage.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_usage_chunk_is_hidden() {
        let piece =
            |chunk: &str| Piece { openai_chunk: chunk.as_bytes().to_vec(), ..Default::default() };
        assert!(is_usage(&piece(r#"{"choices":[],"usage":{"total_tokens":3},"timings":{}}"#)));
        for other in [
            r#"{"choices":[{"index":0,"delta":{}}],"usage":{"total_tokens":3}}"#,
            r#"{"choices":[{"delta":{"tool_calls":[]}}]}"#,
            r#"{"choices":[],"usage":null}"#,
            r#"{"choices":[],"event":{}}"#,
        ] {
            assert!(!is_usage(&piece(other)), "{other}");
        }
    }
}
