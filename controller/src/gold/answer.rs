//! The answer of a provider, as the queue takes it from workers.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use homelab_common::error_chain::Chain;
use homelab_domain::{
    gold::{ChunkRestorer, Price},
    job::{Record, RequestForm},
    reason::{Failure, Reason},
};
use homelab_proto::inference::v1::{
    ChatCompleteResponse, ChatDelta, ChatDone, Usage, chat_complete_response::Event,
};
use http::header;
use serde_json::Value;
use tokio::time::{Instant, timeout};

use super::{
    ledger::{Open, Used},
    said::said,
    sse::Events,
    wire::Exchange,
};
use crate::job::engines::Pieces;

/// Between two pieces; reasoning models think for long before the first.
const SILENCE_MAX: Duration = Duration::from_secs(180);

/// For a whole answer.
const ANSWER_MAX: Duration = Duration::from_secs(30 * 60);

/// A whole answer in bytes: tokens are bounded, and what a provider wraps around them is not.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// What a request is answered by, piece by piece.
pub(super) struct Answer {
    pub(super) exchange: Exchange,
    pub(super) open: Open,
    pub(super) restorer: ChunkRestorer,
    pub(super) form: RequestForm,
    pub(super) price: Price,
    pub(super) record: Record,
    pub(super) provider: Arc<str>,
}

/// An answer that is being read.
struct Reading {
    exchange: Exchange,
    open: Option<Open>,
    restorer: ChunkRestorer,
    form: RequestForm,
    price: Price,
    record: Record,
    provider: Arc<str>,
    events: Events,
    ready: VecDeque<ChatCompleteResponse>,
    index: u32,
    bytes: usize,
    finish_reason: Option<String>,
    used: Option<Used>,
    ends_at: Instant,
    is_over: bool,
}

impl Answer {
    /// The pieces. Dropping them ends the request; what it cost is settled then, too.
    pub(super) fn pieces(self) -> Pieces {
        let reading = Reading {
            exchange: self.exchange,
            open: Some(self.open),
            restorer: self.restorer,
            form: self.form,
            price: self.price,
            record: self.record,
            provider: self.provider,
            events: Events::default(),
            ready: VecDeque::new(),
            index: 0,
            bytes: 0,
            finish_reason: None,
            used: None,
            ends_at: Instant::now() + ANSWER_MAX,
            is_over: false,
        };
        stream::unfold(reading, |mut reading| async {
            let piece = reading.next().await?;
            Some((Ok(piece), reading))
        })
        .boxed()
    }
}

