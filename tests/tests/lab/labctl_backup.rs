//! `labctl backup`, `recovery-kit` and `docs` as a person uses them, against a real controller and a real
//! backup agent.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use homelab_tests::{
    lab::{BACKUP, Daemon, HOSTS, Lab, Ports},
    process::{command, output},
    wait::{Look, wait_for},
};
use serde_json::Value;

/// The password of the repositories, as the lab writes it.
const PASSWORD: &str = "correct horse battery staple";
/// Where the second copy goes.
const SECOND: &str = "parents";
const SECOND_ID: &str = "0190a8f2-6c1e-7d3a-9b57-3f2d1c4e5a61";
/// A backup of Git repositories, which lie in a folder.
const MIRRORS: &str = "mirrors";
/// The agent starts, and the controller dials it.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// The first drill restores a small database.
const DRILL_WITHIN: Duration = Duration::from_secs(120);

/// Whether the site declares drills, which begin by themselves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Drills {
    Declared,
    None,
}

/// How a verb ended.
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    #[track_caller]
    fn must_be(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{}\n{}", self.out, self.err);
        self
    }

    #[track_caller]
    fn shows(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.out.contains(part), "`{part}` is not in\n{}\n{}", self.out, self.err);
        }
        self
    }

    #[track_caller]
    fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.err.contains(part), "`{part}` is not in\n{}\n{}", self.err, self.out);
        }
        self
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).expect("JSON on standard output")
    }
}

fn labctl(lab: &Lab, arguments: &[&str]) -> Ran {
    let ran = lab.labctl_command(arguments).output().expect("labctl starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran {
        code: ran.status.code().expect("not killed"),
        out: text(&ran.stdout),
        err: text(&ran.stderr),
    }
}

/// The controller and the host with the database; its agent has two repositories and mirrors a Git server.
fn lab(drills: Drills) -> Lab {
    let mut lab = Lab::prepare(Ports::free().expect("ports")).expect("databases and files");
    let folder = lab.folder().display().to_string();
    change(&lab, "homelab.toml", |text| {
        let text = text
            .replace("*/15 * * * *", "0 3 1 * *")
            .replace("rpo = \"1h\"", "rpo = \"35d\"")
            .replace("drill-schedule = \"5 * * * *\"", "drill-schedule = \"0 5 1 * *\"")
            .replace("[[repository]]\nname = \"nas\"\n", PLACES)
            .replace("source = \"postgres\"\n", "source = \"postgres\"\ncopies = [\"parents\"]\n");
        let text = match drills {
            Drills::Declared => text,
            Drills::None => text
                .replace("drill-schedule = \"0 5 1 * *\"\n", "")
                .replace("drill-target = \"nas-postgres\"\n", ""),
        };
        format!(
            "{text}\n[[backup]]\nname = \"{MIRRORS}\"\nhost = \"hx310-db\"\nsource = \"git\"\n\
             repository = \"nas\"\nschedule = \"0 3 1 * *\"\nrpo = \"35d\"\n"
        )
    });
    let git = lab.program_on_path("git").expect("git: apt install git").display().to_string();
    change(&lab, "hx310-db-backup-agent.toml", |text| {
        format!(
            "{text}\n[[repository]]\nname = \"{SECOND}\"\nid = \"{SECOND_ID}\"\npath = \"{folder}/{SECOND}\"\n\
             password = \"{folder}/etc/repository.password\"\nrequire-mount = false\n\n\
             [[backup]]\nname = \"{MIRRORS}\"\nsource = \"git\"\nrepository = \"nas\"\n\
             remote = \"file://{folder}/upstream\"\nrepositories = [\"ada/site\"]\nwikis = false\ngit = \"{git}\"\n"
        )
    });
    fs::create_dir(lab.folder().join(SECOND)).expect("a folder");
    make_upstream(&lab);
    lab.start_controller().expect("the controller starts");
    lab.init_repository().expect("a repository");
    let mut init = command(lab.programs().join(Daemon::BackupAgent.program()));
    init.args(["init-repository", SECOND, "--config"])
        .arg(lab.folder().join("etc/hx310-db-backup-agent.toml"));
    output(&mut init).expect("the second repository");
    let host = HOSTS.iter().find(|host| host.name == "hx310-db").expect("is in the lab");
    for daemon in host.daemons {
        lab.join(host, *daemon).expect("it joins");
    }
    wait_for("the backup agent", ANSWER_WITHIN, || {
        let looked = labctl(&lab, &["backup", "snapshots", MIRRORS]);
        Ok(if looked.code == 0 { Look::Ready(()) } else { Look::NotYet(looked.err) })
    })
    .expect("it answers");
    lab
}

