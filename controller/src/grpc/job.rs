//! `JobService`.

pub(crate) mod convert;

use std::pin::Pin;

use futures_util::Stream;
use homelab_domain::{
    ids::{JobId, RequestId},
    job::Job,
    reason::Reason as Stays,
};
use homelab_proto::controller::v1 as pb;
use homelab_rpc::{
    guard::request_id,
    peer::Peer,
    status::{Failure, Reason, fail},
};
use homelab_store::{JobError, JobFilter, PageRequest, StoreError};
use pb::job_service_server::JobService;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::{context, status::IntoStatus as _};
use crate::documents::Documents;
use crate::job::{
    Jobs, RetryError, SubmitError,
    follow::{FollowError, Follower, Told},
    submission::Refused,
};

pub(crate) use self::convert::job;

/// Messages to one watcher that are on their way.
const WATCH_WAITING_MAX: usize = 16;

/// The jobs, over gRPC.
#[derive(Clone, Debug)]
pub struct JobApi {
    jobs: Jobs,
    documents: Documents,
}

impl JobApi {
    /// Serves `jobs`, which may be given passages of `documents`.
    #[must_use]
    pub const fn new(jobs: Jobs, documents: Documents) -> Self {
        Self { jobs, documents }
    }

    async fn whole(&self, job: &Job) -> Result<pb::Job, Status> {
        let answer = self.jobs.answer(job.id()).await.map_err(store_status)?;
        let read = self.jobs.energy_of(job.id()).await.map_err(store_status)?;
        Ok(pb::Job { answer, ..convert::with_energy(convert::job(job), read) })
    }

    async fn explanation(&self, job: &Job) -> Result<pb::JobExplanation, Status> {
        let explanation = self.jobs.explain(job).await.map_err(store_status)?;
        let outside = self.jobs.outlook(job).await;
        Ok(pb::JobExplanation { outside, ..convert::explanation(explanation) })
    }

    async fn find(&self, id: &str) -> Result<(Job, Vec<homelab_domain::job::JobEvent>), Status> {
        let id = job_id(id)?;
        let found = self.jobs.get(id).await.map_err(store_status)?;
        found.ok_or_else(|| not_found(id))
    }
}

#[tonic::async_trait]
impl JobService for JobApi {
    async fn submit_job(
        &self,
        request: Request<pb::SubmitJobRequest>,
    ) -> Result<Response<pb::SubmitJobResponse>, Status> {
        let caller = caller(&request);
        let call = request_id(&request).to_owned();
        let mut request = request.into_inner();
        let validate_only = request.validate_only;
        let wish = request.context.take().map(context::wish);
        let mut submission = convert::submission(request, caller)?;
        if let Some(wish) = wish {
            let attached = self.documents.attach(submission.request, &wish).await;
            submission.request = attached.map_err(|error| context::attach_status(error, &call))?;
        }
        let job = if validate_only {
            Job::submit(self.jobs.check(submission).await.map_err(refused_status)?)
        } else {
            self.jobs.submit(submission).await.map_err(submit_status)?.job
        };
        let explanation = Some(self.explanation(&job).await?);
        Ok(Response::new(pb::SubmitJobResponse { job: Some(convert::job(&job)), explanation }))
    }

    async fn get_job(
        &self,
        request: Request<pb::GetJobRequest>,
    ) -> Result<Response<pb::GetJobResponse>, Status> {
        let (job, events) = self.find(&request.get_ref().job_id).await?;
        let job = if job.state().kind().is_final() {
            self.whole(&job).await?
        } else {
            convert::job(&job)
        };
        let events = events.iter().map(convert::event).collect();
        Ok(Response::new(pb::GetJobResponse { job: Some(job), events }))
    }

    async fn list_jobs(
        &self,
        request: Request<pb::ListJobsRequest>,
    ) -> Result<Response<pb::ListJobsResponse>, Status> {
        let request = request.into_inner();
        let page =
            PageRequest::try_new(request.page_size, &request.page_token).map_err(|error| {
                Status::from(
                    Failure::invalid("the page token is not valid")
                        .field("page_token", error.to_string()),
                )
            })?;
        let filter = JobFilter { states: convert::states(&request)? };
        let page = self.jobs.list(&filter, &page).await.map_err(store_status)?;
        Ok(Response::new(pb::ListJobsResponse {
            next_page_token: page.next_token(),
            jobs: page.items.iter().map(job).collect(),
        }))
    }

