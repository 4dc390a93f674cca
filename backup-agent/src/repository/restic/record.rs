//! How a snapshot of ours is marked in the repository.
//!
//! Tags carry what plain `restic snapshots` should show and what decides over
//! visibility; the description (a field that restic ignores) carries the rest.

use std::{str::FromStr, time::Duration};

use jiff::{Timestamp, tz::TimeZone};
use rustic_core::{StringList, repofile::SnapshotFile};
use serde::{Deserialize, Serialize};

use super::super::{Intent, Snapshot, SourceKind, Stored, StoredFile, Summary, Unverified};
use crate::ids::{Name, RunId, SnapshotId};

/// On every snapshot of ours; whatever lacks it is not ours to show or remove.
const OURS: &str = "homelab";
const VERIFIED: &str = "verified";
/// Of earlier versions, which published in two steps.
const UNVERIFIED: &str = "unverified";
const RUN: &str = "run=";
const KIND: &str = "kind=";

/// What the description holds, as JSON.
#[derive(Debug, Deserialize, Serialize)]
struct Record {
    kind: SourceKind,
    verified_at: Timestamp,
    elapsed_ms: u64,
    added_bytes: u64,
    files: Vec<StoredFile>,
    #[serde(flatten)]
    summary: Summary,
}

/// The tag that names a run.
pub(super) fn run_tag(run: RunId) -> String {
    format!("{RUN}{run}")
}

/// A snapshot of ours that has no description yet.
pub(super) fn unnamed(intent: &Intent, host: &str) -> SnapshotFile {
    SnapshotFile {
        time: intent.taken_at.to_zoned(TimeZone::UTC),
        hostname: host.to_owned(),
        label: intent.backup.to_string(),
        tags: tags(VERIFIED, intent),
        ..SnapshotFile::default()
    }
}

/// Describes it, now that it is proved.
pub(super) fn verify(
    file: &mut SnapshotFile,
    stored: &Stored,
    (verified_at, elapsed): (Timestamp, Duration),
) -> serde_json::Result<()> {
    let mut summary = stored.summary.clone();
    summary.warnings.extend_from_slice(&stored.warnings);
    let record = Record {
        kind: stored.intent.kind,
        verified_at,
        elapsed_ms: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
        added_bytes: stored.added_bytes,
        files: stored.files.clone(),
        summary,
    };
    file.description = Some(serde_json::to_string(&record)?);
    Ok(())
}

/// Our view of a verified snapshot of ours.
pub(super) fn to_snapshot(file: &SnapshotFile) -> Option<Snapshot> {
    if !file.tags.contains(OURS) || !file.tags.contains(VERIFIED) {
        return None;
    }
    let record: Option<Record> =
        file.description.as_deref().and_then(|text| serde_json::from_str(text).ok());
    let taken_at = file.time.timestamp();
    Some(Snapshot {
        id: id_of(file)?,
        backup: file.label.parse::<Name>().ok()?,
        run: run_of(file)?,
        host: file.hostname.clone(),
        // `restic tag` drops the description: the snapshot stays listed, with less said about it.
        kind: record.as_ref().map(|record| record.kind).or_else(|| kind_of(file))?,
        taken_at,
        verified_at: record.as_ref().map_or(taken_at, |record| record.verified_at),
        elapsed: Duration::from_millis(record.as_ref().map_or(0, |record| record.elapsed_ms)),
        added_bytes: record.as_ref().map(|record| record.added_bytes),
        summary: record.as_ref().map(|record| record.summary.clone()).unwrap_or_default(),
        files: record.map(|record| record.files).unwrap_or_default(),
    })
}

/// Our view of an unverified snapshot of ours.
pub(super) fn to_unverified(file: &SnapshotFile) -> Option<Unverified> {
    is_unverified(file).then_some(())?;
    Some(Unverified { id: id_of(file)?, run: run_of(file), taken_at: file.time.timestamp() })
}

/// Whether it is ours and without proof.
pub(super) fn is_unverified(file: &SnapshotFile) -> bool {
    file.tags.contains(OURS) && file.tags.contains(UNVERIFIED)
}

/// Our form of the identifier.
pub(super) fn id_of(file: &SnapshotFile) -> Option<SnapshotId> {
    file.id.to_hex().as_str().parse().ok()
}

fn run_of(file: &SnapshotFile) -> Option<RunId> {
    file.tags.into_iter().find_map(|tag| tag.strip_prefix(RUN)).and_then(|id| id.parse().ok())
}

fn kind_of(file: &SnapshotFile) -> Option<SourceKind> {
    let word = file.tags.into_iter().find_map(|tag| tag.strip_prefix(KIND))?;
    SourceKind::ALL.into_iter().find(|kind| kind.word() == word)
}

fn tags(standing: &str, intent: &Intent) -> StringList {
    let text = format!("{OURS},{standing},{},{KIND}{}", run_tag(intent.run), intent.kind);
    StringList::from_str(&text).unwrap_or_default()
}