/// Two repositories with their keys, a window, and a policy that keeps nearly nothing.
const PLACES: &str = r#"[[repository]]
name = "nas"
description = "A folder that stands for the NAS"
medium = "nas-raid"
place = "home"
secret = "nas-key"

[[repository]]
name = "parents"
medium = "parents-disk"
place = "parents"
secret = "nas-key"

[[secret]]
name = "nas-key"
kept-in = ["kit"]

[[secret]]
name = "ca-root-key"
kept-in = ["kit"]

[retention]
last = 1
hourly = 0
daily = 0
weekly = 0
monthly = 0
yearly = 0
floor = 1
floor-total = 1

[[window]]
name = "parity-check"
description = "all disks are read"
begins = "0 4 1 * *"
length = "10h"
backups = ["wiki"]
"#;

fn change(lab: &Lab, file: &str, how: impl FnOnce(String) -> String) {
    let path = lab.folder().join("etc").join(file);
    let text = fs::read_to_string(&path).expect("the lab's file");
    fs::write(&path, how(text)).expect("written");
}

/// A Git server in a folder, with one repository of one commit.
fn make_upstream(lab: &Lab) {
    let (upstream, work) = (lab.folder().join("upstream/ada/site.git"), lab.folder().join("work"));
    let at = |path: &Path| path.display().to_string();
    git(lab, &["init", "-q", "--bare", "-b", "main", &at(&upstream)]);
    git(lab, &["init", "-q", "-b", "main", &at(&work)]);
    fs::write(work.join("page.md"), "hello\n").expect("written");
    for arguments in [
        ["add", "page.md"].as_slice(),
        &["-c", "user.name=ada", "-c", "user.email=ada@home.arpa", "commit", "-qm", "a page"],
        &["push", "-q", &at(&upstream), "main"],
    ] {
        git(lab, &[&["-C", &at(&work)], arguments].concat());
    }
}

fn git(lab: &Lab, arguments: &[&str]) -> String {
    let mut git = command(lab.program_on_path("git").expect("git: apt install git"));
    output(git.env("HOME", lab.folder()).args(arguments)).expect("git")
}

#[test]
fn a_backup_is_followed_looked_at_copied_and_restored() {
    let mut lab = lab(Drills::None);
    labctl(&lab, &["backup", "run", BACKUP, "--dry-run"]).must_be(0).shows(&["It could start."]);
    let quiet = labctl(&lab, &["backup", "run", BACKUP, "--wait", "-o", "json"]).must_be(0);
    assert_eq!(quiet.err, "", "programs get the result and nothing else");
    assert_eq!(quiet.json()["run"]["state"], "RUN_STATE_SUCCEEDED");
    let run = quiet.json()["run"]["runId"].as_str().expect("an id").to_owned();
    labctl(&lab, &["backup", "watch", &run]).must_be(0).shows(&["succeeded", "snapshot "]);
    labctl(&lab, &["backup", "cancel", &run]).must_be(0).says(&["ended already"]);
    let loud = labctl(&lab, &["backup", "run", BACKUP, "--wait"]).must_be(0);
    assert!(loud.err.lines().all(|line| line.starts_with("0:")), "bounded lines: {}", loud.err);
    assert!(!loud.err.contains('\x1b'), "no bar in a log: {}", loud.err);

    looked_at(&lab);
    copied(&lab);
    restored(&lab);
    lab.stop().expect("a graceful end");
}

fn looked_at(lab: &Lab) {
    labctl(lab, &["backup", "snapshots", BACKUP]).must_be(0).shows(&["hx310-db", "nas"]);
    let repositories = labctl(lab, &["backup", "repositories", BACKUP]);
    let repositories = repositories.shows(&["nas", SECOND, "full"]);
    assert!([0, 4].contains(&repositories.code), "{}", repositories.err);
    labctl(lab, &["backup", "verify", BACKUP, "--read-data"]).must_be(0).shows(&["yes"]);
    labctl(lab, &["backup", "scrub", BACKUP, "--parts", "2"]).must_be(0).shows(&["of 2"]);
    labctl(lab, &["backup", "prune", BACKUP]).must_be(0).shows(&["FREED"]);
    labctl(lab, &["backup", "windows"]).must_be(0).shows(&["parity-check", "10 h", "wiki"]);
    labctl(lab, &["backup", "pause", BACKUP, "--reason", "new disks", "--for", "6h"])
        .must_be(0)
        .shows(&["new disks", "ends in"]);
    labctl(lab, &["backup", "resume", BACKUP]).must_be(0);
    labctl(lab, &["backup", "schedule", "list"]).must_be(0).shows(&["0 3 1 * *"]);
    let access = labctl(lab, &["backup", "access", BACKUP]).shows(&["GRANT", "tried just now"]);
    assert!([0, 4].contains(&access.code), "{}", access.err);
}

