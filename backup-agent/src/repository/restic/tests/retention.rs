//! Forgetting, recovering, pruning.

use super::*;
use crate::repository::OrderMode;

pub(super) const AT_ONCE: PrunePolicy = PrunePolicy { keep_packs: Duration::ZERO };

const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

fn prune(rig: &Rig, policy: PrunePolicy) -> Pruned {
    let pruned = rig.repository.prune(&policy, rig.clock.now(), &Progress::unwatched());
    let pruned = pruned.expect("pruned");
    assert_eq!(pruned.problems, Vec::<String>::new());
    pruned
}

/// An order that hides, shows, and deletes these.
pub(super) fn order(expected: &[&Snapshot], ids: [&[&Snapshot]; 3]) -> RetentionOrder {
    let ids_of = |snapshots: &[&Snapshot]| snapshots.iter().map(|it| it.id.clone()).collect();
    let [quarantine, rescue, delete] = ids.map(ids_of);
    RetentionOrder {
        backup: "wiki-daily".parse().expect("a name"),
        expected: ids_of(expected),
        quarantine,
        rescue,
        delete,
        quarantine_min: WEEK,
        floor: 1,
        mode: OrderMode::Apply,
    }
}

fn apply(rig: &Rig, order: &RetentionOrder) -> Result<Applied, RepositoryError> {
    rig.repository.apply(order, rig.clock.now())
}

#[test]
fn what_is_forgotten_is_hidden_and_comes_back_under_its_own_id() {
    let rig = Rig::new();
    let one = rig.store(&[("database.sql", rows(9_000, |_| false))]).expect("stored");
    let two = rig.store(&[("database.sql", rows(9_000, |_| true))]).expect("stored");
    let hiding = order(&[&one, &two], [&[&one], &[], &[]]);
    let checked = RetentionOrder { mode: OrderMode::Check, ..hiding.clone() };
    assert_eq!(apply(&rig, &checked).expect("checked").quarantined, 1);
    assert_eq!(rig.repository.snapshots().expect("a listing").len(), 2);
    assert_eq!(apply(&rig, &hiding).expect("applied").quarantined, 1);
    assert_eq!(apply(&rig, &hiding).expect("applied again").quarantined, 0);
    assert_eq!(
        rig.repository.snapshots().expect("a listing").as_slice(),
        std::slice::from_ref(&two)
    );
    let forgotten = rig.repository.forgotten().expect("a listing");
    assert_eq!((&forgotten[0].snapshot, forgotten[0].forgotten_at), (&one, rig.clock.now()));

    // A prune needs all of it, and taking it back gives all of it back.
    rig.clock.advance(3 * WEEK);
    for _ in 0..2 {
        prune(&rig, AT_ONCE);
    }
    let showing = order(&[&one, &two], [&[], &[&one], &[]]);
    assert_eq!(apply(&rig, &showing).expect("applied").rescued, 1);
    assert_eq!(rig.repository.snapshots().expect("a listing"), [two, one.clone()]);
    assert_eq!(rig.read(&one, "database.sql").expect("read"), rows(9_000, |_| false));
}

#[test]
fn a_plan_for_other_snapshots_changes_nothing() {
    let rig = Rig::new();
    let one = rig.store(&[("database.sql", rows(100, |_| false))]).expect("stored");
    let plan = order(&[&one], [&[], &[], &[]]);
    let two = rig.store(&[("database.sql", rows(100, |_| true))]).expect("stored");
    let stale = apply(&rig, &plan);
    assert!(matches!(stale, Err(RepositoryError::Stale { .. })), "{stale:?}");
    let all = apply(&rig, &order(&[&one, &two], [&[&one, &two], &[], &[]]));
    assert!(matches!(all, Err(RepositoryError::Refused { .. })), "{all:?}");
    assert_eq!(rig.repository.snapshots().expect("a listing"), [two, one]);
}

