//! The door of every server: no call reaches a handler that has not passed here.
//!
//! For each call: the deny list is asked, the access table is asked, an id is given, the deadline
//! is set, a panic becomes an error, and an observer hears how it ended; denied calls included.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::FutureExt;
use homelab_common::{chance::Chance, chance::uuid_v7, clock::Clock};
use homelab_proto::{access::Method, common::v1::Role as Needed};
use jiff::Timestamp;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, body::Body};
use tower::Service;
use tracing::error;

use crate::{
    access::{self, Denied},
    connection::{ConnectionInfo, EXPORTER_BYTES, Remote},
    deny_list::DenyList,
    guard::answer::Answer,
    not_built::{self, NotBuilt},
    peer::{Peer, SpiffeId},
    status::{Failure, Reason, fail},
};

mod answer;
mod deadline;
mod log;
mod stranger;

pub use log::CallLog;
pub(crate) use stranger::Strangers;

/// The longest that a call with one answer may last; `grpc-timeout` can only shorten it.
pub const UNARY_MAX: Duration = Duration::from_secs(60);

/// One call, after it has ended: for audit and metrics.
#[derive(Clone, Debug)]
pub struct CallRecord {
    /// Who called; `None` when that could not be established.
    pub peer: Option<Peer>,
    /// From where.
    pub remote: Remote,
    /// The path, as on the wire. Not more than 256 bytes of it.
    pub method: String,
    /// Whether it is in the table as changing something.
    pub mutates: bool,
    /// The id under which the log has it.
    pub request_id: String,
    /// When it came in.
    pub started: Timestamp,
    /// How long it lasted, streams to their end.
    pub elapsed: Duration,
    /// What became of it.
    pub outcome: Outcome,
    /// The status that the caller got, or would have got.
    pub code: Code,
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It did not reach a handler.
    Denied(Denied),
    /// It ended by itself, with the code beside this.
    Ended,
    /// The caller or the connection went away before the end.
    Cancelled,
}

/// Hears of every call. It is called on the path of the call: hand on, do not wait.
pub trait Observer: fmt::Debug + Send + Sync {
    /// A call has ended.
    fn call(&self, record: CallRecord);
}

/// The id of a call, in the extensions of its request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(pub String);

/// Who called.
///
/// # Errors
///
/// There is nobody: a method that is open to strangers was called by one.
pub fn peer<T>(request: &tonic::Request<T>) -> Result<&Peer, Status> {
    request.extensions().get::<Peer>().ok_or_else(|| Denied::NoCertificate.into())
}

/// The id of the call, which the log and `INTERNAL` errors carry.
#[must_use]
pub fn request_id<T>(request: &tonic::Request<T>) -> &str {
    request.extensions().get::<RequestId>().map_or("", |id| id.0.as_str())
}

/// The value that ties a proof to the connection of this call.
///
/// # Errors
///
/// The call did not come over TLS.
pub fn exporter<T>(request: &tonic::Request<T>) -> Result<[u8; EXPORTER_BYTES], Status> {
    let info = request.extensions().get::<Arc<ConnectionInfo>>();
    info.and_then(|info| info.exporter.as_ref()).map(|exporter| *exporter.expose()).ok_or_else(
        || {
            let message = "this method works only over TLS";
            fail(Code::FailedPrecondition, Reason::METHOD_NOT_OPEN, message)
        },
    )
}

/// Whom a server lets in at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The main port: everything, by the access table.
    Main,
    /// The enrolment port: only what is open to strangers.
    Strangers,
}

/// What all calls of a server are judged by.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) door: Door,
    pub(crate) at: SpiffeId,
    pub(crate) deny_list: DenyList,
    pub(crate) not_built: &'static [NotBuilt],
    pub(crate) observer: Option<Arc<dyn Observer>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) chance: Arc<dyn Chance>,
    pub(crate) strangers: Strangers,
    pub(crate) stopping: CancellationToken,
}

impl Rules {
    fn judge(&self, path: &str, from: &ConnectionInfo) -> Result<&'static Method, Denied> {
        if self.door == Door::Strangers {
            self.strangers.admit(from)?;
            return access::authorize_stranger(path);
        }
        match &from.peer {
            Ok(peer) if self.deny_list.is_revoked(peer.serial_hex()) => {
                Err(Denied::Revoked { serial_hex: peer.serial_hex().into() })
            }
            Ok(peer) => access::authorize(path, Some(peer), &self.at),
            Err(Denied::NoCertificate) => access::authorize(path, None, &self.at),
            Err(denied) => Err(denied.clone()),
        }
    }
}

