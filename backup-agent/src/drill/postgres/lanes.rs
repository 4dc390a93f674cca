//! Several psql sessions that restore one dump together.
//!
//! Each is fed through a bounded queue by a thread of its own and says, by answering a
//! mark, that it has done all that it was given. Whatever one of them fails at ends all.

use std::{
    io::{self, BufRead, BufReader, Write},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
};

use homelab_common::exec::{Killer, Streaming};

use super::script::{Copy, Kind, Stage};
use crate::source::postgres::fault::Fault;

/// What a session is given at a time.
const PIECE_BYTES: usize = 128 << 10;

/// Pieces that wait for a session. A repository is read in pieces of up to 1 MiB.
const PIECES_MAX: usize = 8;

/// A scratch database need not survive a crash of its server, and indexes are built
/// with more memory than a session usually gets.
const SETTINGS: &str = "SET synchronous_commit = off; SET maintenance_work_mem = '128MB';\n";

/// The sessions; see the module.
pub(super) struct Lanes {
    lanes: Vec<Lane>,
    shared: Arc<Shared>,
    /// What was restored last.
    group: Kind,
    /// Whose turn it is.
    current: usize,
    /// The rows that are being given are in a transaction of their own.
    frozen: bool,
}

struct Lane {
    queue: Option<SyncSender<Order>>,
    piece: Vec<u8>,
    /// Bytes in the queue.
    queued: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

enum Order {
    Bytes(Vec<u8>),
    Mark,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Marks that each session has not answered yet.
    open: Vec<usize>,
    killers: Vec<Killer>,
    /// The first failure, which is the cause of the others.
    failed: Option<Fault>,
}

impl Lanes {
    /// Takes psql sessions that wait for statements. `mark` is a text that no dump
    /// holds.
    pub(super) fn start(sessions: Vec<Streaming>, mark: &str) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let mut lanes = Self {
            lanes: Vec::new(),
            shared: Arc::clone(&shared),
            group: Kind::Prologue,
            current: 0,
            frozen: false,
        };
        for session in sessions {
            let mut state = shared.lock();
            state.open.push(0);
            state.killers.push(session.killer());
            drop(state);
            let number = lanes.lanes.len();
            lanes.lanes.push(Lane::start(number, session, &shared, mark)?);
        }
        lanes.give_all(SETTINGS.as_bytes())?;
        Ok(lanes)
    }

    /// Waits until all is restored. No marks: where a dump ends inside of a quote, only
    /// the end of the input ends it.
    pub(super) fn finish(mut self) -> Result<(), Fault> {
        // A failure shows below.
        let _passed_on = self.lanes.iter_mut().try_for_each(Lane::pass_on);
        self.close();
        let mut state = self.shared.lock();
        match state.failed.take() {
            Some(fault) => Err(fault),
            None if state.open.iter().any(|open| *open > 0) => {
                Err(Fault::Pipe(io::ErrorKind::UnexpectedEof.into()))
            }
            None => Ok(()),
        }
    }

    /// Ends the sessions, by the end of what they read.
    fn close(&mut self) {
        self.lanes.iter_mut().for_each(|lane| lane.queue = None);
        for thread in self.lanes.iter_mut().flat_map(|lane| lane.threads.drain(..)) {
            // A panic in it has been told by its own message, and left a mark open.
            let _ended = thread.join();
        }
    }

    fn give_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.lanes.iter_mut().try_for_each(|lane| lane.give(bytes))
    }

    fn give(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.lanes.get_mut(self.current).map_or(Ok(()), |lane| lane.give(bytes))
    }

    fn mark(&mut self, number: usize) -> io::Result<()> {
        self.shared.lock().open[number] += 1;
        self.lanes[number].mark()
    }

    /// Waits until every session has done all that it was given.
    fn settle(&mut self) -> io::Result<()> {
        (0..self.lanes.len()).try_for_each(|number| self.mark(number))?;
        self.shared.wait_for(|open| open.iter().all(|open| *open == 0).then_some(()))
    }

    /// Begins what must not run beside what came before.
    fn begin(&mut self, group: Kind) -> io::Result<()> {
        if self.group != group {
            self.settle()?;
            self.group = group;
            self.current = 0;
        }
        Ok(())
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        // At its end a psql takes half of the rows for all of them: it must not get there.
        self.shared.lock().killers.iter().for_each(Killer::kill);
        self.close();
    }
}

impl Stage for Lanes {
    fn enter(&mut self, kind: Kind) -> io::Result<()> {
        match kind {
            Kind::Prologue => Ok(()),
            Kind::InOrder | Kind::Rows => self.begin(kind),
            // In order among its like is what the first session does in both.
            Kind::BesideRows if matches!(self.group, Kind::InOrder | Kind::Rows) => {
                self.current = 0;
                Ok(())
            }
            Kind::BesideRows => self.begin(Kind::InOrder),
            Kind::Index => {
                self.begin(kind)?;
                let idle = |open: &[usize]| open.iter().position(|open| *open == 0);
                self.current = self.shared.wait_for(idle)?;
                Ok(())
            }
        }
    }

    fn text(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.group {
            Kind::Prologue => self.give_all(bytes),
            Kind::Index => {
                self.give(bytes)?;
                self.mark(self.current)
            }
            Kind::InOrder | Kind::BesideRows | Kind::Rows => self.give(bytes),
        }
    }

