//! Power of hosts that are off until needed.

use std::time::Duration;

use async_trait::async_trait;
use homelab_domain::{
    ids::{HostName, JobId},
    power::{
        HeldState, Hold,
        boot::{Boot, BootEnd},
    },
    reason::{Because, Reason},
    site::Tier,
};
use jiff::{Timestamp, civil::Date};

use super::{
    Conn,
    args::{at, big, int, maybe_at, maybe_text, span, text},
    both,
    row::{Fields, Row},
};
use crate::{
    error::StoreError,
    noun::power::{EnergyDay, JobEnergy, Kept, PowerBook, PowerRecord},
};

pub(super) struct InPower<'c>(pub(super) &'c mut Conn);

#[async_trait]
impl PowerBook for InPower<'_> {
    async fn hosts(&mut self) -> Result<Vec<PowerRecord>, StoreError> {
        let sql = both("SELECT * FROM power_hosts ORDER BY host");
        let rows = self.0.rows("list the power of hosts", sql, &[]).await?;
        rows.iter().map(record_of).collect()
    }

    async fn next_fence(&mut self, host: &HostName) -> Result<u64, StoreError> {
        let sql = both(
            "INSERT INTO power_hosts (host, fence) VALUES ($1, 1)
             ON CONFLICT (host) DO UPDATE SET fence = power_hosts.fence + 1 RETURNING *",
        );
        let row = self.0.row("take a fence", sql, &[text(host)]).await?;
        let row = row.ok_or_else(|| StoreError::Conflict { what: "a fence".to_owned() })?;
        Ok(record_of(&row)?.fence)
    }

    async fn proved(&mut self, host: &HostName, moment: Timestamp) -> Result<(), StoreError> {
        let sql = both(
            "INSERT INTO power_hosts (host, proved_at) VALUES ($1, $2)
             ON CONFLICT (host) DO UPDATE SET proved_at = excluded.proved_at
             WHERE power_hosts.proved_at IS NULL OR power_hosts.proved_at < excluded.proved_at",
        );
        self.0.run("keep that a host woke", sql, &[text(host), at(moment)]).await?;
        Ok(())
    }

    async fn slept(&mut self, host: &HostName, moment: Timestamp) -> Result<(), StoreError> {
        let sql = both(
            "INSERT INTO power_hosts (host, slept_at) VALUES ($1, $2)
             ON CONFLICT (host) DO UPDATE SET slept_at = excluded.slept_at",
        );
        self.0.run("keep that a host sleeps", sql, &[text(host), at(moment)]).await?;
        Ok(())
    }

    async fn holds(&mut self) -> Result<Vec<(HostName, Hold)>, StoreError> {
        let sql = both("SELECT * FROM power_holds ORDER BY host");
        let rows = self.0.rows("list holds", sql, &[]).await?;
        rows.iter().map(hold_of).collect()
    }

    async fn set_hold(&mut self, host: &HostName, hold: Option<&Hold>) -> Result<(), StoreError> {
        let Some(hold) = hold else {
            let sql = both("DELETE FROM power_holds WHERE host = $1");
            self.0.run("let a host go", sql, &[text(host)]).await?;
            return Ok(());
        };
        let sql = both(
            "INSERT INTO power_holds (host, state, until, by) VALUES ($1, $2, $3, $4)
             ON CONFLICT (host) DO UPDATE SET state = excluded.state, until = excluded.until,
               by = excluded.by",
        );
        let args = [text(host), text(hold.state), at(hold.until), text(&hold.by)];
        self.0.run("hold a host", sql, &args).await?;
        Ok(())
    }

    async fn keep_boot(&mut self, boot: &Boot) -> Result<(), StoreError> {
        let sql = both(
            "INSERT INTO boots (host, started_at, reason, message, by, signals, signalled_at,
               reached, ended_at, failure_reason, failure_message)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
             ON CONFLICT (host, started_at) DO UPDATE SET signals = excluded.signals,
               signalled_at = excluded.signalled_at, reached = excluded.reached,
               ended_at = excluded.ended_at, failure_reason = excluded.failure_reason,
               failure_message = excluded.failure_message",
        );
        let reached = serde_json::to_string(&boot.reached).map_err(|error| StoreError::Other {
            operation: "write the phases of a boot down",
            source: Box::new(error),
        })?;
        let failure = boot.end.as_ref().and_then(|end| end.failure.as_ref());
        let args = [
            text(&boot.host),
            at(boot.started_at),
            text(&boot.because.reason),
            text(&boot.because.message),
            text(&boot.by),
            int(boot.signals),
            at(boot.signalled_at),
            text(reached),
            maybe_at(boot.end.as_ref().map(|end| end.at)),
            maybe_text(failure.map(|why| &why.reason)),
            maybe_text(failure.map(|why| &why.message)),
        ];
        self.0.run("keep a boot", sql, &args).await?;
        Ok(())
    }

    async fn boots(&mut self, host: &HostName, limit: u32) -> Result<Vec<Boot>, StoreError> {
        let sql = both("SELECT * FROM boots WHERE host = $1 ORDER BY started_at DESC LIMIT $2");
        let rows = self.0.rows("list boots", sql, &[text(host), int(limit)]).await?;
        rows.iter().map(boot_of).collect()
    }

    async fn kept_awake(&mut self, kept: &Kept) -> Result<(), StoreError> {
        let sql = both(
            "INSERT INTO kept_awake (host, day, reason, message, lasted) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (host, day, reason) DO UPDATE SET message = excluded.message,
               lasted = kept_awake.lasted + excluded.lasted",
        );
        let args = [
            text(&kept.host),
            text(kept.day),
            text(&kept.because.reason),
            text(&kept.because.message),
            span(kept.lasted),
        ];
        self.0.run("keep what kept a host awake", sql, &args).await?;
        Ok(())
    }

    async fn keepers(&mut self, since: Date) -> Result<Vec<Kept>, StoreError> {
        let sql = both(
            "SELECT * FROM kept_awake WHERE day >= $1 ORDER BY day DESC, host, lasted DESC, reason",
        );
        let rows = self.0.rows("list what kept hosts awake", sql, &[text(since)]).await?;
        rows.iter().map(kept_of).collect()
    }

    async fn used(
        &mut self,
        host: &HostName,
        day: Date,
        idle_millijoules: u64,
        jobs: &[JobEnergy],
    ) -> Result<(), StoreError> {
        if idle_millijoules > 0 {
            let sql = both(
                "INSERT INTO energy_idle (host, day, millijoules) VALUES ($1, $2, $3)
                 ON CONFLICT (host, day) DO UPDATE
                 SET millijoules = energy_idle.millijoules + excluded.millijoules",
            );
            let args = [text(host), text(day), big(idle_millijoules)];
            self.0.run("keep what a host used", sql, &args).await?;
        }
        let sql = both(
            "INSERT INTO energy_jobs (job, host, day, tier, millijoules) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (job, host, day) DO UPDATE
             SET millijoules = energy_jobs.millijoules + excluded.millijoules",
        );
        for one in jobs {
            let args = [text(one.job), text(host), text(day), text(one.tier), big(one.millijoules)];
            self.0.run("keep what a job used", sql, &args).await?;
        }
        Ok(())
    }

    async fn energy(&mut self, since: Date) -> Result<Vec<EnergyDay>, StoreError> {
        // Sums are of another type than what is summed in PostgreSQL.
        let sql = both(
            "SELECT host, day, NULL AS tier, 0 AS jobs, millijoules FROM energy_idle WHERE day >= $1
             UNION ALL
             SELECT host, day, tier, COUNT(*) AS jobs, CAST(SUM(millijoules) AS BIGINT)
             FROM energy_jobs WHERE day >= $1 GROUP BY host, day, tier
             ORDER BY 2 DESC, 1, 3",
        );
        let rows = self.0.rows("list what hosts used", sql, &[text(since)]).await?;
        rows.iter().map(day_of).collect()
    }

    async fn energy_of(&mut self, job: JobId) -> Result<Option<u64>, StoreError> {
        let sql = both(
            "SELECT CAST(SUM(millijoules) AS BIGINT) AS millijoules FROM energy_jobs WHERE job = $1",
        );
        let row = self.0.row("sum up what a job used", sql, &[text(job)]).await?;
        let Some(row) = row else { return Ok(None) };
        row.of("energy_jobs", "millijoules").maybe_u64("millijoules")
    }

    async fn forget(&mut self, day: Date, boots: u32) -> Result<u64, StoreError> {
        let mut dropped = 0;
        for sql in [
            both("DELETE FROM kept_awake WHERE day < $1"),
            both("DELETE FROM energy_idle WHERE day < $1"),
            both("DELETE FROM energy_jobs WHERE day < $1"),
        ] {
            dropped += self.0.run("drop old days", sql, &[text(day)]).await?;
        }
        let sql = both(
            "DELETE FROM boots WHERE ended_at IS NOT NULL AND started_at < (
               SELECT newer.started_at FROM boots AS newer WHERE newer.host = boots.host
               ORDER BY newer.started_at DESC LIMIT 1 OFFSET $1)",
        );
        let newest = boots.saturating_sub(1);
        Ok(dropped + self.0.run("drop old boots", sql, &[int(newest)]).await?)
    }
}

