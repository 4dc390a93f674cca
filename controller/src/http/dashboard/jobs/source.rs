//! What the pages of jobs are made from, read from the queue.

use std::{error::Error, fmt};

use async_trait::async_trait;
use homelab_domain::{
    ids::JobId,
    job::{Job, JobState, JobStateKind, Record},
};
use homelab_store::{JobFilter, PageRequest};
use jiff::Timestamp;

use super::{JobsObserved, WaitingJob, WritingJob, one::OneJob};
use crate::{
    grpc,
    http::dashboard::{board::Source, view::RunningJob},
    job::Jobs,
};

/// Jobs in each of the lists.
pub(super) const JOBS_MAX: u32 = 40;

/// Where the page of one job comes from.
#[async_trait]
pub trait OneJobSource: fmt::Debug + Send + Sync {
    /// Reads what is told of one job; none when there is no such job.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn observe_job(&self, id: &str) -> Result<Option<OneJob>, Box<dyn Error + Send + Sync>>;
}

/// The controller's own queue. Clones are the same.
#[derive(Clone, Debug)]
pub struct JobsSource {
    jobs: Jobs,
}

impl JobsSource {
    /// Reads from `jobs`.
    #[must_use]
    pub fn new(jobs: Jobs) -> Self {
        Self { jobs }
    }

    async fn list(
        &self,
        states: &[JobStateKind],
    ) -> Result<Vec<Job>, Box<dyn Error + Send + Sync>> {
        let filter = JobFilter { states: states.to_vec() };
        Ok(self.jobs.list(&filter, &PageRequest::first(JOBS_MAX)).await?.items)
    }

    fn site(&self) -> String {
        self.jobs.site().name().to_string()
    }

    fn waiting(&self, job: &Job) -> WaitingJob {
        let explained = self.jobs.explain_from_memory(job);
        let place = self.jobs.plan().standing(job.id()).and(explained.position);
        WaitingJob { job: grpc::job::job(job), place, expected_wait: explained.expected_wait }
    }

    fn running(&self, job: &Job, now: Timestamp) -> WritingJob {
        let live = self.jobs.lives().get(job.id());
        let glimpse = live.map(|live| live.glimpse()).unwrap_or_default();
        let rate = match job.state() {
            JobState::Running { started_at, .. } if glimpse.pieces > 0 => {
                let secs = now.duration_since(*started_at).as_secs_f64();
                (secs >= 1.0).then(|| f64::from(glimpse.pieces) / secs)
            }
            _ => None,
        };
        // The text of a job that leaves no text behind is for nobody but who asked.
        let is_shown = job.spec().record == Record::Full;
        let tail = if is_shown { glimpse.tail } else { String::new() };
        let running = RunningJob { job: grpc::job::job(job), pieces: glimpse.pieces, tail };
        WritingJob { running, rate, is_shown }
    }
}

#[async_trait]
impl Source<JobsObserved> for JobsSource {
    async fn observe(&self) -> Result<JobsObserved, Box<dyn Error + Send + Sync>> {
        let (queues, running, ended) = tokio::try_join!(
            async { Ok::<_, Box<dyn Error + Send + Sync>>(self.jobs.forecast().await?) },
            self.list(&[JobStateKind::Assigned, JobStateKind::Running]),
            self.list(&[
                JobStateKind::Succeeded,
                JobStateKind::Failed,
                JobStateKind::Cancelled,
                JobStateKind::Expired,
            ]),
        )?;
        let mut waiting = self.jobs.parts().store.read().await?.jobs().pending(JOBS_MAX).await?;
        let waiting_count = queues.iter().map(|queue| queue.queued.jobs()).sum::<u64>();
        waiting.truncate(JOBS_MAX as usize);
        let now = self.jobs.parts().clock.now();
        Ok(JobsObserved {
            site: self.site(),
            queues: queues.into_iter().map(grpc::job::convert::queue_plan).collect(),
            waiting_count: usize::try_from(waiting_count).unwrap_or(usize::MAX),
            waiting: waiting.iter().map(|job| self.waiting(job)).collect(),
            running: running.iter().map(|job| self.running(job, now)).collect(),
            ended: ended.iter().map(grpc::job::job).collect(),
        })
    }
}

#[async_trait]
impl OneJobSource for JobsSource {
    async fn observe_job(&self, id: &str) -> Result<Option<OneJob>, Box<dyn Error + Send + Sync>> {
        let Ok(id) = id.parse::<JobId>() else { return Ok(None) };
        let Some((job, events)) = self.jobs.get(id).await? else { return Ok(None) };
        let is_over = job.state().kind().is_final();
        let explanation = match is_over {
            true => None,
            false => Some(grpc::job::convert::explanation(self.jobs.explain(&job).await?)),
        };
        let is_shown = job.spec().record == Record::Full;
        let read = self.jobs.energy_of(id).await?;
        let mut shown = grpc::job::convert::with_energy(grpc::job::job(&job), read);
        if is_shown && job.attempts().given > 0 {
            shown.answer = self.jobs.answer(id).await?;
        }
        let writing = job.state().kind().is_owned();
        let now = self.jobs.parts().clock.now();
        Ok(Some(OneJob {
            site: self.site(),
            job: shown,
            events: events.iter().map(grpc::job::convert::event).collect(),
            explanation,
            writing: writing.then(|| self.running(&job, now)),
            is_shown,
            is_over,
        }))
    }
}
