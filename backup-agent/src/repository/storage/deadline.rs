//! Deadlines on every touch of a repository's place.
//!
//! A network mount whose server is gone keeps system calls waiting in the kernel,
//! where no signal reaches them. So they run on a few threads of the repository's
//! own, and whoever asked waits no longer than the deadline. A thread that hangs is
//! left alone; while it does, every further question is refused at once with what
//! hangs, and none is put behind it. When the call comes back, the repository does.

use std::{
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::{Inner, Listed, Range, Storage};
use crate::repository::probe::Grade;

/// Threads of one repository. All of them may hang; then that is all.
const THREADS_MAX: usize = 4;

/// Slower than this, a place is no longer told apart from one that hangs.
const BYTES_A_SECOND_MIN: u64 = 128 * 1024;

/// How long a thread waits for work before it ends.
const IDLE_MAX: Duration = Duration::from_secs(5);

/// How often a full queue is tried again.
const QUEUE_POLL: Duration = Duration::from_millis(5);

/// A call that did not come back in time.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "{what} hangs since {} s; look at the NAS and the network, then at `mount`; the repository \
     is used again as soon as the call comes back", elapsed.as_secs()
)]
pub struct Hung {
    /// What was asked, for people.
    pub what: String,
    /// For how long by now.
    pub elapsed: Duration,
}

impl Hung {
    /// Whether this is behind an error.
    #[must_use]
    pub fn behind<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(hung) = error.downcast_ref() {
                return Some(hung);
            }
            // An `io::Error` shows the cause of its payload, not the payload.
            let payload = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            if let Some(hung) = payload.and_then(|payload| payload.downcast_ref()) {
                return Some(hung);
            }
            next = error.source();
        }
        None
    }
}

impl From<Hung> for io::Error {
    fn from(hung: Hung) -> Self {
        Self::new(io::ErrorKind::TimedOut, hung)
    }
}

/// The threads of one repository; clones share them.
#[derive(Clone)]
pub struct Threads(Arc<Shared>);

struct Shared {
    name: String,
    deadline: Duration,
    state: Mutex<State>,
    jobs: mpsc::SyncSender<Job>,
    queue: Mutex<mpsc::Receiver<Job>>,
}

#[derive(Default)]
struct State {
    threads: usize,
    /// Jobs that are queued or running.
    outstanding: usize,
    /// What hangs, with its beginning; the oldest first.
    hanging: Vec<(u64, String, Instant)>,
    next: u64,
}

type Job = Box<dyn FnOnce() + Send>;

impl Threads {
    /// Threads named after the repository; `deadline` is for calls without data.
    #[must_use]
    pub fn new(name: &str, deadline: Duration) -> Self {
        let (jobs, queue) = mpsc::sync_channel(THREADS_MAX);
        Self(Arc::new(Shared {
            name: format!("io-{name}"),
            deadline,
            state: Mutex::default(),
            jobs,
            queue: Mutex::new(queue),
        }))
    }

    /// Does `work` on one of the threads; `bytes` are what it moves. `what` says what
    /// is done, as in "reading `x` in /mnt/nas".
    ///
    /// # Errors
    ///
    /// It did not come back in time, or something before it has not yet.
    pub fn call<T: Send + 'static>(
        &self,
        what: impl FnOnce() -> String,
        bytes: u64,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Hung> {
        self.refuse_while_hanging()?;
        let shared = &self.0;
        let deadline = shared.deadline + Duration::from_secs(bytes / BYTES_A_SECOND_MIN);
        let began = Instant::now();
        let (answer, answered) = mpsc::sync_channel(1);
        let ticket = {
            let mut state = shared.state();
            state.next += 1;
            state.next
        };
        let ending = Arc::clone(shared);
        let job = Box::new(move || {
            let done = work();
            // Whoever asked may have gone away.
            drop(answer.send(done));
            let mut state = ending.state();
            state.outstanding -= 1;
            state.hanging.retain(|(hanging, ..)| *hanging != ticket);
        });
        let hung = |what: String| Hung { what, elapsed: began.elapsed() };
        if !self.hand_over(job, deadline) {
            return Err(hung(what()));
        }
        match answered.recv_timeout(deadline.saturating_sub(began.elapsed())) {
            Ok(done) => Ok(done),
            Err(_) => {
                let what = what();
                let mut state = shared.state();
                // It may have come back just now, and has then nothing to take away later.
                if let Ok(done) = answered.try_recv() {
                    return Ok(done);
                }
                state.hanging.push((ticket, what.clone(), began));
                drop(state);
                Err(hung(what))
            }
        }
    }

    /// What hangs at the moment, if anything does.
    ///
    /// # Errors
    ///
    /// The oldest call that has not come back.
    pub fn refuse_while_hanging(&self) -> Result<(), Hung> {
        match self.0.state().hanging.first() {
            Some((_, what, began)) => Err(Hung { what: what.clone(), elapsed: began.elapsed() }),
            None => Ok(()),
        }
    }

    /// Gives the job to a thread. All of them may be busy with slow work; the queue
    /// is short, and a job that found no place in time was never begun.
    fn hand_over(&self, mut job: Job, deadline: Duration) -> bool {
        let began = Instant::now();
        self.expect_one_more();
        loop {
            match self.0.jobs.try_send(job) {
                Ok(()) => return true,
                Err(mpsc::TrySendError::Full(back)) if began.elapsed() < deadline => job = back,
                Err(_) => {
                    self.0.state().outstanding -= 1;
                    return false;
                }
            }
            thread::sleep(QUEUE_POLL);
        }
    }

