//! The transitions of a job. Each consumes it.

use jiff::Timestamp;

use super::{ATTEMPTS_MAX, End, Job, JobState, JobStateKind, Lease, Usage};
use crate::{
    ids::{HostName, JobId},
    reason::{Because, Failure, Reason},
};

/// A transition is not allowed from where the job stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("job {job} is {from} and cannot {event}: {why}")]
pub struct InvalidTransition {
    /// Which job.
    pub job: JobId,
    /// Where it stands.
    pub from: JobStateKind,
    /// What was to happen to it, as a verb.
    pub event: &'static str,
    /// Why that is not allowed, for people.
    pub why: String,
}

/// How an attempt ended, as its worker or the dispatcher reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The answer is complete.
    Succeeded {
        /// What it cost.
        usage: Usage,
    },
    /// The attempt failed. The job is tried again when the failure is retryable,
    /// nothing was shown and attempts are left.
    Failed {
        /// Why.
        failure: Failure,
        /// What it cost nevertheless.
        usage: Usage,
    },
}

impl Job {
    /// Says what the job waits for; a newer reason replaces an older one.
    pub fn wait(self, because: Because) -> Result<Self, InvalidTransition> {
        match self.state() {
            JobState::Queued { .. } | JobState::Waiting { .. } => {
                Ok(self.into(JobState::Waiting { because }))
            }
            _ => Err(self.refuse("wait", "it is not in the queue")),
        }
    }

    /// Nothing stands in the way any more but the jobs before it.
    pub fn ready(self) -> Result<Self, InvalidTransition> {
        match self.state() {
            JobState::Queued { .. } => Ok(self),
            JobState::Waiting { .. } => {
                let because = Because::new(Reason::READY, "it runs as soon as a slot is free");
                Ok(self.into(JobState::Queued { because }))
            }
            _ => Err(self.refuse("become ready", "it is not in the queue")),
        }
    }

