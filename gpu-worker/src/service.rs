//! `homelab.inference.v1.InferenceService`.

mod chat;
mod load;
mod watch;
mod whole;

use std::time::Duration;

use bytes::Bytes;
use homelab_common::lifecycle::Tasks;
use homelab_proto::inference::v1::{
    self as pb,
    inference_service_server::{InferenceService, InferenceServiceServer},
};
use homelab_rpc::{guard::UNARY_MAX, not_built::NotBuilt};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, adapters::Map, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, async_trait};

use crate::{
    convert::{self, ChatRequest, Form, InvalidChat, REQUEST_BYTES_MAX},
    engine::session::Ask,
    worker::Worker,
};

/// Messages of a stream that wait for a slow caller; the engine's socket holds the rest.
const WAITING_MAX: usize = 64;

/// How long draining waits at most, and when the caller does not say: the answer must come before
/// the deadline of every unary call. Who wants to wait longer calls again.
const DRAIN_WAIT_MAX: Duration = UNARY_MAX.saturating_sub(Duration::from_secs(10));

/// Room for the fields around a JSON request.
const MESSAGE_BYTES_MAX: usize = REQUEST_BYTES_MAX + (64 << 10);

/// What is in the protocol and answers that it is not built yet.
pub const NOT_BUILT: &[NotBuilt] = &[];

/// The service.
#[derive(Debug, Clone)]
pub struct Inference {
    worker: Worker,
    tasks: Tasks,
}

impl Inference {
    /// Serves `worker`; answers are written by tasks of `tasks`.
    pub fn new(worker: Worker, tasks: Tasks) -> Self {
        Self { worker, tasks }
    }

    /// As a server can be given it, with its limits.
    pub fn into_server(self) -> InferenceServiceServer<Self> {
        InferenceServiceServer::new(self).max_decoding_message_size(MESSAGE_BYTES_MAX)
    }
}

impl Inference {
    /// Has a request answered piece by piece.
    fn answer(&self, chat: ChatRequest) -> Result<Answers<pb::ChatCompleteResponse>, Status> {
        let Ask { job, attempt, .. } = &chat.ask;
        let admission = self.worker.admit(&chat.model, job, *attempt, chat.reach)?;
        let (sender, answers) = channel();
        let energy = self.worker.energy().clone();
        self.tasks.spawn(chat::run(admission, energy, chat, sender));
        Ok(answers)
    }

    /// Has a request answered in one piece: its model, its form, the answer, the joules.
    async fn whole(
        &self,
        request: impl TryInto<ChatRequest, Error = InvalidChat>,
    ) -> Result<(String, Form, Bytes, Option<f64>), Status> {
        let request: ChatRequest = request.try_into()?;
        let (model, form) = (request.model.clone(), request.form);
        let Ask { job, attempt, .. } = &request.ask;
        let admission = self.worker.admit(&model, job, *attempt, request.reach)?;
        let (answer, joules) = whole::run(admission, self.worker.energy(), request).await?;
        Ok((model, form, answer, joules))
    }
}

type Answers<T> = ReceiverStream<Result<T, Status>>;
type Sender<T> = mpsc::Sender<Result<T, Status>>;

fn channel<T>() -> (Sender<T>, Answers<T>) {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    (sender, ReceiverStream::new(receiver))
}

fn answers<T>() -> (Sender<T>, Response<Answers<T>>) {
    let (sender, answers) = channel();
    (sender, Response::new(answers))
}

/// The one stream as the other: they differ in their name only.
fn as_completion(
    answer: Result<pb::ChatCompleteResponse, Status>,
) -> Result<pb::CompleteResponse, Status> {
    use pb::{chat_complete_response::Event as Chat, complete_response::Event};
    let pb::ChatCompleteResponse { event, openai_chunk } = answer?;
    let event = event.map(|event| match event {
        Chat::Delta(delta) => Event::Delta(delta),
        Chat::Done(done) => Event::Done(done),
        Chat::Failure(failure) => Event::Failure(failure),
    });
    Ok(pb::CompleteResponse { event, openai_chunk })
}

type Completions = Map<
    Answers<pb::ChatCompleteResponse>,
    fn(Result<pb::ChatCompleteResponse, Status>) -> Result<pb::CompleteResponse, Status>,
>;

#[async_trait]
impl InferenceService for Inference {
    type LoadModelStream = Answers<pb::LoadModelResponse>;
    type ChatCompleteStream = Answers<pb::ChatCompleteResponse>;
    type CompleteStream = Completions;
    type WatchWorkerStream = Answers<pb::WatchWorkerResponse>;

