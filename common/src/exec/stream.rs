//! Reading a program's output as it comes, in blocking code.

use std::{
    fmt,
    io::{self, Read, Write},
    process::{Child, ChildStderr, ChildStdin, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        signal::Signal,
        wait::{Id, WaitPidFlag, waitid},
    },
    unistd::Pid,
};

use super::{Argv, ExecError, Finished, Program, group::Group, output::Tail, program::Stdin};
use crate::{error_chain::Chain, lock};

/// How long a killed program gets to be gone. One that hangs in the kernel, on a
/// dead network mount, takes longer; it is then left to the reaping thread.
const KILL_WAIT: Duration = Duration::from_secs(5);

/// How long the rest of standard error is waited for after the end.
const STDERR_WAIT: Duration = Duration::from_secs(1);

/// The standard output of a running program.
///
/// The end of the output is reported only when the program has also ended as it
/// should; otherwise the last read fails. A reader that copies to the end can
/// therefore not take half an output for a whole one.
///
/// Dropping it kills the program.
pub struct Streaming {
    stdout: Option<Box<dyn Read + Send>>,
    stdin: Option<Box<dyn Write + Send>>,
    ending: Ending,
    result: Option<Result<Finished, ExecError>>,
    bytes_left: u64,
}

/// Ends a streamed program from another thread. Clones are the same handle.
#[derive(Clone, Debug)]
pub struct Killer(Arc<Shared>);

impl Killer {
    /// Kills the program and its children, if it still runs. The reader then
    /// fails with [`ExecError::Killed`].
    pub fn kill(&self) {
        self.0.kill(Cause::Request);
    }
}

impl Streaming {
    pub(super) fn scripted(
        program: &Program,
        stdout: Box<dyn Read + Send>,
        stdin: Option<Box<dyn Write + Send>>,
        end: Result<Finished, ExecError>,
    ) -> Self {
        let limits = Limits::of(program, Instant::now() + program.deadline);
        let shared = Arc::new(Shared::new(None));
        Self {
            stdout: Some(stdout),
            stdin,
            result: None,
            bytes_left: limits.output_bytes_max,
            ending: Ending { limits, shared, body: Body::Scripted(Some(end)) },
        }
    }

    /// A handle that ends the program from another thread.
    #[must_use]
    pub fn killer(&self) -> Killer {
        Killer(Arc::clone(&self.ending.shared))
    }

    /// The program's input, once, when it was started with
    /// [`Program::stdin_piped`]. Dropping it ends the input.
    pub fn take_stdin(&mut self) -> Option<Box<dyn Write + Send>> {
        self.stdin.take()
    }

    /// Waits for the end. Output that was not read is lost, and the program may
    /// fail because of that.
    ///
    /// # Errors
    ///
    /// It ended in a way that is not accepted, not in time, or was killed.
    pub fn finish(mut self) -> Result<Finished, ExecError> {
        self.settle();
        self.result.take().unwrap_or_else(|| self.ending.end())
    }

    fn settle(&mut self) -> &Result<Finished, ExecError> {
        self.stdout = None;
        self.stdin = None;
        self.result.get_or_insert_with(|| self.ending.end())
    }

    fn at_end(&mut self) -> io::Result<usize> {
        match self.settle() {
            Ok(_) => Ok(0),
            Err(error) => Err(io::Error::other(Chain(error).to_string())),
        }
    }
}

impl Read for Streaming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let Some(stdout) = &mut self.stdout else { return self.at_end() };
        let size = match stdout.read(buffer)? {
            0 => return self.at_end(),
            size => size,
        };
        let counted = u64::try_from(size).unwrap_or(u64::MAX);
        match self.bytes_left.checked_sub(counted) {
            Some(left) => {
                self.bytes_left = left;
                Ok(size)
            }
            None => {
                self.ending.shared.kill(Cause::TooLarge);
                self.at_end()
            }
        }
    }
}

impl fmt::Debug for Streaming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streaming").field("result", &self.result).finish_non_exhaustive()
    }
}

/// Why we killed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Deadline,
    Request,
    TooLarge,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// `None` once the group is gone, so that its number is not used again.
    group: Option<Group>,
    cause: Option<Cause>,
    status: Option<io::Result<ExitStatus>>,
}

impl Shared {
    fn new(group: Option<Group>) -> Self {
        Self {
            state: Mutex::new(State { group, cause: None, status: None }),
            changed: Condvar::new(),
        }
    }

    fn kill(&self, cause: Cause) {
        let mut state = lock(&self.state);
        if state.status.is_none() {
            if let Some(group) = &state.group {
                group.signal(Signal::SIGKILL);
            }
            state.cause.get_or_insert(cause);
        }
    }

    /// Waits until the child is reaped, at most until `deadline`. True when it was.
    fn wait_until(&self, deadline: Instant) -> bool {
        let wait = deadline.saturating_duration_since(Instant::now());
        let (state, _) = self
            .changed
            .wait_timeout_while(lock(&self.state), wait, |state| state.status.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        state.status.is_some()
    }
}

/// What is allowed, and what to say when it was not kept.
struct Limits {
    argv: Argv,
    accepted: Vec<i32>,
    after: Duration,
    deadline: Instant,
    output_bytes_max: u64,
}

impl Limits {
    fn of(program: &Program, deadline: Instant) -> Self {
        Self {
            argv: program.argv(),
            accepted: program.accepted.clone(),
            after: program.deadline,
            deadline,
            output_bytes_max: program.output_bytes_max.unwrap_or(u64::MAX),
        }
    }