#[test]
fn snapshots_are_deleted_after_quarantine_and_packs_in_two_steps() {
    let rig = Rig::new();
    let old = rig.store(&[("database.sql", noise(4 << 20))]).expect("stored");
    let kept = rig.store(&[("database.sql", rows(30_000, |_| false))]).expect("stored");
    let packs = || walk(&rig.path().join("data")).len();
    let before = packs();
    apply(&rig, &order(&[&old, &kept], [&[&old], &[], &[]])).expect("hidden");
    let deleting = order(&[&old, &kept], [&[], &[], &[&old]]);
    let early = apply(&rig, &deleting);
    assert!(matches!(early, Err(RepositoryError::Refused { .. })), "{early:?}");
    rig.clock.advance(WEEK);
    assert_eq!(apply(&rig, &deleting).expect("deleted").deleted, 1);
    assert_eq!(apply(&rig, &deleting).expect("deleted before").deleted, 0);
    assert_eq!(rig.repository.forgotten().expect("a listing"), []);

    let first = prune(&rig, PrunePolicy::default());
    assert!(first.packs_marked >= 1 && first.packs_removed == 0, "{first:?}");
    assert!(packs() >= before, "packs went at once");
    rig.assert_sound_to_restic();
    // The engine has a clock of its own: a day later is now, if a day is nothing.
    let second = prune(&rig, AT_ONCE);
    assert!(second.packs_removed >= 1 && second.freed_bytes > 4 << 20, "{second:?}");
    assert!(packs() < before);
    assert_eq!(
        rig.repository.snapshots().expect("a listing").as_slice(),
        std::slice::from_ref(&kept)
    );
    assert_eq!(rig.read(&kept, "database.sql").expect("read"), rows(30_000, |_| false));
    rig.assert_sound_to_restic();
}

#[test]
fn what_a_prune_has_marked_is_stored_anew_and_not_built_upon() {
    let rig = Rig::new();
    let dump = noise(3 << 20);
    let old = rig.store(&[("database.sql", dump.clone())]).expect("stored");
    let other = rig.store(&[("database.sql", noise(1000))]).expect("stored");
    rig.repository.remove(&[old.id]).expect("removed");
    assert!(prune(&rig, PrunePolicy::default()).packs_marked >= 1);
    let again = rig.store(&[("database.sql", dump.clone())]).expect("stored");
    assert!(again.added_bytes.expect("a number") > 3 << 20, "{again:?}");
    for _ in 0..2 {
        prune(&rig, AT_ONCE);
    }
    assert_eq!(rig.read(&again, "database.sql").expect("read"), dump);
    assert_eq!(rig.read(&other, "database.sql").expect("read").len(), 1000);
    rig.assert_sound_to_restic();
}

#[test]
fn pitfall_19_a_lock_that_is_lost_under_a_run_costs_no_data() {
    let rig = Rig::new();
    let dump = noise(3 << 20);
    let other = rig.store(&[("database.sql", noise(1000))]).expect("stored");
    let files = [("database.sql", dump.clone())];
    let stored = rig.repository.store(&intent(&rig.clock), incoming(&files)).expect("stored");
    let locked = rig.repository.prune(&AT_ONCE, rig.clock.now(), &Progress::unwatched());
    assert!(matches!(locked, Err(RepositoryError::Locked { .. })), "{locked:?}");
    // As a server loses it, or somebody who is in a hurry.
    for lock in walk(&rig.path().join(crate::repository::lock::FOLDER)) {
        fs::remove_file(lock).expect("removed");
    }
    assert!(prune(&rig, PrunePolicy::default()).packs_marked >= 1);
    let published =
        rig.repository.publish(&stored, &Progress::unwatched(), &CancellationToken::new());
    let said = Chain(&published.expect_err("built on what is marked")).to_string();
    assert!(said.contains("somebody pruned meanwhile, run it again"), "{said}");
    drop(stored);
    let again = rig.store(&files).expect("stored");
    for _ in 0..2 {
        prune(&rig, AT_ONCE);
    }
    assert!(rig.read(&again, "database.sql").expect("read") == dump);
    assert_eq!(rig.read(&other, "database.sql").expect("read").len(), 1000);
    rig.assert_sound_to_restic();
}

#[test]
fn what_lacks_our_marks_is_never_removed() {
    let rig = Rig::new();
    let source = rig.folder.path().join("photo");
    fs::write(&source, noise(100_000)).expect("a file");
    let (backed, said) = rig.restic(&["backup", &source.display().to_string()]);
    assert!(backed, "{said}");
    let theirs = fs::read_dir(rig.path().join("snapshots")).expect("a folder").next();
    let theirs = theirs.expect("a snapshot").expect("an entry").file_name();
    let theirs: SnapshotId = theirs.to_string_lossy().parse().expect("an id");
    assert_eq!(rig.repository.remove(std::slice::from_ref(&theirs)).expect("nothing of ours"), 0);
    // Nor with a mark that somebody with the key laid there.
    let opened = rig.repository.open().expect("opened");
    let long_ago = "2020-01-01T00:00:00Z".parse().expect("a time");
    quarantine::hide(opened.storage(), &opened.vault, &theirs, ("elsewhere", long_ago))
        .expect("hidden");
    drop(opened);
    let mut plan = order(&[], [&[], &[], &[]]);
    (plan.expected, plan.delete) = (vec![theirs.clone()], vec![theirs]);
    assert_eq!(apply(&rig, &plan).expect("nothing of ours").deleted, 0);
    for _ in 0..2 {
        prune(&rig, AT_ONCE);
    }
    let (listed, said) = rig.restic(&["snapshots"]);
    assert!(listed && said.contains("1 snapshots"), "{said}");
    rig.assert_sound_to_restic();
}

