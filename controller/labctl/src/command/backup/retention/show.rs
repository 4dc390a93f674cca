//! A retention plan, for people.

use homelab_proto::controller::v1::{
    Brake, KeepPolicy, RetentionPlan, RetentionVerdict, SnapshotDecision,
};

use crate::output::{Rows, bytes, date, indented, short, span, word, yes};

/// How many snapshots meet which fate.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Stay.
    pub(super) keep: usize,
    /// Would be given up.
    pub(super) quarantine: usize,
    /// Were given up before, and wait.
    pub(super) waiting: usize,
    /// Would be deleted.
    pub(super) delete: usize,
}

/// Counts the decisions of a plan.
pub(super) fn tally(plan: &RetentionPlan) -> Tally {
    let mut tally = Tally::default();
    for decision in &plan.decisions {
        match decision.verdict() {
            RetentionVerdict::Keep | RetentionVerdict::Unspecified => tally.keep += 1,
            RetentionVerdict::Quarantine => tally.quarantine += 1,
            RetentionVerdict::Quarantined => tally.waiting += 1,
            RetentionVerdict::Delete => tally.delete += 1,
        }
    }
    tally
}

/// Whether a brake holds: nobody has let it go.
pub(super) fn holds(brake: &Brake) -> bool {
    brake.acknowledged_by.is_empty()
}

/// Whose policy a plan was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// That of the site file, if it has one.
    Declared,
    /// One that was given with the question.
    Tried,
}

/// The whole plan of one repository.
pub(super) fn plan_text(plan: &RetentionPlan, asked: Asked) -> String {
    let tally = tally(plan);
    let policy = plan.policy.clone().unwrap_or_default();
    let mut text = format!(
        "{} in {}: keep {}, give up {}, given up before {}, delete {}\n",
        plan.backup, plan.repository, tally.keep, tally.quarantine, tally.waiting, tally.delete
    );
    text.push_str(&format!("  policy: {}\n", policy_text(&policy)));
    text.push_str(&format!(
        "  floor: never fewer than {} verified snapshots; what is given up stays recoverable for {}\n\n",
        policy.floor,
        span(policy.quarantine)
    ));
    text.push_str(&indented(&decisions(plan).text(), 2));
    for brake in &plan.brakes {
        text.push_str(&brake_text(&plan.backup, brake));
    }
    text.push_str(&format!("\n  plan {}\n", plan.digest));
    if plan.applicable {
        text.push_str(&format!(
            "  next: labctl backup retention apply {} --repository {} --digest {}\n",
            plan.backup, plan.repository, plan.digest
        ));
    } else if plan.brakes.iter().any(holds) {
        text.push_str("  nothing is given up while a brake holds\n");
    } else if tally.quarantine + tally.delete == 0 {
        text.push_str("  nothing is to be done\n");
    } else if asked == Asked::Tried {
        text.push_str("  a policy that is only tried cannot be applied; the site file's can\n");
    } else {
        text.push_str(
            "  nothing of this will be done: the site file has no policy for it (neither [retention] nor\n  \
             `keep` of the backup), and this shows what the usual one would do\n",
        );
    }
    text
}

/// A policy as people write it.
pub(crate) fn policy_text(policy: &KeepPolicy) -> String {
    let rules = [
        (policy.last, "last"),
        (policy.hourly, "hourly"),
        (policy.daily, "daily"),
        (policy.weekly, "weekly"),
        (policy.monthly, "monthly"),
        (policy.yearly, "yearly"),
    ];
    let rules: Vec<_> = rules
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, rule)| format!("{count} {rule}"))
        .collect();
    let rules = if rules.is_empty() { "everything".to_owned() } else { rules.join(", ") };
    if policy.time_zone.is_empty() { rules } else { format!("{rules} ({})", policy.time_zone) }
}

fn brake_text(backup: &str, brake: &Brake) -> String {
    if !holds(brake) {
        return format!(
            "\n  + {}: {}\n      let go by {}\n",
            brake.reason, brake.message, brake.acknowledged_by
        );
    }
    let mut text = format!("\n  x {}: {}\n", brake.reason, brake.message);
    if brake.acknowledgeable {
        text.push_str(&format!(
            "      labctl backup retention acknowledge {backup} --brake {} --subject {} --reason WHY\n",
            brake.reason, brake.subject
        ));
    }
    text
}