fn copied(lab: &Lab) {
    let elsewhere = labctl(lab, &["backup", "copy", BACKUP, "--to", "mars"]).must_be(2);
    elsewhere.says(&["does not use repository `mars`", "labctl backup copies wiki"]);
    labctl(lab, &["backup", "copy", BACKUP, "--to", SECOND]).must_be(0).shows(&[SECOND]);
    let copies = labctl(lab, &["backup", "copies", BACKUP, "-o", "json"]).json();
    let roles: Vec<_> = copies["backups"][0]["copies"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|copy| copy["role"].as_str().unwrap_or_default())
        .collect();
    assert_eq!(roles, ["COPY_ROLE_SOURCE", "COPY_ROLE_PRIMARY", "COPY_ROLE_COPY"]);
    labctl(lab, &["backup", "copies"]).shows(&["media ", "nas-raid", "parents-disk"]);
}

fn restored(lab: &Lab) {
    let target = lab.folder().join("restored").display().to_string();
    let restore = ["backup", "restore", BACKUP, "--target", &target];
    labctl(lab, &[&restore, ["--dry-run"].as_slice()].concat())
        .must_be(0)
        .shows(&["It could be restored."]);
    assert!(!Path::new(&target).exists(), "a check restores nothing");
    labctl(lab, &restore).must_be(0).shows(&["every hash equal", "To put it back into service"]);
    let file = Path::new(&target).join("mine");
    fs::write(&file, "what I have changed since").expect("written");
    labctl(lab, &restore).must_be(1).says(&["TARGET_EXISTS", "--replace"]);
    assert!(file.exists(), "nothing was replaced");
    let replace = |typed: &str| labctl(lab, &[&restore, ["--replace", typed].as_slice()].concat());
    replace("forgejo").must_be(2).says(&["nothing was replaced"]);
    replace(BACKUP).must_be(0).shows(&["what was there is kept in"]);
    assert!(!file.exists(), "it is the snapshot now");
    let second = ["--repository", SECOND, "--salvage", "--target"];
    let other = lab.folder().join("from-the-copy").display().to_string();
    labctl(lab, &[&["backup", "restore", BACKUP], second.as_slice(), &[&other]].concat())
        .must_be(0)
        .shows(&["every hash equal"]);
}

#[test]
fn retention_is_planned_braked_let_go_and_applied_to_the_letter() {
    let mut lab = lab(Drills::None);
    for _ in 0..4 {
        labctl(&lab, &["backup", "run", BACKUP, "--wait", "-o", "name"]).must_be(0);
    }
    lab.source.sql(BACKUP, "truncate attachments, pages");
    labctl(&lab, &["backup", "run", BACKUP, "--wait", "-o", "name"]).must_be(0);
    let plan = ["backup", "retention", "plan", BACKUP, "--repository", "nas"];
    let braked = labctl(&lab, &plan).must_be(3);
    let braked = braked.shows(&["keep 1, give up 4", "number 1 of the newest", "policy: 1 last"]);
    let apply = ["backup", "retention", "apply", BACKUP, "--repository", "nas"];
    labctl(&lab, &[&apply, ["--yes"].as_slice()].concat()).must_be(3);
    assert_eq!(held(&lab), 5, "a brake keeps everything");

    let lines = braked.out.lines().filter(|line| line.contains("retention acknowledge"));
    let mut let_go = Vec::new();
    for line in lines {
        let typed: Vec<_> = line.split_whitespace().skip(1).collect();
        let_go.push(labctl(&lab, &[&typed, ["-o", "name"].as_slice()].concat()).must_be(0).out);
    }
    let_go.sort();
    assert_eq!(let_go, ["ROWS_COLLAPSED\n", "SIZES_COLLAPSED\n"], "{}", braked.out);
    let plan = labctl(&lab, &plan).must_be(0).shows(&["let go by"]);
    let next = plan.out.lines().find(|line| line.contains("next: ")).expect("the next command");
    let next: Vec<_> = next.split_whitespace().skip(2).collect();
    labctl(&lab, &["backup", "retention", "calendar", BACKUP])
        .must_be(0)
        .shows(&["last", "would go: "]);
    labctl(&lab, &["backup", "retention", "calendar", BACKUP, "--last", "9"])
        .must_be(0)
        .shows(&["9 last"]);

    labctl(&lab, &apply).must_be(2).says(&["nobody is there to be asked", "--yes"]);
    let stale = [&apply, ["--digest", "5c1f"].as_slice()].concat();
    labctl(&lab, &stale).must_be(1).says(&["something has changed since", "retention plan wiki"]);
    labctl(&lab, &[next.as_slice(), &["--dry-run"]].concat()).must_be(0).says(&["only checked"]);
    assert_eq!(held(&lab), 5, "nothing was given up so far");
    let done = labctl(&lab, &[next.as_slice(), &["-o", "json"]].concat()).must_be(0).json();
    assert_eq!(done["quarantined"], 4);
    assert_eq!(held(&lab), 1);
    lab.stop().expect("a graceful end");
}

