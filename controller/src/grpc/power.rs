//! `PowerService`.

mod convert;

use std::{pin::Pin, sync::Arc};

use futures_util::Stream;
use homelab_common::lifecycle::Tasks;
use homelab_domain::{
    ids::HostName,
    power::{HeldState, sleep::Unproved},
};
use homelab_proto::controller::v1 as pb;
use homelab_rpc::{
    guard::request_id,
    node::from_proto,
    peer::Peer,
    status::{Failure, Reason, fail},
};
use jiff::Timestamp;
use pb::power_service_server::PowerService;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::status::IntoStatus as _;
use crate::power::{
    Powers,
    board::{PowerState, Standing},
    person::{DAYS_MAX, Go, PersonError},
};

/// Messages to one follower that are on their way.
const WAITING_MAX: usize = 16;

/// Days of a report that asks for none in particular.
const DAYS: u32 = 7;

const SLEEP_REFUSED: Reason = Reason::named("SLEEP_REFUSED");
const HOST_HELD: Reason = Reason::named("HOST_HELD");
const HOST_ALWAYS_ON: Reason = Reason::named("HOST_ALWAYS_ON");
const HOST_WAKING: Reason = Reason::named("HOST_WAKING");

/// The power of hosts, over gRPC.
#[derive(Clone, Debug)]
pub struct PowerApi {
    powers: Powers,
    tasks: Tasks,
}

impl PowerApi {
    /// Serves `powers`; streams end with `tasks`.
    #[must_use]
    pub const fn new(powers: Powers, tasks: Tasks) -> Self {
        Self { powers, tasks }
    }

    fn shown(&self, host: &HostName) -> Option<pb::HostPower> {
        self.powers.board().get(host).as_ref().map(|it| convert::host(it, self.powers.clock_now()))
    }
}

#[tonic::async_trait]
impl PowerService for PowerApi {
    async fn list_power(
        &self,
        _request: Request<pb::ListPowerRequest>,
    ) -> Result<Response<pb::ListPowerResponse>, Status> {
        let now = self.powers.clock_now();
        let all = self.powers.board().all();
        let hosts = all.values().map(|standing| convert::host(standing, now)).collect();
        Ok(Response::new(pb::ListPowerResponse { hosts }))
    }

    type WakeHostStream = Pin<Box<dyn Stream<Item = Result<pb::WakeHostResponse, Status>> + Send>>;

