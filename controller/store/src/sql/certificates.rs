//! Certificates and the deny list.

use async_trait::async_trait;
use homelab_domain::identity::PeerKind;
use jiff::Timestamp;

use super::{
    Conn,
    args::{at, int, maybe_text, text},
    both,
    row::Row,
};
use crate::{
    error::StoreError,
    noun::certificates::{Certificate, Certificates, DenyList, NewCertificate, Revocation, Revoke},
    page::{Cursor, Page, PageRequest},
};

pub(super) struct InCertificates<'c>(pub(super) &'c mut Conn);

#[async_trait]
impl Certificates for InCertificates<'_> {
    async fn insert(&mut self, certificate: &NewCertificate) -> Result<(), StoreError> {
        let sql = both(
            "INSERT INTO certificates (serial_hex, identity, kind, name, not_before, not_after,
               chain_pem, issued_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        );
        let args = [
            text(&certificate.serial_hex),
            text(&certificate.identity),
            text(certificate.kind),
            text(&certificate.name),
            at(certificate.not_before),
            at(certificate.not_after),
            text(&certificate.chain_pem),
            at(certificate.issued_at),
        ];
        self.0.run("keep a certificate", sql, &args).await.map(drop)
    }

    async fn get(&mut self, serial_hex: &str) -> Result<Option<Certificate>, StoreError> {
        let sql = both("SELECT * FROM certificates WHERE serial_hex = $1");
        let row = self.0.row("read a certificate", sql, &[text(serial_hex)]).await?;
        row.as_ref().map(certificate_of).transpose()
    }

    async fn list(
        &mut self,
        name: Option<&str>,
        page: &PageRequest,
    ) -> Result<Page<Certificate>, StoreError> {
        let sql = both(
            "SELECT * FROM certificates WHERE ($1 IS NULL OR name = $1)
             AND (issued_at, serial_hex) < ($2, $3)
             ORDER BY issued_at DESC, serial_hex DESC LIMIT $4",
        );
        let (key, id) = page.below();
        let args = [maybe_text(name), int(key), text(id), int(i64::from(page.limit()) + 1)];
        let rows = self.0.rows("list certificates", sql, &args).await?;
        let all = rows.iter().map(certificate_of).collect::<Result<Vec<_>, _>>()?;
        Ok(Page::cut(all, page, |one| Cursor {
            key: one.certificate.issued_at.as_microsecond(),
            id: one.certificate.serial_hex.clone(),
        }))
    }

    async fn revoke(
        &mut self,
        which: Revoke<'_>,
        revocation: &Revocation,
    ) -> Result<Vec<Certificate>, StoreError> {
        let epoch = both("UPDATE deny_list SET epoch = epoch + 1 WHERE id = 1");
        let (sql, subject) = match which {
            Revoke::Serial(serial) => (
                both(
                    "UPDATE certificates SET revoked_at = $2, revocation_reason = $3
                     WHERE serial_hex = $1 AND revoked_at IS NULL AND not_after > $2 RETURNING *",
                ),
                serial,
            ),
            Revoke::Identity(identity) => (
                both(
                    "UPDATE certificates SET revoked_at = $2, revocation_reason = $3
                     WHERE identity = $1 AND revoked_at IS NULL AND not_after > $2 RETURNING *",
                ),
                identity,
            ),
            Revoke::Host(host) => (
                both(
                    "UPDATE certificates SET revoked_at = $2, revocation_reason = $3
                     WHERE name = $1 AND kind IN ('agent', 'backup-agent', 'gpu-worker')
                     AND revoked_at IS NULL AND not_after > $2 RETURNING *",
                ),
                host,
            ),
        };
        let args = [text(subject), at(revocation.at), text(&revocation.reason)];
        let rows = self.0.rows("revoke certificates", sql, &args).await?;
        if !rows.is_empty() {
            self.0.run("raise the epoch of the deny list", epoch, &[]).await?;
        }
        rows.iter().map(certificate_of).collect()
    }

    async fn deny_list(&mut self, now: Timestamp) -> Result<DenyList, StoreError> {
        let sql = both("SELECT id, epoch FROM deny_list WHERE id = 1");
        let row = self.0.row("read the epoch of the deny list", sql, &[]).await?;
        let epoch = row.map_or(Ok(0), |row| row.of("deny_list", "id").u64("epoch"))?;
        let sql = both(
            "SELECT * FROM certificates WHERE revoked_at IS NOT NULL AND not_after > $1
             ORDER BY serial_hex",
        );
        let rows = self.0.rows("read the deny list", sql, &[at(now)]).await?;
        let entries = rows.iter().map(certificate_of).collect::<Result<_, _>>()?;
        Ok(DenyList { epoch, entries })
    }

    async fn prune(&mut self, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        self.0.prune_certificates(before, limit).await
    }
}

fn certificate_of(row: &Row) -> Result<Certificate, StoreError> {
    let fields = row.of("certificates", "serial_hex");
    let certificate = NewCertificate {
        serial_hex: fields.text("serial_hex")?,
        identity: fields.text("identity")?,
        kind: fields.word("kind", PeerKind::from_word)?,
        name: fields.text("name")?,
        not_before: fields.at("not_before")?,
        not_after: fields.at("not_after")?,
        chain_pem: fields.text("chain_pem")?,
        issued_at: fields.at("issued_at")?,
    };
    let revocation = match fields.maybe_at("revoked_at")? {
        None => None,
        Some(at) => Some(Revocation { at, reason: fields.text("revocation_reason")? }),
    };
    Ok(Certificate { certificate, revocation })
}
