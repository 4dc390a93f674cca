//! The page of one job: every change of its state as a time line, why it is where it is, where its
//! text may go, and its answer when that is kept.

use askama::Template;
use homelab_proto::controller::v1::{Job, JobEvent, JobExplanation};
use jiff::{SignedDuration, Timestamp};

use super::view;
use crate::http::dashboard::{
    moment::{Ages, Moment},
    page::{Top, Viewer},
    view::{JobRow, Tone, job_row, job_words, moment, rto},
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
}

/// The whole page. Nothing keeps it alive: it says as of when it is.
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
        job: job_row(&observed.job, ages),
        facts: facts(&observed.job),
        explained: observed.explanation.as_ref(),
        steps: steps(&observed.events, ages),
        answer: &observed.job.answer,
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
    steps: Vec<StepRow>,
    answer: &'a str,
}

/// One change of its state.
struct StepRow {
    tone: Tone,
    state: &'static str,
    message: String,
    attempt: String,
    /// Time since the one before.
    after: String,
    at: Moment,
}

fn steps(events: &[JobEvent], ages: Ages) -> Vec<StepRow> {
    let mut before = None;
    let step = |event: &JobEvent| {
        let (tone, state) = job_words(event.state());
        let at = moment(event.at);
        let gone = before.zip(at).map(|(before, at): (Timestamp, Timestamp)| {
            rto(at.duration_since(before).max(SignedDuration::ZERO))
        });
        before = at;
        StepRow {
            tone,
            state,
            message: event.message.clone(),
            attempt: match event.attempt {
                0 => "–".to_owned(),
                attempt => attempt.to_string(),
            },
            after: gone.unwrap_or_default(),
            at: Moment::new(at, ages),
        }
    };
    events.iter().map(step).collect()
}

/// What is known of it beside its states, each with its name.
fn facts(job: &Job) -> Vec<(&'static str, String)> {
    let plain = |at| moment(at).map(|at| format!("{at:.0}")).unwrap_or_default();
    let facts = [
        ("job", job.job_id.clone()),
        ("submitted by", job.submitted_by.clone()),
        ("priority", job.priority.to_string()),
        ("conversation", job.chat.clone()),
        ("tags", job.tags.join(", ")),
        ("comes after", job.after.join(", ")),
        ("begins at the latest", plain(job.latest_start)),
        ("not wanted after", plain(job.deadline)),
        ("figures", view::figures(job).join(" · ")),
    ];
    facts.into_iter().filter(|(_, value)| !value.is_empty()).collect()
}
