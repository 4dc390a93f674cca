//! Requests over kept-open connections, one after the other on each, and how long they took.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use futures_util::future::try_join_all;
use homelab_common::tls::{Alpn, ClientOptions, Roots, ServerTrust, TlsClient, TrustHandle};
use http::{Method, header};
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{sleep, timeout},
};

use super::interrupt;

/// No answer may take longer; a benchmark that hangs must end.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// A first word may have to wait for an engine.
const WORD_MAX: Duration = Duration::from_secs(120);
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// Who is asked.
#[derive(Clone, Debug)]
pub(super) struct Server {
    address: SocketAddr,
    tls: Option<TlsClient>,
    key: &'static str,
}

impl Server {
    /// Over plain HTTP.
    pub(super) const fn plain(address: SocketAddr) -> Self {
        Self { address, tls: None, key: "" }
    }

    /// The same, with a key.
    pub(super) fn with_key(self, key: &'static str) -> Self {
        Self { key, ..self }
    }

    /// Over HTTPS, with a key.
    pub(super) fn secure(
        address: SocketAddr,
        roots: Roots,
        key: &'static str,
    ) -> anyhow::Result<Self> {
        let mut options = ClientOptions::new(ServerTrust::Roots(TrustHandle::new(roots)));
        // Without it the server speaks HTTP/1.1, as OpenAI's own libraries do.
        options.alpn = Alpn::None;
        let tls = TlsClient::new(options).context("set up TLS")?;
        Ok(Self { address, tls: Some(tls), key })
    }
}

/// What is asked, and how a good answer ends.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) body: Bytes,
    /// Stands at the end of every good answer.
    pub(super) ending: &'static str,
}

/// How often is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rounds {
    clients: u32,
    each: u32,
    pause: Duration,
}

impl Rounds {
    /// So many times on each of so many connections.
    pub(super) const fn new(clients: u32, each: u32) -> Self {
        Self { clients, each, pause: Duration::ZERO }
    }

    /// With a pause after each answer.
    pub(super) const fn paced(self, pause: Duration) -> Self {
        Self { pause, ..self }
    }

    /// All questions together.
    pub(super) const fn total(self) -> u32 {
        self.clients * self.each
    }

    /// Connections.
    pub(super) const fn clients(self) -> u32 {
        self.clients
    }
}

/// What many answers took.
#[derive(Clone, Debug, Default)]
pub(super) struct Answers {
    /// Shortest first.
    took: Vec<Duration>,
    bytes: u64,
}

impl Answers {
    /// How many there were.
    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.took.len()).unwrap_or(u32::MAX)
    }

    /// The time that `percent` of them did not pass.
    pub(super) fn percentile(&self, percent: usize) -> Duration {
        let last = self.took.len().saturating_sub(1);
        let place = (self.took.len() * percent).div_ceil(100).saturating_sub(1).min(last);
        self.took.get(place).copied().unwrap_or_default()
    }

    /// Bytes of a body on average.
    pub(super) fn bytes_each(&self) -> u64 {
        self.bytes / u64::from(self.count()).max(1)
    }

    pub(super) fn add(&mut self, took: Duration, bytes: usize) {
        let place = self.took.partition_point(|earlier| *earlier < took);
        self.took.insert(place, took);
        self.bytes += bytes as u64;
    }

    fn join(mut self, other: Self) -> Self {
        self.took.extend(other.took);
        self.took.sort_unstable();
        self.bytes += other.bytes;
        self
    }
}

/// Asks on connections that stay open.
///
/// # Errors
/// The first answer that is not good ends it all.
pub(super) async fn ask(
    server: &Server,
    question: &Question,
    rounds: Rounds,
) -> anyhow::Result<Answers> {
    let asking = (0..rounds.clients).map(|_| connect_and_ask(server, question, rounds));
    let answers = try_join_all(asking).await?;
    Ok(answers.into_iter().fold(Answers::default(), Answers::join))
}

async fn connect_and_ask(
    server: &Server,
    question: &Question,
    rounds: Rounds,
) -> anyhow::Result<Answers> {
    let address = server.address;
    let Some(tls) = &server.tls else {
        let stream = timeout(CONNECT_MAX, TcpStream::connect(address)).await;
        let stream = stream.context("connect in time")?.context("connect")?;
        stream.set_nodelay(true)?;
        return ask_on(stream, server, question, rounds).await;
    };
    let stream = tls.connect(address, &address.ip().to_string(), CONNECT_MAX).await?;
    ask_on(stream, server, question, rounds).await
}