fn record_of(row: &Row) -> Result<PowerRecord, StoreError> {
    let fields = row.of("power_hosts", "host");
    Ok(PowerRecord {
        host: fields.parsed("host")?,
        fence: fields.u64("fence")?,
        proved_at: fields.maybe_at("proved_at")?,
        slept_at: fields.maybe_at("slept_at")?,
    })
}

fn hold_of(row: &Row) -> Result<(HostName, Hold), StoreError> {
    let fields = row.of("power_holds", "host");
    let hold = Hold {
        state: fields.word("state", HeldState::from_word)?,
        until: fields.at("until")?,
        by: fields.text("by")?,
    };
    Ok((fields.parsed("host")?, hold))
}

fn boot_of(row: &Row) -> Result<Boot, StoreError> {
    let fields = row.of("boots", "host");
    let end = match fields.maybe_at("ended_at")? {
        None => None,
        Some(at) => {
            let reason = fields.maybe_text("failure_reason")?;
            let failure = match reason {
                None => None,
                Some(_) => Some(because(&fields, "failure_reason", "failure_message")?),
            };
            Some(BootEnd { at, failure })
        }
    };
    Ok(Boot {
        host: fields.parsed("host")?,
        started_at: fields.at("started_at")?,
        because: because(&fields, "reason", "message")?,
        by: fields.text("by")?,
        signals: fields.u32("signals")?,
        signalled_at: fields.at("signalled_at")?,
        reached: fields.json("reached")?,
        end,
    })
}

fn kept_of(row: &Row) -> Result<Kept, StoreError> {
    let fields = row.of("kept_awake", "host");
    let lasted: Duration = fields.span("lasted")?;
    Ok(Kept {
        host: fields.parsed("host")?,
        day: fields.parsed("day")?,
        because: because(&fields, "reason", "message")?,
        lasted,
    })
}

fn day_of(row: &Row) -> Result<EnergyDay, StoreError> {
    let fields = row.of("energy_jobs", "host");
    Ok(EnergyDay {
        host: fields.parsed("host")?,
        day: fields.parsed("day")?,
        tier: fields.maybe_word("tier", Tier::from_word)?,
        jobs: fields.u64("jobs")?,
        millijoules: fields.u64("millijoules")?,
    })
}

fn because(
    fields: &Fields<'_>,
    reason: &'static str,
    message: &'static str,
) -> Result<Because, StoreError> {
    let word = Reason::try_new(fields.text(reason)?).map_err(|_| fields.wrong(reason))?;
    Ok(Because::new(word, fields.text(message)?))
}
