//! The task that works on batches.
//!
//! It reads what is open, asks the pure planner what is next, and stores what came of it line by line.
//! The job of a line has an id that is derived from it, so that a controller that dies between two
//! steps finds its jobs again and asks nothing twice.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use homelab_common::error_chain::Chain;
use homelab_domain::{
    batch::{self, Batch, BatchState, LineState, Step},
    job::{Job, JobClass, JobRequest, JobState, Record, RequestForm, Terms},
};
use homelab_store::{BatchLine, JobError, StoreError};
use jiff::Timestamp;
use tracing::{info, warn};

use super::line;
use crate::{
    http::gateway::{
        Gateway, answer::Answer, ask, context, error::ApiError, key::Key, outcome, request,
    },
    job::{SubmitError, submission::Submission},
    task::{BackgroundTask, Done, Outcome},
};

/// Name of the task, by which it is nudged.
pub(in crate::http) const NAME: &str = "run-batches";

/// How often it looks. A batch is in no hurry, and its jobs go on meanwhile.
const PERIOD: Duration = Duration::from_secs(2);

/// Pieces that are read from the store at once.
const PIECES_MAX: u32 = 1_000;

/// For how long a batch that ended and a file that was given are kept.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3_600);

/// How often what is old is dropped.
const DROP_EVERY: Duration = Duration::from_secs(600);

/// Batches and files that are dropped in one round.
const DROPPED_MAX: u32 = 20;

/// Lines that are dropped in one round: one transaction must not keep everybody else waiting.
const LINES_MAX: u32 = 500;

/// Works on batches.
#[derive(Debug)]
pub(in crate::http) struct Runner {
    gateway: Gateway,
    /// When what is old was last dropped.
    dropped_at: Mutex<Option<Timestamp>>,
}

/// What came of one line.
struct Ended {
    line: u32,
    state: LineState,
    row: Vec<u8>,
    /// Tokens that its key is charged for it.
    tokens: u64,
}

impl Runner {
    pub(in crate::http) fn new(gateway: Gateway) -> Self {
        Self { gateway, dropped_at: Mutex::default() }
    }

    fn is_time_to_drop(&self) -> bool {
        let now = self.gateway.jobs.parts().clock.now();
        let mut last = self.dropped_at.lock().unwrap_or_else(PoisonError::into_inner);
        let is_time = last.is_none_or(|last| now.duration_since(last).unsigned_abs() >= DROP_EVERY);
        if is_time {
            *last = Some(now);
        }
        is_time
    }

    async fn drop_old(&self) -> Result<u64, StoreError> {
        let parts = self.gateway.jobs.parts();
        let before = parts.clock.now().checked_sub(KEPT).unwrap_or(Timestamp::MIN);
        let mut tx = parts.store.begin().await?;
        let dropped = tx.batches().prune(before, DROPPED_MAX).await?;
        tx.commit().await?;
        Ok(dropped)
    }

    async fn work_on(&self, batch: &Batch) -> Result<(), StoreError> {
        let open = self.read(batch, LineState::Open, u32::MAX).await?;
        let mut ended = Vec::new();
        for line in &open {
            ended.extend(self.look_at(batch, line).await?);
        }
        self.keep(batch, &ended).await?;
        let now = self.gateway.jobs.parts().clock.now();
        let tally = self.gateway.jobs.parts().store.read().await?.batches().tally(batch.id).await?;
        match batch::next(batch, &tally, now) {
            Step::Wait => Ok(()),
            Step::Submit(count) => self.submit(batch, count).await,
            Step::DropRest => self.drop_rest(batch, &open).await,
            Step::End(state) => {
                info!(batch = %batch.id, key = %batch.owner, %state, ?tally, "a batch ended");
                self.update(&Batch { state, ended_at: Some(now), ..batch.clone() }).await
            }
        }
    }

    async fn read(
        &self,
        batch: &Batch,
        state: LineState,
        limit: u32,
    ) -> Result<Vec<BatchLine>, StoreError> {
        let mut tx = self.gateway.jobs.parts().store.read().await?;
        tx.batches().lines(batch.id, state, limit).await
    }

