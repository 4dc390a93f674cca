//! A scripted engine for tests: llama-server's pages over real sockets, and every
//! way to fail that a real one has.
//!
//! It stands in for the program ([`Exec`]) and serves on the port that the worker's
//! command line gives it. Only one of its processes serves at a time.

mod answer;
mod connection;

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use homelab_common::{
    exec::{
        Ended, Exec, ExecError, Output, Program, Streaming, Supervised,
        fake::{Answer, FakeExec},
    },
    lifecycle::Tasks,
};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use answer::Step;

/// The program's name in command lines for it.
pub const PROGRAM: &str = "/opt/fake/fake-engine";

/// SIGKILL, as a crash shows it.
const KILLED: Ended = Ended { code: None, signal: Some(9) };

/// How one start of the process goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// It is ready at once.
    Ready,
    /// It answers so many questions with 503 before it is ready.
    Loading(u32),
    /// It never listens.
    Deaf,
    /// It ends at once.
    Ends(Ended),
}

/// An engine that does what a test tells it. Clones are the same engine.
#[derive(Debug, Clone)]
pub struct FakeEngine(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    exec: FakeExec,
    tasks: Tasks,
    script: Mutex<Script>,
    open_answers: AtomicU32,
    pieces_sent: AtomicU64,
    loading: AtomicU32,
    has_slots_page: AtomicBool,
}

#[derive(Debug, Default)]
struct Script {
    starts: VecDeque<Start>,
    answers: VecDeque<Vec<Step>>,
    requests: Vec<Value>,
    running: CancellationToken,
}

impl FakeEngine {
    /// An engine that starts well and answers `Hello there`; its connections are
    /// tasks of `tasks`.
    pub fn new(tasks: Tasks) -> Self {
        Self(Arc::new(Inner {
            exec: FakeExec::default().on("fake-engine", Answer::stdout("loading the tensors\n")),
            tasks,
            script: Mutex::default(),
            open_answers: AtomicU32::new(0),
            pieces_sent: AtomicU64::new(0),
            loading: AtomicU32::new(0),
            has_slots_page: AtomicBool::new(true),
        }))
    }

    /// Sets how the next starts go, one after the other.
    #[must_use]
    pub fn starting(self, starts: impl IntoIterator<Item = Start>) -> Self {
        self.script().starts.extend(starts);
        self
    }

    /// Sets the answer to the next request that has none set yet.
    #[must_use]
    pub fn answering(self, steps: impl IntoIterator<Item = Step>) -> Self {
        self.script().answers.push_back(steps.into_iter().collect());
        self
    }

    /// Sets what it writes to its log from now on.
    #[must_use]
    pub fn saying(self, log: &str) -> Self {
        drop(self.0.exec.clone().on("fake-engine", Answer::stdout(log)));
        self
    }

    /// Sets its answer to `--list-devices`.
    #[must_use]
    pub fn listing(self, devices: &str) -> Self {
        let answer = Answer::stdout(devices);
        drop(self.0.exec.clone().on_args("fake-engine", &["--list-devices"], [answer]));
        self
    }

    /// The command lines of all starts and questions so far, oldest first.
    pub fn command_lines(&self) -> Vec<String> {
        self.0.exec.calls().into_iter().map(|call| call.argv.join(" ")).collect()
    }

    /// Takes the page `/slots` away, as other engines do not have it.
    #[must_use]
    pub fn without_slots_page(self) -> Self {
        self.0.has_slots_page.store(false, Ordering::Relaxed);
        self
    }

    /// Kills the process: its connections break and its end is seen.
    pub fn crash(&self) {
        self.end(KILLED);
    }

    /// The bodies of all requests so far, oldest first.
    pub fn requests(&self) -> Vec<Value> {
        self.script().requests.clone()
    }

    /// How many answers are being written.
    pub fn open_answers(&self) -> u32 {
        self.0.open_answers.load(Ordering::Relaxed)
    }

    fn end(&self, how: Ended) {
        self.script().running.cancel();
        self.0.exec.end("fake-engine", how);
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.0.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(&self, program: &Program) {
        let (start, running) = {
            let mut script = self.script();
            script.running.cancel();
            script.running = CancellationToken::new();
            (script.starts.pop_front().unwrap_or(Start::Ready), script.running.clone())
        };
        match start {
            Start::Deaf => {}
            Start::Ends(how) => self.end(how),
            Start::Ready => self.serve(program, 0, running),
            Start::Loading(questions) => self.serve(program, questions, running),
        }
    }

    fn serve(&self, program: &Program, loading: u32, running: CancellationToken) {
        self.0.loading.store(loading, Ordering::Relaxed);
        let engine = self.clone();
        let argv = program.argv();
        let port = argument(argv.words(), "--port").and_then(|port| port.parse().ok());
        let key_file = argument(argv.words(), "--api-key-file");
        let key = key_file.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
        let slots = argument(argv.words(), "-np").and_then(|slots| slots.parse().ok());
        let run = connection::Run {
            engine: self.clone(),
            key: key.trim().to_owned(),
            slots: slots.unwrap_or(1),
        };
        let address = SocketAddr::from(([127, 0, 0, 1], port.unwrap_or(0)));
        self.0.tasks.spawn(async move {
            tokio::select! {
                () = engine.accept(address, run) => {}
                () = running.cancelled() => {}
            }
        });
    }

    async fn accept(&self, address: SocketAddr, run: connection::Run) {
        let Ok(listener) = TcpListener::bind(address).await else {
            return self.end(Ended { code: Some(1), signal: None });
        };
        let running = self.script().running.clone();
        while let Ok((socket, _)) = listener.accept().await {
            let (run, running) = (run.clone(), running.clone());
            self.0.tasks.spawn(async move {
                tokio::select! {
                    () = run.serve(socket) => {}
                    () = running.cancelled() => {}
                }
            });
        }
    }
}

#[async_trait]
impl Exec for FakeEngine {
    async fn run(&self, program: Program) -> Result<Output, ExecError> {
        self.0.exec.run(program).await
    }

    fn stream(&self, program: Program) -> Result<Streaming, ExecError> {
        self.0.exec.stream(program)
    }

    fn supervise(&self, program: Program) -> Result<Supervised, ExecError> {
        let supervised = self.0.exec.supervise(program.clone())?;
        self.start(&program);
        Ok(supervised)
    }
}

fn argument(words: &[String], flag: &str) -> Option<String> {
    words.iter().skip_while(|word| *word != flag).nth(1).cloned()
}
