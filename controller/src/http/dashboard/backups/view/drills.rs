//! What the last drills proved.

use homelab_proto::{
    backup::v1::DrillVerdict,
    controller::v1::{BackupStrategy, DrillAge, DrillEvidence},
};

use super::{
    super::{BackupsObserved, health::Chain},
    RunView, healths, name, run_view, short,
};
use crate::http::dashboard::{
    moment::{Ages, Moment},
    view::{Tone, duration, moment, rto, tally},
};

pub(in crate::http::dashboard::backups) struct DrillsView {
    pub(in crate::http::dashboard::backups) count: String,
    pub(in crate::http::dashboard::backups) rows: Vec<DrillRow>,
}

pub(in crate::http::dashboard::backups) struct DrillRow {
    pub(in crate::http::dashboard::backups) name: String,
    pub(in crate::http::dashboard::backups) evidence: Option<EvidenceView>,
    /// The newest attempt, when it is newer than the evidence and proved nothing.
    pub(in crate::http::dashboard::backups) attempt: Option<RunView>,
    pub(in crate::http::dashboard::backups) target: String,
    pub(in crate::http::dashboard::backups) next: Moment,
}

pub(in crate::http::dashboard::backups) struct EvidenceView {
    pub(in crate::http::dashboard::backups) tone: Tone,
    pub(in crate::http::dashboard::backups) word: &'static str,
    pub(in crate::http::dashboard::backups) at: Moment,
    pub(in crate::http::dashboard::backups) restored: String,
    pub(in crate::http::dashboard::backups) snapshot: String,
    pub(in crate::http::dashboard::backups) snapshot_at: Moment,
    pub(in crate::http::dashboard::backups) sequence: u64,
    pub(in crate::http::dashboard::backups) digest: String,
    pub(in crate::http::dashboard::backups) digest_short: String,
    pub(in crate::http::dashboard::backups) previous: String,
    pub(in crate::http::dashboard::backups) key: String,
    pub(in crate::http::dashboard::backups) signature_tone: Tone,
    pub(in crate::http::dashboard::backups) signature: &'static str,
    pub(in crate::http::dashboard::backups) run: String,
}

pub(in crate::http::dashboard::backups) fn drills(
    observed: &BackupsObserved,
    ages: Ages,
) -> DrillsView {
    let all = healths(observed);
    let rows: Vec<_> =
        all.iter().map(|(backup, _)| drill_row(backup, &observed.chain, ages)).collect();
    let is_proved = |row: &&DrillRow| {
        let proof = row.evidence.as_ref();
        proof.is_some_and(|it| it.tone == Tone::Ok && it.signature_tone == Tone::Ok)
    };
    DrillsView { count: tally(rows.len(), rows.iter().filter(is_proved).count(), "proved"), rows }
}

fn drill_row(backup: &BackupStrategy, chain: &Chain, ages: Ages) -> DrillRow {
    let schedule = backup.schedule.clone().unwrap_or_default();
    let evidence = backup.last_evidence.as_ref();
    // An attempt that came to a verdict is the evidence; others only say why there is none newer.
    let attempt = schedule.last_drill.as_ref().filter(|run| {
        let is_it = evidence.is_some_and(|evidence| evidence.run_id == run.run_id);
        !is_it
    });
    DrillRow {
        name: name(backup).to_owned(),
        evidence: evidence.map(|one| evidence_view(one, chain, ages)),
        attempt: attempt.map(|run| run_view(run, ages)),
        target: backup.drill_target.clone(),
        next: Moment::new(moment(schedule.next_drill_at), ages),
    }
}

pub(in crate::http::dashboard::backups) fn evidence_view(
    evidence: &DrillEvidence,
    chain: &Chain,
    ages: Ages,
) -> EvidenceView {
    let (tone, word) = match evidence.verdict() {
        DrillVerdict::Passed => (Tone::Ok, "equal"),
        DrillVerdict::Failed => (Tone::Critical, "failed"),
        DrillVerdict::Unverified => (Tone::Warning, "unverified"),
        DrillVerdict::Unspecified => (Tone::Warning, "unknown"),
    };
    let age = match evidence.age() {
        DrillAge::Newest => "the newest, ",
        DrillAge::Weekly => "a week old, ",
        DrillAge::Monthly => "a month old, ",
        DrillAge::Unspecified => "",
    };
    let took = duration(evidence.restore_elapsed).map(|took| format!(" in {}", rto(took)));
    let signature = chain.signature(evidence);
    EvidenceView {
        tone,
        word,
        at: Moment::new(moment(evidence.at), ages),
        restored: format!(
            "{age}from {} on {}{}",
            evidence.repository,
            evidence.drill_host,
            took.unwrap_or_default()
        ),
        snapshot: short(&evidence.snapshot_id),
        snapshot_at: Moment::new(moment(evidence.snapshot_taken_at), ages),
        sequence: evidence.sequence,
        digest_short: short(&evidence.digest),
        digest: evidence.digest.clone(),
        previous: evidence.previous_digest.clone(),
        key: evidence.key_id.clone(),
        signature_tone: signature.tone(),
        signature: signature.words(),
        run: evidence.run_id.clone(),
    }
}
