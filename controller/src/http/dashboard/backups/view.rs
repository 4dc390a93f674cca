//! What the page says, as rows: pure, so that it can be tried out without a browser.

mod drills;
mod places;

use homelab_proto::{
    backup::v1::{DrillVerdict, SourceKind},
    controller::v1::{BackupStrategy, Punctuality, Run, RunState, RunTrigger, Schedule},
};

pub(super) use self::{
    drills::{DrillsView, EvidenceView, drills, evidence_view},
    places::{PlacesRow, PlacesView, places, places_row},
};

use super::{
    BackupsObserved,
    health::{Chain, Health, Why, health},
};
use crate::http::dashboard::{
    moment::{Ages, Gauge, Moment, span},
    view::{ConcernRow, Tone, VerdictView, duration, moment, rto, tally},
};

/// Digits of a digest or identifier that people compare at a glance.
const DIGITS_SHORT: usize = 12;

/// Most concerns shown.
const CONCERNS_MAX: usize = 12;

pub(super) struct StateView {
    pub(super) count: String,
    pub(super) rows: Vec<StateRow>,
}

pub(super) struct StateRow {
    pub(super) name: String,
    pub(super) about: String,
    pub(super) tone: Tone,
    pub(super) word: &'static str,
    pub(super) message: String,
    pub(super) timing: TimingView,
    pub(super) newest: Moment,
    pub(super) exposure: Gauge,
    pub(super) rpo: String,
    pub(super) restore: RestoreView,
    pub(super) last: Option<RunView>,
}

/// Late, due or in time.
pub(super) struct TimingView {
    pub(super) tone: Tone,
    pub(super) word: &'static str,
    pub(super) since: Moment,
    pub(super) grace: String,
    /// Why a run that is due does not begin, or who paused it.
    pub(super) held_by: String,
    pub(super) next: Moment,
}

/// How long a restore may take, and how long drills took.
pub(super) struct RestoreView {
    pub(super) share: Gauge,
    pub(super) target: String,
    pub(super) measured: String,
}

pub(super) struct RunView {
    pub(super) tone: Tone,
    pub(super) word: &'static str,
    pub(super) at: Moment,
    /// Why it was started.
    pub(super) reason: String,
    /// Why it failed, and what else a reader must know.
    pub(super) message: String,
}

pub(super) struct RecoveryView {
    pub(super) facts: Vec<FactRow>,
    pub(super) windows: Vec<String>,
}

pub(super) struct FactRow {
    pub(super) tone: Tone,
    pub(super) name: &'static str,
    pub(super) words: String,
    pub(super) at: Moment,
}

pub(super) fn verdict(observed: &BackupsObserved, ages: Ages) -> VerdictView {
    let all = healths(observed);
    let mut concerns: Vec<_> = all
        .iter()
        .flat_map(|(backup, health)| health.whys.iter().map(|why| concern(name(backup), why, ages)))
        .collect();
    if let Some(fault) = &observed.chain.fault {
        let message = format!("the chain of evidence is broken: {fault}");
        concerns.push(plain_concern("evidence", message, ages));
    }
    let loops = observed.strategy.cold_start.iter().flat_map(|start| &start.loops);
    concerns.extend(loops.map(|one| plain_concern("recovery", one.clone(), ages)));
    concerns.sort_by_key(|concern| std::cmp::Reverse(concern.tone));
    let count = |tone| all.iter().filter(|(_, health)| health.tone == tone).count();
    let (at_risk, look) = (count(Tone::Critical), count(Tone::Warning));
    let worst = concerns.first().map_or(Tone::Ok, |concern| concern.tone);
    let (tone, headline) = match (all.len(), at_risk, look) {
        (0, ..) => (Tone::Warning, "Nothing is backed up".to_owned()),
        (_, 0, 0) if worst == Tone::Ok => (Tone::Ok, "Every backup is in order".to_owned()),
        (_, 0, 0) => (worst, "The way back is not safe".to_owned()),
        (_, 0, 1) => (worst, "One backup needs a look".to_owned()),
        (_, 0, look) => (worst, format!("{look} backups need a look")),
        (_, 1, _) => (Tone::Critical, "One backup is at risk".to_owned()),
        (_, at_risk, _) => (Tone::Critical, format!("{at_risk} backups are at risk")),
    };
    VerdictView {
        tone,
        headline,
        summary: summary(observed),
        command: "labctl backup risk",
        concerns_left_out: concerns.len().saturating_sub(CONCERNS_MAX),
        concerns: concerns.into_iter().take(CONCERNS_MAX).collect(),
    }
}

pub(super) fn state(observed: &BackupsObserved, ages: Ages) -> StateView {
    let all = healths(observed);
    let well = all.iter().filter(|(_, health)| health.tone == Tone::Ok).count();
    StateView {
        count: tally(all.len(), well, "ok"),
        rows: all.iter().map(|(backup, health)| state_row(backup, health, ages)).collect(),
    }
}

