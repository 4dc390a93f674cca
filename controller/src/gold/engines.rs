//! Providers among the workers.

use std::sync::Arc;

use async_trait::async_trait;
use homelab_domain::{
    ids::{HostName, ModelName},
    job::{Job, JobSpec},
    reason::Because,
    site::{Provider, Tier},
};
use homelab_proto::inference::v1::{
    ChatCompleteRequest, CompleteRequest, EmbedRequest, EmbedResponse, Engine, EngineState, Model,
    ModelState, RerankRequest, RerankResponse, Worker,
};
use homelab_rpc::status::{Reason, fail};
use tonic::{Code, Status};

use super::Gold;
use crate::job::engines::{Contact, Engines, Pieces, WorkerSeen};

/// The workers of the house, and the providers outside as further ones.
#[derive(Clone, Debug)]
pub struct GoldEngines {
    house: Arc<dyn Engines>,
    gold: Gold,
}

impl GoldEngines {
    /// Adds the providers of `gold` to `house`.
    #[must_use]
    pub fn new(house: Arc<dyn Engines>, gold: Gold) -> Self {
        Self { house, gold }
    }

    fn is_outside(&self, worker: &HostName) -> bool {
        self.gold.view().site.gold().provider(worker.as_str()).is_some()
    }
}

/// Only chats are looked through for what must stay in the house, so nothing else leaves it.
fn chats_only(provider: &HostName) -> Status {
    let message = format!("{provider} is outside the house, and is asked for chats only");
    fail(Code::InvalidArgument, Reason::INVALID_REQUEST, message)
}

#[async_trait]
impl Engines for GoldEngines {
    fn workers(&self) -> Arc<[WorkerSeen]> {
        let view = self.gold.view();
        let providers = &view.site.gold().providers;
        if providers.is_empty() {
            return self.house.workers();
        }
        let outside = providers.iter().filter_map(|provider| {
            seen(provider, view.keyless.get(provider.name.as_str()).cloned())
        });
        self.house.workers().iter().cloned().chain(outside).collect()
    }

    async fn chat(
        &self,
        worker: &HostName,
        request: ChatCompleteRequest,
    ) -> Result<Pieces, Status> {
        if self.is_outside(worker) {
            return Ok(self.gold.chat(worker, &request).await);
        }
        self.house.chat(worker, request).await
    }

    async fn complete(
        &self,
        worker: &HostName,
        request: CompleteRequest,
    ) -> Result<Pieces, Status> {
        if self.is_outside(worker) {
            return Err(chats_only(worker));
        }
        self.house.complete(worker, request).await
    }

    async fn embed(
        &self,
        worker: &HostName,
        request: EmbedRequest,
    ) -> Result<EmbedResponse, Status> {
        if self.is_outside(worker) {
            return Err(chats_only(worker));
        }
        self.house.embed(worker, request).await
    }

    async fn rerank(
        &self,
        worker: &HostName,
        request: RerankRequest,
    ) -> Result<RerankResponse, Status> {
        if self.is_outside(worker) {
            return Err(chats_only(worker));
        }
        self.house.rerank(worker, request).await
    }

    async fn load(&self, worker: &HostName, model: &ModelName) -> Result<(), Status> {
        self.house.load(worker, model).await
    }

    async fn unload(&self, worker: &HostName, model: &ModelName) -> Result<(), Status> {
        self.house.unload(worker, model).await
    }

    async fn objection(&self, spec: &JobSpec) -> Option<Because> {
        if spec.tier == Tier::Gold {
            return self.gold.objection(spec).await;
        }
        self.house.objection(spec).await
    }

    async fn outlook(&self, job: &Job) -> Vec<String> {
        if job.spec().tier == Tier::Gold {
            return self.gold.outlook(job).await;
        }
        self.house.outlook(job).await
    }
}

/// A provider as a worker that is always there, unless its key is not.
fn seen(provider: &Provider, keyless: Option<String>) -> Option<WorkerSeen> {
    let host = HostName::try_new(provider.name.as_str()).ok()?;
    let engines = provider.models.iter().map(|model| Engine {
        name: provider.name.to_string(),
        state: EngineState::Ready.into(),
        model: model.name.to_string(),
        slots: provider.parallel,
        ..Engine::default()
    });
    let models = provider.models.iter().map(|model| Model {
        name: model.name.to_string(),
        state: ModelState::Loaded.into(),
        slots: Some(provider.parallel),
        context_tokens: Some(model.context_tokens),
        ..Model::default()
    });
    let worker = Worker {
        host: provider.name.to_string(),
        engines: engines.collect(),
        models: models.collect(),
        ..Worker::default()
    };
    Some(WorkerSeen {
        host,
        tier: Tier::Gold,
        contact: if keyless.is_none() { Contact::Connected } else { Contact::Unreachable },
        last_seen_at: None,
        worker: Some(Arc::new(worker)),
        drained: false,
        message: keyless.unwrap_or_default(),
    })
}
