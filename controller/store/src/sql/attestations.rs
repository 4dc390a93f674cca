//! Signed statements.

use async_trait::async_trait;
use homelab_domain::{evidence::StatementKind, ids::BackupName};

use super::{
    Conn,
    args::{at, big, blob, int, maybe_text, text},
    both,
    row::Row,
};
use crate::{
    error::StoreError,
    noun::attestations::{Attestation, Attestations},
    page::{Cursor, Page, PageRequest},
};

pub(super) struct InAttestations<'c>(pub(super) &'c mut Conn);

#[async_trait]
impl Attestations for InAttestations<'_> {
    async fn append(&mut self, one: &Attestation) -> Result<(), StoreError> {
        let sql = both(
            "INSERT INTO attestations
               (sequence, at, kind, backup, statement, digest, signature, key_id)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        );
        let args = [
            big(one.sequence),
            at(one.at),
            text(one.kind),
            maybe_text(one.backup.as_ref()),
            text(&one.statement),
            blob(&one.digest),
            blob(&one.signature),
            text(&one.key_id),
        ];
        self.0.run("keep a signed statement", sql, &args).await?;
        Ok(())
    }

    async fn head(&mut self) -> Result<Option<Attestation>, StoreError> {
        let sql = both("SELECT * FROM attestations ORDER BY sequence DESC LIMIT 1");
        let row = self.0.row("read the newest signed statement", sql, &[]).await?;
        row.as_ref().map(attestation_of).transpose()
    }

    async fn after(&mut self, sequence: u64, limit: u32) -> Result<Vec<Attestation>, StoreError> {
        let sql = both("SELECT * FROM attestations WHERE sequence > $1 ORDER BY sequence LIMIT $2");
        let args = [big(sequence), int(limit)];
        let rows = self.0.rows("walk the signed statements", sql, &args).await?;
        rows.iter().map(attestation_of).collect()
    }

    async fn list(
        &mut self,
        kind: StatementKind,
        backup: Option<&BackupName>,
        page: &PageRequest,
    ) -> Result<Page<Attestation>, StoreError> {
        let sql = both(
            "SELECT * FROM attestations WHERE kind = $1 AND ($2 IS NULL OR backup = $2)
             AND sequence < $3 ORDER BY sequence DESC LIMIT $4",
        );
        let (below, _) = page.below();
        let args = [text(kind), maybe_text(backup), int(below), int(i64::from(page.limit()) + 1)];
        let rows = self.0.rows("list signed statements", sql, &args).await?;
        let all = rows.iter().map(attestation_of).collect::<Result<Vec<_>, _>>()?;
        Ok(Page::cut(all, page, |one| Cursor {
            key: i64::try_from(one.sequence).unwrap_or(i64::MAX),
            id: String::new(),
        }))
    }
}

fn attestation_of(row: &Row) -> Result<Attestation, StoreError> {
    let fields = row.of("attestations", "sequence");
    Ok(Attestation {
        sequence: fields.u64("sequence")?,
        at: fields.at("at")?,
        kind: fields.word("kind", StatementKind::from_word)?,
        backup: fields.maybe_parsed("backup")?,
        statement: fields.text("statement")?,
        digest: fields.digest("digest")?,
        signature: fields.blob("signature")?,
        key_id: fields.text("key_id")?,
    })
}