    type WatchJobStream = Pin<Box<dyn Stream<Item = Result<pb::WatchJobResponse, Status>> + Send>>;

    async fn watch_job(
        &self,
        request: Request<pb::WatchJobRequest>,
    ) -> Result<Response<Self::WatchJobStream>, Status> {
        let request = request.into_inner();
        let (job, events) = self.find(&request.job_id).await?;
        let follower = self.jobs.follow(job.id(), request.from_index, request.attempt);
        let (sender, receiver) = tokio::sync::mpsc::channel(WATCH_WAITING_MAX);
        let api = self.clone();
        let stopping = self.jobs.parts().tasks.stopping();
        self.jobs.parts().tasks.spawn(async move {
            // Fails when the caller has gone, which also ends the work.
            tokio::select! {
                () = sender.closed() => {}
                () = stopping.cancelled() => {
                    let message = "the controller is stopping; follow the job again in a moment";
                    let stopping = fail(Code::Unavailable, Reason::STOPPING, message);
                    // Without room for it the caller sees the connection end, which says the same.
                    let _sent = sender.try_send(Err(stopping));
                }
                _gone = tell_all(&api, follower, &events, &sender) => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn cancel_job(
        &self,
        request: Request<pb::CancelJobRequest>,
    ) -> Result<Response<pb::CancelJobResponse>, Status> {
        let caller = caller(&request);
        let id = job_id(&request.get_ref().job_id)?;
        self.find(&request.get_ref().job_id).await?;
        let job = self.jobs.cancel(id, &caller).await.map_err(job_status)?;
        Ok(Response::new(pb::CancelJobResponse { job: Some(convert::job(&job)) }))
    }

    async fn retry_job(
        &self,
        request: Request<pb::RetryJobRequest>,
    ) -> Result<Response<pb::RetryJobResponse>, Status> {
        let caller = caller(&request);
        let request = request.into_inner();
        let call: RequestId =
            request.request_id.parse().map_err(|error| invalid("request_id", error))?;
        let job =
            self.jobs.retry(job_id(&request.job_id)?, call, &caller).await.map_err(retry_status)?;
        Ok(Response::new(pb::RetryJobResponse { job: Some(convert::job(&job)) }))
    }

    async fn explain_job(
        &self,
        request: Request<pb::ExplainJobRequest>,
    ) -> Result<Response<pb::ExplainJobResponse>, Status> {
        let (job, _) = self.find(&request.get_ref().job_id).await?;
        let explanation = Some(self.explanation(&job).await?);
        Ok(Response::new(pb::ExplainJobResponse { job: Some(convert::job(&job)), explanation }))
    }

    async fn plan_jobs(
        &self,
        _request: Request<pb::PlanJobsRequest>,
    ) -> Result<Response<pb::PlanJobsResponse>, Status> {
        let queues = self.jobs.forecast().await.map_err(store_status)?;
        let queues = queues.into_iter().map(convert::queue_plan).collect();
        Ok(Response::new(pb::PlanJobsResponse { queues }))
    }

    async fn list_tier_models(
        &self,
        _request: Request<pb::ListTierModelsRequest>,
    ) -> Result<Response<pb::ListTierModelsResponse>, Status> {
        let models = self.jobs.models().iter().map(convert::tier_model).collect();
        Ok(Response::new(pb::ListTierModelsResponse { models }))
    }

    async fn list_workers(
        &self,
        _request: Request<pb::ListWorkersRequest>,
    ) -> Result<Response<pb::ListWorkersResponse>, Status> {
        let workers = self.jobs.workers().iter().map(convert::worker).collect();
        Ok(Response::new(pb::ListWorkersResponse { workers }))
    }
}

type Sender = tokio::sync::mpsc::Sender<Result<pb::WatchJobResponse, Status>>;

/// Tells a watcher the history, then everything as it happens. Ends early when the caller has gone.
async fn tell_all(
    api: &JobApi,
    mut follower: Follower,
    events: &[homelab_domain::job::JobEvent],
    sender: &Sender,
) -> Option<()> {
    let mut told_last = None;
    for event in events {
        told_last = Some((event.at, event.state));
        sender.send(Ok(convert::watch_state(event))).await.ok()?;
    }
    loop {
        let message = match follower.next().await {
            Ok(Some(Told::State(event))) if Some((event.at, event.state)) == told_last => continue,
            Ok(Some(Told::State(event))) => Ok(convert::watch_state(&event)),
            Ok(Some(Told::Piece(piece))) => Ok(convert::watch_piece(&piece, follower.told_of())),
            Ok(Some(Told::Restarted(attempt))) => Ok(convert::watch_restarted(attempt)),
            Ok(Some(Told::Ended(job))) => api.whole(&job).await.map(convert::watch_end),
            Ok(None) => return Some(()),
            Err(FollowError::NotFound(id)) => Err(not_found(id)),
            Err(FollowError::Store(error)) => Err(store_status(error)),
        };
        let is_last = message.is_err();
        sender.send(message).await.ok()?;
        if is_last {
            return Some(());
        }
    }
}

/// The caller's SPIFFE id; the guard has let in nobody without one.
fn caller<T>(request: &Request<T>) -> String {
    request.extensions().get::<Peer>().map_or_else(|| "stranger".to_owned(), ToString::to_string)
}

fn job_id(text: &str) -> Result<JobId, Status> {
    text.parse().map_err(|error| invalid("job_id", error))
}

fn invalid(field: &'static str, error: impl std::fmt::Display) -> Status {
    Failure::invalid(format!("`{field}` is not valid: {error}"))
        .field(field, error.to_string())
        .into()
}

fn not_found(id: JobId) -> Status {
    let message = format!("there is no job {id}; `labctl job list` shows those that there are");
    fail(Code::NotFound, Reason::JOB_NOT_FOUND, message)
}

fn submit_status(error: SubmitError) -> Status {
    match error {
        SubmitError::Refused(refused) => refused_status(refused),
        SubmitError::Full(_) => {
            fail(Code::ResourceExhausted, Reason::QUEUE_FULL, error.to_string())
        }
        SubmitError::OtherRequest(_) => invalid("request_id", &error),
        SubmitError::Store(error) => store_status(error),
    }
}

fn refused_status(refused: Refused) -> Status {
    match &refused {
        Refused::Field { field, rule } => invalid(field, rule),
        Refused::NoPlace { because, .. }
            if [Stays::GOLD_REFUSED, Stays::LOCAL_ONLY].contains(&because.reason) =>
        {
            fail(Code::PermissionDenied, GOLD_REFUSED, refused.to_string())
        }
        Refused::NoPlace { .. } => invalid("model", &refused),
        Refused::TierNotAllowed(_) => {
            fail(Code::PermissionDenied, TIER_NOT_ALLOWED, refused.to_string())
        }
    }
}

fn retry_status(error: RetryError) -> Status {
    match error {
        RetryError::OtherRequest(_) => invalid("request_id", &error),
        RetryError::Job(error) => job_status(error),
        RetryError::Store(error) => store_status(error),
    }
}

fn job_status(error: JobError) -> Status {
    match error {
        JobError::NotFound(id) => not_found(id),
        JobError::Refused(refused) => {
            let subject = refused.job.to_string();
            Failure::new(Code::FailedPrecondition, Reason::JOB_NOT_ENDED, refused.to_string())
                .precondition("JOB_STATE", subject, refused.why)
                .into()
        }
        JobError::Store(error) => store_status(error),
        _ => fail(
            Code::Internal,
            Reason::INTERNAL,
            "the job could not be changed; see the log of homelab-controller",
        ),
    }
}

fn store_status(error: StoreError) -> Status {
    error.into_status("JobService")
}

const TIER_NOT_ALLOWED: Reason = Reason::named("TIER_NOT_ALLOWED");
const GOLD_REFUSED: Reason = Reason::named("GOLD_REFUSED");
