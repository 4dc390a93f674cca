//! Jobs as rows.

use std::fmt;

use askama::filters::HtmlSafe;
use homelab_proto::{
    controller::v1::{Job, QueuePlan},
    inference::v1::Usage,
};
use jiff::SignedDuration;

use super::{JobsObserved, WaitingJob, WritingJob};
use crate::http::dashboard::{
    moment::{Ages, Moment, span},
    view::{JobRow, Tone, about, duration, job_row, moment, rto, tier_word},
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
    pub(super) next_in: Expected,
    pub(super) done_in: Expected,
}

/// A job that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct WaitingRow {
    pub(super) row: JobRow,
    pub(super) place: String,
    pub(super) expected: Expected,
}

/// A job that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RunningRow {
    pub(super) row: JobRow,
    /// `about 57 tokens`.
    pub(super) written: String,
    /// `24.1 a second`; empty while nobody can tell.
    pub(super) rate: String,
    /// End of its text.
    pub(super) tail: String,
    pub(super) is_shown: bool,
}

/// A job that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct EndedRow {
    pub(super) row: JobRow,
    pub(super) attempts: u32,
    /// `128 tokens`, `not counted`, or `none`.
    pub(super) tokens: String,
    /// Rate and time.
    pub(super) figures: Vec<String>,
}

/// When something will probably happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// Nobody waits for it.
    Nothing,
    /// There is nothing to guess from.
    Unknown,
    /// In `5 min`.
    In(String),
}

impl Expected {
    fn of(wait: Option<SignedDuration>) -> Self {
        wait.map_or(Self::Unknown, |wait| Self::In(span(wait)))
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("–"),
            Self::Unknown => f.write_str("<span class=\"absent\">not known yet</span>"),
            Self::In(wait) => write!(f, "in about {wait}"),
        }
    }
}

/// Written by us from a number only.
impl HtmlSafe for Expected {}

pub(super) fn queues(observed: &JobsObserved) -> Vec<QueueRow> {
    observed.queues.iter().map(|plan| queue(plan, &observed.waiting)).collect()
}

fn queue(plan: &QueuePlan, waiting: &[WaitingJob]) -> QueueRow {
    let waits = plan.waiting > 0;
    let expected = |wait| if waits { Expected::of(wait) } else { Expected::Nothing };
    // What is known of the next one, such as when its host is woken, is known of the queue.
    let next = waiting.iter().find(|waiting| waiting.job.job_id == plan.next_job_id);
    let next = next.and_then(|next| next.expected_wait?.try_into().ok());
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
        next_in: expected(duration(plan.expected_wait).or(next)),
        done_in: expected(duration(plan.expected_end)),
    }
}

pub(super) fn waiting(observed: &JobsObserved, ages: Ages) -> Vec<WaitingRow> {
    let row = |WaitingJob { job, place, expected_wait }: &WaitingJob| WaitingRow {
        place: place.map_or_else(|| "–".to_owned(), |place| place.to_string()),
        expected: Expected::of(expected_wait.and_then(|wait| wait.try_into().ok())),
        row: JobRow { at: Moment::new(moment(job.submitted_at), ages), ..row(job, ages) },
    };
    observed.waiting.iter().map(row).collect()
}

pub(super) fn running(observed: &JobsObserved, ages: Ages) -> Vec<RunningRow> {
    let rows = observed.running.iter().map(|writing| RunningRow {
        written: written(writing),
        rate: rate_words(writing.rate),
        tail: writing.running.tail.clone(),
        is_shown: writing.is_shown,
        row: row(&writing.running.job, ages),
    });
    rows.collect()
}

/// A piece is a token, but for the few that are written in several.
pub(super) fn written(writing: &WritingJob) -> String {
    match writing.running.pieces {
        0 => "nothing yet: it reads the prompt".to_owned(),
        1 => "1 token".to_owned(),
        pieces => format!("about {pieces} tokens"),
    }
}

pub(super) fn rate_words(rate: Option<f64>) -> String {
    rate.map(|rate| format!("{rate:.1} a second")).unwrap_or_default()
}

pub(super) fn ended(observed: &JobsObserved, ages: Ages) -> Vec<EndedRow> {
    let row = |job: &Job| {
        // Who breaks off an answer is not told what it came to.
        let uncounted = if job.started_at.is_some() { "not counted" } else { "none" };
        EndedRow {
            attempts: job.attempts,
            tokens: tokens(job).unwrap_or_else(|| uncounted.to_owned()),
            figures: speed(job),
            row: row(job, ages),
        }
    };
    observed.ended.iter().map(row).collect()
}

/// `128 tokens`, `24.1 a second`, `in 5.3 s`, `35.2 J`.
pub(super) fn figures(job: &Job) -> Vec<String> {
    let used = job.usage.unwrap_or_default().energy_joules.map(energy);
    tokens(job).into_iter().chain(speed(job)).chain(used).collect()
}

fn tokens(job: &Job) -> Option<String> {
    let tokens = job.usage.unwrap_or_default().completion_tokens?;
    Some(if tokens == 1 { "1 token".to_owned() } else { format!("{tokens} tokens") })
}

fn speed(job: &Job) -> Vec<String> {
    let rate = rate(&job.usage.unwrap_or_default()).map(|rate| rate_words(Some(rate)));
    let took = moment(job.started_at).zip(moment(job.finished_at));
    let took = took.map(|(from, to)| to.duration_since(from).max(SignedDuration::ZERO));
    rate.into_iter().chain(took.map(|took| format!("in {}", rto(took)))).collect()
}

/// `35.2 J`, or `1.2 Wh` from an hour of a watt on.
fn energy(joules: f64) -> String {
    if joules < 3_600.0 { format!("{joules:.1} J") } else { format!("{:.1} Wh", joules / 3_600.0) }
}

fn rate(usage: &Usage) -> Option<f64> {
    let elapsed = duration(usage.completion_elapsed)?.as_secs_f64();
    let tokens = f64::from(usage.completion_tokens?);
    (elapsed > 0.0).then(|| tokens / elapsed)
}

/// Without its tokens, which stand among its figures.
pub(super) fn row(job: &Job, ages: Ages) -> JobRow {
    JobRow { about: about(job).join(" · "), ..job_row(job, ages) }
}
