//! `homelab.agent.v1.PowerService`.

use std::error::Error as _;
use std::sync::Arc;

use homelab_common::error_chain::Chain;
use homelab_proto::agent::v1::power_service_server::PowerService;
use homelab_proto::agent::v1::{self as pb};
use homelab_rpc::node::to_proto;
use homelab_rpc::status::{Failure, Reason, fail};
use jiff::Timestamp;
use tonic::{Code, Request, Response, Status, async_trait};
use tracing::{info, warn};

use crate::power::{Asked, Fact, Mac, Mode, Power, SendError, SleepError, send};

/// Longest id of a call.
const REQUEST_ID_MAX: usize = 64;

const SLEEP_REFUSED: Reason = Reason::named("SLEEP_REFUSED");
const NO_INTERFACE: Reason = Reason::named("NO_INTERFACE");

/// The service.
#[derive(Clone, Debug)]
pub struct PowerApi {
    power: Arc<Power>,
}

impl PowerApi {
    /// Serves `power`.
    #[must_use]
    pub const fn new(power: Arc<Power>) -> Self {
        Self { power }
    }

    async fn sleep(&self, mode: Mode, asked: Asked) -> Result<Timestamp, Status> {
        let rule = "a UUID chosen by the caller";
        if asked.request_id.is_empty() || asked.request_id.len() > REQUEST_ID_MAX {
            let message = format!("`request_id` is missing or too long: {rule}");
            return Err(Failure::invalid(message).field("request_id", rule).into());
        }
        let (fence, only) = (asked.fence, asked.validate_only);
        let slept = self.power.sleep(mode, asked).await;
        match &slept {
            Ok(_) if !only => warn!(?mode, fence, "this host goes to sleep"),
            Ok(_) => {}
            Err(error) => info!(?mode, fence, error = %Chain(error), "this host stays awake"),
        }
        slept.map_err(sleep_status)
    }
}

#[async_trait]
impl PowerService for PowerApi {
    async fn get_power_state(
        &self,
        _request: Request<pb::GetPowerStateRequest>,
    ) -> Result<Response<pb::GetPowerStateResponse>, Status> {
        let state = self.power.look().await;
        Ok(Response::new(pb::GetPowerStateResponse {
            wake_armed: state.wake_armed,
            vetoes: state.facts.iter().map(|fact| fact.message.clone()).collect(),
            awake_since: state.awake_since.map(to_proto),
            facts: state.facts.iter().map(veto).collect(),
            may_sleep: Some(self.power.may_sleep()),
        }))
    }

    async fn wake(
        &self,
        request: Request<pb::WakeRequest>,
    ) -> Result<Response<pb::WakeResponse>, Status> {
        let request = request.into_inner();
        let mac: Mac = request.mac.parse().map_err(|error| {
            let message = format!("`mac` is not valid: {error}");
            Status::from(Failure::invalid(message).field("mac", format!("{error}")))
        })?;
        let interface = (!request.interface.is_empty()).then_some(request.interface.as_str());
        let sent = send(mac, interface).map_err(send_status)?;
        info!(%mac, interfaces = ?sent.interfaces, "magic packets were sent");
        Ok(Response::new(pb::WakeResponse { packets: sent.packets, interfaces: sent.interfaces }))
    }

    async fn power_off(
        &self,
        request: Request<pb::PowerOffRequest>,
    ) -> Result<Response<pb::PowerOffResponse>, Status> {
        let pb::PowerOffRequest { request_id, validate_only, fence } = request.into_inner();
        let at = self.sleep(Mode::PowerOff, Asked { request_id, validate_only, fence }).await?;
        Ok(Response::new(pb::PowerOffResponse { at: Some(to_proto(at)) }))
    }

    async fn suspend(
        &self,
        request: Request<pb::SuspendRequest>,
    ) -> Result<Response<pb::SuspendResponse>, Status> {
        let pb::SuspendRequest { request_id, validate_only, fence } = request.into_inner();
        let at = self.sleep(Mode::Suspend, Asked { request_id, validate_only, fence }).await?;
        Ok(Response::new(pb::SuspendResponse { at: Some(to_proto(at)) }))
    }

    async fn void_sleep(
        &self,
        request: Request<pb::VoidSleepRequest>,
    ) -> Result<Response<pb::VoidSleepResponse>, Status> {
        let fence = request.into_inner().fence;
        let obeyed = self.power.void(fence).await.map_err(sleep_status)?;
        info!(fence, "orders to sleep under a lower fence are void");
        Ok(Response::new(pb::VoidSleepResponse {
            obeyed_fence: obeyed.map(|obeyed| obeyed.fence),
            obeyed_at: obeyed.map(|obeyed| to_proto(obeyed.at)),
        }))
    }
}

fn veto(fact: &Fact) -> pb::PowerVeto {
    pb::PowerVeto { reason: fact.word.as_str().to_owned(), message: fact.message.clone() }
}

fn sleep_status(error: SleepError) -> Status {
    let refused = |reason| Failure::new(Code::FailedPrecondition, reason, error.to_string());
    match &error {
        SleepError::Vetoed(facts) => facts
            .iter()
            .fold(refused(SLEEP_REFUSED), |failure, fact| {
                failure.precondition("VETO", fact.word.as_str(), fact.message.clone())
            })
            .into(),
        SleepError::Stale { have, got } => refused(Reason::STALE_GENERATION)
            .with("have", have.to_string())
            .with("got", got.to_string())
            .into(),
        SleepError::Refused(_) | SleepError::Ledger(_) => {
            let why = error.source().map(|source| format!(": {}", Chain(source)));
            let message = format!("this host stays on: {error}{}", why.unwrap_or_default());
            fail(Code::Unavailable, SLEEP_REFUSED, message)
        }
    }
}

fn send_status(error: SendError) -> Status {
    let message = format!("nothing was sent: {}", Chain(&error));
    match error {
        SendError::NoInterface(_) => fail(Code::FailedPrecondition, NO_INTERFACE, message),
        SendError::Io { .. } | SendError::List(_) => fail(Code::Unavailable, NO_INTERFACE, message),
    }
}
