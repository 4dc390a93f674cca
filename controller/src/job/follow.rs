//! Following a job: its states and text, from any piece on, until it has ended.
//!
//! What happens now comes from the channel, what happened before from the store. A follower that
//! falls behind, or whose channel ends, looks into the store again and goes on where it was.

use std::{collections::VecDeque, sync::Arc};

use homelab_domain::{
    ids::JobId,
    job::{Job, JobEvent},
};
use homelab_store::{Piece, StoreError};
use tokio::sync::broadcast::{self, error::RecvError};

use super::{
    Jobs,
    live::{Live, Signal},
};

/// Pieces that are read from the store at once.
const PIECES_MAX: u32 = 256;

/// What a follower is told.
#[derive(Clone, Debug)]
pub enum Told {
    /// Its state changed.
    State(Arc<JobEvent>),
    /// The next piece of text.
    Piece(Arc<Piece>),
    /// What was told so far is void: another attempt begins the text again.
    Restarted(u32),
    /// It has ended; the last that is told.
    Ended(Arc<Job>),
}

/// One who follows a job.
#[derive(Debug)]
pub struct Follower {
    jobs: Jobs,
    id: JobId,
    next: u32,
    /// Whose text is read; 0 while that is not known.
    attempt: u32,
    /// What comes next, each with the attempt that it is of.
    backlog: VecDeque<(u32, Told)>,
    /// The attempt of what was told last.
    told_of: u32,
    signals: Option<broadcast::Receiver<Signal>>,
    live: Arc<Live>,
    is_over: bool,
}

/// Where in which job somebody begins to read.
#[derive(Clone, Copy, Debug)]
struct Place {
    id: JobId,
    next: u32,
    attempt: u32,
}

/// Why a job cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// There is no such job.
    #[error("there is no job {0}")]
    NotFound(JobId),
    /// The store failed.
    #[error("could not read the job")]
    Store(#[from] StoreError),
}

impl Follower {
    /// Follows a job that is about to be stored: nothing has happened yet.
    pub(super) fn fresh(jobs: Jobs, id: JobId) -> Self {
        let live = jobs.lives().enter(id);
        let signals = Some(live.join().signals);
        Self::at(jobs, live, signals, Place { id, next: 0, attempt: 0 })
    }

    /// Follows a job that is in the store. Who has read on to `from_index` says of which attempt that
    /// was, or 0.
    pub(super) fn from_store(jobs: Jobs, id: JobId, from_index: u32, attempt: u32) -> Self {
        let live = jobs.lives().enter(id);
        Self::at(jobs, live, None, Place { id, next: from_index, attempt })
    }

    fn at(
        jobs: Jobs,
        live: Arc<Live>,
        signals: Option<broadcast::Receiver<Signal>>,
        place: Place,
    ) -> Self {
        let Place { id, next, attempt } = place;
        let backlog = VecDeque::new();
        Self { jobs, id, next, attempt, backlog, told_of: 0, signals, live, is_over: false }
    }

    /// The attempt that wrote what was told last; 0 when that was nobody's text.
    #[must_use]
    pub fn told_of(&self) -> u32 {
        self.told_of
    }

    /// Which job.
    #[must_use]
    pub fn job_id(&self) -> JobId {
        self.id
    }

    /// The job's live part.
    #[must_use]
    pub fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// What happens next; `None` after the end.
    ///
    /// Cancel safety: safe; whatever was not returned comes with the next call.
    ///
    /// # Errors
    /// There is no such job, or the store failed.
    pub async fn next(&mut self) -> Result<Option<Told>, FollowError> {
        loop {
            if let Some((attempt, told)) = self.backlog.pop_front() {
                self.told_of = attempt;
                self.is_over |= matches!(told, Told::Ended(_));
                return Ok(Some(told));
            }
            if self.is_over {
                return Ok(None);
            }
            let Some(signals) = &mut self.signals else {
                self.catch_up().await?;
                continue;
            };
            match signals.recv().await {
                Ok(signal) => self.take(signal),
                // The job may have ended, or gone on without us: the store knows.
                Err(RecvError::Lagged(_) | RecvError::Closed) => self.signals = None,
            }
        }
    }

    fn take(&mut self, signal: Signal) {
        match signal {
            Signal::State(event) => self.tell(Told::State(event)),
            Signal::Begun(attempt) => self.take_attempt(attempt),
            Signal::Piece(piece) => self.take_piece(piece),
            Signal::Ended(job) => self.tell(Told::Ended(job)),
        }
    }

    fn tell(&mut self, told: Told) {
        self.backlog.push_back((self.attempt, told));
    }

    /// The text is that of `attempt` from now on. What was read of an earlier one is void.
    fn take_attempt(&mut self, attempt: u32) {
        let is_of_another = self.next > 0 && self.attempt != attempt;
        self.attempt = attempt;
        if is_of_another {
            self.next = 0;
            self.tell(Told::Restarted(attempt));
        }
    }

    fn take_piece(&mut self, piece: Arc<Piece>) {
        match piece.index.cmp(&self.next) {
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal => {
                self.next += 1;
                self.tell(Told::Piece(piece));
            }
            std::cmp::Ordering::Greater => self.signals = None,
        }
    }

    /// Brings store, tail and channel together. The channel is joined first, so that nothing that
    /// happens meanwhile is missed; what comes twice is dropped by its index.
    async fn catch_up(&mut self) -> Result<(), FollowError> {
        self.live = self.jobs.lives().enter(self.id);
        let joined = self.live.join();
        let store = &self.jobs.parts().store;
        let read = async {
            let mut tx = store.read().await?;
            let Some(job) = tx.jobs().get(self.id).await? else { return Ok(None) };
            let pieces = tx.jobs().pieces(self.id, self.next, PIECES_MAX).await?;
            Ok::<_, StoreError>(Some((job, pieces)))
        };
        let Some((job, pieces)) = read.await? else {
            self.jobs.lives().leave(self.id, &self.live);
            return Err(FollowError::NotFound(self.id));
        };
        // What is stored is of the attempt that was given last: once any of it is, there is no other.
        let writer = job.attempts().given;
        if self.next > 0 && self.attempt > 0 && self.attempt != writer {
            self.take_attempt(writer);
            return Ok(());
        }
        self.attempt = writer;
        let is_page_full = u32::try_from(pieces.len()).unwrap_or(u32::MAX) >= PIECES_MAX;
        for piece in pieces {
            self.take_piece(Arc::new(piece));
        }
        if is_page_full {
            // More is in the store; come back for it before anything newer.
            self.signals = None;
            return Ok(());
        }
        if job.state().kind().is_final() {
            self.jobs.lives().leave(self.id, &self.live);
            self.tell(Told::Ended(Arc::new(job)));
            return Ok(());
        }
        self.signals = Some(joined.signals);
        // One that was given up may have left some; the next begins with nothing.
        if joined.attempt == writer {
            joined.unstored.into_iter().for_each(|piece| self.take_piece(piece));
        }
        if let Some(job) = joined.ended {
            self.tell(Told::Ended(job));
        }
        Ok(())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.signals = None;
        self.jobs.lives().leave(self.id, &self.live);
    }
}
