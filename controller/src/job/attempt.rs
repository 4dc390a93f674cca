//! One attempt: from the worker's stream to the store and to those who watch.

use std::{ops::ControlFlow, time::Duration};

use futures_util::StreamExt as _;
use homelab_common::error_chain::Chain;
use homelab_domain::{
    ids::JobId,
    job::{Job, JobStateKind, Outcome, Usage},
    reason::{Failure, Reason},
    site::Tier,
};
use homelab_proto::inference::v1::{
    ChatCompleteResponse, ChatDelta, ChatDone, chat_complete_response::Event,
};
use homelab_rpc::status::reason_of;
use homelab_store::{JobError, Piece};
use std::sync::Arc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tracing::{info, warn};

use super::{
    Jobs,
    convert::{self, WorkerRequest},
    engines::Pieces,
    live::Live,
    running::STORE_PAUSE,
    slots::Slot,
};

/// Pieces are stored at the latest after this long; until then they are in memory only.
const BATCH_AGE: Duration = Duration::from_millis(250);

/// Pieces that are stored at once.
const BATCH_PIECES: usize = 64;

/// Pieces that may wait for a store that does not take them, before the attempt is given up.
const UNSTORED_MAX: usize = 4_096;

/// Pause before a worker is asked again whose slots somebody else has filled, or whose engine is
/// just being started.
const BUSY_PAUSE: Duration = Duration::from_secs(1);

/// Asked that often before the attempt is given up.
const BUSY_TRIES_MAX: u32 = 300;

/// Pause after an attempt that broke off before anything was shown, times its number: what broke it
/// needs a moment to come back, or to be noticed.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Tries to store how an attempt ended. After them its lease runs out, and the sweep ends it.
const END_TRIES_MAX: u32 = 30;

/// Tries to store the first piece of an answer from outside, which nobody sees before.
const FIRST_TRIES_MAX: u32 = 30;

/// An attempt that is about to run.
#[derive(Debug)]
pub(super) struct Attempt {
    jobs: Jobs,
    id: JobId,
    number: u32,
    stopped: CancellationToken,
    request: WorkerRequest,
    slot: Slot,
    live: Arc<Live>,
    first: First,
    began: Instant,
    has_started: bool,
    batch_due: Option<Instant>,
    next_index: u32,
}

/// What comes first for the first piece of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    /// To be shown.
    Shown,
    /// To be stored: an answer that is paid for is asked for once, and what was shown but not stored
    /// would be asked for again by the next controller.
    Stored,
}

/// Why an attempt stops without an end of its own.
#[derive(Debug)]
struct Over;

impl Attempt {
    pub(super) fn new(
        jobs: Jobs,
        job: &Job,
        number: u32,
        slot: Slot,
        stopped: CancellationToken,
    ) -> Self {
        let live = jobs.lives().enter(job.id());
        Self {
            id: job.id(),
            number,
            stopped,
            request: convert::worker_request(job.spec(), number),
            slot,
            live,
            first: if job.spec().tier == Tier::Gold { First::Stored } else { First::Shown },
            jobs,
            began: Instant::now(),
            has_started: false,
            batch_due: None,
            next_index: 0,
        }
    }

    /// Runs to its end, or until it is stopped: cancelled, or its lease given to another.
    pub(super) async fn run(mut self) {
        let stopped = self.stopped.clone();
        self.live.begin(self.number);
        let outcome = tokio::select! {
            biased;
            () = stopped.cancelled() => Err(Over),
            outcome = self.answer_and_rest() => outcome,
        };
        // The stream is gone with the future above, and with it the engine's slot.
        if let Ok(outcome) = outcome {
            self.end(outcome).await;
        } else {
            info!(job = %self.id, attempt = self.number, "an attempt was stopped");
        }
        self.jobs.attempt_over(self.id, self.number);
        let jobs = self.jobs.clone();
        drop(self);
        jobs.nudge_if_waiting();
    }

    async fn answer_and_rest(&mut self) -> Result<Outcome, Over> {
        let outcome = self.answer().await?;
        let will_be_repeated =
            matches!(&outcome, Outcome::Failed { failure, .. } if failure.retryable);
        if will_be_repeated && self.next_index == 0 {
            tokio::time::sleep(RETRY_PAUSE * self.number).await;
        }
        Ok(outcome)
    }

