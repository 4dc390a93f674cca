//! `SiteService`: the site file and the background tasks over the wire.

use async_trait::async_trait;
use homelab_common::config::Report;
use homelab_proto::controller::v1::{
    ApplySiteRequest, ApplySiteResponse, BackgroundTask, CheckSiteRequest, CheckSiteResponse,
    DiffSiteRequest, DiffSiteResponse, GetSiteRequest, GetSiteResponse, ListTasksRequest,
    ListTasksResponse, RenderDocumentRequest, RenderDocumentResponse, SiteProblem,
    site_service_server::SiteService,
};
use homelab_rpc::{node::to_proto, not_built, status::internal};
use tonic::{Request, Response, Status};

use super::{unbuilt::NOT_BUILT, wire};
use crate::{app::Context, site::SiteFile, task::TaskStatus};

/// Answers for the site file.
#[derive(Clone, Debug)]
pub struct SiteApi {
    context: Context,
}

impl SiteApi {
    /// Answers from `context`.
    #[must_use]
    pub const fn new(context: Context) -> Self {
        Self { context }
    }
}

#[async_trait]
impl SiteService for SiteApi {
    async fn get_site(
        &self,
        _request: Request<GetSiteRequest>,
    ) -> Result<Response<GetSiteResponse>, Status> {
        let file = self.context.site_file.file();
        Ok(Response::new(GetSiteResponse {
            name: file.site.name().to_string(),
            source: file.source.clone(),
            digest: file.digest.clone(),
            applied_at: Some(to_proto(file.applied_at)),
            content: file.content.clone(),
        }))
    }

    async fn check_site(
        &self,
        request: Request<CheckSiteRequest>,
    ) -> Result<Response<CheckSiteResponse>, Status> {
        let content = &request.get_ref().content;
        let checked = SiteFile::parse("homelab.toml", content, self.context.now());
        let problems = checked.err().map(problems).unwrap_or_default();
        Ok(Response::new(CheckSiteResponse { problems }))
    }

    async fn diff_site(
        &self,
        _request: Request<DiffSiteRequest>,
    ) -> Result<Response<DiffSiteResponse>, Status> {
        Err(unbuilt("/homelab.controller.v1.SiteService/DiffSite"))
    }

    async fn apply_site(
        &self,
        _request: Request<ApplySiteRequest>,
    ) -> Result<Response<ApplySiteResponse>, Status> {
        Err(unbuilt("/homelab.controller.v1.SiteService/ApplySite"))
    }

    async fn render_document(
        &self,
        _request: Request<RenderDocumentRequest>,
    ) -> Result<Response<RenderDocumentResponse>, Status> {
        Err(unbuilt("/homelab.controller.v1.SiteService/RenderDocument"))
    }

    async fn list_tasks(
        &self,
        _request: Request<ListTasksRequest>,
    ) -> Result<Response<ListTasksResponse>, Status> {
        let tasks = self.context.driver.list().into_iter().map(task).collect();
        Ok(Response::new(ListTasksResponse { tasks }))
    }
}

/// The guard answers these before they come here; this is for whoever calls the service directly.
fn unbuilt(path: &str) -> Status {
    not_built::find(NOT_BUILT, path)
        .map_or_else(|| internal(&Unlisted, ""), not_built::NotBuilt::status)
}

/// A method that is not built and not in the list either.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("a method is missing in the list of what is not built yet")]
struct Unlisted;

fn problems(report: Report) -> Vec<SiteProblem> {
    let problem = |problem: &homelab_common::config::Problem| {
        let seen = problem.seen.as_ref().map(|seen| format!("{seen}: ")).unwrap_or_default();
        SiteProblem {
            line: problem.line.and_then(|line| u32::try_from(line).ok()).unwrap_or(0),
            key: problem.key.clone(),
            message: format!("{seen}{}", problem.allowed),
        }
    };
    report.problems().iter().map(problem).collect()
}

fn task(status: TaskStatus) -> BackgroundTask {
    let last = status.last;
    BackgroundTask {
        name: status.name.to_owned(),
        description: status.description.to_owned(),
        period: Some(wire::duration(status.period)),
        last_started_at: last.as_ref().map(|last| to_proto(last.started_at)),
        last_elapsed: last.as_ref().map(|last| wire::duration(last.elapsed)),
        last_failed: last.as_ref().is_some_and(|last| last.result.is_err()),
        last_result: match last.map(|last| last.result) {
            None => "running for the first time".to_owned(),
            Some(Ok(done)) => done.to_string(),
            Some(Err(error)) => error,
        },
        runs: status.runs,
    }
}
