//! Browsers that are logged in.

use async_trait::async_trait;
use homelab_domain::{
    identity::Role,
    ids::{SessionId, UserName},
};
use jiff::Timestamp;

use super::{
    Arg, Conn,
    args::{at, blob, span, text},
    both,
};
use crate::{
    error::StoreError,
    noun::sessions::{LoginLink, Session, Sessions},
};

pub(super) struct InSessions<'c>(pub(super) &'c mut Conn);

#[async_trait]
impl Sessions for InSessions<'_> {
    async fn create_link(&mut self, link: &LoginLink) -> Result<(), StoreError> {
        let sql = both(
            "INSERT INTO login_links (digest, person, role, approver, expires_at)
             VALUES ($1, $2, $3, $4, $5)",
        );
        let args = [
            blob(&link.digest),
            text(&link.user),
            text(link.role),
            Arg::Bool(link.approver),
            at(link.expires_at),
        ];
        self.0.run("keep a login link", sql, &args).await.map(drop)
    }

    async fn redeem_link(
        &mut self,
        digest: &[u8; 32],
        now: Timestamp,
    ) -> Result<Option<LoginLink>, StoreError> {
        let sql = both("DELETE FROM login_links WHERE digest = $1 RETURNING *");
        let Some(row) = self.0.row("redeem a login link", sql, &[blob(digest)]).await? else {
            return Ok(None);
        };
        let fields = row.of("login_links", "person");
        let link = LoginLink {
            digest: fields.digest("digest")?,
            user: fields.parsed("person")?,
            role: fields.word("role", Role::from_word)?,
            approver: fields.bool("approver")?,
            expires_at: fields.at("expires_at")?,
        };
        Ok(Some(link).filter(|link| link.expires_at > now))
    }

    async fn create(&mut self, session: &Session) -> Result<(), StoreError> {
        let sql = both(
            "INSERT INTO sessions (id, digest, person, role, approver, created_at, last_used_at,
               expires_at, idle) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        );
        let args = [
            text(session.id),
            blob(&session.digest),
            text(&session.user),
            text(session.role),
            Arg::Bool(session.approver),
            at(session.created_at),
            at(session.last_used_at),
            at(session.expires_at),
            span(session.idle),
        ];
        self.0.run("keep a session", sql, &args).await.map(drop)
    }

    async fn find(
        &mut self,
        digest: &[u8; 32],
        now: Timestamp,
    ) -> Result<Option<Session>, StoreError> {
        let sql = both(
            "SELECT * FROM sessions
             WHERE digest = $1 AND expires_at > $2 AND last_used_at + idle > $2",
        );
        let args = [blob(digest), at(now)];
        let Some(row) = self.0.row("find a session", sql, &args).await? else { return Ok(None) };
        let fields = row.of("sessions", "id");
        Ok(Some(Session {
            id: fields.parsed("id")?,
            digest: fields.digest("digest")?,
            user: fields.parsed("person")?,
            role: fields.word("role", Role::from_word)?,
            approver: fields.bool("approver")?,
            created_at: fields.at("created_at")?,
            last_used_at: fields.at("last_used_at")?,
            expires_at: fields.at("expires_at")?,
            idle: fields.span("idle")?,
        }))
    }

    async fn touch(&mut self, id: SessionId, now: Timestamp) -> Result<(), StoreError> {
        let sql = both("UPDATE sessions SET last_used_at = $2 WHERE id = $1 AND last_used_at < $2");
        self.0.run("keep a session alive", sql, &[text(id), at(now)]).await.map(drop)
    }

    async fn end(&mut self, id: SessionId) -> Result<bool, StoreError> {
        let sql = both("DELETE FROM sessions WHERE id = $1");
        Ok(self.0.run("end a session", sql, &[text(id)]).await? == 1)
    }

    async fn end_all(&mut self, user: &UserName) -> Result<u64, StoreError> {
        let sql = both("DELETE FROM login_links WHERE person = $1");
        self.0.run("drop login links", sql, &[text(user)]).await?;
        let sql = both("DELETE FROM sessions WHERE person = $1");
        self.0.run("end sessions", sql, &[text(user)]).await
    }

    async fn sweep(&mut self, now: Timestamp) -> Result<(), StoreError> {
        let sql = both("DELETE FROM login_links WHERE expires_at <= $1");
        self.0.run("drop old login links", sql, &[at(now)]).await?;
        let sql = both("DELETE FROM sessions WHERE expires_at <= $1 OR last_used_at + idle <= $1");
        self.0.run("drop old sessions", sql, &[at(now)]).await.map(drop)
    }
}
