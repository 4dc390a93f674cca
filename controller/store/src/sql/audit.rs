//! The audit log.

use async_trait::async_trait;

use super::{
    Conn,
    args::{at, big, blob, int, maybe_text, text},
    both, each,
    row::Row,
};
use crate::{
    error::StoreError,
    noun::audit::{Audit, AuditEntry, AuditOutcome, NewAuditEntry},
    page::{Cursor, Page, PageRequest},
};

pub(super) struct InAudit<'c>(pub(super) &'c mut Conn);

#[async_trait]
impl Audit for InAudit<'_> {
    async fn append(&mut self, entry: &NewAuditEntry) -> Result<AuditEntry, StoreError> {
        // The head is the one row on which all that append queue.
        let head = each(
            "SELECT id, sequence, hash FROM audit_head WHERE id = 1",
            "SELECT id, sequence, hash FROM audit_head WHERE id = 1 FOR UPDATE",
        );
        let row = self.0.row("lock the audit log", head, &[]).await?;
        let (last, previous) = row.as_ref().map_or(Ok((0, [0; 32])), head_of)?;
        let sequence = last + 1;
        let hash = AuditEntry::expected_hash(&previous, sequence, entry);
        let sql = both(
            "INSERT INTO audit (sequence, at, actor, action, subject, outcome, detail, hash)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        );
        let args = [
            big(sequence),
            at(entry.at),
            text(&entry.actor),
            text(&entry.action),
            text(&entry.subject),
            text(entry.outcome),
            text(&entry.detail),
            blob(&hash),
        ];
        self.0.run("append to the audit log", sql, &args).await?;
        let sql = both("UPDATE audit_head SET sequence = $1, hash = $2 WHERE id = 1");
        self.0.run("move the head of the audit log", sql, &[big(sequence), blob(&hash)]).await?;
        Ok(AuditEntry { sequence, entry: entry.clone(), hash })
    }

    async fn list(
        &mut self,
        actor: Option<&str>,
        page: &PageRequest,
    ) -> Result<Page<AuditEntry>, StoreError> {
        let sql = both(
            "SELECT * FROM audit WHERE ($1 IS NULL OR actor = $1) AND sequence < $2
             ORDER BY sequence DESC LIMIT $3",
        );
        let (below, _) = page.below();
        let args = [maybe_text(actor), int(below), int(i64::from(page.limit()) + 1)];
        let rows = self.0.rows("list the audit log", sql, &args).await?;
        let entries = rows.iter().map(entry_of).collect::<Result<Vec<_>, _>>()?;
        Ok(Page::cut(entries, page, |entry| Cursor {
            key: i64::try_from(entry.sequence).unwrap_or(i64::MAX),
            id: String::new(),
        }))
    }

    async fn after(&mut self, sequence: u64, limit: u32) -> Result<Vec<AuditEntry>, StoreError> {
        let sql = both("SELECT * FROM audit WHERE sequence > $1 ORDER BY sequence LIMIT $2");
        let rows = self.0.rows("walk the audit log", sql, &[big(sequence), int(limit)]).await?;
        rows.iter().map(entry_of).collect()
    }

    async fn head(&mut self) -> Result<Option<(u64, [u8; 32])>, StoreError> {
        let sql = both("SELECT id, sequence, hash FROM audit_head WHERE id = 1");
        let row = self.0.row("read the head of the audit log", sql, &[]).await?;
        let head = row.as_ref().map(head_of).transpose()?;
        Ok(head.filter(|(sequence, _)| *sequence > 0))
    }
}

fn head_of(row: &Row) -> Result<(u64, [u8; 32]), StoreError> {
    let fields = row.of("audit_head", "id");
    Ok((fields.u64("sequence")?, fields.digest("hash")?))
}

fn entry_of(row: &Row) -> Result<AuditEntry, StoreError> {
    let fields = row.of("audit", "sequence");
    let entry = NewAuditEntry {
        at: fields.at("at")?,
        actor: fields.text("actor")?,
        action: fields.text("action")?,
        subject: fields.text("subject")?,
        outcome: fields.word("outcome", AuditOutcome::from_word)?,
        detail: fields.text("detail")?,
    };
    Ok(AuditEntry { sequence: fields.u64("sequence")?, entry, hash: fields.digest("hash")? })
}
