//! The answer to one request, as it is written.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::header;
use tokio::time;

use crate::engine::{
    chunk::{self, Chunk, Decoded, EngineError, NotAChunk, Usage},
    health::Readers,
    http::{self as engine_http, Endpoint, Exchange, HttpError},
    sse::{Limits, Parser, SseError},
};

/// Signs of life of one engine, told by those who read its answers.
#[derive(Debug, Default)]
pub struct Pulse {
    chunks: AtomicU64,
    prompt: AtomicU32,
    tokens: AtomicU32,
}

impl Pulse {
    /// How many pieces of answers have come from the engine.
    pub fn chunks(&self) -> u64 {
        self.chunks.load(Ordering::Relaxed)
    }

    /// Who waits for the engine right now. A reader whose own caller is slow does not
    /// count: the engine owes it nothing.
    pub fn waiting(&self) -> Readers {
        let count = |readers: &AtomicU32| readers.load(Ordering::Relaxed);
        Readers { prompt: count(&self.prompt), tokens: count(&self.tokens) }
    }

    /// Counts one reader that has had nothing yet, until what comes back is dropped.
    pub(crate) fn wait_for_prompt(&self) -> Waiting<'_> {
        Waiting::new(&self.prompt)
    }

    fn wait_for_tokens(&self) -> Waiting<'_> {
        Waiting::new(&self.tokens)
    }

    /// A sign of life.
    pub(crate) fn beat(&self) {
        self.chunks.fetch_add(1, Ordering::Relaxed);
    }
}

/// Counts one waiting reader until it is dropped.
#[derive(Debug)]
pub(crate) struct Waiting<'a>(&'a AtomicU32);

impl<'a> Waiting<'a> {
    fn new(readers: &'a AtomicU32) -> Self {
        readers.fetch_add(1, Ordering::Relaxed);
        Self(readers)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How long an engine may be silent towards one reader.
///
/// Both are ceilings for a single answer; an engine that hangs is found sooner by
/// the watchdog, which also sees that a long prompt is still being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Until the first byte: the engine reads the whole prompt before it.
    pub first_byte: Duration,
    /// Between two pieces.
    pub between_chunks: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { first_byte: Duration::from_secs(600), between_chunks: Duration::from_secs(120) }
    }
}

