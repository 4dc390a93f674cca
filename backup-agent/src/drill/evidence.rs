//! What a drill's report rests on, as one digest.

use serde::Serialize;

use super::{Compared, Report, Verdict};
use crate::{ids::RunId, manifest::Manifest, stream::Sha256};

/// SHA-256 over a JSON object: fields sorted by name, no space, times in UTC as
/// RFC 3339, durations in whole milliseconds, the manifest by the digest of its file.
pub(super) fn digest(report: &Report, run: RunId, manifest: &Manifest) -> Sha256 {
    let (verdict, findings) = match &report.verdict {
        Verdict::Passed => ("passed", &[][..]),
        Verdict::Failed { differences } => ("failed", differences.as_slice()),
        Verdict::Unverified { because } => ("unverified", because.as_slice()),
    };
    let millis = u64::try_from(report.restore_elapsed.as_millis()).unwrap_or(u64::MAX);
    let counted = |compared: &Compared| Counted { count: compared.count, what: compared.what };
    let statement = Statement {
        backup: report.backup.as_str(),
        compared: report.compared.iter().map(counted).collect(),
        findings,
        finished_at: report.finished_at,
        host: &report.host,
        manifest: Sha256::of(&manifest.to_bytes().unwrap_or_default()),
        repository: report.repository.as_str(),
        restore_ms: millis,
        run: run.to_string(),
        snapshot: report.snapshot.as_str(),
        source_host: &report.source_host,
        taken_at: report.taken_at,
        target: report.target.as_str(),
        verdict,
    };
    // Strings and numbers: there is no value without a JSON form.
    Sha256::of(&serde_json::to_vec(&statement).unwrap_or_default())
}

/// Declared in the order of the names.
#[derive(Serialize)]
struct Statement<'a> {
    backup: &'a str,
    compared: Vec<Counted>,
    findings: &'a [String],
    finished_at: jiff::Timestamp,
    host: &'a str,
    manifest: Sha256,
    repository: &'a str,
    restore_ms: u64,
    run: String,
    snapshot: &'a str,
    source_host: &'a str,
    taken_at: jiff::Timestamp,
    target: &'a str,
    verdict: &'static str,
}

#[derive(Serialize)]
struct Counted {
    count: u64,
    what: &'static str,
}
