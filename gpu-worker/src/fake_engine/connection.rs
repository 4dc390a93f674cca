//! One connection to a scripted engine: one request, one answer.

use std::{io, sync::atomic::Ordering, time::Duration};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time,
};

use super::{
    FakeEngine, Step,
    answer::{chunk, finish, hello},
};

/// What all connections to one run of the process share.
#[derive(Debug, Clone)]
pub(super) struct Run {
    pub(super) engine: FakeEngine,
    pub(super) key: String,
    pub(super) slots: u32,
}

struct Request {
    path: String,
    authorization: String,
    body: Vec<u8>,
}

impl Run {
    pub(super) async fn serve(self, socket: TcpStream) {
        let mut socket = BufReader::new(socket);
        // A client that goes away in the middle is part of what is tested.
        if let Ok(request) = read(&mut socket).await {
            drop(self.answer(request, &mut socket).await);
        }
    }

    async fn answer(&self, request: Request, socket: &mut BufReader<TcpStream>) -> io::Result<()> {
        let engine = &self.engine.0;
        if request.path == "/health" {
            let left = engine.loading.load(Ordering::Relaxed);
            if left > 0 {
                engine.loading.store(left - 1, Ordering::Relaxed);
                let body = r#"{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}"#;
                return respond(socket, 503, body).await;
            }
            return respond(socket, 200, r#"{"status":"ok"}"#).await;
        }
        if !self.key.is_empty() && request.authorization != format!("Bearer {}", self.key) {
            return respond(socket, 401, r#"{"error":{"code":401,"message":"Invalid API Key"}}"#)
                .await;
        }
        match request.path.as_str() {
            "/slots" if engine.has_slots_page.load(Ordering::Relaxed) => {
                respond(socket, 200, &self.slots().to_string()).await
            }
            "/v1/models" => respond(socket, 200, r#"{"data":[{"id":"small"}]}"#).await,
            "/v1/chat/completions" | "/v1/completions" | "/v1/embeddings" | "/v1/rerank" => {
                self.chat(&request.body, socket).await
            }
            _ => respond(socket, 501, r#"{"error":{"code":501,"message":"no such page"}}"#).await,
        }
    }

    fn slots(&self) -> Value {
        let busy = self.engine.open_answers();
        let decoded = self.engine.0.pieces_sent.load(Ordering::Relaxed);
        let slot = |number: u32| {
            let token = json!([{"n_decoded": decoded}]);
            json!({"id": number, "is_processing": number < busy, "id_task": 1, "next_token": token})
        };
        (0..self.slots).map(slot).collect()
    }

    async fn chat(&self, body: &[u8], socket: &mut BufReader<TcpStream>) -> io::Result<()> {
        let steps = {
            let mut script = self.engine.script();
            script.requests.push(serde_json::from_slice(body).unwrap_or_default());
            script.answers.pop_front().unwrap_or_else(hello)
        };
        let _open = Open::new(&self.engine);
        let mut texts = 0;
        let mut has_begun = false;
        for step in steps {
            match step {
                Step::Refuse(status, body) => return respond(socket, status, body).await,
                Step::Json(body) => return respond(socket, 200, body).await,
                Step::Hang => return gone(socket).await,
                Step::Wait(span) => {
                    if time::timeout(span, gone(socket)).await.is_ok() {
                        return Ok(());
                    }
                    continue;
                }
                _ => {}
            }
            if !has_begun {
                has_begun = true;
                let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                            Transfer-Encoding: chunked\r\n\r\n";
                socket.write_all(head.as_bytes()).await?;
            }
            match step {
                Step::Text(text) => {
                    texts += 1;
                    self.engine.0.pieces_sent.fetch_add(1, Ordering::Relaxed);
                    piece(socket, &chunk(text)).await?;
                }
                Step::Raw(text) => piece(socket, text).await?,
                Step::Finish => {
                    piece(socket, &finish(texts)).await?;
                    piece(socket, "").await?;
                }
                Step::End => piece(socket, "").await?,
                _ => return Ok(()),
            }
        }
        Ok(())
    }
}

/// Counts an answer that is being written.
struct Open<'a>(&'a FakeEngine);

impl<'a> Open<'a> {
    fn new(engine: &'a FakeEngine) -> Self {
        engine.0.open_answers.fetch_add(1, Ordering::Relaxed);
        Self(engine)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.0.open_answers.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn read(socket: &mut BufReader<TcpStream>) -> io::Result<Request> {
    let mut line = String::new();
    socket.read_line(&mut line).await?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut length, mut authorization) = (0, String::new());
    loop {
        line.clear();
        socket.read_line(&mut line).await?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().unwrap_or(0),
            "authorization" => value.clone_into(&mut authorization),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await?;
    Ok(Request { path, authorization, body })
}

/// Waits until the client has gone.
async fn gone(socket: &mut BufReader<TcpStream>) -> io::Result<()> {
    socket.read_u8().await.map(drop)
}

async fn respond(socket: &mut BufReader<TcpStream>, status: u16, body: &str) -> io::Result<()> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} Scripted\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await?;
    socket.write_all(body.as_bytes()).await
}

/// One piece of a chunked body; an empty one ends it.
async fn piece(socket: &mut BufReader<TcpStream>, text: &str) -> io::Result<()> {
    socket.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes()).await?;
    // A pause, so that pieces arrive one by one as those of a real engine do.
    time::sleep(Duration::from_millis(1)).await;
    Ok(())
}
