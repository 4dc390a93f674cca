//! A provider outside that records every connection and every byte.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use homelab_common::{lifecycle::Tasks, tls::ConnectError};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    sync::Notify,
};

use crate::gold::{
    ledger::Ticket,
    wire::{Connection, Connector, WireError},
};

/// How long a caller may take to go.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a provider does with a request.
#[derive(Clone, Debug)]
pub(super) enum Reply {
    /// Answers with these chunks, `[DONE]` and a proper end.
    Chunks(Vec<Value>),
    /// Sends these chunks and closes.
    Cut(Vec<Value>),
    /// Sends these chunks and then nothing, until the caller has gone.
    Hang(Vec<Value>),
    /// Answers with a status, headers and a body.
    Status(&'static str, &'static str),
    /// Does not let anybody connect.
    Absent,
}

/// A provider outside. Every connection to it is seen here.
#[derive(Debug, Default)]
pub(super) struct Far {
    replies: Mutex<VecDeque<Reply>>,
    requests: Mutex<Vec<(String, String)>>,
    connects: AtomicU32,
    gone: Arc<Notify>,
}

impl Far {
    pub(super) fn reply(&self, reply: Reply) {
        self.replies.lock().expect("whole").push_back(reply);
    }

    /// Connections so far, those that were refused too.
    pub(super) fn connects(&self) -> u32 {
        self.connects.load(Ordering::SeqCst)
    }

    /// Head and body of each request.
    pub(super) fn requests(&self) -> Vec<(String, String)> {
        self.requests.lock().expect("whole").clone()
    }

    /// Waits until a caller has closed its connection in the middle of an answer.
    pub(super) async fn caller_gone(&self) {
        tokio::time::timeout(PATIENCE, self.gone.notified()).await.expect("the caller goes");
    }
}

/// The way to [`Far`], in memory.
#[derive(Debug)]
pub(super) struct Recorder(pub(super) Arc<Far>, pub(super) Tasks);

#[async_trait]
impl Connector for Recorder {
    async fn connect(&self, ticket: &Ticket) -> Result<Box<dyn Connection>, WireError> {
        let far = Arc::clone(&self.0);
        far.connects.fetch_add(1, Ordering::SeqCst);
        assert_eq!(ticket.outbound().provider().url.host(), "api.far.example");
        let reply = far.replies.lock().expect("whole").pop_front();
        let reply = reply.unwrap_or_else(|| Reply::Chunks(answer("fine", 3, 1)));
        if matches!(reply, Reply::Absent) {
            let address = "api.far.example:443".to_owned();
            let after = Duration::from_secs(10);
            return Err(WireError::Connect(ConnectError::Deadline { address, after }));
        }
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        self.1.spawn(serve(far, theirs, reply));
        Ok(Box::new(ours))
    }
}

async fn serve(far: Arc<Far>, mut socket: DuplexStream, reply: Reply) {
    let Some(request) = read_request(&mut socket).await else { return };
    far.requests.lock().expect("whole").push(request);
    match reply {
        Reply::Status(status, rest) => {
            let _sent = socket.write_all(format!("HTTP/1.1 {status}\r\n{rest}").as_bytes()).await;
        }
        Reply::Chunks(chunks) => {
            stream_head(&mut socket, &chunks).await;
            let _sent = socket.write_all(b"data: [DONE]\n\n").await;
        }
        Reply::Cut(chunks) => stream_head(&mut socket, &chunks).await,
        Reply::Hang(chunks) => {
            stream_head(&mut socket, &chunks).await;
            let _closed = socket.read(&mut [0]).await;
            far.gone.notify_one();
        }
        Reply::Absent => {}
    }
}

async fn stream_head(socket: &mut DuplexStream, chunks: &[Value]) {
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    let _sent = socket.write_all(head.as_bytes()).await;
    for chunk in chunks {
        let _sent = socket.write_all(format!("data: {chunk}\n\n").as_bytes()).await;
    }
}

pub(super) async fn read_request(
    socket: &mut (impl tokio::io::AsyncRead + Unpin),
) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let count = socket.read(&mut buffer).await.ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(buffer.get(..count)?);
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| {
            line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse::<usize>().ok()
        });
        if body.len() >= length.unwrap_or(0) {
            return Some((head.to_owned(), body.to_owned()));
        }
    }
}

/// An answer of one piece of text, with its usage.
pub(super) fn answer(text: &str, prompt: u32, completion: u32) -> Vec<Value> {
    vec![
        json!({"id": "c", "choices": [{"index": 0, "delta": {"role": "assistant", "content": text}}]}),
        json!({"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
        json!({"id": "c", "choices": [],
            "usage": {"prompt_tokens": prompt, "completion_tokens": completion}}),
    ]
}
