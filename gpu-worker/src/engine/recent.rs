//! The requests that an engine has and had lately: everything but their text.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use homelab_common::clock::Clock;
use jiff::Timestamp;
use serde::Serialize;
use tokio::time::Instant;

/// How many that have ended are remembered.
const ENDED_MAX: usize = 16;

/// One request, without a word of what it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Request {
    /// What of the engine was used: the path of its API.
    pub path: &'static str,
    /// The job, or nothing.
    pub job: String,
    /// Number of the attempt.
    pub attempt: u32,
    /// When it was sent to the engine.
    pub began_at: Timestamp,
    /// Size of what was sent, in bytes.
    pub request_bytes: usize,
    /// Pieces of the answer that came.
    pub pieces: u64,
    /// Milliseconds until its end, or until now.
    pub elapsed_ms: u64,
    /// Milliseconds until the first piece; `None` when none came.
    pub first_piece_ms: Option<u64>,
    /// `running`, `complete`, `left by its caller`, or why it broke off.
    pub outcome: String,
}

/// The requests of one engine, over all runs of its process.
#[derive(Debug)]
pub struct Recent {
    clock: Arc<dyn Clock>,
    log: Mutex<Log>,
}

#[derive(Debug, Default)]
struct Log {
    next: u64,
    running: BTreeMap<u64, (Request, Instant)>,
    ended: VecDeque<Request>,
}

/// A request that is being answered; dropped, its caller has left.
#[derive(Debug)]
pub struct Entry {
    recent: Arc<Recent>,
    number: u64,
}

impl Recent {
    /// Nothing yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, log: Mutex::default() }
    }

    /// Takes note of a request.
    pub fn begin(
        self: &Arc<Self>,
        path: &'static str,
        job: &str,
        attempt: u32,
        request_bytes: usize,
    ) -> Entry {
        let request = Request {
            path,
            job: job.to_owned(),
            attempt,
            began_at: self.clock.now(),
            request_bytes,
            pieces: 0,
            elapsed_ms: 0,
            first_piece_ms: None,
            outcome: "running".to_owned(),
        };
        let mut log = self.log();
        let number = log.next;
        log.next += 1;
        log.running.insert(number, (request, Instant::now()));
        Entry { recent: Arc::clone(self), number }
    }

    /// Those that ended lately, oldest first, and then those that run.
    pub fn all(&self) -> Vec<Request> {
        let log = self.log();
        let running = log.running.values().map(|(request, began)| Request {
            elapsed_ms: millis(began.elapsed()),
            ..request.clone()
        });
        log.ended.iter().cloned().chain(running).collect()
    }

    /// The jobs of those that run, oldest first.
    pub fn jobs(&self) -> Vec<String> {
        let log = self.log();
        let jobs = log.running.values().map(|(request, _)| request.job.clone());
        jobs.filter(|job| !job.is_empty()).collect()
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, number: u64, outcome: &str) {
        let mut log = self.log();
        let Some((mut request, began)) = log.running.remove(&number) else { return };
        request.elapsed_ms = millis(began.elapsed());
        outcome.clone_into(&mut request.outcome);
        if log.ended.len() >= ENDED_MAX {
            log.ended.pop_front();
        }
        log.ended.push_back(request);
    }
}

impl Entry {
    /// A piece of the answer has come.
    pub fn piece(&self) {
        let mut log = self.recent.log();
        if let Some((request, began)) = log.running.get_mut(&self.number) {
            request.pieces += 1;
            request.first_piece_ms.get_or_insert_with(|| millis(began.elapsed()));
        }
    }

    /// It has ended.
    pub fn end(&self, outcome: &str) {
        self.recent.end(self.number, outcome);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.recent.end(self.number, "left by its caller");
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use homelab_common::clock::SystemClock;

    use super::*;

    fn recent() -> Arc<Recent> {
        Arc::new(Recent::new(Arc::new(SystemClock)))
    }

    fn outcomes(recent: &Recent) -> Vec<(String, u64, String)> {
        let all = recent.all().into_iter();
        all.map(|request| (request.job, request.pieces, request.outcome)).collect()
    }

    #[test]
    fn requests_are_known_by_job_and_how_they_ended() {
        let recent = recent();
        let first = recent.begin("/v1/chat/completions", "a", 1, 10);
        let second = recent.begin("/v1/chat/completions", "b", 1, 10);
        let _third = recent.begin("/v1/chat/completions", "", 0, 10);
        assert_eq!(recent.jobs(), ["a", "b"]);
        second.piece();
        second.end("complete");
        drop(second);
        drop(first);
        let row = |job: &str, pieces, outcome: &str| (job.to_owned(), pieces, outcome.to_owned());
        let expected =
            [row("b", 1, "complete"), row("a", 0, "left by its caller"), row("", 0, "running")];
        assert_eq!(outcomes(&recent), expected);
    }

    #[test]
    fn only_the_last_ones_are_remembered() {
        let recent = recent();
        for number in 0..40 {
            drop(recent.begin("/v1/embeddings", &number.to_string(), 1, 0));
        }
        let all = outcomes(&recent);
        assert_eq!((all.len(), all[0].0.as_str()), (ENDED_MAX, "24"));
    }
}
