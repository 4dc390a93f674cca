//! One backup of the strategy.

use homelab_proto::controller::v1::{
    BackupCopies, BackupStrategy, DrillEvidence, KitRepository, Schedule,
};

use super::{Table, fenced, fires, lost_now};
use crate::{
    command::backup::policy_text,
    output::{date, short, span, word, yes},
};

/// Its chapter.
pub(super) fn section(one: &BackupStrategy, repositories: &[KitRepository], zone: &str) -> String {
    let schedule = one.schedule.clone().unwrap_or_default();
    let mut text = format!("\n## {}\n\n", schedule.backup);
    for (title, words) in facts(one, &schedule, repositories) {
        text.push_str(&format!("- **{title}**: {words}\n"));
    }
    text.push_str(&proof(one.last_evidence.as_ref(), zone));
    if let Some(copies) = &one.copies {
        text.push_str(&places(copies, zone));
    }
    let gaps = one.risk.iter().flat_map(|risk| &risk.gap_details);
    let gaps: String = gaps.map(|gap| format!("- {} (`{}`)\n", gap.message, gap.command)).collect();
    if !gaps.is_empty() {
        text.push_str(&format!("\n### What is missing\n\n{gaps}"));
    }
    if !one.restore_commands.is_empty() {
        text.push_str("\n### Restoring it by hand\n\n");
        text.push_str(&fenced(&one.restore_commands));
    }
    text
}

fn facts(
    one: &BackupStrategy,
    schedule: &Schedule,
    repositories: &[KitRepository],
) -> Vec<(&'static str, String)> {
    let risk = one.risk.clone().unwrap_or_default();
    let kind = word(one.source_kind().as_str_name(), "SOURCE_KIND");
    let protects = if one.services.is_empty() {
        String::new()
    } else {
        format!(", for {}", one.services.join(", "))
    };
    let kept = one.retention.as_ref().map_or_else(
        || "everything, for the site file says nothing".to_owned(),
        |policy| {
            format!(
                "{}; never fewer than {}, and what is given up stays recoverable for {}",
                policy_text(policy),
                policy.floor,
                span(policy.quarantine)
            )
        },
    );
    let drills = match (schedule.drill_cron.as_str(), one.drill_target.as_str()) {
        ("", _) => "**by nobody**: no drill is declared".to_owned(),
        (cron, target) => format!("`{cron}` ({}), into {target}", schedule.time_zone),
    };
    vec![
        ("What", format!("{kind} on {}{protects}", schedule.host)),
        ("Loss at most", format!("{}; now {}", span(schedule.rpo), lost_now(&risk))),
        (
            "Restore at most",
            format!(
                "{}; measured {} (median), {} (95 %), {} (last)",
                span(schedule.rto),
                span(risk.rto_median),
                span(risk.rto_95),
                span(risk.last_rto)
            ),
        ),
        ("Backed up", fires(schedule)),
        ("Kept", kept),
        ("Keys", keys(one, repositories)),
        ("Drilled", drills),
    ]
}

/// The secrets that open the places where it is.
fn keys(one: &BackupStrategy, repositories: &[KitRepository]) -> String {
    let own = one.copies.iter().flat_map(|copies| &copies.copies);
    let mut names: Vec<_> = own
        .filter_map(|copy| repositories.iter().find(|known| known.name == copy.repository))
        .map(|repository| match repository.secret.as_str() {
            "" => format!("**none declared for {}**", repository.name),
            secret => format!("`{secret}`"),
        })
        .collect();
    names.dedup();
    if names.is_empty() { "-".to_owned() } else { names.join(", ") }
}

fn proof(evidence: Option<&DrillEvidence>, zone: &str) -> String {
    let Some(one) = evidence else {
        return "- **Last evidence**: none; nobody has seen it come back\n".to_owned();
    };
    format!(
        "- **Last evidence**: number {} of {}: {}; snapshot {} of {} from {}, restored on {} in {}; SHA-256 \
         `{}`\n",
        one.sequence,
        date(one.at, zone),
        word(one.verdict().as_str_name(), "DRILL_VERDICT"),
        short(&one.snapshot_id),
        date(one.snapshot_taken_at, zone),
        one.repository,
        one.drill_host,
        span(one.restore_elapsed),
        one.digest
    )
}

