//! What stops retention: signs that the newest snapshots are not what they were, or that nobody
//! knows what is there.

use std::time::Duration;

use jiff::Timestamp;

use super::{Candidate, Holding, Plan, Request, Verdict, short};
use crate::{
    reason::Reason,
    run::DrillVerdict,
    text::{count, span},
};

/// Clocks of two hosts may differ by this much without a word.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_mins(5);

/// What a repository was last seen to hold may be this old.
const LISTING_AGE_MAX: Duration = Duration::from_hours(3);

/// Snapshots before the newest that it is measured against.
const COMPARED: usize = 7;

/// With fewer than these there is no usual size.
const COMPARED_MIN: usize = 3;

/// Less than this part of what is usual, in percent, is a collapse.
const COLLAPSE_PERCENT: u64 = 50;

/// So many at once, and more than half, are a sign of a wrong policy.
const AT_ONCE_MIN: usize = 10;

crate::words! {
    /// Why nothing is given up.
    BrakeKind {
        /// The newest verified snapshot is older than the target.
        NewestTooOld = "NEWEST_TOO_OLD",
        /// The newest is much smaller than those before.
        SizesCollapsed = "SIZES_COLLAPSED",
        /// The newest has much fewer rows, files or references than those before.
        RowsCollapsed = "ROWS_COLLAPSED",
        /// A clock was moved: the order of times is not the order of snapshots.
        ClockMoved = "CLOCK_MOVED",
        /// No time source keeps the clock in step that ages are measured with.
        ClockUnsynchronized = "CLOCK_UNSYNCHRONIZED",
        /// What is known of the snapshots is old, or the last drill failed.
        UnverifiedEvidence = "UNVERIFIED_EVIDENCE",
        /// The repository has no room, so that nobody knows what the next run leaves.
        RepositoryFull = "REPOSITORY_FULL",
        /// A verified snapshot is gone, and nobody gave it up.
        SnapshotVanished = "SNAPSHOT_VANISHED",
        /// More than half would go at once.
        TooManyAtOnce = "TOO_MANY_AT_ONCE",
    }
}

impl BrakeKind {
    /// The word as a reason.
    #[must_use]
    pub fn reason(self) -> Reason {
        match self {
            Self::NewestTooOld => Reason::NEWEST_TOO_OLD,
            Self::SizesCollapsed => Reason::SIZES_COLLAPSED,
            Self::RowsCollapsed => Reason::ROWS_COLLAPSED,
            Self::ClockMoved => Reason::CLOCK_MOVED,
            Self::ClockUnsynchronized => Reason::CLOCK_UNSYNCHRONIZED,
            Self::UnverifiedEvidence => Reason::UNVERIFIED_EVIDENCE,
            Self::RepositoryFull => Reason::REPOSITORY_FULL,
            Self::SnapshotVanished => Reason::SNAPSHOT_VANISHED,
            Self::TooManyAtOnce => Reason::TOO_MANY_AT_ONCE,
        }
    }

    /// Whether a person may let it go. The others are let go by putting things right.
    #[must_use]
    pub const fn is_acknowledgeable(self) -> bool {
        !matches!(
            self,
            Self::NewestTooOld
                | Self::ClockUnsynchronized
                | Self::UnverifiedEvidence
                | Self::RepositoryFull
        )
    }
}

/// One brake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Brake {
    /// Which.
    pub kind: BrakeKind,
    /// What showed it; a person lets go of this, not of the next of its kind.
    pub subject: String,
    /// The same for people, with the figures.
    pub message: String,
    /// Who has let it go, and why.
    pub acknowledged_by: Option<String>,
}

/// What a person has let go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    /// Which.
    pub kind: BrakeKind,
    /// What showed it.
    pub subject: String,
    /// Who, and why.
    pub by: String,
}

/// What else is known of a repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// When its snapshots were listed; none when they never were.
    pub listed_at: Option<Timestamp>,
    /// Why it cannot be read now. It is not planned for then.
    pub trouble: Option<String>,
    /// It has no room for another run.
    pub is_full: bool,
    /// Verified snapshots that were seen there, that nobody gave up, and that are gone.
    pub vanished: Vec<String>,
    /// What the newest drill from it showed.
    pub last_drill: Option<DrillVerdict>,
    /// The latest time that was ever seen, here or by an agent; a clock behind it was set back.
    pub latest_seen: Option<Timestamp>,
}

pub(super) fn is_from_future(one: &Candidate, now: Timestamp) -> bool {
    later(one.taken_at, now) > CLOCK_SKEW_MAX
}

/// Every brake on a repository, those that were let go included.
pub(super) fn all(request: &Request<'_>, holding: &Holding, plan: &Plan) -> Vec<Brake> {
    let verified = plan.decisions.iter().map(|decision| &decision.snapshot);
    let verified: Vec<_> = verified.filter(|one| one.verified_at.is_some()).collect();
    let mut found = Vec::new();
    found.extend(newest_too_old(request, &verified));
    found.extend(collapsed(&verified));
    if request.clock_in_step == Some(false) {
        let message = "no time source keeps the controller's clock in step: its host needs NTP, then \
                       retention goes on";
        found.push((BrakeKind::ClockUnsynchronized, String::new(), message.to_owned()));
    }
    found.extend(clock_moved(request.now, &verified, &holding.evidence));
    found.extend(unverified(request.now, &holding.evidence));
    if holding.evidence.is_full {
        let message = "the repository is full: make room first, then retention goes on".to_owned();
        found.push((BrakeKind::RepositoryFull, holding.repository.to_string(), message));
    }
    for id in &holding.evidence.vanished {
        let message = format!("verified snapshot {id} is gone, and nobody gave it up");
        found.push((BrakeKind::SnapshotVanished, id.clone(), message));
    }
    found.extend(too_many(plan, &verified));
    let known = |kind, subject: &str| {
        let mut known = request.acknowledged.iter();
        known.find(|one| one.kind == kind && one.subject == *subject && kind.is_acknowledgeable())
    };
    let brakes = found.into_iter().map(|(kind, subject, message)| Brake {
        acknowledged_by: known(kind, &subject).map(|one| one.by.clone()),
        kind,
        subject,
        message,
    });
    brakes.collect()
}

