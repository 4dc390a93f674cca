//! Where a check goes, and what came of trying to get there.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::check::{Finding, Progress};

/// Long enough for three attempts of the kernel (at 0, 1 and 3 s), so that one lost packet does
/// not make a port look filtered.
const PATIENCE_MAX: Duration = Duration::from_secs(5);

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 4;

/// Longest name that the DNS can hold.
const NAME_BYTES_MAX: usize = 253;

/// Whether a connection shall come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It must.
    Open,
    /// It must be refused or go unanswered.
    Denied,
}

/// An address or a name, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    host: Host,
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Address(IpAddr),
    Name(String),
}

/// Why a text is no target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTarget {
    /// Nothing was given.
    #[error("is empty; give an address or a name, such as 192.168.200.20:22")]
    Empty,
    /// There is no port and no usual one.
    #[error("`{0}` has no port; write it as {0}:22")]
    NoPort(String),
    /// The port is no number from 1 to 65535.
    #[error("`{0}` is no port; ports are numbers from 1 to 65535")]
    BadPort(String),
    /// The host is neither an address nor a name.
    #[error("`{0}` is neither an address nor a host name; IPv6 addresses stand in [brackets]")]
    BadHost(String),
}

impl Target {
    /// Reads `host:port`; `port_usual` stands in when there is no port.
    ///
    /// # Errors
    /// Says what is wrong with `text`.
    pub fn parse(text: &str, port_usual: Option<u16>) -> Result<Self, InvalidTarget> {
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, rest)) => match rest.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None => return Err(InvalidTarget::BadHost(text.to_owned())),
            },
            // More than one colon is an IPv6 address without a port.
            None => match text.rsplit_once(':') {
                Some((host, port)) if !host.contains(':') => (host, Some(port)),
                _ => (text, None),
            },
        };
        let port = match port {
            Some(port) => port
                .parse()
                .ok()
                .filter(|port| *port != 0)
                .ok_or_else(|| InvalidTarget::BadPort(port.to_owned()))?,
            None => port_usual.ok_or_else(|| InvalidTarget::NoPort(text.to_owned()))?,
        };
        Ok(Self { host: Host::parse(host)?, port })
    }

    /// The address or name, without the port.
    #[must_use]
    pub fn host(&self) -> String {
        self.host.to_string()
    }

    /// The same host at another port.
    #[must_use]
    pub fn with_port(&self, port: u16) -> Self {
        Self { host: self.host.clone(), port }
    }

    /// The addresses that the target stands for, at least one.
    pub(super) async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let addresses: Vec<SocketAddr> = match &self.host {
            Host::Address(address) => vec![SocketAddr::new(*address, self.port)],
            Host::Name(name) => tokio::net::lookup_host((name.as_str(), self.port))
                .await?
                .take(ADDRESSES_MAX)
                .collect(),
        };
        if addresses.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        Ok(addresses)
    }
}

impl Host {
    fn parse(text: &str) -> Result<Self, InvalidTarget> {
        if text.is_empty() {
            return Err(InvalidTarget::Empty);
        }
        if let Ok(address) = IpAddr::from_str(text) {
            return Ok(Self::Address(address));
        }
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        let name = text.strip_suffix('.').unwrap_or(text);
        // All digits and dots is a mistyped address and no name.
        let is_mistyped = name.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        if name.len() > NAME_BYTES_MAX || is_mistyped || !name.split('.').all(is_label) {
            return Err(InvalidTarget::BadHost(text.to_owned()));
        }
        Ok(Self::Name(text.to_owned()))
    }
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self { host: Host::Address(address.ip()), port: address.port() }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(address) => SocketAddr::new(*address, self.port).fmt(f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum NotConnected {
    /// Somebody said no.
    Refused(SocketAddr),
    /// Nobody said anything.
    Silent { target: Target, waited: Duration },
    /// A router, or our own neighbour table, says that there is no such host.
    Unreachable(SocketAddr),
    /// We have no route, so nothing was tried.
    NoRoute(SocketAddr),
    /// The name has no address, or nobody could say.
    Unresolved { target: Target, why: io::Error },
    /// The system gave another error.
    Other { address: SocketAddr, why: io::Error },
}

/// Connects within a share of `deadline`, so that silence is something that was seen and not a
/// deadline that passed.
pub(super) async fn connect(
    target: &Target,
    deadline: Duration,
    progress: &Progress,
) -> Result<TcpStream, NotConnected> {
    let patience = PATIENCE_MAX.min(deadline.mul_f64(0.8));
    progress.reached(format!("looking up {target}"));
    let addresses = target
        .resolve()
        .await
        .map_err(|why| NotConnected::Unresolved { target: target.clone(), why })?;
    let silent = || NotConnected::Silent { target: target.clone(), waited: patience };
    progress.reached(format!("connecting to {target}"));
    let each = async {
        let mut last = silent();
        for address in addresses {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = NotConnected::from_io(address, error),
            }
        }
        Err(last)
    };
    let stream = tokio::time::timeout(patience, each).await.unwrap_or_else(|_| Err(silent()))?;
    progress.reached(format!("connected to {target}"));
    Ok(stream)
}

impl NotConnected {
    fn from_io(address: SocketAddr, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused(address),
            io::ErrorKind::TimedOut => {
                Self::Silent { target: address.into(), waited: PATIENCE_MAX }
            }
            io::ErrorKind::HostUnreachable => Self::Unreachable(address),
            io::ErrorKind::NetworkUnreachable | io::ErrorKind::NetworkDown => {
                Self::NoRoute(address)
            }
            _ => Self::Other { address, why: error },
        }
    }

