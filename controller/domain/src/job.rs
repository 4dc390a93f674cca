//! An AI job and its state machine.
//!
//! `queued → waiting → assigned → running → succeeded | failed | cancelled |
//! expired`. Each transition consumes the job, so that an old state cannot be
//! used again, and answers with the new one or says why it is not allowed.
//! Whatever a worker reports carries the number of its attempt; a report of an
//! attempt that is over is refused, however late it comes.

mod event;
mod priority;
mod terms;
mod transition;

use std::{fmt, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use event::JobEvent;
pub use priority::{InvalidPriority, Priority};
pub use terms::{BadTerms, JobClass, KEPT_MAX, LABEL_BYTES_MAX, NEEDS_MAX, TAGS_MAX, Terms};
pub use transition::{InvalidTransition, Outcome};

use crate::{
    context::Attached,
    ids::{HostName, JobId, ModelName},
    reason::{Because, Failure, Reason},
    site::Tier,
};

/// How often a job is tried before it is given up, unless a person asks again.
pub const ATTEMPTS_MAX: u32 = 3;

crate::words! {
    /// Whether the text of a job is kept.
    Record {
        /// Request and answer are kept with the job.
        Full = "full",
        /// Only figures are kept once the job has ended.
        Metadata = "metadata",
    }
}

crate::words! {
    /// How the request of a job is written down.
    RequestForm {
        /// Messages of the protocol.
        Chat = "chat",
        /// JSON of the OpenAI chat API, byte for byte as the caller sent it.
        OpenaiChat = "openai_chat",
        /// JSON of the OpenAI completions API, likewise: a text to be continued.
        OpenaiCompletion = "openai_completion",
    }
}

/// What a job asks for. Opaque here; its text never shows in debug output.
#[derive(Clone, PartialEq, Eq)]
pub struct JobRequest {
    /// How it is written down.
    pub form: RequestForm,
    /// The bytes; empty once wiped.
    pub bytes: Vec<u8>,
    /// What of the house's documents the bytes have in them.
    pub attached: Option<Box<Attached>>,
}

impl JobRequest {
    /// One without passages of documents.
    #[must_use]
    pub const fn new(form: RequestForm, bytes: Vec<u8>) -> Self {
        Self { form, bytes, attached: None }
    }
}

impl fmt::Debug for JobRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobRequest({:?}, {} bytes)", self.form, self.bytes.len())
    }
}

/// What does not change while a job lives.
#[derive(Clone, PartialEq, Eq)]
pub struct JobSpec {
    /// Identifier: the request id of the call that submitted it.
    pub id: JobId,
    /// Model.
    pub model: ModelName,
    /// Tier that it runs on.
    pub tier: Tier,
    /// Priority.
    pub priority: Priority,
    /// Who asked: a SPIFFE id, or `key/<name>` through the gateway.
    pub submitted_by: String,
    /// When.
    pub submitted_at: Timestamp,
    /// When it is not wanted any more.
    pub deadline: Option<Timestamp>,
    /// Most tokens to answer with.
    pub tokens_max: Option<u32>,
    /// Whether the text is kept.
    pub record: Record,
    /// First 80 characters of the last message; empty when the record is metadata.
    pub title: String,
    /// On which terms.
    pub terms: Terms,
    /// Jobs of the same caller that waited when it came: it goes back a little for each, so that
    /// others get their turn. See [`Priority::queue_key`].
    pub own_ahead: u32,
    /// What it asks for.
    pub request: JobRequest,
}

impl JobSpec {
    /// The same without what it asks for, which may be 16 MiB, and without its title: enough to plan.
    #[must_use]
    pub fn without_text(&self) -> Self {
        Self {
            id: self.id,
            model: self.model.clone(),
            tier: self.tier,
            priority: self.priority,
            submitted_by: self.submitted_by.clone(),
            submitted_at: self.submitted_at,
            deadline: self.deadline,
            tokens_max: self.tokens_max,
            record: self.record,
            title: String::new(),
            terms: self.terms.clone(),
            own_ahead: self.own_ahead,
            request: JobRequest::new(self.request.form, Vec::new()),
        }
    }
}