pub(super) fn recovery(observed: &BackupsObserved, ages: Ages) -> RecoveryView {
    let strategy = &observed.strategy;
    let mut facts = vec![kit_fact(observed, ages), chain_fact(&observed.chain, ages)];
    let (loops, stages) = match &strategy.cold_start {
        Some(start) => {
            (start.loops.as_slice(), start.steps.iter().map(|step| step.stage).max().unwrap_or(0))
        }
        None => (&[][..], 0),
    };
    let fact =
        |tone, words| FactRow { tone, name: "Cold start", words, at: Moment::new(None, ages) };
    if loops.is_empty() {
        facts.push(match stages {
            0 => fact(Tone::Warning, "nothing is known of the order".to_owned()),
            _ => fact(Tone::Ok, format!("everything comes back, in {stages} stages")),
        });
    }
    facts.extend(loops.iter().map(|one| fact(Tone::Critical, one.clone())));
    let hidden = strategy.secrets.iter().filter(|secret| !secret.reachable);
    facts.extend(hidden.map(|secret| FactRow {
        name: "Secret",
        ..fact(Tone::Critical, format!("{} cannot be had: {}", secret.name, secret.why_not))
    }));
    let open = strategy.windows.iter().filter(|window| window.open);
    let windows = open.map(|window| match window.description.as_str() {
        "" => window.name.clone(),
        words => format!("{}: {words}", window.name),
    });
    RecoveryView { facts, windows: windows.collect() }
}

/// The backups with how they stand, those that are not well first.
fn healths(observed: &BackupsObserved) -> Vec<(&BackupStrategy, Health)> {
    let each = observed.strategy.backups.iter();
    let mut all: Vec<_> = each.map(|one| (one, health(one, &observed.chain))).collect();
    all.sort_by_key(|(_, health)| std::cmp::Reverse(health.tone));
    all
}

fn summary(observed: &BackupsObserved) -> String {
    let all = &observed.strategy.backups;
    if all.is_empty() {
        return "The site file names no backup yet.".to_owned();
    }
    let count = |wanted: Punctuality| {
        let schedules = all.iter().filter_map(|backup| backup.schedule.as_ref());
        schedules.filter(|schedule| schedule.punctuality() == wanted).count()
    };
    let mut parts = vec![format!("{} of {} in time", count(Punctuality::Ok), all.len())];
    for (wanted, word) in [
        (Punctuality::Due, "due"),
        (Punctuality::Late, "late"),
        (Punctuality::Paused, "paused"),
        (Punctuality::Unspecified, "unknown"),
    ] {
        match count(wanted) {
            0 => {}
            some => parts.push(format!("{some} {word}")),
        }
    }
    let is_proved = |backup: &&BackupStrategy| {
        let evidence = backup.last_evidence.as_ref();
        evidence.is_some_and(|evidence| evidence.verdict() == DrillVerdict::Passed)
    };
    parts.push(format!("{} proved by a drill", all.iter().filter(is_proved).count()));
    parts.join(" · ")
}

fn concern(subject: &str, why: &Why, ages: Ages) -> ConcernRow {
    ConcernRow {
        tone: why.tone,
        subject: subject.to_owned(),
        message: why.message.clone(),
        since: Moment::new(why.since, ages),
        command: why.command.clone(),
    }
}

fn plain_concern(subject: &str, message: String, ages: Ages) -> ConcernRow {
    ConcernRow {
        tone: Tone::Critical,
        subject: subject.to_owned(),
        message,
        since: Moment::new(None, ages),
        command: String::new(),
    }
}

pub(super) fn name(backup: &BackupStrategy) -> &str {
    backup.schedule.as_ref().map(|schedule| schedule.backup.as_str()).unwrap_or_default()
}

pub(super) fn state_row(backup: &BackupStrategy, health: &Health, ages: Ages) -> StateRow {
    let schedule = backup.schedule.clone().unwrap_or_default();
    let risk = backup.risk.clone().unwrap_or_default();
    let (exposure, rpo) = (duration(risk.exposure), duration(risk.rpo));
    let share = exposure.zip(rpo.filter(|rpo| rpo.is_positive()));
    let share =
        share.map(|(age, rpo)| (age.as_secs_f64() / rpo.as_secs_f64() * 100.0, String::new()));
    StateRow {
        name: name(backup).to_owned(),
        about: format!("{} on {}", source_word(backup.source_kind()), schedule.host),
        tone: health.tone,
        word: health.word(),
        message: health.whys.first().map(|why| why.message.clone()).unwrap_or_default(),
        timing: timing(&schedule, ages),
        newest: Moment::span(moment(risk.newest_verified_at), ages),
        exposure: Gauge::new(share),
        rpo: rpo.map(span).unwrap_or_default(),
        restore: restore(backup),
        last: schedule.last_run.as_ref().map(|run| run_view(run, ages)),
    }
}

