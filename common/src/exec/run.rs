//! Running a program to its end.

use std::{
    io,
    process::{ExitStatus, Stdio},
};

use nix::sys::signal::Signal;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, ChildStdin},
};

use super::{ExecError, Output, Program, group::Group, output::Tail, program::Stdin};

const CHUNK_BYTES: usize = 16 * 1024;

pub(super) async fn run(mut program: Program) -> Result<Output, ExecError> {
    let mut command = program.command();
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut command = tokio::process::Command::from(command);
    command.kill_on_drop(true);
    let mut child = command.spawn().map_err(|source| program.not_started(source))?;
    let mut group = Group::of(child.id().unwrap_or(0));

    let input = std::mem::take(&mut program.stdin);
    let mut tail = Tail::default();
    let talk = talk(&mut child, &group, input, program.output_limit(), &mut tail);
    let ended = tokio::time::timeout(program.deadline, talk).await;
    group.finish();

    let argv = program.argv();
    match ended {
        Ok(Ok((stdout, status))) => {
            let stderr_tail = tail.text();
            let code = ExecError::judge(&argv, status, &program.accepted, &stderr_tail)?;
            Ok(Output { stdout, stderr_tail, code })
        }
        Ok(Err(Trouble::TooLarge)) => {
            Err(ExecError::OutputTooLarge { argv, limit_bytes: program.output_limit() })
        }
        Ok(Err(Trouble::Io(source))) => Err(ExecError::Io { argv, source }),
        Err(_) => {
            Err(ExecError::Deadline { argv, after: program.deadline, stderr_tail: tail.text() })
        }
    }
}

enum Trouble {
    TooLarge,
    Io(io::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Feeds the child, drains it and waits for its end, all at once: a child that
/// waits for one of these would otherwise wait for ever.
async fn talk(
    child: &mut Child,
    group: &Group,
    input: Stdin,
    limit_bytes: u64,
    tail: &mut Tail,
) -> Result<(Vec<u8>, ExitStatus), Trouble> {
    let stdin = child.stdin.take();
    let stdout = child.stdout.take();
    let stderr = child.stderr.take();
    let feed = async { Ok(feed(stdin, input).await?) };
    let drain = async { Ok(drain(stderr, tail).await?) };
    let ((), stdout, (), status) =
        tokio::try_join!(feed, collect(stdout, limit_bytes), drain, wait(child, group),)?;
    Ok((stdout, status))
}

/// What outlives the leader would keep the pipes open; it is killed.
async fn wait(child: &mut Child, group: &Group) -> Result<ExitStatus, Trouble> {
    let status = child.wait().await?;
    group.signal(Signal::SIGKILL);
    Ok(status)
}

async fn feed(stdin: Option<ChildStdin>, input: Stdin) -> io::Result<()> {
    let (Some(mut stdin), Stdin::Bytes(bytes)) = (stdin, input) else { return Ok(()) };
    match stdin.write_all(&bytes).await {
        // It has the right not to read everything; its exit code tells the rest.
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

async fn collect(
    stream: Option<impl AsyncRead + Unpin>,
    limit_bytes: u64,
) -> Result<Vec<u8>, Trouble> {
    let mut collected = Vec::new();
    let Some(stream) = stream else { return Ok(collected) };
    // One byte more than allowed tells "exactly full" from "too much".
    stream.take(limit_bytes.saturating_add(1)).read_to_end(&mut collected).await?;
    let size = u64::try_from(collected.len()).unwrap_or(u64::MAX);
    if size > limit_bytes { Err(Trouble::TooLarge) } else { Ok(collected) }
}

async fn drain(stream: Option<impl AsyncRead + Unpin>, tail: &mut Tail) -> io::Result<()> {
    let Some(mut stream) = stream else { return Ok(()) };
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match stream.read(&mut chunk).await? {
            0 => return Ok(()),
            size => tail.push(&chunk[..size]),
        }
    }
}
