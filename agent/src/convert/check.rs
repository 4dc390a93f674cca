//! Checks from the protocol, and their ends to it. All problems of a request are told at once.

use std::collections::HashSet;
use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use homelab_common::error_chain::Chain;
use homelab_proto::agent::v1 as pb;
use homelab_rpc::node::to_proto;
use rustls_pki_types::ServerName;

use crate::check::{
    Check, DnsProbe, FileProbe, HeaderWanted, HttpProbe, IcmpProbe, MountProbe, Outcome, Probe,
    Reach, RecordType, ServerAddress, SshProbe, Target, TcpProbe, TlsProbe, Trust, Url, Verdict,
};
use crate::convert::span;

const CHECKS_MAX: usize = 256;
const NAME_BYTES_MAX: usize = 128;
const DEADLINE_DEFAULT: Duration = Duration::from_secs(10);
const DEADLINE_MAX: Duration = Duration::from_secs(60);
const VALID_DAYS_MIN_DEFAULT: u32 = 14;
const ECHOES_DEFAULT: u16 = 3;
const ECHOES_MAX: u16 = 10;
const TEXT_BYTES_MAX: usize = 1024;
const PATH_BYTES_MAX: usize = 4096;
const TYPES_MAX: usize = 16;
const STATUSES_MAX: usize = 32;

const INTERVAL_DEFAULT: Duration = Duration::from_secs(10);
const INTERVAL_MIN: Duration = Duration::from_secs(1);
const INTERVAL_MAX: Duration = Duration::from_secs(3600);

/// Ports that a target without one has.
const PORT_TLS: u16 = 443;
const PORT_SSH: u16 = 22;

/// What is wrong with a request to run checks: field paths and words.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("{} of the checks cannot be run as written", .problems.len())]
pub struct InvalidChecks {
    /// Path of the field and what is wrong with it, at least one.
    pub problems: Vec<(String, String)>,
}

/// One field of a request and where its problems go.
struct Reader<'p> {
    path: String,
    problems: &'p mut Vec<(String, String)>,
}

/// The checks of a request.
pub(crate) fn checks(request: pb::RunChecksRequest) -> Result<Vec<Check>, InvalidChecks> {
    let mut problems = Vec::new();
    if request.checks.is_empty() || request.checks.len() > CHECKS_MAX {
        let what = format!("{} were given; give 1 to {CHECKS_MAX}", request.checks.len());
        return Err(InvalidChecks { problems: vec![("checks".to_owned(), what)] });
    }
    let mut names = HashSet::new();
    let mut checks = Vec::with_capacity(request.checks.len());
    for (place, wire) in request.checks.into_iter().enumerate() {
        let mut reader = Reader { path: format!("checks[{place}]"), problems: &mut problems };
        if !names.insert(wire.name.clone()) {
            reader
                .problem("name", format!("`{}` stands twice; names tell results apart", wire.name));
        }
        checks.extend(reader.check(wire));
    }
    if problems.is_empty() { Ok(checks) } else { Err(InvalidChecks { problems }) }
}

