//! Serving HTTP on TLS connections, with every limit set: what is not said here is unlimited in
//! hyper.

use std::{net::SocketAddr, time::Duration};

use axum::{Router, body::Body};
use homelab_common::{
    lifecycle::Tasks,
    tls::{Connection, TlsServer},
};
use hyper::{Request, body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio_stream::StreamExt as _;
use tower::ServiceExt as _;
use tracing::debug;

/// Time for the head of a request, and between two requests of a connection.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);

/// Largest head of a request: a cookie, a key and a long address fit many times.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Largest list of headers of HTTP/2.
const HEADERS_BYTES_MAX: u32 = 16 * 1024;

/// Requests at once on one connection: a browser's page, or the chats of one Open WebUI.
const STREAMS_MAX: u32 = 128;

/// Streams that a client may open and reset before it is cut off (CVE-2023-44487).
const RESETS_MAX: usize = 20;

/// Streams that we may have to reset on a client's fault before it is cut off.
const ERROR_RESETS_MAX: usize = 256;

/// Signs of life on HTTP/2.
const PING: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(20));

/// The address at the other end, as an extension of each request.
#[derive(Clone, Copy, Debug)]
pub struct Remote(pub SocketAddr);

/// Serves `router` until `tasks` stop; requests that run then have until the hard stop.
pub fn serve(server: TlsServer, router: Router, tasks: &Tasks) {
    let mut incoming = server.start(tasks);
    let all = tasks.clone();
    tasks.spawn(async move {
        while let Some(accepted) = incoming.next().await {
            if let Ok(connection) = accepted {
                all.spawn(serve_one(connection, router.clone(), all.clone()));
            }
        }
    });
}

async fn serve_one(connection: Connection, router: Router, tasks: Tasks) {
    let remote = Remote(connection.peer().remote);
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(remote);
        router.clone().oneshot(request)
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_local_error_reset_streams(ERROR_RESETS_MAX)
        .keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1);
    let serving = builder.serve_connection(TokioIo::new(connection), service);
    tokio::pin!(serving);
    let stopping = tasks.stopping();
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stopping.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        // Browsers leave in many ways; nobody needs to act.
        debug!(remote = %remote.0, error, "a web connection ended early");
    }
}
