//! `AuditService`: the audit log over the wire.

use std::sync::Arc;

use async_trait::async_trait;
use homelab_proto::controller::v1::{
    AuditEntry, AuditOutcome, ListAuditEntriesRequest, ListAuditEntriesResponse,
    VerifyAuditRequest, VerifyAuditResponse, audit_service_server::AuditService,
};
use homelab_rpc::{guard::request_id, node::to_proto};
use homelab_store::{PageRequest, Store};
use tonic::{Request, Response, Status};

use super::status::IntoStatus;
use crate::{audit, ca::issue::hex};

/// Answers for the audit log.
#[derive(Clone, Debug)]
pub struct AuditApi {
    store: Arc<dyn Store>,
}

impl AuditApi {
    /// Answers from `store`.
    #[must_use]
    pub const fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }
}

#[async_trait]
impl AuditService for AuditApi {
    async fn list_audit_entries(
        &self,
        request: Request<ListAuditEntriesRequest>,
    ) -> Result<Response<ListAuditEntriesResponse>, Status> {
        let id = request_id(&request).to_owned();
        let asked = request.into_inner();
        let page = PageRequest::try_new(asked.page_size, &asked.page_token)
            .map_err(|error| error.into_status(&id))?;
        let actor = Some(asked.actor.as_str()).filter(|actor| !actor.is_empty());
        let page = audit::list(self.store.as_ref(), actor, &page).await;
        let page = page.map_err(|error| error.into_status(&id))?;
        Ok(Response::new(ListAuditEntriesResponse {
            next_page_token: page.next_token(),
            entries: page.items.into_iter().map(entry).collect(),
        }))
    }

    async fn verify_audit(
        &self,
        request: Request<VerifyAuditRequest>,
    ) -> Result<Response<VerifyAuditResponse>, Status> {
        let verified = audit::verify(self.store.as_ref()).await;
        let verified = verified.map_err(|error| error.into_status(request_id(&request)))?;
        Ok(Response::new(VerifyAuditResponse {
            intact: verified.fault.is_none(),
            entries: verified.entries,
            broken_at: verified.fault.map_or(0, |fault| fault.sequence),
            head_hash: hex(&verified.head_hash),
        }))
    }
}

fn entry(row: homelab_store::AuditEntry) -> AuditEntry {
    let outcome = match row.entry.outcome {
        homelab_store::AuditOutcome::Allowed => AuditOutcome::Allowed,
        homelab_store::AuditOutcome::Denied => AuditOutcome::Denied,
        homelab_store::AuditOutcome::Failed => AuditOutcome::Failed,
    };
    AuditEntry {
        sequence: row.sequence,
        at: Some(to_proto(row.entry.at)),
        actor: row.entry.actor,
        action: row.entry.action,
        subject: row.entry.subject,
        outcome: outcome.into(),
        detail: row.entry.detail,
        hash: hex(&row.hash),
    }
}
