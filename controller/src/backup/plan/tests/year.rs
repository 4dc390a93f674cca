//! A year of nights in Amsterdam, both shifts of the clock, a window, a failing database and a host
//! that is away for a week: lived through in a second.

use std::collections::BTreeMap;

use homelab_domain::{
    reason::Failure,
    run::{RunOutcome, SnapshotFact},
};
use jiff::{civil::Date, tz::TimeZone};

use super::*;

const SITE: &str = r#"
[site]
name = "home"
time-zone = "Europe/Amsterdam"
[[host]]
name = "db"
address = "127.0.0.1"
daemons = ["backup-agent"]
[[repository]]
name = "nas"
[[window]]
name = "parity-check"
begins = "0 23 1 * *"
length = "6h"
[[backup]]
name = "database"
host = "db"
source = "postgres"
repository = "nas"
schedule = "30 2 * * *"
rpo = "26h"
[[backup]]
name = "files"
host = "db"
source = "files"
repository = "nas"
schedule = "30 2 * * *"
rpo = "26h"
after = ["database"]
"#;

/// How long a run of the simulation takes.
const RUN: SignedDuration = SignedDuration::from_mins(10);

/// One run of the simulation.
#[derive(Clone, Debug)]
struct Lived {
    started_at: Timestamp,
    scheduled_for: Timestamp,
    trigger: RunTrigger,
    notes: Vec<String>,
}

struct World {
    site: std::sync::Arc<Site>,
    now: Timestamp,
    observed: Observed,
    lived: BTreeMap<String, Vec<Lived>>,
    runs: u128,
}

impl World {
    fn at(now: Timestamp) -> Self {
        let file = SiteFile::parse("homelab.toml", SITE, now).unwrap_or_else(|bad| panic!("{bad}"));
        let keys = file
            .site
            .backups()
            .iter()
            .map(|backup| ScheduleKey { backup: backup.name.clone(), kind: RunKind::Backup });
        let records = keys.map(|key| {
            let record = ScheduleRecord {
                key: key.clone(),
                known_since: now,
                last_fired_for: None,
                paused: None,
            };
            (key, record)
        });
        let observed = Observed { records: records.collect(), ..Observed::default() };
        Self { site: file.site.clone(), now, observed, lived: BTreeMap::new(), runs: 0 }
    }

    /// Lives on until `end`; `fails` says which runs of the database fail, `away` when the host is.
    fn live(&mut self, end: Timestamp, fails: impl Fn(Date) -> bool, away: impl Fn(Date) -> bool) {
        while self.now < end {
            let today = self.now.to_zoned(amsterdam()).date();
            self.observed.silent.clear();
            if away(today) {
                let db = HostName::try_new("db").expect("a name");
                self.observed.silent.insert(db, "no route to host".to_owned());
            }
            self.end_what_is_over(&fails);
            let mut next = self.now + SignedDuration::from_hours(1);
            for planned in plan(self.now, &self.site, &self.observed) {
                match planned.decision {
                    Decision::Wait { next: Some(at) } => next = next.min(at),
                    Decision::Wait { next: None } => {}
                    Decision::Hold { .. } => next = next.min(self.now + RUN),
                    Decision::Start { trigger, scheduled_for, notes, .. } => {
                        self.start(&planned.key, trigger, scheduled_for, notes);
                        next = next.min(self.now + RUN);
                    }
                }
            }
            self.now = next.max(self.now + SignedDuration::from_secs(1));
        }
    }

    fn start(&mut self, key: &ScheduleKey, trigger: RunTrigger, at: Timestamp, notes: Vec<String>) {
        assert!(self.observed.open.insert(key.clone()), "two runs of {key:?} at once");
        let record = self.observed.records.get_mut(key).expect("a record");
        assert!(record.last_fired_for.is_none_or(|last| last < at), "{key:?} fired twice for {at}");
        record.last_fired_for = Some(at);
        self.runs += 1;
        let mut run = run(RunKind::Backup);
        run.spec.id = RunId::from(uuid::Uuid::from_u128(self.runs));
        (run.spec.backup, run.spec.started_at) = (key.backup.clone(), self.now);
        run.spec.scheduled_for = Some(at);
        self.observed.last.insert(key.clone(), run);
        let lived = Lived { started_at: self.now, scheduled_for: at, trigger, notes };
        self.lived.entry(key.backup.to_string()).or_default().push(lived);
    }