impl Reader<'_> {
    fn problem(&mut self, field: &str, what: impl Into<String>) {
        self.problems.push((format!("{}.{field}", self.path), what.into()));
    }

    /// The value, or a problem of `field`.
    fn take<T, E: std::error::Error + 'static>(
        &mut self,
        field: &str,
        result: Result<T, E>,
    ) -> Option<T> {
        result.map_err(|error| self.problem(field, Chain(&error).to_string())).ok()
    }

    fn within<T: PartialOrd + Display + Copy>(
        &mut self,
        field: &str,
        value: T,
        (least, most): (T, T),
    ) -> Option<T> {
        if value >= least && value <= most {
            return Some(value);
        }
        self.problem(field, format!("is {value}; give {least} to {most}"));
        None
    }

    fn check(&mut self, wire: pb::Check) -> Option<Check> {
        if wire.name.is_empty() || wire.name.len() > NAME_BYTES_MAX {
            self.problem("name", format!("give a name of 1 to {NAME_BYTES_MAX} bytes"));
        }
        let deadline = self.deadline(wire.deadline);
        let probe = match wire.probe {
            Some(probe) => self.probe(probe),
            None => {
                let what = "says not what to do; give one of tcp, tls, http, dns, icmp, file, \
                            mount or ssh";
                self.problem("probe", what);
                None
            }
        };
        Some(Check { name: wire.name, deadline: deadline?, probe: probe? })
    }

    fn deadline(&mut self, wire: Option<prost_types::Duration>) -> Option<Duration> {
        let Some(wire) = wire else { return Some(DEADLINE_DEFAULT) };
        match Duration::try_from(wire) {
            Ok(deadline) if !deadline.is_zero() && deadline <= DEADLINE_MAX => Some(deadline),
            _ => {
                self.problem("deadline", "give more than 0 and at most 60 seconds");
                None
            }
        }
    }

    fn probe(&mut self, wire: pb::check::Probe) -> Option<Probe> {
        use pb::check::Probe as Wire;
        match wire {
            Wire::Tcp(tcp) => Some(Probe::Tcp(TcpProbe {
                expect: reach(tcp.expect()),
                target: self.target("tcp.target", &tcp.target, None)?,
            })),
            Wire::Tls(tls) => self.tls(&tls),
            Wire::Http(http) => self.http(http),
            Wire::Dns(dns) => self.dns(dns),
            Wire::Icmp(icmp) => self.icmp(&icmp),
            Wire::File(file) => self.file(file),
            Wire::Mount(mount) => self.mount(mount),
            Wire::Ssh(ssh) => {
                let target = self.target("ssh.target", &ssh.target, Some(PORT_SSH))?;
                Some(Probe::Ssh(SshProbe { target }))
            }
        }
    }

    fn target(&mut self, field: &str, text: &str, port_usual: Option<u16>) -> Option<Target> {
        self.take(field, Target::parse(text, port_usual))
    }

    fn tls(&mut self, wire: &pb::TlsProbe) -> Option<Probe> {
        let target = self.target("tls.target", &wire.target, Some(PORT_TLS));
        let server_name = match wire.server_name.as_str() {
            "" => Some(None),
            name => self.take("tls.server_name", ServerName::try_from(name.to_owned())).map(Some),
        };
        let valid_days_min = wire.valid_days_min.unwrap_or(VALID_DAYS_MIN_DEFAULT);
        let (target, server_name) = (target?, server_name?);
        Some(Probe::Tls(TlsProbe { target, server_name, valid_days_min }))
    }

    fn http(&mut self, wire: pb::HttpProbe) -> Option<Probe> {
        let url = self.take("http.url", Url::parse(&wire.url));
        let header = match wire.header.as_str() {
            "" => Some(None),
            header => self.take("http.header", HeaderWanted::parse(header)).map(Some),
        };
        let body = self.text("http.body_contains", wire.body_contains);
        if wire.statuses.len() > STATUSES_MAX {
            self.problem("http.statuses", format!("give at most {STATUSES_MAX}"));
        }
        let mut statuses = Vec::new();
        for status in wire.statuses {
            let status = self.within("http.statuses", status, (100, 599));
            statuses.extend(status.and_then(|status| u16::try_from(status).ok()));
        }
        Some(Probe::Http(HttpProbe {
            url: url?,
            statuses,
            body_contains: Some(body?).filter(|text| !text.is_empty()),
            header: header?,
            trust: if wire.insecure { Trust::Anything } else { Trust::System },
        }))
    }

    fn dns(&mut self, wire: pb::DnsProbe) -> Option<Probe> {
        let record_type = RecordType::parse(&wire.record_type);
        if record_type.is_none() {
            self.problem("dns.record_type", "give A, AAAA or TXT");
        }
        // Of the rules of names only these are checked here; a name that breaks others is one
        // that the server says not to exist.
        let is_name = wire.name.is_ascii() && (1..=253).contains(&wire.name.len());
        if !is_name || wire.name.contains("..") {
            self.problem("dns.name", "give a name such as nas.home.arpa, in ASCII");
        }
        let server = self.take("dns.server", ServerAddress::parse(&wire.server));
        let expect = self.text("dns.expect", wire.expect)?;
        Some(Probe::Dns(DnsProbe {
            name: wire.name,
            record_type: record_type?,
            server: server?,
            expect: Some(expect).filter(|text| !text.is_empty()),
        }))
    }

    fn icmp(&mut self, wire: &pb::IcmpProbe) -> Option<Probe> {
        // The port plays no part, so any will do.
        let target = self.target("icmp.target", &wire.target, Some(1));
        let count = match wire.count {
            0 => Some(ECHOES_DEFAULT),
            count => self
                .within("icmp.count", count, (1, ECHOES_MAX.into()))
                .and_then(|count| u16::try_from(count).ok()),
        };
        let expect = reach(wire.expect());
        Some(Probe::Icmp(IcmpProbe { target: target?, count: count?, expect }))
    }

    fn file(&mut self, wire: pb::FileProbe) -> Option<Probe> {
        let path = self.path("file.path", wire.path);
        let age_max = match wire.age_max.map(Duration::try_from) {
            None => Some(None),
            Some(Ok(age)) => Some(Some(age)),
            Some(Err(_)) => {
                self.problem("file.age_max", "an age is not negative");
                None
            }
        };
        let size_bytes_min = wire.size_bytes_min;
        Some(Probe::File(FileProbe {
            path: PathBuf::from(path?),
            size_bytes_min,
            age_max: age_max?,
        }))
    }

    fn mount(&mut self, wire: pb::MountProbe) -> Option<Probe> {
        if wire.types.len() > TYPES_MAX {
            self.problem("mount.types", format!("give at most {TYPES_MAX}"));
        }
        let path = self.path("mount.path", wire.path)?;
        Some(Probe::Mount(MountProbe { path, types: wire.types }))
    }

    fn path(&mut self, field: &str, path: String) -> Option<String> {
        let is_usable =
            path.starts_with('/') && path.len() <= PATH_BYTES_MAX && !path.contains('\0');
        if !is_usable {
            self.problem(field, "give an absolute path");
        }
        is_usable.then_some(path)
    }

    fn text(&mut self, field: &str, text: String) -> Option<String> {
        let is_short = text.len() <= TEXT_BYTES_MAX;
        if !is_short {
            self.problem(field, format!("is longer than {TEXT_BYTES_MAX} bytes"));
        }
        is_short.then_some(text)
    }
}

