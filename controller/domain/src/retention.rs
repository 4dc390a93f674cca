//! Which snapshots of a backup stay, which are given up, and why: grandfather, father, son.
//!
//! The plan is pure: from what each repository holds, a policy and the time to a decision with its
//! reasons for every snapshot. Three things stand above the policy. Only verified snapshots count,
//! and never fewer of them stay than the floors say. Snapshots are ordered by the sequence in which
//! they came to be known, never by what a clock said. And a [`Brake`] stops everything as long as
//! something about the newest snapshots is not as it was. What a snapshot that stays builds on stays
//! with it, and what one builds on that can still be had back is not deleted before it.
//!
//! Giving up is done in two steps: a snapshot is put into quarantine, where it can be had back, and
//! deleted when that has ended.

mod brake;
mod calendar;
mod rule;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

pub use self::{
    brake::{Acknowledgement, Brake, BrakeKind, CLOCK_SKEW_MAX, Evidence},
    calendar::CalendarEntry,
    rule::Rule,
};
use crate::{
    ids::{BackupName, RepositoryName},
    run::DrillVerdict,
    schedule::Zone,
};

/// How much is kept. A snapshot stays when any rule keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeepPolicy {
    /// The newest so many.
    pub last: u32,
    /// The newest of each of so many hours.
    pub hourly: u32,
    /// The newest of each of so many days.
    pub daily: u32,
    /// The newest of each of so many ISO weeks.
    pub weekly: u32,
    /// The newest of each of so many months.
    pub monthly: u32,
    /// The newest of each of so many years.
    pub yearly: u32,
    /// Never fewer verified snapshots than so many in one repository; at least one.
    pub floor: u32,
    /// Never fewer verified snapshots than so many in all readable repositories together.
    pub floor_total: u32,
    /// How long a snapshot can be had back after it was given up.
    pub quarantine: Duration,
    /// In which hours, days, weeks, months and years begin.
    pub zone: Zone,
}

impl KeepPolicy {
    /// A fortnight of days, two months of weeks, a year of months, and three years: what a home
    /// keeps that said nothing.
    #[must_use]
    pub const fn home(zone: Zone) -> Self {
        Self {
            last: 3,
            hourly: 0,
            daily: 14,
            weekly: 8,
            monthly: 12,
            yearly: 3,
            floor: 3,
            floor_total: 6,
            quarantine: Duration::from_hours(7 * 24),
            zone,
        }
    }
}

/// A snapshot of one backup in one repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Identifier in the repository.
    pub id: String,
    /// Its place in the order in which snapshots came to be known; unique in the repository.
    pub sequence: u64,
    /// The moment whose state it holds, by the clock of its host.
    pub taken_at: Timestamp,
    /// When it was proved complete; none while it was not. Those count for nothing, and are left to
    /// the sweeper of the repository.
    pub verified_at: Option<Timestamp>,
    /// Bytes of the source.
    pub source_bytes: u64,
    /// Rows, files or references of the source, where it has such.
    pub items: Option<u64>,
    /// What the newest drill of it showed.
    pub drilled: Option<DrillVerdict>,
    /// Since when it is given up.
    pub quarantined_since: Option<Timestamp>,
    /// Other snapshots of the same repository without which it cannot be restored, by identifier:
    /// the whole chain, such as what an incremental stream builds on.
    pub needs: Vec<String>,
}

/// What one repository holds of the backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Which.
    pub repository: RepositoryName,
    /// What it holds, in any order.
    pub snapshots: Vec<Candidate>,
    /// What else is known of it.
    pub evidence: Evidence,
}

/// What is planned from.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Backup.
    pub backup: &'a BackupName,
    /// The policy.
    pub policy: &'a KeepPolicy,
    /// How old the newest verified snapshot may become.
    pub rpo: Duration,
    /// Every repository that holds the backup, those that cannot be read now included.
    pub holdings: &'a [Holding],
    /// What a person has let go.
    pub acknowledged: &'a [Acknowledgement],
    /// The time.
    pub now: Timestamp,
    /// Whether a time source keeps the clock that says so in step; none when nobody can tell.
    pub clock_in_step: Option<bool>,
}

