//! A repository that goes away and comes back.

use std::fs;

use anyhow::{Context as _, ensure};
use homelab_tests::backup_lab::BackupLab;
use serde_json::{Value, json};

use crate::{DB, YEARLY, each, noise, text, until};

/// As large as what a spool must not keep.
const TREE: u32 = 4 << 20;

fn lab() -> anyhow::Result<BackupLab> {
    let mut lab = BackupLab::prepare(&[DB])?;
    lab.site(&format!(
        "[[repository]]\nname = \"nas\"\n[[repository]]\nname = \"local\"\n\
         [[backup]]\nname = \"etc\"\nhost = \"{DB}\"\nsource = \"files\"\nrepository = \"nas\"\n\
         spool = \"local\"\n{YEARLY}"
    ))?;
    let tree = lab.write("tree/noise", noise(1, TREE))?;
    let roots = tree.parent().context("a folder")?.display().to_string();
    let (nas, local) = (lab.repository("nas", ""), lab.repository("local", ""));
    lab.agent(
        DB,
        &format!(
            "{nas}{local}[[backup]]\nname = \"etc\"\nsource = \"files\"\nrepository = \"nas\"\n\
             spool = \"local\"\nroots = [\"{roots}\"]\n"
        ),
    )?;
    for name in ["nas", "local"] {
        lab.init_repository(DB, name)?;
    }
    lab.start()?;
    Ok(lab)
}

fn copy_of(lab: &BackupLab, role: &str) -> anyhow::Result<Value> {
    let listed = lab.ask_last(DB, "ListCopies", &json!({ "backup": "etc" }))?;
    let found = each(&listed, "copies").iter().find(|copy| copy["role"] == *role);
    found.cloned().with_context(|| listed.to_string())
}

#[test]
fn a_run_waits_in_the_spool_goes_home_by_itself_and_leaves_no_room_taken() -> anyhow::Result<()> {
    let mut lab = lab()?;
    let first = lab.back_up("etc")?;
    ensure!(first["snapshot"]["repository"] == "nas", "{first}");
    let empty = lab.data_bytes("local")?;

    fs::rename(lab.path("nas"), lab.path("nas-away"))?;
    lab.write("tree/noise", noise(2, TREE))?;
    let spooled = lab.back_up("etc")?;
    ensure!(spooled["snapshot"]["repository"] == "local", "{spooled}");
    ensure!(!lab.path("nas").exists(), "something was made in its place");
    ensure!(lab.data_bytes("local")? > empty + u64::from(TREE), "nothing is in the spool");
    let primary = copy_of(&lab, "COPY_ROLE_PRIMARY")?;
    ensure!(primary["state"] == "COPY_STATE_UNKNOWN", "{primary}");
    let state = lab.ask_last(DB, "GetRepository", &json!({ "repository": "local" }))?;
    ensure!(state["repository"]["waiting"] == 1, "{state}");

    fs::rename(lab.path("nas-away"), lab.path("nas"))?;
    until("the spool to drain by itself", || {
        let (primary, spool) =
            (copy_of(&lab, "COPY_ROLE_PRIMARY")?, copy_of(&lab, "COPY_ROLE_SPOOL")?);
        let is_home = primary["snapshots"] == 2 && spool["snapshots"].as_u64().unwrap_or(0) == 0;
        Ok(if is_home { Ok(()) } else { Err(format!("{primary} {spool}")) })
    })?;
    until("the room of the spool to be freed", || {
        let bytes = lab.data_bytes("local")?;
        Ok(if bytes <= empty + 4096 { Ok(()) } else { Err(format!("{bytes} bytes")) })
    })?;
    let listed = lab.ask_last(DB, "ListSnapshots", &json!({ "repository": "nas" }))?;
    let newest = each(&listed, "snapshots").first().context("no snapshot")?;
    ensure!(newest["runId"] == spooled["runId"], "the run keeps its name: {newest}");
    for name in ["nas", "local"] {
        lab.is_sound_to_restic(name)?;
    }
    // What came home is what was backed up.
    let target = lab.path("restored").display().to_string();
    let wanted = json!({ "repository": "nas", "snapshotId": newest["id"], "target": target });
    let restored = lab.ask_last(DB, "Restore", &wanted)?;
    ensure!(text(&restored["report"], "target") == target, "{restored}");
    lab.stop()
}
