//! Trees there and back, on a real disk.

use std::{
    ffi::OsStr,
    fs,
    io::{Read, Write},
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt, symlink},
        net::UnixListener,
    },
    path::Path,
};

use homelab_common::exec::{Exec, Program, SystemExec};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::stream::Content;

/// A folder with one of everything that is kept.
fn sample() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("photos/empty")).expect("folders");
    fs::write(at("photos/a.jpg"), vec![7; 3000]).expect("a file");
    fs::hard_link(at("photos/a.jpg"), at("photos/b.jpg")).expect("a link");
    symlink("../nowhere", at("photos/latest")).expect("a link");
    fs::write(at(&format!("{}.txt", "long".repeat(50))), b"long").expect("a file");
    fs::write(folder.path().join(OsStr::from_bytes(b"caf\xe9 1")), b"latin").expect("a file");
    fs::write(at("run"), b"#!/bin/sh\n").expect("a file");
    fs::set_permissions(at("run"), fs::Permissions::from_mode(0o4755)).expect("a mode");
    fs::set_permissions(at("photos/empty"), fs::Permissions::from_mode(0o500)).expect("a mode");
    folder
}

fn at_top(path: &Path) -> Vec<Root> {
    vec![Root { path: path.to_owned(), inside: "".into() }]
}

fn archive(roots: Vec<Root>, rules: Rules) -> (Vec<u8>, Packed) {
    let (mut pack, mut packed) = pack(roots, rules, Changing::Fail);
    let mut bytes = Vec::new();
    pack.read_to_end(&mut bytes).expect("an archive");
    pack.finish().expect("complete");
    (bytes, packed.try_recv().expect("a list"))
}

fn rules(exclude: &[&str]) -> Rules {
    let patterns: Vec<String> = exclude.iter().map(|it| (*it).to_owned()).collect();
    Rules { exclude: Exclude::new(&patterns).expect("patterns"), ..Rules::default() }
}

/// Kind, name and where it links to.
type Lie<'a> = (tar::EntryType, &'a [u8], &'a [u8]);