    async fn answer(&mut self) -> Result<Outcome, Over> {
        let mut pieces = match self.open().await {
            Ok(pieces) => pieces,
            Err(status) => return Ok(failed(self.failure(&status))),
        };
        loop {
            let due = self.batch_due;
            let message = tokio::select! {
                message = pieces.next() => message,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.store_batch().await?;
                    continue;
                }
            };
            let taken = match message {
                Some(Ok(message)) => self.take(message).await?,
                Some(Err(status)) => ControlFlow::Break(failed(self.failure(&status))),
                None => ControlFlow::Break(failed(self.silent_end())),
            };
            if let ControlFlow::Break(outcome) = taken {
                return Ok(outcome);
            }
        }
    }

    /// Opens the stream. A worker that somebody else keeps busy, or whose engine starts, is asked again
    /// for a while: the job is next there, and waiting costs it no attempt.
    async fn open(&self) -> Result<Pieces, Status> {
        let mut tries = 1;
        loop {
            match self.call().await {
                Err(status) if is_busy(&status) && tries < BUSY_TRIES_MAX => {
                    tries += 1;
                    let pause = self.jobs.parts().chance.jittered(BUSY_PAUSE, 0.5);
                    tokio::time::sleep(pause).await;
                }
                opened => return opened,
            }
        }
    }

    async fn call(&self) -> Result<Pieces, Status> {
        let (engines, worker) = (&self.jobs.parts().engines, self.slot.worker());
        // Asked anew each time: what stood in the way may have come to rest since.
        let make_room = self.jobs.can_swap_in(worker, self.slot.model());
        match self.request.clone().making_room(make_room) {
            WorkerRequest::Chat(request) => engines.chat(worker, request).await,
            WorkerRequest::Completion(request) => engines.complete(worker, request).await,
        }
    }

    async fn take(&mut self, message: ChatCompleteResponse) -> Result<ControlFlow<Outcome>, Over> {
        let ChatCompleteResponse { event, openai_chunk } = message;
        match event {
            Some(Event::Delta(delta)) => {
                self.piece(delta, openai_chunk.to_vec()).await?;
                Ok(ControlFlow::Continue(()))
            }
            Some(Event::Done(ChatDone { usage, .. })) => {
                if !openai_chunk.is_empty() {
                    self.piece(ChatDelta::default(), openai_chunk.to_vec()).await?;
                }
                let usage = usage.map(convert::usage_from_proto).unwrap_or_default();
                Ok(ControlFlow::Break(Outcome::Succeeded { usage }))
            }
            Some(Event::Failure(failure)) => {
                Ok(ControlFlow::Break(failed(convert::failure_from_proto(failure))))
            }
            None => Ok(ControlFlow::Continue(())),
        }
    }

    async fn piece(&mut self, delta: ChatDelta, openai_chunk: Vec<u8>) -> Result<(), Over> {
        let ChatDelta { content, reasoning, .. } = delta;
        let piece = Piece { index: self.next_index, content, reasoning, openai_chunk };
        if self.next_index == 0 && self.first == First::Stored {
            return self.stored_first(piece).await;
        }
        self.live.piece(self.number, piece);
        self.next_index = self.next_index.saturating_add(1);
        self.batch_due.get_or_insert_with(|| Instant::now() + BATCH_AGE);
        if self.live.unstored_count() >= BATCH_PIECES {
            self.store_batch().await?;
        }
        Ok(())
    }

    /// Shows the first piece once it is stored; without that the attempt is given up, unseen.
    async fn stored_first(&mut self, piece: Piece) -> Result<(), Over> {
        let piece = [Arc::new(piece)];
        let mut tries = 1;
        while let Err(error) = self.try_store(&piece).await {
            warn!(job = %self.id, error = %Chain(&error), "could not store the first text from outside");
            if !matches!(error, JobError::Store(_)) || tries >= FIRST_TRIES_MAX {
                return Err(Over);
            }
            tries += 1;
            tokio::time::sleep(STORE_PAUSE).await;
        }
        let [piece] = piece;
        self.live.piece(self.number, Arc::unwrap_or_clone(piece));
        self.live.stored(1);
        self.next_index = 1;
        Ok(())
    }

    /// Stores what is in memory only. A store that is busy is asked again with the next batch.
    async fn store_batch(&mut self) -> Result<(), Over> {
        let pieces = self.live.unstored();
        match self.try_store(&pieces).await {
            Ok(()) => {
                self.live.stored(pieces.len());
                self.batch_due = None;
                Ok(())
            }
            Err(JobError::Store(error)) if pieces.len() < UNSTORED_MAX => {
                warn!(job = %self.id, error = %Chain(&error), "could not store text; trying again");
                self.batch_due = Some(Instant::now() + BATCH_AGE * 4);
                Ok(())
            }
            Err(error) => {
                warn!(job = %self.id, attempt = self.number, error = %Chain(&error), "an attempt was given up");
                Err(Over)
            }
        }
    }

    async fn try_store(&mut self, pieces: &[Arc<Piece>]) -> Result<(), JobError> {
        let now = self.jobs.now();
        let mut tx = self.jobs.parts().store.begin().await?;
        let started = match self.has_started {
            true => None,
            false => Some(tx.jobs().start(self.id, self.number, now).await?),
        };
        let pieces: Vec<Piece> = pieces.iter().map(|piece| piece.as_ref().clone()).collect();
        tx.jobs().append(self.id, self.number, &pieces, self.jobs.lease_end(now)).await?;
        tx.commit().await?;
        if let Some(job) = started {
            self.has_started = true;
            self.live.state(job.event(now));
            self.jobs.tell();
        }
        Ok(())
    }

    /// Stores how it ended, with the text that is not stored yet, in one transaction.
    async fn end(&mut self, outcome: Outcome) {
        let mut tries = 0;
        let job = loop {
            tries += 1;
            match self.try_end(outcome.clone()).await {
                Ok(job) => break job,
                Err(JobError::Store(error)) if tries < END_TRIES_MAX => {
                    warn!(job = %self.id, error = %Chain(&error), "could not store how an attempt ended; trying again");
                    tokio::time::sleep(STORE_PAUSE).await;
                }
                Err(error) => {
                    warn!(job = %self.id, attempt = self.number, error = %Chain(&error), "the end of an attempt was refused");
                    return;
                }
            }
        };
        let state = job.state().kind();
        if state == JobStateKind::Succeeded {
            self.learn(&job);
        }
        if state == JobStateKind::Queued {
            self.jobs.requeued(&job);
            self.live.state(job.event(self.jobs.now()));
        }
        info!(job = %self.id, attempt = self.number, %state, pieces = self.next_index, "an attempt ended");
        self.jobs.ended(&job);
    }

    /// What the next job may be told, and where the next turn of the conversation is quickest.
    fn learn(&self, job: &Job) {
        let spec = job.spec();
        self.jobs.pace().note(spec.tier, &spec.model, self.began.elapsed());
        if let Some(chat) = &spec.terms.chat {
            self.jobs.homes().note(chat, self.slot.worker());
        }
    }

    async fn try_end(&mut self, outcome: Outcome) -> Result<Job, JobError> {
        let now = self.jobs.now();
        let pieces: Vec<Piece> =
            self.live.unstored().iter().map(|piece| piece.as_ref().clone()).collect();
        let mut tx = self.jobs.parts().store.begin().await?;
        if !pieces.is_empty() {
            if !self.has_started {
                tx.jobs().start(self.id, self.number, now).await?;
            }
            tx.jobs().append(self.id, self.number, &pieces, self.jobs.lease_end(now)).await?;
        }
        let job = tx.jobs().finish(self.id, self.number, outcome, now).await?;
        tx.commit().await?;
        Ok(job)
    }

    fn failure(&self, status: &Status) -> Failure {
        let worker = self.slot.worker();
        let reason = reason_of(status).and_then(|reason| Reason::try_new(reason).ok());
        let reason = reason.unwrap_or_else(|| match status.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => {
                Reason::WORKER_UNREACHABLE
            }
            _ => convert::engine_failed(),
        });
        let is_lasting = matches!(
            status.code(),
            Code::InvalidArgument
                | Code::NotFound
                | Code::PermissionDenied
                | Code::Unauthenticated
                | Code::Unimplemented
        );
        Failure {
            reason,
            message: format!("{worker} did not answer: {}", status.message()),
            retryable: !is_lasting,
        }
    }

    fn silent_end(&self) -> Failure {
        Failure {
            reason: Reason::WORKER_UNREACHABLE,
            message: format!(
                "{} ended the stream without saying that it is complete",
                self.slot.worker()
            ),
            retryable: true,
        }
    }
}

fn failed(failure: Failure) -> Outcome {
    Outcome::Failed { failure, usage: Usage::default() }
}

fn is_busy(status: &Status) -> bool {
    matches!(reason_of(status).as_deref(), Some("SLOTS_BUSY" | "ENGINE_NOT_READY"))
}