async fn ask_on<S>(
    stream: S,
    server: &Server,
    question: &Question,
    rounds: Rounds,
) -> anyhow::Result<Answers>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let asking = async move {
        let mut answers = Answers::default();
        for _ in 0..rounds.each {
            interrupt::check()?;
            let began = Instant::now();
            let body = timeout(ANSWER_MAX, ask_once(&mut sender, server, question)).await;
            let body = body.context("wait for an answer")??;
            answers.add(began.elapsed(), body.len());
            if !rounds.pause.is_zero() {
                sleep(rounds.pause).await;
            }
        }
        // The sender goes here, and the connection ends with it.
        Ok(answers)
    };
    let (_ended, answers) = tokio::join!(connection, asking);
    answers
}

async fn ask_once(
    sender: &mut http1::SendRequest<Full<Bytes>>,
    server: &Server,
    question: &Question,
) -> anyhow::Result<Bytes> {
    sender.ready().await?;
    let response = sender.send_request(request(server, question)?).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    let text = String::from_utf8_lossy(&body);
    if !status.is_success() {
        bail!("{} answered {status}: {text}", server.address);
    }
    ensure!(text.trim_end().ends_with(question.ending), "an answer without its end: {text}");
    Ok(body)
}

fn request(server: &Server, question: &Question) -> anyhow::Result<http::Request<Full<Bytes>>> {
    let mut request = http::Request::builder()
        .method(question.method.clone())
        .uri(question.path)
        .header(header::HOST, server.address.to_string())
        .header(header::CONTENT_TYPE, "application/json");
    if !server.key.is_empty() {
        request = request.header(header::AUTHORIZATION, format!("Bearer {}", server.key));
    }
    Ok(request.body(Full::new(question.body.clone()))?)
}

/// Asks once over a connection of its own for a stream, and says when its first word came.
///
/// # Errors
/// There was no such word.
pub(super) async fn first_word(server: &Server, question: &Question) -> anyhow::Result<Instant> {
    let address = server.address;
    match &server.tls {
        None => {
            let stream = timeout(CONNECT_MAX, TcpStream::connect(address)).await;
            first_word_on(stream.context("connect in time")??, server, question).await
        }
        Some(tls) => {
            let stream = tls.connect(address, &address.ip().to_string(), CONNECT_MAX).await?;
            first_word_on(stream, server, question).await
        }
    }
}

async fn first_word_on<S>(
    stream: S,
    server: &Server,
    question: &Question,
) -> anyhow::Result<Instant>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let reading = async move {
        let response = sender.send_request(request(server, question)?).await?;
        let status = response.status();
        let mut body = response.into_body();
        let (mut text, mut came) = (String::new(), None);
        // To its end: what is broken off would be cancelled.
        while let Some(frame) = body.frame().await {
            if let Some(data) = frame?.data_ref() {
                text.push_str(&String::from_utf8_lossy(data));
            }
            if came.is_none() && has_word(&text) {
                came = Some(Instant::now());
            }
        }
        came.with_context(|| {
            format!("{address} answered {status}: {text}", address = server.address)
        })
    };
    let asking = async { tokio::join!(connection, reading).1 };
    timeout(WORD_MAX, asking).await.context("wait for a word")?
}

/// Whether one of the events so far carries text.
fn has_word(events: &str) -> bool {
    events.lines().filter_map(|line| line.strip_prefix("data: ")).any(|event| {
        let event: serde_json::Value = serde_json::from_str(event).unwrap_or_default();
        event["choices"][0]["delta"]["content"].as_str().is_some_and(|text| !text.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_text_and_not_the_role_that_comes_before_it() {
        let role =
            "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":null}}]}\n\n";
        let word = "data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\n";
        assert!(!has_word(role));
        let half: String = word.chars().take(20).collect();
        assert!(!has_word(&format!("{role}{half}")));
        assert!(has_word(&format!("{role}{word}")));
    }

    #[test]
    fn a_percentile_is_the_time_that_so_many_did_not_pass() {
        let mut answers = Answers::default();
        for took in (1..=100).rev() {
            answers.add(Duration::from_millis(took), 10);
        }
        assert_eq!(answers.percentile(50), Duration::from_millis(50));
        assert_eq!(answers.percentile(99), Duration::from_millis(99));
        assert_eq!(answers.bytes_each(), 10);
        assert_eq!(Answers::default().percentile(99), Duration::ZERO);
    }
}
