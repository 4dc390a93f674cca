//! Killed in the middle of retention.
//!
//! The test starts itself once more as the process that dies: the same test, by its
//! name, with a step to end at in the environment.

use super::{
    retention::{AT_ONCE, order},
    *,
};
use crate::failpoint::{STEPS, VARIABLE};

/// Where the repository of the process that dies is.
const WHERE: &str = "HOMELAB_TEST_REPOSITORY";

/// Four snapshots, of which the first two are hidden.
fn prepared() -> (Rig, [Snapshot; 4]) {
    let rig = Rig::new();
    let all = [0, 1, 2, 3].map(|number| {
        rig.clock.advance(Duration::from_secs(60));
        rig.store(&[("database.sql", rows(4_000, |row| row % 4 == number))]).expect("stored")
    });
    let expected: Vec<&Snapshot> = all.iter().collect();
    let hide = order(&expected, [&[&all[0], &all[1]], &[], &[]]);
    rig.repository.apply(&hide, rig.clock.now()).expect("hidden");
    (rig, all)
}

/// Deletes the first, shows the second, hides the third, and prunes.
fn work(path: &Path) {
    let clock = ManualClock::new("2026-12-23T03:00:00Z".parse().expect("a time"));
    let repository = repository(place(path), &clock);
    let mut all = repository.snapshots().expect("a listing");
    all.extend(repository.forgotten().expect("a listing").into_iter().map(|it| it.snapshot));
    all.sort_by_key(|snapshot| snapshot.taken_at);
    let expected: Vec<&Snapshot> = all.iter().collect();
    let plan = order(&expected, [&[expected[2]], &[expected[1]], &[expected[0]]]);
    repository.apply(&plan, clock.now()).expect("applied");
    repository.prune(&AT_ONCE, clock.now(), &Progress::unwatched()).expect("pruned");
}

#[test]
fn killed_at_any_step_of_retention_nothing_is_lost_and_the_same_plan_goes_on() {
    if let Some(path) = std::env::var_os(WHERE) {
        return work(Path::new(&path));
    }
    let ours = |step: &&&str| step.starts_with("retention.") || step.starts_with("prune.");
    for step in STEPS.iter().filter(ours) {
        let (rig, all) = prepared();
        let this = std::env::current_exe().expect("this program");
        let name = concat!(
            "repository::restic::tests::kill::",
            "killed_at_any_step_of_retention_nothing_is_lost_and_the_same_plan_goes_on"
        );
        let program = Program::new(this.display().to_string())
            .args(["--exact", name])
            .env(VARIABLE, *step)
            .env(WHERE, rig.path().display().to_string());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let ended = runtime.expect("a runtime").block_on(SystemExec.run(program));
        let said = Chain(&ended.expect_err("it was killed")).to_string();
        assert!(said.contains("SIGKILL"), "{step}: {said}");
        rig.assert_sound_to_restic();

        rig.clock.set("2026-12-24T03:00:00Z".parse().expect("a time"));
        let expected: Vec<&Snapshot> = all.iter().collect();
        let plan = order(&expected, [&[&all[2]], &[&all[1]], &[&all[0]]]);
        rig.repository.apply(&plan, rig.clock.now()).expect(step);
        for _ in 0..2 {
            let pruned = rig.repository.prune(&AT_ONCE, rig.clock.now(), &Progress::unwatched());
            assert_eq!(pruned.expect(step).problems, Vec::<String>::new(), "{step}");
        }
        let left = rig.repository.snapshots().expect("a listing");
        assert_eq!(left, [all[3].clone(), all[1].clone()], "{step}");
        for (number, snapshot) in all.iter().enumerate().skip(1) {
            let read = rig.read(snapshot, "database.sql").expect(step);
            assert!(read == rows(4_000, |row| row % 4 == number), "{step}: snapshot {number}");
        }
        rig.assert_sound_to_restic();
    }
}
