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

#[cfg(test)]
mod tests {
    use homelab_store::Paused;

    use super::*;
    use crate::{backup::tests::time, site::SiteFile};

    const NOW: &str = "2026-02-02T12:00:00Z";

    fn site(power: &str) -> std::sync::Arc<Site> {
        let text = format!(
            "[site]\nname = \"home\"\n[[repository]]\nname = \"nas\"\n\
             [[host]]\nname = \"x99\"\naddress = \"127.0.0.1\"\nmac = \"02:00:00:00:00:01\"\n\
             expected-power = \"{power}\"\ndaemons = [\"backup-agent\"]\n\
             [[backup]]\nname = \"wiki\"\nhost = \"x99\"\nsource = \"postgres\"\n\
             repository = \"nas\"\nschedule = \"0 2 * * *\"\nrpo = \"26h\"\n\
             drill-schedule = \"0 5 * * 0\"\ndrill-target = \"spare\"\n"
        );
        SiteFile::parse("homelab.toml", &text, time(NOW)).unwrap_or_else(|bad| panic!("{bad}")).site
    }

    fn key(kind: RunKind) -> ScheduleKey {
        ScheduleKey { backup: BackupName::try_new("wiki").expect("a name"), kind }
    }

    /// Both schedules are known for a month and have never fired.
    fn observed() -> Observed {
        let record = |kind| ScheduleRecord {
            key: key(kind),
            known_since: time("2026-01-02T12:00:00Z"),
            last_fired_for: None,
            paused: None,
        };
        let kinds = [RunKind::Backup, RunKind::Drill];
        let records = kinds.map(|kind| (key(kind), record(kind))).into();
        Observed { records, ..Observed::default() }
    }

    fn decided(kind: RunKind, power: &str, observed: &Observed) -> Decision {
        let all = plan(time(NOW), &site(power), observed);
        all.into_iter().find(|one| one.key == key(kind)).expect("a schedule").decision
    }

    fn held_by(decision: Decision) -> (String, Timestamp) {
        match decision {
            Decision::Hold { because, since } => (because.reason.to_string(), since),
            other => panic!("not held: {other:?}"),
        }
    }

    #[test]
    fn a_drill_waits_for_something_to_restore_and_for_the_run_that_makes_it() {
        let mut observed = observed();
        let drill = |observed: &Observed| decided(RunKind::Drill, "on", observed);
        assert_eq!(held_by(drill(&observed)).0, "NEVER_BACKED_UP");
        observed.restorable.insert(key(RunKind::Backup).backup);
        observed.open.insert(key(RunKind::Backup));
        assert_eq!(held_by(drill(&observed)).0, "RUN_IN_PROGRESS");
        observed.open.clear();
        assert!(matches!(drill(&observed), Decision::Start { trigger: RunTrigger::CatchUp, .. }));
    }

    #[test]
    fn a_drill_that_goes_on_does_not_keep_a_backup() {
        let mut observed = observed();
        observed.open.insert(key(RunKind::Drill));
        let decision = decided(RunKind::Backup, "on", &observed);
        assert!(matches!(decision, Decision::Start { .. }), "{decision:?}");
    }

    #[test]
    fn a_host_that_sleeps_is_told_from_one_that_is_gone() {
        let mut observed = observed();
        observed.silent.insert(HostName::try_new("x99").expect("a name"), "no route".to_owned());
        let by = |power| held_by(decided(RunKind::Backup, power, &observed));
        let since = time("2026-01-03T02:00:00Z");
        assert_eq!(by("on"), ("HOST_UNREACHABLE".to_owned(), since));
        assert_eq!(by("on-demand"), ("EXPECTED_ASLEEP".to_owned(), since));
    }

    #[test]
    fn the_first_drill_is_due_at_once_and_only_once() {
        let mut observed = observed();
        for record in observed.records.values_mut() {
            record.last_fired_for = Some(time(NOW));
        }
        let drill = |observed: &Observed| decided(RunKind::Drill, "on", observed);
        assert!(matches!(drill(&observed), Decision::Wait { next: Some(_) }), "nothing to drill");
        observed.restorable.insert(key(RunKind::Backup).backup);
        assert!(matches!(drill(&observed), Decision::Start { .. }));
        observed.ever_run.insert(key(RunKind::Drill));
        assert!(matches!(drill(&observed), Decision::Wait { next: Some(_) }));
    }

    #[test]
    fn a_paused_schedule_has_no_next_time() {
        let mut observed = observed();
        let paused = Paused { by: "ada".to_owned(), reason: "move".to_owned(), at: time(NOW) };
        for record in observed.records.values_mut() {
            record.paused = Some(paused.clone());
        }
        let decision = decided(RunKind::Backup, "on", &observed);
        assert_eq!(decision, Decision::Wait { next: None });
    }

    #[test]
    fn each_schedule_is_late_by_its_own_constant_amount() {
        let late = jitter(&key(RunKind::Backup));
        assert!(late <= JITTER_MAX && late == jitter(&key(RunKind::Backup)));
        assert_ne!(late, jitter(&key(RunKind::Drill)));
    }
}