impl fmt::Debug for JobSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobSpec")
            .field("id", &self.id)
            .field("model", &self.model)
            .field("tier", &self.tier)
            .field("priority", &self.priority)
            .field("submitted_by", &self.submitted_by)
            .finish_non_exhaustive()
    }
}

/// The right of a worker to a job, until it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Host of the worker.
    pub worker: HostName,
    /// Number of the attempt: the fence that its reports carry. Never given twice.
    pub attempt: u32,
    /// When the right ends unless it is renewed.
    pub until: Timestamp,
}

/// What a job cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens read.
    pub prompt_tokens: Option<u32>,
    /// Tokens written.
    pub completion_tokens: Option<u32>,
    /// Time for reading.
    pub prompt_elapsed: Option<Duration>,
    /// Time for writing.
    pub completion_elapsed: Option<Duration>,
    /// What it used, in millijoules; none where nothing measured it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_millijoules: Option<u64>,
}

/// What is known of every job that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// When it ended.
    pub at: Timestamp,
    /// Host of the worker that had it last, if any did.
    pub worker: Option<HostName>,
    /// When its last attempt began to write, if it did.
    pub started_at: Option<Timestamp>,
    /// Pieces of text that were shown.
    pub pieces: u32,
}

/// Where a job stands, with what belongs to that state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobState {
    /// In the queue, could run.
    Queued {
        /// Why it is there.
        because: Because,
    },
    /// In the queue, cannot run yet.
    Waiting {
        /// What it waits for.
        because: Because,
    },
    /// Given to a worker.
    Assigned {
        /// To whom.
        lease: Lease,
    },
    /// Writes tokens.
    Running {
        /// Who.
        lease: Lease,
        /// Since when.
        started_at: Timestamp,
        /// Pieces of text stored so far.
        pieces: u32,
    },
    /// Complete.
    Succeeded {
        /// When and by whom.
        end: End,
        /// What it cost.
        usage: Usage,
    },
    /// Failed for good.
    Failed {
        /// When and by whom.
        end: End,
        /// Why.
        failure: Failure,
        /// What it cost nevertheless.
        usage: Usage,
    },
    /// Cancelled.
    Cancelled {
        /// When; the worker that had it, if any.
        end: End,
        /// Who cancelled it.
        by: String,
    },
    /// Its deadline came before its turn.
    Expired {
        /// When.
        end: End,
    },
}

crate::words! {
    /// The name of a state.
    JobStateKind {
        /// In the queue, could run.
        Queued = "queued",
        /// In the queue, cannot run yet.
        Waiting = "waiting",
        /// Given to a worker.
        Assigned = "assigned",
        /// Writes tokens.
        Running = "running",
        /// Complete.
        Succeeded = "succeeded",
        /// Failed for good.
        Failed = "failed",
        /// Cancelled.
        Cancelled = "cancelled",
        /// Its deadline came before its turn.
        Expired = "expired",
    }
}

impl JobStateKind {
    /// Nothing happens any more, unless a person asks for it again.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled | Self::Expired)
    }

    /// In the queue.
    #[must_use]
    pub const fn is_pending(self) -> bool {
        matches!(self, Self::Queued | Self::Waiting)
    }

    /// A worker has it.
    #[must_use]
    pub const fn is_owned(self) -> bool {
        matches!(self, Self::Assigned | Self::Running)
    }
}

impl JobState {
    /// The name of the state.
    #[must_use]
    pub const fn kind(&self) -> JobStateKind {
        match self {
            Self::Queued { .. } => JobStateKind::Queued,
            Self::Waiting { .. } => JobStateKind::Waiting,
            Self::Assigned { .. } => JobStateKind::Assigned,
            Self::Running { .. } => JobStateKind::Running,
            Self::Succeeded { .. } => JobStateKind::Succeeded,
            Self::Failed { .. } => JobStateKind::Failed,
            Self::Cancelled { .. } => JobStateKind::Cancelled,
            Self::Expired { .. } => JobStateKind::Expired,
        }
    }

    /// The lease of the worker that has the job now.
    #[must_use]
    pub const fn lease(&self) -> Option<&Lease> {
        match self {
            Self::Assigned { lease } | Self::Running { lease, .. } => Some(lease),
            _ => None,
        }
    }

