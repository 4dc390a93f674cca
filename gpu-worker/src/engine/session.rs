//! A ready engine, for as long as its process lives.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use homelab_common::lifecycle::Tasks;
use tokio::{
    sync::watch,
    time::{self, Instant},
};

use crate::{
    device::DeviceId,
    engine::{
        chunk::Chunk,
        health::{Progress, Readers, SlotMark, slot_marks},
        http::{self as engine_http, Endpoint},
        recent::{Entry, Recent},
        stream::{AnswerError, AnswerStream, Ending, Patience, Pulse},
    },
    model::Model,
    slot::{Busy, Permit, Slots},
};

/// The largest answer in one piece: 256 vectors of 8192 numbers as text.
const WHOLE_BYTES_MAX: usize = 32 << 20;

/// `/slots` of 64 slots is some 100 KiB.
const SLOTS_BYTES_MAX: usize = 1 << 20;

/// An engine answers `/slots` between two tokens; one that takes longer hangs or
/// computes a large batch, and then no mark is better than a late one.
const SLOTS_DEADLINE: Duration = Duration::from_secs(1);

/// How long a slot may take to be free after its request was cancelled.
const SETTLE_DEADLINE: Duration = Duration::from_millis(500);

/// How often `/slots` is asked meanwhile. Measured engines need 30 ms.
const SETTLE_PERIOD: Duration = Duration::from_millis(20);

/// How a request that went well is noted.
const COMPLETE: &str = "complete";

/// A connection breaks some milliseconds before its process is reaped; the reason
/// is worth that wait.
const REASON_DEADLINE: Duration = Duration::from_secs(1);

/// What of an engine is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// A chat is answered, piece by piece.
    Chat,
    /// A text is continued, piece by piece.
    Completion,
    /// Texts become vectors.
    Embeddings,
    /// Texts are ordered by how well they fit a question.
    Rerank,
}

impl Api {
    /// Where OpenAI and those who followed have it.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completion => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
            Self::Rerank => "/v1/rerank",
        }
    }
}

/// A request for an engine.
#[derive(Debug, Clone)]
pub struct Ask {
    /// What of the engine.
    pub api: Api,
    /// The JSON for it.
    pub body: Bytes,
    /// The job, or nothing.
    pub job: String,
    /// Number of the attempt.
    pub attempt: u32,
}

/// What a session is made of.
#[derive(Debug)]
pub(crate) struct SessionParts {
    pub(crate) model: Arc<Model>,
    pub(crate) devices: Vec<DeviceId>,
    pub(crate) endpoint: Endpoint,
    pub(crate) patience: Patience,
    pub(crate) recent: Arc<Recent>,
    pub(crate) tasks: Tasks,
    pub(crate) changed: watch::Sender<()>,
}

/// One run of an engine, from being ready to its end.
#[derive(Debug)]
pub struct Session {
    model: Arc<Model>,
    devices: Vec<DeviceId>,
    recent: Arc<Recent>,
    endpoint: Endpoint,
    slots: Slots,
    patience: Patience,
    pulse: Arc<Pulse>,
    tasks: Tasks,
    is_closing: AtomicBool,
    has_slots_page: AtomicBool,
    live: AtomicU32,
    completion_tokens: AtomicU64,
    used_at: Mutex<Instant>,
    ended: watch::Sender<Option<Arc<str>>>,
}

/// Why a request does not get to the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAdmitted {
    /// All slots are taken.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The engine finishes what it has and ends then.
    #[error("the engine is about to end")]
    Closing,
}

impl Session {
    pub(crate) fn new(parts: SessionParts) -> Self {
        let SessionParts { model, devices, endpoint, patience, recent, tasks, changed } = parts;
        Self {
            slots: Slots::new(model.options.slots, changed),
            model,
            devices,
            recent,
            endpoint,
            patience,
            pulse: Arc::default(),
            tasks,
            is_closing: AtomicBool::new(false),
            has_slots_page: AtomicBool::new(true),
            live: AtomicU32::new(0),
            completion_tokens: AtomicU64::new(0),
            used_at: Mutex::new(Instant::now()),
            ended: watch::channel(None).0,
        }
    }

    /// The model that it serves.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// What it runs on.
    pub fn devices(&self) -> &[DeviceId] {
        &self.devices
    }

