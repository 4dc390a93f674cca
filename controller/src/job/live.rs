//! The text of a running job, on its way to those who watch.
//!
//! Pieces go to watchers as they come and to the store in small batches. A watcher that joins late,
//! or falls behind, reads what it misses from the store; what is not stored yet is kept here, so
//! that store, tail and channel leave no gap.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use homelab_domain::{
    ids::JobId,
    job::{Job, JobEvent},
};
use homelab_store::Piece;
use tokio::sync::broadcast;

/// Signals that a watcher may be behind before it has to read from the store.
const SIGNALS_MAX: usize = 512;

/// Characters of the newest text that are kept for the dashboard.
const TAIL_CHARS_MAX: usize = 160;

/// What watchers of a job are told.
#[derive(Clone, Debug)]
pub enum Signal {
    /// Its state changed.
    State(Arc<JobEvent>),
    /// An attempt begins, and with it the text.
    Begun(u32),
    /// More text.
    Piece(Arc<Piece>),
    /// It has ended; the last signal.
    Ended(Arc<Job>),
}

/// One job that somebody watches or runs.
#[derive(Debug)]
pub struct Live {
    signals: broadcast::Sender<Signal>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Whose text this is.
    attempt: u32,
    unstored: VecDeque<Arc<Piece>>,
    pieces: u32,
    tail: String,
    ended: Option<Arc<Job>>,
    clients: u32,
}

/// What a watcher sees at the moment it joins, and the signals from then on.
#[derive(Debug)]
pub struct Joined {
    /// The attempt that the pieces are of; 0 before the first.
    pub attempt: u32,
    /// Pieces that may not be in the store yet.
    pub unstored: Vec<Arc<Piece>>,
    /// How it ended, if it has.
    pub ended: Option<Arc<Job>>,
    /// Everything later.
    pub signals: broadcast::Receiver<Signal>,
}

/// What the dashboard shows of a running job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Glimpse {
    /// Pieces of text so far.
    pub pieces: u32,
    /// End of the text so far.
    pub tail: String,
}

impl Default for Live {
    fn default() -> Self {
        let (signals, _) = broadcast::channel(SIGNALS_MAX);
        Self { signals, state: Mutex::default() }
    }
}

impl Live {
    /// Joins the watchers.
    #[must_use]
    pub fn join(&self) -> Joined {
        let state = self.lock();
        Joined {
            attempt: state.attempt,
            unstored: state.unstored.iter().cloned().collect(),
            ended: state.ended.clone(),
            // Under the lock: no piece falls between the tail and the channel.
            signals: self.signals.subscribe(),
        }
    }

    /// What the dashboard shows.
    #[must_use]
    pub fn glimpse(&self) -> Glimpse {
        let state = self.lock();
        Glimpse { pieces: state.pieces, tail: state.tail.clone() }
    }

    /// A client of the gateway waits for this job.
    pub fn client_joined(&self) {
        self.lock().clients += 1;
    }

    /// A client has gone; true when it was the last.
    pub fn client_left(&self) -> bool {
        let mut state = self.lock();
        state.clients = state.clients.saturating_sub(1);
        state.clients == 0
    }

    /// A new attempt writes from the start.
    pub(super) fn begin(&self, attempt: u32) {
        let mut state = self.lock();
        state.attempt = attempt;
        state.unstored.clear();
        state.tail.clear();
        state.pieces = 0;
        self.send(Signal::Begun(attempt));
    }

    /// The next piece of an attempt. One that is late, because another attempt writes by now, is nobody's.
    pub(super) fn piece(&self, attempt: u32, piece: Piece) {
        let piece = Arc::new(piece);
        let mut state = self.lock();
        if state.attempt != attempt {
            return;
        }
        state.pieces += 1;
        remember(&mut state.tail, &piece.content);
        state.unstored.push_back(Arc::clone(&piece));
        self.send(Signal::Piece(piece));
    }

    pub(super) fn unstored_count(&self) -> usize {
        self.lock().unstored.len()
    }

    pub(super) fn unstored(&self) -> Vec<Arc<Piece>> {
        self.lock().unstored.iter().cloned().collect()
    }

    /// The first `count` pieces are in the store now.
    pub(super) fn stored(&self, count: usize) {
        let mut state = self.lock();
        let count = count.min(state.unstored.len());
        state.unstored.drain(..count);
    }

    pub(super) fn state(&self, event: JobEvent) {
        self.send(Signal::State(Arc::new(event)));
    }

    pub(super) fn end(&self, job: Arc<Job>) {
        let mut state = self.lock();
        if state.ended.is_none() {
            state.ended = Some(Arc::clone(&job));
            state.unstored.clear();
            self.send(Signal::Ended(job));
        }
    }

    fn send(&self, signal: Signal) {
        // Nobody watching is no error.
        let _watchers = self.signals.send(signal);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The jobs that somebody watches or runs, by id.
#[derive(Debug, Default)]
pub struct Lives {
    by_id: Mutex<HashMap<JobId, Arc<Live>>>,
}

impl Lives {
    /// The one of this job, made if need be.
    pub fn enter(&self, id: JobId) -> Arc<Live> {
        Arc::clone(self.lock().entry(id).or_default())
    }

    /// The one of this job, if there is one.
    #[must_use]
    pub fn get(&self, id: JobId) -> Option<Arc<Live>> {
        self.lock().get(&id).cloned()
    }

    /// The job has ended: watchers are told, and it is forgotten here.
    pub fn end(&self, job: &Arc<Job>) {
        let live = self.lock().remove(&job.id());
        if let Some(live) = live {
            live.end(Arc::clone(job));
        }
    }

    /// Forgets a job when `leaver` was the last who ran or watched it: everybody else would hold it too.
    pub fn leave(&self, id: JobId, leaver: &Arc<Live>) {
        const THIS_MAP_AND_LEAVER: usize = 2;
        let mut by_id = self.lock();
        let is_last = |live: &Arc<Live>| {
            Arc::ptr_eq(live, leaver) && Arc::strong_count(live) <= THIS_MAP_AND_LEAVER
        };
        if by_id.get(&id).is_some_and(is_last) {
            by_id.remove(&id);
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, Arc<Live>>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn remember(tail: &mut String, more: &str) {
    tail.push_str(more);
    let surplus = tail.chars().count().saturating_sub(TAIL_CHARS_MAX);
    if surplus > 0 {
        *tail = tail.chars().skip(surplus).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(index: u32, content: &str) -> Piece {
        Piece {
            index,
            content: content.to_owned(),
            reasoning: String::new(),
            openai_chunk: Vec::new(),
        }
    }

    #[test]
    fn a_late_piece_of_an_attempt_that_was_given_up_is_not_taken_for_the_next_ones() {
        let live = Live::default();
        live.begin(1);
        live.piece(1, piece(0, "old"));
        live.begin(2);
        live.piece(1, piece(1, "late"));
        live.piece(2, piece(0, "new"));
        let texts: Vec<_> = live.unstored().iter().map(|piece| piece.content.clone()).collect();
        assert_eq!(texts, ["new"]);
        assert_eq!(live.join().attempt, 2);
    }
}
