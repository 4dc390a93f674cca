//! Sends a GET and looks at status, one header and the beginning of the body.
//!
//! Redirects are followed on the same host only: a check that was meant for one server must not
//! end up praising another.

mod exchange;
mod url;

use std::time::Duration;

use ::http::StatusCode;
use ::http::header::LOCATION;

use crate::check::http::exchange::{Answer, get};
use crate::check::{Finding, Progress, Runner};
use crate::health::label;

pub use url::{HeaderWanted, InvalidHeader, InvalidUrl, Url};

/// From http to https, and from there to a login page: that is what servers do.
const REDIRECTS_MAX: usize = 3;

/// A GET request.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpProbe {
    /// What to get.
    pub url: Url,
    /// Statuses that pass; empty means 200 to 299.
    pub statuses: Vec<u16>,
    /// Text that the first 64 KiB of the body must hold.
    pub body_contains: Option<String>,
    /// Header that must be there.
    pub header: Option<HeaderWanted>,
    /// Which certificates are taken.
    pub trust: Trust,
}

/// Which certificates are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Those that the system trusts, for the right name and time.
    System,
    /// Any: Proxmox and OPNsense make their own.
    Anything,
}

pub(super) async fn run(
    probe: &HttpProbe,
    runner: &Runner,
    deadline: Duration,
    progress: &Progress,
) -> Finding {
    let mut url = probe.url.clone();
    let mut redirects = 0;
    loop {
        let answer = match get(&url, probe, runner, deadline, progress).await {
            Ok(answer) => answer,
            Err(finding) => return finding,
        };
        let next = if probe.accepts(answer.status) { None } else { redirection(&url, &answer) };
        match next {
            Some(next) if redirects < REDIRECTS_MAX => {
                redirects += 1;
                url = next;
            }
            _ => return judge(probe, &url, &answer),
        }
    }
}

impl HttpProbe {
    fn accepts(&self, status: StatusCode) -> bool {
        match self.statuses.as_slice() {
            [] => status.is_success(),
            statuses => statuses.contains(&status.as_u16()),
        }
    }
}

/// Where `answer` sends us, if that is on the same host.
fn redirection(url: &Url, answer: &Answer) -> Option<Url> {
    if !answer.status.is_redirection() {
        return None;
    }
    let location = answer.headers.get(LOCATION)?.to_str().ok()?;
    url.join(location).filter(|next| next.is_same_host(url))
}

fn judge(probe: &HttpProbe, url: &Url, answer: &Answer) -> Finding {
    let location = answer.headers.get(LOCATION).filter(|_| answer.status.is_redirection());
    let mut observed = format!("{url} answered {}", answer.status);
    if let Some(location) = location {
        observed.push_str(" to ");
        observed.push_str(&label(location.as_bytes(), 200));
    }
    if !probe.accepts(answer.status) {
        return Finding::failed("OTHER_STATUS", observed);
    }
    if let Some(wanted) = probe.header.as_ref().filter(|wanted| !wanted.is_met(&answer.headers)) {
        return Finding::failed("HEADER_MISSING", format!("{observed} without `{wanted}`"));
    }
    if let Some(text) = &probe.body_contains
        && !contains(&answer.body, text.as_bytes())
    {
        let begins = label(&answer.body, 200);
        let shown = label(text.as_bytes(), 200);
        observed = format!("{observed}; `{shown}` is not in its body, which begins `{begins}`");
        return Finding::failed("TEXT_MISSING", observed);
    }
    Finding::passed(observed)
}

