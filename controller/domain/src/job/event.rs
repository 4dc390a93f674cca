//! The history of a job.

use jiff::Timestamp;

use super::{Job, JobStateKind};
use crate::{ids::HostName, reason::Reason};

/// One change of a job's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobEvent {
    /// When.
    pub at: Timestamp,
    /// State after it.
    pub state: JobStateKind,
    /// Stable word for why.
    pub reason: Reason,
    /// The same for people.
    pub message: String,
    /// Attempt that it belongs to; 0 before the first.
    pub attempt: u32,
    /// Host of the worker, if any.
    pub worker: Option<HostName>,
}

impl Job {
    /// The event that says how the job came to stand where it stands.
    #[must_use]
    pub fn event(&self, at: Timestamp) -> JobEvent {
        let because = self.state().because();
        let worker = match (self.state().lease(), self.state().end()) {
            (Some(lease), _) => Some(lease.worker.clone()),
            (None, Some(end)) => end.worker.clone(),
            (None, None) => None,
        };
        JobEvent {
            at,
            state: self.state().kind(),
            reason: because.reason,
            message: because.message,
            attempt: self.attempts().given,
            worker,
        }
    }
}
