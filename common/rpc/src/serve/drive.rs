//! Driving connections: from the accepted socket to its end.

use std::{pin::pin, sync::Arc, time::Duration};

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
pub(super) async fn drive<I>(shared: Arc<Shared>, io: I, info: ConnectionInfo, age: Duration)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
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

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use hyper::client::conn::http2 as client;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _, duplex},
        time::Instant,
    };
    use tonic::body::Body;

    use super::*;
    use crate::{peer::Kind, serve::Server, testing::TestSite};

    const AGE: Duration = Duration::from_secs(3_600);

    fn watch() -> http::Request<Body> {
        // One empty message: watches the health of the whole daemon.
        let message = http_body_util::Full::new(bytes::Bytes::from_static(&[0; 5]));
        http::Request::post("http://qotom/grpc.health.v1.Health/Watch")
            .header("content-type", "application/grpc")
            .body(Body::new(message))
            .expect("a request")
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_connection_lets_its_calls_go_on_for_a_while() {
        let (site, tasks) = (TestSite::new("home"), homelab_common::lifecycle::Tasks::default());
        let at = site.daemon(Kind::Agent, "qotom");
        let server = Server::builder(at, tasks.clone()).build().expect("a server");
        let (near, far) = duplex(64 * 1024);
        let info = ConnectionInfo::unix(Some(0), 0, site.name().clone());
        let began = Instant::now();
        tasks.spawn(drive(Arc::clone(&server.shared), far, info, AGE));

        let (mut calls, connection) =
            client::handshake::<_, _, Body>(TokioExecutor::new(), TokioIo::new(near))
                .await
                .expect("HTTP/2");
        tasks.spawn(async move { drop(connection.await) });
        let mut stream = calls.send_request(watch()).await.expect("open").into_body();
        stream.frame().await.expect("an item").expect("no error");

        assert!(stream.frame().await.is_none_or(|frame| frame.is_err()), "ends in the end");
        assert_eq!(began.elapsed().as_secs(), (AGE + AGE_GRACE).as_secs());
        assert!(calls.send_request(watch()).await.is_err(), "nothing new is taken");
    }

    /// One frame of HTTP/2 (RFC 9113 §4.1).
    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(payload);
        frame
    }

    /// The code of the GOAWAY in what the server sent, if there is one.
    fn goaway(mut sent: &[u8]) -> Option<u32> {
        const GOAWAY: u8 = 7;
        while let Some((head, rest)) = sent.split_first_chunk::<9>() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let (payload, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
            if head[3] == GOAWAY {
                let code = payload.get(4..8)?;
                return Some(u32::from_be_bytes(code.try_into().ok()?));
            }
            sent = rest;
        }
        None
    }

    /// CVE-2023-44487: calls that are opened and reset at once, which costs the caller nothing.
    #[tokio::test]
    async fn a_client_that_opens_and_resets_without_end_is_sent_away() {
        const HEADERS: u8 = 1;
        const RESET: u8 = 3;
        const SETTINGS: u8 = 4;
        /// END_STREAM and END_HEADERS.
        const WHOLE: u8 = 0x5;
        const ENHANCE_YOUR_CALM: u32 = 11;
        /// `:method: POST`, `:scheme: http`, `:path: /` of the static table (RFC 7541).
        const POST: &[u8] = &[0x83, 0x86, 0x84];

        let (site, tasks) = (TestSite::new("home"), homelab_common::lifecycle::Tasks::default());
        let at = site.daemon(Kind::Agent, "qotom");
        let server = Server::builder(at, tasks.clone()).build().expect("a server");
        let (mut near, far) = duplex(1024 * 1024);
        let info = ConnectionInfo::unix(Some(0), 0, site.name().clone());
        let mut attack = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        attack.extend(frame(SETTINGS, 0, 0, &[]));
        for call in 0..200 {
            attack.extend(frame(HEADERS, WHOLE, 2 * call + 1, POST));
            attack.extend(frame(RESET, 0, 2 * call + 1, &8_u32.to_be_bytes()));
        }
        near.write_all(&attack).await.expect("room for it");
        tasks.spawn(drive(Arc::clone(&server.shared), far, info, AGE));
        let mut sent = Vec::new();
        let reading = near.read_to_end(&mut sent);
        tokio::time::timeout(Duration::from_secs(20), reading)
            .await
            .expect("the connection is ended")
            .expect("readable to the end");
        assert_eq!(goaway(&sent), Some(ENHANCE_YOUR_CALM));
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_ends_with_its_age() {
        let (site, tasks) = (TestSite::new("home"), homelab_common::lifecycle::Tasks::default());
        let at = site.daemon(Kind::Agent, "qotom");
        let server = Server::builder(at, tasks.clone()).build().expect("a server");
        let (near, far) = duplex(64 * 1024);
        let info = ConnectionInfo::unix(Some(0), 0, site.name().clone());
        let began = Instant::now();
        tasks.spawn(drive(Arc::clone(&server.shared), far, info, AGE));
        let (_calls, connection) =
            client::handshake::<_, _, Body>(TokioExecutor::new(), TokioIo::new(near))
                .await
                .expect("HTTP/2");
        connection.await.expect("ends in peace");
        assert_eq!(began.elapsed().as_secs(), AGE.as_secs());
    }
}
