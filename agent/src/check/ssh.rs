//! Reads the line with which an SSH server introduces itself (RFC 4253, section 4.2).

use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

use crate::check::connect::{Target, connect};
use crate::check::{Finding, Progress};
use crate::health::label;

/// Servers may say other lines before; somewhere it has to end.
const GREETING_BYTES_MAX: u64 = 8 * 1024;

/// An SSH server.
#[derive(Clone, Debug, PartialEq)]
pub struct SshProbe {
    /// Where.
    pub target: Target,
}

pub(super) async fn run(probe: &SshProbe, deadline: Duration, progress: &Progress) -> Finding {
    let stream = match connect(&probe.target, deadline, progress).await {
        Ok(stream) => stream,
        Err(why) => return why.into_failure(),
    };
    let mut lines = BufReader::new(stream.take(GREETING_BYTES_MAX));
    let mut line = Vec::new();
    let mut first = None;
    loop {
        line.clear();
        match lines.read_until(b'\n', &mut line).await {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => {
                return Finding::failed("CONNECTION_LOST", format!("while reading: {error}"));
            }
        }
        let text = label(&line, 255);
        if text.starts_with("SSH-2.0-") || text.starts_with("SSH-1.99-") {
            return Finding::passed(text);
        }
        if text.starts_with("SSH-") {
            return Finding::failed("OLD_PROTOCOL", text);
        }
        first.get_or_insert(text);
    }
    let said = first.map_or_else(|| "nothing".to_owned(), |line| format!("`{line}`"));
    Finding::failed("NOT_SSH", format!("{} said {said} and no SSH greeting", probe.target))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;
    use crate::check::tests::run;
    use crate::check::{Outcome, Probe, Verdict};

    async fn greeted(greeting: &[u8]) -> Outcome {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::from(listener.local_addr().unwrap());
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(greeting).await.ok();
            stream.shutdown().await.ok();
        };
        tokio::join!(run(Probe::Ssh(SshProbe { target })), server).0
    }

    #[tokio::test]
    async fn a_greeting_passes_and_is_shown() {
        let outcome = greeted(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n").await;
        assert_eq!(outcome.verdict, Verdict::Passed);
        assert_eq!(outcome.observed, "SSH-2.0-OpenSSH_9.2p1 Debian-2");
    }

    #[tokio::test]
    async fn lines_before_the_greeting_are_allowed() {
        let outcome = greeted(b"welcome\r\nto this host\r\nSSH-2.0-x\r\n").await;
        assert_eq!(outcome.verdict, Verdict::Passed);
    }

    #[tokio::test]
    async fn anything_else_fails() {
        for (greeting, reason) in [
            (&b"HTTP/1.1 400 Bad Request\r\n"[..], "NOT_SSH"),
            (b"", "NOT_SSH"),
            (b"\x00\xff\x00\xff", "NOT_SSH"),
            (b"SSH-1.5-old\r\n", "OLD_PROTOCOL"),
        ] {
            let outcome = greeted(greeting).await;
            assert_eq!((outcome.verdict, outcome.reason), (Verdict::Failed, reason));
        }
    }

    #[tokio::test]
    async fn an_endless_greeting_is_cut() {
        let outcome = greeted(&vec![b'x'; 100_000]).await;
        assert_eq!(outcome.reason, "NOT_SSH");
        assert!(outcome.observed.len() < 400);
    }
}