/// The guard of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Guard<S> {
    inner: S,
    rules: Arc<Rules>,
    from: Arc<ConnectionInfo>,
}

impl<S> Guard<S> {
    pub(crate) const fn new(inner: S, rules: Arc<Rules>, from: Arc<ConnectionInfo>) -> Self {
        Self { inner, rules, from }
    }

    fn record(&self, path: &str, request_id: &str) -> CallRecord {
        CallRecord {
            peer: self.from.peer.as_ref().ok().cloned(),
            remote: self.from.remote,
            method: path.chars().take(PATH_SHOWN_MAX).collect(),
            mutates: false,
            request_id: request_id.into(),
            started: self.rules.clock.now(),
            elapsed: Duration::ZERO,
            outcome: Outcome::Ended,
            code: Code::Ok,
        }
    }
}

/// As much of a path as is remembered; those of ours are shorter.
const PATH_SHOWN_MAX: usize = 256;

type Answering = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

impl<S, B> Service<http::Request<B>> for Guard<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Error: fmt::Debug,
    S::Future: Send,
    B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The routes of a server are always ready; limits are set per connection.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Answering {
        let guard = self.clone();
        Box::pin(guard.answer(request.map(Body::new)).map(Ok))
    }
}

impl<S> Guard<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Error: fmt::Debug,
    S::Future: Send,
{
    async fn answer(self, mut request: http::Request<Body>) -> http::Response<Body> {
        let began = Instant::now();
        let id = uuid_v7(self.rules.clock.as_ref(), self.rules.chance.as_ref()).to_string();
        let path = request.uri().path().to_owned();
        let mut record = self.record(&path, &id);
        let watch = |record, deadline| {
            Answer::new(record, began, self.rules.observer.clone()).until(deadline)
        };
        let row = match self.rules.judge(&path, &self.from) {
            Ok(row) => row,
            Err(denied) => {
                record.outcome = Outcome::Denied(denied.clone());
                return watch(record, None).with(Status::from(denied).into_http());
            }
        };
        record.mutates = row.access.is_some_and(|access| access.mutates);
        if let Some(missing) = not_built::find(self.rules.not_built, &path) {
            return watch(record, None).with(missing.status().into_http());
        }
        let asked = deadline::asked(request.headers());
        let allowed = deadline::allowed(asked, row.server_streaming);
        if let Ok(peer) = &self.from.peer {
            request.extensions_mut().insert(peer.clone());
        }
        request.extensions_mut().insert(RequestId(id.clone()));
        request.extensions_mut().insert(Arc::clone(&self.from));

        let answer = watch(record, allowed.filter(|_| row.server_streaming).map(|d| began + d))
            .ending_at(self.stop_for(row));
        let response = run(self.inner, request, allowed, &path, &id).await;
        answer.with(response.unwrap_or_else(|status| status.into_http()))
    }

    /// Whoever only looks on is told to look elsewhere when the daemon stops; work goes on.
    fn stop_for(&self, row: &Method) -> Option<CancellationToken> {
        let watches = row.access.is_some_and(|access| access.role == Some(Needed::Viewer));
        (watches && row.server_streaming).then(|| self.rules.stopping.clone())
    }
}

/// Calls the handler, within the deadline and with a net below it.
async fn run<S>(
    mut inner: S,
    request: http::Request<Body>,
    allowed: Option<Duration>,
    path: &str,
    id: &str,
) -> Result<http::Response<Body>, Status>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Send,
    S::Error: fmt::Debug,
    S::Future: Send,
{
    let handling = AssertUnwindSafe(inner.call(request)).catch_unwind();
    let ended = match allowed {
        Some(allowed) => {
            timeout(allowed, handling).await.map_err(|_| deadline::passed(path, allowed))?
        }
        None => handling.await,
    };
    match ended {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(failure)) => Err(broken(id, &format!("{failure:?}"))),
        Err(panic) => Err(broken(id, message_of(panic.as_ref()))),
    }
}

fn broken(id: &str, what: &str) -> Status {
    error!(request_id = id, panic = what, "a handler broke off");
    let message = format!("something failed inside; look for request id {id} in the log");
    Failure::new(Code::Internal, Reason::INTERNAL, message).with("request_id", id).into()
}

fn message_of(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}

#[cfg(test)]
mod tests;