type Found = (BrakeKind, String, String);

fn newest_too_old(request: &Request<'_>, verified: &[&Candidate]) -> Option<Found> {
    let Some(newest) = verified.first() else {
        let message = "there is no verified snapshot".to_owned();
        return Some((BrakeKind::NewestTooOld, String::new(), message));
    };
    let age = later(request.now, newest.taken_at);
    (age > request.rpo).then(|| {
        let message = format!(
            "the newest verified snapshot is {} old, and {} is allowed",
            span(age),
            span(request.rpo)
        );
        (BrakeKind::NewestTooOld, newest.id.clone(), message)
    })
}

fn collapsed(verified: &[&Candidate]) -> Vec<Found> {
    let mut found = Vec::new();
    // The newest alone would forget a collapse with the next run that is as small.
    for (place, one) in verified.iter().enumerate().take(COMPARED) {
        let before = || verified.iter().skip(place + 1).take(COMPARED);
        let sizes: Vec<_> = before().map(|one| one.source_bytes).collect();
        if let Some(usual) = fallen(one.source_bytes, sizes) {
            let message = format!(
                "snapshot {} of {} holds {} bytes, and {usual} are usual",
                short(&one.id),
                one.taken_at,
                one.source_bytes
            );
            found.push((BrakeKind::SizesCollapsed, one.id.clone(), message));
        }
        let items: Vec<_> = before().filter_map(|one| one.items).collect();
        if let Some((items, usual)) =
            one.items.and_then(|now| fallen(now, items).map(|usual| (now, usual)))
        {
            let message = format!(
                "snapshot {} of {} holds {items} rows, and {usual} are usual",
                short(&one.id),
                one.taken_at
            );
            found.push((BrakeKind::RowsCollapsed, one.id.clone(), message));
        }
    }
    found
}

/// The median of those before, when what is there now is much less.
fn fallen(now: u64, mut before: Vec<u64>) -> Option<u64> {
    if before.len() < COMPARED_MIN {
        return None;
    }
    before.sort_unstable();
    let usual = *before.get(before.len() / 2)?;
    let limit = u128::from(usual) * u128::from(COLLAPSE_PERCENT);
    (u128::from(now) * 100 < limit).then_some(usual)
}

fn clock_moved(now: Timestamp, verified: &[&Candidate], evidence: &Evidence) -> Vec<Found> {
    let mut found = Vec::new();
    if let Some(seen) = evidence.latest_seen.filter(|seen| later(*seen, now) > CLOCK_SKEW_MAX) {
        let message = format!("it is {now} by this clock, and {seen} was seen before");
        found.push((BrakeKind::ClockMoved, seen.to_string(), message));
    }
    for one in verified.iter().filter(|one| is_from_future(one, now)) {
        let message = format!("snapshot {} is of {}, in the future", short(&one.id), one.taken_at);
        found.push((BrakeKind::ClockMoved, one.id.clone(), message));
    }
    for pair in verified.windows(2) {
        let [newer, older] = pair else { continue };
        if later(older.taken_at, newer.taken_at) > CLOCK_SKEW_MAX && !is_from_future(older, now) {
            let message = format!(
                "snapshot {} came after {}, and is of an earlier time ({} and {})",
                short(&newer.id),
                short(&older.id),
                newer.taken_at,
                older.taken_at
            );
            found.push((BrakeKind::ClockMoved, newer.id.clone(), message));
        }
    }
    found
}

fn unverified(now: Timestamp, evidence: &Evidence) -> Option<Found> {
    let message = match evidence.listed_at {
        None => "its snapshots have never been listed".to_owned(),
        Some(at) if later(now, at) > LISTING_AGE_MAX => {
            format!("its snapshots were last listed {} ago", span(later(now, at)))
        }
        Some(_) if evidence.last_drill == Some(DrillVerdict::Failed) => {
            "the last drill from it failed: what is older may be all that restores".to_owned()
        }
        Some(_) => return None,
    };
    Some((BrakeKind::UnverifiedEvidence, String::new(), message))
}

fn too_many(plan: &Plan, verified: &[&Candidate]) -> Option<Found> {
    let leaves =
        |decision: &&super::Decision| matches!(decision.verdict, Verdict::Quarantine { .. });
    let going: Vec<_> = plan.decisions.iter().filter(leaves).collect();
    if going.len() < AT_ONCE_MIN || going.len() * 2 <= verified.len() {
        return None;
    }
    // The newest of them names the lot: one more snapshot of tomorrow does not change it.
    let subject = going.first().map(|one| one.snapshot.id.clone()).unwrap_or_default();
    let number = u64::try_from(going.len()).unwrap_or(u64::MAX);
    let message =
        format!("{} of {} would be given up at once", count(number, "snapshot"), verified.len());
    Some((BrakeKind::TooManyAtOnce, subject, message))
}

/// By how much the one is later than the other; zero when it is not.
fn later(one: Timestamp, other: Timestamp) -> Duration {
    Duration::try_from(one.duration_since(other)).unwrap_or(Duration::ZERO)
}
