//! Bits that flip.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::restore;

fn scrub(rig: &Rig, of: u32) -> Scrubbed {
    let progress = Progress::unwatched();
    let part = Part { part: None, of };
    rig.repository.scrub(part, &progress, &CancellationToken::new()).expect("scrubbed")
}

fn flip(path: &Path, bit: usize) {
    let mut bytes = fs::read(path).expect("a file");
    bytes[bit / 8] ^= 1 << (bit % 8);
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("chmod");
    fs::write(path, bytes).expect("a file");
}

/// Three snapshots with two files each, the first of which is given up.
fn stocked() -> (Rig, Vec<Stocked>) {
    let rig = Rig::new();
    let stock = |number: usize| {
        let files = [
            ("database.sql", rows(2_000, |row| row % 3 == number)),
            ("globals.sql", noise(50_000)),
        ];
        Stocked { snapshot: rig.store(&files).expect("stored"), files: files.into() }
    };
    let all: Vec<Stocked> = (0..3).map(stock).collect();
    let expected: Vec<&Snapshot> = all.iter().map(|one| &one.snapshot).collect();
    let hide = retention::order(&expected, [&expected[..1], &[], &[]]);
    rig.repository.apply(&hide, rig.clock.now()).expect("hidden");
    (rig, all)
}

