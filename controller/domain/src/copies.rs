//! Where the copies of a backup are, and whether they make 3-2-1: three copies, on two media, one of
//! them elsewhere. Counted from what was seen, never from what was configured.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;

use crate::{ids::RepositoryName, text::span};

/// What was seen may be this old; a repository that nobody has been able to read since holds nothing
/// that can be counted on.
const SEEN_AGE_MAX: Duration = Duration::from_hours(24);

crate::words! {
    /// What a copy is.
    CopyRole {
        /// The thing itself.
        Source = "source",
        /// The repository that runs go to.
        Primary = "primary",
        /// A repository that runs are copied to.
        Copy = "copy",
        /// A place that takes runs while the primary is away.
        Spool = "spool",
    }
}

/// What is known of one copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyFact {
    /// What it is.
    pub role: CopyRole,
    /// Repository; none for the source.
    pub repository: Option<RepositoryName>,
    /// Copies on the same medium are lost together.
    pub medium: String,
    /// Copies at the same place burn together.
    pub place: String,
    /// The moment of the newest verified snapshot there; for the source, the present.
    pub newest_at: Option<Timestamp>,
    /// Verified snapshots there.
    pub snapshots: Option<u32>,
    /// When it was last looked at with success.
    pub seen_at: Option<Timestamp>,
    /// Why it cannot be read now.
    pub trouble: Option<String>,
    /// Damage that was found and not mended.
    pub damage: Option<String>,
    /// When all of its data was last read and found whole.
    pub scrubbed_at: Option<Timestamp>,
    /// Its agent can add and cannot delete.
    pub append_only: Option<bool>,
}

/// One copy, and whether it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyStatus {
    /// What is known.
    pub fact: CopyFact,
    /// Why it does not count; none when it does.
    pub why_not: Option<String>,
}

/// The rule, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopyRule {
    /// Copies that count, the source included.
    pub copies: u32,
    /// Distinct media of them.
    pub media: u32,
    /// Copies at another place than the source.
    pub off_site: u32,
    /// What is missing, for people; empty when the rule is met.
    pub missing: Vec<String>,
}

impl CopyRule {
    /// Three, two, one.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.missing.is_empty()
    }
}

/// Judges each copy by itself, then counts: one that is stale, damaged or cannot be read counts for
/// nothing, whatever the others are. `max_age` is what the target allows.
#[must_use]
pub fn judge(
    now: Timestamp,
    max_age: Duration,
    facts: Vec<CopyFact>,
) -> (CopyRule, Vec<CopyStatus>) {
    let primary = facts.iter().find(|fact| fact.role == CopyRole::Primary);
    let in_primary = primary.filter(|fact| fact.trouble.is_none()).and_then(|fact| fact.newest_at);
    let judged: Vec<_> = facts
        .into_iter()
        .map(|fact| CopyStatus { why_not: why_not(now, max_age, in_primary, &fact), fact })
        .collect();
    let counting: Vec<_> =
        judged.iter().filter(|one| one.why_not.is_none()).map(|one| &one.fact).collect();
    let home = judged.iter().find(|one| one.fact.role == CopyRole::Source);
    let home = home.map(|one| one.fact.place.as_str()).unwrap_or_default();
    let media: BTreeSet<_> = counting.iter().map(|fact| fact.medium.as_str()).collect();
    let off_site = counting.iter().filter(|fact| fact.place != home).count();
    let [copies, media, off_site] =
        [counting.len(), media.len(), off_site].map(|one| u32::try_from(one).unwrap_or(u32::MAX));
    let mut missing = Vec::new();
    if copies < 3 {
        missing.push(format!("{copies} of 3 copies count"));
    }
    if media < 2 {
        missing.push(format!("{media} of 2 media"));
    }
    if off_site < 1 {
        missing.push("no copy at another place".to_owned());
    }
    (CopyRule { copies, media, off_site, missing }, judged)
}