    /// How the job ended.
    #[must_use]
    pub const fn end(&self) -> Option<&End> {
        match self {
            Self::Succeeded { end, .. }
            | Self::Failed { end, .. }
            | Self::Cancelled { end, .. }
            | Self::Expired { end } => Some(end),
            _ => None,
        }
    }

    /// The stable word for why the job stands there, and the sentence.
    #[must_use]
    pub fn because(&self) -> Because {
        match self {
            Self::Queued { because } | Self::Waiting { because } => because.clone(),
            Self::Assigned { lease } => Because::new(
                Reason::ASSIGNED,
                format!("attempt {} was given to {}", lease.attempt, lease.worker),
            ),
            Self::Running { lease, .. } => Because::new(
                Reason::STARTED,
                format!("attempt {} runs on {}", lease.attempt, lease.worker),
            ),
            Self::Succeeded { end, .. } => match &end.worker {
                Some(worker) => Because::new(Reason::COMPLETED, format!("{worker} completed it")),
                None => Because::new(Reason::COMPLETED, "complete"),
            },
            Self::Failed { failure, .. } => {
                Because::new(failure.reason.clone(), failure.message.clone())
            }
            Self::Cancelled { by, .. } => {
                Because::new(Reason::CANCELLED, format!("cancelled by {by}"))
            }
            Self::Expired { .. } => {
                Because::new(Reason::DEADLINE_EXCEEDED, "its deadline came before its turn")
            }
        }
    }
}

/// How often a job has been tried, and how often it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempts {
    /// The newest attempt that was given out; 0 before the first.
    pub given: u32,
    /// The last attempt that may be given out.
    pub limit: u32,
}

/// The parts of a job, as a store keeps them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobParts {
    /// What does not change.
    pub spec: JobSpec,
    /// When it was put into the queue, or put there again by a person; its age
    /// counts from here.
    pub enqueued_at: Timestamp,
    /// How often it has been tried.
    pub attempts: Attempts,
    /// Where it stands.
    pub state: JobState,
}

/// One AI job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job(JobParts);

impl Job {
    /// A new job in the queue.
    #[must_use]
    pub fn submit(spec: JobSpec) -> Self {
        Self(JobParts {
            enqueued_at: spec.submitted_at,
            attempts: Attempts { given: 0, limit: ATTEMPTS_MAX },
            state: JobState::Queued {
                because: Because::new(Reason::SUBMITTED, "it was put into the queue"),
            },
            spec,
        })
    }

    /// Puts a stored job together again; none when the parts contradict each
    /// other: an owner whose attempt is not the newest.
    #[must_use]
    pub fn from_parts(parts: JobParts) -> Option<Self> {
        let attempts = parts.attempts;
        let newest = parts.state.lease().is_none_or(|lease| lease.attempt == attempts.given);
        (newest && attempts.given <= attempts.limit).then_some(Self(parts))
    }

    /// The parts, to be stored.
    #[must_use]
    pub const fn parts(&self) -> &JobParts {
        &self.0
    }

    /// Identifier.
    #[must_use]
    pub const fn id(&self) -> JobId {
        self.0.spec.id
    }

    /// What does not change.
    #[must_use]
    pub const fn spec(&self) -> &JobSpec {
        &self.0.spec
    }

    /// Where it stands.
    #[must_use]
    pub const fn state(&self) -> &JobState {
        &self.0.state
    }

    /// How often it has been tried.
    #[must_use]
    pub const fn attempts(&self) -> Attempts {
        self.0.attempts
    }

    /// When its age began to count.
    #[must_use]
    pub const fn enqueued_at(&self) -> Timestamp {
        self.0.enqueued_at
    }

    /// Its place in the queue; smaller goes first. See [`Priority::queue_key`].
    #[must_use]
    pub fn queue_key(&self) -> i64 {
        self.0.spec.priority.queue_key(self.0.enqueued_at, self.0.spec.own_ahead)
    }

    /// Whether its text is to be wiped now: it has ended, and only figures are
    /// to be kept.
    #[must_use]
    pub fn is_to_be_wiped(&self) -> bool {
        self.0.spec.record == Record::Metadata && self.0.state.kind().is_final()
    }
}

#[cfg(test)]
mod tests;
