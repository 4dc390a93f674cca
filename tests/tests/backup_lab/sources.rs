//! Every kind of source but PostgreSQL, which the lab of all daemons has: backed up, verified, restored
//! and drilled through the controller.

use std::{fs, path::Path};

use anyhow::{Context as _, ensure};
use homelab_tests::{
    backup_lab::BackupLab,
    process::{command, output},
};
use serde_json::{Value, json};

use crate::{
    DB, YEARLY, each, firewall, firewall::Firewall, noise, pool::Pool, text, vault, vault::Vault,
};

/// Everything that is backed up.
struct Sources {
    lab: BackupLab,
    _vault: Vault,
    firewall: Firewall,
    pool: Option<Pool>,
}

/// What these tests would show and cannot without root and FUSE.
const LEFT_OUT: &str = "left out: a ZFS dataset end to end (needs root and /dev/fuse)";

impl Sources {
    #[expect(clippy::print_stderr, reason = "whoever runs the tests must know what they left out")]
    fn start() -> anyhow::Result<Self> {
        let mut lab = BackupLab::prepare(&[DB])?;
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace")?;
        let (vault, firewall) = (Vault::start(&lab)?, Firewall::start(root)?);
        let pool = Pool::start(&lab)?;
        if pool.is_none() {
            eprintln!("{LEFT_OUT}");
        }
        forge(&lab)?;
        let tree = lab.write("tree/deep/noise", noise(7, 200_000))?;
        let tree = tree.ancestors().nth(2).context("a folder")?.display().to_string();
        let credentials = lab.write_secret("etc/firewall.key", firewall::CREDENTIALS)?;
        let mut backups = vec![
            ("tree", "files", format!("roots = [\"{tree}\"]\n"), "scratch"),
            (
                "vault",
                "vaultwarden",
                format!("data-folder = \"{}\"\n", vault.folder.display()),
                "scratch",
            ),
            ("mirrors", "git", mirrors(&lab), "scratch"),
            ("firewall", "opnsense", firewall.config(&credentials), "scratch"),
        ];
        let mut targets = format!(
            "[[drill-target]]\nname = \"scratch\"\nkind = \"folder\"\npath = \"{}\"\n",
            lab.path("drills").display()
        );
        fs::create_dir(lab.path("drills"))?;
        if let Some(pool) = &pool {
            let program = format!("program = \"{}\"\n", pool.zfs.display());
            backups.push(("pool", "zfs", format!("dataset = \"tank/vault\"\n{program}"), "below"));
            targets += &format!(
                "[[drill-target]]\nname = \"below\"\nkind = \"zfs\"\nparent = \"safe/drill\"\n{program}"
            );
        }
        let (mut site, mut agent) =
            ("[[repository]]\nname = \"nas\"\n".to_owned(), lab.repository("nas", ""));
        for (name, kind, keys, target) in &backups {
            let head = format!(
                "[[backup]]\nname = \"{name}\"\nsource = \"{kind}\"\nrepository = \"nas\"\n"
            );
            site += &format!("{head}host = \"{DB}\"\n{YEARLY}drill-target = \"{target}\"\n");
            agent += &format!("{head}drill-target = \"{target}\"\n{keys}");
        }
        lab.site(&site)?;
        lab.agent(DB, &(agent + &targets))?;
        lab.init_repository(DB, "nas")?;
        lab.start()?;
        Ok(Self { lab, _vault: vault, firewall, pool })
    }

    /// Backed up, and restored into a new folder; what is there now.
    fn back_and_forth(&self, backup: &str) -> anyhow::Result<Restored> {
        let lab = &self.lab;
        let run = lab.back_up(backup)?;
        ensure!(run["snapshot"]["verifiedAt"].is_string(), "{run}");
        let target = lab.path(&format!("restored-{backup}"));
        let shown = target.display().to_string();
        let restored = lab.call("RestoreBackup", &json!({ "backup": backup, "target": shown }))?;
        let report = restored.last().context("an answer")?["response"]["report"].clone();
        ensure!(report["target"] == shown, "{restored:?}");
        ensure!(!each(&report, "nextSteps").is_empty(), "what to do next is not said: {report}");
        ensure!(target.join("manifest.json").exists(), "{report}");
        Ok(Restored { folder: target, run })
    }