fn reach(wire: pb::Reach) -> Reach {
    match wire {
        pb::Reach::Denied => Reach::Denied,
        pb::Reach::Unspecified | pb::Reach::Open => Reach::Open,
    }
}

/// The end of one check.
pub(crate) fn result(outcome: Outcome) -> pb::CheckResult {
    let status = match outcome.verdict {
        Verdict::Passed => pb::CheckStatus::Passed,
        Verdict::Failed => pb::CheckStatus::Failed,
        Verdict::Unknown => pb::CheckStatus::Unknown,
    };
    pb::CheckResult {
        name: outcome.name,
        status: status.into(),
        reason: outcome.reason.to_owned(),
        observed: outcome.observed,
        started_at: Some(to_proto(outcome.started_at)),
        elapsed: Some(span(outcome.elapsed)),
    }
}

/// Counts one more end.
pub(crate) fn summary(so_far: pb::CheckSummary, verdict: Verdict) -> pb::CheckSummary {
    let pb::CheckSummary { passed, failed, unknown } = so_far;
    match verdict {
        Verdict::Passed => pb::CheckSummary { passed: passed + 1, ..so_far },
        Verdict::Failed => pb::CheckSummary { failed: failed + 1, ..so_far },
        Verdict::Unknown => pb::CheckSummary { unknown: unknown + 1, ..so_far },
    }
}