impl Reading {
    async fn next(&mut self) -> Option<ChatCompleteResponse> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Some(piece);
            }
            if self.is_over {
                return None;
            }
            match self.read().await {
                Ok(()) => {}
                Err(failure) => {
                    self.is_over = true;
                    self.settle().await;
                    self.flush();
                    self.ready.push_back(failed(failure));
                }
            }
        }
    }

    /// Reads until there is something to tell or the end.
    async fn read(&mut self) -> Result<(), Failure> {
        let left = self.ends_at.saturating_duration_since(Instant::now());
        let bytes = timeout(SILENCE_MAX.min(left), self.exchange.next()).await;
        let bytes = bytes.map_err(|_| self.broke("it has sent nothing for too long"))?;
        let bytes = bytes.map_err(|error| self.broke(&format!("{}", Chain(&error))))?;
        let Some(bytes) = bytes else {
            // Some close in place of `[DONE]`.
            if self.finish_reason.is_some() && !self.events.is_inside_event() {
                self.done().await;
                return Ok(());
            }
            return Err(self.broke("it ended the answer without saying that it is complete"));
        };
        self.bytes = self.bytes.saturating_add(bytes.len());
        if self.bytes > ANSWER_BYTES_MAX {
            return Err(self.broke("its answer is larger than 256 MiB"));
        }
        let events = self.events.feed(&bytes).map_err(|error| self.broke(&error.to_string()))?;
        for data in events {
            if data == b"[DONE]" {
                self.done().await;
                break;
            }
            self.take(&data)?;
        }
        Ok(())
    }

    fn take(&mut self, data: &[u8]) -> Result<(), Failure> {
        let mut chunk: Value = serde_json::from_slice(data)
            .map_err(|_| self.broke("it sent what is no chunk of an answer"))?;
        if chunk.get("error").is_some_and(|error| !error.is_null()) {
            self.restorer.restore(&mut chunk);
            let said = said(&chunk, self.record);
            return Err(failure(
                "ENGINE_FAILED",
                format!("{} gave up{said}", self.provider),
                false,
            ));
        }
        self.used = used(&chunk).or(self.used);
        let reason = chunk.pointer("/choices/0/finish_reason").and_then(Value::as_str);
        if let Some(reason) = reason {
            self.finish_reason = Some(reason.to_owned());
        }
        let json = if self.restorer.is_idle() {
            Bytes::copy_from_slice(data)
        } else {
            self.restorer.restore(&mut chunk);
            chunk.to_string().into()
        };
        self.tell(&chunk, json);
        Ok(())
    }

    fn tell(&mut self, chunk: &Value, json: Bytes) {
        let text = |field: &str| {
            let text = chunk.pointer(&format!("/choices/0/delta/{field}")).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        let reasoning = Some(text("reasoning_content")).filter(|text| !text.is_empty());
        let delta = ChatDelta {
            content: text("content"),
            reasoning: reasoning.unwrap_or_else(|| text("reasoning")),
            index: self.index,
        };
        let wants_json = self.form == RequestForm::OpenaiChat;
        if !wants_json && delta.content.is_empty() && delta.reasoning.is_empty() {
            return;
        }
        self.index += 1;
        let openai_chunk = if wants_json { json } else { Bytes::new() };
        self.ready
            .push_back(ChatCompleteResponse { event: Some(Event::Delta(delta)), openai_chunk });
    }

    async fn done(&mut self) {
        self.is_over = true;
        self.settle().await;
        self.flush();
        let usage = Usage {
            prompt_tokens: self.used.map(|used| used.prompt_tokens),
            completion_tokens: self.used.map(|used| used.completion_tokens),
            ..Usage::default()
        };
        let finish_reason = self.finish_reason.take().unwrap_or_default();
        let done = Event::Done(ChatDone { finish_reason, usage: Some(usage) });
        self.ready
            .push_back(ChatCompleteResponse { event: Some(done), openai_chunk: Bytes::new() });
    }

    /// Tells what was held back in case it was the beginning of a pseudonym.
    fn flush(&mut self) {
        if let Some(chunk) = self.restorer.finish() {
            let json = chunk.to_string().into();
            self.tell(&chunk, json);
        }
    }

    async fn settle(&mut self) {
        let Some(open) = self.open.take() else { return };
        match self.used {
            Some(used) => {
                let (read, written) = (used.prompt_tokens, used.completion_tokens);
                open.settle(self.price.of(read.into(), written.into()), used).await;
            }
            None => open.lost().await,
        }
    }

    fn broke(&self, why: &str) -> Failure {
        failure("PROVIDER_UNREACHABLE", format!("{} broke off: {why}", self.provider), true)
    }
}

fn used(chunk: &Value) -> Option<Used> {
    let number = |field: &str| {
        let number = chunk.get("usage")?.get(field)?.as_u64()?;
        Some(u32::try_from(number).unwrap_or(u32::MAX))
    };
    Some(Used {
        prompt_tokens: number("prompt_tokens")?,
        completion_tokens: number("completion_tokens")?,
    })
}

/// Whether the answer is the stream that was asked for.
pub(super) fn is_stream(exchange: &Exchange) -> bool {
    let kind = exchange.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
}

/// A failure with a stable word.
pub(super) fn failure(reason: &'static str, message: String, retryable: bool) -> Failure {
    let reason = Reason::try_new(reason).unwrap_or(Reason::WORKER_UNREACHABLE);
    Failure { reason, message, retryable }
}

/// The last message of an answer that failed.
pub(super) fn failed(failure: Failure) -> ChatCompleteResponse {
    let failure = homelab_proto::common::v1::Failure {
        reason: failure.reason.to_string(),
        message: failure.message,
        retryable: failure.retryable,
    };
    ChatCompleteResponse { event: Some(Event::Failure(failure)), openai_chunk: Bytes::new() }
}