#[test]
fn pitfall_40_an_agent_that_may_only_add_never_deletes() {
    let rig = Rig::new();
    let one = rig.store(&[("database.sql", rows(3_000, |_| false))]).expect("stored");
    let adding = rig.as_another(Access::AppendOnly);
    let two = store_in(&adding, &rig.clock, &[("database.sql", rows(3_000, |_| true))]);
    let two = two.expect("an append-only agent stores");
    let now = rig.clock.now();
    let forbidden = [
        adding.apply(&order(&[&one], [&[&one], &[], &[]]), now).map(drop),
        adding.remove(std::slice::from_ref(&one.id)).map(drop),
        adding.prune(&AT_ONCE, now, &Progress::unwatched()).map(drop),
    ];
    for refused in forbidden {
        assert!(matches!(refused, Err(RepositoryError::Forbidden { .. })), "{refused:?}");
    }
    // Below all of that, the storage itself refuses.
    let storage = adding.enter().expect("entered");
    let path = format!("snapshots/{}", one.id);
    let refused = storage.remove(&path).expect_err("refused");
    assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
    let refused = storage.write(&path, b"other".as_slice().into()).expect_err("refused");
    assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);

    let reading = rig.as_another(Access::ReadOnly);
    assert_eq!(reading.snapshots().expect("a listing").len(), 2);
    let refused = store_in(&reading, &rig.clock, &[("x", Vec::new())]);
    assert!(matches!(refused, Err(RepositoryError::Forbidden { .. })), "{refused:?}");
    assert_eq!(rig.repository.snapshots().expect("a listing"), [two, one]);
    rig.assert_sound_to_restic();
}

#[test]
fn pitfall_20_a_prune_runs_on_a_full_disk_because_of_its_reserve() {
    let rig = Rig::empty();
    let mount = Mounted::tmpfs(&rig.path(), "48m");
    rig.repository.init().expect("a repository");
    let old = rig.store(&[("database.sql", noise(12 << 20))]).expect("stored");
    let kept = rig.store(&[("database.sql", noise(8 << 20))]).expect("stored");
    let full = rig.store(&[("database.sql", noise(40 << 20))]);
    assert!(matches!(full, Err(RepositoryError::NoRoom { .. })), "{full:?}");
    // A full disk is no reason to forget anything.
    assert_eq!(rig.repository.snapshots().expect("a listing"), [kept.clone(), old.clone()]);

    let room = rig.repository.available_bytes().expect("a size");
    fs::write(rig.path().join("filler"), vec![1; usize::try_from(room).expect("a size")])
        .expect("filled to the last byte");
    let storage = rig.repository.enter().expect("entered");
    apply(&rig, &order(&[&old, &kept], [&[&old], &[], &[]])).expect("hidden");
    rig.clock.advance(WEEK);
    apply(&rig, &order(&[&old, &kept], [&[], &[], &[&old]])).expect("deleted");
    prune(&rig, AT_ONCE);
    let second = prune(&rig, AT_ONCE);
    assert!(second.freed_bytes > 10 << 20, "{second:?}");
    assert!(storage.bytes_of(super::super::retention::RESERVE).is_ok(), "no new reserve");
    assert_eq!(rig.repository.snapshots().expect("a listing"), [kept]);
    drop((storage, mount));
}

#[test]
fn pitfall_17_files_of_dead_runs_are_swept_by_age() {
    let rig = Rig::new();
    let dead = rig.path().join("data/00/00ff-tmp-1234");
    fs::write(&dead, b"half a pack").expect("a file");
    assert_eq!(prune(&rig, PrunePolicy::default()).temporaries, 0);
    // Written by the system's clock, judged by ours.
    rig.clock.set(SystemClock.now() + jiff::SignedDuration::from_hours(25));
    assert_eq!(prune(&rig, PrunePolicy::default()).temporaries, 1);
    assert!(!dead.exists());
}