    fn expect_one_more(&self) {
        let mut state = self.0.state();
        state.outstanding += 1;
        if state.outstanding <= state.threads || state.threads >= THREADS_MAX {
            return;
        }
        let shared = Arc::clone(&self.0);
        let work = move || while shared.work_once() {};
        if thread::Builder::new().name(self.0.name.clone()).spawn(work).is_ok() {
            state.threads += 1;
        }
    }
}

impl Shared {
    /// Does the next job; false when this thread is no longer needed.
    fn work_once(&self) -> bool {
        let next = {
            let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.recv_timeout(IDLE_MAX)
        };
        if let Ok(job) = next {
            job();
            return true;
        }
        let mut state = self.state();
        if state.outstanding >= state.threads {
            return true;
        }
        state.threads -= 1;
        false
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Threads").field("name", &self.0.name).finish_non_exhaustive()
    }
}

/// A storage whose calls all come back in time.
#[derive(Debug)]
pub struct Timed {
    inner: Inner,
    threads: Threads,
}

impl Timed {
    /// Lets `threads` do all of `inner`'s work.
    #[must_use]
    pub fn new(inner: Inner, threads: Threads) -> Self {
        Self { inner, threads }
    }

    fn call<T: Send + 'static>(
        &self,
        (doing, path): (&str, &str),
        bytes: u64,
        work: impl FnOnce(&dyn Storage, &str) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (inner, owned) = (Arc::clone(&self.inner), path.to_owned());
        let what = || match path {
            "" => format!("{doing} {}", self.inner.location()),
            _ => format!("{doing} `{path}` in {}", self.inner.location()),
        };
        self.threads.call(what, bytes, move || work(inner.as_ref(), &owned))?
    }
}

/// What a file may have that is read whole, when nobody knows.
const FILE_BYTES: u64 = 4 << 20;

/// What a file may have that was just written: packs have 16 MiB.
const WRITTEN_BYTES: u64 = 16 << 20;

impl Storage for Timed {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn list(&self, folder: &str) -> io::Result<Vec<Listed>> {
        self.call(("listing", folder), 0, |inner, folder| inner.list(folder))
    }

    fn bytes_of(&self, path: &str) -> io::Result<u64> {
        self.call(("measuring", path), 0, |inner, path| inner.bytes_of(path))
    }

    fn read(&self, path: &str) -> io::Result<Bytes> {
        self.call(("reading", path), FILE_BYTES, |inner, path| inner.read(path))
    }

    fn read_range(&self, path: &str, range: Range) -> io::Result<Bytes> {
        let read = move |inner: &dyn Storage, path: &str| inner.read_range(path, range);
        self.call(("reading", path), range.length as u64, read)
    }

    fn read_back(&self, path: &str) -> io::Result<Bytes> {
        self.call(("reading back", path), WRITTEN_BYTES, |inner, path| inner.read_back(path))
    }

    fn write(&self, path: &str, content: Bytes) -> io::Result<()> {
        let bytes = content.len() as u64;
        self.call(("writing", path), bytes, move |inner, path| inner.write(path, content))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.call(("removing", path), 0, |inner, path| inner.remove(path))
    }

    fn make_folder(&self, path: &str) -> io::Result<()> {
        self.call(("making the folder", path), 0, |inner, path| inner.make_folder(path))
    }

    fn probe(&self) -> io::Result<Grade> {
        self.call(("probing", ""), 0, |inner, _| inner.probe())
    }

    fn available_bytes(&self) -> io::Result<Option<u64>> {
        self.call(("measuring the room in", ""), 0, |inner, _| inner.available_bytes())
    }

    fn is_writable(&self) -> io::Result<bool> {
        self.call(("looking whether one may write in", ""), 0, |inner, _| inner.is_writable())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_hangs_is_given_up_and_nothing_is_put_behind_it() {
        let threads = Threads::new("nas", Duration::from_millis(50));
        let (go, gone) = mpsc::channel::<()>();
        let hung = threads
            .call(|| "reading `x`".to_owned(), 0, move || gone.recv().is_ok())
            .expect_err("it hangs");
        assert_eq!(hung.what, "reading `x`");
        let began = Instant::now();
        let refused = threads.call(|| "listing".to_owned(), 0, || ()).expect_err("refused");
        assert_eq!(refused.what, "reading `x`");
        assert!(began.elapsed() < Duration::from_millis(50), "it waited again");
        drop(go);
        let deadline = Instant::now() + Duration::from_secs(10);
        while threads.refuse_while_hanging().is_err() {
            assert!(Instant::now() < deadline, "the call came back, the repository did not");
            thread::yield_now();
        }
        assert_eq!(threads.call(|| "listing".to_owned(), 0, || 7).expect("an answer"), 7);
    }

    #[test]
    fn an_error_of_a_file_says_what_hangs() {
        let hung = Hung { what: "writing `x`".to_owned(), elapsed: Duration::from_secs(60) };
        let error = io::Error::from(hung);
        assert_eq!(Hung::behind(&error).expect("it hangs").what, "writing `x`");
        assert!(error.to_string().contains("hangs since 60 s"), "{error}");
    }
}
