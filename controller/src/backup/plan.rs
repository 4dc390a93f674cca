//! What is due now, and what keeps it: pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use homelab_domain::{
    ids::{BackupName, HostName},
    reason::{Because, Reason},
    run::{Run, RunKind, RunStateKind, RunTrigger},
    schedule::{Due, History, Hold, Missed, Policy, Schedule},
    site::{Backup, ExpectedPower, Site, Window},
    text,
};
use homelab_store::{ScheduleKey, ScheduleRecord};
use jiff::{SignedDuration, Timestamp};
use ring::digest::{SHA256, digest};

/// A run of another backup belongs to the same round when its time lies at most this long before.
const ROUND_MAX: SignedDuration = SignedDuration::from_hours(24);

/// What is known of schedules and runs, all as of one moment.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The past of each schedule.
    pub records: BTreeMap<ScheduleKey, ScheduleRecord>,
    /// Runs that have not ended.
    pub open: BTreeSet<ScheduleKey>,
    /// The newest run of whatever has run at least once.
    pub last: BTreeMap<ScheduleKey, Run>,
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
        /// What else a reader of the run must know, a sentence each.
        notes: Vec<String>,
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
        for (kind, schedule) in schedules(backup) {
            let key = ScheduleKey { backup: backup.name.clone(), kind };
            let decision = decide(now, site, backup, &key, schedule, observed);
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
    site: &Site,
    backup: &Backup,
    key: &ScheduleKey,
    schedule: &Schedule,
    observed: &Observed,
) -> Decision {
    let record = observed.records.get(key);
    let paused = record.and_then(|record| record.paused.as_ref());
    if let Some(paused) = paused.filter(|paused| paused.lasts(now)) {
        return Decision::Wait { next: paused.until.and_then(|until| schedule.next_after(until)) };
    }
    // A pause that has ended by itself makes up for as little as one that was ended.
    let resumed_at = paused.and_then(|paused| paused.until);
    let history = History {
        last_fired_for: record.and_then(|record| record.last_fired_for).max(resumed_at),
        known_since: record.map_or(now, |record| record.known_since),
    };
    let policy = Policy { jitter: jitter(backup, key), ..Policy::default() };
    let (trigger, scheduled_for, since, why) = match schedule.due(now, history, policy, Hold::None)
    {
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
    if let Some(because) = obstacle(now, site, backup, key, observed) {
        return Decision::Hold { because, since };
    }
    let mut notes = Vec::new();
    for name in backup.after.iter().filter(|_| key.kind == RunKind::Backup) {
        match before(now, site, backup, name, scheduled_for, observed) {
            Before::Served => {}
            Before::Waits(message) => {
                let because = Because::new(Reason::WAITS_FOR_DEPENDENCY, message);
                return Decision::Hold { because, since };
            }
            Before::Missing(note) => notes.push(note),
        }
    }
    Decision::Start { trigger, scheduled_for, why, notes }
}

/// What became of a backup that comes before another.
enum Before {
    /// Its run of this round ended well, or it has none.
    Served,
    /// Its run of this round is still to come.
    Waits(String),
    /// It came to nothing, or was waited for long enough; the other runs all the same.
    Missing(String),
}

/// Whether `backup`, due at `scheduled_for`, need not wait for `name` any more. A failure before it
/// does not keep it: half of a state is more than nothing, and the run says what it lacks.
fn before(
    now: Timestamp,
    site: &Site,
    backup: &Backup,
    name: &BackupName,
    scheduled_for: Timestamp,
    observed: &Observed,
) -> Before {
    let Some(first) = site.backup(name) else { return Before::Served };
    let key = ScheduleKey { backup: name.clone(), kind: RunKind::Backup };
    let record = observed.records.get(&key);
    let begun = scheduled_for.checked_sub(ROUND_MAX).unwrap_or(Timestamp::MIN);
    let begun = record.map_or(begun, |record| begun.max(record.known_since));
    let Some(round) = first.schedule.newest_in(begun, scheduled_for) else { return Before::Served };
    if observed.open.contains(&key) {
        return Before::Waits(format!("waits for the run of `{name}` that goes on"));
    }
    let last = observed.last.get(&key).filter(|run| {
        run.spec.started_at >= round || run.spec.scheduled_for.is_some_and(|at| at >= round)
    });
    if let Some(run) = last {
        return match run.state.kind() {
            RunStateKind::Succeeded => Before::Served,
            state => Before::Missing(format!(
                "`{name}` comes before it and has {state}: {}",
                run.spec.id
            )),
        };
    }
    let paused = record.and_then(|record| record.paused.as_ref());
    if paused.is_some_and(|paused| paused.lasts(now)) {
        return Before::Missing(format!("`{name}` comes before it and is paused"));
    }
    // What nothing keeps for long begins in a moment; anything else is waited for as long as `backup`
    // may be late. No backup comes before itself, so that this ends.
    let begins = match decide(now, site, first, &key, &first.schedule, observed) {
        Decision::Start { .. } => true,
        Decision::Hold { because, .. } => {
            [Reason::MAINTENANCE, Reason::WAITS_FOR_DEPENDENCY].contains(&because.reason)
        }
        Decision::Wait { .. } => false,
    };
    let late = Duration::try_from(now.duration_since(scheduled_for)).unwrap_or_default();
    if begins || late <= backup.grace {
        return Before::Waits(format!("waits for `{name}`, which comes before it"));
    }
    let round = first.schedule.zone().local(round);
    Before::Missing(format!("`{name}` comes before it and has not run for {round}"))
}

/// The first drill does not wait for its time: a snapshot that nobody has ever restored is a hope.
fn is_first_drill(key: &ScheduleKey, observed: &Observed) -> bool {
    key.kind == RunKind::Drill
        && !observed.last.contains_key(key)
        && observed.restorable.contains(&key.backup)
}

fn made_up_for(schedule: &Schedule, missed: Missed) -> String {
    let times = text::count(missed.count.into(), "missed time");
    format!("makes up for {times}, the newest at {}", schedule.zone().local(missed.newest))
}

/// What keeps a run that is due.
fn obstacle(
    now: Timestamp,
    site: &Site,
    backup: &Backup,
    key: &ScheduleKey,
    observed: &Observed,
) -> Option<Because> {
    if let Some((window, until)) = open_window(now, site, backup) {
        let until = backup.schedule.zone().local(until).strftime("%Y-%m-%d %H:%M");
        let message = format!("maintenance window `{}` is open until {until}", window.name);
        return Some(Because::new(Reason::MAINTENANCE, message));
    }
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
    let host = host_of(backup, key.kind);
    let why = observed.silent.get(host)?;
    let power = site.host(host).map(|host| host.expected_power).unwrap_or_default();
    Some(match power {
        ExpectedPower::On => {
            let message = format!("the backup-agent of `{host}` does not answer: {why}");
            Because::new(Reason::HOST_UNREACHABLE, message)
        }
        ExpectedPower::OnDemand => {
            let message = format!("`{host}` is off until needed; wake it by hand");
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

/// The host that runs or drills a backup.
#[must_use]
pub fn host_of(backup: &Backup, kind: RunKind) -> &HostName {
    match kind {
        RunKind::Backup => &backup.host,
        RunKind::Drill => backup.drilled_on(),
    }
}

/// The window that holds a backup now and ends last.
#[must_use]
pub fn open_window<'a>(
    now: Timestamp,
    site: &'a Site,
    backup: &Backup,
) -> Option<(&'a Window, Timestamp)> {
    let windows = site.windows().iter().filter(|window| window.holds(&backup.name));
    windows
        .filter_map(|window| Some((window, window.open_until(now)?)))
        .max_by_key(|(_, until)| *until)
}

/// By how much a schedule is late, always the same: a draw that survives restarts without being
/// stored.
#[must_use]
pub fn jitter(backup: &Backup, key: &ScheduleKey) -> Duration {
    let hash = digest(&SHA256, format!("{}/{}", key.backup, key.kind).as_bytes());
    let mut first = [0; 4];
    for (to, from) in first.iter_mut().zip(hash.as_ref()) {
        *to = *from;
    }
    backup.jitter.mul_f64(f64::from(u32::from_be_bytes(first)) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests;
