//! Finds the engine of a worker that was killed.
//!
//! Nothing takes an engine along when its worker gets SIGKILL outside of systemd: it
//! would keep its memory, and its card, for ever. So each run leaves its process id
//! with the time of its start, by which a reused id is told from the same process.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::time::{self, Instant};

/// A killed process is gone at once unless it hangs in its card's driver.
const GONE_DEADLINE: Duration = Duration::from_secs(5);

const GONE_PERIOD: Duration = Duration::from_millis(20);

/// The trace of a running engine; dropped, there is none.
#[derive(Debug)]
pub(super) struct Trace {
    path: PathBuf,
}

impl Trace {
    /// Leaves the trace of the process `pid`.
    pub(super) fn leave(folder: &Path, engine: &str, pid: u32) -> io::Result<Self> {
        let path = file(folder, engine);
        if let Some(started) = started(pid) {
            fs::write(&path, format!("{pid} {started}\n"))?;
        }
        Ok(Self { path })
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // One that stays behind names a process that has ended.
        drop(fs::remove_file(&self.path));
    }
}

/// Kills what an earlier worker left running; gives its process id.
///
/// # Errors
/// It cannot be killed, or does not go away.
pub(super) async fn end_leftover(folder: &Path, engine: &str) -> io::Result<Option<u32>> {
    let path = file(folder, engine);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut numbers = text.split_whitespace().map(str::parse::<u64>);
    let (Some(Ok(pid)), Some(Ok(then))) = (numbers.next(), numbers.next()) else {
        fs::remove_file(&path)?;
        return Ok(None);
    };
    let Ok(pid) = u32::try_from(pid) else { return Ok(None) };
    let is_same = || started(pid) == Some(then);
    if !is_same() {
        fs::remove_file(&path)?;
        return Ok(None);
    }
    // Engines lead a group of their own, with what they have started in it.
    let leader = Pid::from_raw(i32::try_from(pid).map_err(io::Error::other)?);
    match killpg(leader, Signal::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => return Err(error.into()),
    }
    let deadline = Instant::now() + GONE_DEADLINE;
    while is_same() {
        if Instant::now() >= deadline {
            return Err(io::Error::other(format!("process {pid} does not end when it is killed")));
        }
        time::sleep(GONE_PERIOD).await;
    }
    fs::remove_file(&path)?;
    Ok(Some(pid))
}

fn file(folder: &Path, engine: &str) -> PathBuf {
    folder.join(format!("engine-{engine}.pid"))
}

/// When a process was started, in ticks since boot; `None` when it has ended. Field
/// 22 of proc_pid_stat(5), counted behind the name, which may hold anything.
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace();
    let state = fields.next()?;
    // A zombie holds nothing any more; its parent may never look.
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use homelab_common::exec::{Exec, Program, Supervised, SystemExec};

    use super::*;

    fn sleeper() -> Supervised {
        SystemExec.supervise(Program::new("/usr/bin/sleep").arg("600")).unwrap()
    }

    #[tokio::test]
    async fn what_an_earlier_worker_left_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let mut left = sleeper();
        let trace = Trace::leave(folder.path(), "cpu", left.pid()).unwrap();
        // A killed worker drops nothing.
        std::mem::forget(trace);
        assert_eq!(end_leftover(folder.path(), "cpu").await.unwrap(), Some(left.pid()));
        assert_eq!(left.wait().await.unwrap().signal, Some(Signal::SIGKILL as i32));
        assert_eq!(end_leftover(folder.path(), "cpu").await.unwrap(), None);
    }

    #[tokio::test]
    async fn another_process_with_the_same_id_is_let_be() {
        let folder = tempfile::tempdir().unwrap();
        let other = sleeper();
        fs::write(folder.path().join("engine-cpu.pid"), format!("{} 1\n", other.pid())).unwrap();
        assert_eq!(end_leftover(folder.path(), "cpu").await.unwrap(), None);
        assert!(started(other.pid()).is_some(), "it still runs");
    }

    #[tokio::test]
    async fn a_trace_goes_with_its_run_and_garbage_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let running = sleeper();
        drop(Trace::leave(folder.path(), "cpu", running.pid()).unwrap());
        assert_eq!(end_leftover(folder.path(), "cpu").await.unwrap(), None);
        assert!(started(running.pid()).is_some());
        fs::write(folder.path().join("engine-cpu.pid"), "who?").unwrap();
        assert_eq!(end_leftover(folder.path(), "cpu").await.unwrap(), None);
        assert!(!folder.path().join("engine-cpu.pid").exists());
    }
}
