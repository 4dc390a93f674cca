//! `labctl doctor`: walks up the layers from the context to the daemons, and names the first that fails
//! with its fix.

use homelab_common::{error_chain::Chain, exit::Exit};
use homelab_proto::{
    common::v1::{GetNodeRequest, GetNodeResponse, node_service_client::NodeServiceClient},
    controller::v1::{
        GetHostRequest, GetHostResponse, HostState, HostStatus, ListHostsRequest, ListHostsResponse,
    },
};
use homelab_rpc::{
    dial::{Dialer, Target},
    peer::Kind,
};
use serde_json::json;
use tonic::Request;

use crate::{
    args::{DoctorArgs, Output},
    call, connect,
    context::Context,
    failure::{Failure, Trouble},
    lab::Lab,
    output::{self, Rows, word},
};

/// Clocks that differ by more make certificates fail for no visible reason.
const SKEW_SECONDS_MAX: u64 = 60;
/// A certificate with less left than this is worth a word.
const CERTIFICATE_SECONDS_MIN: i64 = 3_600;

/// How one look ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Pass,
    Warn,
    Fail,
}

/// One look.
#[derive(Debug)]
struct Finding {
    check: String,
    mark: Mark,
    words: String,
    fix: Option<String>,
}

/// Looks from below to above; what stands on a broken layer is not looked at.
///
/// # Errors
/// Only when standard output is broken: what is found wrong is the result.
pub async fn run(lab: &Lab, args: DoctorArgs) -> Result<Exit, Failure> {
    let mut report = Report::default();
    if own_identity(lab, &mut report) && controller(lab, &mut report).await {
        match &args.host {
            Some(host) => one_host(lab, host, &mut report).await,
            None => hosts(lab, &mut report).await,
        }
    }
    report.print(lab)?;
    Ok(report.exit())
}

/// Whether there is an identity to begin with.
fn own_identity(lab: &Lab, report: &mut Report) -> bool {
    let found = lab.context().and_then(|context| {
        let (identity, _) = Context::identity(&lab.folder, lab.now())?;
        Ok((context, identity.facts().not_after))
    });
    match found {
        Err(failure) => report.failure("identity", failure),
        Ok((context, ends)) => {
            let left = ends.as_second() - lab.now().as_second();
            let words =
                format!("{}, good for {}", context.id, output::duration(left.unsigned_abs()));
            if left < CERTIFICATE_SECONDS_MIN {
                report.warn("identity", words, "labctl login");
            } else {
                report.pass("identity", words);
            }
        }
    }
    report.sound()
}

/// Name, connection, TLS and identity of the controller; then its clock and version.
async fn controller(lab: &Lab, report: &mut Report) -> bool {
    let Ok((dialer, target)) = connect::way(lab) else { return false };
    match dialer.probe(&target).await {
        Err(error) => report.failure("controller", connect::no_way(&error)),
        Ok(peer) => {
            report.pass("controller", format!("{} answers at {}", peer.id(), target.address))
        }
    }
    if report.sound() {
        node(lab, &dialer, target, "controller", report).await;
    }
    report.sound()
}

/// What a daemon says about itself: its clock and version against ours.
async fn node(lab: &Lab, dialer: &Dialer, target: Target, name: &str, report: &mut Report) {
    let channel = match dialer.dial(target) {
        Ok(channel) => channel,
        Err(error) => return report.failure(name, connect::no_way(&error)),
    };
    let mut request = Request::new(GetNodeRequest::default());
    request.set_timeout(lab.global.timeout);
    match NodeServiceClient::new(channel).get_node(request).await {
        Err(status) => {
            report.failure(name, Failure::from_status("ask it about itself", &status, false))
        }
        Ok(answer) => clock_and_version(lab, answer.get_ref(), name, report),
    }
}

fn clock_and_version(lab: &Lab, node: &GetNodeResponse, name: &str, report: &mut Report) {
    let clock = format!("{name} clock");
    match node.now.map(|now| now.seconds.abs_diff(lab.now().as_second())) {
        None => report.warn(&clock, "it did not say what time it is".to_owned(), "update it"),
        Some(skew) if skew > SKEW_SECONDS_MAX => {
            let words = format!("differs from this one by {}", output::duration(skew));
            report.fail(&clock, words, "timedatectl set-ntp true, on both hosts");
        }
        Some(skew) => report.pass(&clock, format!("differs by {skew} s")),
    }
    let version = format!("{name} version");
    if node.version == env!("CARGO_PKG_VERSION") {
        report.pass(&version, node.version.clone());
    } else {
        let words = format!("{} there, {} here", node.version, env!("CARGO_PKG_VERSION"));
        report.warn(&version, words, "update the older one; one minor apart works");
    }
}

