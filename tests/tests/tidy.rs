//! The invariants of `ARCHITECTURE.md` that concern the tree as a whole: an invariant without a
//! test is a wish.

#![expect(clippy::expect_used, reason = "a test may stop at the first surprise")]

#[path = "tidy/commands.rs"]
mod commands;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

/// What each of our crates may depend on among our crates.
const MAY_USE: [(&str, &[&str]); 11] = [
    ("homelab-proto", &[]),
    ("homelab-common", &[]),
    ("homelab-rpc", &["homelab-common", "homelab-proto"]),
    ("homelab-domain", &[]),
    ("homelab-store", &["homelab-domain"]),
    ("homelab-agent", &["homelab-common", "homelab-proto", "homelab-rpc"]),
    ("homelab-backup-agent", &["homelab-common", "homelab-proto", "homelab-rpc"]),
    ("homelab-gpu-worker", &["homelab-common", "homelab-proto", "homelab-rpc"]),
    (
        "homelab-controller",
        &["homelab-common", "homelab-domain", "homelab-proto", "homelab-rpc", "homelab-store"],
    ),
    ("labctl", &["homelab-common", "homelab-proto", "homelab-rpc"]),
    (
        "homelab-tests",
        &[
            "homelab-agent",
            "homelab-backup-agent",
            "homelab-common",
            "homelab-controller",
            "homelab-domain",
            "homelab-gpu-worker",
            "homelab-proto",
            "homelab-rpc",
            "homelab-store",
            "labctl",
        ],
    ),
];

/// Ways in which backups are known to fail, each of which has a number.
const PITFALLS: u32 = 40;
const PITFALLS_PAGE: &str = "docs/pitfalls.md";

