//! Copies, drills on another host, retention, reading through and freeing room, over days.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, ensure};
use homelab_tests::backup_lab::BackupLab;
use serde_json::{Value, json};

use crate::{DB, NAS, YEARLY, each, noise, text, until};

const DAY: Duration = Duration::from_hours(24);
/// Each run adds a file of this size that the next has no more.
const CHANGED: u32 = 3 << 20;

/// A tree on one host, in a repository that the other keeps and on a disk elsewhere.
fn lab() -> anyhow::Result<BackupLab> {
    let mut lab = BackupLab::prepare(&[DB, NAS])?;
    lab.site(&format!(
        "[[repository]]\nname = \"nas\"\nmedium = \"nas-disks\"\nscrub-every = \"24h\"\nkeeper = \"{NAS}\"\n\
         [[repository]]\nname = \"usb\"\nmedium = \"usb-disk\"\nplace = \"office\"\n\
         [[backup]]\nname = \"etc\"\nhost = \"{DB}\"\nsource = \"files\"\nrepository = \"nas\"\n\
         copies = [\"usb\"]\n{YEARLY}drill-host = \"{NAS}\"\ndrill-target = \"scratch\"\n\
         keep = {{ last = 2, hourly = 0, daily = 0, weekly = 0, monthly = 0, yearly = 0, floor = 1, \
         floor-total = 1, quarantine = \"24h\" }}\n\
         [[window]]\nname = \"night\"\nbegins = \"0 2 * * *\"\nlength = \"1h\"\n"
    ))?;
    let tree = lab.write("tree/text", "the same for ever")?;
    let roots = tree.parent().context("a folder")?.display().to_string();
    let (appended, usb) =
        (lab.repository("nas", "access = \"append-only\""), lab.repository("usb", ""));
    lab.agent(
        DB,
        &format!(
            "{appended}{usb}[[backup]]\nname = \"etc\"\nsource = \"files\"\nrepository = \"nas\"\n\
             copies = [\"usb\"]\nroots = [\"{roots}\"]\n"
        ),
    )?;
    let (kept, drills) = (lab.repository("nas", ""), lab.path("drills"));
    fs::create_dir(&drills)?;
    lab.agent(
        NAS,
        &format!(
            "{kept}[[drill-target]]\nname = \"scratch\"\nkind = \"folder\"\npath = \"{}\"\n",
            drills.display()
        ),
    )?;
    lab.init_repository(NAS, "nas")?;
    lab.init_repository(DB, "usb")?;
    lab.start()?;
    // Once it knows them, the controller keeps repositories up by itself: there is nothing to do yet.
    for repository in ["nas", "usb"] {
        plan(&lab, repository)?;
    }
    Ok(lab)
}

/// One more run of a changed tree, copied; its snapshot.
fn run(lab: &BackupLab, number: u32) -> anyhow::Result<String> {
    lab.write("tree/changing", noise(number, CHANGED))?;
    let run = lab.back_up("etc")?;
    until("the copy", || {
        let listed = lab.ask_last(DB, "ListCopies", &json!({ "backup": "etc" }))?;
        let is_there = |copy: &Value| {
            copy["state"] == "COPY_STATE_STORED" && copy["waiting"].as_u64().unwrap_or(0) == 0
        };
        let copies = each(&listed, "copies");
        Ok(if copies.len() == 2 && copies.iter().all(is_there) {
            Ok(())
        } else {
            Err(listed.to_string())
        })
    })?;
    Ok(text(&run["snapshot"], "id").to_owned())
}

/// What retention would do in one repository.
fn plan(lab: &BackupLab, repository: &str) -> anyhow::Result<Value> {
    let wanted = json!({ "backup": "etc", "repository": repository });
    let plans = lab.call_once("PlanBackupRetention", &wanted)?;
    each(&plans, "plans").first().cloned().with_context(|| plans.to_string())
}

