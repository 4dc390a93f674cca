//! The page of all jobs, and the page of one: what waits and why, what runs and how fast, what ended
//! and how.

mod life;
pub mod one;
pub mod source;
mod view;

use std::time::Duration;

use askama::Template;
use homelab_proto::controller::v1::{Job, QueuePlan};
use jiff::Timestamp;

use super::{
    board::Live,
    moment::{Ages, Moment},
    page::{Top, Viewer},
    view::RunningJob,
};
use view::{EndedRow, QueueRow, RunningRow, WaitingRow};

/// What the page of all jobs is made from.
#[derive(Clone, Debug, Default)]
pub struct JobsObserved {
    /// Name of the site.
    pub site: String,
    /// What will be done with what waits, queue by queue.
    pub queues: Vec<QueuePlan>,
    /// The first that wait.
    pub waiting: Vec<WaitingJob>,
    /// How many wait in all.
    pub waiting_count: usize,
    /// Those that run.
    pub running: Vec<WritingJob>,
    /// Those that ended, newest first.
    pub ended: Vec<Job>,
}

/// A job that waits.
#[derive(Clone, Debug, Default)]
pub struct WaitingJob {
    /// The job.
    pub job: Job,
    /// Its place in its tier, from 1, once it has been looked at.
    pub place: Option<u64>,
    /// When it will probably run; none when there is nothing to guess from.
    pub expected_wait: Option<Duration>,
}

/// A job that runs.
#[derive(Clone, Debug, Default)]
pub struct WritingJob {
    /// The job, with what it has written.
    pub running: RunningJob,
    /// Pieces of text that it writes in a second, once that can be told.
    pub rate: Option<f64>,
    /// Whether its text may be shown.
    pub is_shown: bool,
}

impl Live for JobsObserved {
    const SECTIONS: &'static [&'static str] = &["queues", "waiting", "running", "ended"];

    fn sections(&self, ages: Ages) -> askama::Result<Vec<String>> {
        Ok(vec![
            QueuesSection { rows: view::queues(self) }.render()?,
            WaitingSection {
                count: self.waiting_count,
                left_out: self.waiting_count.saturating_sub(self.waiting.len()),
                rows: view::waiting(self, ages),
            }
            .render()?,
            RunningSection { count: self.running.len(), rows: view::running(self, ages) }
                .render()?,
            EndedSection {
                is_cut: self.ended.len() >= source::JOBS_MAX as usize,
                count: self.ended.len(),
                rows: view::ended(self, ages),
            }
            .render()?,
        ])
    }
}

/// The whole page, readable without scripts.
///
/// # Errors
/// When a template cannot be filled, which is a bug.
pub fn page(
    observed: &JobsObserved,
    viewer: &Viewer,
    seq: u64,
    now: Timestamp,
) -> askama::Result<String> {
    let ages = Ages::Written(now);
    let page = JobsPage {
        top: Top {
            site: &observed.site,
            viewer,
            here: "/jobs",
            path: "/jobs",
            events: "/events/jobs",
            seq,
            made: Moment::new(Some(now), ages),
        },
        sections: observed.sections(ages)?,
    };
    page.render()
}

#[derive(Template)]
#[template(path = "jobs/page.html")]
struct JobsPage<'a> {
    top: Top<'a>,
    sections: Vec<String>,
}

#[derive(Template)]
#[template(path = "jobs/queues.html")]
struct QueuesSection {
    rows: Vec<QueueRow>,
}

#[derive(Template)]
#[template(path = "jobs/waiting.html")]
struct WaitingSection {
    count: usize,
    left_out: usize,
    rows: Vec<WaitingRow>,
}

#[derive(Template)]
#[template(path = "jobs/running.html")]
struct RunningSection {
    count: usize,
    rows: Vec<RunningRow>,
}

#[derive(Template)]
#[template(path = "jobs/ended.html")]
struct EndedSection {
    is_cut: bool,
    count: usize,
    rows: Vec<EndedRow>,
}

#[cfg(test)]
mod tests;
