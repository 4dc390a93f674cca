//! The queue over gRPC: submitting under an id of one's own, and following the text over connections
//! that break.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use homelab_common::tls::{Identity, IdentityHandle, Roots, TrustHandle};
use homelab_proto::controller::v1 as pb;
use homelab_rpc::{
    dial::{Dialer, Target},
    peer::{Kind, Peer},
};
use homelab_tests::lab::Lab;
use pb::{job_service_client::JobServiceClient, watch_job_response::Event};
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, transport::Channel};

/// Everything that was acknowledged must have ended by then.
const END_WITHIN: Duration = Duration::from_secs(150);
/// Between two tries while nobody answers.
const PAUSE: Duration = Duration::from_millis(100);

/// The way to the queue; every caller has its own channel.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    dialer: Dialer,
    target: Target,
}

impl Way {
    pub(crate) fn to(lab: &Lab) -> anyhow::Result<Self> {
        let identity = Identity::from_dir(lab.identity()).context("read the person's identity")?;
        let leaf = identity.chain().first().context("the person's certificate")?;
        let site = Peer::from_certificate(leaf).context("read the person's name")?.site().clone();
        let roots = Roots::from_dir(lab.identity()).context("read the roots")?;
        let dialer =
            Dialer::new(site, TrustHandle::new(roots)).identity(IdentityHandle::new(identity));
        let address = lab.ports().grpc();
        let target = Target {
            address: address.to_string(),
            server_name: address.ip().to_string(),
            kind: Kind::Controller,
            name: None,
        };
        Ok(Self { dialer, target })
    }

    /// Inside of a runtime.
    pub(crate) fn dial(&self) -> anyhow::Result<Watcher> {
        Ok(Watcher(JobServiceClient::new(self.dialer.dial(self.target.clone())?)))
    }
}

/// One who submits and follows jobs.
#[derive(Clone, Debug)]
pub(crate) struct Watcher(JobServiceClient<Channel>);

/// How far somebody has read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Read {
    attempt: u32,
    next: u32,
    /// The engine's identifier of the answer that the text is of.
    answer: Option<String>,
    pub(crate) text: String,
    /// Connections that it took.
    pub(crate) connections: u32,
}

impl Watcher {
    /// Submits until it is acknowledged, always under the same id.
    pub(crate) async fn submit(&mut self, id: &str, request: &Value) -> anyhow::Result<()> {
        let deadline = Instant::now() + END_WITHIN;
        loop {
            let request = pb::SubmitJobRequest {
                request_id: id.to_owned(),
                openai_request: request.to_string().into(),
                ..pb::SubmitJobRequest::default()
            };
            match timeout_at(deadline, self.0.submit_job(request)).await? {
                Ok(answer) => {
                    let job = answer.into_inner().job.unwrap_or_default().job_id;
                    ensure!(job == id, "submitted as {id} and acknowledged as {job}");
                    return Ok(());
                }
                Err(status) if is_passing(status.code()) => sleep(PAUSE).await,
                Err(status) => bail!("a job was refused: {status}"),
            }
        }
    }

    /// How a job stands, with its history.
    pub(crate) async fn look(&mut self, id: &str) -> anyhow::Result<pb::GetJobResponse> {
        let deadline = Instant::now() + END_WITHIN;
        loop {
            let request = pb::GetJobRequest { job_id: id.to_owned() };
            match timeout_at(deadline, self.0.get_job(request)).await? {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) if is_passing(status.code()) => sleep(PAUSE).await,
                Err(status) => bail!("job {id} is lost: {status}"),
            }
        }
    }

    /// Jobs that have not ended.
    pub(crate) async fn open(&mut self) -> anyhow::Result<Vec<pb::Job>> {
        let states = [
            pb::JobState::Queued,
            pb::JobState::Waiting,
            pb::JobState::Assigned,
            pb::JobState::Running,
        ];
        let request = pb::ListJobsRequest {
            states: states.map(i32::from).to_vec(),
            page_size: 1_000,
            ..pb::ListJobsRequest::default()
        };
        Ok(self.0.list_jobs(request).await?.into_inner().jobs)
    }

    /// Reads a job to its end over as many connections as it takes, hanging up by itself after each
    /// `piece_count` pieces.
    pub(crate) async fn read(
        &mut self,
        id: &str,
        piece_count: u32,
    ) -> anyhow::Result<(Read, pb::Job)> {
        let deadline = Instant::now() + END_WITHIN;
        let mut read = Read::default();
        loop {
            read.connections += 1;
            let reading = self.read_on(id, piece_count, &mut read);
            let ended = timeout_at(deadline, reading)
                .await
                .with_context(|| format!("job {id} did not end: {read:?}"))??;
            if let Some(job) = ended {
                return Ok((read, job));
            }
        }
    }

    async fn read_on(
        &mut self,
        id: &str,
        piece_count: u32,
        read: &mut Read,
    ) -> anyhow::Result<Option<pb::Job>> {
        let request = pb::WatchJobRequest {
            job_id: id.to_owned(),
            from_index: read.next,
            attempt: read.attempt,
        };
        let mut stream = match self.0.watch_job(request).await {
            Ok(stream) => stream.into_inner(),
            Err(status) if is_passing(status.code()) => {
                sleep(PAUSE).await;
                return Ok(None);
            }
            Err(status) => bail!("job {id} cannot be followed: {status}"),
        };
        let mut left = piece_count;
        while left > 0 {
            match stream.message().await {
                Ok(Some(message)) => {
                    if let Some(job) = read.take(id, message, &mut left)? {
                        return Ok(Some(job));
                    }
                }
                Ok(None) => bail!("the text of job {id} ended without its end"),
                Err(_broken) => return Ok(None),
            }
        }
        Ok(None)
    }
}

impl Read {
    fn take(
        &mut self,
        id: &str,
        message: pb::WatchJobResponse,
        left: &mut u32,
    ) -> anyhow::Result<Option<pb::Job>> {
        match message.event {
            Some(Event::Delta(delta)) => {
                ensure!(
                    delta.index == self.next,
                    "job {id}: piece {} came where {} was next",
                    delta.index,
                    self.next
                );
                let chunk: Value = serde_json::from_slice(&message.openai_chunk)?;
                let answer = chunk["id"].as_str().map(str::to_owned);
                ensure!(
                    self.next == 0 || self.answer == answer,
                    "job {id}: piece {} is of another answer than those before it: {answer:?} after {self:?}",
                    delta.index
                );
                self.answer = answer;
                self.attempt = message.attempt;
                self.next += 1;
                self.text.push_str(&delta.content);
                *left -= 1;
            }
            Some(Event::RestartedAttempt(_)) => {
                *self = Self { connections: self.connections, ..Self::default() };
            }
            Some(Event::Job(job)) => return Ok(Some(job)),
            Some(Event::State(_)) | None => {}
        }
        Ok(None)
    }
}

/// Whether it may go better in a moment. What a broken connection becomes depends on when it broke.
fn is_passing(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::Unknown
            | Code::Cancelled
            | Code::Internal
            | Code::DeadlineExceeded
    )
}