    fn broken(&self, cause: Cause, stderr_tail: String) -> ExecError {
        let argv = self.argv.clone();
        match cause {
            Cause::Deadline => ExecError::Deadline { argv, after: self.after, stderr_tail },
            Cause::Request => ExecError::Killed { argv },
            Cause::TooLarge => {
                ExecError::OutputTooLarge { argv, limit_bytes: self.output_bytes_max }
            }
        }
    }
}

/// Waits for the end and judges it; kills when dropped.
struct Ending {
    limits: Limits,
    shared: Arc<Shared>,
    body: Body,
}

enum Body {
    Child { tail: Arc<Mutex<Tail>>, stderr_ended: mpsc::Receiver<()> },
    Scripted(Option<Result<Finished, ExecError>>),
}

impl Ending {
    fn end(&mut self) -> Result<Finished, ExecError> {
        let stderr_tail = match &mut self.body {
            Body::Child { tail, stderr_ended } => {
                if !self.shared.wait_until(self.limits.deadline) {
                    self.shared.kill(Cause::Deadline);
                    self.shared.wait_until(Instant::now() + KILL_WAIT);
                }
                // Fails as soon as the thread is done, which is what is waited for.
                let _done_or_late = stderr_ended.recv_timeout(STDERR_WAIT);
                lock(tail).text()
            }
            Body::Scripted(end) => {
                if let (None, Some(end)) = (lock(&self.shared.state).cause, end.take()) {
                    return end;
                }
                String::new()
            }
        };
        let mut state = lock(&self.shared.state);
        match (state.cause, state.status.take()) {
            (Some(cause), _) => Err(self.limits.broken(cause, stderr_tail)),
            (None, None) => Err(self.limits.broken(Cause::Deadline, stderr_tail)),
            (None, Some(Err(source))) => {
                Err(ExecError::Io { argv: self.limits.argv.clone(), source })
            }
            (None, Some(Ok(status))) => {
                let Limits { argv, accepted, .. } = &self.limits;
                let code = ExecError::judge(argv, status, accepted, &stderr_tail)?;
                Ok(Finished { stderr_tail, code })
            }
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.shared.kill(Cause::Request);
    }
}

pub(super) fn start(mut program: Program) -> Result<Streaming, ExecError> {
    let mut command = program.command();
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|source| program.not_started(source))?;
    let shared = Arc::new(Shared::new(Some(Group::of(child.id()))));
    let tail = Arc::new(Mutex::new(Tail::default()));
    let deadline = Instant::now() + program.deadline;
    let (stderr_open, stderr_ended) = mpsc::channel();
    let stdout = child.stdout.take();
    let mut stdin = child.stdin.take();
    let input = match std::mem::take(&mut program.stdin) {
        Stdin::Bytes(bytes) => stdin.take().map(|stdin| (stdin, bytes)),
        Stdin::Null | Stdin::Piped => None,
    };
    Helpers { shared: &shared, tail: &tail, deadline }
        .start(child, input, stderr_open)
        .inspect_err(|_| shared.kill(Cause::Request))
        .map_err(|source| ExecError::Spawn { argv: program.argv(), source })?;

    let limits = Limits::of(&program, deadline);
    Ok(Streaming {
        stdout: stdout.map(|stdout| Box::new(stdout) as _),
        stdin: stdin.map(|stdin| Box::new(stdin) as _),
        result: None,
        bytes_left: limits.output_bytes_max,
        ending: Ending { limits, shared, body: Body::Child { tail, stderr_ended } },
    })
}

/// The small threads behind a program: one reaps it, one watches the deadline,
/// one drains standard error, one writes its input. The reader blocks, so that
/// there is no better place for them.
struct Helpers<'s> {
    shared: &'s Arc<Shared>,
    tail: &'s Arc<Mutex<Tail>>,
    deadline: Instant,
}

impl Helpers<'_> {
    fn start(
        &self,
        mut child: Child,
        input: Option<(ChildStdin, Vec<u8>)>,
        stderr_open: mpsc::Sender<()>,
    ) -> io::Result<()> {
        let (stderr, tail) = (child.stderr.take(), Arc::clone(self.tail));
        thread("exec-stderr", move || {
            drain(stderr, &tail);
            drop(stderr_open);
        })?;
        let (shared, deadline) = (Arc::clone(self.shared), self.deadline);
        thread("exec-deadline", move || {
            if !shared.wait_until(deadline) {
                shared.kill(Cause::Deadline);
            }
        })?;
        let shared = Arc::clone(self.shared);
        thread("exec-reap", move || reap(child, &shared))?;
        if let Some((mut stdin, bytes)) = input {
            thread("exec-stdin", move || {
                // A program has the right not to read all of its input.
                let _closed = stdin.write_all(&bytes);
            })?;
        }
        Ok(())
    }
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.into()).spawn(work).map(drop)
}

fn drain(stderr: Option<ChildStderr>, tail: &Mutex<Tail>) {
    let Some(mut stderr) = stderr else { return };
    let mut chunk = vec![0; 4096];
    loop {
        match stderr.read(&mut chunk) {
            Ok(size) if size > 0 => lock(tail).push(&chunk[..size]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => return,
        }
    }
}

fn reap(mut child: Child, shared: &Shared) {
    wait_unreaped(child.id());
    let mut state = lock(&shared.state);
    // The leader is a zombie still, so that the group's number is surely ours.
    if let Some(mut group) = state.group.take() {
        group.finish();
    }
    state.status = Some(child.wait());
    shared.changed.notify_all();
}

/// Waits for the end of the child but leaves it to be reaped.
fn wait_unreaped(pid: u32) {
    let Ok(pid) = i32::try_from(pid) else { return };
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
    while waitid(Id::Pid(Pid::from_raw(pid)), flags) == Err(Errno::EINTR) {}
}
