//! `labctl host …`.

use homelab_common::exit::Exit;
use homelab_proto::{
    common::v1::{ConditionStatus, PeerKind, Role},
    controller::v1::{
        CreateTokenRequest, CreateTokenResponse, DrainHostRequest, DrainHostResponse,
        GetHostRequest, GetHostResponse, HostStatus, ListHostsRequest, ListHostsResponse,
    },
};

use crate::{
    args::{EnrollArgs, HostCommand, KindWord, Output, RoleWord},
    call,
    command::power,
    failure::Failure,
    lab::Lab,
    output::{self, Rows, bytes, distance, word},
};

/// Runs one verb on hosts.
///
/// # Errors
/// As the call behind it.
pub async fn run(lab: &Lab, command: HostCommand) -> Result<Exit, Failure> {
    match command {
        HostCommand::List => list(lab).await,
        HostCommand::Show(args) => show(lab, args.name).await,
        HostCommand::Enroll(args) => enroll(lab, args).await,
        HostCommand::Drain(args) => drain(lab, args.name, true).await,
        HostCommand::Undrain(args) => drain(lab, args.name, false).await,
        HostCommand::Wake(args) => power::wake(lab, args.name).await,
        HostCommand::Sleep(args) => power::sleep(lab, args).await,
        HostCommand::Hold(args) => power::hold(lab, args).await,
        HostCommand::Release(args) => power::release(lab, args.name).await,
    }
}

async fn list(lab: &Lab) -> Result<Exit, Failure> {
    let request = ListHostsRequest { page_size: 1_000, ..ListHostsRequest::default() };
    let answer: ListHostsResponse = lab.call("list hosts", call::LIST_HOSTS, request).await?;
    lab.print(call::LIST_HOSTS, &answer, || {
        let wide = lab.global.output == Output::Wide;
        let mut head = vec!["host", "state", "seen", "address", "message"];
        if wide {
            head.push("daemons");
        }
        let mut rows = Rows::new(
            &head,
            "No hosts yet. Add one to the site file, then: labctl host enroll NAME",
        );
        for host in &answer.hosts {
            let mut cells = vec![
                host.name.clone(),
                word(host.state().as_str_name(), "HOST_STATE"),
                distance(lab.now(), host.last_seen_at),
                host.address.clone(),
                host.message.clone(),
            ];
            if wide {
                cells.push(daemons(host));
            }
            rows.push(&host.name, cells);
        }
        rows
    })?;
    Ok(Exit::Ok)
}

async fn show(lab: &Lab, name: String) -> Result<Exit, Failure> {
    let action = format!("show host {name}");
    let answer: GetHostResponse =
        lab.call(&action, call::GET_HOST, GetHostRequest { host: name }).await?;
    if lab.for_programs() {
        lab.print(call::GET_HOST, &answer, || names(&answer))?;
    } else {
        output::write(&details(lab.now(), &answer))?;
    }
    Ok(Exit::Ok)
}

async fn enroll(lab: &Lab, args: EnrollArgs) -> Result<Exit, Failure> {
    let kinds = if args.kinds.is_empty() {
        declared_kinds(lab, &args.name).await?
    } else {
        kinds(&args.kinds)
    };
    let person = kinds.contains(&PeerKind::User);
    let request = CreateTokenRequest {
        name: args.name.clone(),
        kinds: kinds.iter().map(|kind| i32::from(*kind)).collect(),
        valid_for: prost_types::Duration::try_from(args.valid_for).ok(),
        role: if person { role(args.role).into() } else { Role::Unspecified.into() },
        approver: person && args.approver,
    };
    let action = format!("make a token for {}", args.name);
    let answer: CreateTokenResponse = lab.call(&action, call::CREATE_TOKEN, request).await?;
    if lab.for_programs() {
        lab.print(call::CREATE_TOKEN, &answer, || {
            let mut rows = Rows::new(&["token"], "");
            rows.push(&answer.token, [answer.token.clone()]);
            rows
        })?;
        return Ok(Exit::Ok);
    }
    output::say(&format!(
        "Paste on {}, within {}:",
        args.name,
        output::duration(args.valid_for.as_secs())
    ));
    let lines = kinds.iter().map(|kind| join_line(*kind, &answer.token)).collect::<String>();
    output::write(&lines)?;
    Ok(Exit::Ok)
}

async fn drain(lab: &Lab, host: String, drain: bool) -> Result<Exit, Failure> {
    let action = format!("{} {host}", if drain { "drain" } else { "undrain" });
    let request = DrainHostRequest {
        request_id: lab.request_id(),
        validate_only: lab.global.dry_run,
        host,
        drain,
    };
    let answer: DrainHostResponse = lab.call(&action, call::DRAIN_HOST, request).await?;
    lab.print(call::DRAIN_HOST, &answer, || {
        let mut rows = Rows::new(&["host", "drained", "state"], "");
        if let Some(host) = &answer.host {
            let state = word(host.state().as_str_name(), "HOST_STATE");
            rows.push(&host.name, [host.name.clone(), yes(host.drained).to_owned(), state]);
        }
        rows
    })?;
    Ok(Exit::Ok)
}

