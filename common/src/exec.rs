//! The one way to run another program.
//!
//! There is no shell: a program and its arguments, the environment cleared, a
//! fixed `PATH`, a deadline, a limit on the output. Each child leads a process
//! group of its own, and the whole group is killed at the deadline, when the
//! future or handle is dropped, and when the leader has ended. What leaves its
//! group on purpose (`setsid`) is beyond reach here; systemd's
//! `KillMode=control-group` gets it when the unit stops.
//!
//! Secrets go in by a file or by standard input, not by arguments: arguments
//! are shown in errors and in `/proc`. The environment and the input are never
//! shown.

mod error;
pub mod fake;
mod group;
mod output;
mod program;
mod run;
mod stream;
mod supervise;

#[cfg(test)]
mod tests;

use std::fmt;

use async_trait::async_trait;

pub use error::{Argv, ExecError};
pub use output::{Finished, Output};
pub use program::Program;
pub use stream::{Killer, Streaming};
pub use supervise::{Ended, Supervised};

/// Runs programs. Shared as `Arc<dyn Exec>`; [`SystemExec`] is the real one,
/// [`fake::FakeExec`] a scripted one for tests.
#[async_trait]
pub trait Exec: fmt::Debug + Send + Sync {
    /// Runs a program to its end and gives its output.
    ///
    /// Cancel safety: dropping the future kills the program and its children.
    ///
    /// # Errors
    ///
    /// It could not be started, did not end in time, ended with a code that is
    /// not accepted, or wrote too much.
    async fn run(&self, program: Program) -> Result<Output, ExecError>;

    /// Starts a program whose output is read as it comes, by blocking code.
    ///
    /// # Errors
    ///
    /// It could not be started.
    fn stream(&self, program: Program) -> Result<Streaming, ExecError>;

    /// Starts a program that is meant to go on; its deadline and its limit on
    /// output do not apply. Needs a tokio runtime.
    ///
    /// # Errors
    ///
    /// It could not be started.
    fn supervise(&self, program: Program) -> Result<Supervised, ExecError>;
}

/// Runs programs of the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemExec;

#[async_trait]
impl Exec for SystemExec {
    async fn run(&self, program: Program) -> Result<Output, ExecError> {
        run::run(program).await
    }

    fn stream(&self, program: Program) -> Result<Streaming, ExecError> {
        stream::start(program)
    }

    fn supervise(&self, program: Program) -> Result<Supervised, ExecError> {
        supervise::start(program)
    }
}
