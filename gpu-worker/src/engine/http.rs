//! HTTP/1.1 to an engine on loopback.
//!
//! One connection carries one exchange, and whoever reads the answer drives the
//! connection too: there is no task behind it. So dropping an [`Exchange`] closes
//! the socket at once, which is how an engine learns that it may stop.

use std::{
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use homelab_common::secret::Secret;
use http::{HeaderMap, Method, Request, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time};

use crate::engine::chunk::{EngineError, refusal};

/// An error body is read no further than this.
const REFUSAL_BYTES_MAX: usize = 64 * 1024;

/// How long an engine may take to send the body of an error.
const REFUSAL_DEADLINE: Duration = Duration::from_secs(5);

/// Loopback connects or refuses at once; more means that the engine's accept
/// queue is full because it hangs.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);

/// Where our own engines have OpenAI's API.
const API: &str = "/v1";

/// Where an engine listens, and the key that it asks for.
#[derive(Debug, Clone)]
pub struct Endpoint {
    address: SocketAddr,
    /// Stands in place of `/v1`.
    base: String,
    key: Option<Secret<String>>,
}

/// Why an address cannot be that of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a loopback address: an engine is reached on its own host only")]
pub struct NotLoopback(SocketAddr);

impl Endpoint {
    /// An engine at `address` that accepts `key`.
    ///
    /// # Errors
    /// [`NotLoopback`]: prompts must not leave the host by a wrong address.
    pub fn try_new(address: SocketAddr, key: Secret<String>) -> Result<Self, NotLoopback> {
        if address.ip().is_loopback() {
            Ok(Self { address, base: API.to_owned(), key: Some(key) })
        } else {
            Err(NotLoopback(address))
        }
    }

    /// An engine that a person has configured to be at `address`, with its API below
    /// `base`.
    pub fn elsewhere(address: SocketAddr, base: String, key: Option<Secret<String>>) -> Self {
        Self { address, base, key }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, HttpError> {
        let target = match path.strip_prefix(API) {
            Some(rest) => format!("{}{rest}", self.base),
            None => path.to_owned(),
        };
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header(header::HOST, self.address.to_string())
            .header(header::CONTENT_TYPE, "application/json");
        let request = match &self.key {
            Some(key) => request.header(header::AUTHORIZATION, format!("Bearer {}", key.expose())),
            None => request,
        };
        request.body(Full::new(body)).map_err(HttpError::Request)
    }
}

/// Why an exchange with an engine failed.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The path or the key cannot stand in a request.
    #[error("the request cannot be built")]
    Request(#[source] http::Error),
    /// Nobody listens.
    #[error("cannot connect to the engine at {address}")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It took too long.
    #[error("the engine has not {what} within {after:?}")]
    Deadline {
        /// What was waited for.
        what: &'static str,
        /// For how long.
        after: Duration,
    },
    /// The connection broke, or what came over it was not HTTP.
    #[error("the connection to the engine broke")]
    Broken(#[source] hyper::Error),
    /// The answer is larger than anything an engine has to say here.
    #[error("the engine's answer is larger than {bytes_max} bytes")]
    TooLarge {
        /// The bound.
        bytes_max: usize,
    },
    /// The engine answered with an error.
    #[error("the engine refused with status {status}")]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// What it said.
        #[source]
        error: EngineError,
    },
}

/// A whole answer to a small question.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// The body.
    pub body: Bytes,
}

/// Asks for `path` and reads the whole answer, whatever its status.
///
/// Cancel safety: dropping the future closes the connection.
///
/// # Errors
/// [`HttpError`], never `Refused`.
pub async fn get(
    endpoint: &Endpoint,
    path: &str,
    deadline: Duration,
    bytes_max: usize,
) -> Result<Answer, HttpError> {
    let request = endpoint.request(Method::GET, path, Bytes::new())?;
    let asking = async {
        let mut exchange = Exchange::start(endpoint, request).await?;
        let body = exchange.read_to_end(bytes_max).await?;
        Ok(Answer { status: exchange.status, body })
    };
    within(deadline, "answered", asking).await
}

/// Posts `body` to `path` and returns once the engine has accepted it.
///
/// Cancel safety: dropping the future closes the connection, and the engine
/// stops working on the request.
///
/// # Errors
/// [`HttpError`]; `Refused` for any status but 2xx.
pub async fn post(
    endpoint: &Endpoint,
    path: &str,
    body: Bytes,
    headers_deadline: Duration,
) -> Result<Exchange, HttpError> {
    let request = endpoint.request(Method::POST, path, body)?;
    let starting = Exchange::start(endpoint, request);
    let mut exchange = within(headers_deadline, "begun to answer", starting).await?;
    if exchange.status.is_success() {
        return Ok(exchange);
    }
    let reading = exchange.read_to_end(REFUSAL_BYTES_MAX);
    let body = within(REFUSAL_DEADLINE, "said why it refuses", reading).await?;
    Err(HttpError::Refused { status: exchange.status, error: refusal(body) })
}

/// Posts `body` to `path` and reads the whole answer.
///
/// Cancel safety: as [`post`].
///
/// # Errors
/// [`HttpError`]; `Refused` for any status but 2xx.
pub async fn post_whole(
    endpoint: &Endpoint,
    path: &str,
    body: Bytes,
    deadline: Duration,
    bytes_max: usize,
) -> Result<Bytes, HttpError> {
    let asking = async {
        let mut exchange = post(endpoint, path, body, deadline).await?;
        exchange.read_to_end(bytes_max).await
    };
    within(deadline, "answered", asking).await
}

/// A request that was sent, and its answer as far as it was read.
pub struct Exchange {
    status: StatusCode,
    headers: HeaderMap,
    body: Incoming,
    connection: Option<Connection>,
    // While it lives, hyper keeps the connection open for the answer.
    _sender: http1::SendRequest<Full<Bytes>>,
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Exchange").field("status", &self.status).finish_non_exhaustive()
    }
}