/// What becomes of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stays.
    Keep,
    /// It is given up now, and can be had back until then.
    Quarantine {
        /// The end.
        until: Timestamp,
    },
    /// It was given up before, and can be had back until then.
    Quarantined {
        /// The end.
        until: Timestamp,
    },
    /// Its quarantine has ended.
    Delete,
}

/// What becomes of one snapshot, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Which.
    pub snapshot: Candidate,
    /// What becomes of it.
    pub verdict: Verdict,
    /// Why, for people; never empty.
    pub reasons: Vec<String>,
}

/// The plan for one repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Backup.
    pub backup: BackupName,
    /// Repository.
    pub repository: RepositoryName,
    /// A decision for each snapshot, the newest first.
    pub decisions: Vec<Decision>,
    /// What keeps everything as it is, those included that a person has let go.
    pub brakes: Vec<Brake>,
    /// What is kept, by the rule and the period that it stands for.
    pub calendar: Vec<CalendarEntry>,
}

impl Plan {
    /// Snapshots with a verdict, the newest first.
    fn with(&self, wanted: impl Fn(Verdict) -> bool) -> impl Iterator<Item = &Candidate> {
        self.decisions.iter().filter(move |one| wanted(one.verdict)).map(|one| &one.snapshot)
    }

    /// Identifiers of what is put into quarantine now.
    pub fn to_quarantine(&self) -> impl Iterator<Item = &str> {
        self.with(|verdict| matches!(verdict, Verdict::Quarantine { .. })).map(|one| &*one.id)
    }

    /// Identifiers of what is deleted now.
    pub fn to_delete(&self) -> impl Iterator<Item = &str> {
        self.with(|verdict| verdict == Verdict::Delete).map(|one| &*one.id)
    }

    /// Identifiers of what was in quarantine and stays after all.
    pub fn to_rescue(&self) -> impl Iterator<Item = &str> {
        let given_up = self.with(|verdict| verdict == Verdict::Keep);
        given_up.filter(|one| one.quarantined_since.is_some()).map(|one| &*one.id)
    }

    /// The first brake that nobody has let go.
    #[must_use]
    pub fn braked_by(&self) -> Option<&Brake> {
        self.brakes.iter().find(|brake| brake.acknowledged_by.is_none())
    }

    /// Whether there is anything to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.to_quarantine().next().is_none()
            && self.to_delete().next().is_none()
            && self.to_rescue().next().is_none()
    }

    /// What would be done, in a form that a digest can be made of: the same text is the same deed.
    /// What a plan would leave alone is part of it, so that a snapshot which came meanwhile makes it
    /// another plan.
    #[must_use]
    pub fn statement(&self) -> String {
        let mut text = format!("retention of {} in {}\n", self.backup, self.repository);
        for decision in &self.decisions {
            let word = match decision.verdict {
                Verdict::Keep if decision.snapshot.quarantined_since.is_some() => "rescue",
                Verdict::Keep => "keep",
                Verdict::Quarantine { .. } => "quarantine",
                Verdict::Quarantined { .. } => "quarantined",
                Verdict::Delete => "delete",
            };
            text.push_str(&format!("{word} {}\n", decision.snapshot.id));
        }
        text
    }
}

/// Plans for every repository that can be read now. The floor over all of them is why they are
/// planned for together; those that cannot be read count as empty.
#[must_use]
pub fn plan(request: &Request<'_>) -> Vec<Plan> {
    let readable = request.holdings.iter().filter(|holding| holding.evidence.trouble.is_none());
    let mut wanted: Vec<_> = readable.map(|holding| (holding, wanted(request, holding))).collect();
    keep_total(request.policy, &mut wanted);
    wanted.iter_mut().for_each(|(_, wanted)| keep_needed(wanted));
    wanted.into_iter().map(|(holding, wanted)| conclude(request, holding, wanted)).collect()
}

