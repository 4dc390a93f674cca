//! Programs that run to their end, one feeding the next, and what they cost together.

use std::{
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

use super::{
    interrupt,
    measure::{cpu_of_programs, peak_memory},
};

/// A benchmark that hangs must end.
const RUN_MAX: Duration = Duration::from_secs(300);
/// How often peaks are looked at: far more often than they grow.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// What a run cost.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    pub(super) wall: Duration,
    /// Of the programs, to 10 ms.
    pub(super) cpu: Duration,
    /// Of the database server that they talked to, when somebody looked.
    pub(super) server: Duration,
    /// The largest peak of one of them.
    pub(super) rss_peak: u64,
}

impl Cost {
    /// One after the other.
    pub(super) fn and(self, next: Self) -> Self {
        Self {
            wall: self.wall + next.wall,
            cpu: self.cpu + next.cpu,
            server: self.server + next.server,
            rss_peak: self.rss_peak.max(next.rss_peak),
        }
    }
}

/// Runs programs at once, the output of each being the input of the next. What the last writes is
/// dropped.
///
/// # Errors
/// When one does not succeed; the others are ended then.
pub(super) fn run(commands: Vec<Command>) -> anyhow::Result<Cost> {
    let own = std::process::id();
    let cpu = cpu_of_programs(own)?;
    let began = Instant::now();
    let mut running = Running::default();
    let last = commands.len().saturating_sub(1);
    let mut input = Stdio::null();
    for (place, mut command) in commands.into_iter().enumerate() {
        let output = if place == last { Stdio::null() } else { Stdio::piped() };
        let child = command.stdin(std::mem::replace(&mut input, Stdio::null())).stdout(output);
        let mut child = child.spawn().with_context(|| format!("start {command:?}"))?;
        if let Some(output) = child.stdout.take() {
            input = output.into();
        }
        running.0.push(child);
    }
    let rss_peak = running.wait()?;
    let wall = began.elapsed();
    Ok(Cost { wall, cpu: cpu_of_programs(own)?.saturating_sub(cpu), rss_peak, ..Cost::default() })
}

/// Children that are killed when they are given up.
#[derive(Debug, Default)]
struct Running(Vec<Child>);

impl Running {
    fn wait(&mut self) -> anyhow::Result<u64> {
        let deadline = Instant::now() + RUN_MAX;
        let mut peak = 0;
        while !self.0.is_empty() {
            interrupt::check()?;
            if Instant::now() > deadline {
                bail!("did not end within {RUN_MAX:?}");
            }
            for child in &self.0 {
                peak = peak.max(peak_memory(child.id()).unwrap_or_default());
            }
            let mut failed = None;
            self.0.retain_mut(|child| match child.try_wait() {
                Ok(None) => true,
                Ok(Some(status)) if status.success() => false,
                Ok(Some(status)) => {
                    failed = Some(format!("a program ended with {status}"));
                    false
                }
                Err(error) => {
                    failed = Some(error.to_string());
                    true
                }
            });
            if let Some(failed) = failed {
                bail!("{failed}");
            }
            thread::sleep(LOOK_EVERY);
        }
        Ok(peak)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // One that has ended in the meantime cannot be killed, and that is well.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::command;

    #[test]
    fn programs_feed_each_other_and_their_peak_is_seen() {
        let mut zeros = command("head");
        zeros.args(["-c", "200000000", "/dev/zero"]);
        let cost = run(vec![zeros, command("md5sum")]).expect("both end well");
        assert!(cost.rss_peak > 0 && cost.cpu > Duration::ZERO, "{cost:?}");
    }

    #[test]
    fn one_that_fails_is_told() {
        assert!(run(vec![command("false"), command("cat")]).is_err());
    }
}
