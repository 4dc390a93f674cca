//! What the first page says, as plain data: the states and words are those of the API, so that the
//! page and `labctl` never disagree.

use std::collections::BTreeMap;

use homelab_proto::{
    agent::v1::Health,
    controller::v1::{
        BackupStatus, Concern, GetStatusResponse, HostState, HostStatus, Job, JobState, Tier,
        Verdict,
    },
};
use jiff::{SignedDuration, Timestamp};

use super::moment::{Ages, Gauge, Moment, bytes, span};

/// Most rows of one section. The worst come first, and what is left out is named with its number
/// and command, so that a thousand hosts cost no more than these.
const ROWS_MAX: usize = 40;

/// Most concerns shown.
const CONCERNS_MAX: usize = 12;

/// Age after which a host's last answer is greyed: two missed samples and some slack.
const HOST_STALE_SECS: u64 = 15;

/// What the page is made from.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The same answer that `labctl status` gets.
    pub status: GetStatusResponse,
    /// Last sample of each host.
    pub health: BTreeMap<String, Health>,
    /// Jobs that wait, next first.
    pub pending: Vec<Job>,
    /// Jobs that run.
    pub running: Vec<RunningJob>,
    /// Jobs that ended, newest first.
    pub ended: Vec<Job>,
}

/// A job that runs, with what it has said so far.
#[derive(Clone, Debug, Default)]
pub struct RunningJob {
    /// The job.
    pub job: Job,
    /// Pieces of text so far.
    pub pieces: u32,
    /// End of its text so far; empty when it must not be shown.
    pub tail: String,
}

/// How something stands, as a colour, a symbol and a word: never by colour alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tone {
    /// Well.
    Ok,
    /// As it should be, and not active: asleep, cancelled.
    Idle,
    /// Needs a look.
    Warning,
    /// Broken.
    Critical,
}

impl Tone {
    /// One character.
    #[must_use]
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Ok => "✓",
            Self::Idle => "☾",
            Self::Warning => "!",
            Self::Critical => "✕",
        }
    }

    /// One word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Idle => "idle",
            Self::Warning => "look",
            Self::Critical => "broken",
        }
    }
}

/// Name of the class in the style sheet.
impl std::fmt::Display for Tone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Idle => "idle",
            Self::Warning => "warning",
            Self::Critical => "critical",
        })
    }
}

impl askama::filters::HtmlSafe for Tone {}

/// The first screen: is all well, and what is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerdictView {
    pub(super) tone: Tone,
    pub(super) headline: String,
    pub(super) summary: String,
    /// Says the same, and all of it, on the command line.
    pub(super) command: &'static str,
    pub(super) concerns: Vec<ConcernRow>,
    pub(super) concerns_left_out: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ConcernRow {
    pub(super) tone: Tone,
    pub(super) subject: String,
    pub(super) message: String,
    pub(super) since: Moment,
    pub(super) command: String,
}

/// The hosts, those that are not well first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostsView {
    pub(super) count: String,
    pub(super) rows: Vec<HostRow>,
    pub(super) left_out: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostRow {
    pub(super) name: String,
    pub(super) description: String,
    pub(super) address: String,
    pub(super) tone: Tone,
    pub(super) state: &'static str,
    pub(super) message: String,
    pub(super) cpu: Gauge,
    pub(super) memory: Gauge,
    pub(super) seen: Moment,
    pub(super) stale: bool,
}

/// The backups, those that are not well first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupsView {
    pub(super) count: String,
    pub(super) rows: Vec<BackupRow>,
    pub(super) left_out: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BackupRow {
    pub(super) name: String,
    pub(super) tone: Tone,
    pub(super) message: String,
    pub(super) newest: Moment,
    pub(super) exposure: Gauge,
    pub(super) rpo: String,
    pub(super) drilled: Moment,
    pub(super) rto: String,
    pub(super) next: Moment,
    pub(super) paused: bool,
}

