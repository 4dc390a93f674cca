//! The page of one backup: its snapshots with why they are kept, its runs, its evidence, and how it
//! is restored by hand.

use askama::Template;
use homelab_proto::controller::v1::{RetentionPlan, RetentionVerdict, SnapshotDecision};
use jiff::Timestamp;

use super::{
    health::{Chain, Why, health},
    view::{self, EvidenceView, PlacesRow, RunView, StateRow},
};
use crate::{
    grpc::backup_schedule::strategy::BackupFacts,
    http::dashboard::{
        moment::{Ages, Moment, bytes},
        page::{Top, Viewer},
        view::{Tone, moment},
    },
};

/// Most snapshots shown of one repository.
const SNAPSHOTS_MAX: usize = 60;

/// What the page of one backup is made from.
#[derive(Clone, Debug, Default)]
pub struct OneObserved {
    /// Name of the site.
    pub site: String,
    /// Everything that is told of it.
    pub facts: BackupFacts,
    /// What is known of the chain of evidence.
    pub chain: Chain,
}

/// The whole page. Nothing keeps it alive: it says as of when it is.
///
/// # Errors
/// When a template cannot be filled, which is a bug.
pub fn page(observed: &OneObserved, viewer: &Viewer, now: Timestamp) -> askama::Result<String> {
    let ages = Ages::Written(now);
    let strategy = &observed.facts.strategy;
    let health = health(strategy, &observed.chain);
    let evidence = observed.facts.evidence.iter();
    let here = format!("/backups/{}", view::name(strategy));
    let page = OnePage {
        top: Top {
            site: &observed.site,
            viewer,
            here: &here,
            path: "/backups",
            events: "",
            seq: 0,
            made: Moment::new(Some(now), ages),
        },
        state: view::state_row(strategy, &health, ages),
        whys: &health.whys,
        places: view::places_row(strategy, ages),
        shelves: observed.facts.plans.iter().map(|plan| shelf(plan, ages)).collect(),
        evidence: evidence.map(|one| view::evidence_view(one, &observed.chain, ages)).collect(),
        runs: observed
            .facts
            .runs
            .iter()
            .map(|run| RunRow {
                kind: match run.kind() {
                    homelab_proto::controller::v1::RunKind::Drill => "drill",
                    _ => "backup",
                },
                run: view::run_view(run, ages),
                id: run.run_id.clone(),
            })
            .collect(),
        commands: &strategy.restore_commands,
    };
    page.render()
}

#[derive(Template)]
#[template(path = "backups/one.html")]
struct OnePage<'a> {
    top: Top<'a>,
    state: StateRow,
    whys: &'a [Why],
    places: PlacesRow,
    shelves: Vec<ShelfView>,
    evidence: Vec<EvidenceView>,
    runs: Vec<RunRow>,
    commands: &'a [String],
}

struct RunRow {
    kind: &'static str,
    run: RunView,
    id: String,
}

/// The snapshots in one repository.
struct ShelfView {
    repository: String,
    count: String,
    brakes: Vec<String>,
    rows: Vec<SnapshotRow>,
    left_out: usize,
}

struct SnapshotRow {
    id: String,
    id_short: String,
    at: Moment,
    size: String,
    tone: Tone,
    word: &'static str,
    drilled: &'static str,
    reasons: String,
}

fn shelf(plan: &RetentionPlan, ages: Ages) -> ShelfView {
    let open = plan.brakes.iter().filter(|brake| brake.acknowledged_by.is_empty());
    ShelfView {
        repository: plan.repository.clone(),
        count: match plan.decisions.len() {
            1 => "1 snapshot".to_owned(),
            count => format!("{count} snapshots"),
        },
        brakes: open.map(|brake| brake.message.clone()).collect(),
        rows: plan.decisions.iter().take(SNAPSHOTS_MAX).map(|one| row(one, ages)).collect(),
        left_out: plan.decisions.len().saturating_sub(SNAPSHOTS_MAX),
    }
}

fn row(decision: &SnapshotDecision, ages: Ages) -> SnapshotRow {
    let (tone, word) = match decision.verdict() {
        RetentionVerdict::Keep => (Tone::Ok, "stays"),
        RetentionVerdict::Quarantine => (Tone::Idle, "would be given up"),
        RetentionVerdict::Quarantined => (Tone::Idle, "given up"),
        RetentionVerdict::Delete => (Tone::Idle, "would be deleted"),
        RetentionVerdict::Unspecified => (Tone::Warning, "unknown"),
    };
    SnapshotRow {
        id_short: view::short(&decision.snapshot_id),
        id: decision.snapshot_id.clone(),
        at: Moment::new(moment(decision.taken_at), ages),
        size: bytes(decision.source_bytes),
        tone,
        word,
        drilled: if decision.drilled { "restored and found equal" } else { "not drilled" },
        reasons: decision.reasons.join("; "),
    }
}