/// Why an answer broke off.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The engine did not accept the request.
    #[error("the engine did not take the request")]
    Start(#[source] HttpError),
    /// The engine answered with something else than a stream of events.
    #[error("the engine answered with {content_type:?} instead of a stream of events")]
    NotAStream {
        /// What it called its answer.
        content_type: String,
    },
    /// The connection broke in the middle of the answer.
    #[error("the answer was cut off")]
    Cut(#[source] HttpError),
    /// The answer ended properly as far as HTTP goes, but the engine never said
    /// that it was complete.
    #[error("the answer ended without the engine saying that it is complete")]
    Unfinished,
    /// Nothing came for too long.
    #[error("the engine has sent nothing for {after:?}")]
    Silent {
        /// How long was waited.
        after: Duration,
    },
    /// The stream of events passed a bound.
    #[error("the engine's stream of events cannot be read")]
    Events(#[source] SseError),
    /// An event was not a chunk.
    #[error("the engine's answer cannot be understood")]
    Garbage(#[source] NotAChunk),
    /// The engine itself said that it failed.
    #[error("the engine gave up in the middle of the answer")]
    Engine(#[source] EngineError),
    /// The engine's process ended.
    #[error("the engine ended in the middle of the answer: {because}")]
    EngineEnded {
        /// Why, for people.
        because: Arc<str>,
    },
}

impl AnswerError {
    /// The kind of it, in a word or two.
    pub(crate) fn class(&self) -> &'static str {
        match self {
            Self::Start(HttpError::Refused { .. }) => "refused by the engine",
            Self::Start(_) => "not taken by the engine",
            Self::NotAStream { .. } | Self::Events(_) | Self::Garbage(_) => "not understood",
            Self::Cut(_) | Self::Unfinished => "cut off",
            Self::Silent { .. } => "silent for too long",
            Self::Engine(_) => "given up by the engine",
            Self::EngineEnded { .. } => "the engine ended",
        }
    }

    /// Whether a dying engine looks like this from the other end of the socket.
    pub(crate) fn is_of_the_connection(&self) -> bool {
        match self {
            Self::Start(HttpError::Refused { .. } | HttpError::Request(_)) => false,
            Self::Start(_) | Self::Cut(_) | Self::Unfinished => true,
            Self::NotAStream { .. }
            | Self::Silent { .. }
            | Self::Events(_)
            | Self::Garbage(_)
            | Self::Engine(_)
            | Self::EngineEnded { .. } => false,
        }
    }
}

/// How a complete answer ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ending {
    /// In the engine's words: `stop`, `length`, `tool_calls`; empty if it gave none.
    pub finish_reason: String,
    /// What it cost.
    pub usage: Usage,
}

/// An answer that is being written. Dropping it tells the engine to stop.
#[derive(Debug)]
pub struct AnswerStream {
    exchange: Exchange,
    parser: Parser,
    events: VecDeque<crate::engine::sse::Event>,
    between_chunks: Duration,
    pulse: Arc<Pulse>,
    finish_reason: Option<String>,
    usage: Usage,
    has_begun: bool,
    is_complete: bool,
}

impl AnswerStream {
    /// Sends `body` to `path` of the engine and returns when it has begun to answer.
    ///
    /// Cancel safety: dropping the future closes the connection.
    ///
    /// # Errors
    /// [`AnswerError::Start`] or [`AnswerError::NotAStream`].
    pub async fn start(
        endpoint: &Endpoint,
        path: &str,
        body: Bytes,
        patience: Patience,
        pulse: Arc<Pulse>,
    ) -> Result<Self, AnswerError> {
        let exchange = {
            let _waiting = pulse.wait_for_prompt();
            engine_http::post(endpoint, path, body, patience.first_byte)
                .await
                .map_err(AnswerError::Start)?
        };
        let content_type = exchange
            .headers()
            .get(header::CONTENT_TYPE)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .unwrap_or_default();
        if !content_type.starts_with("text/event-stream") {
            return Err(AnswerError::NotAStream { content_type });
        }
        Ok(Self {
            exchange,
            parser: Parser::new(Limits::default()),
            events: VecDeque::new(),
            between_chunks: patience.between_chunks,
            pulse,
            finish_reason: None,
            usage: Usage::default(),
            has_begun: false,
            is_complete: false,
        })
    }

    /// The next piece; `None` once the answer is complete.
    ///
    /// Cancel safety: nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// [`AnswerError`]; the stream is over then.
    pub async fn next(&mut self) -> Result<Option<Chunk>, AnswerError> {
        loop {
            if self.is_complete {
                return Ok(None);
            }
            while let Some(event) = self.events.pop_front() {
                match chunk::decode(event).map_err(AnswerError::Garbage)? {
                    Decoded::Ping => {}
                    Decoded::Chunk(chunk) => return Ok(Some(self.note(chunk))),
                    Decoded::Error(error) => return Err(AnswerError::Engine(error)),
                    Decoded::Done => {
                        self.is_complete = true;
                        return Ok(None);
                    }
                }
            }
            self.read_more().await?;
        }
    }

    /// How the answer ended, once [`next`](Self::next) has given `None`.
    pub fn ending(&self) -> Ending {
        Ending { finish_reason: self.finish_reason.clone().unwrap_or_default(), usage: self.usage }
    }

    async fn read_more(&mut self) -> Result<(), AnswerError> {
        let bytes = {
            let _waiting = if self.has_begun {
                self.pulse.wait_for_tokens()
            } else {
                self.pulse.wait_for_prompt()
            };
            time::timeout(self.between_chunks, self.exchange.next())
                .await
                .map_err(|_| AnswerError::Silent { after: self.between_chunks })?
                .map_err(AnswerError::Cut)?
        };
        match bytes {
            Some(bytes) => self.parser.feed(&bytes, &mut self.events).map_err(AnswerError::Events),
            // Some engines close in place of `[DONE]`: whole all the same if a
            // choice has ended and HTTP says that nothing is missing.
            None if self.finish_reason.is_some() && !self.parser.is_inside_event() => {
                self.is_complete = true;
                Ok(())
            }
            None => Err(AnswerError::Unfinished),
        }
    }

    fn note(&mut self, chunk: Chunk) -> Chunk {
        self.pulse.beat();
        self.has_begun = true;
        self.usage.merge(chunk.usage);
        if chunk.finish_reason.is_some() {
            self.finish_reason.clone_from(&chunk.finish_reason);
        }
        chunk
    }
}