    async fn list_devices(
        &self,
        _request: Request<pb::ListDevicesRequest>,
    ) -> Result<Response<pb::ListDevicesResponse>, Status> {
        let devices = self.worker.devices().await.into_iter().map(Into::into).collect();
        Ok(Response::new(pb::ListDevicesResponse { devices }))
    }

    async fn list_models(
        &self,
        _request: Request<pb::ListModelsRequest>,
    ) -> Result<Response<pb::ListModelsResponse>, Status> {
        let readings = self.worker.devices().await;
        let models = self.worker.models(&readings).into_iter().map(Into::into).collect();
        Ok(Response::new(pb::ListModelsResponse { models }))
    }

    async fn load_model(
        &self,
        request: Request<pb::LoadModelRequest>,
    ) -> Result<Response<Self::LoadModelStream>, Status> {
        let pb::LoadModelRequest { model, busy_wait } = request.into_inner();
        let busy_wait = busy_wait.and_then(|wait| Duration::try_from(wait).ok());
        let loading = self.worker.load(&model, busy_wait)?;
        let (sender, response) = answers();
        self.tasks.spawn(load::run(loading, model, sender));
        Ok(response)
    }

    async fn unload_model(
        &self,
        request: Request<pb::UnloadModelRequest>,
    ) -> Result<Response<pb::UnloadModelResponse>, Status> {
        let model = self.worker.unload(&request.into_inner().model).await?;
        Ok(Response::new(pb::UnloadModelResponse { model: Some(model.into()) }))
    }

    async fn chat_complete(
        &self,
        request: Request<pb::ChatCompleteRequest>,
    ) -> Result<Response<Self::ChatCompleteStream>, Status> {
        let chat = ChatRequest::try_from(request.into_inner())?;
        Ok(Response::new(self.answer(chat)?))
    }

    async fn complete(
        &self,
        request: Request<pb::CompleteRequest>,
    ) -> Result<Response<Self::CompleteStream>, Status> {
        let text = ChatRequest::try_from(request.into_inner())?;
        Ok(Response::new(self.answer(text)?.map(as_completion)))
    }

    async fn embed(
        &self,
        request: Request<pb::EmbedRequest>,
    ) -> Result<Response<pb::EmbedResponse>, Status> {
        let (model, form, answer, joules) = self.whole(request.into_inner()).await?;
        let vectors = convert::embeddings(answer, form, joules);
        Ok(Response::new(vectors.map_err(|error| whole::garbled(&model, &error))?))
    }

    async fn rerank(
        &self,
        request: Request<pb::RerankRequest>,
    ) -> Result<Response<pb::RerankResponse>, Status> {
        let (model, form, answer, joules) = self.whole(request.into_inner()).await?;
        let ranking = convert::ranking(answer, form, joules);
        Ok(Response::new(ranking.map_err(|error| whole::garbled(&model, &error))?))
    }

    async fn get_worker(
        &self,
        _request: Request<pb::GetWorkerRequest>,
    ) -> Result<Response<pb::GetWorkerResponse>, Status> {
        let worker = Some(self.worker.snapshot().await.into());
        Ok(Response::new(pb::GetWorkerResponse { worker }))
    }

    async fn watch_worker(
        &self,
        _request: Request<pb::WatchWorkerRequest>,
    ) -> Result<Response<Self::WatchWorkerStream>, Status> {
        let (sender, response) = answers();
        self.tasks.spawn(watch::run(self.worker.clone(), self.tasks.stopping(), sender));
        Ok(response)
    }

    async fn drain(
        &self,
        request: Request<pb::DrainRequest>,
    ) -> Result<Response<pb::DrainResponse>, Status> {
        let pb::DrainRequest { drain, wait } = request.into_inner();
        let wait = wait.and_then(|wait| Duration::try_from(wait).ok()).unwrap_or(DRAIN_WAIT_MAX);
        let running = self.worker.drain(drain, wait.min(DRAIN_WAIT_MAX)).await;
        let jobs = self.worker.engines().into_iter().flat_map(|engine| engine.jobs).collect();
        Ok(Response::new(pb::DrainResponse { running, jobs }))
    }
}

#[cfg(test)]
mod tests {
    use homelab_rpc::not_built::strangers;

    use super::*;

    #[test]
    fn draining_is_answered_before_the_deadline_of_the_call() {
        assert!(DRAIN_WAIT_MAX < UNARY_MAX && !DRAIN_WAIT_MAX.is_zero(), "{DRAIN_WAIT_MAX:?}");
    }

    #[test]
    fn what_is_not_built_is_in_the_protocol() {
        assert_eq!(strangers(NOT_BUILT), Vec::<&str>::new());
    }
}