/// A row for each snapshot of each plan, named by the snapshot.
pub(super) fn decision_rows(plans: &[RetentionPlan]) -> Rows {
    let mut rows = Rows::new(&["snapshot"], "No verified snapshots.");
    for decision in plans.iter().flat_map(|plan| &plan.decisions) {
        rows.push(&decision.snapshot_id, [decision.snapshot_id.clone()]);
    }
    rows
}

fn decisions(plan: &RetentionPlan) -> Rows {
    let head = ["snapshot", "taken", "verdict", "source", "drilled", "why"];
    let mut rows = Rows::new(&head, "No verified snapshots.");
    let zone = zone_of(plan);
    for decision in &plan.decisions {
        rows.push(
            &decision.snapshot_id,
            [
                short(&decision.snapshot_id),
                date(decision.taken_at, zone),
                verdict(decision, zone),
                bytes(decision.source_bytes),
                yes(decision.drilled).to_owned(),
                decision.reasons.join("; "),
            ],
        );
    }
    rows
}

fn verdict(decision: &SnapshotDecision, zone: &str) -> String {
    match decision.verdict() {
        RetentionVerdict::Keep => "keep".to_owned(),
        RetentionVerdict::Quarantine => "give up".to_owned(),
        RetentionVerdict::Quarantined => {
            format!("given up, until {}", date(decision.quarantine_until, zone))
        }
        RetentionVerdict::Delete => "delete".to_owned(),
        RetentionVerdict::Unspecified => {
            word(decision.verdict().as_str_name(), "RETENTION_VERDICT")
        }
    }
}

fn zone_of(plan: &RetentionPlan) -> &str {
    plan.policy.as_ref().map_or("UTC", |policy| policy.time_zone.as_str())
}

/// A row for each period of each plan, named by rule and period.
pub(super) fn calendar_rows(plans: &[RetentionPlan]) -> Rows {
    let mut rows = Rows::new(&["period"], "Nothing is kept by a period.");
    for entry in plans.iter().flat_map(|plan| &plan.calendar) {
        rows.push(format!("{}/{}", entry.rule, entry.period), [entry.period.clone()]);
    }
    rows
}