    async fn wake_host(
        &self,
        request: Request<pb::WakeHostRequest>,
    ) -> Result<Response<Self::WakeHostStream>, Status> {
        let (by, call) = (caller(&request), request_id(&request).to_owned());
        let host = self.powers.find(&request.get_ref().host).map_err(|it| status(it, &call))?;
        let asked_at = self.powers.clock_now();
        let since = match self.powers.board().get(&host).and_then(|it| it.boot) {
            Some(boot) if boot.end.is_none() => boot.started_at,
            _ => asked_at,
        };
        let awake = self.powers.board().get(&host).is_some_and(|it| it.state == PowerState::Awake);
        if !awake {
            self.powers.wake(&host, &by).await.map_err(|it| status(it, &call))?;
        }
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let api = self.clone();
        let stopping = self.tasks.stopping();
        self.tasks.spawn(async move {
            tokio::select! {
                () = sender.closed() => {}
                () = stopping.cancelled() => {
                    let message = "the controller is stopping; the host goes on waking";
                    let last = fail(Code::Unavailable, Reason::STOPPING, message);
                    // Without room for it the caller sees the connection end, which says the same.
                    let _sent = sender.try_send(Err(last));
                }
                _gone = api.follow(&host, since, &sender) => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn sleep_host(
        &self,
        request: Request<pb::SleepHostRequest>,
    ) -> Result<Response<pb::SleepHostResponse>, Status> {
        let (by, call) = (caller(&request), request_id(&request).to_owned());
        let request = request.into_inner();
        let host = self.powers.find(&request.host).map_err(|it| status(it, &call))?;
        let go = if request.validate_only { Go::Look } else { Go::Ahead };
        let accepts = request.accept_unproved;
        let unproved = if accepts { Unproved::Accepted } else { Unproved::Refused };
        let slept = self.powers.sleep(&host, &by, unproved, go).await;
        let standing = slept.map_err(|it| status(it, &call))?;
        let power = Some(convert::host(&standing, self.powers.clock_now()));
        Ok(Response::new(pb::SleepHostResponse { power }))
    }

    async fn get_power_report(
        &self,
        request: Request<pb::GetPowerReportRequest>,
    ) -> Result<Response<pb::GetPowerReportResponse>, Status> {
        let days = match request.get_ref().days {
            0 => DAYS,
            days if days <= DAYS_MAX => days,
            _ => {
                let rule = format!("1 to {DAYS_MAX}");
                let message = format!("`days` is not valid: {rule} is allowed");
                return Err(Failure::invalid(message).field("days", rule).into());
            }
        };
        let report = self.powers.report(days).await;
        let report = report.map_err(|error| error.into_status(request_id(&request)))?;
        Ok(Response::new(convert::report(&report, |host| self.powers.price(host))))
    }

    async fn hold_power(
        &self,
        request: Request<pb::HoldPowerRequest>,
    ) -> Result<Response<pb::HoldPowerResponse>, Status> {
        let (by, call) = (caller(&request), request_id(&request).to_owned());
        let request = request.into_inner();
        let host = self.powers.find(&request.host).map_err(|it| status(it, &call))?;
        let held = match request.state() {
            pb::PowerState::Unspecified => None,
            pb::PowerState::Awake => Some(HeldState::Awake),
            pb::PowerState::Asleep => Some(HeldState::Asleep),
            _ => {
                let rule = "awake, asleep, or nothing to end a hold";
                let message = format!("`state` is not valid: {rule}");
                return Err(Failure::invalid(message).field("state", rule).into());
            }
        };
        let until = request.until.as_ref().and_then(from_proto);
        let hold = held.map(|state| (state, until.unwrap_or(Timestamp::MIN)));
        self.powers.hold(&host, hold, &by).await.map_err(|it| status(it, &call))?;
        Ok(Response::new(pb::HoldPowerResponse { power: self.shown(&host) }))
    }
}

type Sender = mpsc::Sender<Result<pb::WakeHostResponse, Status>>;

impl PowerApi {
    /// Tells each news of a host until it is up or a boot since `since` has failed; ends early when the
    /// caller has gone.
    async fn follow(&self, host: &HostName, since: Timestamp, sender: &Sender) -> Option<()> {
        let mut board = self.powers.board().follow();
        let mut told = None;
        loop {
            let standing = Arc::clone(&board.borrow_and_update()).get(host).cloned();
            let Some(standing) = standing else {
                let message = format!("{host} is not looked after any more: the site file changed");
                sender
                    .send(Err(fail(Code::Aborted, Reason::HOST_NOT_FOUND, message)))
                    .await
                    .ok()?;
                return None;
            };
            if let Some(why) = failed(&standing, since) {
                let message = format!("{host} was not woken: {why}");
                let last = fail(Code::FailedPrecondition, Reason::HOST_CANNOT_WAKE, message);
                sender.send(Err(last)).await.ok()?;
                return None;
            }
            let news = convert::news(&standing);
            if told.as_ref() != Some(&news) {
                let power = Some(convert::host(&standing, self.powers.clock_now()));
                let message = pb::WakeHostResponse { power, message: news.clone() };
                sender.send(Ok(message)).await.ok()?;
                told = Some(news);
            }
            if standing.state == PowerState::Awake {
                return Some(());
            }
            board.changed().await.ok()?;
        }
    }
}

/// Why the boot that is followed failed, if it did.
fn failed(standing: &Standing, since: Timestamp) -> Option<String> {
    let boot = standing.boot.as_ref().filter(|boot| boot.started_at >= since)?;
    Some(boot.end.as_ref()?.failure.as_ref()?.message.clone())
}

/// The caller's SPIFFE id; the guard has let in nobody without one.
fn caller<T>(request: &Request<T>) -> String {
    request.extensions().get::<Peer>().map_or_else(|| "stranger".to_owned(), ToString::to_string)
}

fn status(error: PersonError, call: &str) -> Status {
    let message = error.to_string();
    let refused = |reason| Failure::new(Code::FailedPrecondition, reason, message.clone());
    match error {
        PersonError::NotFound(_) => fail(Code::NotFound, Reason::HOST_NOT_FOUND, message),
        PersonError::NotOnDemand(_) => refused(HOST_ALWAYS_ON).into(),
        PersonError::HeldAsleep { .. } => refused(HOST_HELD).into(),
        PersonError::Waking(_) => refused(HOST_WAKING).into(),
        PersonError::Vetoed { vetoes, .. } => vetoes
            .into_iter()
            .fold(refused(SLEEP_REFUSED), |failure, veto| {
                failure.precondition("VETO", veto.reason.as_str(), veto.message)
            })
            .into(),
        PersonError::Until(_) => Failure::invalid(message).field("until", "within 7 days").into(),
        PersonError::Store(error) => error.into_status(call),
    }
}