fn places(copies: &BackupCopies, zone: &str) -> String {
    let rule = copies.rule.clone().unwrap_or_default();
    let mut text = format!(
        "\n{} current copies on {} media, {} of them elsewhere: 3-2-1 {}.\n\n",
        rule.copies,
        rule.media,
        rule.off_site,
        if rule.met { "is met".to_owned() } else { format!("lacks {}", rule.missing.join(", ")) }
    );
    let mut table =
        Table::new(&["Copy", "Role", "Medium", "Place", "Newest", "Counts", "All read"]);
    for copy in &copies.copies {
        let counts = match copy.why_not.as_str() {
            "" => yes(copy.counts).to_owned(),
            why => format!("{}: {why}", yes(copy.counts)),
        };
        let name = if copy.repository.is_empty() { "the source" } else { copy.repository.as_str() };
        table.push([
            name.to_owned(),
            word(copy.role().as_str_name(), "COPY_ROLE"),
            copy.medium.clone(),
            copy.place.clone(),
            date(copy.newest_at, zone),
            counts,
            date(copy.scrubbed_at, zone),
        ]);
    }
    text.push_str(&table.text());
    text
}

#[cfg(test)]
mod tests {
    use homelab_proto::{
        backup::v1::{DrillVerdict, SourceKind},
        controller::v1::{BackupCopy, BackupRisk, CopyRule, KeepPolicy, RiskGap},
    };

    use super::*;

    fn seconds(seconds: i64) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds, nanos: 0 })
    }

    fn wiki() -> BackupStrategy {
        BackupStrategy {
            schedule: Some(Schedule {
                backup: "wiki".to_owned(),
                host: "hx310-db".to_owned(),
                cron: "30 2 * * *".to_owned(),
                time_zone: "UTC".to_owned(),
                drill_cron: "0 5 * * 0".to_owned(),
                rpo: seconds(93_600),
                rto: seconds(1_800),
                after: vec!["forgejo".to_owned()],
                ..Schedule::default()
            }),
            risk: Some(BackupRisk {
                exposure: seconds(7_200),
                within_rpo: true,
                rto_median: seconds(240),
                gap_details: vec![RiskGap {
                    message: "its copies do not make 3-2-1".to_owned(),
                    command: "labctl backup copies wiki".to_owned(),
                    ..RiskGap::default()
                }],
                ..BackupRisk::default()
            }),
            copies: Some(BackupCopies {
                backup: "wiki".to_owned(),
                rule: Some(CopyRule {
                    copies: 2,
                    media: 2,
                    off_site: 0,
                    met: false,
                    missing: vec!["a copy elsewhere".to_owned()],
                }),
                copies: vec![
                    BackupCopy { counts: true, ..BackupCopy::default() },
                    BackupCopy { repository: "nas".to_owned(), counts: true, ..Default::default() },
                ],
            }),
            retention: Some(KeepPolicy { daily: 14, floor: 3, ..KeepPolicy::default() }),
            last_evidence: Some(DrillEvidence {
                sequence: 5,
                verdict: DrillVerdict::Passed.into(),
                snapshot_id: "ab".repeat(32),
                digest: "5c1f".to_owned(),
                repository: "nas".to_owned(),
                drill_host: "hx310-db".to_owned(),
                restore_elapsed: seconds(240),
                ..DrillEvidence::default()
            }),
            source_kind: SourceKind::Postgres.into(),
            services: vec!["wiki".to_owned()],
            drill_target: "nas-postgres on hx310-db".to_owned(),
            restore_commands: vec!["restic -r /mnt/nas restore latest".to_owned()],
        }
    }

    #[test]
    fn everything_that_the_strategy_must_say_is_said() {
        let nas = KitRepository {
            name: "nas".to_owned(),
            secret: "nas-key".to_owned(),
            ..KitRepository::default()
        };
        let text = section(&wiki(), &[nas], "UTC");
        for part in [
            "## wiki\n",
            "- **What**: postgres on hx310-db, for wiki\n",
            "- **Loss at most**: 26 h; now 2 h\n",
            "- **Restore at most**: 30 min; measured 4 min (median), - (95 %), - (last)\n",
            "- **Backed up**: `30 2 * * *` (UTC), after forgejo\n",
            "- **Kept**: 14 daily; never fewer than 3",
            "- **Keys**: `nas-key`\n",
            "- **Drilled**: `0 5 * * 0` (UTC), into nas-postgres on hx310-db\n",
            "- **Last evidence**: number 5 of -: passed; snapshot abababab",
            "3-2-1 lacks a copy elsewhere.",
            "| the source |",
            "- its copies do not make 3-2-1 (`labctl backup copies wiki`)\n",
            "```sh\nrestic -r /mnt/nas restore latest\n```\n",
        ] {
            assert!(text.contains(part), "{part}\n---\n{text}");
        }
    }

    #[test]
    fn what_was_never_drilled_is_said_so() {
        let mut never = wiki();
        never.last_evidence = None;
        if let Some(schedule) = &mut never.schedule {
            schedule.drill_cron.clear();
        }
        let text = section(&never, &[], "UTC");
        assert!(text.contains("nobody has seen it come back"), "{text}");
        assert!(text.contains("**by nobody**"), "{text}");
        assert!(text.contains("- **Keys**: -\n"), "{text}");
    }
}