fn with_verdict<'a>(plan: &'a Value, verdict: &str) -> Vec<&'a str> {
    let wanted = format!("RETENTION_VERDICT_{verdict}");
    let decisions = each(plan, "decisions").iter();
    decisions.filter(|one| one["verdict"] == *wanted).map(|one| text(one, "snapshotId")).collect()
}

fn apply(lab: &BackupLab, plan: &Value) -> anyhow::Result<Value> {
    let wanted = json!({
        "backup": "etc", "repository": plan["repository"], "digest": plan["digest"],
    });
    lab.call_once("ApplyBackupRetention", &wanted)
}

fn snapshots_to_restic(lab: &BackupLab, repository: &str) -> anyhow::Result<Vec<String>> {
    let listed = lab.restic(repository, &["snapshots", "--json"])?;
    let listed: Vec<Value> = serde_json::from_str(&listed)?;
    Ok(listed.iter().map(|one| text(one, "id").to_owned()).collect())
}

#[test]
fn what_no_policy_keeps_is_given_up_then_deleted_and_its_room_freed_as_days_pass()
-> anyhow::Result<()> {
    let mut lab = lab()?;
    let ids = (1..=4).map(|number| run(&lab, number)).collect::<Result<Vec<_>, _>>()?;
    let full = lab.data_bytes("nas")?;
    ensure!(full > u64::from(CHANGED) * 4, "{full} bytes");
    what_was_copied_counts(&lab)?;
    a_drill_elsewhere_leaves_evidence(&lab, ids.last().context("a snapshot")?)?;

    for repository in ["nas", "usb"] {
        let planned = plan(&lab, repository)?;
        ensure!(planned["applicable"] == true, "{planned}");
        ensure!(with_verdict(&planned, "QUARANTINE").len() == 2, "{planned}");
        let applied = apply(&lab, &planned)?;
        ensure!(applied["quarantined"] == 2, "{applied}");
        let refused = apply(&lab, &planned).expect_err("it was carried out");
        ensure!(refused.to_string().contains("Aborted"), "{refused}");
    }
    let (given_up, kept) = ids.split_at(2);
    let listed = lab.ask_last(NAS, "ListSnapshots", &json!({ "repository": "nas" }))?;
    for one in each(&listed, "snapshots") {
        let is_given_up = given_up.contains(&text(one, "id").to_owned());
        ensure!(one["quarantinedAt"].is_string() == is_given_up, "{one}");
    }
    // They are recoverable: nothing of them is gone.
    ensure!(snapshots_to_restic(&lab, "nas")?.len() == 4, "deleted at once");
    let newest = kept.last().context("a snapshot")?;
    an_agent_that_may_only_add_deletes_nothing(&lab)?;

    lab.let_pass(2 * DAY)?;
    for repository in ["nas", "usb"] {
        // The controller does it by itself, sooner or later; whoever comes first.
        until("the deletion", || {
            let planned = plan(&lab, repository)?;
            if each(&planned, "decisions").len() == 2 {
                return Ok(Ok(()));
            }
            ensure!(with_verdict(&planned, "KEEP").len() == 2, "{planned}");
            Ok(Err(format!("{:?} {planned}", apply(&lab, &planned))))
        })?;
        let mut left = snapshots_to_restic(&lab, repository)?;
        left.sort();
        ensure!(left.len() == 2, "{repository}: {left:?}");
    }
    ensure!(snapshots_to_restic(&lab, "nas")?.contains(newest), "the newest is gone");
    lab.is_sound_to_restic("nas")?;

    // A day later what nothing needs is marked, and another day later removed: by itself.
    for _ in 0..2 {
        let before = read_through(&lab)?;
        lab.let_pass(2 * DAY)?;
        until("the next reading through", || {
            let now = read_through(&lab)?;
            Ok(if now > before { Ok(()) } else { Err(format!("{now}, {before} before")) })
        })?;
    }
    until("room to be freed", || {
        let bytes = lab.data_bytes("nas")?;
        let is_freed = bytes < full - u64::from(CHANGED) * 2;
        Ok(if is_freed { Ok(()) } else { Err(format!("{bytes} of {full} bytes")) })
    })?;
    for repository in ["nas", "usb"] {
        lab.is_sound_to_restic(repository)?;
    }
    let drilled = lab.drill("etc")?;
    ensure!(drilled["drill"]["snapshotId"] == **newest, "{drilled}");
    evidence_is_intact(&lab, 2)?;
    lab.stop()
}

