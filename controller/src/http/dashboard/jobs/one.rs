//! The page of one job: its life as a time line, why it is where it is, where its text may go, and its
//! answer when that is kept.

use askama::Template;
use homelab_proto::controller::v1::{Job, JobEvent, JobExplanation, JobState};
use jiff::{SignedDuration, Timestamp};

use super::{
    WritingJob,
    life::{Life, life},
    view,
};
use crate::http::dashboard::{
    moment::{Ages, Moment, span},
    page::{Top, Viewer},
    view::{JobRow, duration, moment},
};

/// What the page of one job is made from.
#[derive(Clone, Debug, Default)]
pub struct OneJob {
    /// Name of the site.
    pub site: String,
    /// The job, with its answer when that is kept.
    pub job: Job,
    /// Its states, oldest first.
    pub events: Vec<JobEvent>,
    /// What will be done with it; none when it has ended.
    pub explanation: Option<JobExplanation>,
    /// What it writes, while it does.
    pub writing: Option<WritingJob>,
    /// Whether its text may be shown.
    pub is_shown: bool,
    /// Whether it has ended.
    pub is_over: bool,
}

/// The whole page. Until the job has ended, a browser looks for a newer one every few seconds.
///
/// # Errors
/// When a template cannot be filled, which is a bug.
pub fn page(observed: &OneJob, viewer: &Viewer, now: Timestamp) -> askama::Result<String> {
    let ages = Ages::Written(now);
    let here = format!("/jobs/{}", observed.job.job_id);
    let page = OnePage {
        top: Top {
            site: &observed.site,
            viewer,
            here: &here,
            path: "/jobs",
            events: "",
            seq: 0,
            made: Moment::new(Some(now), ages),
        },
        id: &observed.job.job_id,
        job: view::row(&observed.job, ages),
        facts: facts(observed),
        explained: observed.explanation.as_ref(),
        wait: wait(observed).map(span),
        life: life(observed, now),
        answer: answer(observed),
        is_over: observed.is_over,
    };
    page.render()
}

#[derive(Template)]
#[template(path = "jobs/one.html")]
struct OnePage<'a> {
    top: Top<'a>,
    id: &'a str,
    job: JobRow,
    facts: Vec<(&'static str, String)>,
    explained: Option<&'a JobExplanation>,
    wait: Option<String>,
    life: Life,
    answer: AnswerView<'a>,
    is_over: bool,
}

/// How long it will probably wait, if it does and that can be guessed.
fn wait(observed: &OneJob) -> Option<SignedDuration> {
    duration(observed.explanation.as_ref()?.expected_wait)
}

/// Its answer, or why there is none to see.
struct AnswerView<'a> {
    text: &'a str,
    /// Said where there is no text; empty when there is nothing to say.
    instead: &'static str,
}

fn answer(observed: &OneJob) -> AnswerView<'_> {
    let text = observed.job.answer.as_str();
    let instead = match (observed.is_shown, observed.job.state()) {
        (false, _) => "It leaves no text behind: only who asked has seen it.",
        (true, JobState::Succeeded) => "It is empty.",
        (true, _) => "",
    };
    AnswerView { text, instead: if text.is_empty() { instead } else { "" } }
}

/// `user/ada` or `key/webui`, whatever certificate it was shown by.
fn submitter(submitted_by: &str) -> String {
    let path = submitted_by.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/'));
    let Some((_site, path)) = path else { return submitted_by.to_owned() };
    path.split('/').take(2).collect::<Vec<_>>().join("/")
}

/// What is known of it beside its states, each with its name.
fn facts(observed: &OneJob) -> Vec<(&'static str, String)> {
    let job = &observed.job;
    let plain = |at| moment(at).map(|at| format!("{at:.0}")).unwrap_or_default();
    let kept = duration(job.kept_for).map(|kept| format!("{} after its end", span(kept)));
    let writes = observed.writing.as_ref().map(|writing| {
        let parts = [view::written(writing), view::rate_words(writing.rate)];
        parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" · ")
    });
    let attempts = if job.attempts > 1 { job.attempts.to_string() } else { String::new() };
    let facts = [
        ("written", writes.unwrap_or_default()),
        ("figures", view::figures(job).join(" · ")),
        ("attempts", attempts),
        ("submitted by", submitter(&job.submitted_by)),
        ("priority", job.priority.to_string()),
        ("conversation", job.chat.clone()),
        ("tags", job.tags.join(", ")),
        ("comes after", job.after.join(", ")),
        ("begins at the latest", plain(job.latest_start)),
        ("not wanted after", plain(job.deadline)),
        ("kept for", kept.unwrap_or_default()),
        ("job", job.job_id.clone()),
    ];
    facts.into_iter().filter(|(_, value)| !value.is_empty()).collect()
}
