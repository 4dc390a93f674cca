//! The backup-agents over gRPC.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt, stream::BoxStream};
use homelab_common::error_chain::Chain;
use homelab_domain::{
    ids::{BackupName, HostName, RepositoryName, RunId},
    reason::{Failure, Reason},
    run::{RunKind, RunOutcome},
    site::DaemonKind,
};
use homelab_proto::{
    backup::v1::{self as pb, backup_service_client::BackupServiceClient},
    common::v1::{
        Failure as FailureMessage, GetNodeRequest, node_service_client::NodeServiceClient,
    },
};
use homelab_rpc::{dial::layer_of, status::reason_of};
use tokio::time::timeout;
use tonic::{Code, Status, transport::Channel};

use super::{
    agents::{
        BackupAgents, CallError, Listed, Order, Report, Reports, RepositoryFacts, RetentionOrder,
        Upkeep,
    },
    convert::{self, Senseless},
};
use crate::fleet::Fleet;

/// Largest message of an agent, in bytes: a manifest of some 50,000 tables.
const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// How long a question that is no run may take.
const QUESTION_MAX: Duration = Duration::from_secs(60);

/// Snapshots that are asked for at once.
const PAGE_SIZE_MAX: usize = 1_000;

/// How long a retention plan may take.
const RETENTION_MAX: Duration = Duration::from_secs(600);

/// How long an agent may take to say who it is.
const NODE_MAX: Duration = Duration::from_secs(10);

/// Where channels to backup-agents come from.
pub trait Channels: fmt::Debug + Send + Sync {
    /// A channel to the backup-agent of a host; otherwise why there is none, for people.
    fn channel(&self, host: &HostName) -> Result<Channel, String>;
}

impl Channels for Fleet {
    fn channel(&self, host: &HostName) -> Result<Channel, String> {
        if let Some(channel) = Self::channel(self, host, DaemonKind::BackupAgent) {
            return Ok(channel);
        }
        let view = self.host(host);
        let daemon = view.as_ref().and_then(|view| view.daemon(DaemonKind::BackupAgent));
        Err(match daemon {
            Some(daemon) if !daemon.message.is_empty() => daemon.message.clone(),
            Some(_) => "it does not answer".to_owned(),
            None => "the site file gives the host no backup-agent".to_owned(),
        })
    }
}

/// The backup-agents over gRPC. Clones share the channels.
#[derive(Clone, Debug)]
pub struct GrpcAgents {
    channels: Arc<dyn Channels>,
}

impl GrpcAgents {
    /// Calls over these channels.
    #[must_use]
    pub fn new(channels: Arc<dyn Channels>) -> Self {
        Self { channels }
    }

