//! The page of all jobs, and the page of one: what waits and why, what runs and how fast, what ended
//! and how.

pub mod one;
pub mod source;
mod view;

use askama::Template;
use homelab_proto::controller::v1::{Job, QueuePlan};
use jiff::Timestamp;

use super::{
    board::Live,
    moment::{Ages, Moment},
    page::{Top, Viewer},
    view::RunningJob,
};
use view::{QueueRow, Row};

/// What the page of all jobs is made from.
#[derive(Clone, Debug, Default)]
pub struct JobsObserved {
    /// Name of the site.
    pub site: String,
    /// What will be done with what waits, queue by queue.
    pub queues: Vec<QueuePlan>,
    /// The first that wait, each with its place in its tier, if it has been looked at.
    pub waiting: Vec<(Job, Option<u64>)>,
    /// How many wait in all.
    pub waiting_count: usize,
    /// Those that run, each with the pieces of text that it writes in a second.
    pub running: Vec<(RunningJob, Option<f64>)>,
    /// Those that ended, newest first.
    pub ended: Vec<Job>,
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
            EndedSection { count: self.ended.len(), rows: view::ended(self, ages) }.render()?,
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
    rows: Vec<Row>,
}

#[derive(Template)]
#[template(path = "jobs/running.html")]
struct RunningSection {
    count: usize,
    rows: Vec<Row>,
}

#[derive(Template)]
#[template(path = "jobs/ended.html")]
struct EndedSection {
    count: usize,
    rows: Vec<Row>,
}

#[cfg(test)]
mod tests;
