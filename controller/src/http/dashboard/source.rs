//! What the page is made from, read from the parts of the controller.

use std::{error::Error, sync::Arc};

use async_trait::async_trait;
use homelab_common::{clock::Clock, lifecycle::Tasks};
use homelab_domain::{
    job::{Job, JobStateKind},
    site::Site,
};
use homelab_store::{JobFilter, PageRequest};
use tokio::sync::{broadcast::error::RecvError, watch};

use super::{
    board::{Board, Live, Source},
    view::{Observed, RunningJob},
};
use crate::{app::Events, grpc, job::Jobs, overview::Overviews};

/// Jobs in each of the three lists.
const JOBS_MAX: u32 = 8;

/// The controller's own state.
#[derive(Clone, Debug)]
pub struct ControllerSource {
    /// Whether all is well.
    pub overviews: Overviews,
    /// The jobs.
    pub jobs: Jobs,
    /// Name of the site.
    pub site: watch::Receiver<Arc<Site>>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
}

#[async_trait]
impl Source<Observed> for ControllerSource {
    async fn observe(&self) -> Result<Observed, Box<dyn Error + Send + Sync>> {
        let overview = self.overviews.at(self.clock.now()).await?;
        let site = self.site.borrow().name().to_string();
        let health = overview.hosts.iter().filter_map(|host| {
            Some((host.declared.name.to_string(), host.health.as_deref()?.clone()))
        });
        let health = health.collect();
        let (running, ended) = tokio::try_join!(
            self.list(&[JobStateKind::Assigned, JobStateKind::Running]),
            self.list(&[
                JobStateKind::Succeeded,
                JobStateKind::Failed,
                JobStateKind::Cancelled,
                JobStateKind::Expired,
            ]),
        )?;
        // So many of each model come; the first of all are shown.
        let mut pending = self.jobs.parts().store.read().await?.jobs().pending(JOBS_MAX).await?;
        pending.truncate(JOBS_MAX as usize);
        Ok(Observed {
            status: grpc::fleet::convert::overview(overview, &site),
            health,
            pending: pending.iter().map(grpc::job::job).collect(),
            running: running.iter().map(|job| self.running(job)).collect(),
            ended: ended.iter().map(grpc::job::job).collect(),
        })
    }
}

impl ControllerSource {
    async fn list(
        &self,
        states: &[JobStateKind],
    ) -> Result<Vec<Job>, Box<dyn Error + Send + Sync>> {
        let filter = JobFilter { states: states.to_vec() };
        Ok(self.jobs.list(&filter, &PageRequest::first(JOBS_MAX)).await?.items)
    }

    fn running(&self, job: &Job) -> RunningJob {
        let glimpse =
            self.jobs.lives().get(job.id()).map(|live| live.glimpse()).unwrap_or_default();
        // The text of a job that leaves no text behind is for nobody but who asked.
        let is_shown = job.spec().record == homelab_domain::job::Record::Full;
        RunningJob {
            job: grpc::job::job(job),
            pieces: glimpse.pieces,
            tail: if is_shown { glimpse.tail } else { String::new() },
        }
    }
}

/// Nudges the board with every change that is told.
pub fn follow<P: Live>(board: &Arc<Board<P>>, events: &Events, tasks: &Tasks) {
    let (board, mut changes, stopping) = (Arc::clone(board), events.follow(), tasks.stopping());
    tasks.spawn(async move {
        loop {
            let change = tokio::select! {
                change = changes.recv() => change,
                () = stopping.cancelled() => return,
            };
            match change {
                Ok(_) | Err(RecvError::Lagged(_)) => board.nudge(),
                Err(RecvError::Closed) => return,
            }
        }
    });
}
