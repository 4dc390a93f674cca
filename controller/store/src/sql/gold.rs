//! Requests that left the house.

use async_trait::async_trait;
use homelab_domain::{
    gold::{Budget, Money, Period, Spent, shortfall},
    ids::JobId,
    schedule::Zone,
};
use jiff::Timestamp;

use super::{
    Conn,
    args::{at, big, blob, int, maybe_int, text},
    both, each,
    row::{Fields, Row},
};
use crate::{
    error::StoreError,
    noun::gold::{Gold, GoldCall, GoldOutcome, NewGoldCall, Reserved, Settlement},
};

pub(super) struct InGold<'c>(pub(super) &'c mut Conn);

#[async_trait]
impl Gold for InGold<'_> {
    async fn reserve(
        &mut self,
        call: &NewGoldCall,
        budgets: &[Budget],
        zone: &Zone,
    ) -> Result<Reserved, StoreError> {
        // SQLite has one writer anyway.
        let gate = each(
            "SELECT id FROM gold_gate WHERE id = 1",
            "SELECT id FROM gold_gate WHERE id = 1 FOR UPDATE",
        );
        self.0.row("lock what is spent outside", gate, &[]).await?;
        let sql = both("SELECT job FROM gold_calls WHERE job = $1 AND attempt = $2");
        let args = [text(call.job), int(call.attempt)];
        if self.0.row("look for a reservation", sql, &args).await?.is_some() {
            return Ok(Reserved::Repeated);
        }
        let spent = self.spent(call.at, zone).await?;
        let short = shortfall(budgets, &spent, &call.asker, call.reserved, call.at, zone);
        if let Some(short) = short {
            return Ok(Reserved::Short(short));
        }
        self.insert(call).await?;
        Ok(Reserved::Made)
    }

    async fn settle(
        &mut self,
        job: JobId,
        attempt: u32,
        settlement: Settlement,
    ) -> Result<bool, StoreError> {
        let sql = both(
            "UPDATE gold_calls SET outcome = $3, settled_at = $4, cost = $5, prompt_tokens = $6,
               completion_tokens = $7
             WHERE job = $1 AND attempt = $2 AND outcome IS NULL",
        );
        let args = [
            text(job),
            int(attempt),
            text(settlement.outcome),
            at(settlement.at),
            big(settlement.cost.micros()),
            maybe_int(settlement.prompt_tokens),
            maybe_int(settlement.completion_tokens),
        ];
        Ok(self.0.run("settle what was spent outside", sql, &args).await? > 0)
    }

    async fn give_up(&mut self, before: Timestamp, now: Timestamp) -> Result<u64, StoreError> {
        let sql = both(
            "UPDATE gold_calls SET outcome = 'lost', settled_at = $2, cost = reserved
             WHERE outcome IS NULL AND at < $1",
        );
        self.0.run("give up open reservations", sql, &[at(before), at(now)]).await
    }

    async fn spent(&mut self, now: Timestamp, zone: &Zone) -> Result<Vec<Spent>, StoreError> {
        let (day, _) = Period::Day.around(now, zone);
        let (month, _) = Period::Month.around(now, zone);
        let sql = both(
            "SELECT asker,
               CAST(SUM(CASE WHEN at >= $1 THEN COALESCE(cost, reserved) ELSE 0 END) AS BIGINT)
                 AS of_day,
               CAST(SUM(COALESCE(cost, reserved)) AS BIGINT) AS of_month
             FROM gold_calls WHERE at >= $2 GROUP BY asker ORDER BY asker",
        );
        let rows = self.0.rows("sum up what was spent", sql, &[at(day), at(month)]).await?;
        rows.iter().map(spent_of).collect()
    }

    async fn of_job(&mut self, job: JobId) -> Result<Vec<GoldCall>, StoreError> {
        let sql = both("SELECT * FROM gold_calls WHERE job = $1 ORDER BY attempt");
        let rows = self.0.rows("read what left for a job", sql, &[text(job)]).await?;
        rows.iter().map(call_of).collect()
    }

    async fn newest(&mut self, limit: u32) -> Result<Vec<GoldCall>, StoreError> {
        let sql = both("SELECT * FROM gold_calls ORDER BY at DESC, job, attempt LIMIT $1");
        let rows = self.0.rows("list what left the house", sql, &[int(limit)]).await?;
        rows.iter().map(call_of).collect()
    }

    async fn prune(&mut self, before: Timestamp, limit: u32) -> Result<u64, StoreError> {
        self.0.prune_gold(before, limit).await
    }
}

impl InGold<'_> {
    async fn insert(&mut self, call: &NewGoldCall) -> Result<(), StoreError> {
        let sql = both(
            "INSERT INTO gold_calls (job, attempt, at, asker, provider, model, bytes, digest,
               classes, rules, pseudonyms, reserved)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        );
        let args = [
            text(call.job),
            int(call.attempt),
            at(call.at),
            text(&call.asker),
            text(&call.provider),
            text(&call.model),
            big(call.bytes),
            blob(&call.digest),
            text(&call.classes),
            text(&call.rules),
            int(call.pseudonyms),
            big(call.reserved.micros()),
        ];
        self.0.run("reserve what may be spent", sql, &args).await.map(drop)
    }
}

fn spent_of(row: &Row) -> Result<Spent, StoreError> {
    let fields = row.of("gold_calls", "asker");
    Ok(Spent {
        asker: fields.parsed("asker")?,
        day: money(&fields, "of_day")?,
        month: money(&fields, "of_month")?,
    })
}

fn call_of(row: &Row) -> Result<GoldCall, StoreError> {
    let fields = row.of("gold_calls", "job");
    let outcome = fields.maybe_word("outcome", GoldOutcome::from_word)?;
    let settlement = outcome.map(|outcome| settlement_of(&fields, outcome)).transpose()?;
    let call = NewGoldCall {
        job: fields.parsed("job")?,
        attempt: fields.u32("attempt")?,
        at: fields.at("at")?,
        asker: fields.parsed("asker")?,
        provider: fields.parsed("provider")?,
        model: fields.parsed("model")?,
        bytes: fields.u64("bytes")?,
        digest: fields.digest("digest")?,
        classes: fields.text("classes")?,
        rules: fields.text("rules")?,
        pseudonyms: fields.u32("pseudonyms")?,
        reserved: money(&fields, "reserved")?,
    };
    Ok(GoldCall { call, settlement })
}

fn settlement_of(fields: &Fields<'_>, outcome: GoldOutcome) -> Result<Settlement, StoreError> {
    Ok(Settlement {
        at: fields.at("settled_at")?,
        outcome,
        cost: money(fields, "cost")?,
        prompt_tokens: fields.maybe_u32("prompt_tokens")?,
        completion_tokens: fields.maybe_u32("completion_tokens")?,
    })
}

fn money(fields: &Fields<'_>, column: &'static str) -> Result<Money, StoreError> {
    fields.u64(column).map(Money::from_micros)
}
