//! `ContextService`: the documents that jobs may be given as context.

use async_trait::async_trait;
use homelab_domain::context::{Attached, Citation};
use homelab_proto::controller::v1 as pb;
use homelab_rpc::{
    guard::request_id,
    node::to_proto,
    status::{Failure, Reason, fail},
};
use pb::context_service_server::ContextService;
use tonic::{Code, Request, Response, Status};

use super::status::IntoStatus as _;
use crate::documents::{
    Documents, SourceStanding,
    attach::{AttachError, ContextWish},
};

const SOURCE_NOT_FOUND: Reason = Reason::named("SOURCE_NOT_FOUND");

/// The documents, over gRPC.
#[derive(Clone, Debug)]
pub struct ContextApi {
    documents: Documents,
}

impl ContextApi {
    /// Serves `documents`.
    #[must_use]
    pub const fn new(documents: Documents) -> Self {
        Self { documents }
    }
}

#[async_trait]
impl ContextService for ContextApi {
    async fn list_context_sources(
        &self,
        request: Request<pb::ListContextSourcesRequest>,
    ) -> Result<Response<pb::ListContextSourcesResponse>, Status> {
        let id = request_id(&request).to_owned();
        let sources = self.documents.sources().await.map_err(|error| error.into_status(&id))?;
        let sources = sources.into_iter().map(source).collect();
        Ok(Response::new(pb::ListContextSourcesResponse { sources }))
    }

    async fn search_context(
        &self,
        request: Request<pb::SearchContextRequest>,
    ) -> Result<Response<pb::SearchContextResponse>, Status> {
        let id = request_id(&request).to_owned();
        let pb::SearchContextRequest { text, sources, bytes_max } = request.into_inner();
        let wish = ContextWish { sources, query: None, bytes_max };
        let found = self.documents.search(&text, &wish).await;
        let found = found.map_err(|error| attach_status(error, &id))?;
        let passages = found.passages.into_iter().map(|(citation, one)| pb::FoundPassage {
            citation: Some(self::citation(&citation)),
            text: one.passage.text,
        });
        Ok(Response::new(pb::SearchContextResponse {
            passages: passages.collect(),
            words: found.query.map(|query| query.words().to_vec()).unwrap_or_default(),
        }))
    }

    async fn refresh_context(
        &self,
        request: Request<pb::RefreshContextRequest>,
    ) -> Result<Response<pb::RefreshContextResponse>, Status> {
        match self.documents.want(&request.get_ref().source) {
            Ok(()) => Ok(Response::new(pb::RefreshContextResponse {})),
            Err(error) => Err(fail(Code::NotFound, SOURCE_NOT_FOUND, error.to_string())),
        }
    }
}

/// What a job is to be given, from the wire.
pub(super) fn wish(wish: pb::ContextWish) -> ContextWish {
    let query = Some(wish.query).filter(|query| !query.is_empty());
    ContextWish { sources: wish.sources, query, bytes_max: wish.bytes_max }
}

/// Why a job is given nothing.
pub(super) fn attach_status(error: AttachError, request_id: &str) -> Status {
    let field = match error {
        AttachError::Store(error) => return error.into_status(request_id),
        AttachError::NoSource(_) => "sources",
        AttachError::Bytes => "bytes_max",
        AttachError::NotAChat => "context",
    };
    Failure::invalid(format!("`{field}` is not valid: {error}"))
        .field(field, error.to_string())
        .into()
}

/// Where the passages before a job are from.
pub(super) fn citations(attached: Option<&Attached>) -> Vec<pb::Citation> {
    attached.map(|attached| attached.citations.iter().map(citation).collect()).unwrap_or_default()
}

fn citation(citation: &Citation) -> pb::Citation {
    pb::Citation {
        number: citation.number,
        source: citation.source.to_string(),
        document: citation.document.clone(),
        heading: citation.heading.clone(),
        url: citation.url.clone(),
        version: citation.version.clone(),
        passage_id: citation.passage.clone(),
    }
}

fn source(standing: SourceStanding) -> pb::ContextSource {
    let SourceStanding { name, origin, leaves, state } = standing;
    let (refreshed, looked_at, trouble) =
        state.map_or((None, None, None), |state| (state.refreshed, state.looked_at, state.trouble));
    let shown = pb::ContextSource {
        name: name.to_string(),
        origin,
        leaves: leaves.to_string(),
        looked_at: looked_at.map(to_proto),
        trouble_since: trouble.as_ref().map(|trouble| to_proto(trouble.since)),
        trouble: trouble.map(|trouble| trouble.message).unwrap_or_default(),
        ..Default::default()
    };
    let Some(refreshed) = refreshed else { return shown };
    pb::ContextSource {
        version: refreshed.version,
        refreshed_at: Some(to_proto(refreshed.at)),
        documents: refreshed.documents,
        passages: refreshed.passages,
        withheld: refreshed.withheld,
        skipped: refreshed.skipped,
        notes: refreshed.notes,
        ..shown
    }
}