/// What stays in one repository, with reasons, by the place in its order.
struct Wanted<'a> {
    /// The newest first.
    ordered: Vec<&'a Candidate>,
    reasons: BTreeMap<u64, Vec<String>>,
    kept: Vec<CalendarEntry>,
}

impl Wanted<'_> {
    fn keep(&mut self, sequence: u64, why: String) {
        self.reasons.entry(sequence).or_default().push(why);
    }

    fn is_kept(&self, sequence: u64) -> bool {
        self.reasons.contains_key(&sequence)
    }

    /// Verified snapshots that stay.
    fn kept_verified(&self) -> usize {
        let verified = self.ordered.iter().filter(|one| one.verified_at.is_some());
        verified.filter(|one| self.is_kept(one.sequence)).count()
    }
}

fn wanted<'a>(request: &Request<'_>, holding: &'a Holding) -> Wanted<'a> {
    let mut ordered: Vec<_> = holding.snapshots.iter().collect();
    ordered.sort_by_key(|one| std::cmp::Reverse(one.sequence));
    let mut wanted = Wanted { ordered, reasons: BTreeMap::new(), kept: Vec::new() };
    let policy = request.policy;
    let (mut dated, mut verified) = (Vec::new(), Vec::new());
    for one in wanted.ordered.clone() {
        if one.verified_at.is_none() {
            let why = "not verified: it counts for nothing and is left to the sweeper".to_owned();
            wanted.keep(one.sequence, why);
        } else if brake::is_from_future(one, request.now) {
            let why = "taken in the future, by its host's clock: left alone until it has passed";
            wanted.keep(one.sequence, why.to_owned());
            verified.push(one);
        } else {
            dated.push(one);
            verified.push(one);
        }
    }
    for rule in Rule::ALL.iter().copied() {
        for (period, one) in rule.representatives(policy, &dated) {
            wanted.keep(one.sequence, rule.because(&period));
            wanted.kept.push(CalendarEntry { rule, period, snapshot_id: Some(one.id.clone()) });
        }
    }
    // However the policy reads: the newest stays, and so does the last one that is known to restore.
    let floor = usize::try_from(policy.floor.max(1)).unwrap_or(usize::MAX);
    for one in verified.iter().take(floor) {
        let why = format!("one of the newest {floor}, which always stay");
        wanted.keep(one.sequence, why);
    }
    if let Some(proved) = verified.iter().find(|one| one.drilled == Some(DrillVerdict::Passed)) {
        wanted.keep(proved.sequence, "the newest that was restored and found equal".to_owned());
    }
    wanted
}

