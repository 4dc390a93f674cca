//! A Vaultwarden that is tried out on another host than the one it runs on.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf};

use anyhow::{Context as _, ensure};
use homelab_tests::backup_lab::BackupLab;
use serde_json::{Value, json};

use crate::{DB, NAS, YEARLY, each, vault::Vault};

/// No package archive has the program itself.
const STAND_IN: &str = include_str!("../../stand-ins/vaultwarden.py");

/// Puts the program there, or one that answers so many rounds too many.
fn program(lab: &BackupLab, extra: u32) -> anyhow::Result<PathBuf> {
    let program =
        lab.write("programs/vaultwarden", STAND_IN.replace("EXTRA", &extra.to_string()))?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).context("chmod")?;
    Ok(program)
}

/// A vault on one host; the other has the repository, a folder to try it in and the program.
fn lab() -> anyhow::Result<(BackupLab, Vault)> {
    let mut lab = BackupLab::prepare(&[DB, NAS])?;
    let vault = Vault::start(&lab)?;
    let head = "[[backup]]\nname = \"vault\"\nsource = \"vaultwarden\"\nrepository = \"nas\"\n";
    lab.site(&format!(
        "[[repository]]\nname = \"nas\"\nkeeper = \"{NAS}\"\n{head}host = \"{DB}\"\n{YEARLY}\
         drill-host = \"{NAS}\"\ndrill-target = \"scratch\"\n"
    ))?;
    let (appended, kept) =
        (lab.repository("nas", "access = \"append-only\""), lab.repository("nas", ""));
    let folder = vault.folder.display();
    lab.agent(DB, &format!("{appended}{head}data-folder = \"{folder}\"\n"))?;
    fs::create_dir(lab.path("drills"))?;
    let (drills, program) = (lab.path("drills"), program(&lab, 0)?);
    lab.agent(
        NAS,
        &format!(
            "{kept}[[drill-target]]\nname = \"scratch\"\nkind = \"folder\"\npath = \"{}\"\n\
             vaultwarden = \"{}\"\n",
            drills.display(),
            program.display()
        ),
    )?;
    lab.init_repository(NAS, "nas")?;
    lab.start()?;
    Ok((lab, vault))
}

#[test]
fn a_vaultwarden_is_restored_and_a_stand_in_started_on_another_host_than_its_own()
-> anyhow::Result<()> {
    let (mut lab, _vault) = lab()?;
    let backed = lab.back_up("vault")?;
    let drilled = lab.drill("vault")?;
    let report = &drilled["drill"];
    ensure!(drilled["host"] == NAS && report["sourceHost"] == DB, "{drilled}");
    ensure!(report["verdict"] == "DRILL_VERDICT_PASSED", "{drilled}");
    ensure!(report["snapshotId"] == backed["snapshot"]["id"], "{drilled}");
    for (what, count) in [("vault entries", "2"), ("attachments", "1"), ("server starts", "1")] {
        let is_it = |one: &Value| one["what"] == what && one["count"] == count;
        ensure!(each(report, "compared").iter().any(is_it), "{what}: {report}");
    }
    ensure!(fs::read_dir(lab.path("drills"))?.next().is_none(), "it left something behind");
    let listed = lab.call_once("ListDrillEvidence", &json!({ "backup": "vault" }))?;
    let evidence = each(&listed, "evidence").first().context("no evidence")?;
    ensure!(evidence["sourceHost"] == DB && evidence["drillHost"] == NAS, "{evidence}");

    a_server_that_knows_its_user_otherwise_fails_it(&lab)?;
    lab.stop()
}

fn a_server_that_knows_its_user_otherwise_fails_it(lab: &BackupLab) -> anyhow::Result<()> {
    program(lab, 1)?;
    let refused = lab.drill("vault").expect_err("it answers otherwise").to_string();
    ensure!(refused.contains("key derivation 0 with 600001 rounds"), "{refused}");
    ensure!(fs::read_dir(lab.path("drills"))?.next().is_none(), "it left something behind");
    Ok(())
}