    /// Its slots.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Tokens written so far; those of cancelled answers are counted by chunk.
    pub fn completion_tokens(&self) -> u64 {
        self.completion_tokens.load(Ordering::Relaxed)
    }

    /// Takes a slot for one request.
    ///
    /// # Errors
    /// [`NotAdmitted`]; this never waits.
    pub fn admit(&self) -> Result<Permit, NotAdmitted> {
        let permit = self.slots.try_acquire()?;
        // Looked at with the slot in hand: whoever closes looks at the slots after it.
        if self.is_closing.load(Ordering::SeqCst) || self.ended.borrow().is_some() {
            return Err(NotAdmitted::Closing);
        }
        self.touch();
        Ok(permit)
    }

    /// Sends a request and returns once the engine has begun to answer.
    ///
    /// Cancel safety: dropping the future takes the request back; the slot is
    /// free again within half a second.
    ///
    /// # Errors
    /// [`AnswerError`].
    pub async fn stream(self: &Arc<Self>, permit: Permit, ask: Ask) -> Result<Chat, AnswerError> {
        let occupation = Occupation::new(self, permit, &ask);
        let (endpoint, patience) = (&self.endpoint, self.patience);
        let (path, pulse) = (ask.api.path(), Arc::clone(&self.pulse));
        let starting = AnswerStream::start(endpoint, path, ask.body, patience, pulse);
        let stream = match self.unless_ended(starting).await {
            Ok(stream) => stream,
            Err(error) => return Err(occupation.failed(error)),
        };
        Ok(Chat { stream, occupation, chunks: 0 })
    }

    /// Sends a request and returns the engine's whole answer.
    ///
    /// Cancel safety: as [`stream`](Self::stream).
    ///
    /// # Errors
    /// [`AnswerError`].
    pub async fn whole(self: &Arc<Self>, permit: Permit, ask: Ask) -> Result<Bytes, AnswerError> {
        let mut occupation = Occupation::new(self, permit, &ask);
        let deadline = self.patience.first_byte;
        let asking = async {
            let _waiting = self.pulse.wait_for_prompt();
            let path = ask.api.path();
            engine_http::post_whole(&self.endpoint, path, ask.body, deadline, WHOLE_BYTES_MAX)
                .await
                .map_err(AnswerError::Start)
        };
        match self.unless_ended(asking).await {
            Ok(answer) => {
                self.pulse.beat();
                occupation.entry.piece();
                occupation.entry.end(COMPLETE);
                occupation.is_over = true;
                Ok(answer)
            }
            Err(error) => Err(occupation.failed(error)),
        }
    }

    async fn unless_ended<T>(
        &self,
        work: impl Future<Output = Result<T, AnswerError>>,
    ) -> Result<T, AnswerError> {
        tokio::select! {
            biased;
            done = work => match done {
                Ok(done) => Ok(done),
                Err(error) => Err(self.explain(error).await),
            },
            because = self.ended() => Err(AnswerError::EngineEnded { because }),
        }
    }

    /// Takes no new requests; running ones go on.
    pub(crate) fn close(&self) {
        self.is_closing.store(true, Ordering::SeqCst);
    }

    /// Takes requests again.
    pub(crate) fn reopen(&self) {
        self.is_closing.store(false, Ordering::SeqCst);
    }

    /// How long it has had no request; nothing while it has one.
    pub(crate) fn unused_for(&self) -> Duration {
        if self.slots.busy() > 0 {
            return Duration::ZERO;
        }
        self.used_at.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    fn touch(&self) {
        *self.used_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Ends every answer that is still being read.
    pub(crate) fn end(&self, because: &str) {
        self.ended.send_replace(Some(because.into()));
    }

    /// Who waits for the engine.
    pub(crate) fn waiting(&self) -> Readers {
        self.pulse.waiting()
    }

    /// How far the engine has come, by its own account where it gives one.
    pub(crate) async fn progress(&self) -> Progress {
        Progress { chunks: self.pulse.chunks(), slots: self.marks().await }
    }

    /// Waits until no request is at the engine.
    pub(crate) async fn idle(&self) {
        while self.slots.busy() > 0 {
            time::sleep(SETTLE_PERIOD).await;
        }
    }

    async fn marks(&self) -> Option<Vec<SlotMark>> {
        if !self.has_slots_page.load(Ordering::Relaxed) {
            return None;
        }
        let asking = engine_http::get(&self.endpoint, "/slots", SLOTS_DEADLINE, SLOTS_BYTES_MAX);
        let answer = asking.await.ok()?;
        let marks = slot_marks(&answer);
        if marks.is_none() {
            // Other engines have no such page; their chunks are all there is to see.
            self.has_slots_page.store(false, Ordering::Relaxed);
        }
        marks
    }

    async fn ended(&self) -> Arc<str> {
        let mut ended = self.ended.subscribe();
        match ended.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(because)) => Arc::clone(because),
            _ => "it was dropped".into(),
        }
    }