#[test]
fn crates_depend_in_one_direction_only() {
    let metadata = metadata();
    let allowed: BTreeMap<_, _> = MAY_USE.into_iter().collect();
    let ours: BTreeSet<_> = allowed.keys().copied().collect();
    let mut faults = Vec::new();
    for package in members(&metadata) {
        let name = text(package, "name");
        let Some(may) = allowed.get(name) else {
            faults.push(format!("{name} is not in the table of this test"));
            continue;
        };
        for used in normal_dependencies(package).filter(|used| ours.contains(used)) {
            if !may.contains(&used) {
                faults.push(format!("{name} must not depend on {used}"));
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn the_domain_is_pure() {
    let metadata = metadata();
    let reached = reached_from(&metadata, "homelab-domain");
    for io in ["tokio", "tonic", "sqlx", "sqlx-core", "tracing", "hyper", "axum", "nix", "rustls"] {
        assert!(!reached.contains(io), "homelab-domain reaches {io}");
    }
}

#[test]
fn only_the_backup_agent_knows_the_repository_library() {
    let metadata = metadata();
    for package in members(&metadata) {
        let name = text(package, "name");
        let uses = normal_dependencies(package).any(|used| used.starts_with("rustic"));
        assert_eq!(uses, name == "homelab-backup-agent", "{name}");
    }
}

#[test]
fn ring_is_the_only_crypto_provider_and_rustls_the_only_tls() {
    let lock = read("Cargo.lock");
    for other in ["aws-lc-rs", "aws-lc-sys", "openssl", "openssl-sys", "native-tls"] {
        assert!(!lock.contains(&format!("name = \"{other}\"")), "{other} is in Cargo.lock");
    }
}

#[test]
fn versions_and_features_stand_in_the_root_only() {
    for package in members(&metadata()) {
        let manifest = fs::read_to_string(text(package, "manifest_path")).expect("manifest");
        let dependencies = manifest.split_once("[dependencies]").map_or("", |(_, rest)| rest);
        assert!(
            !dependencies.contains("version ="),
            "{}: a version of its own",
            text(package, "name")
        );
        assert!(
            manifest.contains("[lints]\nworkspace = true"),
            "{}: own lints",
            text(package, "name")
        );
    }
}

#[test]
fn no_source_file_takes_a_short_cut() {
    // Built from halves, so that this file does not find itself.
    let marks = [
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
        concat!("db", "g!("),
        concat!("#[ig", "nore"),
        concat!("#[al", "low("),
        concat!("#![al", "low("),
    ];
    let mut faults = Vec::new();
    for path in sources() {
        let source = fs::read_to_string(&path).expect("source");
        for mark in marks.iter().filter(|mark| source.contains(*mark)) {
            faults.push(format!("{}: {mark}", path.display()));
        }
        if path.file_name().is_some_and(|name| name == "mod.rs") {
            faults.push(format!("{}: foo.rs + foo/, not mod.rs", path.display()));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn each_pitfall_of_backups_has_a_test() {
    assert_named_tests_exist(PITFALLS_PAGE);
    let page = read(PITFALLS_PAGE);
    let rows: BTreeMap<u32, &str> = page
        .lines()
        .filter_map(|line| Some((line.strip_prefix("| ")?.split(' ').next()?.parse().ok()?, line)))
        .collect();
    assert!(rows.keys().copied().eq(1..=PITFALLS), "{:?}", rows.keys());
    let mut held = BTreeSet::new();
    for path in sources() {
        let source = fs::read_to_string(&path).expect("source");
        let file = path.strip_prefix(root()).expect("a path of ours").display().to_string();
        // From a half, so that this file does not find itself.
        for rest in source.split(concat!("fn pit", "fall_")).skip(1) {
            let name = rest.split('(').next().unwrap_or_default();
            let number = name.split('_').next().and_then(|number| number.parse().ok());
            let number: u32 = number.expect(name);
            let row = rows.get(&number).unwrap_or_else(|| panic!("there is no pitfall {number}"));
            let named = format!("`{file}::{}{name}`", concat!("pit", "fall_"));
            assert!(row.contains(&named), "row {number} does not name {named}");
            held.insert(number);
        }
    }
    assert!(held.iter().copied().eq(rows.into_keys()), "only {held:?} have a test of their own");
}

#[test]
fn every_invariant_names_the_test_that_holds_it() {
    let text = read("ARCHITECTURE.md");
    let invariants: Vec<_> = text.lines().filter(|line| line.contains("**Invariant:**")).collect();
    assert!(invariants.len() >= 8, "only {} invariants", invariants.len());
    for line in &invariants {
        assert!(line.contains("[held by `"), "no test named: {line}");
    }
    assert_named_tests_exist("ARCHITECTURE.md");
}

#[test]
fn every_promise_with_a_number_names_what_holds_it() {
    let text = read("docs/SPECIFICATION.md");
    let promises: Vec<_> = text.lines().filter(|line| line.starts_with("| P")).collect();
    assert!(promises.len() >= 10, "only {} promises", promises.len());
    for line in &promises {
        assert!(line.contains('`'), "nothing named: {line}");
    }
    assert_named_tests_exist("docs/SPECIFICATION.md");
}

/// Every `path/to/file.rs::name` in a document must be a function of that file.
fn assert_named_tests_exist(document: &str) {
    let text = read(document);
    let mut missing = Vec::new();
    let mut found = 0;
    for quoted in text.split('`').skip(1).step_by(2) {
        let Some((file, name)) = quoted.split_once(".rs::") else { continue };
        found += 1;
        let source = fs::read_to_string(root().join(format!("{file}.rs"))).unwrap_or_default();
        if !source.contains(&format!("fn {name}")) && !source.contains(&format!("{name},")) {
            missing.push(quoted.to_owned());
        }
    }
    assert!(found > 0, "{document} names no test");
    assert!(missing.is_empty(), "{document} names what is not there: {missing:#?}");
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_path_buf()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).expect(path)
}

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<_> =
        ["agent", "backup-agent", "common", "controller", "gpu-worker", "proto", "tests"]
            .map(|folder| root().join(folder))
            .into();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("folder") {
            let path = entry.expect("entry").path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") {
                found.push(path);
            }
        }
    }
    found
}

#[expect(clippy::disallowed_methods, reason = "asks cargo, which is there whenever tests run")]
fn metadata() -> Value {
    // What other systems would need was never downloaded.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline"])
        .args(["--filter-platform", &platform])
        .current_dir(root())
        .output()
        .expect("cargo metadata runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn members(metadata: &Value) -> impl Iterator<Item = &Value> {
    let ids: BTreeSet<_> = array(metadata, "workspace_members").filter_map(Value::as_str).collect();
    array(metadata, "packages").filter(move |package| ids.contains(text(package, "id")))
}

fn normal_dependencies(package: &Value) -> impl Iterator<Item = &str> {
    array(package, "dependencies")
        .filter(|used| used["kind"].is_null())
        .map(|used| text(used, "name"))
}

/// Names of all packages that are linked into `from`, tests and build scripts left out.
fn reached_from<'a>(metadata: &'a Value, from: &str) -> BTreeSet<&'a str> {
    let names: BTreeMap<_, _> = array(metadata, "packages")
        .map(|package| (text(package, "id"), text(package, "name")))
        .collect();
    let nodes: BTreeMap<_, _> =
        array(&metadata["resolve"], "nodes").map(|node| (text(node, "id"), node)).collect();
    let start = names.iter().find(|(_, name)| **name == from).map(|(id, _)| *id).expect(from);
    let mut reached = BTreeSet::from([start]);
    let mut open = vec![start];
    while let Some(id) = open.pop() {
        for used in array(nodes[id], "deps") {
            let normal = array(used, "dep_kinds").any(|kind| kind["kind"].is_null());
            let id = text(used, "pkg");
            if normal && reached.insert(id) {
                open.push(id);
            }
        }
    }
    reached.iter().filter_map(|id| names.get(id).copied()).collect()
}

fn array<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}