    fn end_what_is_over(&mut self, fails: impl Fn(Date) -> bool) {
        for key in self.observed.open.clone() {
            let Some(run) = self.observed.last.get_mut(&key) else { continue };
            if self.now < run.spec.started_at + RUN {
                continue;
            }
            let day = run.spec.started_at.to_zoned(amsterdam()).date();
            let outcome = if key.backup.as_str() == "database" && fails(day) {
                RunOutcome::Failed(Failure {
                    reason: Reason::RUN_FAILED,
                    message: "pg_dump exited with 1".to_owned(),
                    retryable: true,
                })
            } else {
                RunOutcome::Stored(SnapshotFact {
                    id: run.spec.id.to_string(),
                    taken_at: self.now,
                    verified_at: self.now,
                    source_bytes: 1,
                    stored_bytes: None,
                    elapsed: Duration::ZERO,
                    payload: serde_json::Value::Null,
                })
            };
            *run = run.clone().end(outcome, self.now).expect("it is open");
            self.observed.open.remove(&key);
        }
    }

    /// Dates of the times that a backup fired for.
    fn days(&self, backup: &str) -> Vec<Date> {
        let lived = self.lived[backup].iter();
        lived.map(|run| run.scheduled_for.to_zoned(amsterdam()).date()).collect()
    }
}

fn amsterdam() -> TimeZone {
    TimeZone::get("Europe/Amsterdam").expect("a zone")
}

fn date(text: &str) -> Date {
    text.parse().expect("a date")
}

#[test]
fn a_year_of_nights_runs_each_backup_once_a_night_and_the_files_after_the_database() {
    let mut world = World::at(time("2026-01-01T12:00:00Z"));
    world.live(time("2027-01-01T12:00:00Z"), |day| day == date("2026-05-05"), |_| false);
    let days = world.days("database");
    let expected: Vec<_> = date("2026-01-02").series(jiff::Span::new().days(1)).take(365).collect();
    assert_eq!(days, expected, "every night once, 29 March and 25 October included");
    assert_eq!(world.days("files"), expected);
    for (database, files) in world.lived["database"].iter().zip(&world.lived["files"]) {
        assert!(
            database.started_at + RUN <= files.started_at,
            "{files:?} came before {database:?}"
        );
        let day = database.scheduled_for.to_zoned(amsterdam()).date();
        let is_told = files.notes.iter().any(|note| note.contains("`database` comes before it"));
        assert_eq!(is_told, day == date("2026-05-05"), "{files:?}");
    }
    // The window of every month lies over midnight and holds both until 05:00, in real time.
    let held = world.lived["database"].iter().filter(|run| run.trigger == RunTrigger::CatchUp);
    let held: Vec<_> = held.map(|run| run.started_at.to_zoned(amsterdam())).collect();
    assert_eq!(held.len(), 12);
    assert!(held.iter().all(|at| (at.day(), at.hour()) == (2, 5)), "{held:?}");
}

#[test]
fn pitfall_23_a_week_away_is_made_up_for_by_one_run_and_not_by_seven() {
    let mut world = World::at(time("2026-07-01T12:00:00Z"));
    let away = |day: Date| (date("2026-07-06")..=date("2026-07-12")).contains(&day);
    world.live(time("2026-07-20T12:00:00Z"), |_| false, away);
    let days = world.days("database");
    let expected = ["02", "03", "04", "05", "12", "13", "14", "15", "16", "17", "18", "19", "20"];
    assert_eq!(days, expected.map(|day| date(&format!("2026-07-{day}"))));
    let made_up = &world.lived["database"][4];
    assert_eq!(made_up.trigger, RunTrigger::CatchUp);
    assert_eq!(made_up.started_at.to_zoned(amsterdam()).date(), date("2026-07-13"), "at once");
}

#[test]
fn what_comes_before_is_not_waited_for_for_ever() {
    let mut world = World::at(time("2026-07-01T12:00:00Z"));
    let paused =
        Paused { by: "ada".to_owned(), reason: "moving".to_owned(), at: world.now, until: None };
    let database = BackupName::try_new("database").expect("a name");
    let key = ScheduleKey { backup: database, kind: RunKind::Backup };
    world.observed.records.get_mut(&key).expect("a record").paused = Some(paused);
    world.live(time("2026-07-03T12:00:00Z"), |_| false, |_| false);
    let files = &world.lived["files"];
    assert_eq!(files.len(), 2);
    assert!(files.iter().all(|run| run.notes[0].contains("is paused")), "{files:?}");
}
