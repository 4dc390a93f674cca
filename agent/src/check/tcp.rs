//! Opens a TCP connection and closes it again.

use std::time::Duration;

use crate::check::connect::{Reach, Target, connect};
use crate::check::{Finding, Progress};

/// A TCP connection.
#[derive(Clone, Debug, PartialEq)]
pub struct TcpProbe {
    /// Where to.
    pub target: Target,
    /// What is expected.
    pub expect: Reach,
}

pub(super) async fn run(probe: &TcpProbe, deadline: Duration, progress: &Progress) -> Finding {
    let connected = connect(&probe.target, deadline, progress).await;
    match (connected, probe.expect) {
        (Ok(_), Reach::Open) => Finding::passed(format!("connected to {}", probe.target)),
        (Ok(_), Reach::Denied) => Finding::failed(
            "CONNECTED",
            format!("connected to {}, which must be denied", probe.target),
        ),
        (Err(why), Reach::Open) => why.into_failure(),
        (Err(why), Reach::Denied) => why.into_denial(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;
    use crate::check::tests::run;
    use crate::check::{Outcome, Probe, Verdict};

    async fn listener() -> (TcpListener, Target) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::from(listener.local_addr().unwrap());
        (listener, target)
    }

    async fn check(target: &Target, expect: Reach) -> Outcome {
        run(Probe::Tcp(TcpProbe { target: target.clone(), expect })).await
    }

    #[tokio::test]
    async fn an_open_port_passes_when_wanted_and_fails_when_denied() {
        let (_listener, target) = listener().await;
        assert_eq!(check(&target, Reach::Open).await.verdict, Verdict::Passed);
        let denied = check(&target, Reach::Denied).await;
        assert_eq!((denied.verdict, denied.reason), (Verdict::Failed, "CONNECTED"));
    }

    #[tokio::test]
    async fn a_closed_port_fails_when_wanted_and_passes_when_denied() {
        let (listener, target) = listener().await;
        drop(listener);
        let open = check(&target, Reach::Open).await;
        assert_eq!((open.verdict, open.reason), (Verdict::Failed, "CONNECTION_REFUSED"));
        assert_eq!(check(&target, Reach::Denied).await.verdict, Verdict::Passed);
    }

    /// A listener whose queue is full drops further attempts: on loopback, what a filter that
    /// drops looks like.
    #[tokio::test]
    async fn silence_is_seen_as_silence_and_proves_a_denial() {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        let full = loop {
            let attempt = tokio::net::TcpStream::connect(address);
            match tokio::time::timeout(Duration::from_millis(200), attempt).await {
                Ok(stream) => queued.push(stream.unwrap()),
                Err(_elapsed) => break Target::from(address),
            }
        };
        let deadline = Duration::from_millis(500);
        let probe = |expect| TcpProbe { target: full.clone(), expect };
        let open = super::run(&probe(Reach::Open), deadline, &Progress::default()).await;
        assert_eq!((open.verdict, open.reason), (Verdict::Failed, "NO_ANSWER"));
        let denied = super::run(&probe(Reach::Denied), deadline, &Progress::default()).await;
        assert_eq!(denied.verdict, Verdict::Passed);
        assert!(denied.observed.contains("did not answer within 0.4 s"), "{}", denied.observed);
    }
}