    /// What came of a line that is a job; nothing while that goes on.
    async fn look_at(&self, batch: &Batch, line: &BatchLine) -> Result<Option<Ended>, StoreError> {
        let id = line::job_of(batch.id, line.line);
        let Some((job, _)) = self.gateway.jobs.get(id).await? else {
            // Submitted, but lost with a power cut before it was stored: its turn comes again.
            return self.submit_one(batch, line).await;
        };
        if !job.state().kind().is_final() {
            return Ok(None);
        }
        let answer = match outcome::of_end(&job) {
            Ok(()) => self.answer(&job).await?,
            Err(error) => Err(error),
        };
        let (state, row) = match answer {
            Ok(answer) => {
                let answer = answer.with(context::of_job(&job));
                let row = line::answered(id, &line.custom_id, 200, &answer.finish());
                (LineState::Succeeded, row)
            }
            Err(error) => (LineState::Failed, failed_row(batch, &job, line, &error)),
        };
        Ok(Some(Ended { line: line.line, state, row, tokens: tokens(&job) }))
    }

    async fn answer(&self, job: &Job) -> Result<Result<Answer, ApiError>, StoreError> {
        let mut tx = self.gateway.jobs.parts().store.read().await?;
        let mut answer = Answer::default();
        let mut from = 0;
        loop {
            let pieces = tx.jobs().pieces(job.id(), from, PIECES_MAX).await?;
            let Some(last) = pieces.last() else { return Ok(Ok(answer)) };
            from = last.index + 1;
            for piece in pieces.iter().filter(|piece| !piece.openai_chunk.is_empty()) {
                if answer.add(&piece.openai_chunk).is_err() {
                    let words = "The engine's answer cannot be read.";
                    return Ok(Err(ApiError::engine("engine_garbage", words)));
                }
            }
        }
    }

    async fn submit(&self, batch: &Batch, count: u64) -> Result<(), StoreError> {
        let limit = u32::try_from(count).unwrap_or(u32::MAX);
        let waiting = self.read(batch, LineState::Waiting, limit).await?;
        for line in &waiting {
            if let Some(key) = self.gateway.keys.named(&batch.owner)
                && !self.gateway.meters.has_left(&key)
            {
                return Ok(());
            }
            if let Some(ended) = self.submit_one(batch, line).await? {
                self.keep(batch, &[ended]).await?;
                continue;
            }
            let mut tx = self.gateway.jobs.parts().store.begin().await?;
            if tx.jobs().get(line::job_of(batch.id, line.line)).await?.is_none() {
                // The queue is full: later.
                return Ok(());
            }
            tx.batches().open_line(batch.id, line.line).await?;
            tx.commit().await?;
        }
        Ok(())
    }

    /// Makes a line a job; what came of it when that cannot be.
    async fn submit_one(
        &self,
        batch: &Batch,
        line: &BatchLine,
    ) -> Result<Option<Ended>, StoreError> {
        let id = line::job_of(batch.id, line.line);
        let failed = |error: &ApiError| {
            let row = line::answered(id, &line.custom_id, error.status().as_u16(), &error.body());
            Some(Ended { line: line.line, state: LineState::Failed, row, tokens: 0 })
        };
        let Some(key) = self.gateway.keys.named(&batch.owner) else {
            return Ok(failed(&ApiError::unauthorized("The key of this batch is gone.")));
        };
        let chat = match request::read(&line.body) {
            Ok(chat) => chat,
            Err(error) => return Ok(failed(&error)),
        };
        let request = JobRequest::new(RequestForm::OpenaiChat, line.body.clone());
        let request = match context::attach(&self.gateway, &key, chat.context, request).await {
            Ok(request) => request,
            // The store is asked again for this line; anything else is its own fault.
            Err(error) if error.status().is_server_error() => return Ok(None),
            Err(error) => return Ok(failed(&error)),
        };
        let submission = Submission {
            id,
            model: chat.model,
            tier: None,
            tiers_allowed: allowed(batch, &key),
            request,
            title: chat.title,
            priority: Some(batch::PRIORITY),
            deadline: Some(batch.expires_at),
            tokens_max: None,
            record: Record::Full,
            terms: Terms { class: JobClass::Batch, ..Terms::default() },
            submitted_by: key.submitter(),
        };
        match self.gateway.jobs.submit(submission).await {
            Ok(_) | Err(SubmitError::Full(_)) => Ok(None),
            Err(SubmitError::Store(error)) => Err(error),
            Err(error) => Ok(failed(&ask::refused(error))),
        }
    }