/// An archive by another hand, with names that no honest one has.
fn forged(entries: &[Lie<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, name, link) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        for set in [tar::Header::set_uid, tar::Header::set_gid, tar::Header::set_mtime] {
            set(&mut header, 0);
        }
        header.set_mode(0o755);
        header.set_size(0);
        let gnu = header.as_gnu_mut().expect("GNU");
        gnu.name[..name.len()].copy_from_slice(name);
        gnu.linkname[..link.len()].copy_from_slice(link);
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

#[test]
fn a_tree_comes_back_as_it_was() {
    let (tree, away) = (sample(), tempfile::tempdir().expect("a folder"));
    let (bytes, packed) = archive(at_top(tree.path()), Rules::default());
    assert_eq!(packed.entries.len(), 8, "{:?}", packed.entries);
    let into = away.path().join("back");
    let cancel = CancellationToken::new();
    let extracted = extract(&*bytes, &into, &cancel).expect("extracted");
    let found = differences(&packed.entries, &extracted.entries, Strictness::Everything);
    assert_eq!(found.into_texts(), Vec::<String>::new());
    let found = compare(&packed.entries, &into, &cancel).expect("compared");
    assert_eq!(found.into_texts(), Vec::<String>::new());
    let meta = |name: &str| fs::metadata(into.join(name)).expect("there");
    assert_eq!(meta("photos/a.jpg").ino(), meta("photos/b.jpg").ino());
    assert_eq!(meta("run").mode() & 0o7777, 0o755, "no set-id bit in a scratch folder");
    assert_eq!(meta("photos/empty").mode() & 0o7777, 0o500);
    let time = fs::metadata(tree.path().join("run")).expect("there").mtime();
    assert_eq!(meta("run").mtime(), time);
    fs::set_permissions(into.join("photos/empty"), fs::Permissions::from_mode(0o700))
        .expect("open");
}

#[test]
fn an_unchanged_tree_gives_the_same_bytes_again() {
    let tree = sample();
    let first = archive(at_top(tree.path()), Rules::default());
    // Reading a file changes its time of access and nothing else.
    fs::read(tree.path().join("run")).expect("read");
    assert!(first == archive(at_top(tree.path()), Rules::default()));
}

#[tokio::test]
async fn plain_tar_restores_the_tree() {
    let (tree, away) = (sample(), tempfile::tempdir().expect("a folder"));
    let (bytes, packed) = archive(at_top(tree.path()), Rules::default());
    let into = away.path().to_str().expect("UTF-8");
    let program = Program::new("tar").args(["-xpf", "-", "-C", into]).stdin(bytes);
    SystemExec.run(program).await.expect("apt install tar");
    let found = compare(&packed.entries, away.path(), &CancellationToken::new()).expect("read");
    assert_eq!(found.into_texts(), Vec::<String>::new());
    let mode = fs::metadata(away.path().join("run")).expect("there").mode();
    assert_eq!(mode & 0o7777, 0o4755);
}

#[test]
fn what_is_missing_extra_or_different_is_named() {
    let (tree, away) = (sample(), tempfile::tempdir().expect("a folder"));
    let (bytes, packed) = archive(at_top(tree.path()), Rules::default());
    let (into, cancel) = (away.path().join("back"), CancellationToken::new());
    extract(&*bytes, &into, &cancel).expect("extracted");
    fs::write(into.join("more"), b"").expect("a file");
    fs::write(into.join("run"), b"#!/bin/ksh").expect("a file");
    fs::remove_file(into.join("photos/latest")).expect("removed");
    let found = compare(&packed.entries, &into, &cancel).expect("read").into_texts();
    assert_eq!(found.len(), 3, "{found:?}");
    assert_eq!(found[0], "`photos/latest` is missing");
    assert_eq!(found[1], "`run` is different: its 10 bytes have another digest");
    assert_eq!(found[2], "`more` is there and should not be");
}

#[test]
fn patterns_leave_out_files_and_whole_folders() {
    let tree = sample();
    let (_, packed) = archive(at_top(tree.path()), rules(&["*.jpg", "/photos/empty", "caf*"]));
    let paths: Vec<&str> = packed.entries.iter().map(|entry| &*entry.path).collect();
    assert_eq!(paths[1..], ["photos", "photos/latest", "run"]);
    assert_eq!(packed.excluded, 4);
}

#[test]
fn a_root_keeps_its_own_path() {
    let tree = sample();
    let root = Root::under_own_path(&tree.path().join("photos"));
    let (bytes, packed) = archive(vec![root], Rules::default());
    let own = tree.path().strip_prefix("/").expect("absolute").join("photos");
    assert_eq!(Path::new(&*packed.entries[0].path), own);
    let away = tempfile::tempdir().expect("a folder");
    let (into, cancel) = (away.path().join("back"), CancellationToken::new());
    extract(&*bytes, &into, &cancel).expect("extracted");
    // The folders above it are made and are no difference.
    assert!(compare(&packed.entries, &into, &cancel).expect("read").is_empty());
}

#[test]
fn a_missing_root_fails_the_run_by_name() {
    let (mut pack, mut packed) =
        pack(at_top(Path::new("/nowhere/at-all")), Rules::default(), Changing::Warn);
    pack.read_to_end(&mut Vec::new()).expect("an archive");
    let error = pack.finish().expect_err("incomplete").to_string();
    assert!(error.contains("/nowhere/at-all (No such file or directory"), "{error}");
    drop(pack);
    assert!(packed.try_recv().is_err());
}

#[test]
fn a_root_that_is_a_link_is_refused() {
    let tree = sample();
    symlink(tree.path(), tree.path().join("link")).expect("a link");
    let (mut pack, _packed) =
        pack(at_top(&tree.path().join("link")), Rules::default(), Changing::Warn);
    pack.read_to_end(&mut Vec::new()).expect("an archive");
    assert!(pack.finish().expect_err("incomplete").to_string().contains("symbolic link"));
}

#[test]
fn a_file_that_cannot_be_read_fails_the_run_by_name() {
    // Root may open everything, so this takes a file that the kernel itself does not
    // let anybody read.
    let path = Path::new("/sys/bus/platform/drivers_probe");
    assert!(path.exists(), "this test needs sysfs at /sys");
    let (mut pack, _packed) =
        pack(vec![Root::under_own_path(path)], Rules::default(), Changing::Warn);
    pack.read_to_end(&mut Vec::new()).expect("an archive");
    let error = pack.finish().expect_err("incomplete").to_string();
    assert!(error.contains("sys/bus/platform/drivers_probe ("), "{error}");
}

#[test]
fn mount_points_are_entered_only_when_told() {
    let mounted = ["dev/pts", "dev/shm"];
    let (_, packed) = archive(vec![Root::under_own_path(Path::new("/dev"))], Rules::default());
    let named = packed.mounts.iter().any(|mount| mounted.contains(&&**mount));
    assert!(named, "this test needs a file system at /dev/pts or /dev/shm: {:?}", packed.mounts);
    let inside = |entry: &Entry| mounted.iter().any(|it| entry.path.starts_with(&format!("{it}/")));
    assert!(!packed.entries.iter().any(inside));
}

#[test]
fn a_socket_is_left_out_with_a_warning() {
    let tree = tempfile::tempdir().expect("a folder");
    let _listener = UnixListener::bind(tree.path().join("s")).expect("a socket");
    let (_, packed) = archive(at_top(tree.path()), Rules::default());
    assert_eq!(packed.warnings, ["sockets, pipes and devices are not stored: s"]);
    assert!(packed.entries.is_empty());
}

/// Reads an archive of one file and calls `change` whenever its content begins to flow.
fn read_while_changing(
    path: &Path,
    changing: Changing,
    mut change: impl FnMut(usize),
) -> (Vec<u8>, std::io::Result<Packed>) {
    let (mut pack, mut packed) = pack(vec![Root::under_own_path(path)], Rules::default(), changing);
    let (mut bytes, mut block, mut bodies) = (Vec::new(), [0; 512], 0);
    loop {
        pack.read_exact(&mut block).expect("a block");
        bytes.extend_from_slice(&block);
        if &block[257..262] == b"ustar" && block[156] == b'0' {
            bodies += 1;
            change(bodies);
        }
        if bytes.ends_with(&[0; 1024]) {
            break;
        }
    }
    let end = pack.read(&mut block).expect("the end");
    assert_eq!(end, 0);
    let packed = pack.finish().map(|()| packed.try_recv().expect("a list"));
    (bytes, packed)
}

fn append(path: &Path) {
    let mut file = fs::OpenOptions::new().append(true).open(path).expect("a file");
    file.write_all(b"more\n").expect("written");
}

#[test]
fn a_file_that_changes_once_is_read_again() {
    let tree = tempfile::tempdir().expect("a folder");
    let path = tree.path().join("log");
    fs::write(&path, [b'x'; 1000]).expect("a file");
    let (bytes, packed) = read_while_changing(&path, Changing::Fail, |body| {
        if body == 1 {
            append(&path);
        }
    });
    let packed = packed.expect("complete");
    assert_eq!((packed.entries.len(), packed.entries[0].bytes()), (1, 1005));
    let (into, cancel) = (tree.path().join("back"), CancellationToken::new());
    let extracted = extract(&*bytes, &into, &cancel).expect("extracted");
    assert_eq!((extracted.entries, extracted.bytes), (packed.entries.clone(), 1005));
    assert!(compare(&packed.entries, &into, &cancel).expect("read").is_empty());
}

#[test]
fn a_file_that_never_stands_still_fails_the_run_or_is_a_warning() {
    let tree = tempfile::tempdir().expect("a folder");
    let path = tree.path().join("log");
    fs::write(&path, [b'x'; 1000]).expect("a file");
    let (_, failed) = read_while_changing(&path, Changing::Fail, |_| append(&path));
    let error = failed.expect_err("torn").to_string();
    assert!(error.contains("log changed each of 3 times"), "{error}");
    let (_, warned) = read_while_changing(&path, Changing::Warn, |_| append(&path));
    let warnings = warned.expect("accepted").warnings;
    assert!(warnings[0].contains("log"), "{warnings:?}");
}

#[test]
fn a_file_that_shrinks_while_it_is_read_spoils_no_other() {
    let tree = tempfile::tempdir().expect("a folder");
    fs::write(tree.path().join("a"), vec![b'x'; 4096]).expect("a file");
    fs::write(tree.path().join("b"), b"whole").expect("a file");
    let (mut pack, mut packed) = pack(at_top(tree.path()), Rules::default(), Changing::Fail);
    let mut bytes = vec![0; 1024];
    pack.read_exact(&mut bytes).expect("the header and a block");
    fs::write(tree.path().join("a"), b"short").expect("a file");
    pack.read_to_end(&mut bytes).expect("the rest");
    pack.finish().expect("read again");
    let entries = packed.try_recv().expect("a list").entries;
    let away = tempfile::tempdir().expect("a folder");
    let extracted = extract(&*bytes, &away.path().join("back"), &CancellationToken::new());
    assert_eq!(extracted.expect("extracted").entries, entries);
    assert_eq!(entries.iter().map(Entry::bytes).collect::<Vec<_>>(), [5, 5]);
}

#[test]
fn an_archive_cannot_write_outside_its_folder() {
    use tar::EntryType::{Directory, Link, Regular, Symlink};
    let outside = tempfile::tempdir().expect("a folder");
    let target = outside.path().to_str().expect("UTF-8").as_bytes().to_vec();
    let lies: [&[Lie<'_>]; 6] = [
        &[(Regular, b"../evil", b"")],
        &[(Regular, b"/evil", b"")],
        &[(Directory, b"a", b""), (Regular, b"a/../../evil", b"")],
        &[(Symlink, b"a", &target), (Regular, b"a/evil", b"")],
        &[(Symlink, b"a", &target), (Directory, b"a", b""), (Regular, b"a/evil", b"")],
        &[(Symlink, b"a", b"/etc/hostname"), (Link, b"evil", b"a")],
    ];
    for (index, lie) in lies.iter().enumerate() {
        let away = tempfile::tempdir().expect("a folder");
        let into = away.path().join("back");
        let error = extract(&*forged(lie), &into, &CancellationToken::new()).expect_err("a lie");
        assert!(matches!(error, ExtractError::Escapes { .. }), "{index}: {error:?}");
        assert_eq!(fs::read_dir(away.path()).expect("a folder").count(), 1, "{index}");
        assert_eq!(fs::read_dir(outside.path()).expect("a folder").count(), 0, "{index}");
    }
}

#[test]
fn an_archive_is_extracted_into_a_new_folder_only() {
    let away = tempfile::tempdir().expect("a folder");
    let error = extract(&*forged(&[]), away.path(), &CancellationToken::new()).expect_err("there");
    assert!(matches!(error, ExtractError::Write { .. }), "{error:?}");
}

#[test]
fn no_cut_of_an_archive_passes_for_the_whole() {
    let tree = sample();
    let (bytes, packed) = archive(at_top(tree.path()), Rules::default());
    let away = tempfile::tempdir().expect("a folder");
    // The last two blocks only say that nothing follows.
    for length in (0..bytes.len() - 1024).step_by(300) {
        let into = away.path().join(length.to_string());
        let extracted = extract(&bytes[..length], &into, &CancellationToken::new());
        let whole = extracted.is_ok_and(|extracted| {
            differences(&packed.entries, &extracted.entries, Strictness::Everything).is_empty()
        });
        assert!(!whole, "{length} of {}", bytes.len());
    }
}

#[test]
fn two_hundred_thousand_entries_take_little_memory() {
    const ENTRIES: usize = 200_000;
    let tree = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    for folder in 0..ENTRIES / 1000 {
        let folder = tree.path().join(format!("folder-{folder:04}"));
        fs::create_dir(&folder).expect("a folder");
        let first = folder.join("file-0000");
        fs::write(&first, b"x").expect("a file");
        for file in 1..999 {
            symlink("file-0000", folder.join(format!("file-{file:04}"))).expect("a link");
        }
    }
    let before = resident_bytes();
    let (mut pack, mut packed) = pack(at_top(tree.path()), Rules::default(), Changing::Fail);
    let mut piece = vec![0; 1 << 16];
    while pack.read(&mut piece).expect("read") > 0 {}
    pack.finish().expect("complete");
    let packed = packed.try_recv().expect("a list");
    let grown = resident_bytes().saturating_sub(before);
    assert_eq!(packed.entries.len(), ENTRIES);
    assert!(grown < 64 << 20, "{grown} bytes more");
}

fn resident_bytes() -> usize {
    let text = fs::read_to_string("/proc/self/statm").expect("/proc");
    let pages = text.split(' ').nth(1).expect("a field");
    pages.parse::<usize>().expect("a number") * 4096
}
