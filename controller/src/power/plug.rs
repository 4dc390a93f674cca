//! Asking a plug to switch on: one HTTP request, to an address that the site file pins.

use std::{net::IpAddr, time::Duration};

use bytes::Bytes;
use http::{Request, Uri, header::HOST};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};

/// A plug in the house answers within milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks the plug once. Redirects are answers like others, and no success.
///
/// # Errors
/// It does not answer, or not with success; a sentence for people.
pub async fn ask(url: &str) -> Result<(), String> {
    match timeout(PATIENCE, exchange(url)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!("the plug did not answer within {} s", PATIENCE.as_secs())),
    }
}

async fn exchange(url: &str) -> Result<(), String> {
    let wrong = |what: &dyn std::fmt::Display| format!("the plug could not be asked: {what}");
    let uri: Uri = url.parse().map_err(|error| wrong(&error))?;
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let address: IpAddr = host.parse().map_err(|error| wrong(&error))?;
    let port = uri.port_u16().unwrap_or(80);
    let stream = TcpStream::connect((address, port)).await.map_err(|error| wrong(&error))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| wrong(&error))?;
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let authority = uri.authority().map_or("", http::uri::Authority::as_str);
    let request = Request::get(path).header(HOST, authority).body(Empty::<Bytes>::new());
    let request = request.map_err(|error| wrong(&error))?;
    // The connection is driven here and no longer: nothing of it outlives the call.
    let answered = sender.send_request(request);
    tokio::pin!(answered);
    let answer = tokio::select! {
        biased;
        answer = &mut answered => answer,
        // A plug that hangs up after its answer has answered.
        _ended = connection => answered.await,
    };
    let answer = answer.map_err(|error| wrong(&error))?;
    let status = answer.status();
    if status.is_success() { Ok(()) } else { Err(format!("the plug answered {status}")) }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;

    async fn asked(answer: &'static str) -> (Result<(), String>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/relay/0?turn=on", listener.local_addr().expect("bound"));
        let plug = async {
            let (mut stream, _) = listener.accept().await.expect("somebody asks");
            let mut request = vec![0; 1024];
            let length = stream.read(&mut request).await.expect("readable");
            stream.write_all(answer.as_bytes()).await.expect("writable");
            String::from_utf8_lossy(&request[..length]).into_owned()
        };
        tokio::join!(ask(&url), plug)
    }

    #[tokio::test]
    async fn a_plug_is_asked_at_its_path_and_its_success_counts() {
        let (said, request) = asked("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(said, Ok(()));
        assert!(request.starts_with("GET /relay/0?turn=on HTTP/1.1"), "{request}");
    }

    #[tokio::test]
    async fn a_plug_that_sends_elsewhere_is_not_followed() {
        let answer =
            "HTTP/1.1 302 Found\r\nlocation: http://192.0.2.1/\r\ncontent-length: 0\r\n\r\n";
        let (said, _) = asked(answer).await;
        assert_eq!(said, Err("the plug answered 302 Found".to_owned()));
    }

    #[tokio::test]
    async fn a_name_is_not_asked_for_its_address() {
        let said = ask("http://plug.example/on").await;
        assert!(said.is_err_and(|why| why.starts_with("the plug could not be asked")));
    }
}
