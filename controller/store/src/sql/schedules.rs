//! Schedules.

use async_trait::async_trait;
use homelab_domain::{ids::BackupName, run::RunKind};
use jiff::Timestamp;

use super::{
    Conn,
    args::{at, maybe_at, maybe_text, text},
    both,
    row::Row,
};
use crate::{
    error::StoreError,
    noun::schedules::{Paused, ScheduleKey, ScheduleRecord, Schedules},
};

pub(super) struct InSchedules<'c>(pub(super) &'c mut Conn);

#[async_trait]
impl Schedules for InSchedules<'_> {
    async fn all(&mut self) -> Result<Vec<ScheduleRecord>, StoreError> {
        let sql = both("SELECT * FROM schedules ORDER BY backup, kind");
        let rows = self.0.rows("list schedules", sql, &[]).await?;
        rows.iter().map(record_of).collect()
    }

    async fn ensure(
        &mut self,
        key: &ScheduleKey,
        now: Timestamp,
    ) -> Result<ScheduleRecord, StoreError> {
        // The update changes nothing; it makes RETURNING give the row that was there.
        let sql = both(
            "INSERT INTO schedules (backup, kind, known_since) VALUES ($1, $2, $3)
             ON CONFLICT (backup, kind) DO UPDATE SET known_since = schedules.known_since
             RETURNING *",
        );
        let args = [text(&key.backup), text(key.kind), at(now)];
        let row = self.0.row("keep a schedule", sql, &args).await?;
        let row = row.ok_or_else(|| StoreError::Conflict { what: "a schedule".to_owned() })?;
        record_of(&row)
    }

    async fn fired(
        &mut self,
        key: &ScheduleKey,
        scheduled_for: Timestamp,
    ) -> Result<bool, StoreError> {
        let sql = both(
            "INSERT INTO schedules (backup, kind, known_since, last_fired_for)
             VALUES ($1, $2, $3, $3)
             ON CONFLICT (backup, kind) DO UPDATE SET last_fired_for = excluded.last_fired_for
             WHERE schedules.last_fired_for IS NULL
               OR schedules.last_fired_for < excluded.last_fired_for",
        );
        let args = [text(&key.backup), text(key.kind), at(scheduled_for)];
        Ok(self.0.run("record that a schedule fired", sql, &args).await? == 1)
    }

    async fn set_paused(
        &mut self,
        backup: &BackupName,
        paused: Option<&Paused>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let sql = both(
            "INSERT INTO schedules
               (backup, kind, known_since, paused_by, paused_reason, paused_at, paused_until)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (backup, kind) DO UPDATE SET paused_by = excluded.paused_by,
               paused_reason = excluded.paused_reason, paused_at = excluded.paused_at,
               paused_until = excluded.paused_until,
               last_fired_for = CASE
                 WHEN schedules.paused_at IS NOT NULL AND excluded.paused_at IS NULL
                   AND (schedules.last_fired_for IS NULL OR schedules.last_fired_for < $3)
                 THEN $3 ELSE schedules.last_fired_for END",
        );
        for kind in RunKind::ALL {
            let args = [
                text(backup),
                text(kind),
                at(now),
                maybe_text(paused.map(|paused| &paused.by)),
                maybe_text(paused.map(|paused| &paused.reason)),
                maybe_at(paused.map(|paused| paused.at)),
                maybe_at(paused.and_then(|paused| paused.until)),
            ];
            self.0.run("pause or resume a schedule", sql, &args).await?;
        }
        Ok(())
    }
}

fn record_of(row: &Row) -> Result<ScheduleRecord, StoreError> {
    let fields = row.of("schedules", "backup");
    let paused = match fields.maybe_at("paused_at")? {
        None => None,
        Some(at) => {
            let (by, reason) = (fields.text("paused_by")?, fields.text("paused_reason")?);
            Some(Paused { by, reason, at, until: fields.maybe_at("paused_until")? })
        }
    };
    Ok(ScheduleRecord {
        key: ScheduleKey {
            backup: fields.parsed("backup")?,
            kind: fields.word("kind", RunKind::from_word)?,
        },
        known_since: fields.at("known_since")?,
        last_fired_for: fields.maybe_at("last_fired_for")?,
        paused,
    })
}
