//! Who is killed, and how an engine is found.

use std::{fmt, fs, thread, time::Duration};

use anyhow::Context as _;
use homelab_common::chance::{Chance, SeededChance};
use homelab_tests::wait::{Look, wait_for};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Longer than the lease of a job, so that it has run out when the controller goes on.
const PAUSE: Duration = Duration::from_secs(17);
/// A worker that was just killed has an engine again by then.
const ENGINE_WITHIN: Duration = Duration::from_secs(30);

/// What happens to one of the three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victim {
    /// It is killed and started again.
    Controller,
    /// It stands still until its leases have run out, and goes on as if nothing had been.
    PausedController,
    /// It is killed and started again; its engine is left behind.
    Worker,
    /// It is killed, and its worker is to start another.
    Engine,
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Controller => "kill -9 of the controller",
            Self::PausedController => "the controller stands still",
            Self::Worker => "kill -9 of the worker",
            Self::Engine => "kill -9 of the engine",
        })
    }
}

/// Each kind so often, and one pause, in any order.
pub(crate) fn in_order_of(chance: &SeededChance, each: u32) -> Vec<Victim> {
    let mut victims: Vec<_> = (0..each)
        .flat_map(|_| [Victim::Controller, Victim::Worker, Victim::Engine])
        .chain([Victim::PausedController])
        .collect();
    for last in (1..victims.len()).rev() {
        let other = chance.u64() % (last as u64 + 1);
        victims.swap(last, usize::try_from(other).unwrap_or_default());
    }
    victims
}

/// Holds a process for longer than a lease.
pub(crate) fn pause(pid: u32) -> anyhow::Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid)?);
    kill(pid, Signal::SIGSTOP)?;
    thread::sleep(PAUSE);
    Ok(kill(pid, Signal::SIGCONT)?)
}

/// Kills the engine of a worker, as soon as it has one.
pub(crate) fn kill_engine_of(worker: u32) -> anyhow::Result<()> {
    let engine = wait_for("an engine", ENGINE_WITHIN, || {
        Ok(engine_of(worker)?.map_or_else(|| Look::NotYet("none".to_owned()), Look::Ready))
    })?;
    Ok(kill(engine, Signal::SIGKILL)?)
}

fn engine_of(worker: u32) -> anyhow::Result<Option<Pid>> {
    for task in fs::read_dir(format!("/proc/{worker}/task")).context("read the worker's threads")? {
        let children = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        for child in children.split_ascii_whitespace() {
            let line = fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
            // It is also asked for its version and devices; only the one that serves has a port.
            let line = String::from_utf8_lossy(&line);
            if line.contains("llama-server") && line.contains("--port") {
                return Ok(Some(Pid::from_raw(child.parse()?)));
            }
        }
    }
    Ok(None)
}