    /// A client of the agent of a host, for what is passed on as it is.
    ///
    /// # Errors
    ///
    /// The agent does not answer.
    pub fn client(&self, host: &HostName) -> Result<BackupServiceClient<Channel>, CallError> {
        let client = BackupServiceClient::new(self.channel(host)?);
        Ok(client.max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    fn channel(&self, host: &HostName) -> Result<Channel, CallError> {
        let unreachable = |why| CallError::Unreachable { host: host.clone(), why };
        self.channels.channel(host).map_err(unreachable)
    }

    /// Sends an order, as it is or only to be checked, and gives what the agent says to it.
    async fn send(&self, order: &Order, validate_only: bool) -> Result<Answers, CallError> {
        let host = &order.host;
        let (request_id, backup) = (order.run.to_string(), order.backup.to_string());
        let mut client = self.client(host)?;
        let refused = |status| judge(host, &status);
        match order.kind {
            RunKind::Backup => {
                let request = pb::RunBackupRequest { request_id, validate_only, backup };
                let stream = client.run_backup(request).await.map_err(refused)?.into_inner();
                Ok(answers(host, stream, of_backup))
            }
            RunKind::Drill => {
                let snapshot_id = order.snapshot_id.clone().unwrap_or_default();
                let target = order.target.as_ref().map(ToString::to_string).unwrap_or_default();
                let request = pb::RunDrillRequest {
                    request_id,
                    validate_only,
                    backup,
                    snapshot_id,
                    target,
                    repository: order
                        .repository
                        .as_ref()
                        .map(ToString::to_string)
                        .unwrap_or_default(),
                };
                let stream = client.run_drill(request).await.map_err(refused)?.into_inner();
                Ok(answers(host, stream, of_drill))
            }
        }
    }
}

/// What an agent says to an order.
enum Answer {
    Report(Report),
    Checked(Vec<String>),
}

type Answers = BoxStream<'static, Result<Answer, CallError>>;

#[async_trait]
impl BackupAgents for GrpcAgents {
    fn answers(&self, host: &HostName) -> Result<(), String> {
        self.channels.channel(host).map(drop)
    }

    async fn uptime(&self, host: &HostName) -> Result<Duration, CallError> {
        let mut node = NodeServiceClient::new(self.channel(host)?);
        let answer = within(host, NODE_MAX, node.get_node(GetNodeRequest {})).await?;
        let (now, started_at) = (answer.now.as_ref(), answer.started_at.as_ref());
        let age = convert::time(now)
            .zip(convert::time(started_at))
            .and_then(|(now, started_at)| Duration::try_from(now.duration_since(started_at)).ok());
        age.ok_or_else(|| CallError::Lost {
            host: host.clone(),
            why: Senseless("node.started_at").to_string(),
        })
    }

    async fn run(&self, order: &Order) -> Result<Reports, CallError> {
        let answers = self.send(order, false).await?;
        let reports = answers.try_filter_map(async |answer| match answer {
            Answer::Report(report) => Ok(Some(report)),
            Answer::Checked(_) => Ok(None),
        });
        Ok(reports.boxed())
    }

    async fn check(&self, order: &Order) -> Result<Vec<String>, CallError> {
        let mut answers = self.send(order, true).await?;
        while let Some(answer) = answers.next().await {
            match answer? {
                Answer::Checked(findings) => return Ok(findings),
                Answer::Report(Report::Ended(RunOutcome::Failed(failure))) => {
                    return Err(CallError::Refused { host: order.host.clone(), failure });
                }
                Answer::Report(_) => {}
            }
        }
        // A drill has nothing to tell when nothing is in its way.
        Ok(Vec::new())
    }

    async fn snapshots(
        &self,
        host: &HostName,
        repository: &RepositoryName,
        backup: &BackupName,
        limit: u16,
    ) -> Result<Vec<Listed>, CallError> {
        let mut client = self.client(host)?;
        let (mut listed, mut page_token) = (Vec::new(), String::new());
        loop {
            let left = usize::from(limit).saturating_sub(listed.len()).min(PAGE_SIZE_MAX);
            let request = pb::ListSnapshotsRequest {
                repository: repository.to_string(),
                backup: backup.to_string(),
                page_size: i32::try_from(left).unwrap_or(i32::MAX),
                page_token,
            };
            let answer = within(host, QUESTION_MAX, client.list_snapshots(request)).await?;
            for message in &answer.snapshots {
                listed.push(convert::listed(message).map_err(|error| CallError::Refused {
                    host: host.clone(),
                    failure: convert::senseless(error),
                })?);
            }
            page_token = answer.next_page_token;
            if page_token.is_empty() || listed.len() >= usize::from(limit) {
                return Ok(listed);
            }
        }
    }

    async fn repository(
        &self,
        host: &HostName,
        repository: &RepositoryName,
    ) -> Result<RepositoryFacts, CallError> {
        let request = pb::GetRepositoryRequest { repository: repository.to_string() };
        let mut client = self.client(host)?;
        let answer = within(host, QUESTION_MAX, client.get_repository(request)).await?;
        Ok(convert::repository(&answer.repository.unwrap_or_default()))
    }

    async fn retain(&self, host: &HostName, order: &RetentionOrder) -> Result<(), CallError> {
        let request = pb::ApplyRetentionRequest {
            digest: order.digest.clone(),
            repository: order.repository.to_string(),
            backup: order.backup.to_string(),
            expected: order.expected.clone(),
            quarantine: order.quarantine.clone(),
            rescue: order.rescue.clone(),
            delete: order.delete.clone(),
            quarantine_min: Some(convert::span_message(order.quarantine_min)),
            floor: order.floor,
            validate_only: order.validate_only,
        };
        let mut client = self.client(host)?;
        within(host, RETENTION_MAX, client.apply_retention(request)).await.map(drop)
    }

    async fn keep_up(
        &self,
        host: &HostName,
        repository: &RepositoryName,
        id: RunId,
        work: Upkeep,
    ) -> Result<Vec<String>, CallError> {
        let (request_id, repository) = (id.to_string(), repository.to_string());
        let mut client = self.client(host)?;
        let judged = |status: Status| judge(host, &status);
        match work {
            Upkeep::Scrub { parts } => {
                let request = pb::VerifyRepositoryRequest {
                    request_id,
                    repository,
                    read_data: true,
                    part: 0,
                    parts,
                };
                let stream = client.verify_repository(request).await.map_err(judged)?.into_inner();
                last(host, stream, |message| match message.event? {
                    pb::verify_repository_response::Event::Report(report) => {
                        Some(Ok(report.problems))
                    }
                    pb::verify_repository_response::Event::Failure(failure) => Some(Err(failure)),
                    pb::verify_repository_response::Event::Progress(_) => None,
                })
                .await
            }
            Upkeep::Prune => {
                let request =
                    pb::PruneRepositoryRequest { request_id, validate_only: false, repository };
                let stream = client.prune_repository(request).await.map_err(judged)?.into_inner();
                last(host, stream, |message| match message.event? {
                    pb::prune_repository_response::Event::Report(_) => Some(Ok(Vec::new())),
                    pb::prune_repository_response::Event::Failure(failure) => Some(Err(failure)),
                    pb::prune_repository_response::Event::Progress(_) => None,
                })
                .await
            }
        }
    }
}

/// What the message of a stream says that is its last.
async fn last<M, T>(
    host: &HostName,
    mut stream: tonic::Streaming<M>,
    read: impl Fn(M) -> Option<Result<T, FailureMessage>>,
) -> Result<T, CallError> {
    while let Some(message) = stream.next().await {
        match read(message.map_err(|status| judge(host, &status))?) {
            Some(Ok(end)) => return Ok(end),
            Some(Err(failure)) => {
                let failure = convert::failure(failure);
                return Err(CallError::Refused { host: host.clone(), failure });
            }
            None => {}
        }
    }
    let why = "it ended the call without saying how the work ended".to_owned();
    Err(CallError::Lost { host: host.clone(), why })
}

/// A question with one answer.
async fn within<T>(
    host: &HostName,
    limit: Duration,
    answer: impl Future<Output = Result<tonic::Response<T>, Status>>,
) -> Result<T, CallError> {
    match timeout(limit, answer).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(judge(host, &status)),
        Err(_) => {
            let why = format!("no answer within {} s", limit.as_secs());
            Err(CallError::Lost { host: host.clone(), why })
        }
    }
}

fn answers<M: Send + 'static>(
    host: &HostName,
    stream: tonic::Streaming<M>,
    read: fn(M) -> Option<Answer>,
) -> Answers {
    let host = host.clone();
    let each = stream.map(move |message| message.map(read).map_err(|status| judge(&host, &status)));
    each.try_filter_map(async |answer| Ok(answer)).boxed()
}

