//! Sends echo requests and counts the replies.
//!
//! The kernel lets unprivileged processes send them through a datagram socket where
//! `net.ipv4.ping_group_range` allows (systemd's default does). Where it does not, the system's
//! `ping` is asked, and without that nothing can be found out.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use homelab_common::error_chain::Chain;
use homelab_common::exec::{ExecError, Program};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use tokio::net::UdpSocket;
use tokio::time::Instant;

use crate::check::connect::{Reach, Target};
use crate::check::{Finding, Progress, Runner};

const REPLY_PATIENCE: Duration = Duration::from_secs(1);
const ECHO_REQUEST_V4: u8 = 8;
const ECHO_REPLY_V4: u8 = 0;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;
const TOKEN_BYTES: usize = 8;

/// Echo requests.
#[derive(Clone, Debug, PartialEq)]
pub struct IcmpProbe {
    /// Whom; the port plays no part.
    pub target: Target,
    /// How many, 1 to 10.
    pub count: u16,
    /// What is expected.
    pub expect: Reach,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Echoes {
    sent: u16,
    received: u16,
    fastest: Option<Duration>,
}

/// Why nothing was found out.
#[derive(Debug, thiserror::Error)]
enum CannotPing {
    #[error("this process may not send echo requests")]
    NotAllowed,
    #[error("echo requests could not be sent")]
    Io(#[source] io::Error),
    #[error("ping could not be asked")]
    Program(#[source] ExecError),
}

pub(super) async fn run(probe: &IcmpProbe, runner: &Runner, progress: &Progress) -> Finding {
    let host = probe.target.host();
    let address = match probe.target.resolve().await.map(|addresses| addresses.first().copied()) {
        Ok(Some(address)) => address.ip(),
        Ok(None) => return Finding::unknown("NAME_NOT_RESOLVED", format!("{host} has no address")),
        Err(error) => return Finding::unknown("NAME_NOT_RESOLVED", format!("{host}: {error}")),
    };
    progress.reached(format!("sending echo requests to {address}"));
    let token = runner.chance.u64().to_be_bytes();
    let echoes = match ping_by_socket(address, probe.count, token).await {
        Err(CannotPing::NotAllowed) => ping_by_program(runner, address, probe.count).await,
        other => other,
    };
    match echoes {
        Ok(echoes) => judge(probe.expect, address, &echoes),
        Err(CannotPing::Io(error)) if error.kind() == io::ErrorKind::NetworkUnreachable => {
            Finding::unknown("NO_ROUTE", format!("this host has no route to {address}"))
        }
        Err(error @ CannotPing::NotAllowed) => Finding::unknown("NOT_ALLOWED", error.to_string()),
        Err(error) => Finding::unknown("CANNOT_PING", Chain(&error).to_string()),
    }
}

fn judge(expect: Reach, address: IpAddr, echoes: &Echoes) -> Finding {
    let Echoes { sent, received, fastest } = echoes;
    let time = fastest.map_or_else(String::new, |time| {
        format!(", the fastest in {:.2} ms", time.as_secs_f64() * 1e3)
    });
    let observed = format!("{address} answered {received} of {sent} echo requests{time}");
    match (expect, received) {
        (Reach::Open, 0) => Finding::failed("NO_ANSWER", observed),
        (Reach::Denied, 1..) => Finding::failed("ANSWERED", observed),
        (Reach::Open, _) | (Reach::Denied, 0) => Finding::passed(observed),
    }
}

async fn ping_by_socket(
    address: IpAddr,
    count: u16,
    token: [u8; TOKEN_BYTES],
) -> Result<Echoes, CannotPing> {
    let socket = open(address)?;
    let mut echoes = Echoes { sent: 0, received: 0, fastest: None };
    for sequence in 1..=count {
        let started = Instant::now();
        match socket.send(&echo_request(address, sequence, token)).await {
            Ok(_) => echoes.sent += 1,
            // A router's word about an earlier request; the next one may fare better.
            Err(error) if is_unreachable(&error) => {
                echoes.sent += 1;
                continue;
            }
            Err(error) => return Err(CannotPing::Io(error)),
        }
        let reply = wait_for_reply(&socket, address, sequence, token);
        if let Ok(Ok(())) = tokio::time::timeout(REPLY_PATIENCE, reply).await {
            echoes.received += 1;
            let time = started.elapsed();
            echoes.fastest = Some(echoes.fastest.map_or(time, |fastest| fastest.min(time)));
        }
    }
    Ok(echoes)
}

fn is_unreachable(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::HostUnreachable | io::ErrorKind::ConnectionRefused)
}

/// A socket for echo requests behaves as one for UDP: no ports are used, and the kernel sets
/// identifier and checksum and hands us the replies to our own requests only.
fn open(address: IpAddr) -> Result<UdpSocket, CannotPing> {
    let (family, protocol) = match address {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = match socket(family, SockType::Datagram, flags, protocol) {
        Ok(socket) => std::net::UdpSocket::from(socket),
        Err(nix::errno::Errno::EACCES | nix::errno::Errno::EPERM) => {
            return Err(CannotPing::NotAllowed);
        }
        Err(error) => return Err(CannotPing::Io(error.into())),
    };
    socket.connect(SocketAddr::new(address, 0)).map_err(CannotPing::Io)?;
    UdpSocket::from_std(socket).map_err(CannotPing::Io)
}

/// Type, code, checksum, identifier, sequence, and a token to know our own by (RFC 792, RFC 4443).
fn echo_request(address: IpAddr, sequence: u16, token: [u8; TOKEN_BYTES]) -> Vec<u8> {
    let kind = if address.is_ipv4() { ECHO_REQUEST_V4 } else { ECHO_REQUEST_V6 };
    let mut packet = vec![kind, 0, 0, 0, 0, 0];
    packet.extend_from_slice(&sequence.to_be_bytes());
    packet.extend_from_slice(&token);
    packet
}

async fn wait_for_reply(
    socket: &UdpSocket,
    address: IpAddr,
    sequence: u16,
    token: [u8; TOKEN_BYTES],
) -> io::Result<()> {
    let mut packet = [0; 128];
    loop {
        let length = socket.recv(&mut packet).await?;
        if is_reply(packet.get(..length).unwrap_or_default(), address, sequence, token) {
            return Ok(());
        }
    }
}

fn is_reply(packet: &[u8], address: IpAddr, sequence: u16, token: [u8; TOKEN_BYTES]) -> bool {
    let kind = if address.is_ipv4() { ECHO_REPLY_V4 } else { ECHO_REPLY_V6 };
    packet.first() == Some(&kind)
        && packet.get(6..8) == Some(&sequence.to_be_bytes())
        && packet.get(8..) == Some(&token)
}

async fn ping_by_program(
    runner: &Runner,
    address: IpAddr,
    count: u16,
) -> Result<Echoes, CannotPing> {
    let patience = REPLY_PATIENCE * u32::from(count) + Duration::from_secs(5);
    // Exit code 1 says that nobody answered, which is a finding and not a failure of ping.
    let program = Program::new("ping")
        .args(["-n", "-q", "-W", "1", "-i", "0.2", "-c"])
        .args([count.to_string(), address.to_string()])
        .deadline(patience)
        .accept([0, 1]);
    match runner.exec.run(program).await {
        Ok(output) => parse_ping(&output.text()).ok_or(CannotPing::NotAllowed),
        Err(ExecError::NotFound { .. }) => Err(CannotPing::NotAllowed),
        Err(error) => Err(CannotPing::Program(error)),
    }
}

/// `3 packets transmitted, 2 received, 33% packet loss, time 401ms` and
/// `rtt min/avg/max/mdev = 0.031/0.042/0.050/0.008 ms`, as iputils writes them.
fn parse_ping(text: &str) -> Option<Echoes> {
    let counts = text.lines().find(|line| line.contains("packets transmitted"))?;
    let number = |part: &str| part.split_whitespace().next()?.parse().ok();
    let mut parts = counts.split(',');
    let (sent, received) = (number(parts.next()?)?, number(parts.next()?)?);
    let times =
        text.lines().find_map(|line| line.split_once(" = ").filter(|_| line.contains("min/")));
    let fastest = times.and_then(|(_, times)| times.split('/').next()?.trim().parse::<f64>().ok());
    let fastest = fastest.and_then(|millis| Duration::try_from_secs_f64(millis / 1e3).ok());
    Some(Echoes { sent, received, fastest })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use homelab_common::chance::SeededChance;
    use homelab_common::clock::SystemClock;
    use homelab_common::exec::fake::{Answer, FakeExec};
    use proptest::prelude::*;

    use super::*;
    use crate::check::{Check, Outcome, Probe, Verdict};
    use crate::health::Roots;

    const LOOPBACK: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const TOKEN: [u8; TOKEN_BYTES] = *b"12345678";

    fn echoes(sent: u16, received: u16) -> Echoes {
        Echoes { sent, received, fastest: None }
    }

    /// Whether this process may send echo requests itself; both ways are right, and which one it
    /// is depends on the machine that tests run on.
    fn is_allowed() -> bool {
        let flags = SockFlag::SOCK_CLOEXEC;
        socket(AddressFamily::Inet, SockType::Datagram, flags, SockProtocol::Icmp).is_ok()
    }

    async fn ping_loopback(exec: FakeExec) -> Outcome {
        let (clock, chance) = (Arc::new(SystemClock), Arc::new(SeededChance::new(1)));
        let runner = Runner::new(Roots::default(), clock, chance, Arc::new(exec));
        let target = Target::parse("127.0.0.1", Some(7)).unwrap();
        let probe = Probe::Icmp(IcmpProbe { target, count: 2, expect: Reach::Open });
        let (name, deadline) = ("ping".to_owned(), Duration::from_secs(20));
        runner.run(&Check { name, deadline, probe }).await
    }

    #[test]
    fn one_reply_is_enough_and_none_proves_a_denial() {
        for (expect, received, expected) in [
            (Reach::Open, 3, "AS_EXPECTED"),
            (Reach::Open, 1, "AS_EXPECTED"),
            (Reach::Open, 0, "NO_ANSWER"),
            (Reach::Denied, 0, "AS_EXPECTED"),
            (Reach::Denied, 1, "ANSWERED"),
        ] {
            assert_eq!(judge(expect, LOOPBACK, &echoes(3, received)).reason, expected);
        }
    }

    #[test]
    fn the_summary_of_ping_is_read() {
        let text = "PING 127.0.0.1 (127.0.0.1) 56(84) bytes of data.\n\n\
            --- 127.0.0.1 ping statistics ---\n\
            3 packets transmitted, 2 received, 33.3% packet loss, time 401ms\n\
            rtt min/avg/max/mdev = 0.031/0.042/0.050/0.008 ms\n";
        let expected = Echoes { fastest: Some(Duration::from_micros(31)), ..echoes(3, 2) };
        assert_eq!(parse_ping(text), Some(expected));
        assert_eq!(parse_ping("ping: socket: Operation not permitted\n"), None);
    }

    #[test]
    fn only_our_own_reply_counts() {
        let mut reply = echo_request(LOOPBACK, 7, TOKEN);
        reply[0] = ECHO_REPLY_V4;
        assert!(is_reply(&reply, LOOPBACK, 7, TOKEN));
        assert!(!is_reply(&reply, LOOPBACK, 8, TOKEN));
        assert!(!is_reply(&reply, LOOPBACK, 7, *b"otherone"));
        assert!(!is_reply(&echo_request(LOOPBACK, 7, TOKEN), LOOPBACK, 7, TOKEN));
    }

    #[tokio::test]
    async fn loopback_answers_or_ping_is_asked() {
        let said = "2 packets transmitted, 2 received, 0% packet loss, time 201ms\n";
        let outcome = ping_loopback(FakeExec::default().on("ping", Answer::stdout(said))).await;
        assert_eq!(outcome.verdict, Verdict::Passed, "{}", outcome.observed);
        assert!(outcome.observed.contains("2 of 2"), "{}", outcome.observed);
    }

    #[tokio::test]
    async fn without_a_way_to_ping_nothing_is_found_out() {
        let outcome = ping_loopback(FakeExec::default()).await;
        let expected = if is_allowed() {
            (Verdict::Passed, "AS_EXPECTED")
        } else {
            (Verdict::Unknown, "NOT_ALLOWED")
        };
        assert_eq!((outcome.verdict, outcome.reason), expected);
    }

    proptest! {
        #[test]
        fn any_output_of_ping_is_survived(text: String) {
            let _echoes = parse_ping(&text);
        }

        #[test]
        fn any_packet_is_survived(packet: Vec<u8>) {
            let _is_reply = is_reply(&packet, LOOPBACK, 1, TOKEN);
        }
    }
}