/// The jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobsView {
    pub(super) count: String,
    pub(super) pending: Vec<JobRow>,
    pub(super) pending_count: u32,
    pub(super) running: Vec<JobRow>,
    pub(super) running_count: u32,
    pub(super) ended: Vec<JobRow>,
}

impl JobsView {
    pub(super) fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.running.is_empty() && self.ended.is_empty()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct JobRow {
    pub(super) id: String,
    pub(super) tone: Tone,
    pub(super) title: String,
    pub(super) state: &'static str,
    pub(super) message: String,
    pub(super) about: String,
    pub(super) text: String,
    pub(super) at: Moment,
}

/// The verdict in words.
#[must_use]
pub fn verdict(observed: &Observed, ages: Ages) -> VerdictView {
    let status = &observed.status;
    let tone = match status.verdict() {
        Verdict::Ok => Tone::Ok,
        Verdict::Warning | Verdict::Unspecified => Tone::Warning,
        Verdict::Critical => Tone::Critical,
    };
    let broken =
        status.concerns.iter().filter(|concern| concern.verdict() == Verdict::Critical).count();
    let headline = match (tone, broken, status.concerns.len()) {
        (Tone::Ok | Tone::Idle, ..) => "All is well".to_owned(),
        (Tone::Critical, 0 | 1, _) => "Something is broken".to_owned(),
        (Tone::Critical, broken, _) => format!("{broken} things are broken"),
        (Tone::Warning, _, 0) => "Not known yet".to_owned(),
        (Tone::Warning, _, 1) => "One thing needs a look".to_owned(),
        (Tone::Warning, _, several) => format!("{several} things need a look"),
    };
    let row = |concern: &Concern| ConcernRow {
        tone: verdict_tone(concern.verdict()),
        subject: concern.subject.clone(),
        message: concern.message.clone(),
        since: Moment::new(moment(concern.since), ages),
        command: concern.command.clone(),
    };
    VerdictView {
        tone,
        headline,
        summary: summary(status),
        command: "labctl status",
        concerns: status.concerns.iter().take(CONCERNS_MAX).map(row).collect(),
        concerns_left_out: status.concerns.len().saturating_sub(CONCERNS_MAX),
    }
}

/// The hosts as rows.
#[must_use]
pub fn hosts(observed: &Observed, ages: Ages) -> HostsView {
    let all = &observed.status.hosts;
    let mut rows: Vec<&HostStatus> = all.iter().collect();
    rows.sort_by_key(|host| std::cmp::Reverse(host_words(host.state()).0));
    let rows = rows.into_iter().take(ROWS_MAX);
    HostsView {
        count: tally(
            all.len(),
            all.iter().filter(|host| host.state() == HostState::Healthy).count(),
            "healthy",
        ),
        rows: rows.map(|host| host_row(host, observed.health.get(&host.name), ages)).collect(),
        left_out: all.len().saturating_sub(ROWS_MAX),
    }
}

/// The backups as rows.
#[must_use]
pub fn backups(observed: &Observed, ages: Ages) -> BackupsView {
    let all = &observed.status.backups;
    let mut rows: Vec<&BackupStatus> = all.iter().collect();
    rows.sort_by_key(|backup| std::cmp::Reverse(verdict_tone(backup.verdict())));
    BackupsView {
        count: tally(
            all.len(),
            all.iter().filter(|backup| backup.verdict() == Verdict::Ok).count(),
            "ok",
        ),
        rows: rows.into_iter().take(ROWS_MAX).map(|backup| backup_row(backup, ages)).collect(),
        left_out: all.len().saturating_sub(ROWS_MAX),
    }
}

/// The jobs as three short lists.
#[must_use]
pub fn jobs(observed: &Observed, ages: Ages) -> JobsView {
    let counts = observed.status.jobs.unwrap_or_default();
    let running = observed.running.iter().map(|running| JobRow {
        text: running.tail.clone(),
        message: match running.pieces {
            0 => "reads the prompt".to_owned(),
            1 => "1 piece".to_owned(),
            pieces => format!("{pieces} pieces"),
        },
        ..job_row(&running.job, ages)
    });
    JobsView {
        count: format!("{} succeeded, {} failed in a day", counts.succeeded, counts.failed),
        pending: observed.pending.iter().map(|job| job_row(job, ages)).collect(),
        pending_count: counts.pending,
        running: running.collect(),
        running_count: counts.running,
        ended: observed.ended.iter().map(|job| job_row(job, ages)).collect(),
    }
}

fn summary(status: &GetStatusResponse) -> String {
    if status.hosts.is_empty() && status.backups.is_empty() {
        return "The site file names no host and no backup yet.".to_owned();
    }
    let healthy = status.hosts.iter().filter(|host| host.state() == HostState::Healthy).count();
    let asleep = status.hosts.iter().filter(|host| host.state() == HostState::Asleep).count();
    let safe = status.backups.iter().filter(|backup| backup.verdict() == Verdict::Ok).count();
    let jobs = status.jobs.unwrap_or_default();
    let mut parts = vec![format!("{healthy} of {} hosts healthy", status.hosts.len())];
    if asleep > 0 {
        parts.push(format!("{asleep} asleep as expected"));
    }
    parts.push(match status.backups.len() {
        0 => "no backups".to_owned(),
        all => format!("{safe} of {all} backups within their target"),
    });
    let noun = if jobs.running == 1 { "job" } else { "jobs" };
    parts.push(format!("{} {noun} running, {} waiting", jobs.running, jobs.pending));
    parts.join(" · ")
}

fn host_row(host: &HostStatus, health: Option<&Health>, ages: Ages) -> HostRow {
    let (tone, state) = host_words(host.state());
    let seen = Moment::new(moment(host.last_seen_at), ages);
    // A host that sleeps as expected is not stale, however old its last answer is.
    let seen = match host.state() {
        HostState::Asleep | HostState::NotEnrolled => seen,
        _ => seen.stale_after(HOST_STALE_SECS),
    };
    let answers = matches!(host.state(), HostState::Healthy | HostState::Degraded);
    let health = health.filter(|_| answers);
    HostRow {
        name: host.name.clone(),
        description: host.description.clone(),
        address: host.address.clone(),
        tone,
        state: if host.drained { "drained" } else { state },
        message: host.message.clone(),
        cpu: Gauge::new(health.and_then(cpu)),
        memory: Gauge::new(health.and_then(memory)),
        stale: seen.is_stale(),
        seen,
    }
}

fn host_words(state: HostState) -> (Tone, &'static str) {
    match state {
        HostState::Healthy => (Tone::Ok, "healthy"),
        HostState::Degraded => (Tone::Warning, "degraded"),
        HostState::Unreachable => (Tone::Critical, "unreachable"),
        HostState::Asleep => (Tone::Idle, "asleep"),
        HostState::NotEnrolled => (Tone::Warning, "not enrolled"),
        HostState::Unknown | HostState::Unspecified => (Tone::Warning, "unknown"),
    }
}

fn cpu(health: &Health) -> Option<(f64, String)> {
    let idle = health.cpu.as_ref()?.idle?;
    let percent = f64::from(1.0 - idle).clamp(0.0, 1.0) * 100.0;
    Some((percent, format!("{percent:.0} %")))
}

fn memory(health: &Health) -> Option<(f64, String)> {
    let memory = health.memory.as_ref()?;
    let (total, available) =
        (memory.total_bytes.filter(|total| *total > 0)?, memory.available_bytes?);
    let used = total.saturating_sub(available);
    #[expect(clippy::cast_precision_loss, reason = "shown as a bar")]
    let percent = used as f64 / total as f64 * 100.0;
    Some((percent, format!("{} of {}", bytes(used), bytes(total))))
}

fn backup_row(backup: &BackupStatus, ages: Ages) -> BackupRow {
    let (exposure, rpo) = (duration(backup.exposure), duration(backup.rpo));
    let share = exposure
        .zip(rpo.filter(|rpo| rpo.is_positive()))
        .map(|(exposure, rpo)| (exposure.as_secs_f64() / rpo.as_secs_f64() * 100.0, String::new()));
    BackupRow {
        name: backup.backup.clone(),
        tone: verdict_tone(backup.verdict()),
        message: backup.message.clone(),
        newest: Moment::span(moment(backup.newest_verified_at), ages),
        exposure: Gauge::new(share),
        rpo: rpo.map(span).unwrap_or_default(),
        drilled: Moment::new(moment(backup.last_drill_at), ages),
        rto: duration(backup.last_rto).map(rto).unwrap_or_default(),
        next: Moment::new(moment(backup.next_run_at), ages),
        paused: backup.paused,
    }
}

pub(super) fn job_words(state: JobState) -> (Tone, &'static str) {
    match state {
        JobState::Queued => (Tone::Idle, "queued"),
        JobState::Waiting => (Tone::Idle, "waiting"),
        JobState::Assigned => (Tone::Ok, "assigned"),
        JobState::Running => (Tone::Ok, "running"),
        JobState::Succeeded => (Tone::Ok, "succeeded"),
        JobState::Failed => (Tone::Critical, "failed"),
        JobState::Cancelled => (Tone::Idle, "cancelled"),
        JobState::Expired => (Tone::Warning, "expired"),
        JobState::Unspecified => (Tone::Warning, "unknown"),
    }
}

pub(super) fn tier_word(tier: Tier) -> &'static str {
    match tier {
        Tier::Bronze => "Bronze",
        Tier::Silver => "Silver",
        Tier::Gold => "Gold",
        Tier::Unspecified => "any tier",
    }
}

