//! Bits that flip.

use std::os::unix::fs::PermissionsExt;

use super::*;

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

/// The files of each class; packs by what is in them.
fn classes(rig: &Rig) -> Vec<(&'static str, Vec<PathBuf>)> {
    let opened = rig.repository.open().expect("opened");
    let (mut trees, mut data) = (Vec::new(), Vec::new());
    for path in walk(&rig.path().join("data")) {
        let content = fs::read(&path).expect("a pack");
        let blobs = pack::prove(&opened.vault, &vault::Id::of(&content), &content);
        let is_tree = blobs.expect("sound").iter().all(|blob| blob.kind == pack::Kind::Tree);
        if is_tree { trees.push(path) } else { data.push(path) }
    }
    vec![
        ("config", vec![rig.path().join("config")]),
        ("keys", walk(&rig.path().join("keys"))),
        ("index", walk(&rig.path().join("index"))),
        ("snapshots", walk(&rig.path().join("snapshots"))),
        ("packs of trees", trees),
        ("packs of data", data),
    ]
}

#[test]
fn a_flipped_bit_in_any_class_of_files_is_found_by_a_scrub() {
    let rig = Rig::new();
    for changed in [false, true] {
        let files = [("database.sql", rows(2_000, |_| changed)), ("globals.sql", noise(50_000))];
        rig.store(&files).expect("stored");
    }
    assert_eq!(scrub(&rig, 1).problems, Vec::<String>::new());
    for (class, files) in classes(&rig) {
        assert!(!files.is_empty(), "no {class}");
        for file in files {
            let name = file.file_name().expect("a name").to_string_lossy().into_owned();
            let bits = fs::read(&file).expect("a file").len() * 8;
            for bit in [0, bits / 3 + 1, bits / 2, bits - 1] {
                flip(&file, bit);
                let found = match rig.repository.scrub(
                    Part { part: None, of: 1 },
                    &Progress::unwatched(),
                    &CancellationToken::new(),
                ) {
                    Ok(scrubbed) => scrubbed.problems.join("\n"),
                    // Without its configuration the repository does not open at all.
                    Err(error) => format!("config {}", Chain(&error)),
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