type Connection = Pin<Box<http1::Connection<TokioIo<TcpStream>, Full<Bytes>>>>;

impl Exchange {
    /// The headers of the answer.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The next bytes of the body; `None` at its proper end.
    ///
    /// Cancel safety: no bytes are lost when the future is dropped.
    ///
    /// # Errors
    /// [`HttpError::Broken`] when the connection ended before the body did.
    pub async fn next(&mut self) -> Result<Option<Bytes>, HttpError> {
        loop {
            let frame = poll_fn(|context| {
                drive(&mut self.connection, context);
                Pin::new(&mut self.body).poll_frame(context)
            });
            match frame.await {
                None => return Ok(None),
                Some(Err(error)) => return Err(HttpError::Broken(error)),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }

    async fn start(endpoint: &Endpoint, request: Request<Full<Bytes>>) -> Result<Self, HttpError> {
        let address = endpoint.address;
        let socket = time::timeout(CONNECT_DEADLINE, TcpStream::connect(address))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|source| HttpError::Connect { address, source })?;
        socket.set_nodelay(true).map_err(|source| HttpError::Connect { address, source })?;

        let (mut sender, connection) =
            http1::handshake(TokioIo::new(socket)).await.map_err(HttpError::Broken)?;
        let mut connection = Some(Box::pin(connection));
        let mut response = pin!(sender.send_request(request));
        let response = poll_fn(|context| {
            drive(&mut connection, context);
            response.as_mut().poll(context)
        })
        .await
        .map_err(HttpError::Broken)?;
        let (head, body) = response.into_parts();
        Ok(Self { status: head.status, headers: head.headers, body, connection, _sender: sender })
    }

    async fn read_to_end(&mut self, bytes_max: usize) -> Result<Bytes, HttpError> {
        let mut whole = Vec::new();
        while let Some(bytes) = self.next().await? {
            if whole.len() + bytes.len() > bytes_max {
                return Err(HttpError::TooLarge { bytes_max });
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(whole.into())
    }
}

/// Lets the connection work. How it ended is not looked at here: an end that came
/// too early reaches the reader through the response or its body.
fn drive(connection: &mut Option<Connection>, context: &mut Context<'_>) {
    let ended = connection
        .as_mut()
        .is_some_and(|connection| matches!(connection.as_mut().poll(context), Poll::Ready(_)));
    if ended {
        *connection = None;
    }
}

async fn within<T>(
    after: Duration,
    what: &'static str,
    work: impl Future<Output = Result<T, HttpError>>,
) -> Result<T, HttpError> {
    time::timeout(after, work).await.unwrap_or(Err(HttpError::Deadline { what, after }))
}