fn of_backup(message: pb::RunBackupResponse) -> Option<Answer> {
    use pb::run_backup_response::Event;
    message.event.map(|event| match event {
        Event::Progress(progress) => said(Report::Progress(convert::progress(progress))),
        Event::Failure(failure) => ended(convert::failed(failure)),
        Event::Validation(validation) => Answer::Checked(validation.findings),
        Event::Snapshot(snapshot) => match convert::snapshot(&snapshot) {
            Ok(fact) => ended(RunOutcome::Stored(fact)),
            Err(error) => ended(RunOutcome::Failed(convert::senseless(error))),
        },
    })
}

fn of_drill(message: pb::RunDrillResponse) -> Option<Answer> {
    use pb::run_drill_response::Event;
    message.event.map(|event| match event {
        Event::Progress(progress) => said(Report::Progress(convert::progress(progress))),
        Event::Failure(failure) => ended(convert::failed(failure)),
        Event::Report(report) => match convert::drill(&report) {
            Ok(fact) => ended(RunOutcome::Drilled(fact)),
            Err(error) => ended(RunOutcome::Failed(convert::senseless(error))),
        },
    })
}

fn said(report: Report) -> Answer {
    Answer::Report(report)
}

fn ended(outcome: RunOutcome) -> Answer {
    Answer::Report(Report::Ended(outcome))
}

/// What a status says of a call. Only an answer that the agent itself gave, and would give again,
/// is a refusal: everything else leaves open what became of the call.
pub(crate) fn judge(host: &HostName, status: &Status) -> CallError {
    let host = host.clone();
    if let Some((layer, words)) = layer_of(status) {
        return CallError::Unreachable { host, why: format!("{layer}: {words}") };
    }
    let settled = matches!(
        status.code(),
        Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
    );
    match reason_of(status).and_then(|reason| Reason::try_new(reason).ok()) {
        Some(reason) if settled => {
            let message = status.message().to_owned();
            CallError::Refused { host, failure: Failure { reason, message, retryable: false } }
        }
        _ => CallError::Lost { host, why: words(status) },
    }
}

fn words(status: &Status) -> String {
    match status.message() {
        "" => Chain(status).to_string(),
        message => message.to_owned(),
    }
}