fn contains(body: &[u8], text: &[u8]) -> bool {
    text.is_empty() || body.windows(text.len()).any(|window| window == text)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::check::tests::run;
    use crate::check::tls::tests::acceptor;
    use crate::check::{Outcome, Probe, Verdict};

    fn probe(url: &str) -> HttpProbe {
        HttpProbe {
            url: Url::parse(url).unwrap(),
            statuses: Vec::new(),
            body_contains: None,
            header: None,
            trust: Trust::System,
        }
    }

    async fn reply(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &str) {
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.unwrap());
        }
        stream.write_all(answer.as_bytes()).await.ok();
        stream.shutdown().await.ok();
    }

    /// Runs `change`d probes against a server that gives each of `answers` once, in this order.
    async fn served(answers: &[&str], change: impl FnOnce(&mut HttpProbe)) -> Outcome {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = async {
            for answer in answers {
                let (stream, _) = listener.accept().await.unwrap();
                reply(stream, &answer.replace("ADDRESS", &address.to_string())).await;
            }
        };
        let mut probe = probe(&format!("http://{address}/health?full=1"));
        change(&mut probe);
        tokio::join!(run(Probe::Http(probe)), server).0
    }

    const GOOD: &str = "HTTP/1.1 200 OK\r\nServer: test\r\nContent-Length: 6\r\n\r\nall ok";

    #[tokio::test]
    async fn a_good_answer_passes() {
        let outcome = served(&[GOOD], |_| {}).await;
        assert_eq!(outcome.verdict, Verdict::Passed, "{}", outcome.observed);
        assert!(outcome.observed.contains("200 OK"), "{}", outcome.observed);
    }

    #[tokio::test]
    async fn what_is_wanted_of_an_answer_is_looked_at() {
        type Change = fn(&mut HttpProbe);
        let cases: [(Change, &str); 7] = [
            (|p| p.body_contains = Some("all ok".to_owned()), "AS_EXPECTED"),
            (|p| p.body_contains = Some("all bad".to_owned()), "TEXT_MISSING"),
            (|p| p.header = HeaderWanted::parse("server").ok(), "AS_EXPECTED"),
            (|p| p.header = HeaderWanted::parse("Server: test").ok(), "AS_EXPECTED"),
            (|p| p.header = HeaderWanted::parse("Server: other").ok(), "HEADER_MISSING"),
            (|p| p.header = HeaderWanted::parse("X-None").ok(), "HEADER_MISSING"),
            (|p| p.statuses = vec![204, 401], "OTHER_STATUS"),
        ];
        for (change, expected) in cases {
            assert_eq!(served(&[GOOD], change).await.reason, expected);
        }
    }

    #[tokio::test]
    async fn a_redirect_is_followed_on_the_same_host() {
        let to =
            "HTTP/1.1 302 Found\r\nLocation: http://ADDRESS/login\r\nContent-Length: 0\r\n\r\n";
        let outcome = served(&[to, GOOD], |_| {}).await;
        assert_eq!(outcome.verdict, Verdict::Passed, "{}", outcome.observed);
        assert!(outcome.observed.contains("/login"), "{}", outcome.observed);
    }

    #[tokio::test]
    async fn a_redirect_to_another_host_is_shown_and_not_followed() {
        let to =
            "HTTP/1.1 301 Moved\r\nLocation: https://evil.example/\r\nContent-Length: 0\r\n\r\n";
        let outcome = served(&[to], |_| {}).await;
        assert_eq!((outcome.verdict, outcome.reason), (Verdict::Failed, "OTHER_STATUS"));
        assert!(outcome.observed.contains("evil.example"), "{}", outcome.observed);
    }

    #[tokio::test]
    async fn a_circle_of_redirects_ends() {
        let to = "HTTP/1.1 302 Found\r\nLocation: /health\r\nContent-Length: 0\r\n\r\n";
        let outcome = served(&[to; 4], |_| {}).await;
        assert_eq!(outcome.reason, "OTHER_STATUS");
    }

    #[tokio::test]
    async fn a_redirect_that_was_asked_for_passes() {
        let to = "HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n";
        let outcome = served(&[to], |probe| probe.statuses = vec![302]).await;
        assert_eq!(outcome.verdict, Verdict::Passed);
    }

    #[tokio::test]
    async fn what_is_no_http_fails() {
        for answer in ["SSH-2.0-OpenSSH\r\n", "", "HTTP/1.1 200 OK\r\nContent-Le"] {
            let outcome = served(&[answer], |_| {}).await;
            assert_eq!((outcome.verdict, outcome.reason), (Verdict::Failed, "NOT_HTTP"));
        }
    }

    #[tokio::test]
    async fn only_the_beginning_of_a_long_body_is_read() {
        let body = "x".repeat(200_000);
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 200003\r\n\r\n{body}end");
        let want_end = |probe: &mut HttpProbe| probe.body_contains = Some("end".to_owned());
        assert_eq!(served(&[&answer], want_end).await.reason, "TEXT_MISSING");
    }

    #[tokio::test]
    async fn a_certificate_is_judged_before_anything_is_asked_unless_any_will_do() {
        for (trust, expected) in
            [(Trust::System, "CERTIFICATE_NOT_TRUSTED"), (Trust::Anything, "AS_EXPECTED")]
        {
            let acceptor = acceptor("127.0.0.1", (-1, 90));
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let server = async {
                let (stream, _) = listener.accept().await.unwrap();
                let stream = acceptor.accept(stream).await.unwrap();
                if trust == Trust::Anything {
                    reply(stream, GOOD).await;
                }
            };
            let probe = HttpProbe { trust, ..probe(&format!("https://{address}/")) };
            let (outcome, ()) = tokio::join!(run(Probe::Http(probe)), server);
            assert_eq!(outcome.reason, expected, "{}", outcome.observed);
        }
    }

    #[test]
    fn text_is_found_anywhere() {
        assert!(contains(b"abc", b""));
        assert!(contains(b"abc", b"c"));
        assert!(!contains(b"abc", b"abcd"));
    }
}