/// How often to sample; `None` when it is outside of 1 s to 1 h.
pub(crate) fn interval(wire: Option<prost_types::Duration>) -> Option<Duration> {
    let Some(wire) = wire else { return Some(INTERVAL_DEFAULT) };
    let interval = Duration::try_from(wire).ok()?;
    (INTERVAL_MIN..=INTERVAL_MAX).contains(&interval).then_some(interval)
}

#[cfg(test)]
mod tests {
    use pb::check::Probe as Wire;

    use super::*;

    fn named(name: &str, probe: Wire) -> pb::Check {
        pb::Check { name: name.to_owned(), deadline: None, probe: Some(probe) }
    }

    fn read(probe: Wire) -> Result<Probe, Vec<(String, String)>> {
        let request = pb::RunChecksRequest { checks: vec![named("a", probe)] };
        let checks = checks(request).map_err(|invalid| invalid.problems)?;
        Ok(checks[0].probe.clone())
    }

    fn tcp(target: &str) -> Wire {
        Wire::Tcp(pb::TcpProbe { target: target.to_owned(), expect: 0 })
    }

    #[test]
    fn defaults_are_those_of_the_protocol() {
        let target = || "192.168.200.20".to_owned();
        let tls = read(Wire::Tls(pb::TlsProbe { target: target(), ..Default::default() })).unwrap();
        let expected = TlsProbe {
            target: Target::parse("192.168.200.20:443", None).unwrap(),
            server_name: None,
            valid_days_min: 14,
        };
        assert_eq!(tls, Probe::Tls(expected));
        let icmp = pb::IcmpProbe { target: target(), ..Default::default() };
        match read(Wire::Icmp(icmp)).unwrap() {
            Probe::Icmp(icmp) => assert_eq!((icmp.count, icmp.expect), (3, Reach::Open)),
            other => panic!("{other:?}"),
        }
        let ssh = read(Wire::Ssh(pb::SshProbe { target: target() })).unwrap();
        let target = Target::parse("192.168.200.20:22", None).unwrap();
        assert_eq!(ssh, Probe::Ssh(SshProbe { target }));
        let request = pb::RunChecksRequest { checks: vec![named("a", tcp("h:1"))] };
        assert_eq!(checks(request).unwrap()[0].deadline, Duration::from_secs(10));
    }

    #[test]
    fn every_kind_of_probe_is_read() {
        let url = "https://192.168.200.20:8006/".to_owned();
        let header = "server: pve".to_owned();
        let statuses = vec![200, 401];
        let http = pb::HttpProbe { url, header, statuses, insecure: true, ..Default::default() };
        match read(Wire::Http(http)).unwrap() {
            Probe::Http(http) => {
                assert_eq!((http.statuses, http.trust), (vec![200, 401], Trust::Anything));
            }
            other => panic!("{other:?}"),
        }
        let (name, record_type) = ("nas.home.arpa".to_owned(), "aaaa".to_owned());
        let dns = pb::DnsProbe { name, record_type, ..Default::default() };
        match read(Wire::Dns(dns)).unwrap() {
            Probe::Dns(dns) => assert_eq!(dns.record_type, RecordType::Aaaa),
            other => panic!("{other:?}"),
        }
        let age_max = Some(prost_types::Duration { seconds: 90, nanos: 0 });
        let file = pb::FileProbe { path: "/srv/x".to_owned(), age_max, size_bytes_min: Some(7) };
        let expected = FileProbe {
            path: "/srv/x".into(),
            size_bytes_min: Some(7),
            age_max: Some(Duration::from_secs(90)),
        };
        assert_eq!(read(Wire::File(file)).unwrap(), Probe::File(expected));
        let mount = pb::MountProbe { path: "/mnt".to_owned(), types: vec!["nfs4".to_owned()] };
        assert!(matches!(read(Wire::Mount(mount)).unwrap(), Probe::Mount(_)));
    }