/// Where all repositories together would keep fewer than the total floor, the newest of what would
/// be given up stays, whichever repository has it.
fn keep_total(policy: &KeepPolicy, all: &mut [(&Holding, Wanted<'_>)]) {
    let floor = usize::try_from(policy.floor_total).unwrap_or(usize::MAX);
    let kept: usize = all.iter().map(|(_, wanted)| wanted.kept_verified()).sum();
    let mut given_up = Vec::new();
    for (index, (_, wanted)) in all.iter().enumerate() {
        let verified = wanted
            .ordered
            .iter()
            .enumerate()
            .filter(|(_, one)| one.verified_at.is_some() && !wanted.is_kept(one.sequence));
        given_up.extend(verified.map(|(age, one)| (age, index, one.sequence)));
    }
    // Sequences of two repositories cannot be compared, places in their orders can.
    given_up.sort_unstable();
    for (_, index, sequence) in given_up.into_iter().take(floor.saturating_sub(kept)) {
        if let Some((_, wanted)) = all.get_mut(index) {
            let why = format!("all repositories together would hold fewer than {floor}");
            wanted.keep(sequence, why);
        }
    }
}

/// A snapshot that stays is worth nothing without what it builds on. Each names its whole chain; where
/// one does not, the chain is followed.
fn keep_needed(wanted: &mut Wanted<'_>) {
    let by_id: BTreeMap<&str, &Candidate> =
        wanted.ordered.iter().map(|one| (one.id.as_str(), *one)).collect();
    let mut open: Vec<&Candidate> = wanted
        .ordered
        .iter()
        .filter(|one| wanted.reasons.contains_key(&one.sequence))
        .copied()
        .collect();
    while let Some(one) = open.pop() {
        for needed in one.needs.iter().filter_map(|id| by_id.get(id.as_str())) {
            if wanted.reasons.contains_key(&needed.sequence) {
                continue;
            }
            let why = format!("snapshot {} of {} builds on it", short(&one.id), one.taken_at);
            wanted.reasons.insert(needed.sequence, vec![why]);
            open.push(needed);
        }
    }
}

fn conclude(request: &Request<'_>, holding: &Holding, wanted: Wanted<'_>) -> Plan {
    let (policy, now) = (request.policy, request.now);
    let quarantine = SignedDuration::try_from(policy.quarantine).unwrap_or(SignedDuration::MAX);
    let end = |since: Timestamp| since.checked_add(quarantine).unwrap_or(Timestamp::MAX);
    let mut reasons = wanted.reasons;
    let mut decisions = Vec::new();
    for one in wanted.ordered {
        let (verdict, reasons) = match (reasons.remove(&one.sequence), one.quarantined_since) {
            (Some(reasons), _) => (Verdict::Keep, reasons),
            (None, None) => {
                let why = "no rule keeps it".to_owned();
                (Verdict::Quarantine { until: end(now) }, vec![why])
            }
            // A clock that was set back makes quarantine longer, never shorter.
            (None, Some(since)) if now < end(since) => {
                let why = format!("given up on {}", policy.zone.local(since).date());
                (Verdict::Quarantined { until: end(since) }, vec![why])
            }
            (None, Some(since)) => {
                let why = format!(
                    "given up on {}, and its quarantine has ended",
                    policy.zone.local(since).date()
                );
                (Verdict::Delete, vec![why])
            }
        };
        decisions.push(Decision { snapshot: one.clone(), verdict, reasons });
    }
    hold_back_needed(&mut decisions);
    let mut plan = Plan {
        backup: request.backup.clone(),
        repository: holding.repository.clone(),
        calendar: calendar::filled(policy, now, wanted.kept),
        brakes: Vec::new(),
        decisions,
    };
    plan.brakes = brake::all(request, holding, &plan);
    plan
}

/// What is in quarantine can be had back, and so must what it builds on: that is deleted when nothing
/// that builds on it is left but what is deleted with it.
fn hold_back_needed(decisions: &mut [Decision]) {
    loop {
        let mut needed: BTreeMap<String, (Timestamp, String)> = BTreeMap::new();
        for one in decisions.iter() {
            let (Verdict::Quarantine { until } | Verdict::Quarantined { until }) = one.verdict
            else {
                continue;
            };
            for id in &one.snapshot.needs {
                let last = (until, one.snapshot.id.clone());
                let known = needed.entry(id.clone()).or_insert_with(|| last.clone());
                *known = known.clone().max(last);
            }
        }
        let mut is_changed = false;
        for one in decisions.iter_mut().filter(|one| one.verdict == Verdict::Delete) {
            let Some((until, by)) = needed.get(&one.snapshot.id) else { continue };
            one.verdict = Verdict::Quarantined { until: *until };
            one.reasons.push(format!("snapshot {} builds on it and can be had back", short(by)));
            is_changed = true;
        }
        if !is_changed {
            return;
        }
    }
}

/// An identifier as plain restic prints it.
fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

/// Identifiers that were seen before, that nobody gave up, and that are not there any more.
#[must_use]
pub fn vanished<'a>(
    seen: impl IntoIterator<Item = &'a str>,
    present: &BTreeSet<&str>,
) -> Vec<String> {
    let gone = seen.into_iter().filter(|id| !present.contains(id));
    gone.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
