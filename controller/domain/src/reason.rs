//! Stable reasons, and failures made of them.

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Serialize};

/// A stable `UPPER_SNAKE` word for why something is as it is. Programs match
/// it; people read the message beside it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reason(Cow<'static, str>);

/// The text is no reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no reason: 1 to 64 of A-Z, 0-9 and _, beginning with a letter")]
pub struct InvalidReason(String);

impl Reason {
    /// Checks a reason that comes from outside.
    pub fn try_new(text: impl Into<String>) -> Result<Self, InvalidReason> {
        let text = text.into();
        let fits = (1..=64).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_uppercase())
            && text.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
        if fits { Ok(Self(Cow::Owned(text))) } else { Err(InvalidReason(text)) }
    }

    /// The word.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident;)+) => {
        impl Reason {$(
            $(#[$doc])*
            pub const $name: Self = Self(Cow::Borrowed(stringify!($name)));
        )+}
    };
}

reasons! {
    /// A repository cannot be read, so that nobody knows what it holds.
    REPOSITORY_UNAVAILABLE;
    /// A job has been put into the queue.
    SUBMITTED;
    /// A job is in the queue again because a person asked for it.
    RETRIED;
    /// A job can run as soon as a slot is free.
    READY;
    /// A job was given to a worker.
    ASSIGNED;
    /// A job has written its first token.
    STARTED;
    /// Everything that was asked for was done.
    COMPLETED;
    /// A person or the caller did not want it any more.
    CANCELLED;
    /// The deadline came first.
    DEADLINE_EXCEEDED;
    /// The worker's heartbeats stopped.
    LEASE_EXPIRED;
    /// The worker gave the job back.
    WORKER_RELEASED;
    /// Every allowed attempt was used.
    ATTEMPTS_EXHAUSTED;
    /// An attempt broke off after text had been shown.
    OUTPUT_ALREADY_SHOWN;
    /// The worker's host sleeps, as expected.
    WORKER_ASLEEP;
    /// The worker does not answer.
    WORKER_UNREACHABLE;
    /// The worker or its host takes no new work.
    WORKER_DRAINING;
    /// Every slot is in use.
    NO_FREE_SLOT;
    /// The engines that could load the model work on others.
    ENGINES_BUSY;
    /// The model takes no new jobs where it is, so that another one gets its engine.
    MODEL_MAKES_ROOM;
    /// No worker of the tier has the model.
    MODEL_NOT_FOUND;
    /// The model is known, and nothing is loaded for this job.
    MODEL_NOT_LOADED;
    /// The model is known and cannot be loaded now.
    MODEL_FAILED;
    /// No tier of that kind is in the site file.
    TIER_NOT_CONFIGURED;
    /// The external tier is not part of this site.
    GOLD_NOT_CONFIGURED;
    /// No rule lets the text leave the house.
    GOLD_REFUSED;
    /// A budget has no room for what it may cost.
    GOLD_BUDGET_EXHAUSTED;
    /// It is to stay in the house, whatever the rules say.
    LOCAL_ONLY;
    /// The queue holds as much as it may.
    QUEUE_FULL;
    /// A host answers and every condition holds.
    ALL_CONDITIONS_HOLD;
    /// A condition does not hold.
    CONDITION_FALSE;
    /// A condition could not be found out.
    CONDITION_UNKNOWN;
    /// A daemon of the host does not answer.
    DAEMON_UNREACHABLE;
    /// Nothing of the host answers.
    HOST_UNREACHABLE;
    /// Not looked at yet.
    NOT_OBSERVED;
    /// In the site file, never enrolled.
    NOT_ENROLLED;
    /// Off until needed.
    EXPECTED_ASLEEP;
    /// A person takes work off the host.
    DRAINED;
    /// A person holds a host awake.
    HELD_AWAKE;
    /// A person holds a host asleep.
    HELD_ASLEEP;
    /// A person asked for it.
    ASKED_FOR;
    /// Somebody waits for an answer.
    INTERACTIVE_WAITS;
    /// So much work waits that waking pays.
    QUEUE_PAYS;
    /// Too little work waits for waking to pay.
    QUEUE_TOO_SMALL;
    /// A job has waited as long as it may.
    WAITED_LONG;
    /// A job must begin soon.
    LATEST_START_NEAR;
    /// A time is open in which any work wakes.
    WAKE_WINDOW;
    /// Energy costs too much now for work that can wait.
    ENERGY_DEAR;
    /// Nothing waits that could wake a host.
    NOTHING_WAITS;
    /// Attempts to wake a host failed, and the next one waits.
    WAKE_BACKS_OFF;
    /// A host was woken and is on its way.
    WAKING;
    /// A boot takes longer than usual.
    WAKE_LATE;
    /// Nothing answered to the signal to wake.
    DID_NOT_WAKE;
    /// A host began to boot and did not come up.
    DIED_BOOTING;
    /// The site file or the host itself does not let it sleep.
    SLEEP_NOT_ALLOWED;
    /// Jobs run on a host.
    JOBS_RUNNING;
    /// Jobs wait for a host.
    JOBS_QUEUED;
    /// A host has not been idle for long enough.
    NOT_IDLE_LONG;
    /// A host would be woken again too soon.
    NEXT_WAKE_SOON;
    /// Nobody has seen lately that a host comes back.
    WAKE_UNPROVED;
    /// No network card is set to wake its host.
    WAKE_NOT_ARMED;
    /// Something that must be known is not.
    FACT_UNKNOWN;
    /// Guests run on a host.
    GUESTS_RUNNING;
    /// Somebody is logged in on a host.
    SESSIONS_OPEN;
    /// A backup, replication or other task runs on a host.
    TASKS_RUNNING;
    /// A scrub or rebuild of disks runs on a host.
    SCRUB_RUNNING;
    /// A program asked the host not to sleep.
    INHIBITED;
    /// A run of a backup, a drill or an operation needs a host.
    RUN_OPEN;
    /// A host is about to sleep.
    FALLING_ASLEEP;
    /// There is no verified snapshot.
    NEVER_BACKED_UP;
    /// The newest verified snapshot is older than its target.
    RPO_MISSED;
    /// No snapshot of the backup has been restored and compared.
    NEVER_DRILLED;
    /// The newest drill showed a difference.
    DRILL_FAILED;
    /// The newest run failed.
    RUN_FAILED;
    /// A person paused the schedule.
    SCHEDULE_PAUSED;
    /// Contact with a run was lost.
    RUN_UNKNOWN;
    /// Clocks differ by more than can be overlooked.
    CLOCK_SKEW;
    /// The newest verified snapshot is too old for older ones to be given up.
    NEWEST_TOO_OLD;
    /// The newest snapshot is much smaller than those before.
    SIZES_COLLAPSED;
    /// The newest snapshot holds much less than those before.
    ROWS_COLLAPSED;
    /// A clock was moved, so that times do not say what came first.
    CLOCK_MOVED;
    /// No time source keeps the controller's clock in step, so that ages cannot be trusted.
    CLOCK_UNSYNCHRONIZED;
    /// What is known of the snapshots is old or was found wrong.
    UNVERIFIED_EVIDENCE;
    /// A repository has no room.
    REPOSITORY_FULL;
    /// A verified snapshot is gone, and nobody gave it up.
    SNAPSHOT_VANISHED;
    /// Nobody has shown lately that the recovery kit opens everything.
    KIT_UNPROVED;
    /// The recovery kit did not open everything.
    KIT_FAILED;
    /// The site has changed since the recovery kit was made.
    KIT_OUTDATED;
    /// What opens a backup is kept only inside of what it protects.
    RECOVERY_LOOP;
    /// Copies, media and places do not make 3-2-1.
    COPIES_MISSING;
    /// Restores take longer than their target.
    RTO_MISSED;
    /// What comes before failed: a backup, so that this run stands alone, or a job, so that this one
    /// cannot run.
    DEPENDENCY_FAILED;
    /// It waits for a backup or a job that comes before.
    WAITS_FOR_DEPENDENCY;
    /// A maintenance window is open.
    MAINTENANCE;
    /// All data of a repository has not been read for too long.
    SCRUB_OVERDUE;
    /// Reading all data of a repository found damage.
    REPOSITORY_DAMAGED;
    /// A spool holds what its repository has not got.
    SPOOL_NOT_DRAINED;
    /// More than half of the snapshots would be given up at once.
    TOO_MANY_AT_ONCE;
    /// Jobs failed.
    JOBS_FAILED;
    /// A job has waited for long.
    JOB_WAITS_LONG;
    /// A source of documents cannot be read, so that what is searched grows old.
    CONTEXT_NOT_READ;
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Reason {
    type Error = InvalidReason;

    fn try_from(text: String) -> Result<Self, InvalidReason> {
        Self::try_new(text)
    }
}

impl From<Reason> for String {
    fn from(reason: Reason) -> Self {
        reason.0.into_owned()
    }
}

/// Why something was refused or went wrong, as data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The stable word.
    pub reason: Reason,
    /// What failed, on what, why and what to do next, for people.
    pub message: String,
    /// Whether the same may succeed later without any change.
    pub retryable: bool,
}

/// One reason of a decision: the word and the sentence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Because {
    /// The stable word.
    pub reason: Reason,
    /// The same for people, with the figures behind it.
    pub message: String,
}

impl Because {
    /// Joins a word and its sentence.
    #[must_use]
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_upper_snake_is_a_reason() {
        assert_eq!(Reason::try_new("WORKER_ASLEEP").unwrap(), Reason::WORKER_ASLEEP);
        for wrong in ["", "worker_asleep", "9LIVES", "A B", &"A".repeat(65)] {
            assert!(Reason::try_new(wrong).is_err(), "{wrong}");
        }
    }
}