    /// Gives the job to a worker under a new attempt.
    pub fn assign(
        mut self,
        worker: HostName,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Self, InvalidTransition> {
        if !self.state().kind().is_pending() {
            return Err(self.refuse("be assigned", "it is not in the queue"));
        }
        if self.attempts().given >= self.attempts().limit {
            return Err(self.refuse("be assigned", "every allowed attempt was used"));
        }
        if self.spec().deadline.is_some_and(|deadline| deadline <= now) {
            return Err(self.refuse("be assigned", "its deadline has passed"));
        }
        self.0.attempts.given += 1;
        let attempt = self.0.attempts.given;
        Ok(self.into(JobState::Assigned { lease: Lease { worker, attempt, until } }))
    }

    /// The worker has begun to write.
    pub fn start(self, attempt: u32, now: Timestamp) -> Result<Self, InvalidTransition> {
        let lease = self.fenced("start", attempt)?.clone();
        match self.state() {
            JobState::Assigned { .. } => {
                Ok(self.into(JobState::Running { lease, started_at: now, pieces: 0 }))
            }
            _ => Err(self.refuse("start", "it has started already")),
        }
    }

    /// The worker is alive; the lease is extended, never shortened.
    pub fn renew(mut self, attempt: u32, until: Timestamp) -> Result<Self, InvalidTransition> {
        self.fenced("be renewed", attempt)?;
        if let JobState::Assigned { lease } | JobState::Running { lease, .. } = &mut self.0.state {
            lease.until = lease.until.max(until);
        }
        Ok(self)
    }

    /// Text was stored, and counts as shown from now on. Pieces follow each
    /// other without a gap from 0.
    pub fn wrote(
        mut self,
        attempt: u32,
        first_index: u32,
        added: u32,
        until: Timestamp,
    ) -> Result<Self, InvalidTransition> {
        self.fenced("write", attempt)?;
        let JobState::Running { lease, pieces, .. } = &mut self.0.state else {
            return Err(self.refuse("write", "it has not started"));
        };
        if *pieces != first_index {
            let why = format!("piece {pieces} is next, not {first_index}");
            return Err(self.refuse("write", why));
        }
        *pieces = pieces.saturating_add(added);
        lease.until = lease.until.max(until);
        Ok(self)
    }

    /// An attempt has ended.
    pub fn finish(
        self,
        attempt: u32,
        outcome: Outcome,
        now: Timestamp,
    ) -> Result<Self, InvalidTransition> {
        self.fenced("finish", attempt)?;
        Ok(match outcome {
            Outcome::Succeeded { usage } => {
                let end = self.end_at(now);
                self.into(JobState::Succeeded { end, usage })
            }
            Outcome::Failed { failure, usage } => self.broke_off(failure, usage, now),
        })
    }

    /// The worker's heartbeats stopped, and its lease has run out.
    pub fn lose_lease(self, now: Timestamp) -> Result<Self, InvalidTransition> {
        let Some(lease) = self.state().lease() else {
            return Err(self.refuse("lose its lease", "no worker has it"));
        };
        if lease.until > now {
            return Err(self.refuse("lose its lease", "the lease still runs"));
        }
        let failure = Failure {
            reason: Reason::LEASE_EXPIRED,
            message: format!("{} stopped reporting on attempt {}", lease.worker, lease.attempt),
            retryable: true,
        };
        Ok(self.broke_off(failure, Usage::default(), now))
    }

    /// It can never run: what it was to come after did not succeed.
    pub fn give_up(self, because: Because, now: Timestamp) -> Result<Self, InvalidTransition> {
        if !self.state().kind().is_pending() {
            return Err(self.refuse("be given up", "it is not in the queue"));
        }
        let end = self.end_at(now);
        let Because { reason, message } = because;
        let failure = Failure { reason, message, retryable: false };
        Ok(self.into(JobState::Failed { end, failure, usage: Usage::default() }))
    }

    /// Nobody wants it any more. A worker that has it must be told to stop.
    pub fn cancel(self, by: &str, now: Timestamp) -> Result<Self, InvalidTransition> {
        if self.state().kind().is_final() {
            return Err(self.refuse("be cancelled", "it has ended"));
        }
        let end = self.end_at(now);
        Ok(self.into(JobState::Cancelled { end, by: by.to_owned() }))
    }

    /// Its deadline came before its turn. A job that a worker has goes on.
    pub fn expire(self, now: Timestamp) -> Result<Self, InvalidTransition> {
        if !self.state().kind().is_pending() {
            return Err(self.refuse("expire", "it is not in the queue"));
        }
        if self.spec().deadline.is_none_or(|deadline| deadline > now) {
            return Err(self.refuse("expire", "its deadline has not come"));
        }
        let end = self.end_at(now);
        Ok(self.into(JobState::Expired { end }))
    }

    /// A person wants it again after all: back into the queue as if it were new,
    /// with as many attempts as a new one and without a deadline that has passed.
    /// Text of earlier attempts is to be dropped.
    pub fn retry(mut self, by: &str, now: Timestamp) -> Result<Self, InvalidTransition> {
        match self.state().kind() {
            JobStateKind::Failed | JobStateKind::Cancelled | JobStateKind::Expired => {}
            JobStateKind::Succeeded => return Err(self.refuse("be retried", "it has succeeded")),
            _ => return Err(self.refuse("be retried", "it has not ended")),
        }
        if self.spec().request.bytes.is_empty() {
            return Err(self.refuse("be retried", "its text was not kept"));
        }
        self.0.attempts.limit = self.0.attempts.given.saturating_add(ATTEMPTS_MAX);
        self.0.spec.deadline = self.0.spec.deadline.filter(|deadline| *deadline > now);
        let terms = &mut self.0.spec.terms;
        terms.latest_start = terms.latest_start.filter(|latest| *latest > now);
        self.0.spec.own_ahead = 0;
        self.0.enqueued_at = now;
        let because = Because::new(Reason::RETRIED, format!("{by} asked for it again"));
        Ok(self.into(JobState::Queued { because }))
    }

    /// After an attempt that came to nothing: into the queue again, at its old
    /// place, where that can do no harm; failed otherwise.
    fn broke_off(self, failure: Failure, usage: Usage, now: Timestamp) -> Self {
        let end = self.end_at(now);
        let given_up = if !failure.retryable {
            Some((failure.reason.clone(), failure.message.clone()))
        } else if end.pieces > 0 {
            let message =
                format!("{}; text had been shown, so it is not begun again", failure.message);
            Some((Reason::OUTPUT_ALREADY_SHOWN, message))
        } else if self.attempts().given >= self.attempts().limit {
            let message =
                format!("{}; that was the last of {ATTEMPTS_MAX} attempts", failure.message);
            Some((Reason::ATTEMPTS_EXHAUSTED, message))
        } else {
            None
        };
        match given_up {
            Some((reason, message)) => {
                let failure = Failure { reason, message, retryable: false };
                self.into(JobState::Failed { end, failure, usage })
            }
            None => {
                let because = Because::new(failure.reason, failure.message);
                self.into(JobState::Queued { because })
            }
        }
    }

    fn end_at(&self, at: Timestamp) -> End {
        let (started_at, pieces) = match self.state() {
            JobState::Running { started_at, pieces, .. } => (Some(*started_at), *pieces),
            _ => (None, 0),
        };
        let worker = self.state().lease().map(|lease| lease.worker.clone());
        End { at, worker, started_at, pieces }
    }

    /// The lease, when the report is by the attempt that has it.
    fn fenced(&self, event: &'static str, attempt: u32) -> Result<&Lease, InvalidTransition> {
        match self.state().lease() {
            None => Err(self.refuse(event, "no worker has it")),
            Some(lease) if lease.attempt != attempt => Err(self.refuse(
                event,
                format!("the report is by attempt {attempt}, and attempt {} has it", lease.attempt),
            )),
            Some(lease) => Ok(lease),
        }
    }

    fn into(mut self, state: JobState) -> Self {
        self.0.state = state;
        self
    }

    fn refuse(&self, event: &'static str, why: impl Into<String>) -> InvalidTransition {
        InvalidTransition { job: self.id(), from: self.state().kind(), event, why: why.into() }
    }
}