struct Stocked {
    snapshot: Snapshot,
    files: Vec<(&'static str, Vec<u8>)>,
}

/// The files of each class; packs by what is in them. Of the others that lie there,
/// locks, the hosts' notes and the record of scrubs are made anew when they cannot be
/// read, and the reserve holds nothing.
fn classes(rig: &Rig) -> Vec<(&'static str, Vec<PathBuf>)> {
    let opened = rig.repository.open().expect("opened");
    let (mut trees, mut data) = (Vec::new(), Vec::new());
    for path in walk(&rig.path().join("data")) {
        let content = fs::read(&path).expect("a pack");
        let blobs = pack::prove(&opened.vault, &Id::of(&content), &content);
        let is_tree = blobs.expect("sound").iter().all(|blob| blob.kind == pack::Kind::Tree);
        if is_tree { trees.push(path) } else { data.push(path) }
    }
    let below = |folder: &str| walk(&rig.path().join(folder));
    vec![
        ("identity", vec![rig.path().join(crate::repository::identity::FILE_NAME)]),
        ("config", vec![rig.path().join("config")]),
        ("keys", below("keys")),
        ("index", below("index")),
        ("snapshots", below("snapshots")),
        ("marks", below("homelab-forgotten")),
        ("packs of trees", trees),
        ("packs of data", data),
    ]
}

#[test]
fn pitfall_04_a_flipped_bit_in_any_class_of_files_is_found() {
    let (rig, _) = stocked();
    assert_eq!(scrub(&rig, 1).problems, Vec::<String>::new());
    for (class, files) in classes(&rig) {
        assert!(!files.is_empty(), "no {class}");
        for file in files {
            let name = file.file_name().expect("a name").to_string_lossy().into_owned();
            let bits = fs::read(&file).expect("a file").len() * 8;
            let chosen = [0, bits / 3 + 1, bits / 2, bits - 1];
            // In the one file that is not sealed, each.
            let all: Vec<usize> = (0..bits).collect();
            for &bit in if class == "identity" { all.as_slice() } else { &chosen } {
                flip(&file, bit);
                let found = match rig.repository.scrub(
                    Part { part: None, of: 1 },
                    &Progress::unwatched(),
                    &CancellationToken::new(),
                ) {
                    Ok(scrubbed) => scrubbed.problems.join("\n"),
                    // Without these the repository does not open at all.
                    Err(error) => {
                        format!(
                            "config {} {}",
                            crate::repository::identity::FILE_NAME,
                            Chain(&error)
                        )
                    }
                };
                assert!(
                    found.contains(&name),
                    "{class}: bit {bit} of {name} was not found: {found}"
                );
                flip(&file, bit);
            }
        }
    }
    assert_eq!(scrub(&rig, 1).problems, Vec::<String>::new());
}

/// Restores what can be restored of a snapshot; gives how many files came back, and
/// each of them is what was stored.
fn restored(rig: &Rig, repository: &ResticRepository, stocked: &Stocked) -> usize {
    let run = RunId::generate(&SystemClock, &SystemChance);
    let target = rig.folder.path().join(run.to_string());
    let place =
        restore::Place { damage: restore::OnDamage::LeaveOut, ..restore::Place::new(&target) };
    let (progress, cancel) = (Progress::unwatched(), CancellationToken::new());
    let snapshot = &stocked.snapshot;
    let Ok(done) = restore::restore(repository, snapshot, &place, run, &progress, &cancel) else {
        assert!(!target.exists());
        return 0;
    };
    assert_eq!(done.files.len() + done.damaged.len(), stocked.files.len());
    for (name, content) in &stocked.files {
        let is_named = done.damaged.iter().any(|damage| damage.contains(name));
        match fs::read(target.join(name)) {
            Ok(found) => assert!(!is_named && found == *content, "{name} is another one"),
            Err(_) => assert!(is_named, "{name} is missing, and nobody says so"),
        }
    }
    done.files.len()
}

#[test]
fn pitfall_04_a_restore_refuses_what_is_damaged_and_delivers_the_rest() {
    let (rig, stock) = stocked();
    for (class, files) in classes(&rig) {
        for file in files {
            let bits = fs::read(&file).expect("a file").len() * 8;
            flip(&file, bits / 2);
            // As somebody who comes to restore, and has only the password.
            let fresh = rig.as_another(Access::ReadOnly);
            let needs_all = matches!(class, "identity" | "config" | "keys");
            let repository = if needs_all { &fresh } else { &rig.repository };
            let back: Vec<usize> =
                stock.iter().map(|one| restored(&rig, repository, one)).collect();
            let lost = stock.len() * 2 - back.iter().sum::<usize>();
            let expected = match class {
                // Nothing opens without them, and the error says what it is.
                _ if needs_all => {
                    fresh.snapshots().expect_err("opened");
                    6
                }
                "index" | "marks" => 0,
                // A listing, or the snapshot itself: both of its files, and no other one.
                "packs of trees" | "snapshots" => 2,
                // What lies beside it in the same pack comes back.
                _ => 1,
            };
            assert_eq!(lost, expected, "{class}: {back:?} of {}", file.display());
            if class == "snapshots" {
                let name = file.file_name().expect("a name").to_string_lossy().into_owned();
                let listed = repository.snapshots().expect("a listing");
                assert!(listed.iter().all(|snapshot| snapshot.id.as_str() != name));
                // Whoever deletes by what it does not find must find everything.
                let policy = PrunePolicy { keep_packs: Duration::ZERO };
                let now = rig.clock.now();
                let pruned = rig.repository.prune(&policy, now, &Progress::unwatched());
                assert!(pruned.is_err(), "pruned: {pruned:?}");
            }
            flip(&file, bits / 2);
        }
    }
    assert!(stock.iter().all(|one| restored(&rig, &rig.repository, one) == 2));
    rig.assert_sound_to_restic();
}

#[test]
fn scrubs_in_parts_read_everything_within_a_round() {
    let rig = Rig::new();
    for _ in 0..6 {
        rig.store(&[("database.sql", noise(100_000))]).expect("stored");
    }
    let packs = walk(&rig.path().join("data")).len();
    let mut read = 0;
    for part in 0..3 {
        let scrubbed = scrub(&rig, 3);
        assert_eq!((scrubbed.part, scrubbed.complete_since.is_some()), (part, part == 2));
        read += scrubbed.packs as usize;
        rig.clock.advance(Duration::from_secs(3600));
    }
    assert_eq!(read, packs);
    assert_eq!(scrub(&rig, 3).part, 0);
}

#[test]
fn a_damaged_pack_spoils_only_the_files_in_it() {
    let rig = Rig::new();
    let one = rig.store(&[("database.sql", noise(300_000))]).expect("stored");
    let before = walk(&rig.path().join("data"));
    let two = rig.store(&[("database.sql", noise(300_000))]).expect("stored");
    let fresh = walk(&rig.path().join("data")).into_iter().filter(|path| !before.contains(path));
    let largest = fresh.max_by_key(|path| fs::metadata(path).expect("a pack").len());
    flip(&largest.expect("a pack"), 8 * 1000);
    assert!(rig.read(&two, "database.sql").is_err(), "damaged bytes were delivered");
    assert_eq!(rig.read(&one, "database.sql").expect("read").len(), 300_000);
}

#[test]
fn a_damaged_index_refuses_new_runs_and_delivers_every_snapshot() {
    let rig = Rig::new();
    let dump = rows(3_000, |_| false);
    let snapshot = rig.store(&[("database.sql", dump.clone())]).expect("stored");
    let index = walk(&rig.path().join("index"));
    flip(&index[0], 300);
    let refused = rig.store(&[("database.sql", dump.clone())]);
    assert!(matches!(refused, Err(RepositoryError::Damaged { .. })), "{refused:?}");
    assert_eq!(rig.read(&snapshot, "database.sql").expect("read"), dump);
}
