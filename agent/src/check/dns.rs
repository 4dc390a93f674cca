//! Asks a name server one question, over UDP and, when the answer does not fit, over TCP.
//!
//! Our own resolver and not the system's, because the point is to know what *this* server says:
//! no cache, no hosts file, no second server that answers in its place.

mod message;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use homelab_common::chance::Chance;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use crate::check::dns::message::{Question, Rejected, Reply};
use crate::check::{Finding, Progress};

pub use message::RecordType;

const PORT: u16 = 53;
/// A lost packet is asked for again, twice.
const ATTEMPTS_MAX: u32 = 3;
const ATTEMPT_PATIENCE: Duration = Duration::from_secs(2);
/// Without EDNS no answer over UDP is longer (RFC 1035, section 2.3.4).
const UDP_BYTES_MAX: usize = 512;

/// A question to a name server.
#[derive(Clone, Debug, PartialEq)]
pub struct DnsProbe {
    /// The name, in ASCII.
    pub name: String,
    /// What is asked for.
    pub record_type: RecordType,
    /// Who is asked.
    pub server: ServerAddress,
    /// An answer that must be among those given; `None` takes any.
    pub expect: Option<String>,
}

/// Who is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerAddress {
    /// The first server that `/etc/resolv.conf` names.
    System,
    /// This one.
    Given(SocketAddr),
}

/// A text that names no server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is neither an address nor address:port")]
pub struct InvalidServer(String);

impl ServerAddress {
    /// Reads `address` or `address:port`; nothing means the system's.
    ///
    /// # Errors
    /// Names are not accepted: to ask for a server's name needs a name server.
    pub fn parse(text: &str) -> Result<Self, InvalidServer> {
        if text.is_empty() {
            return Ok(Self::System);
        }
        let address = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, PORT));
        address
            .or_else(|_| text.parse::<SocketAddr>())
            .map(Self::Given)
            .map_err(|_| InvalidServer(text.to_owned()))
    }
}

pub(super) async fn run(probe: &DnsProbe, chance: &dyn Chance, progress: &Progress) -> Finding {
    let server = match &probe.server {
        ServerAddress::Given(server) => *server,
        ServerAddress::System => match system_server(Path::new("/etc/resolv.conf")) {
            Some(server) => server,
            None => {
                let observed = "/etc/resolv.conf names no server";
                return Finding::unknown("NO_SYSTEM_SERVER", observed);
            }
        },
    };
    let [low, high, ..] = chance.u64().to_le_bytes();
    let id = u16::from_le_bytes([low, high]);
    let Some(question) = Question::new(id, &probe.name, probe.record_type) else {
        return Finding::unknown("NAME_NOT_USABLE", format!("{} is no DNS name", probe.name));
    };
    progress.reached(format!("asking {server}"));
    match ask(server, &question).await {
        Ok(reply) => judge(probe, server, &reply),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            let observed = format!("{server} left {ATTEMPTS_MAX} questions unanswered");
            Finding::failed("NO_ANSWER", observed)
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Finding::failed("CONNECTION_REFUSED", format!("{server} serves no DNS"))
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Finding::failed("MALFORMED_ANSWER", format!("{server}: {error}"))
        }
        Err(error) => Finding::unknown("CANNOT_ASK", format!("{server}: {error}")),
    }
}

fn judge(probe: &DnsProbe, server: SocketAddr, reply: &Reply) -> Finding {
    let DnsProbe { name, record_type, .. } = probe;
    let asked = format!("{server} says of {name} {record_type}");
    let records = match reply {
        Reply::Records(records) => records,
        Reply::NoSuchName => {
            return Finding::failed("NAME_DOES_NOT_EXIST", format!("{asked}: no such name"));
        }
        Reply::Refused(code) => {
            return Finding::failed("SERVER_ERROR", format!("{asked}: error {code}"));
        }
    };
    if records.is_empty() {
        return Finding::failed("NO_RECORDS", format!("{asked}: no such records"));
    }
    let observed = format!("{asked}: {}", records.join(", "));
    match &probe.expect {
        Some(expected) if !records.iter().any(|record| is_same(record, expected)) => {
            Finding::failed("OTHER_ANSWER", format!("{observed}; {expected} is not among them"))
        }
        _ => Finding::passed(observed),
    }
}

