//! An engine without a model, so that what stands before it can be measured: it answers in
//! llama-server's form, as many words as `max_tokens` allows, as fast as the socket takes them.

use std::{net::SocketAddr, time::Duration};

use anyhow::Context as _;
use homelab_common::lifecycle::Tasks;
use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    time::sleep,
};

/// Larger requests are refused by closing the connection.
const BODY_BYTES_MAX: usize = 1 << 20;
const HEADERS_MAX: usize = 64;
const TOKENS_MAX: usize = 4096;
/// Longest pause between two words that a request may ask for.
const PACE_MAX: Duration = Duration::from_secs(1);

/// What a request says that matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Wish {
    stream: bool,
    max_tokens: usize,
    stream_options: Options,
    /// Milliseconds between two words: a field of this engine alone.
    mock_pace_ms: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Options {
    include_usage: bool,
}

struct Request {
    path: String,
    body: Vec<u8>,
}

/// Serves until the process is ended.
///
/// # Errors
/// When the address cannot be listened on.
pub fn serve(address: SocketAddr) -> anyhow::Result<()> {
    super::runtime()?.block_on(async {
        let listener =
            TcpListener::bind(address).await.with_context(|| format!("bind {address}"))?;
        let tasks = Tasks::default();
        loop {
            let (stream, _) = listener.accept().await.context("accept")?;
            tasks.spawn(async move {
                // A caller that goes away in the middle is none of our business.
                drop(converse(stream).await);
            });
        }
    })
}

async fn converse(stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream).await? {
        if request.path != "/v1/chat/completions" {
            let (status, body) = match request.path.as_str() {
                "/health" => ("200 OK", r#"{"status":"ok"}"#),
                _ => ("404 Not Found", r#"{"error":{"code":404,"message":"no such page"}}"#),
            };
            whole(&mut stream, status, body).await?;
            continue;
        }
        let wish: Wish = serde_json::from_slice(&request.body).unwrap_or_default();
        if wish.stream {
            events(&mut stream, &wish).await?;
        } else {
            whole(&mut stream, "200 OK", &completion(&wish)).await?;
        }
    }
    Ok(())
}

/// The next request; `None` when the caller has closed.
async fn read(stream: &mut BufReader<TcpStream>) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    let path = line.split_ascii_whitespace().nth(1).unwrap_or_default().to_owned();
    let mut length = 0;
    for _ in 0..HEADERS_MAX {
        line.clear();
        stream.read_line(&mut line).await?;
        let Some((name, value)) = line.split_once(':') else { break };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().unwrap_or(usize::MAX);
        }
    }
    if length > BODY_BYTES_MAX {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok(Some(Request { path, body }))
}

async fn whole(stream: &mut BufReader<TcpStream>, status: &str, body: &str) -> std::io::Result<()> {
    let answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await
}

/// Each event is a write of its own, as engines do it.
async fn events(stream: &mut BufReader<TcpStream>, wish: &Wish) -> std::io::Result<()> {
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    let pace = Duration::from_millis(wish.mock_pace_ms).min(PACE_MAX);
    for event in story(wish) {
        let event = format!("data: {event}\n\n");
        stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await?;
        if !pace.is_zero() {
            sleep(pace).await;
        }
    }
    stream.write_all(b"0\r\n\r\n").await
}

/// Role, words, reason to end, the cost where it was asked for, and the end.
fn story(wish: &Wish) -> Vec<String> {
    let chunk = |delta: &str, finish: &str| {
        format!(
            r#"{{"choices":[{{"finish_reason":{finish},"index":0,"delta":{delta}}}],"created":1790000000,"id":"chatcmpl-mock","model":"mock","object":"chat.completion.chunk"}}"#
        )
    };
    let tokens = wish.max_tokens.min(TOKENS_MAX);
    let mut events = vec![chunk(r#"{"role":"assistant","content":null}"#, "null")];
    events.extend((0..tokens).map(|_| chunk(r#"{"content":"word "}"#, "null")));
    events.push(chunk("{}", r#""length""#));
    if wish.stream_options.include_usage {
        events.push(format!(
            r#"{{"choices":[],"created":1790000000,"id":"chatcmpl-mock","model":"mock","object":"chat.completion.chunk",{}}}"#,
            cost(tokens)
        ));
    }
    events.push("[DONE]".to_owned());
    events
}

fn completion(wish: &Wish) -> String {
    let tokens = wish.max_tokens.min(TOKENS_MAX);
    format!(
        r#"{{"choices":[{{"finish_reason":"length","index":0,"message":{{"role":"assistant","content":"{}"}}}}],"created":1790000000,"id":"chatcmpl-mock","model":"mock","object":"chat.completion",{}}}"#,
        "word ".repeat(tokens),
        cost(tokens)
    )
}

fn cost(tokens: usize) -> String {
    format!(
        r#""usage":{{"completion_tokens":{tokens},"prompt_tokens":7,"total_tokens":{}}},"timings":{{"prompt_ms":1.5,"predicted_ms":40.0}}"#,
        tokens + 7
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_of_63_words_has_66_events_and_the_cost_only_on_demand() {
        let mut wish = Wish { stream: true, max_tokens: 63, ..Wish::default() };
        assert_eq!(story(&wish).len(), 66);
        wish.stream_options.include_usage = true;
        let events = story(&wish);
        assert_eq!(events.len(), 67);
        for event in &events[..66] {
            let _json: serde_json::Value = serde_json::from_str(event).expect("JSON");
        }
    }

    #[test]
    fn a_whole_answer_is_json_with_the_words() {
        let wish = Wish { max_tokens: 2, ..Wish::default() };
        let answer: serde_json::Value = serde_json::from_str(&completion(&wish)).expect("JSON");
        assert_eq!(answer["choices"][0]["message"]["content"], "word word ");
        assert_eq!(answer["usage"]["completion_tokens"], 2);
    }
}