fn timing(schedule: &Schedule, ages: Ages) -> TimingView {
    let (tone, word) = match schedule.punctuality() {
        Punctuality::Ok => (Tone::Ok, "in time"),
        Punctuality::Due => (Tone::Idle, "due"),
        Punctuality::Late => (Tone::Critical, "late"),
        Punctuality::Paused => (Tone::Idle, "paused"),
        Punctuality::Unspecified => (Tone::Warning, "unknown"),
    };
    TimingView {
        tone,
        word,
        since: Moment::new(moment(schedule.due_since), ages),
        grace: duration(schedule.grace).map(span).unwrap_or_default(),
        held_by: match schedule.pause_reason.as_str() {
            "" => schedule.held_by.clone(),
            reason => reason.to_owned(),
        },
        next: Moment::new(moment(schedule.next_run_at), ages),
    }
}

fn restore(backup: &BackupStrategy) -> RestoreView {
    let risk = backup.risk.clone().unwrap_or_default();
    let target = duration(risk.rto);
    let measured = duration(risk.rto_median).or_else(|| duration(risk.last_rto));
    let share = measured.zip(target.filter(|target| target.is_positive()));
    let share =
        share.map(|(took, may)| (took.as_secs_f64() / may.as_secs_f64() * 100.0, String::new()));
    RestoreView {
        share: Gauge::new(share),
        target: target.map(span).unwrap_or_default(),
        measured: match (measured, duration(risk.rto_95)) {
            (None, _) => String::new(),
            (Some(median), Some(most)) if most > median => {
                format!("{}, 95 % within {}", rto(median), rto(most))
            }
            (Some(median), _) => rto(median),
        },
    }
}

pub(super) fn run_view(run: &Run, ages: Ages) -> RunView {
    let (tone, word) = match run.state() {
        RunState::Running => (Tone::Idle, "running"),
        RunState::Succeeded => (Tone::Ok, "succeeded"),
        RunState::Failed => (Tone::Critical, "failed"),
        RunState::Cancelled => (Tone::Warning, "cancelled"),
        RunState::Unverified => (Tone::Warning, "unverified"),
        RunState::Unknown | RunState::Unspecified => (Tone::Warning, "unknown"),
    };
    let reason = match run.trigger() {
        RunTrigger::Schedule => "by its schedule".to_owned(),
        RunTrigger::CatchUp => "catches up what was missed".to_owned(),
        RunTrigger::Manual => format!("by {}", person(&run.started_by)),
        RunTrigger::Unspecified => "nobody knows why".to_owned(),
    };
    let failure = run.failure.as_ref().map(|failure| failure.message.clone());
    let messages: Vec<_> = failure.into_iter().chain(run.notes.iter().cloned()).collect();
    RunView {
        tone,
        word,
        at: Moment::new(moment(run.finished_at.or(run.started_at)), ages),
        reason,
        message: messages.join("; "),
    }
}

fn kit_fact(observed: &BackupsObserved, ages: Ages) -> FactRow {
    let strategy = &observed.strategy;
    let due = moment(strategy.next_proof_due_at);
    let fact = |tone, words: &str, at| FactRow {
        tone,
        name: "Recovery kit",
        words: words.to_owned(),
        at: Moment::new(at, ages),
    };
    let now = moment(strategy.generated_at);
    match &strategy.last_proof {
        None => fact(Tone::Warning, "nobody has proved that it opens everything", None),
        Some(proof) if !proof.passed => fact(
            Tone::Critical,
            "it did not open everything when it was last tried",
            moment(proof.at),
        ),
        Some(proof) if now.zip(due).is_none_or(|(now, due)| due < now) => {
            fact(Tone::Warning, "it opened everything, and another proof is due", moment(proof.at))
        }
        Some(proof) => fact(Tone::Ok, "it opened everything", moment(proof.at)),
    }
}

fn chain_fact(chain: &Chain, ages: Ages) -> FactRow {
    let at = Moment::new(chain.walked_at, ages);
    let (tone, words) = match (&chain.fault, chain.walked_at) {
        (Some(fault), _) => (Tone::Critical, format!("broken: {fault}")),
        (None, None) => (Tone::Warning, "nobody has looked yet".to_owned()),
        (None, Some(_)) => (Tone::Ok, format!("all {} signed statements fit", chain.sequence)),
    };
    FactRow { tone, name: "Chain of evidence", words, at }
}

pub(super) const fn source_word(kind: SourceKind) -> &'static str {
    match kind {
        SourceKind::Postgres => "PostgreSQL",
        SourceKind::Vaultwarden => "Vaultwarden",
        SourceKind::Git => "Git",
        SourceKind::Opnsense => "OPNsense",
        SourceKind::Zfs => "ZFS",
        SourceKind::Files => "files",
        SourceKind::Unspecified => "unknown source",
    }
}

/// The name in a SPIFFE id of a person, such as `spiffe://home/user/ada/admin`; else the whole.
fn person(started_by: &str) -> &str {
    let mut parts = started_by.strip_prefix("spiffe://").unwrap_or_default().split('/').skip(1);
    match (parts.next(), parts.next()) {
        (Some("user"), Some(name)) => name,
        _ => started_by,
    }
}

/// The first digits, as many as people compare.
pub(super) fn short(id: &str) -> String {
    id.chars().take(DIGITS_SHORT).collect()
}