fn what_was_copied_counts(lab: &BackupLab) -> anyhow::Result<()> {
    plan(lab, "nas")?;
    until("3-2-1", || {
        let listed = lab.call_once("ListBackupCopies", &json!({ "backup": "etc" }))?;
        let rule = &each(&listed, "backups").first().context("a backup")?["rule"];
        let is_met = rule["copies"] == 3 && rule["media"] == 3 && rule["offSite"] == 1;
        Ok(if is_met && rule["met"] == true { Ok(()) } else { Err(listed.to_string()) })
    })
}

fn a_drill_elsewhere_leaves_evidence(lab: &BackupLab, newest: &str) -> anyhow::Result<()> {
    let drilled = lab.drill("etc")?;
    let report = &drilled["drill"];
    ensure!(drilled["host"] == NAS && report["sourceHost"] == DB, "{drilled}");
    ensure!(report["verdict"] == "DRILL_VERDICT_PASSED", "{drilled}");
    ensure!(report["snapshotId"] == newest, "{drilled}");
    ensure!(fs::read_dir(lab.path("drills"))?.next().is_none(), "it left something behind");
    let listed = lab.call_once("ListDrillEvidence", &json!({ "backup": "etc" }))?;
    let evidence = each(&listed, "evidence").first().context("no evidence")?;
    ensure!(evidence["sourceHost"] == DB && evidence["drillHost"] == NAS, "{evidence}");
    ensure!(evidence["runId"] == drilled["runId"], "{evidence}");
    evidence_is_intact(lab, 1)
}

fn evidence_is_intact(lab: &BackupLab, drills: u64) -> anyhow::Result<()> {
    let walked = lab.call_once("VerifyDrillEvidence", &json!({}))?;
    ensure!(walked["intact"] == true, "{walked}");
    let count: u64 = text(&walked, "evidence").parse()?;
    let seen: u64 = text(&walked, "snapshots").parse()?;
    ensure!(count == drills && seen >= 8, "{walked}");
    Ok(())
}

fn an_agent_that_may_only_add_deletes_nothing(lab: &BackupLab) -> anyhow::Result<()> {
    let refused = lab.ask(DB, "PruneRepository", &json!({ "repository": "nas" }));
    let said = match refused {
        Ok(said) => format!("{said:?}"),
        Err(refused) => refused.to_string(),
    };
    ensure!(said.contains("append-only"), "{said}");
    Ok(())
}

/// When all of `nas` was read last, as a text that sorts.
fn read_through(lab: &BackupLab) -> anyhow::Result<String> {
    // The agents are asked now.
    plan(lab, "nas")?;
    let listed = lab.call_once("ListBackupCopies", &json!({ "backup": "etc" }))?;
    let copies = each(each(&listed, "backups").first().context("a backup")?, "copies");
    let nas = copies.iter().find(|copy| copy["repository"] == "nas").context("no copy")?;
    Ok(text(nas, "scrubbedAt").to_owned())
}

