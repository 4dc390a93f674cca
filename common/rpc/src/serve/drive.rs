//! Driving connections: from the accepted socket to its end.

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use homelab_common::tls::Incoming;
use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::sleep,
};
use tokio_stream::StreamExt;
use tracing::debug;

use super::{AGE_GRACE, Shared, Stranger};
use crate::{connection::ConnectionInfo, guard::Guard};

/// Streams that broke a rule and were reset by us, before the connection is ended. Without a
/// number, hyper has no limit (hyper#3782).
const LOCAL_RESETS_MAX: usize = 256;

/// Streams that the peer reset before we took them, before the connection is ended.
const PENDING_RESETS_MAX: usize = 20;

/// The largest header block, in bytes.
const HEADERS_BYTES_MAX: u32 = 16 * 1024;

/// A silent connection is asked for a sign of life this often ...
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// ... and ended when none comes for this long.
const PING_DEADLINE: Duration = Duration::from_secs(20);

/// Serves what a TLS listener accepts.
pub(super) async fn tls(shared: Arc<Shared>, mut incoming: Incoming) {
    while let Some(Ok(connection)) = incoming.next().await {
        let info = ConnectionInfo::tls(&connection);
        debug!(remote = %info.remote, peer = ?info.peer.as_ref().ok(), "connected");
        let age = shared.age_of(if info.peer.is_ok() { Stranger::No } else { Stranger::Yes });
        shared.tasks.spawn(drive(Arc::clone(&shared), connection, info, age));
    }
}

/// Serves one connection until the other side leaves, its age is reached, or the server stops.
pub(super) fn drive<I>(
    shared: Arc<Shared>,
    io: I,
    info: ConnectionInfo,
    age: Duration,
) -> impl Future<Output = ()> + Send + 'static
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    async move {
        let remote = info.remote;
        let guard = Guard::new(shared.routes.clone(), Arc::clone(&shared.rules), Arc::new(info));
        let service = TowerToHyperService::new(guard);
        let mut connection =
            pin!(protocol(shared.streams_max).serve_connection(TokioIo::new(io), service));
        let ended = tokio::select! {
            ended = &mut connection => Some(ended),
            () = shared.ending.cancelled() => None,
            () = sleep(age) => None,
        };
        let ended = match ended {
            Some(ended) => ended,
            // Tells the client to open another one, and lets go when its calls are done.
            None => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = &mut connection => ended,
                    () = sleep(AGE_GRACE) => Ok(()),
                }
            }
        };
        match ended {
            Ok(()) => debug!(%remote, "disconnected"),
            Err(error) => debug!(%remote, %error, "a connection broke off"),
        }
    }
}

fn protocol(streams_max: u32) -> http2::Builder<TokioExecutor> {
    let mut protocol = http2::Builder::new(TokioExecutor::new());
    protocol
        .timer(TokioTimer::new())
        .max_concurrent_streams(streams_max)
        .max_local_error_reset_streams(LOCAL_RESETS_MAX)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_DEADLINE);
    protocol
}