    /// Restored somewhere, compared and removed again.
    fn drilled(&self, backup: &str, counts: &[&str]) -> anyhow::Result<()> {
        let drilled = self.lab.drill(backup)?;
        let report = &drilled["drill"];
        ensure!(report["verdict"] == "DRILL_VERDICT_PASSED", "{report}");
        let compared: Vec<_> =
            each(report, "compared").iter().map(|one| text(one, "what")).collect();
        for wanted in counts {
            ensure!(compared.contains(wanted), "{wanted} were not compared: {report}");
        }
        let left = fs::read_dir(self.lab.path("drills"))?.count();
        ensure!(left == 0, "{backup}: {left} things are left");
        Ok(())
    }

    /// Says which rights it needs, and has all of them.
    fn may_all(&self, backup: &str) -> anyhow::Result<()> {
        let explained = self.lab.call_once("ExplainAccess", &json!({ "backup": backup }))?;
        let findings = each(&explained, "findings");
        let is_held = |one: &Value| one["status"] == "CONDITION_STATUS_TRUE";
        ensure!(!findings.is_empty() && findings.iter().all(is_held), "{backup}: {explained}");
        Ok(())
    }
}

/// A restored snapshot and the run that made it.
struct Restored {
    folder: std::path::PathBuf,
    run: Value,
}

impl Restored {
    fn unpack(&self, archive: &str) -> anyhow::Result<std::path::PathBuf> {
        let to = self.folder.join("unpacked");
        fs::create_dir(&to)?;
        let mut tar = command("tar");
        output(tar.arg("-xf").arg(self.folder.join(archive)).arg("-C").arg(&to))?;
        Ok(to)
    }
}

/// A server with one repository, which has a branch, a tag and two commits.
fn forge(lab: &BackupLab) -> anyhow::Result<()> {
    let bare = lab.path("forge/lab/project.git").display().to_string();
    fs::create_dir_all(&bare)?;
    git(lab, &["init", "--quiet", "--bare", "--initial-branch=main", &bare])?;
    let work = lab.path("work").display().to_string();
    git(lab, &["clone", "--quiet", &bare, &work])?;
    for (name, content) in [("one", "1"), ("two", "2")] {
        lab.write(&format!("work/{name}"), content)?;
        git(lab, &["-C", &work, "add", "."])?;
        git(lab, &["-C", &work, "commit", "--quiet", "-m", name])?;
    }
    git(lab, &["-C", &work, "tag", "v1"])?;
    git(lab, &["-C", &work, "push", "--quiet", "origin", "HEAD:main", "v1"]).map(drop)
}

fn git(lab: &BackupLab, arguments: &[&str]) -> anyhow::Result<String> {
    let mut git = command("git");
    git.env("HOME", lab.path("nobody")).env("GIT_CONFIG_NOSYSTEM", "1");
    git.args(["-c", "user.name=ada", "-c", "user.email=ada@lab.example"]);
    output(git.args(["-c", "init.defaultBranch=main"]).args(arguments))
}

fn mirrors(lab: &BackupLab) -> String {
    format!(
        "remote = \"file://{}\"\nrepositories = [\"lab/project\"]\nwikis = false\n",
        lab.path("forge").display()
    )
}

#[test]
fn each_kind_of_source_is_backed_up_verified_restored_and_drilled() -> anyhow::Result<()> {
    let sources = Sources::start()?;
    a_tree_of_files(&sources).context("files")?;
    a_vaultwarden_that_runs(&sources).context("vaultwarden")?;
    mirrors_of_git(&sources).context("git")?;
    a_firewall(&sources).context("opnsense")?;
    if let Some(pool) = &sources.pool {
        a_dataset(&sources, pool).context("zfs")?;
    }
    let verify = json!({ "backup": "tree", "readData": true });
    let verified = sources.lab.call("VerifyBackup", &verify)?;
    let report = &verified.last().context("an answer")?["response"]["report"];
    ensure!(report["sound"] == true, "{report}");
    sources.lab.is_sound_to_restic("nas")?;
    let mut lab = sources.lab;
    lab.stop()
}

