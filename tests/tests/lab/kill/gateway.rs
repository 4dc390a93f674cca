//! A client of the gateway that notes how each answer ended, and above all whether it said so.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use bytes::Bytes;
use homelab_common::tls::{Alpn, ClientOptions, Roots, ServerTrust, TlsClient, TrustHandle};
use homelab_tests::lab::API_KEY;
use http::{StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::time::timeout;

/// Longer than anything takes that still goes on.
const ANSWER_MAX: Duration = Duration::from_secs(120);
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Where the gateway says which job it is.
const JOB: &str = "x-homelab-job";

/// How an answer ended, as a client sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Ending {
    /// There was none: nobody answered, or the connection broke before the headers.
    #[default]
    Nothing,
    /// The connection broke after the headers.
    Broken,
    /// It is whole, or `[DONE]` stood at its end.
    Done,
    /// An error was told.
    Failed(String),
    /// It ended in order and said neither.
    Silent,
    /// It did not end.
    Hung,
}

/// What a client heard of one request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heard {
    /// The job, once the gateway has named it: from then on it is acknowledged.
    pub(crate) job: Option<String>,
    pub(crate) status: Option<StatusCode>,
    pub(crate) ending: Ending,
    pub(crate) text: String,
    /// Identifiers of the answers that its pieces are of.
    pub(crate) answers: BTreeSet<String>,
}

/// The gateway, seen from a program that uses it.
#[derive(Clone, Debug)]
pub(crate) struct Gateway {
    address: SocketAddr,
    tls: TlsClient,
}

impl Gateway {
    pub(crate) fn new(address: SocketAddr, roots: Roots) -> anyhow::Result<Self> {
        let mut options = ClientOptions::new(ServerTrust::Roots(TrustHandle::new(roots)));
        options.alpn = Alpn::None;
        Ok(Self { address, tls: TlsClient::new(options)? })
    }

    /// Asks over a connection of its own. What goes wrong is part of what is heard.
    pub(crate) async fn ask(&self, body: &Value, idempotency_key: Option<&str>) -> Heard {
        let mut heard = Heard::default();
        let asking = self.try_ask(body, idempotency_key, &mut heard);
        if timeout(ANSWER_MAX, asking).await.is_err() {
            heard.ending = Ending::Hung;
        }
        heard
    }

    async fn try_ask(
        &self,
        body: &Value,
        idempotency_key: Option<&str>,
        heard: &mut Heard,
    ) -> Option<()> {
        let name = self.address.ip().to_string();
        let stream = self.tls.connect(self.address, &name, CONNECT_MAX).await.ok()?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
        let mut request = http::Request::post("/v1/chat/completions")
            .header(header::HOST, self.address.to_string())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::AUTHORIZATION, format!("Bearer {API_KEY}"));
        if let Some(key) = idempotency_key {
            request = request.header("idempotency-key", key);
        }
        let request = request.body(Full::new(Bytes::from(body.to_string()))).ok()?;
        // The sender goes with its end, and the connection ends with it.
        let reading = async move {
            let response = sender.send_request(request).await.ok()?;
            heard.status = Some(response.status());
            let job = response.headers().get(JOB).and_then(|value| value.to_str().ok());
            heard.job = job.map(str::to_owned);
            heard.read(response).await;
            Some(())
        };
        tokio::join!(connection, reading).1
    }
}

impl Heard {
    async fn read(&mut self, response: http::Response<Incoming>) {
        let is_stream = response
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
        let mut body = response.into_body();
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else {
                self.ending = Ending::Broken;
                return;
            };
            bytes.extend_from_slice(frame.data_ref().map_or(&[][..], Bytes::as_ref));
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        self.ending = Ending::Silent;
        if is_stream {
            text.lines().filter_map(|line| line.strip_prefix("data: ")).for_each(|event| {
                self.event(event);
            });
        } else {
            self.whole(&text);
        }
    }

    fn event(&mut self, event: &str) {
        if event == "[DONE]" {
            // After an error it only closes the stream.
            if self.ending == Ending::Silent {
                self.ending = Ending::Done;
            }
            return;
        }
        let Ok(event) = serde_json::from_str::<Value>(event) else { return };
        if !event["error"].is_null() {
            self.ending = Ending::Failed(event["error"]["code"].to_string());
        }
        self.piece(&event, "delta");
    }

    fn whole(&mut self, text: &str) {
        let Ok(answer) = serde_json::from_str::<Value>(text) else { return };
        if answer["error"].is_null() && answer["choices"][0]["message"].is_object() {
            self.ending = Ending::Done;
        } else if !answer["error"].is_null() {
            self.ending = Ending::Failed(answer["error"]["code"].to_string());
        }
        self.piece(&answer, "message");
    }

    fn piece(&mut self, answer: &Value, part: &str) {
        if let Some(id) = answer["id"].as_str() {
            self.answers.insert(id.to_owned());
        }
        self.text.push_str(answer["choices"][0][part]["content"].as_str().unwrap_or_default());
    }
}