    /// Puts the end of the process in place of what it did to the connection.
    async fn explain(&self, error: AnswerError) -> AnswerError {
        if !error.is_of_the_connection() {
            return error;
        }
        match time::timeout(REASON_DEADLINE, self.ended()).await {
            Ok(because) => AnswerError::EngineEnded { because },
            Err(_) => error,
        }
    }

    /// Holds the permit of a cancelled request until the engine has let go too, so
    /// that the next request does not wait in a queue that nobody sees.
    async fn settle(self: Arc<Self>, permit: Permit) {
        let deadline = Instant::now() + SETTLE_DEADLINE;
        while Instant::now() < deadline && self.ended.borrow().is_none() {
            let Ok(Some(marks)) = time::timeout_at(deadline, self.marks()).await else { break };
            let processing = marks.iter().filter(|mark| mark.is_processing).count();
            if processing <= self.live.load(Ordering::Relaxed) as usize {
                break;
            }
            time::sleep(SETTLE_PERIOD).await;
        }
        drop(permit);
    }
}

/// One answer that is being written. Dropping it cancels the request.
#[derive(Debug)]
pub struct Chat {
    // Dropped before the occupation: the socket closes, then the slot settles.
    stream: AnswerStream,
    occupation: Occupation,
    chunks: u64,
}

impl Chat {
    /// The next piece; `None` once the answer is complete.
    ///
    /// Cancel safety: nothing is lost when the future is dropped.
    ///
    /// # Errors
    /// [`AnswerError`]; the answer is over then.
    pub async fn next(&mut self) -> Result<Option<Chunk>, AnswerError> {
        let session = Arc::clone(&self.occupation.session);
        let next = tokio::select! {
            biased;
            next = self.stream.next() => next,
            because = session.ended() => Err(AnswerError::EngineEnded { because }),
        };
        match next {
            Ok(Some(chunk)) => {
                self.chunks += u64::from(!chunk.content.is_empty() || !chunk.reasoning.is_empty());
                self.occupation.entry.piece();
                Ok(Some(chunk))
            }
            Ok(None) => {
                self.occupation.is_over = true;
                self.occupation.entry.end(COMPLETE);
                Ok(None)
            }
            Err(error) => Err(self.occupation.failed(session.explain(error).await)),
        }
    }

    /// How the answer ended, once [`next`](Self::next) has given `None`.
    pub fn ending(&self) -> Ending {
        self.stream.ending()
    }
}

impl Drop for Chat {
    fn drop(&mut self) {
        let tokens = self.stream.ending().usage.completion_tokens.map_or(self.chunks, u64::from);
        self.occupation.session.completion_tokens.fetch_add(tokens, Ordering::Relaxed);
    }
}

/// A request that is at the engine.
#[derive(Debug)]
struct Occupation {
    session: Arc<Session>,
    permit: Option<Permit>,
    entry: Entry,
    is_over: bool,
}

impl Occupation {
    fn new(session: &Arc<Session>, permit: Permit, ask: &Ask) -> Self {
        session.live.fetch_add(1, Ordering::Relaxed);
        let Ask { api, body, job, attempt } = ask;
        let entry = session.recent.begin(api.path(), job, *attempt, body.len());
        Self { session: Arc::clone(session), permit: Some(permit), entry, is_over: false }
    }

    /// Takes note of a broken answer, without the engine's words: they may quote.
    fn failed(&self, error: AnswerError) -> AnswerError {
        self.entry.end(error.class());
        error
    }
}

impl Drop for Occupation {
    fn drop(&mut self) {
        self.session.live.fetch_sub(1, Ordering::Relaxed);
        self.session.touch();
        let Some(permit) = self.permit.take() else { return };
        if !self.is_over {
            let session = Arc::clone(&self.session);
            self.session.tasks.spawn(session.settle(permit));
        }
    }
}
