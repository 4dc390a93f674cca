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
    backlog: VecDeque<Told>,
    signals: Option<broadcast::Receiver<Signal>>,
    live: Arc<Live>,
    is_over: bool,
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
        Self { jobs, id, next: 0, backlog: VecDeque::new(), signals, live, is_over: false }
    }

    /// Follows a job that is in the store.
    pub(super) fn from_store(jobs: Jobs, id: JobId, from_index: u32) -> Self {
        let live = jobs.lives().enter(id);
        Self {
            jobs,
            id,
            next: from_index,
            backlog: VecDeque::new(),
            signals: None,
            live,
            is_over: false,
        }
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
            if let Some(told) = self.backlog.pop_front() {
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
            Signal::State(event) => self.backlog.push_back(Told::State(event)),
            Signal::Begun(attempt) if self.next > 0 => {
                self.next = 0;
                self.backlog.push_back(Told::Restarted(attempt));
            }
            Signal::Begun(_) => {}
            Signal::Piece(piece) => self.take_piece(piece),
            Signal::Ended(job) => self.backlog.push_back(Told::Ended(job)),
        }
    }

    fn take_piece(&mut self, piece: Arc<Piece>) {
        match piece.index.cmp(&self.next) {
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal => {
                self.next += 1;
                self.backlog.push_back(Told::Piece(piece));
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
            self.backlog.push_back(Told::Ended(Arc::new(job)));
            return Ok(());
        }
        self.signals = Some(joined.signals);
        for piece in joined.unstored {
            self.take_piece(piece);
        }
        if let Some(job) = joined.ended {
            self.backlog.push_back(Told::Ended(job));
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
