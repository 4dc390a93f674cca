//! One request and its answer, over plain TCP or TLS.

use std::time::Duration;

use http::header::{ACCEPT, CONNECTION, HOST, HeaderMap, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::check::connect::connect;
use crate::check::http::url::{Scheme, Url};
use crate::check::http::{HttpProbe, Trust};
use crate::check::tls::{Certificate, handshake, server_name};
use crate::check::{Finding, Progress, Runner};

const BODY_BYTES_MAX: usize = 64 * 1024;
const HEAD_BYTES_MAX: usize = 32 * 1024;
const HEADERS_MAX: usize = 128;

/// What the server answered.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// At most 64 KiB, and nothing unless the probe asks for it.
    pub(super) body: Vec<u8>,
}

/// Gets `url`; the error is the finding to end with.
pub(super) async fn get(
    url: &Url,
    probe: &HttpProbe,
    runner: &Runner,
    deadline: Duration,
    progress: &Progress,
) -> Result<Answer, Finding> {
    let connected = connect(&url.target, deadline, progress).await;
    let stream = connected.map_err(|why| why.into_failure())?;
    if url.scheme == Scheme::Http {
        progress.reached(format!("connected to {}, waiting for its answer", url.target));
        return exchange(stream, url, probe).await;
    }
    let name = server_name(&url.target)?;
    let session = handshake(stream, name.clone()).await;
    let session = session.map_err(|why| why.into_failure(&url.target))?;
    if probe.trust == Trust::System {
        let roots = runner.trust.roots();
        let certificate =
            Certificate::examine(&session.chain, &name, runner.clock.now(), &roots)
                .map_err(|why| Finding::failed("CERTIFICATE_MALFORMED", why.to_string()))?;
        if let Some(fault) = certificate.fault() {
            return Err(Finding::failed(fault.reason(), certificate.to_string()));
        }
    }
    progress.reached(format!("connected to {} over TLS, waiting for its answer", url.target));
    exchange(session.stream, url, probe).await
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    url: &Url,
    probe: &HttpProbe,
) -> Result<Answer, Finding> {
    let not_http = |error: hyper::Error| {
        let why = homelab_common::error_chain::Chain(&error).to_string();
        Finding::failed("NOT_HTTP", format!("{url} gave no HTTP answer: {why}"))
    };
    let request = Request::get(url.path.as_str())
        .header(HOST, &url.authority)
        .header(USER_AGENT, concat!("homelab-agent/", env!("CARGO_PKG_VERSION")))
        .header(ACCEPT, "*/*")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| Finding::unknown("CANNOT_ASK", error.to_string()))?;
    let mut builder = http1::Builder::new();
    builder.max_buf_size(HEAD_BYTES_MAX).max_headers(HEADERS_MAX);
    let (mut sender, connection) =
        builder.handshake(TokioIo::new(stream)).await.map_err(not_http)?;
    let wants_body = probe.body_contains.is_some();
    let asked = async move {
        let response = sender.send_request(request).await.map_err(not_http)?;
        let (parts, body) = response.into_parts();
        let body = if wants_body { beginning(body).await } else { Vec::new() };
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    };
    // The connection has to be driven while we wait, and ends when the sender is gone.
    let mut asked = std::pin::pin!(asked);
    tokio::select! {
        biased;
        answer = &mut asked => answer,
        _ended = connection => asked.await,
    }
}

/// The first 64 KiB; what came before a broken connection counts as well.
async fn beginning(mut body: Incoming) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        let data = frame.into_data().unwrap_or_default();
        let room = BODY_BYTES_MAX - bytes.len();
        bytes.extend_from_slice(data.get(..room).unwrap_or(&data));
        if bytes.len() >= BODY_BYTES_MAX {
            break;
        }
    }
    bytes
}