/// The line that a person pastes; the token is read from standard input, so that it is in no process list.
fn join_line(kind: PeerKind, token: &str) -> String {
    let program = match kind {
        PeerKind::Agent => "homelab-agent",
        PeerKind::BackupAgent => "homelab-backup-agent",
        PeerKind::GpuWorker => "homelab-gpu-worker",
        PeerKind::User | PeerKind::Controller | PeerKind::Unspecified => {
            return format!("labctl login --token-file - <<< {token}\n");
        }
    };
    format!("sudo {program} enroll - <<< {token}\n")
}

async fn declared_kinds(lab: &Lab, name: &str) -> Result<Vec<PeerKind>, Failure> {
    let request = GetHostRequest { host: name.to_owned() };
    let answer: GetHostResponse =
        lab.call(&format!("look up host {name}"), call::GET_HOST, request).await?;
    Ok(answer
        .status
        .iter()
        .flat_map(|status| &status.daemons)
        .map(|daemon| daemon.kind())
        .collect())
}

fn kinds(words: &[KindWord]) -> Vec<PeerKind> {
    words
        .iter()
        .map(|word| match word {
            KindWord::Agent => PeerKind::Agent,
            KindWord::BackupAgent => PeerKind::BackupAgent,
            KindWord::GpuWorker => PeerKind::GpuWorker,
            KindWord::User => PeerKind::User,
        })
        .collect()
}

/// The role on the wire.
pub(crate) fn role(word: RoleWord) -> Role {
    match word {
        RoleWord::Viewer => Role::Viewer,
        RoleWord::Operator => Role::Operator,
        RoleWord::Admin => Role::Admin,
    }
}

fn names(answer: &GetHostResponse) -> Rows {
    let mut rows = Rows::new(&["host"], "");
    if let Some(status) = &answer.status {
        rows.push(&status.name, [status.name.clone()]);
    }
    rows
}

fn daemons(host: &HostStatus) -> String {
    let one = |daemon: &homelab_proto::controller::v1::DaemonStatus| {
        let kind = word(daemon.kind().as_str_name(), "PEER_KIND");
        let state = if daemon.connected { daemon.version.as_str() } else { "not connected" };
        format!("{kind} {state}")
    };
    host.daemons.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn details(now: jiff::Timestamp, answer: &GetHostResponse) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: String| {
        if !value.is_empty() {
            text.push_str(&format!("{label:12} {value}\n"));
        }
    };
    if let Some(status) = &answer.status {
        line("host", format!("{}  {}", status.name, status.description));
        line(
            "state",
            format!(
                "{} since {}",
                word(status.state().as_str_name(), "HOST_STATE"),
                distance(now, status.since)
            ),
        );
        line("because", status.message.clone());
        line("address", status.address.clone());
        line("seen", distance(now, status.last_seen_at));
        line("daemons", daemons(status));
        for condition in &status.conditions {
            let mark = match condition.status() {
                ConditionStatus::True => "+",
                ConditionStatus::False => "x",
                ConditionStatus::Unknown | ConditionStatus::Unspecified => "?",
            };
            line("condition", format!("{mark} {}  {}", condition.r#type, condition.message));
        }
    }
    if let Some(host) = &answer.host {
        line(
            "system",
            [host.os(), host.kernel(), host.proxmox_version()].join(" ").trim().to_owned(),
        );
        line(
            "cpu",
            format!(
                "{} ({} cores, {} threads)",
                host.cpu_model(),
                host.core_count(),
                host.cpu_count()
            ),
        );
        line("memory", host.memory_bytes.map(bytes).unwrap_or_default());
        for interface in &host.interfaces {
            line("interface", format!("{} {}", interface.name, interface.addresses.join(" ")));
        }
    }
    if let Some(health) = &answer.health {
        if let Some(load) = &health.load {
            line(
                "load",
                format!(
                    "{:.2} {:.2} {:.2}",
                    load.one_minute(),
                    load.five_minutes(),
                    load.fifteen_minutes()
                ),
            );
        }
        if let Some(memory) = &health.memory {
            line(
                "available",
                format!("{} of {}", bytes(memory.available_bytes()), bytes(memory.total_bytes())),
            );
        }
        for filesystem in &health.filesystems {
            let room =
                filesystem.available_bytes.map(bytes).unwrap_or_else(|| "unknown".to_owned());
            line("room", format!("{room} on {}", filesystem.mount_point));
        }
        for missing in &health.missing {
            line("missing", format!("{}: {}", missing.field, missing.reason));
        }
        line("sampled", distance(now, health.observed_at));
    }
    text
}

fn yes(flag: bool) -> &'static str {
    if flag { "yes" } else { "no" }
}