pub(super) fn job_row(job: &Job, ages: Ages) -> JobRow {
    let (tone, state) = job_words(job.state());
    let title = match job.title.as_str() {
        "" => format!("job {}", job.job_id),
        title => title.to_owned(),
    };
    let mut about = about(job);
    if let Some(tokens) = job.usage.as_ref().and_then(|usage| usage.completion_tokens) {
        about.push(format!("{tokens} tokens"));
    }
    let message = match job.state() {
        JobState::Succeeded => String::new(),
        _ => job.message.clone(),
    };
    let at = job.finished_at.or(job.started_at).or(job.submitted_at);
    JobRow {
        id: job.job_id.clone(),
        tone,
        title,
        state,
        message,
        about: about.join(" · "),
        text: String::new(),
        at: Moment::new(moment(at), ages),
    }
}

/// Its model, tier and worker.
pub(super) fn about(job: &Job) -> Vec<String> {
    let tier = tier_word(job.tier()).to_owned();
    let mut about = vec![job.model.clone(), tier, job.worker.clone()];
    about.retain(|part| !part.is_empty());
    about
}

fn verdict_tone(verdict: Verdict) -> Tone {
    match verdict {
        Verdict::Ok => Tone::Ok,
        Verdict::Warning | Verdict::Unspecified => Tone::Warning,
        Verdict::Critical => Tone::Critical,
    }
}

pub(super) fn tally(all: usize, well: usize, word: &str) -> String {
    match all {
        0 => String::new(),
        _ => format!("{well} of {all} {word}"),
    }
}

/// A restore may take less than a second; it is worth showing.
pub(super) fn rto(duration: SignedDuration) -> String {
    if duration < SignedDuration::from_secs(10) {
        return format!("{:.1} s", duration.as_secs_f64());
    }
    span(duration)
}

pub(super) fn moment(at: Option<prost_types::Timestamp>) -> Option<Timestamp> {
    let at = at?;
    Timestamp::new(at.seconds, at.nanos).ok()
}

pub(super) fn duration(duration: Option<prost_types::Duration>) -> Option<SignedDuration> {
    let duration = duration?;
    Some(SignedDuration::new(duration.seconds, duration.nanos))
}
