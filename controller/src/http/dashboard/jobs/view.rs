//! Jobs as rows.

use homelab_proto::{
    controller::v1::{Job, QueuePlan},
    inference::v1::Usage,
};
use jiff::SignedDuration;

use super::JobsObserved;
use crate::http::dashboard::{
    moment::{Ages, Moment, span},
    view::{JobRow, Tone, duration, job_row, moment, rto, tier_word},
};

/// What will be done with one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct QueueRow {
    pub(super) tone: Tone,
    pub(super) model: String,
    pub(super) tier: &'static str,
    pub(super) waiting: u32,
    pub(super) awaited: u32,
    /// `1 of 2 slots`.
    pub(super) running: String,
    pub(super) decision: String,
    pub(super) reasons: Vec<String>,
    pub(super) next_in: String,
    pub(super) done_in: String,
}

/// One job, in any of the lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) id: String,
    pub(super) tone: Tone,
    pub(super) title: String,
    pub(super) state: &'static str,
    pub(super) message: String,
    pub(super) about: String,
    /// Place in the queue, pieces written, or attempts.
    pub(super) place: String,
    /// What it writes now, or its figures.
    pub(super) text: String,
    pub(super) at: Moment,
}

pub(super) fn queues(observed: &JobsObserved) -> Vec<QueueRow> {
    observed.queues.iter().map(queue).collect()
}

fn queue(plan: &QueuePlan) -> QueueRow {
    let time = |time| duration(time).map_or_else(|| "–".to_owned(), span);
    let waits = plan.waiting > 0;
    QueueRow {
        tone: if plan.slots == 0 && waits { Tone::Idle } else { Tone::Ok },
        model: plan.model.clone(),
        tier: tier_word(plan.tier()),
        waiting: plan.waiting,
        awaited: plan.interactive,
        running: match plan.slots {
            0 => plan.running.to_string(),
            slots => format!("{} of {slots} slots", plan.running),
        },
        decision: plan.decision.clone(),
        reasons: plan.reasons.clone(),
        next_in: if waits { time(plan.expected_wait) } else { "–".to_owned() },
        done_in: if waits { time(plan.expected_end) } else { "–".to_owned() },
    }
}

pub(super) fn waiting(observed: &JobsObserved, ages: Ages) -> Vec<Row> {
    let row = |(job, place): &(Job, Option<u64>)| Row {
        place: place.map_or_else(|| "–".to_owned(), |place| place.to_string()),
        at: Moment::new(moment(job.submitted_at), ages),
        ..row(job, ages)
    };
    observed.waiting.iter().map(row).collect()
}

pub(super) fn running(observed: &JobsObserved, ages: Ages) -> Vec<Row> {
    let rows = observed.running.iter().map(|(running, rate)| Row {
        place: match running.pieces {
            0 => "reads the prompt".to_owned(),
            1 => "1 piece".to_owned(),
            pieces => format!("{pieces} pieces"),
        },
        message: rate.map(|rate| format!("{rate:.1} a second")).unwrap_or_default(),
        text: running.tail.clone(),
        ..row(&running.job, ages)
    });
    rows.collect()
}

pub(super) fn ended(observed: &JobsObserved, ages: Ages) -> Vec<Row> {
    let row = |job: &Job| Row {
        place: job.attempts.to_string(),
        text: figures(job).join(" · "),
        ..row(job, ages)
    };
    observed.ended.iter().map(row).collect()
}

/// `128 tokens`, `24.1 a second`, `5.3 s`.
pub(super) fn figures(job: &Job) -> Vec<String> {
    let usage = job.usage.unwrap_or_default();
    let mut figures = Vec::new();
    if let Some(tokens) = usage.completion_tokens {
        figures.push(if tokens == 1 { "1 token".to_owned() } else { format!("{tokens} tokens") });
    }
    if let Some(rate) = rate(&usage) {
        figures.push(format!("{rate:.1} a second"));
    }
    let took = moment(job.started_at).zip(moment(job.finished_at));
    if let Some((from, to)) = took {
        figures.push(rto(to.duration_since(from).max(SignedDuration::ZERO)));
    }
    figures
}

fn rate(usage: &Usage) -> Option<f64> {
    let elapsed = duration(usage.completion_elapsed)?.as_secs_f64();
    let tokens = f64::from(usage.completion_tokens?);
    (elapsed > 0.0).then(|| tokens / elapsed)
}

fn row(job: &Job, ages: Ages) -> Row {
    let JobRow { id, tone, title, state, message, about, at, .. } = job_row(job, ages);
    Row { id, tone, title, state, message, about, place: String::new(), text: String::new(), at }
}