    #[test]
    fn each_rule_is_told_with_its_field() {
        let text = |text: &str| text.to_owned();
        let age = Some(prost_types::Duration { seconds: -1, nanos: 0 });
        let cases = [
            (tcp("nas"), "tcp.target"),
            (Wire::Tls(pb::TlsProbe { target: text("a:0"), ..Default::default() }), "tls.target"),
            (
                Wire::Tls(pb::TlsProbe {
                    target: text("a"),
                    server_name: text("a b"),
                    valid_days_min: None,
                }),
                "tls.server_name",
            ),
            (Wire::Http(pb::HttpProbe { url: text("nas"), ..Default::default() }), "http.url"),
            (
                Wire::Http(pb::HttpProbe {
                    url: text("http://a/"),
                    header: text("a b"),
                    ..Default::default()
                }),
                "http.header",
            ),
            (
                Wire::Http(pb::HttpProbe {
                    url: text("http://a/"),
                    statuses: vec![99],
                    ..Default::default()
                }),
                "http.statuses",
            ),
            (
                Wire::Dns(pb::DnsProbe {
                    name: text("a"),
                    record_type: text("MX"),
                    ..Default::default()
                }),
                "dns.record_type",
            ),
            (
                Wire::Dns(pb::DnsProbe {
                    name: text("a"),
                    record_type: text("A"),
                    server: text("dns"),
                    ..Default::default()
                }),
                "dns.server",
            ),
            (Wire::Icmp(pb::IcmpProbe { target: text("a"), count: 11, expect: 0 }), "icmp.count"),
            (Wire::File(pb::FileProbe { path: text("x"), ..Default::default() }), "file.path"),
            (
                Wire::File(pb::FileProbe { path: text("/x"), age_max: age, ..Default::default() }),
                "file.age_max",
            ),
            (Wire::Mount(pb::MountProbe { path: text(""), types: Vec::new() }), "mount.path"),
            (Wire::Ssh(pb::SshProbe { target: text("") }), "ssh.target"),
        ];
        for (probe, field) in cases {
            let problems = read(probe).unwrap_err();
            let fields: Vec<&str> = problems.iter().map(|(field, _)| field.as_str()).collect();
            assert_eq!(fields, [format!("checks[0].{field}")], "{problems:?}");
        }
    }

    #[test]
    fn all_problems_of_a_request_come_at_once() {
        let deadline = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        let request = pb::RunChecksRequest {
            checks: vec![
                pb::Check { deadline: deadline(61), ..named("a", tcp("h:1")) },
                named("a", tcp("h")),
                pb::Check { name: "b".to_owned(), deadline: deadline(0), probe: None },
            ],
        };
        let problems = checks(request).unwrap_err().problems;
        let fields: Vec<&str> = problems.iter().map(|(field, _)| field.as_str()).collect();
        let expected = [
            "checks[0].deadline",
            "checks[1].name",
            "checks[1].tcp.target",
            "checks[2].deadline",
            "checks[2].probe",
        ];
        assert_eq!(fields, expected);
    }

    #[test]
    fn the_number_of_checks_is_bounded() {
        for count in [0, 257] {
            let checks_given = (0..count).map(|n| named(&n.to_string(), tcp("h:1"))).collect();
            assert!(checks(pb::RunChecksRequest { checks: checks_given }).is_err());
        }
    }

    #[test]
    fn intervals_are_a_second_to_an_hour() {
        let given = |seconds, nanos| interval(Some(prost_types::Duration { seconds, nanos }));
        assert_eq!(interval(None), Some(Duration::from_secs(10)));
        assert_eq!(given(1, 0), Some(Duration::from_secs(1)));
        assert_eq!(given(3600, 0), Some(Duration::from_secs(3600)));
        for (seconds, nanos) in [(0, 999_999_999), (3600, 1), (-1, 0), (0, 0)] {
            assert_eq!(given(seconds, nanos), None);
        }
    }
}