/// Every host, as the controller sees it.
async fn hosts(lab: &Lab, report: &mut Report) {
    let request = ListHostsRequest { page_size: 1_000, ..ListHostsRequest::default() };
    match lab.call::<_, ListHostsResponse>("list hosts", call::LIST_HOSTS, request).await {
        Err(failure) => report.failure("hosts", failure),
        Ok(answer) => answer.hosts.iter().for_each(|host| state(host, report)),
    }
}

/// One host, as the controller sees it, and then each of its daemons from here.
async fn one_host(lab: &Lab, host: &str, report: &mut Report) {
    let request = GetHostRequest { host: host.to_owned() };
    let answer =
        match lab.call::<_, GetHostResponse>("look up the host", call::GET_HOST, request).await {
            Err(failure) => return report.failure(&format!("host {host}"), failure),
            Ok(answer) => answer,
        };
    let Some(status) = answer.status else { return };
    state(&status, report);
    let Ok((dialer, _)) = connect::way(lab) else { return };
    for daemon in &status.daemons {
        let Some(kind) = Kind::from_proto(daemon.kind()) else { continue };
        let name = format!("{host} {kind}");
        let server_name =
            daemon.address.rsplit_once(':').map_or("", |(address, _)| address).to_owned();
        let target = Target {
            address: daemon.address.clone(),
            server_name,
            kind,
            name: Some(host.to_owned()),
        };
        match dialer.probe(&target).await {
            Err(error) => report.failure(&name, from_here(&error, &daemon.message)),
            Ok(peer) => {
                report.pass(&name, format!("{} answers at {}", peer.id(), target.address));
                node(lab, &dialer, target, &name, report).await;
            }
        }
    }
}

fn from_here(error: &homelab_rpc::dial::DialError, seen: &str) -> Failure {
    let words = if seen.is_empty() {
        Chain(error).to_string()
    } else {
        format!("{}; the controller says: {seen}", Chain(error))
    };
    Failure::new(Exit::Unreachable, words).next("systemctl status of the daemon on its host")
}

fn state(host: &HostStatus, report: &mut Report) {
    let name = format!("host {}", host.name);
    let state = word(host.state().as_str_name(), "HOST_STATE");
    let words = if host.message.is_empty() { state } else { format!("{state}: {}", host.message) };
    match host.state() {
        HostState::Healthy | HostState::Asleep => report.pass(&name, words),
        HostState::NotEnrolled => {
            report.warn(&name, words, &format!("labctl host enroll {}", host.name))
        }
        HostState::Unreachable => {
            report.fail(&name, words, &format!("labctl doctor {}", host.name))
        }
        HostState::Degraded | HostState::Unknown | HostState::Unspecified => {
            report.warn(&name, words, &format!("labctl host show {}", host.name));
        }
    }
}

#[derive(Debug, Default)]
struct Report {
    findings: Vec<Finding>,
}

impl Report {
    fn pass(&mut self, check: &str, words: String) {
        self.add(check, Mark::Pass, words, None);
    }

    fn warn(&mut self, check: &str, words: String, fix: &str) {
        self.add(check, Mark::Warn, words, Some(fix.to_owned()));
    }

    fn fail(&mut self, check: &str, words: String, fix: &str) {
        self.add(check, Mark::Fail, words, Some(fix.to_owned()));
    }

    fn failure(&mut self, check: &str, failure: Failure) {
        if let Failure::Said(Trouble { what, next, .. }) = failure {
            self.add(check, Mark::Fail, what, next);
        }
    }

    fn add(&mut self, check: &str, mark: Mark, words: String, fix: Option<String>) {
        self.findings.push(Finding { check: check.to_owned(), mark, words, fix });
    }

    /// Whether nothing has failed so far.
    fn sound(&self) -> bool {
        self.findings.iter().all(|finding| finding.mark != Mark::Fail)
    }

    fn exit(&self) -> Exit {
        if !self.sound() {
            Exit::Failed
        } else if self.findings.iter().any(|finding| finding.mark == Mark::Warn) {
            Exit::Partial
        } else {
            Exit::Ok
        }
    }

    fn print(&self, lab: &Lab) -> Result<(), Failure> {
        let rows: Vec<_> = self
            .findings
            .iter()
            .map(|finding| {
                json!({
                    "check": finding.check,
                    "result": finding.mark.word(),
                    "message": finding.words,
                    "fix": finding.fix,
                })
            })
            .collect();
        let mut names = Rows::new(&["check"], "");
        let mut text = String::new();
        for (number, finding) in (1..).zip(&self.findings) {
            names.push(&finding.check, [finding.check.clone()]);
            text.push_str(&format!(
                "{number:3}. {:4}  {}: {}\n",
                finding.mark.word(),
                finding.check,
                finding.words
            ));
            if let Some(fix) = &finding.fix {
                text.push_str(&format!("           fix: {fix}\n"));
            }
        }
        match lab.global.output {
            Output::Table | Output::Wide => output::write(&text)?,
            form => output::print(form, &json!({ "findings": rows }), &names)?,
        }
        Ok(())
    }
}

impl Mark {
    fn word(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        }
    }
}