#[test]
fn a_damaged_repository_gives_what_is_intact_and_a_sound_one_anything() -> anyhow::Result<()> {
    let lab = lab()?;
    let id = run(&lab, 1)?;
    let copies = lab.ask_last(DB, "ListCopies", &json!({}))?;
    let copy = each(&copies, "copies").iter().find(|copy| copy["role"] == "COPY_ROLE_COPY");
    let copy = text(copy.context("no copy")?, "snapshotId").to_owned();

    // Verified by parts: each call takes the part that was read longest ago.
    for _ in 0..2 {
        let part = json!({ "repository": "nas", "readData": true, "parts": 2 });
        let report = &lab.ask_last(NAS, "VerifyRepository", &part)?["report"];
        ensure!(report["sound"] == true && report["parts"] == 2, "{report}");
    }
    replaces_with_confirmation_only(&lab, &id)?;

    flip_bits(&lab.path("nas/data"))?;
    let verified = lab.call("VerifyBackup", &json!({ "backup": "etc", "readData": true }))?;
    let last = verified.last().context("an answer")?;
    ensure!(last["response"]["report"]["sound"] != true, "{last}");
    let restore = |salvage: bool, target: &str| {
        let target = lab.path(target).display().to_string();
        let request = json!({
            "repository": "nas", "snapshotId": id, "target": target, "salvage": salvage,
        });
        lab.ask_last(NAS, "Restore", &request)
    };
    let refused = restore(false, "whole")?;
    ensure!(refused["failure"].is_object() && !lab.path("whole").exists(), "{refused}");
    let salvaged = restore(true, "salvaged")?;
    ensure!(!each(&salvaged["report"], "damaged").is_empty(), "{salvaged}");
    ensure!(lab.path("salvaged/manifest.json").exists(), "{salvaged}");

    // The other copy brings it back: as a copy into a new repository, proved there.
    let again = json!({ "from": "usb", "snapshotId": copy, "to": "nas" });
    let joined = lab.ask_last(DB, "CopySnapshot", &again)?;
    ensure!(joined["snapshot"]["id"] == *id, "a run that is there is only named: {joined}");
    let target = lab.path("from-usb").display().to_string();
    let whole = json!({ "repository": "usb", "snapshotId": copy, "target": target });
    let restored = lab.ask_last(DB, "Restore", &whole)?;
    ensure!(restored["report"]["target"] == target, "{restored}");
    let windows = lab.call_once("ListMaintenanceWindows", &json!({}))?;
    ensure!(each(&windows, "windows")[0]["length"] == "3600s", "{windows}");
    Ok(())
}

fn replaces_with_confirmation_only(lab: &BackupLab, id: &str) -> anyhow::Result<()> {
    lab.write("target/old", "precious")?;
    let target = lab.path("target").display().to_string();
    let restore = |replace: &str| {
        let request = json!({
            "repository": "nas", "snapshotId": id, "target": target, "replace": replace,
        });
        lab.ask_last(NAS, "Restore", &request)
    };
    for wrong in ["", "nas"] {
        restore(wrong).expect_err("it is there");
        ensure!(lab.path("target/old").exists(), "gone without a confirmation");
    }
    let report = restore("etc")?["report"].take();
    let aside = Path::new(text(&report, "keptAside"));
    ensure!(fs::read(aside.join("old"))? == b"precious", "{report}");
    ensure!(lab.path("target/manifest.json").exists(), "{report}");
    Ok(())
}

/// One bit in every pack that is large, which are those of the data.
fn flip_bits(folder: &Path) -> anyhow::Result<()> {
    let packs = fs::read_dir(folder)?.flatten().flat_map(|entry| fs::read_dir(entry.path()));
    for pack in packs.flat_map(|entries| entries.flatten()) {
        let path = pack.path();
        let mut bytes = fs::read(&path)?;
        if bytes.len() < 1 << 20 {
            continue;
        }
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        let mut permissions = path.metadata()?.permissions();
        #[expect(clippy::permissions_set_readonly_false, reason = "root writes anyway")]
        permissions.set_readonly(false);
        fs::set_permissions(&path, permissions)?;
        fs::write(&path, bytes)?;
    }
    Ok(())
}
