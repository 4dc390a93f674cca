//! The units, as systemd itself judges them.

#![expect(clippy::expect_used, reason = "a test may stop at the first surprise")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

/// Exposure in tenths, as `systemd-analyze security` counts it: 0 is a locked box, 100 is open.
const EXPOSURE_MAX: &str = "20";

const UNITS: [&str; 4] =
    ["homelab-agent", "homelab-backup-agent", "homelab-controller", "homelab-gpu-worker"];

fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("workspace").join("packaging")
}

#[expect(
    clippy::disallowed_methods,
    reason = "a short program of the distribution, run to its end"
)]
fn systemd_analyze(arguments: &[&str]) -> (bool, String) {
    let output = std::process::Command::new("systemd-analyze")
        .args(arguments)
        .env("SYSTEMD_COLORS", "0")
        .output()
        .expect("systemd-analyze is missing: apt install systemd");
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// A root folder with the units and something to start, as a package would leave it.
fn installed() -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("folder");
    let units = root.path().join("usr/lib/systemd/system");
    let programs = root.path().join("usr/bin");
    fs::create_dir_all(&units).expect("folder");
    fs::create_dir_all(&programs).expect("folder");
    fs::create_dir_all(root.path().join("bin")).expect("folder");
    for unit in UNITS {
        let file = format!("{unit}.service");
        fs::copy(packaging().join("systemd").join(&file), units.join(&file)).expect("unit");
        executable(&programs.join(unit));
    }
    executable(&root.path().join("bin/kill"));
    for target in ["network-online", "multi-user", "sysinit", "basic", "shutdown"] {
        fs::write(units.join(format!("{target}.target")), "[Unit]\n").expect("target");
    }
    root
}

fn executable(path: &Path) {
    fs::write(path, "#!/bin/sh\n").expect("program");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("mode");
}

#[test]
fn systemd_understands_every_unit() {
    let root = installed();
    let folder = format!("--root={}", root.path().display());
    for unit in UNITS {
        let (good, words) =
            systemd_analyze(&["verify", "--man=no", &folder, &format!("{unit}.service")]);
        let ours: Vec<_> = words.lines().filter(|line| line.contains("homelab-")).collect();
        assert!(ours.is_empty(), "{unit}: {ours:#?}");
        assert!(good, "{unit}: {words}");
    }
}

#[test]
fn every_unit_is_locked_down() {
    for unit in UNITS {
        let file = packaging().join(format!("systemd/{unit}.service"));
        let threshold = format!("--threshold={EXPOSURE_MAX}");
        let (good, words) = systemd_analyze(&[
            "security",
            "--offline=yes",
            "--no-pager",
            &threshold,
            &file.display().to_string(),
        ]);
        assert!(good, "{unit}: {words}");
    }
}

#[test]
fn every_unit_has_its_user_and_its_folders() {
    for unit in UNITS {
        let users = fs::read_to_string(packaging().join(format!("sysusers/{unit}.conf")))
            .expect("sysusers");
        assert!(users.contains(&format!("u {unit} ")), "{users}");
        let folders = fs::read_to_string(packaging().join(format!("tmpfiles/{unit}.conf")))
            .expect("tmpfiles");
        assert!(folders.contains(&format!("/var/lib/{unit} 0700")), "{folders}");
    }
}

#[test]
fn every_unit_checks_its_configuration_before_it_starts() {
    for unit in UNITS {
        let text =
            fs::read_to_string(packaging().join(format!("systemd/{unit}.service"))).expect("unit");
        assert!(text.contains(&format!("ExecStartPre=/usr/bin/{unit} check-config")), "{unit}");
        assert!(text.contains("Type=notify") && text.contains("WatchdogSec="), "{unit}");
    }
}