/// Addresses are the same however they are written.
fn is_same(record: &str, expected: &str) -> bool {
    match (record.parse::<IpAddr>(), expected.parse::<IpAddr>()) {
        (Ok(record), Ok(expected)) => record == expected,
        _ => record == expected,
    }
}

async fn ask(server: SocketAddr, question: &Question) -> io::Result<Reply> {
    for _ in 0..ATTEMPTS_MAX {
        let attempt = tokio::time::timeout(ATTEMPT_PATIENCE, ask_udp(server, question)).await;
        match attempt {
            Ok(Ok(Some(reply))) => return Ok(reply),
            Ok(Ok(None)) => {
                let attempt = tokio::time::timeout(ATTEMPT_PATIENCE, ask_tcp(server, question));
                return attempt.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            }
            Ok(Err(error)) => return Err(error),
            Err(_elapsed) => {}
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// The reply, or `None` when it was cut and has to be asked for over TCP.
async fn ask_udp(server: SocketAddr, question: &Question) -> io::Result<Option<Reply>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    // Only packets of this peer are received from here on.
    socket.connect(server).await?;
    socket.send(question.packet()).await?;
    let mut packet = [0; UDP_BYTES_MAX];
    loop {
        let length = socket.recv(&mut packet).await?;
        match question.read_reply(packet.get(..length).unwrap_or_default()) {
            Ok(reply) => return Ok(Some(reply)),
            Err(Rejected::Truncated) => return Ok(None),
            // Late answers to other questions, or somebody who guesses: wait for ours.
            Err(Rejected::NotOurs) => {}
            Err(Rejected::Malformed) => return Err(malformed()),
        }
    }
}

/// Over TCP each message has its length in two bytes before it.
async fn ask_tcp(server: SocketAddr, question: &Question) -> io::Result<Reply> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.packet().len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(question.packet()).await?;
    let mut packet = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut packet).await?;
    question.read_reply(&packet).map_err(|_| malformed())
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the answer is no DNS message")
}