    /// Cancels what runs, and ends the lines that were not begun, a few at a time.
    async fn drop_rest(&self, batch: &Batch, open: &[BatchLine]) -> Result<(), StoreError> {
        for line in open {
            let id = line::job_of(batch.id, line.line);
            let cancelled = self.gateway.jobs.cancel(id, &canceller(batch)).await;
            // One that is gone, or ended meanwhile, is looked at in the next round.
            if let Err(JobError::Store(error)) = cancelled {
                return Err(error);
            }
        }
        let waiting = self.read(batch, LineState::Waiting, LINES_MAX).await?;
        let (code, words) = why_dropped(batch);
        let ended: Vec<_> = waiting
            .iter()
            .map(|line| Ended {
                line: line.line,
                state: LineState::Failed,
                row: line::dropped(line::job_of(batch.id, line.line), &line.custom_id, code, words),
                tokens: 0,
            })
            .collect();
        self.keep(batch, &ended).await?;
        self.gateway.jobs.parts().driver.nudge(NAME);
        Ok(())
    }

    /// Keeps what came of lines, and charges their key for it: both or neither.
    async fn keep(&self, batch: &Batch, ended: &[Ended]) -> Result<(), StoreError> {
        if ended.is_empty() {
            return Ok(());
        }
        let mut tx = self.gateway.jobs.parts().store.begin().await?;
        let mut cost = 0_u64;
        for Ended { line, state, row, tokens } in ended {
            // One that has its end already was charged with it.
            if tx.batches().end_line(batch.id, *line, *state, row).await? {
                cost = cost.saturating_add(*tokens);
            }
        }
        let charge = self
            .gateway
            .keys
            .named(&batch.owner)
            .and_then(|key| self.gateway.meters.charge_for(&key, cost));
        if let Some(charge) = &charge {
            charge.keep(tx.as_mut()).await?;
        }
        tx.commit().await?;
        if let Some(charge) = charge {
            charge.count();
        }
        Ok(())
    }

    async fn update(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut tx = self.gateway.jobs.parts().store.begin().await?;
        tx.batches().update(batch).await?;
        tx.commit().await
    }
}

/// What a job cost.
fn tokens(job: &Job) -> u64 {
    let (JobState::Succeeded { usage, .. } | JobState::Failed { usage, .. }) = job.state() else {
        return 0;
    };
    [usage.prompt_tokens, usage.completion_tokens].into_iter().flatten().map(u64::from).sum()
}

/// Tiers that the batch was made with and that its key still has.
fn allowed(batch: &Batch, key: &Key) -> Vec<homelab_domain::site::Tier> {
    batch.tiers.iter().copied().filter(|tier| key.tiers.contains(tier)).collect()
}

/// As jobs say who cancelled them.
fn canceller(batch: &Batch) -> String {
    format!("batch {}", batch.id)
}

fn why_dropped(batch: &Batch) -> (&'static str, &'static str) {
    if batch.state == BatchState::Cancelling {
        ("batch_cancelled", "The batch was cancelled before this line had its turn.")
    } else {
        ("batch_expired", "The batch's 24 hours were over before this line had its turn.")
    }
}

fn failed_row(batch: &Batch, job: &Job, line: &BatchLine, error: &ApiError) -> Vec<u8> {
    match job.state() {
        // Cancelled with its batch, or late as the batch is; not by a person who picked it out.
        JobState::Cancelled { by, .. } if *by == canceller(batch) => {
            let (code, words) = why_dropped(batch);
            line::dropped(job.id(), &line.custom_id, code, words)
        }
        JobState::Expired { .. } => {
            let (code, words) = why_dropped(batch);
            line::dropped(job.id(), &line.custom_id, code, words)
        }
        _ => line::answered(job.id(), &line.custom_id, error.status().as_u16(), &error.body()),
    }
}

#[async_trait]
impl BackgroundTask for Runner {
    fn name(&self) -> &'static str {
        NAME
    }

    fn description(&self) -> &'static str {
        "Turns lines of batches into jobs, a few at a time, and keeps their answers."
    }

    fn period(&self) -> Duration {
        PERIOD
    }

    async fn activate(&self) -> Outcome {
        let store = &self.gateway.jobs.parts().store;
        let active = store.read().await?.batches().active().await?;
        for batch in &active {
            // One that cannot be read must not hold up the others.
            if let Err(error) = self.work_on(batch).await {
                warn!(batch = %batch.id, error = %Chain(&error), "could not work on a batch");
            }
        }
        let dropped = if self.is_time_to_drop() { self.drop_old().await? } else { 0 };
        Ok(match dropped {
            0 => Done::Nothing,
            _ => Done::Changed(format!("{dropped} old batches and files were dropped")),
        })
    }
}
