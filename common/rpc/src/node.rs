//! `homelab.common.v1.NodeService`: what every daemon answers about itself.

use std::sync::{Arc, Mutex, PoisonError};

use homelab_common::{
    clock::Clock,
    lifecycle::Tasks,
    telemetry::{Telemetry, TelemetryError},
    tls::IdentityHandle,
};
use homelab_proto::common::v1::{
    GetNodeRequest, GetNodeResponse, PutDenyListRequest, PutDenyListResponse, SetLogLevelRequest,
    SetLogLevelResponse, node_service_server::NodeService,
};
use jiff::Timestamp;
use tonic::{Code, Request, Response, Status, async_trait};

use crate::{
    deny_list::{DenyList, DenyListError},
    guard,
    not_built::NotBuilt,
    peer::SpiffeId,
    status::{Failure, Reason, fail, internal},
};

/// What a daemon says about itself.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Its certificate.
    pub identity: IdentityHandle,
    /// Its version.
    pub version: &'static str,
    /// Names of features that a peer may rely on.
    pub features: Vec<String>,
    /// To change the log level; without it, that is refused.
    pub log: Option<LogHandle>,
}

/// The log of the process, with the level that it has.
#[derive(Clone, Debug)]
pub struct LogHandle {
    telemetry: Telemetry,
    level: Arc<Mutex<String>>,
}

impl LogHandle {
    /// Begins with the level that the log was set up with.
    #[must_use]
    pub fn new(telemetry: Telemetry, level: &str) -> Self {
        Self { telemetry, level: Arc::new(Mutex::new(level.into())) }
    }

    /// Changes the level and gives the one before.
    ///
    /// # Errors
    ///
    /// The level is not understood.
    pub fn replace(&self, level: &str) -> Result<String, TelemetryError> {
        let mut held = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        self.telemetry.set_level(level)?;
        Ok(std::mem::replace(&mut held, level.into()))
    }
}

/// The service.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: SpiffeId,
    pub(crate) options: NodeOptions,
    pub(crate) started_at: Timestamp,
    pub(crate) deny_list: DenyList,
    pub(crate) not_built: &'static [NotBuilt],
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tasks: Tasks,
}

#[async_trait]
impl NodeService for Node {
    async fn get_node(
        &self,
        _request: Request<GetNodeRequest>,
    ) -> Result<Response<GetNodeResponse>, Status> {
        let not_after = self.options.identity.current().facts().not_after;
        Ok(Response::new(GetNodeResponse {
            identity: self.id.to_string(),
            version: self.options.version.into(),
            features: self.options.features.clone(),
            started_at: Some(to_proto(self.started_at)),
            certificate_not_after: Some(to_proto(not_after)),
            deny_list_epoch: self.deny_list.epoch(),
            not_built_yet: self.not_built.iter().map(|row| row.method.into()).collect(),
            now: Some(to_proto(self.clock.now())),
        }))
    }

    async fn put_deny_list(
        &self,
        request: Request<PutDenyListRequest>,
    ) -> Result<Response<PutDenyListResponse>, Status> {
        let id = guard::request_id(&request).to_owned();
        let PutDenyListRequest { deny_list, signature } = request.into_inner();
        let held = self.deny_list.clone();
        // The first certificate is ours, the others are the CAs above it.
        let issuers = self.options.identity.current().chain().get(1..).unwrap_or_default().to_vec();
        let put = move || held.put(&deny_list, &signature, &issuers);
        let taken = match self.tasks.blocking(put).await {
            Ok(Ok(taken)) => taken,
            Ok(Err(error)) => return Err(refused(&error, &id)),
            Err(abandoned) => return Err(internal(&abandoned, &id)),
        };
        let epoch = taken.epoch;
        tracing::info!(epoch, closed = taken.closed_connections, "took over a deny list");
        let closed_connections = taken.closed_connections;
        Ok(Response::new(PutDenyListResponse { epoch, closed_connections }))
    }

    async fn set_log_level(
        &self,
        request: Request<SetLogLevelRequest>,
    ) -> Result<Response<SetLogLevelResponse>, Status> {
        let level = request.into_inner().level;
        let Some(log) = &self.options.log else {
            let message = "the log of this process is not in the hands of this daemon";
            return Err(fail(Code::FailedPrecondition, Reason::METHOD_NOT_OPEN, message));
        };
        let previous_level = log.replace(&level).map_err(|error| {
            let what = error.to_string();
            Status::from(Failure::invalid(what.clone()).field("level", what))
        })?;
        tracing::info!(%level, %previous_level, "changed the log level");
        Ok(Response::new(SetLogLevelResponse { previous_level }))
    }
}

/// As in the protocol.
#[must_use]
pub fn to_proto(at: Timestamp) -> prost_types::Timestamp {
    let nanos = at.subsec_nanosecond();
    // Before 1970, jiff counts the fraction downwards and the protocol upwards.
    if nanos < 0 {
        return prost_types::Timestamp {
            seconds: at.as_second() - 1,
            nanos: nanos + 1_000_000_000,
        };
    }
    prost_types::Timestamp { seconds: at.as_second(), nanos }
}

/// From the protocol; `None` when it is outside of what a [`Timestamp`] can hold.
#[must_use]
pub fn from_proto(at: &prost_types::Timestamp) -> Option<Timestamp> {
    Timestamp::new(at.seconds, at.nanos).ok()
}

fn refused(error: &DenyListError, request_id: &str) -> Status {
    match error {
        DenyListError::Malformed { what } => {
            Failure::invalid(error.to_string()).field("deny_list", what).into()
        }
        DenyListError::Signature => {
            fail(Code::PermissionDenied, Reason::SIGNATURE_INVALID, error.to_string())
        }
        DenyListError::Stale { have, got } => {
            Failure::new(Code::Aborted, Reason::STALE_GENERATION, error.to_string())
                .with("have", have.to_string())
                .with("got", got.to_string())
                .into()
        }
        DenyListError::Keep(_) => internal(error, request_id),
    }
}