fn a_tree_of_files(sources: &Sources) -> anyhow::Result<()> {
    let restored = sources.back_and_forth("tree")?;
    let unpacked = restored.unpack("files.tar")?;
    let live = sources.lab.path("tree/deep/noise");
    let inside = unpacked.join(live.strip_prefix("/")?);
    ensure!(fs::read(inside)? == fs::read(live)?, "the file is another one");
    sources.drilled("tree", &["files"])?;
    sources.may_all("tree")
}

fn a_vaultwarden_that_runs(sources: &Sources) -> anyhow::Result<()> {
    let restored = sources.back_and_forth("vault")?;
    let manifest = &restored.run["snapshot"]["manifest"]["vaultwarden"];
    ensure!(manifest["ciphers"] == "2" && manifest["attachments"] == "1", "{}", restored.run);
    let unpacked = restored.unpack("vaultwarden.tar")?;
    ensure!(vault::entries(&unpacked.join("db.sqlite3"))? == 2, "entries are missing");
    ensure!(fs::read(unpacked.join("attachments/c1/a1"))? == [1; 1000], "another attachment");
    ensure!(!unpacked.join("db.sqlite3-wal").exists(), "a log lies beside it");
    sources.drilled("vault", &["attachments"])?;
    sources.may_all("vault")
}

fn mirrors_of_git(sources: &Sources) -> anyhow::Result<()> {
    let lab = &sources.lab;
    let restored = sources.back_and_forth("mirrors")?;
    let bare = lab.path("forge/lab/project.git").display().to_string();
    let head = git(lab, &["-C", &bare, "rev-parse", "main"])?;
    let mirror = restored.unpack("repositories.tar")?.join("lab/project.git");
    let mirror = mirror.display().to_string();
    let found = git(lab, &["-C", &mirror, "rev-parse", "refs/upstream/heads/main"])?;
    ensure!(found == head, "{found} is not {head}");
    sources.drilled("mirrors", &["refs"])?;
    sources.may_all("mirrors")?;
    // To a new server, in one call, and again without harm; never beside what somebody else has there.
    let new = lab.path("new/lab/project.git").display().to_string();
    fs::create_dir_all(&new)?;
    git(lab, &["init", "--quiet", "--bare", "--initial-branch=main", &new])?;
    let push = json!({
        "backup": "mirrors", "targetUrl": format!("file://{}", lab.path("new").display()),
    });
    let pushed = lab.call("PushBackGit", &push)?;
    let report = &pushed.last().context("an answer")?["report"];
    ensure!(report["references"] == "2", "{pushed:?}");
    ensure!(git(lab, &["-C", &new, "rev-parse", "v1"])? == head, "another commit");
    lab.call("PushBackGit", &push)?;
    git(lab, &["-C", &new, "branch", "theirs", "main"])?;
    let again = lab.call("PushBackGit", &push)?;
    let failure = &again.last().context("an answer")?["failure"];
    ensure!(failure["reason"] == "TARGET_NOT_EMPTY", "{again:?}");
    Ok(())
}

fn a_firewall(sources: &Sources) -> anyhow::Result<()> {
    let restored = sources.back_and_forth("firewall")?;
    let stored = fs::read_to_string(restored.folder.join("config.xml"))?;
    ensure!(stored == sources.firewall.configuration(), "another configuration");
    sources.drilled("firewall", &["interfaces"])?;
    sources.may_all("firewall")
}

fn a_dataset(sources: &Sources, pool: &Pool) -> anyhow::Result<()> {
    let file = format!("of={}", sources.lab.path("tank/vault/one").display());
    pool.tell(&["dd", "if=/dev/urandom", "bs=1024", "count=64", "status=none", &file])?;
    let restored = sources.back_and_forth("pool")?;
    ensure!(restored.folder.join("stream.zfs").metadata()?.len() > 64 << 10, "nothing in it");
    sources.drilled("pool", &["snapshots by guid"])?;
    let left = pool.tell(&["zfs", "list", "-H", "-o", "name", "-r", "safe/drill"])?;
    ensure!(left.trim() == "safe/drill", "left behind: {left}");
    let snapshots = pool.tell(&["zfs", "list", "-H", "-t", "snapshot", "-o", "name"])?;
    ensure!(snapshots.lines().count() == 1, "{snapshots}");
    sources.may_all("pool")
}
