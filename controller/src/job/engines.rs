//! What the queue needs of the fleet: the workers as last seen, and a way to talk to their engines.
//!
//! A seam on purpose: the queue is tested against scripted engines, and the fleet does not know
//! that there are jobs.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use homelab_domain::{
    ids::{HostName, ModelName},
    job::{Job, JobSpec},
    reason::Because,
    site::Tier,
};
use homelab_proto::inference::v1::{
    ChatCompleteRequest, ChatCompleteResponse, CompleteRequest, EmbedRequest, EmbedResponse, Model,
    RerankRequest, RerankResponse, Worker,
};
use jiff::Timestamp;
use tonic::Status;

/// The pieces of an answer. Dropping it frees the engine's slot.
pub type Pieces = BoxStream<'static, Result<ChatCompleteResponse, Status>>;

/// One worker, as last seen.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerSeen {
    /// Its host.
    pub host: HostName,
    /// Tier that the host belongs to.
    pub tier: Tier,
    /// How it can be reached.
    pub contact: Contact,
    /// When it last answered.
    pub last_seen_at: Option<Timestamp>,
    /// What it last said, if it ever did.
    pub worker: Option<Arc<Worker>>,
    /// A person takes work off its host.
    pub drained: bool,
    /// Why it does not answer, for people.
    pub message: String,
}

impl WorkerSeen {
    /// Whether it has said that it has the model, whatever state that is in.
    #[must_use]
    pub fn has(&self, model: &ModelName) -> bool {
        self.models().any(|row| row.name == model.as_str())
    }

    /// Its models, as it last listed them.
    pub fn models(&self) -> impl Iterator<Item = &Model> {
        self.worker.iter().flat_map(|worker| &worker.models)
    }
}

/// Whether a worker can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contact {
    /// It answers.
    Connected,
    /// Its host is off, as expected.
    Asleep,
    /// It does not answer.
    Unreachable,
}

/// The workers of the site.
#[async_trait]
pub trait Engines: fmt::Debug + Send + Sync {
    /// All workers of the site file, by host; from memory.
    fn workers(&self) -> Arc<[WorkerSeen]>;

    /// Has a worker answer a chat.
    ///
    /// Cancel safety: dropping the future or the stream frees the engine's slot.
    ///
    /// # Errors
    /// The worker's own status: `SLOTS_BUSY`, `MODEL_NOT_FOUND`, `ENGINE_NOT_READY`, or unreachable.
    async fn chat(&self, worker: &HostName, request: ChatCompleteRequest)
    -> Result<Pieces, Status>;

    /// Has a worker continue a text.
    ///
    /// Cancel safety: as [`Engines::chat`].
    ///
    /// # Errors
    /// As [`Engines::chat`].
    async fn complete(&self, worker: &HostName, request: CompleteRequest)
    -> Result<Pieces, Status>;

    /// Why a job may not go to a worker of its tier, from its text and the rules of the site.
    /// Workers in the house take any.
    async fn objection(&self, _spec: &JobSpec) -> Option<Because> {
        None
    }

    /// What of a job leaves or has left the house, a line each; nothing for those that stay.
    async fn outlook(&self, _job: &Job) -> Vec<String> {
        Vec::new()
    }

    /// Has a worker turn texts into vectors.
    ///
    /// Cancel safety: dropping the future frees the engine's slot.
    ///
    /// # Errors
    /// As [`Engines::chat`], and `ENGINE_REFUSED` for what the engine does not do.
    async fn embed(
        &self,
        worker: &HostName,
        request: EmbedRequest,
    ) -> Result<EmbedResponse, Status>;

    /// Has a worker order texts by a question.
    ///
    /// # Errors
    /// As [`Engines::embed`].
    async fn rerank(
        &self,
        worker: &HostName,
        request: RerankRequest,
    ) -> Result<RerankResponse, Status>;

    /// Has a worker load a model; returns when it has begun, and goes on by itself.
    ///
    /// # Errors
    /// The worker's own status, `MODEL_NOT_FOUND` or unreachable.
    async fn load(&self, _worker: &HostName, _model: &ModelName) -> Result<(), Status> {
        Err(Status::unimplemented("this engine keeps its models loaded"))
    }

    /// Has a worker unload a model, after what runs on it.
    ///
    /// # Errors
    /// As [`Engines::load`].
    async fn unload(&self, _worker: &HostName, _model: &ModelName) -> Result<(), Status> {
        Err(Status::unimplemented("this engine keeps its models loaded"))
    }
}