    /// The finding of a check that needed this connection.
    pub(super) fn into_failure(self) -> Finding {
        let observed = self.to_string();
        match self {
            Self::Refused(_) => Finding::failed("CONNECTION_REFUSED", observed),
            Self::Silent { .. } => Finding::failed("NO_ANSWER", observed),
            Self::Unreachable(_) => Finding::failed("HOST_UNREACHABLE", observed),
            Self::NoRoute(_) => Finding::failed("NO_ROUTE", observed),
            Self::Unresolved { .. } => Finding::unknown("NAME_NOT_RESOLVED", observed),
            Self::Other { .. } => Finding::unknown("CANNOT_CONNECT", observed),
        }
    }

    /// The finding of a check that expected to be denied. Silence and refusal are what a deny
    /// rule looks like; a missing route or name only shows that nothing was tried.
    pub(super) fn into_denial(self) -> Finding {
        let observed = self.to_string();
        match self {
            Self::Refused(_) | Self::Silent { .. } | Self::Unreachable(_) => {
                Finding::passed(observed)
            }
            Self::NoRoute(_) => Finding::unknown("NO_ROUTE", observed),
            Self::Unresolved { .. } => Finding::unknown("NAME_NOT_RESOLVED", observed),
            // What a local firewall's reject looks like: EPERM or EACCES from connect(2).
            Self::Other { why, .. } if why.kind() == io::ErrorKind::PermissionDenied => {
                Finding::passed(observed)
            }
            Self::Other { .. } => Finding::unknown("CANNOT_CONNECT", observed),
        }
    }
}

impl fmt::Display for NotConnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(address) => write!(f, "{address} refused the connection"),
            Self::Silent { target, waited } => {
                write!(f, "{target} did not answer within {:.1} s", waited.as_secs_f64())
            }
            Self::Unreachable(address) => write!(f, "{address} was reported unreachable"),
            Self::NoRoute(address) => write!(f, "this host has no route to {address}"),
            Self::Unresolved { target, why } => {
                write!(f, "{} was not resolved: {why}", target.host)
            }
            Self::Other { address, why } => write!(f, "{address} could not be reached: {why}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn targets() {
        let shown = |text| Target::parse(text, Some(22)).map(|target| target.to_string());
        for (text, expected) in [
            ("192.168.200.20:8006", "192.168.200.20:8006"),
            ("192.168.200.20", "192.168.200.20:22"),
            ("[fd00::1]:443", "[fd00::1]:443"),
            ("[fd00::1]", "[fd00::1]:22"),
            ("fd00::1", "[fd00::1]:22"),
            ("hx310-db.home.arpa:5432", "hx310-db.home.arpa:5432"),
            ("nas.", "nas.:22"),
        ] {
            assert_eq!(shown(text).as_deref(), Ok(expected));
        }
        for text in ["", ":22", "a b:1", "h:0", "h:70000", "h:x", "[::1", "[::1]x", "1.2.3:4"] {
            assert!(shown(text).is_err(), "{text}");
        }
        assert!(matches!(Target::parse("host", None), Err(InvalidTarget::NoPort(_))));
    }

    #[test]
    fn a_denial_is_proved_by_refusal_and_silence_and_not_by_having_no_route() {
        let address = SocketAddr::from(([192, 0, 2, 1], 22));
        let error = |kind| NotConnected::from_io(address, io::Error::from(kind));
        use crate::check::Verdict::{Passed, Unknown};
        for (kind, expected) in [
            (io::ErrorKind::ConnectionRefused, Passed),
            (io::ErrorKind::TimedOut, Passed),
            (io::ErrorKind::HostUnreachable, Passed),
            (io::ErrorKind::PermissionDenied, Passed),
            (io::ErrorKind::NetworkUnreachable, Unknown),
            (io::ErrorKind::AddrNotAvailable, Unknown),
        ] {
            assert_eq!(error(kind).into_denial().verdict, expected, "{kind}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text: String) {
            let _target = Target::parse(&text, None);
        }

        #[test]
        fn a_target_reads_back_as_itself(text in "[a-z][a-z0-9-]{0,20}(\\.[a-z]{1,5})?:[1-9][0-9]{0,3}") {
            let target = Target::parse(&text, None).unwrap();
            prop_assert_eq!(target.to_string(), text);
        }
    }
}