/// What is kept, period by period: a calendar that is read from the top.
pub(super) fn calendars(plan: &RetentionPlan) -> String {
    let policy = plan.policy.clone().unwrap_or_default();
    let mut text = format!("{} in {}: {}\n", plan.backup, plan.repository, policy_text(&policy));
    let head = ["rule", "period", "snapshot", "taken"];
    let mut rows = Rows::new(&head, "Nothing is kept by a period.");
    let mut rule = "";
    for entry in &plan.calendar {
        let taken = plan
            .decisions
            .iter()
            .find(|decision| {
                !entry.snapshot_id.is_empty() && decision.snapshot_id == entry.snapshot_id
            })
            .and_then(|decision| decision.taken_at);
        // Each rule is named once, above its periods.
        let shown = if entry.rule == rule { String::new() } else { entry.rule.clone() };
        rule = &entry.rule;
        rows.push(
            &entry.period,
            [shown, entry.period.clone(), short(&entry.snapshot_id), date(taken, zone_of(plan))],
        );
    }
    text.push_str(&indented(&rows.text(), 2));
    let lost: Vec<_> = plan
        .decisions
        .iter()
        .filter(|one| {
            matches!(one.verdict(), RetentionVerdict::Quarantine | RetentionVerdict::Delete)
        })
        .map(|one| format!("{} of {}", short(&one.snapshot_id), date(one.taken_at, zone_of(plan))))
        .collect();
    if !lost.is_empty() {
        text.push_str(&format!("  would go: {}\n", lost.join(", ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use homelab_proto::controller::v1::CalendarEntry;

    use super::*;

    fn decision(id: &str, day: i64, verdict: RetentionVerdict, why: &str) -> SnapshotDecision {
        SnapshotDecision {
            snapshot_id: id.repeat(32),
            verdict: verdict.into(),
            reasons: vec![why.to_owned()],
            taken_at: Some(prost_types::Timestamp { seconds: day * 86_400, nanos: 0 }),
            source_bytes: 2_048,
            ..SnapshotDecision::default()
        }
    }

    fn plan() -> RetentionPlan {
        let entry = |rule: &str, period: &str, id: &str| CalendarEntry {
            rule: rule.to_owned(),
            period: period.to_owned(),
            snapshot_id: id.repeat(32),
        };
        RetentionPlan {
            backup: "wiki".to_owned(),
            repository: "nas".to_owned(),
            digest: "5c1f".to_owned(),
            policy: Some(KeepPolicy {
                last: 1,
                daily: 2,
                floor: 1,
                quarantine: Some(prost_types::Duration { seconds: 7 * 86_400, nanos: 0 }),
                time_zone: "UTC".to_owned(),
                ..KeepPolicy::default()
            }),
            decisions: vec![
                decision("ab", 20_000, RetentionVerdict::Keep, "newest of 2024-10-04"),
                decision("cd", 19_000, RetentionVerdict::Quarantine, "no rule keeps it"),
            ],
            calendar: vec![
                entry("daily", "2024-10-04", "ab"),
                entry("daily", "2024-10-03", ""),
                entry("last", "1", "ab"),
            ],
            applicable: true,
            ..RetentionPlan::default()
        }
    }

    #[test]
    fn a_plan_says_of_each_snapshot_what_becomes_of_it_and_why() {
        assert_eq!(
            plan_text(&plan(), Asked::Declared),
            "wiki in nas: keep 1, give up 1, given up before 0, delete 0\n  \
             policy: 1 last, 2 daily (UTC)\n  \
             floor: never fewer than 1 verified snapshots; what is given up stays recoverable for 7 d\n\n  \
             SNAPSHOT  TAKEN             VERDICT  SOURCE   DRILLED  WHY\n  \
             abababab  2024-10-04 00:00  keep     2.0 KiB  no       newest of 2024-10-04\n  \
             cdcdcdcd  2022-01-08 00:00  give up  2.0 KiB  no       no rule keeps it\n\n  \
             plan 5c1f\n  \
             next: labctl backup retention apply wiki --repository nas --digest 5c1f\n"
        );
    }

    #[test]
    fn a_brake_is_shown_with_the_command_that_lets_it_go() {
        let brake = Brake {
            reason: "SIZES_COLLAPSED".to_owned(),
            message: "2 KiB after 2 GiB".to_owned(),
            subject: "1f0c7a52".to_owned(),
            acknowledgeable: true,
            acknowledged_by: String::new(),
        };
        let braked = RetentionPlan { brakes: vec![brake], applicable: false, ..plan() };
        let text = plan_text(&braked, Asked::Declared);
        assert!(text.contains("  x SIZES_COLLAPSED: 2 KiB after 2 GiB\n"), "{text}");
        assert!(
            text.contains(
                "acknowledge wiki --brake SIZES_COLLAPSED --subject 1f0c7a52 --reason WHY"
            ),
            "{text}"
        );
        assert!(text.ends_with("nothing is given up while a brake holds\n"), "{text}");
    }

    #[test]
    fn a_plan_that_nobody_declared_says_that_nothing_of_it_will_be_done() {
        let plan = RetentionPlan { applicable: false, ..plan() };
        let text = plan_text(&plan, Asked::Declared);
        assert!(
            text.contains("nothing of this will be done: the site file has no policy"),
            "{text}"
        );
        let text = plan_text(&plan, Asked::Tried);
        assert!(text.ends_with("cannot be applied; the site file's can\n"), "{text}");
    }

    #[test]
    fn a_calendar_shows_gaps_and_what_would_go() {
        assert_eq!(
            calendars(&plan()),
            "wiki in nas: 1 last, 2 daily (UTC)\n  \
             RULE   PERIOD      SNAPSHOT  TAKEN\n  \
             daily  2024-10-04  abababab  2024-10-04 00:00\n  \
             \x20      2024-10-03  -         -\n  \
             last   1           abababab  2024-10-04 00:00\n  \
             would go: cdcdcdcd of 2022-01-08 00:00\n"
        );
    }

    #[test]
    fn a_policy_without_rules_keeps_everything() {
        assert_eq!(policy_text(&KeepPolicy::default()), "everything");
    }
}
