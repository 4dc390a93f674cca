//! A run as a row.

use homelab_domain::{
    drill::DrillAge,
    run::{
        DrillFact, DrillVerdict, Run, RunKind, RunOutcome, RunSpec, RunState, RunStateKind,
        RunTrigger, SnapshotFact,
    },
};

use super::{
    super::{
        args::{at, big, maybe_at, maybe_text, span, text},
        both,
        row::{Fields, Row},
    },
    InRuns,
};
use crate::{error::StoreError, sql::args::Arg};

impl InRuns<'_> {
    /// Keeps a new run; false when there is one with that identifier, or one of
    /// the same backup and kind goes on.
    pub(super) async fn insert(&mut self, run: &Run) -> Result<bool, StoreError> {
        let sql = both(
            "INSERT INTO runs (id, backup, host, kind, run_trigger, started_by, started_at,
               scheduled_for, asked_snapshot, state, progress, repository, drill_age, notes)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) ON CONFLICT DO NOTHING",
        );
        let spec = &run.spec;
        let args = [
            text(spec.id),
            text(&spec.backup),
            text(&spec.host),
            text(spec.kind),
            text(spec.trigger),
            text(&spec.started_by),
            at(spec.started_at),
            maybe_at(spec.scheduled_for),
            maybe_text(spec.snapshot_id.as_ref()),
            text(run.state.kind()),
            text(progress_text(&run.state)),
            maybe_text(spec.repository.as_ref()),
            maybe_text(spec.drill_age),
            text(serde_json::Value::from(spec.notes.clone())),
        ];
        Ok(self.0.run("keep a run", sql, &args).await? == 1)
    }

    /// Keeps where a run stands now.
    pub(super) async fn save(&mut self, run: &Run) -> Result<(), StoreError> {
        let id = text(run.spec.id);
        let state = text(run.state.kind());
        match &run.state {
            RunState::Running { .. } => {
                let sql = both(
                    "UPDATE runs SET state = $2, progress = $3, unknown_since = NULL,
                       unknown_why = NULL WHERE id = $1",
                );
                let args = [id, state, text(progress_text(&run.state))];
                self.0.run("keep the progress of a run", sql, &args).await?;
            }
            RunState::Unknown { since, why, .. } => {
                let sql = both(
                    "UPDATE runs SET state = $2, unknown_since = $3, unknown_why = $4
                     WHERE id = $1",
                );
                self.0.run("keep a lost run", sql, &[id, state, at(*since), text(why)]).await?;
            }
            RunState::Ended { at: ended_at, outcome } => {
                let sql = both(
                    "UPDATE runs SET state = $2, finished_at = $3, failure = $4, snapshot_id = $5,
                       snapshot_taken_at = $6, verified_at = $7, source_bytes = $8,
                       stored_bytes = $9, drill_verdict = $10, restore_elapsed = $11,
                       elapsed = $12, payload = $13, unknown_since = NULL, unknown_why = NULL
                     WHERE id = $1",
                );
                let mut args = vec![id, state, at(*ended_at)];
                args.extend(outcome_args(outcome));
                self.0.run("keep the end of a run", sql, &args).await?;
            }
        }
        Ok(())
    }
}

/// The columns from `failure` to `payload`.
fn outcome_args(outcome: &RunOutcome) -> [Arg<'static>; 10] {
    let none = || Arg::Text(None);
    let no_number = || Arg::Int(None);
    match outcome {
        RunOutcome::Stored(snapshot) => [
            none(),
            text(&snapshot.id),
            at(snapshot.taken_at),
            at(snapshot.verified_at),
            big(snapshot.source_bytes),
            snapshot.stored_bytes.map_or_else(no_number, big),
            none(),
            no_number(),
            span(snapshot.elapsed),
            text(&snapshot.payload),
        ],
        RunOutcome::Drilled(drill) => [
            none(),
            text(&drill.snapshot_id),
            at(drill.snapshot_taken_at),
            no_number(),
            no_number(),
            no_number(),
            text(drill.verdict),
            span(drill.restore_elapsed),
            span(drill.elapsed),
            text(&drill.payload),
        ],
        RunOutcome::Failed(failure) => {
            let failure = maybe_text(serde_json::to_string(failure).ok());
            let mut args = nothing();
            args[0] = failure;
            args
        }
        RunOutcome::Cancelled => nothing(),
    }
}

fn nothing() -> [Arg<'static>; 10] {
    let (none, no_number) = (|| Arg::Text(None), || Arg::Int(None));
    [
        none(),
        none(),
        no_number(),
        no_number(),
        no_number(),
        no_number(),
        none(),
        no_number(),
        no_number(),
        none(),
    ]
}

fn progress_text(state: &RunState) -> String {
    match state {
        RunState::Running { progress } | RunState::Unknown { progress, .. } => {
            serde_json::to_string(progress).unwrap_or_default()
        }
        RunState::Ended { .. } => String::new(),
    }
}

pub(super) fn run_of(row: &Row) -> Result<Run, StoreError> {
    let fields = row.of("runs", "id");
    let spec = RunSpec {
        id: fields.parsed("id")?,
        backup: fields.parsed("backup")?,
        host: fields.parsed("host")?,
        kind: fields.word("kind", RunKind::from_word)?,
        trigger: fields.word("run_trigger", RunTrigger::from_word)?,
        started_by: fields.text("started_by")?,
        started_at: fields.at("started_at")?,
        scheduled_for: fields.maybe_at("scheduled_for")?,
        snapshot_id: fields.maybe_text("asked_snapshot")?,
        repository: fields.maybe_parsed("repository")?,
        drill_age: fields.maybe_word("drill_age", DrillAge::from_word)?,
        notes: fields.json("notes")?,
    };
    let state = match fields.word("state", RunStateKind::from_word)? {
        RunStateKind::Running => RunState::Running { progress: fields.json("progress")? },
        RunStateKind::Unknown => RunState::Unknown {
            progress: fields.json("progress")?,
            since: fields.at("unknown_since")?,
            why: fields.text("unknown_why")?,
        },
        kind => RunState::Ended {
            at: fields.at("finished_at")?,
            outcome: outcome_of(&fields, spec.kind, kind)?,
        },
    };
    Ok(Run { spec, state })
}

fn outcome_of(
    fields: &Fields<'_>,
    kind: RunKind,
    state: RunStateKind,
) -> Result<RunOutcome, StoreError> {
    if state == RunStateKind::Cancelled {
        return Ok(RunOutcome::Cancelled);
    }
    if kind == RunKind::Drill
        && let Some(verdict) = fields.maybe_word("drill_verdict", DrillVerdict::from_word)?
    {
        return Ok(RunOutcome::Drilled(DrillFact {
            verdict,
            snapshot_id: fields.text("snapshot_id")?,
            snapshot_taken_at: fields.at("snapshot_taken_at")?,
            restore_elapsed: fields.span("restore_elapsed")?,
            elapsed: fields.span("elapsed")?,
            payload: fields.json("payload")?,
        }));
    }
    if state == RunStateKind::Failed {
        return Ok(RunOutcome::Failed(fields.json("failure")?));
    }
    Ok(RunOutcome::Stored(SnapshotFact {
        id: fields.text("snapshot_id")?,
        taken_at: fields.at("snapshot_taken_at")?,
        verified_at: fields.at("verified_at")?,
        source_bytes: fields.u64("source_bytes")?,
        stored_bytes: fields.maybe_u64("stored_bytes")?,
        elapsed: fields.span("elapsed")?,
        payload: fields.json("payload")?,
    }))
}
