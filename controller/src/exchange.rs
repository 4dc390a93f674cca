//! One HTTP request over one connection, and its answer within bounds.
//!
//! Whoever reads the answer drives the connection, so that dropping it ends the request at once and
//! nothing of it outlives the call.

use std::{
    fmt,
    future::{Future as _, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::Full;
use hyper::{
    body::{Body as _, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

/// A connection to somebody.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

type Driven = Pin<Box<http1::Connection<TokioIo<Box<dyn Connection>>, Full<Bytes>>>>;

/// Why an answer was not read to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The connection ended before the answer did.
    #[error("the connection broke")]
    Broken(#[source] hyper::Error),
    /// It is larger than anybody wants.
    #[error("the answer is larger than {bytes_max} bytes")]
    TooLarge {
        /// What would have been read.
        bytes_max: usize,
    },
}

/// An answer as far as it was read. Dropping it ends the request.
pub struct Exchange {
    status: StatusCode,
    headers: HeaderMap,
    body: Incoming,
    connection: Option<Driven>,
    // While it lives, the connection stays open for the answer.
    _sender: http1::SendRequest<Full<Bytes>>,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Exchange {
    /// Sends a request and returns once the answer has begun.
    ///
    /// Cancel safety: dropping the future closes the connection.
    ///
    /// # Errors
    /// The connection broke, or what came was no HTTP.
    pub async fn start(
        connection: Box<dyn Connection>,
        request: Request<Full<Bytes>>,
    ) -> Result<Self, hyper::Error> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(connection)).await?;
        let mut connection = Some(Box::pin(connection));
        let mut response = pin!(sender.send_request(request));
        let response = poll_fn(|context| {
            drive(&mut connection, context);
            response.as_mut().poll(context)
        });
        let (head, body) = response.await?.into_parts();
        let (status, headers) = (head.status, head.headers);
        Ok(Self { status, headers, body, connection, _sender: sender })
    }

    /// The status of the answer.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// The headers of the answer.
    #[must_use]
    pub const fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The next bytes of the body; none at its proper end.
    ///
    /// Cancel safety: no bytes are lost when the future is dropped.
    ///
    /// # Errors
    /// The connection ended before the body did.
    pub async fn next(&mut self) -> Result<Option<Bytes>, hyper::Error> {
        loop {
            let frame = poll_fn(|context| {
                drive(&mut self.connection, context);
                Pin::new(&mut self.body).poll_frame(context)
            });
            match frame.await.transpose()? {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }

    /// The whole body.
    ///
    /// # Errors
    /// It broke off, or is larger than `bytes_max`.
    pub async fn whole(&mut self, bytes_max: usize) -> Result<Bytes, ReadError> {
        let mut whole = Vec::new();
        while let Some(bytes) = self.next().await.map_err(ReadError::Broken)? {
            if whole.len() + bytes.len() > bytes_max {
                return Err(ReadError::TooLarge { bytes_max });
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(whole.into())
    }

    /// As much of the body as there is, up to `bytes_max`: enough of a refusal to be shown.
    pub async fn beginning(&mut self, bytes_max: usize) -> Bytes {
        let mut whole = Vec::new();
        while let Ok(Some(bytes)) = self.next().await {
            whole.extend_from_slice(&bytes);
            if whole.len() >= bytes_max {
                whole.truncate(bytes_max);
                break;
            }
        }
        whole.into()
    }
}

/// Lets the connection work. An end that came too early reaches the reader through the answer.
fn drive(connection: &mut Option<Driven>, context: &mut Context<'_>) {
    let ended = connection
        .as_mut()
        .is_some_and(|connection| matches!(connection.as_mut().poll(context), Poll::Ready(_)));
    if ended {
        *connection = None;
    }
}
