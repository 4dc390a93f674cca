//! Which controller acts.

use async_trait::async_trait;
use jiff::Timestamp;

use super::{
    Conn,
    args::{at, big, text},
    both, each,
    row::Row,
};
use crate::{
    error::StoreError,
    noun::leadership::{Leader, Leadership, Tenure},
};

pub(super) struct InLeadership<'c>(pub(super) &'c mut Conn);

#[async_trait]
impl Leadership for InLeadership<'_> {
    async fn acquire(
        &mut self,
        holder: &str,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Tenure, StoreError> {
        let sql = both(
            "UPDATE leadership SET holder = $1, token = token + 1, since = $2, until = $3
             WHERE id = 1 AND (until <= $2 OR holder = $1) RETURNING *",
        );
        let args = [text(holder), at(now), at(until)];
        if let Some(row) = self.0.row("take the lead", sql, &args).await? {
            return Ok(Tenure::Mine(leader_of(&row)?));
        }
        let theirs = self.get().await?;
        theirs.map(Tenure::Theirs).ok_or_else(not_ours)
    }

    async fn renew(&mut self, token: u64, until: Timestamp) -> Result<(), StoreError> {
        let sql = each(
            "UPDATE leadership SET until = MAX(until, $2)
             WHERE id = 1 AND token = $1 AND holder <> ''",
            "UPDATE leadership SET until = GREATEST(until, $2)
             WHERE id = 1 AND token = $1 AND holder <> ''",
        );
        match self.0.run("keep the lead", sql, &[big(token), at(until)]).await? {
            1 => Ok(()),
            _ => Err(not_ours()),
        }
    }

    async fn release(&mut self, token: u64, now: Timestamp) -> Result<(), StoreError> {
        let sql = both(
            "UPDATE leadership SET holder = '', until = $2
             WHERE id = 1 AND token = $1 AND holder <> ''",
        );
        self.0.run("give up the lead", sql, &[big(token), at(now)]).await.map(drop)
    }

    async fn require(&mut self, token: u64) -> Result<(), StoreError> {
        let sql = each(
            "SELECT id FROM leadership WHERE id = 1 AND token = $1 AND holder <> ''",
            "SELECT id FROM leadership WHERE id = 1 AND token = $1 AND holder <> '' FOR SHARE",
        );
        let row = self.0.row("check the lead", sql, &[big(token)]).await?;
        row.map(drop).ok_or_else(not_ours)
    }

    async fn get(&mut self) -> Result<Option<Leader>, StoreError> {
        let sql = both("SELECT * FROM leadership WHERE id = 1 AND holder <> ''");
        let row = self.0.row("read who leads", sql, &[]).await?;
        row.as_ref().map(leader_of).transpose()
    }
}

fn leader_of(row: &Row) -> Result<Leader, StoreError> {
    let fields = row.of("leadership", "holder");
    Ok(Leader {
        holder: fields.text("holder")?,
        token: fields.u64("token")?,
        since: fields.at("since")?,
        until: fields.at("until")?,
    })
}

fn not_ours() -> StoreError {
    StoreError::Conflict { what: "the lead".to_owned() }
}
