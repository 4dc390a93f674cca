//! What is due now, and what keeps it: pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use homelab_domain::{
    ids::{BackupName, HostName},
    reason::{Because, Reason},
    run::{RunKind, RunTrigger},
    schedule::{Due, History, Hold, Missed, Policy, Schedule},
    site::{Backup, ExpectedPower, Site},
    text,
};
use homelab_store::{ScheduleKey, ScheduleRecord};
use jiff::Timestamp;
use ring::digest::{SHA256, digest};

/// Schedules fire at most this much after the time that they name, each by its own amount, so that
/// a dozen backups at 02:00 do not all begin in the same second.
const JITTER_MAX: Duration = Duration::from_secs(20);

/// What is known of schedules and runs, all as of one moment.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The past of each schedule.
    pub records: BTreeMap<ScheduleKey, ScheduleRecord>,
    /// Runs that have not ended.
    pub open: BTreeSet<ScheduleKey>,
    /// Whatever has run at least once.
    pub ever_run: BTreeSet<ScheduleKey>,
    /// Backups that have something to drill.
    pub restorable: BTreeSet<BackupName>,
    /// Hosts whose backup-agent does not answer, and why.
    pub silent: BTreeMap<HostName, String>,
}

/// What to do about one schedule, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Which schedule.
    pub key: ScheduleKey,
    /// What to do.
    pub decision: Decision,
}

/// What to do about a schedule now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Nothing until then.
    Wait {
        /// The next time; none while paused, and when it never comes again.
        next: Option<Timestamp>,
    },
    /// Start a run.
    Start {
        /// Why.
        trigger: RunTrigger,
        /// The time that it stands for; recorded as fired for.
        scheduled_for: Timestamp,
        /// The same in a sentence.
        why: String,
    },
    /// It is due, and something keeps it.
    Hold {
        /// What.
        because: Because,
        /// Since when it is due.
        since: Timestamp,
    },
}

/// Decides for every schedule of the site, in the order of the site file.
#[must_use]
pub fn plan(now: Timestamp, site: &Site, observed: &Observed) -> Vec<Planned> {
    let mut all = Vec::new();
    for backup in site.backups() {
        let power = site.host(&backup.host).map(|host| host.expected_power).unwrap_or_default();
        for (kind, schedule) in schedules(backup) {
            let key = ScheduleKey { backup: backup.name.clone(), kind };
            let decision = decide(now, backup, &key, schedule, power, observed);
            all.push(Planned { key, decision });
        }
    }
    all
}

/// The schedules of a backup.
pub fn schedules(backup: &Backup) -> impl Iterator<Item = (RunKind, &Schedule)> {
    let drill = backup.drill.as_ref().map(|drill| (RunKind::Drill, drill));
    std::iter::once((RunKind::Backup, &backup.schedule)).chain(drill)
}

fn decide(
    now: Timestamp,
    backup: &Backup,
    key: &ScheduleKey,
    schedule: &Schedule,
    power: ExpectedPower,
    observed: &Observed,
) -> Decision {
    let record = observed.records.get(key);
    if record.is_some_and(|record| record.paused.is_some()) {
        return Decision::Wait { next: None };
    }
    let history = History {
        last_fired_for: record.and_then(|record| record.last_fired_for),
        known_since: record.map_or(now, |record| record.known_since),
    };
    let policy = Policy { jitter: jitter(key), ..Policy::default() };
    let (trigger, scheduled_for, since, why) =
        match schedule.due(now, history, policy, Hold::None) {
            Due::Nothing { .. } if is_first_drill(key, observed) => {
                let why = "the backup has never been drilled".to_owned();
                (RunTrigger::Schedule, now, now, why)
            }
            Due::Nothing { next } => return Decision::Wait { next },
            Due::Fire { scheduled_for } => {
                let why = format!("due at {}", schedule.zone().local(scheduled_for));
                (RunTrigger::Schedule, scheduled_for, scheduled_for, why)
            }
            Due::CatchUp { missed } | Due::Held { missed, .. } => {
                (RunTrigger::CatchUp, missed.newest, missed.oldest, made_up_for(schedule, missed))
            }
        };
    match obstacle(backup, key, power, observed) {
        Some(because) => Decision::Hold { because, since },
        None => Decision::Start { trigger, scheduled_for, why },
    }
}

/// The first drill does not wait for its time: a snapshot that nobody has ever restored is a hope.
fn is_first_drill(key: &ScheduleKey, observed: &Observed) -> bool {
    key.kind == RunKind::Drill
        && !observed.ever_run.contains(key)
        && observed.restorable.contains(&key.backup)
}

fn made_up_for(schedule: &Schedule, missed: Missed) -> String {
    let times = text::count(missed.count.into(), "missed time");
    format!("makes up for {times}, the newest at {}", schedule.zone().local(missed.newest))
}

/// What keeps a run that is due.
fn obstacle(
    backup: &Backup,
    key: &ScheduleKey,
    power: ExpectedPower,
    observed: &Observed,
) -> Option<Because> {
    let sibling = |kind| ScheduleKey { backup: key.backup.clone(), kind };
    let goes_on = |what: &str| Some(Because::new(in_progress(), format!("{what} goes on")));
    if observed.open.contains(key) {
        return goes_on(match key.kind {
            RunKind::Backup => "its last run",
            RunKind::Drill => "its last drill",
        });
    }
    if key.kind == RunKind::Drill && observed.open.contains(&sibling(RunKind::Backup)) {
        return goes_on("a run of the same backup");
    }
    if key.kind == RunKind::Drill && !observed.restorable.contains(&key.backup) {
        let message = "there is no verified snapshot to restore yet";
        return Some(Because::new(Reason::NEVER_BACKED_UP, message));
    }
    let why = observed.silent.get(&backup.host)?;
    Some(match power {
        ExpectedPower::On => {
            let message = format!("the backup-agent of `{}` does not answer: {why}", backup.host);
            Because::new(Reason::HOST_UNREACHABLE, message)
        }
        ExpectedPower::OnDemand => {
            let message = format!("`{}` is off until needed; wake it by hand", backup.host);
            Because::new(Reason::EXPECTED_ASLEEP, message)
        }
    })
}

/// That another run goes on.
pub(super) fn in_progress() -> Reason {
    word("RUN_IN_PROGRESS")
}

/// A reason that the domain has no constant for.
#[expect(clippy::expect_used, reason = "called with literals only, which the tests below check")]
pub(super) fn word(reason: &'static str) -> Reason {
    Reason::try_new(reason).expect("upper snake case")
}

/// By how much this schedule is late, always the same: a draw that survives restarts without being
/// stored.
fn jitter(key: &ScheduleKey) -> Duration {
    let hash = digest(&SHA256, format!("{}/{}", key.backup, key.kind).as_bytes());
    let first = hash.as_ref().first().copied().unwrap_or_default();
    JITTER_MAX.mul_f64(f64::from(first) / f64::from(u8::MAX))
}