/// Snapshots in the first repository that were not given up.
fn held(lab: &Lab) -> usize {
    let listed = labctl(lab, &["backup", "snapshots", BACKUP, "-o", "json"]).must_be(0).json();
    let all = listed["snapshots"].as_array().into_iter().flatten();
    all.filter(|snapshot| snapshot["quarantinedAt"].is_null()).count()
}

#[test]
fn evidence_the_kit_and_the_documents_prove_what_they_say() {
    let mut lab = lab(Drills::Declared);
    labctl(&lab, &["backup", "run", BACKUP, "--wait"]).must_be(0);
    wait_for("the first drill", DRILL_WITHIN, || {
        let listed = labctl(&lab, &["backup", "evidence", "list", BACKUP, "-o", "name"]).out;
        Ok(if listed.is_empty() { Look::NotYet("no evidence".to_owned()) } else { Look::Ready(()) })
    })
    .expect("evidence");
    labctl(&lab, &["backup", "evidence", "list"]).must_be(0).shows(&["passed", BACKUP]);

    let kit = labctl(&lab, &["recovery-kit", "show", "-o", "json"]).must_be(0).json();
    evidence_fits(&lab, kit["evidencePublicKeyPem"].as_str().expect("a key"));
    labctl(&lab, &["recovery-kit", "show"]).must_be(0).shows(&[
        "RECOVERY KIT of demo",
        "nas-key",
        "restic -r",
        "BEGIN CERTIFICATE",
        "Stage 1",
        "never proved",
    ]);
    kit_opens(&lab);
    documents(&lab);
    lab.stop().expect("a graceful end");
}

fn evidence_fits(lab: &Lab, key: &str) {
    let (good, bad) = (lab.folder().join("evidence.pem"), lab.folder().join("another.pem"));
    fs::write(&good, key).expect("written");
    let verify = |file: &Path| {
        let file = file.display().to_string();
        labctl(lab, &["backup", "evidence", "verify", "--key", &file])
    };
    verify(&good).must_be(0).shows(&["yes"]);
    let made = output(command("openssl").args([
        "genpkey",
        "-algorithm",
        "EC",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-outform",
        "PEM",
    ]));
    let private = lab.folder().join("another.key");
    fs::write(&private, made.expect("openssl: apt install openssl")).expect("written");
    let public = output(command("openssl").args(["pkey", "-pubout", "-in"]).arg(&private));
    fs::write(&bad, public.expect("a public key")).expect("written");
    verify(&bad).must_be(1).says(&["signed with another key"]);
    verify(Path::new("/nowhere")).must_be(2);
}

