//! `labctl status`: whether all is well, on one screen, worst first.

use homelab_common::exit::Exit;
use homelab_proto::controller::v1::{
    BackupStatus, GetStatusRequest, GetStatusResponse, HostState, HostStatus, Verdict,
};

use crate::{
    call,
    failure::Failure,
    lab::Lab,
    output::{self, distance, span, word},
};

/// Prints the status. The exit code says the verdict: 0 well, 1 broken, 4 something needs a look.
///
/// # Errors
/// When the controller does not answer.
pub async fn run(lab: &Lab) -> Result<Exit, Failure> {
    let status: GetStatusResponse =
        lab.call("get the status", call::GET_STATUS, GetStatusRequest::default()).await?;
    if lab.for_programs() {
        lab.print(call::GET_STATUS, &status, output::Rows::default)?;
    } else {
        output::write(&text(lab.now(), &status))?;
    }
    Ok(match status.verdict() {
        Verdict::Ok => Exit::Ok,
        Verdict::Critical => Exit::Failed,
        Verdict::Warning | Verdict::Unspecified => Exit::Partial,
    })
}

fn text(now: jiff::Timestamp, status: &GetStatusResponse) -> String {
    let mut text = format!("{}  {}\n", verdict_words(status.verdict()), status.site);
    for concern in &status.concerns {
        text.push_str(&format!(
            "  {} {}: {}\n      {}\n",
            mark(concern.verdict()),
            concern.subject,
            concern.message,
            concern.command
        ));
    }
    text.push_str("\nHosts\n");
    let width = status.hosts.iter().map(|host| host.name.len()).max().unwrap_or_default();
    for host in &status.hosts {
        text.push_str(&host_line(now, host, width));
    }
    text.push_str("\nBackups\n");
    if status.backups.is_empty() {
        text.push_str("  none declared in the site file\n");
    }
    for backup in &status.backups {
        text.push_str(&backup_line(now, backup));
    }
    let jobs = status.jobs.unwrap_or_default();
    text.push_str(&format!(
        "\nJobs\n  {} pending, {} running; in the last day {} succeeded, {} failed\n",
        jobs.pending, jobs.running, jobs.succeeded, jobs.failed
    ));
    text
}

fn host_line(now: jiff::Timestamp, host: &HostStatus, width: usize) -> String {
    let mark = match host.state() {
        HostState::Healthy | HostState::Asleep => "+",
        HostState::Degraded | HostState::Unknown | HostState::NotEnrolled => "!",
        HostState::Unreachable | HostState::Unspecified => "x",
    };
    let state = word(host.state().as_str_name(), "HOST_STATE");
    let seen = distance(now, host.last_seen_at);
    format!("  {mark} {:width$}  {state:12} seen {seen:10} {}\n", host.name, host.message)
}

fn backup_line(now: jiff::Timestamp, backup: &BackupStatus) -> String {
    format!(
        "  {} {}  newest {}, target {}, drilled {}, next {}\n      {}\n",
        mark(backup.verdict()),
        backup.backup,
        distance(now, backup.newest_verified_at),
        span(backup.rpo),
        distance(now, backup.last_drill_at),
        if backup.paused { "paused".to_owned() } else { distance(now, backup.next_run_at) },
        backup.message,
    )
}

fn verdict_words(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ALL WELL",
        Verdict::Warning => "NEEDS A LOOK",
        Verdict::Critical => "BROKEN",
        Verdict::Unspecified => "UNKNOWN",
    }
}

fn mark(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "+",
        Verdict::Warning | Verdict::Unspecified => "!",
        Verdict::Critical => "x",
    }
}