fn why_not(
    now: Timestamp,
    max_age: Duration,
    in_primary: Option<Timestamp>,
    fact: &CopyFact,
) -> Option<String> {
    if fact.role == CopyRole::Source {
        return None;
    }
    if let Some(trouble) = &fact.trouble {
        return Some(format!("it cannot be read: {trouble}"));
    }
    if let Some(damage) = &fact.damage {
        return Some(format!("damage was found in it: {damage}"));
    }
    match fact.seen_at {
        None => return Some("nobody has looked into it yet".to_owned()),
        Some(at) if age(now, at) > SEEN_AGE_MAX => {
            return Some(format!("nobody has looked into it for {}", span(age(now, at))));
        }
        Some(_) => {}
    }
    let Some(newest) = fact.newest_at else {
        return Some("it holds no verified snapshot".to_owned());
    };
    if fact.role == CopyRole::Spool && in_primary.is_some_and(|primary| primary >= newest) {
        return Some("everything in it has reached the first repository".to_owned());
    }
    let age = age(now, newest);
    (age > max_age).then(|| {
        format!("its newest snapshot is {} old, and {} is allowed", span(age), span(max_age))
    })
}

fn age(now: Timestamp, at: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(at)).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_790_000_000).unwrap()
    }

    fn hours_ago(hours: i64) -> Timestamp {
        now() - SignedDuration::from_hours(hours)
    }

    fn copy(role: CopyRole, medium: &str, place: &str) -> CopyFact {
        CopyFact {
            role,
            repository: RepositoryName::try_new(medium).ok().filter(|_| role != CopyRole::Source),
            medium: medium.to_owned(),
            place: place.to_owned(),
            newest_at: Some(hours_ago(2)),
            snapshots: Some(9),
            seen_at: Some(hours_ago(0)),
            trouble: None,
            damage: None,
            scrubbed_at: None,
            append_only: None,
        }
    }

    fn three() -> Vec<CopyFact> {
        vec![
            copy(CopyRole::Source, "ssd", "home"),
            copy(CopyRole::Primary, "nas", "home"),
            copy(CopyRole::Copy, "usb", "parents"),
        ]
    }

    fn rule(facts: Vec<CopyFact>) -> (CopyRule, Vec<Option<String>>) {
        let (rule, judged) = judge(now(), Duration::from_hours(26), facts);
        (rule, judged.into_iter().map(|one| one.why_not).collect())
    }

    #[test]
    fn three_copies_on_two_media_with_one_elsewhere_meet_the_rule() {
        let (rule, _) = rule(three());
        assert!(rule.is_met(), "{:?}", rule.missing);
        assert_eq!((rule.copies, rule.media, rule.off_site), (3, 3, 1));
    }

    #[test]
    fn pitfall_39_a_target_that_failed_is_not_made_up_for_by_one_that_did_not() {
        let mut facts = three();
        facts[2].newest_at = Some(hours_ago(27));
        let (stale, why) = rule(facts.clone());
        assert!(!stale.is_met() && (stale.copies, stale.off_site) == (2, 0));
        assert_eq!(stale.missing, ["2 of 3 copies count", "no copy at another place"]);
        assert!(why[2].as_ref().is_some_and(|why| why.contains("1 d 3 h old")), "{why:?}");
        assert_eq!(why[1], None, "and the failure of one does not make the other fail");
        for spoil in [
            (|fact| fact.trouble = Some("the mount hangs".to_owned())) as fn(&mut CopyFact),
            |fact| fact.damage = Some("2 packs".to_owned()),
            |fact| fact.seen_at = None,
            |fact| fact.seen_at = Some(hours_ago(25)),
            |fact| fact.newest_at = None,
        ] {
            let mut facts = three();
            spoil(&mut facts[2]);
            assert_eq!(rule(facts).0.off_site, 0);
        }
    }

    #[test]
    fn two_repositories_on_one_medium_are_one_medium() {
        let mut facts = three();
        for fact in &mut facts {
            fact.medium = "nas".to_owned();
        }
        assert_eq!(rule(facts).0.missing, ["1 of 2 media"]);
    }

    #[test]
    fn a_spool_counts_only_while_it_holds_what_the_first_repository_does_not() {
        let mut facts = three();
        facts.push(copy(CopyRole::Spool, "spool", "home"));
        assert_eq!(rule(facts.clone()).0.copies, 3);
        facts[1].newest_at = Some(hours_ago(20));
        assert_eq!(rule(facts).0.copies, 4);
    }
}