fn system_server(resolv_conf: &Path) -> Option<SocketAddr> {
    let text = std::fs::read_to_string(resolv_conf).ok()?;
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()).flatten()
    });
    let addresses = servers.filter_map(|server| server.parse::<IpAddr>().ok());
    addresses.map(|address| SocketAddr::new(address, PORT)).next()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::check::dns::message::tests::{answer, truncated};
    use crate::check::tests::run;
    use crate::check::{Outcome, Probe, Verdict};

    fn probe(server: SocketAddr, record_type: RecordType, expect: Option<&str>) -> Probe {
        Probe::Dns(DnsProbe {
            name: "db.home.arpa".to_owned(),
            record_type,
            server: ServerAddress::Given(server),
            expect: expect.map(ToOwned::to_owned),
        })
    }

    /// Asks a server that replies to one question with what `reply` makes of it.
    async fn asked(
        record_type: RecordType,
        expect: Option<&str>,
        reply: impl Fn(&[u8]) -> Vec<u8>,
    ) -> Outcome {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = async {
            let mut question = [0; 512];
            let (length, from) = socket.recv_from(&mut question).await.unwrap();
            socket.send_to(&reply(&question[..length]), from).await.unwrap();
        };
        let probe = probe(socket.local_addr().unwrap(), record_type, expect);
        tokio::join!(run(probe), server).0
    }

    #[tokio::test]
    async fn records_of_each_type_are_read() {
        let cases = [
            (RecordType::A, vec![192, 168, 200, 20], "192.168.200.20"),
            (RecordType::Aaaa, vec![0; 16], "::"),
            (RecordType::Txt, b"\x03v=1\x03; x".to_vec(), "v=1; x"),
        ];
        for (record_type, data, shown) in cases {
            let reply = |question: &[u8]| answer(question, 0, record_type, &data);
            let outcome = asked(record_type, Some(shown), reply).await;
            assert_eq!(outcome.verdict, Verdict::Passed, "{}", outcome.observed);
            assert!(outcome.observed.ends_with(shown), "{}", outcome.observed);
        }
    }

    #[tokio::test]
    async fn another_answer_fails() {
        let reply = |question: &[u8]| answer(question, 0, RecordType::A, &[10, 0, 0, 1]);
        let outcome = asked(RecordType::A, Some("192.168.200.20"), reply).await;
        assert_eq!((outcome.verdict, outcome.reason), (Verdict::Failed, "OTHER_ANSWER"));
    }

    #[tokio::test]
    async fn codes_of_the_server_are_told_apart() {
        for (code, expected) in [(3, "NAME_DOES_NOT_EXIST"), (2, "SERVER_ERROR")] {
            let reply = |question: &[u8]| answer(question, code, RecordType::A, &[]);
            assert_eq!(asked(RecordType::A, None, reply).await.reason, expected);
        }
    }

    #[tokio::test]
    async fn garbage_fails_and_an_answer_to_another_question_is_passed_over() {
        let garbage = |question: &[u8]| [&question[..2], &[0x80]].concat();
        assert_eq!(asked(RecordType::A, None, garbage).await.reason, "MALFORMED_ANSWER");

        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let server = async {
            let mut question = [0; 512];
            let (length, from) = socket.recv_from(&mut question).await.unwrap();
            let mut wrong = answer(&question[..length], 0, RecordType::A, &[6, 6, 6, 6]);
            wrong[0] ^= 0xff;
            socket.send_to(&wrong, from).await.unwrap();
            let right = answer(&question[..length], 0, RecordType::A, &[10, 0, 0, 1]);
            socket.send_to(&right, from).await.unwrap();
        };
        let probe = probe(socket.local_addr().unwrap(), RecordType::A, Some("10.0.0.1"));
        assert_eq!(tokio::join!(run(probe), server).0.verdict, Verdict::Passed);
    }

    #[tokio::test]
    async fn an_answer_that_was_cut_is_asked_for_over_tcp() {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let udp = UdpSocket::bind(address).await.unwrap();
        let server = async {
            let mut question = [0; 512];
            let (length, from) = udp.recv_from(&mut question).await.unwrap();
            udp.send_to(&truncated(&question[..length]), from).await.unwrap();
            let (mut stream, _) = tcp.accept().await.unwrap();
            let mut question = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut question).await.unwrap();
            let reply = answer(&question, 0, RecordType::A, &[10, 0, 0, 1]);
            stream.write_u16(u16::try_from(reply.len()).unwrap()).await.unwrap();
            stream.write_all(&reply).await.unwrap();
        };
        let outcome = tokio::join!(run(probe(address, RecordType::A, None)), server).0;
        assert_eq!(outcome.verdict, Verdict::Passed, "{}", outcome.observed);
    }

    #[tokio::test]
    async fn a_port_where_nobody_serves_is_refused() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        drop(socket);
        let outcome = run(probe(address, RecordType::A, None)).await;
        assert_eq!((outcome.verdict, outcome.reason), (Verdict::Failed, "CONNECTION_REFUSED"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_says_nothing_is_asked_three_times() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let outcome = run(probe(socket.local_addr().unwrap(), RecordType::A, None)).await;
        assert_eq!((outcome.verdict, outcome.reason), (Verdict::Failed, "NO_ANSWER"));
        assert_eq!(outcome.elapsed.as_secs(), 6);
    }

    #[test]
    fn the_first_server_of_the_system_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("resolv.conf");
        std::fs::write(&path, "# nameserver 1.1.1.1\nsearch home.arpa\nnameserver fd00::53\n")
            .unwrap();
        assert_eq!(system_server(&path), Some("[fd00::53]:53".parse().unwrap()));
        std::fs::write(&path, "search home.arpa\n").unwrap();
        assert_eq!(system_server(&path), None);
    }

    #[test]
    fn servers_are_given_by_address() {
        for (text, expected) in [("10.0.0.1", "10.0.0.1:53"), ("[::1]:5353", "[::1]:5353")] {
            let server = ServerAddress::parse(text).unwrap();
            assert_eq!(server, ServerAddress::Given(expected.parse().unwrap()));
        }
        assert_eq!(ServerAddress::parse(""), Ok(ServerAddress::System));
        assert!(ServerAddress::parse("dns.home.arpa").is_err());
    }
}
