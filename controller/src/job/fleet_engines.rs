//! The engines of the real fleet.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use homelab_common::lifecycle::Tasks;
use homelab_domain::{
    fleet::HostState,
    ids::{HostName, ModelName},
    site::{DaemonKind, Site},
};
use homelab_proto::inference::v1::{
    ChatCompleteRequest, CompleteRequest, EmbedRequest, EmbedResponse, LoadModelRequest,
    RerankRequest, RerankResponse, UnloadModelRequest,
    inference_service_client::InferenceServiceClient,
};
use homelab_rpc::status::{Reason, fail};
use tokio::sync::watch;
use tonic::{Code, Status, transport::Channel};

use super::{
    convert::piece_of_completion,
    engines::{Contact, Engines, Pieces, WorkerSeen},
    submission::REQUEST_BYTES_MAX,
};
use crate::fleet::{Fleet, WorkerView};

/// Largest message of a worker: one piece of an answer.
const PIECE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Largest answer with vectors, and room for what stands around it.
const VECTORS_BYTES_MAX: usize = 33 * 1024 * 1024;

/// Room for the other fields of a request beside its JSON.
const REQUEST_SLACK_BYTES: usize = 64 * 1024;

/// Workers of the fleet that the site file puts into a tier.
#[derive(Clone, Debug)]
pub struct FleetEngines {
    fleet: Fleet,
    site: watch::Receiver<Arc<Site>>,
    tasks: Tasks,
}

impl FleetEngines {
    /// The workers of `fleet`, by tier of `site`.
    #[must_use]
    pub fn new(fleet: Fleet, site: watch::Receiver<Arc<Site>>, tasks: Tasks) -> Self {
        Self { fleet, site, tasks }
    }
}

#[async_trait]
impl Engines for FleetEngines {
    fn workers(&self) -> Arc<[WorkerSeen]> {
        let site = Arc::clone(&self.site.borrow());
        let seen = self.fleet.workers().into_iter().filter_map(|view| {
            let tier = site.tier_of(&view.host)?;
            let contact = contact(&view);
            Some(WorkerSeen {
                tier,
                contact,
                message: message(&view, contact),
                host: view.host,
                last_seen_at: view.last_seen_at,
                worker: view.worker,
                drained: view.drained,
            })
        });
        seen.collect()
    }

    async fn chat(
        &self,
        worker: &HostName,
        request: ChatCompleteRequest,
    ) -> Result<Pieces, Status> {
        let pieces = self.client(worker)?.chat_complete(request).await?.into_inner();
        Ok(pieces.boxed())
    }

    async fn complete(
        &self,
        worker: &HostName,
        request: CompleteRequest,
    ) -> Result<Pieces, Status> {
        let pieces = self.client(worker)?.complete(request).await?.into_inner();
        Ok(pieces.map(|piece| piece.map(piece_of_completion)).boxed())
    }

    async fn embed(
        &self,
        worker: &HostName,
        request: EmbedRequest,
    ) -> Result<EmbedResponse, Status> {
        let mut client = self.client(worker)?.max_decoding_message_size(VECTORS_BYTES_MAX);
        Ok(client.embed(request).await?.into_inner())
    }

    async fn rerank(
        &self,
        worker: &HostName,
        request: RerankRequest,
    ) -> Result<RerankResponse, Status> {
        Ok(self.client(worker)?.rerank(request).await?.into_inner())
    }

    async fn load(&self, worker: &HostName, model: &ModelName) -> Result<(), Status> {
        let request = LoadModelRequest { model: model.to_string(), ..Default::default() };
        let mut progress = self.client(worker)?.load_model(request).await?.into_inner();
        // The worker's state says how it goes; the stream is read so that it is not broken off.
        self.tasks.spawn(async move { while let Ok(Some(_)) = progress.message().await {} });
        Ok(())
    }

    async fn unload(&self, worker: &HostName, model: &ModelName) -> Result<(), Status> {
        let request = UnloadModelRequest { model: model.to_string() };
        self.client(worker)?.unload_model(request).await.map(drop)
    }
}

impl FleetEngines {
    fn client(&self, worker: &HostName) -> Result<InferenceServiceClient<Channel>, Status> {
        let Some(channel) = self.fleet.channel(worker, DaemonKind::GpuWorker) else {
            let message = format!(
                "the gpu-worker of {worker} does not answer; see `labctl host show {worker}`"
            );
            return Err(fail(Code::Unavailable, Reason::HOST_UNREACHABLE, message));
        };
        Ok(InferenceServiceClient::new(channel)
            .max_decoding_message_size(PIECE_BYTES_MAX)
            .max_encoding_message_size(REQUEST_BYTES_MAX + REQUEST_SLACK_BYTES))
    }
}

fn contact(view: &WorkerView) -> Contact {
    match view.host_state {
        _ if view.connected => Contact::Connected,
        HostState::Asleep => Contact::Asleep,
        _ => Contact::Unreachable,
    }
}

fn message(view: &WorkerView, contact: Contact) -> String {
    match contact {
        Contact::Connected => String::new(),
        Contact::Asleep => "its host is off, as expected".to_owned(),
        Contact::Unreachable => format!("its host is {}", view.host_state),
    }
}
