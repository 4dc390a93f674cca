//! Enrolment tokens.

use std::collections::HashMap;

use async_trait::async_trait;
use homelab_domain::{
    identity::{PeerKind, Role},
    ids::TokenId,
};
use jiff::Timestamp;

use super::{
    Arg, Conn,
    args::{at, blob, int, maybe_text, text, texts},
    both, each,
    row::Row,
};
use crate::{
    error::StoreError,
    noun::tokens::{NewToken, Token, TokenUse, Tokens},
    page::{Cursor, Page, PageRequest},
};

pub(super) struct InTokens<'c>(pub(super) &'c mut Conn);

#[async_trait]
impl Tokens for InTokens<'_> {
    async fn create(&mut self, token: &NewToken) -> Result<(), StoreError> {
        let sql = both(
            "INSERT INTO tokens (id, name, kinds, role, approver, sealed_secret, expires_at,
               created_by, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        );
        let kinds: Vec<&str> = token.kinds.iter().map(|kind| kind.as_str()).collect();
        let args = [
            text(token.id),
            text(&token.name),
            text(kinds.join(" ")),
            maybe_text(token.role),
            Arg::Bool(token.approver),
            blob(&token.sealed_secret),
            at(token.expires_at),
            text(&token.created_by),
            at(token.created_at),
        ];
        self.0.run("keep a token", sql, &args).await.map(drop)
    }

    async fn get(&mut self, id: TokenId) -> Result<Option<Token>, StoreError> {
        let sql = both("SELECT * FROM tokens WHERE id = $1");
        let rows = self.0.rows("read a token", sql, &[text(id)]).await?;
        Ok(self.with_uses(&rows).await?.pop())
    }

    async fn mark_used(
        &mut self,
        id: TokenId,
        token_use: &TokenUse,
    ) -> Result<Option<TokenUse>, StoreError> {
        // Of two at once, the second waits here until the first has committed.
        let sql = both(
            "INSERT INTO token_uses (token_id, kind, key_digest, used_at, serial_hex)
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (token_id, kind) DO NOTHING",
        );
        let args = [
            text(id),
            text(token_use.kind),
            blob(&token_use.key_digest),
            at(token_use.used_at),
            text(&token_use.serial_hex),
        ];
        if self.0.run("mark a token as used", sql, &args).await? == 1 {
            return Ok(None);
        }
        let sql = both("SELECT * FROM token_uses WHERE token_id = $1 AND kind = $2");
        let args = [text(id), text(token_use.kind)];
        let row = self.0.row("read the use of a token", sql, &args).await?;
        row.as_ref().map(use_of).transpose()
    }

    async fn revoke(&mut self, id: TokenId, now: Timestamp) -> Result<Option<Token>, StoreError> {
        let sql = both("UPDATE tokens SET revoked_at = COALESCE(revoked_at, $2) WHERE id = $1");
        self.0.run("revoke a token", sql, &[text(id), at(now)]).await?;
        self.get(id).await
    }

    async fn list(&mut self, page: &PageRequest) -> Result<Page<Token>, StoreError> {
        let sql = both(
            "SELECT * FROM tokens WHERE (created_at, id) < ($1, $2)
             ORDER BY created_at DESC, id DESC LIMIT $3",
        );
        let (key, id) = page.below();
        let args = [int(key), text(id), int(i64::from(page.limit()) + 1)];
        let rows = self.0.rows("list tokens", sql, &args).await?;
        let tokens = self.with_uses(&rows).await?;
        Ok(Page::cut(tokens, page, |token| Cursor {
            key: token.token.created_at.as_microsecond(),
            id: token.token.id.to_string(),
        }))
    }

    async fn prune(&mut self, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        self.0.prune_tokens(before, limit).await
    }
}

impl InTokens<'_> {
    async fn with_uses(&mut self, rows: &[Row]) -> Result<Vec<Token>, StoreError> {
        let mut tokens = rows.iter().map(token_of).collect::<Result<Vec<_>, _>>()?;
        let sql = each(
            "SELECT * FROM token_uses WHERE token_id IN (SELECT value FROM json_each($1))
             ORDER BY used_at, kind",
            "SELECT * FROM token_uses WHERE token_id = ANY($1) ORDER BY used_at, kind",
        );
        let ids = texts(tokens.iter().map(|token| token.token.id));
        let mut uses: HashMap<TokenId, Vec<TokenUse>> = HashMap::new();
        for row in self.0.rows("read the uses of tokens", sql, &[ids]).await? {
            let id = row.of("token_uses", "token_id").parsed("token_id")?;
            uses.entry(id).or_default().push(use_of(&row)?);
        }
        for token in &mut tokens {
            token.uses = uses.remove(&token.token.id).unwrap_or_default();
        }
        Ok(tokens)
    }
}

fn token_of(row: &Row) -> Result<Token, StoreError> {
    let fields = row.of("tokens", "id");
    let kinds = fields.text("kinds")?;
    let kinds: Option<Vec<PeerKind>> = kinds.split_whitespace().map(PeerKind::from_word).collect();
    let token = NewToken {
        id: fields.parsed("id")?,
        name: fields.text("name")?,
        kinds: kinds.ok_or_else(|| fields.wrong("kinds"))?,
        role: fields.maybe_word("role", Role::from_word)?,
        approver: fields.bool("approver")?,
        sealed_secret: fields.blob("sealed_secret")?,
        expires_at: fields.at("expires_at")?,
        created_by: fields.text("created_by")?,
        created_at: fields.at("created_at")?,
    };
    Ok(Token { token, uses: Vec::new(), revoked_at: fields.maybe_at("revoked_at")? })
}

fn use_of(row: &Row) -> Result<TokenUse, StoreError> {
    let fields = row.of("token_uses", "token_id");
    Ok(TokenUse {
        kind: fields.word("kind", PeerKind::from_word)?,
        key_digest: fields.digest("key_digest")?,
        used_at: fields.at("used_at")?,
        serial_hex: fields.text("serial_hex")?,
    })
}
