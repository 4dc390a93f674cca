//! The calendar of what is kept: every period that a rule speaks of, empty ones included.

use std::collections::BTreeMap;

use jiff::{Span, Timestamp, ToSpan as _};

use super::{KeepPolicy, Rule};

/// Empty periods that are shown at most for one rule.
const EMPTY_MAX: u32 = 400;

/// One period, and what is kept for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CalendarEntry {
    /// The rule.
    pub rule: Rule,
    /// The period, such as `2026-02-03`, `2026-W06`; for the newest, its number.
    pub period: String,
    /// The snapshot that is kept for it; none when there is none.
    pub snapshot_id: Option<String>,
}

/// The entries of each rule, the newest first, with the periods of the present that have nothing.
pub(super) fn filled(
    policy: &KeepPolicy,
    now: Timestamp,
    kept: Vec<CalendarEntry>,
) -> Vec<CalendarEntry> {
    let mut by_rule: BTreeMap<Rule, Vec<CalendarEntry>> = BTreeMap::new();
    for entry in kept {
        by_rule.entry(entry.rule).or_default().push(entry);
    }
    let mut all = Vec::new();
    for rule in Rule::ALL.iter().copied() {
        let mut entries = by_rule.remove(&rule).unwrap_or_default();
        let Some(step) = step(rule) else {
            all.append(&mut entries);
            continue;
        };
        for back in 0..rule.count(policy).min(EMPTY_MAX) {
            let at = policy.zone.local(now).checked_sub(step * i64::from(back));
            let Some(period) = at.ok().and_then(|at| rule.period(&at)) else { break };
            if !entries.iter().any(|entry| entry.period == period) {
                entries.push(CalendarEntry { rule, period, snapshot_id: None });
            }
        }
        // Every form sorts as its time does.
        entries.sort_by(|a, b| b.period.cmp(&a.period));
        all.append(&mut entries);
    }
    all
}

fn step(rule: Rule) -> Option<Span> {
    match rule {
        Rule::Last => None,
        Rule::Hourly => Some(1.hour()),
        Rule::Daily => Some(1.day()),
        Rule::Weekly => Some(1.week()),
        Rule::Monthly => Some(1.month()),
        Rule::Yearly => Some(1.year()),
    }
}