fn kit_opens(lab: &Lab) {
    let folder = lab.folder().join("stick");
    fs::create_dir(&folder).expect("a folder");
    let secrets = folder.display().to_string();
    // The stick is in this host, which sees the repositories under paths of its own.
    let places = ["nas", SECOND].map(|name| format!("{name}={}/{name}", lab.folder().display()));
    let [nas, second] = &places;
    let prove = |more: &[&str]| {
        let base = ["recovery-kit", "prove", "--secrets", &secrets];
        labctl(
            lab,
            &[&base, ["--repository", nas, "--repository", second].as_slice(), more].concat(),
        )
    };
    prove(&[]).must_be(2).says(&["nothing was tried"]);
    let key = folder.join("nas-key");
    fs::write(&key, "wrong\n").expect("written");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("chmod");
    prove(&[]).must_be(1).shows(&["NO", "wrong password", "not tried"]).says(&["ca-root-key"]);
    labctl(lab, &["backup", "risk"]).shows(&["the recovery kit did not open everything"]);

    fs::write(&key, format!("{PASSWORD}\n")).expect("written");
    let partly = prove(&["--dry-run"]).must_be(4);
    partly.shows(&["nas: 1 verified snapshots"]).says(&["not kept"]);
    fs::copy(lab.folder().join("recovery/root-key.pem"), folder.join("ca-root-key.pem"))
        .expect("the root's key");
    let whole = prove(&[]).must_be(0);
    whole.shows(&["nas: 1 verified snapshots", "it is the key of the root's certificate"]);
    prove(&["--failed", "nas-kye=lost"]).must_be(2).says(&["nas-kye", "nas-key"]);
    let risk = labctl(lab, &["backup", "risk"]);
    assert!(!risk.out.contains("recovery kit"), "{}", risk.out);
    labctl(lab, &["recovery-kit", "show"]).must_be(0).shows(&["everything opened"]);
}

fn documents(lab: &Lab) {
    let out = lab.folder().join("docs");
    fs::create_dir(&out).expect("a folder");
    let render = || labctl(lab, &["docs", "render", "--out", &out.display().to_string()]);
    render().must_be(0).shows(&["70-backup-and-restore-strategy.md", "71-cold-start-runbook.md"]);
    let strategy = out.join("70-backup-and-restore-strategy.md");
    let text = fs::read_to_string(&strategy).expect("the strategy");
    for part in [
        "# 70 Backup and restore strategy",
        "## wiki\n",
        "- **Loss at most**: 35 d; now ",
        "- **Kept**: 1 last",
        "- **Keys**: `nas-key`",
        "- **Last evidence**: number ",
        ": passed; snapshot ",
        "restic -r ",
        "| parity-check |",
        "it opened everything",
    ] {
        assert!(text.contains(part), "`{part}` is not in\n{text}");
    }
    let runbook = fs::read_to_string(out.join("71-cold-start-runbook.md")).expect("the runbook");
    for part in ["## Stage 1", "`backup/wiki`", "| nas-key |"] {
        assert!(runbook.contains(part), "`{part}` is not in\n{runbook}");
    }
    render().must_be(0);
    fs::write(&strategy, "# Mine\n").expect("written");
    render().must_be(1).says(&["was not made by"]);
    assert_eq!(fs::read_to_string(&strategy).expect("still there"), "# Mine\n");
}

#[test]
fn mirrors_are_pushed_to_a_new_server_and_only_to_an_empty_one() {
    let mut lab = lab(Drills::None);
    labctl(&lab, &["backup", "run", MIRRORS, "--wait"]).must_be(0);
    let new = lab.folder().join("new-server/ada/site.git");
    git(&lab, &["init", "-q", "--bare", "-b", "main", &new.display().to_string()]);
    let url = format!("file://{}/new-server", lab.folder().display());
    let push = ["backup", "push-back", MIRRORS, "--to", &url];
    labctl(&lab, &[&push, ["--dry-run"].as_slice()].concat())
        .must_be(0)
        .shows(&["It could be pushed."]);
    labctl(&lab, &push).must_be(0).shows(&["ada/site", "references equal on both sides"]);
    let pushed = git(&lab, &["-C", &new.display().to_string(), "show", "main:page.md"]);
    assert_eq!(pushed, "hello\n");

    let other = lab.folder().join("other-server/ada/site.git");
    git(&lab, &["init", "-q", "--bare", "-b", "main", &other.display().to_string()]);
    let work = lab.folder().join("work").display().to_string();
    fs::write(Path::new(&work).join("page.md"), "another\n").expect("written");
    let commit = ["-c", "user.name=ada", "-c", "user.email=ada@home.arpa", "commit", "-qam", "x"];
    git(&lab, &[["-C", &work].as_slice(), &commit].concat());
    git(&lab, &["-C", &work, "push", "-q", &other.display().to_string(), "main"]);
    let taken = format!("file://{}/other-server", lab.folder().display());
    let refused = labctl(&lab, &["backup", "push-back", MIRRORS, "--to", &taken]).must_be(1);
    refused.says(&["TARGET_NOT_EMPTY", "other-server/ada/site.git"]);
    let still = git(&lab, &["-C", &other.display().to_string(), "show", "main:page.md"]);
    assert_eq!(still, "another\n", "what somebody else had there is there still");
    lab.stop().expect("a graceful end");
}