    /// Tablespaces are places on the source's disks: here all lies in one.
    fn setting(&mut self, line: &[u8]) -> io::Result<()> {
        if line.starts_with(b"SET default_tablespace") { Ok(()) } else { self.give_all(line) }
    }

    /// A table that is emptied and filled in one transaction needs no look at who may
    /// see its rows, neither now nor when they are compared
    /// (postgresql.org/docs/current/sql-copy.html, `FREEZE`), and with
    /// `wal_level = minimal` no log.
    fn copy(&mut self, copy: Copy) -> io::Result<()> {
        let least = self.lanes.iter().enumerate().min_by_key(|(_, lane)| lane.load());
        self.current = least.map_or(0, |(number, _)| number);
        let begin = copy.statement.strip_suffix(b" FROM stdin;");
        let (Some(table), Some(begin)) = (copy.made_here, begin) else {
            self.frozen = false;
            return self.give(&copy.statement);
        };
        self.frozen = true;
        self.give(format!("BEGIN;\nTRUNCATE TABLE ONLY {table};\n").as_bytes())?;
        self.give(begin)?;
        self.give(b" FROM stdin WITH (FREEZE);")
    }

    fn rows(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.give(bytes)
    }

    fn end_of_rows(&mut self) -> io::Result<()> {
        let end = if self.frozen { "\\.\nCOMMIT;\n" } else { "\\.\n" };
        self.frozen = false;
        self.give(end.as_bytes())
    }
}

impl Lane {
    fn start(
        number: usize,
        mut session: Streaming,
        shared: &Arc<Shared>,
        mark: &str,
    ) -> io::Result<Self> {
        let (queue, orders) = sync_channel(PIECES_MAX);
        let queued = Arc::new(AtomicUsize::new(0));
        let input = session.take_stdin().unwrap_or_else(|| Box::new(io::sink()));
        let feeder = Feeder { input, orders, queued: Arc::clone(&queued), mark: mark.to_owned() };
        let (shared, mark) = (Arc::clone(shared), mark.to_owned());
        let threads = vec![
            thread::Builder::new().name("drill-feed".into()).spawn(move || feeder.run())?,
            thread::Builder::new()
                .name("drill-answers".into())
                .spawn(move || shared.listen(number, session, mark.as_bytes()))?,
        ];
        Ok(Self { queue: Some(queue), piece: Vec::new(), queued, threads })
    }

    fn load(&self) -> usize {
        self.piece.len() + self.queued.load(Ordering::Relaxed)
    }

    fn give(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES { self.pass_on() } else { Ok(()) }
    }

    fn pass_on(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE_BYTES));
        self.queued.fetch_add(piece.len(), Ordering::Relaxed);
        self.order(Order::Bytes(piece))
    }

    fn mark(&mut self) -> io::Result<()> {
        self.pass_on()?;
        self.order(Order::Mark)
    }

    fn order(&self, order: Order) -> io::Result<()> {
        let sent = self.queue.as_ref().is_some_and(|queue| queue.send(order).is_ok());
        if sent { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) }
    }
}

/// Writes to a session. It ends when there is nothing more, or the session is gone;
/// why it is gone is heard by whoever listens.
struct Feeder {
    input: Box<dyn Write + Send>,
    orders: Receiver<Order>,
    queued: Arc<AtomicUsize>,
    mark: String,
}

impl Feeder {
    fn run(mut self) {
        while let Ok(order) = self.orders.recv() {
            let written = match order {
                Order::Bytes(bytes) => {
                    self.queued.fetch_sub(bytes.len(), Ordering::Relaxed);
                    self.input.write_all(&bytes)
                }
                // A statement, since `\echo` is refused while `\restrict` holds.
                Order::Mark => writeln!(self.input, "\nSELECT '{}';", self.mark)
                    .and_then(|()| self.input.flush()),
            };
            if written.is_err() {
                return;
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the open marks are as wanted, or a session has failed.
    fn wait_for<T>(&self, wanted: impl Fn(&[usize]) -> Option<T>) -> io::Result<T> {
        let mut state = self.lock();
        loop {
            if state.failed.is_some() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if let Some(found) = wanted(&state.open) {
                return Ok(found);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Reads what a session answers, to its end.
    fn listen(&self, number: usize, session: Streaming, mark: &[u8]) {
        let mut output = BufReader::new(session);
        let mut line = Vec::new();
        // A failed end is an error of the last read, and told in full by `finish`.
        while output.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            if line.trim_ascii() == mark {
                let mut state = self.lock();
                state.open[number] = state.open[number].saturating_sub(1);
                self.changed.notify_all();
            }
            line.clear();
        }
        let ended = output.into_inner().finish();
        let mut state = self.lock();
        let fault = match ended {
            Err(error) => Some(Fault::of(error)),
            // It has left although it was asked something.
            Ok(_) if state.open[number] > 0 => {
                Some(Fault::Pipe(io::ErrorKind::UnexpectedEof.into()))
            }
            Ok(_) => None,
        };
        if let Some(fault) = fault {
            state.failed.get_or_insert(fault);
            state.killers.iter().for_each(Killer::kill);
            self.changed.notify_all();
        }
    }
}
