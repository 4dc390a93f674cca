//! Runbooks that were proposed.

use async_trait::async_trait;
use homelab_domain::{
    ids::RunbookId,
    runbook::{Decision, Runbook, RunbookState, RunbookVerdict, decide},
};

use super::{
    Conn,
    args::{at, blob, int, maybe_at, maybe_text, text},
    both, each,
    row::Row,
};
use crate::{
    error::StoreError,
    noun::runbooks::{Decided, Runbooks},
};

/// Sorts behind every identifier.
const BEHIND_ALL: &str = "~";

pub(super) struct InRunbooks<'c>(pub(super) &'c mut Conn);

#[async_trait]
impl Runbooks for InRunbooks<'_> {
    async fn propose(&mut self, runbook: &Runbook) -> Result<Runbook, StoreError> {
        let sql = both(
            "INSERT INTO runbooks (id, text, digest, proposed_by, proposed_at, from_job)
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO NOTHING",
        );
        let args = [
            text(runbook.id),
            text(&runbook.text),
            blob(&runbook.digest),
            text(&runbook.proposed_by),
            at(runbook.proposed_at),
            maybe_text(runbook.from_job),
        ];
        self.0.run("keep a runbook", sql, &args).await?;
        let kept = self.get(runbook.id).await?;
        kept.ok_or_else(|| StoreError::Conflict { what: "a runbook".to_owned() })
    }

    async fn get(&mut self, id: RunbookId) -> Result<Option<Runbook>, StoreError> {
        let sql = both("SELECT * FROM runbooks WHERE id = $1");
        let row = self.0.row("read a runbook", sql, &[text(id)]).await?;
        row.as_ref().map(runbook_of).transpose()
    }

    async fn list(
        &mut self,
        state: Option<RunbookState>,
        before: Option<RunbookId>,
        limit: u32,
    ) -> Result<Vec<Runbook>, StoreError> {
        let sql = both(
            "SELECT * FROM runbooks
             WHERE ($1 = 'all' OR COALESCE(verdict, 'none') = $1) AND id < $2
             ORDER BY id DESC LIMIT $3",
        );
        let verdict = match state {
            None => "all",
            Some(RunbookState::Proposed) => "none",
            Some(RunbookState::Approved) => RunbookVerdict::Approve.as_str(),
            Some(RunbookState::Rejected) => RunbookVerdict::Reject.as_str(),
        };
        let before = before.map_or_else(|| BEHIND_ALL.to_owned(), |id| id.to_string());
        let args = [text(verdict), text(before), int(limit)];
        let rows = self.0.rows("list runbooks", sql, &args).await?;
        rows.iter().map(runbook_of).collect()
    }

    async fn decide(
        &mut self,
        id: RunbookId,
        digest: [u8; 32],
        decision: Decision,
    ) -> Result<Decided, StoreError> {
        let sql = each(
            "SELECT * FROM runbooks WHERE id = $1",
            "SELECT * FROM runbooks WHERE id = $1 FOR UPDATE",
        );
        let Some(row) = self.0.row("read a runbook", sql, &[text(id)]).await? else {
            return Ok(Decided::NotFound);
        };
        let runbook = match decide(runbook_of(&row)?, digest, decision) {
            Ok(runbook) => runbook,
            Err(why) => return Ok(Decided::Refused(why)),
        };
        let sql = both(
            "UPDATE runbooks SET verdict = $2, decided_by = $3, decided_at = $4,
               decision_reason = $5
             WHERE id = $1",
        );
        let decision = runbook.decision.as_ref();
        let args = [
            text(id),
            maybe_text(decision.map(|decision| decision.verdict)),
            maybe_text(decision.map(|decision| &decision.by)),
            maybe_at(decision.map(|decision| decision.at)),
            maybe_text(decision.map(|decision| &decision.reason)),
        ];
        self.0.run("keep what was decided about a runbook", sql, &args).await?;
        Ok(Decided::Stands(Box::new(runbook)))
    }
}

fn runbook_of(row: &Row) -> Result<Runbook, StoreError> {
    let fields = row.of("runbooks", "id");
    let decision = match fields.maybe_word("verdict", RunbookVerdict::from_word)? {
        None => None,
        Some(verdict) => Some(Decision {
            verdict,
            by: fields.text("decided_by")?,
            at: fields.at("decided_at")?,
            reason: fields.text("decision_reason")?,
        }),
    };
    Ok(Runbook {
        id: fields.parsed("id")?,
        text: fields.parsed("text")?,
        digest: fields.digest("digest")?,
        proposed_by: fields.text("proposed_by")?,
        proposed_at: fields.at("proposed_at")?,
        from_job: fields.maybe_parsed("from_job")?,
        decision,
    })
}
