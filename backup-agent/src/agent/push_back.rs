//! Git mirrors to a new server.

use std::{sync::Arc, time::Instant};

use super::{Agent, AgentError, Noun, find};
use crate::{
    failure::Failure,
    ids::RunId,
    journal::Work,
    runs::{End, Watched},
    source::{
        Source, SourceError,
        git::{
            GitSource, PushedBack, inspect, push_back,
            remote::{Base, Login, Remote, RepoName},
        },
    },
};

/// What to push, and where.
#[derive(Clone, Debug)]
pub struct PushBackRequest {
    /// The backup.
    pub backup: String,
    /// One repository; empty pushes all.
    pub mirror: String,
    /// The address below which they shall be.
    pub target: String,
}

/// What to push, checked.
struct PlannedPush {
    source: Arc<dyn Source>,
    names: Vec<RepoName>,
    to: Remote,
}

impl Agent {
    /// Looks whether the mirrors could be pushed: the server answers, and has nothing of somebody
    /// else's.
    ///
    /// # Errors
    ///
    /// Why it could not begin.
    pub async fn inspect_push_back(
        &self,
        run: RunId,
        request: &PushBackRequest,
    ) -> Result<(), AgentError> {
        let PlannedPush { source, names, to } = self.plan_push(request)?;
        let Some(git) = source.as_git() else { return Ok(()) };
        let looked = inspect(&git.tools, run, &git.folder, &names, &to).await;
        looked.map_err(|error| AgentError::Source(error.into()))
    }

    /// Begins to push mirrors, as they are now, to a server that has nothing of them; or
    /// joins the run of this identifier.
    ///
    /// # Errors
    ///
    /// Why it did not begin.
    pub async fn push_back(
        &self,
        run: RunId,
        request: PushBackRequest,
    ) -> Result<Watched, AgentError> {
        let name = find(&self.backups, Noun::Backup, &request.backup)?.0.clone();
        let PlannedPush { source, names, to } = self.plan_push(&request)?;
        let work = Work::PushBack { backup: name, mirror: request.mirror, target: request.target };
        let execute = move |_progress, cancel: tokio_util::sync::CancellationToken| async move {
            let began = Instant::now();
            let pushing = push(source.as_ref(), run, &names, &to);
            let pushed = tokio::select! {
                () = cancel.cancelled() => return End::Failed(Failure::cancelled("the push")),
                pushed = pushing => pushed,
            };
            match pushed {
                Ok(pushed) => End::PushBack(pushed, began.elapsed()),
                Err(error) => End::Failed((&error).into()),
            }
        };
        Ok(self.runs.begin(run, work, execute).await?)
    }

    fn plan_push(&self, request: &PushBackRequest) -> Result<PlannedPush, AgentError> {
        let (name, declared) = find(&self.backups, Noun::Backup, &request.backup)?;
        let source = Arc::clone(&declared.backup.source);
        let Some(git) = source.as_git() else {
            return Err(AgentError::NoGit { backup: name.clone() });
        };
        let base: Base = request
            .target
            .parse()
            .map_err(|source| AgentError::BadAddress { address: request.target.clone(), source })?;
        let to = remote(git, base);
        let names: Vec<RepoName> = git
            .repositories
            .iter()
            .filter(|name| request.mirror.is_empty() || name.as_str() == request.mirror)
            .cloned()
            .collect();
        if names.is_empty() {
            let known: Vec<&str> = git.repositories.iter().map(RepoName::as_str).collect();
            let (name, known) = (request.mirror.clone(), known.join(", "));
            return Err(AgentError::Unknown { noun: Noun::Mirror, name, known });
        }
        Ok(PlannedPush { source, names, to })
    }
}

async fn push(
    source: &dyn Source,
    run: RunId,
    names: &[RepoName],
    to: &Remote,
) -> Result<Vec<PushedBack>, SourceError> {
    let Some(git) = source.as_git() else { return Ok(Vec::new()) };
    Ok(push_back(&git.tools, run, &git.folder, names, to).await?)
}

/// A login is only shown to the server that it was given for.
fn remote(git: &GitSource, base: Base) -> Remote {
    let known = git.push_to.iter().chain([&git.remote]);
    let same = known.into_iter().find(|remote| remote.base.is_at_same_origin(&base));
    match same {
        Some(known) => Remote { base, ..known.clone() },
        None => Remote { base, login: Login::None, tls_root: None },
    }
}
