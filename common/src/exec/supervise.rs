//! A program that is meant to go on.

use std::{
    collections::VecDeque,
    fmt, io,
    io::{PipeReader, Read},
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use tokio::sync::watch;

use super::{Argv, ExecError, Program, group::Group};
use crate::lock;

/// How many lines are kept.
const LINES_MAX: usize = 400;

/// How much of a line is kept, in bytes.
const LINE_BYTES_MAX: usize = 4 * 1024;

/// How long a killed program gets to be gone before it is given up.
const KILL_WAIT: Duration = Duration::from_secs(5);

/// How long the last lines of an ended program may take: a child of its own may still
/// hold the pipe.
const LINES_WAIT: Duration = Duration::from_secs(1);

/// How a supervised program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its exit code, unless a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

impl From<ExitStatus> for Ended {
    fn from(status: ExitStatus) -> Self {
        Self { code: status.code(), signal: status.signal() }
    }
}

/// A running program. Dropping it kills the program and its children.
pub struct Supervised {
    argv: Argv,
    pid: u32,
    body: Body,
    lines: Arc<Mutex<Lines>>,
}

enum Body {
    /// `read` closes when all lines were read.
    Child {
        child: Box<tokio::process::Child>,
        group: Group,
        read: watch::Receiver<()>,
    },
    Scripted {
        ended: watch::Sender<Option<Ended>>,
    },
}

impl Supervised {
    pub(super) fn scripted(
        argv: Argv,
        pid: u32,
        lines: &[String],
        ended: watch::Sender<Option<Ended>>,
    ) -> Self {
        let mut kept = Lines::default();
        for line in lines {
            kept.push(line.as_bytes());
            kept.push(b"\n");
        }
        Self { argv, pid, body: Body::Scripted { ended }, lines: Arc::new(Mutex::new(kept)) }
    }

    /// The process id of the program, which is also its group's.
    #[must_use]
    pub const fn pid(&self) -> u32 {
        self.pid
    }

    /// The last lines (400 at most) that it wrote to standard output and error.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        lock(&self.lines).all()
    }

    /// Waits until the program ends by itself; its [`Supervised::lines`] are whole then.
    ///
    /// Cancel safety: safe; call it again to go on waiting.
    ///
    /// # Errors
    ///
    /// The system does not tell how it ended.
    pub async fn wait(&mut self) -> Result<Ended, ExecError> {
        match &mut self.body {
            Body::Child { child, group, read } => {
                let status = child
                    .wait()
                    .await
                    .map_err(|source| ExecError::Io { argv: self.argv.clone(), source })?;
                group.finish();
                // Nothing is ever sent: it ends with the thread that reads.
                let _read_or_late = tokio::time::timeout(LINES_WAIT, read.changed()).await;
                Ok(status.into())
            }
            Body::Scripted { ended } => {
                let mut ended = ended.subscribe();
                match ended.wait_for(Option::is_some).await.map(|ended| *ended) {
                    Ok(Some(ended)) => Ok(ended),
                    _ => Err(ExecError::Killed { argv: self.argv.clone() }),
                }
            }
        }
    }

    /// Asks the program to end (SIGTERM to its whole group) and kills it when it
    /// has not after `grace`.
    ///
    /// Cancel safety: safe; dropping the future leaves the program asked to end,
    /// and dropping the handle kills it.
    ///
    /// # Errors
    ///
    /// The system does not tell how it ended, or not even killing ended it
    /// within 5 s: then it hangs in the kernel.
    pub async fn terminate(&mut self, grace: Duration) -> Result<Ended, ExecError> {
        self.signal(Signal::SIGTERM);
        if let Ok(ended) = tokio::time::timeout(grace, self.wait()).await {
            return ended;
        }
        self.signal(Signal::SIGKILL);
        match tokio::time::timeout(KILL_WAIT, self.wait()).await {
            Ok(ended) => ended,
            Err(_) => Err(ExecError::Deadline {
                argv: self.argv.clone(),
                after: grace + KILL_WAIT,
                stderr_tail: String::new(),
            }),
        }
    }

    fn signal(&self, signal: Signal) {
        match &self.body {
            Body::Child { group, .. } => group.signal(signal),
            Body::Scripted { ended } => {
                ended.send_if_modified(|ended| {
                    let first = ended.is_none();
                    ended.get_or_insert(Ended { code: None, signal: Some(signal as i32) });
                    first
                });
            }
        }
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
    }
}

impl fmt::Debug for Supervised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervised")
            .field("argv", &self.argv)
            .field("pid", &self.pid)
            .finish_non_exhaustive()
    }
}

pub(super) fn start(program: Program) -> Result<Supervised, ExecError> {
    let failed = |source| ExecError::Spawn { argv: program.argv(), source };
    // One pipe for both streams keeps their lines in order.
    let (reader, writer) = io::pipe().map_err(failed)?;
    let mut command = program.command();
    command.stdout(writer.try_clone().map_err(failed)?).stderr(writer);
    let mut command = tokio::process::Command::from(command);
    command.kill_on_drop(true);
    let child = command.spawn().map_err(|source| program.not_started(source))?;
    let pid = child.id().unwrap_or(0);
    let group = Group::of(pid);
    // Holds our copies of the pipe's writing end, which would keep it open.
    drop(command);
    let lines = Arc::new(Mutex::new(Lines::default()));
    let kept = Arc::clone(&lines);
    let (reading, read) = watch::channel(());
    thread::Builder::new()
        .name("exec-lines".into())
        .spawn(move || {
            read_lines(reader, &kept);
            drop(reading);
        })
        .map_err(failed)?;
    Ok(Supervised {
        argv: program.argv(),
        pid,
        body: Body::Child { child: Box::new(child), group, read },
        lines,
    })
}

fn read_lines(mut reader: PipeReader, lines: &Mutex<Lines>) {
    let mut chunk = vec![0; LINE_BYTES_MAX];
    loop {
        match reader.read(&mut chunk) {
            Ok(size) if size > 0 => lock(lines).push(&chunk[..size]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => return,
        }
    }
}

/// The last lines of a stream, each cut to its limit.
#[derive(Debug, Default)]
struct Lines {
    whole: VecDeque<String>,
    begun: Vec<u8>,
}

impl Lines {
    fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if *byte == b'\n' {
                let line = std::mem::take(&mut self.begun);
                self.whole.push_back(show(&line));
                if self.whole.len() > LINES_MAX {
                    self.whole.pop_front();
                }
            } else if self.begun.len() < LINE_BYTES_MAX {
                self.begun.push(*byte);
            }
        }
    }

    fn all(&self) -> Vec<String> {
        let begun = (!self.begun.is_empty()).then(|| show(&self.begun));
        self.whole.iter().cloned().chain(begun).collect()
    }
}

fn show(line: &[u8]) -> String {
    String::from_utf8_lossy(line).trim_end_matches('\r').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_lines_and_ends_of_long_lines_are_forgotten() {
        let mut lines = Lines::default();
        for number in 0..500 {
            lines.push(format!("{number}\r\n").as_bytes());
        }
        lines.push(&[b'x'; 10_000]);
        let all = lines.all();
        assert_eq!((all.len(), all[0].as_str()), (LINES_MAX + 1, "100"));
        assert_eq!(all[LINES_MAX].len(), LINE_BYTES_MAX);
    }
}
