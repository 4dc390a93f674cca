//! A Vaultwarden whose rows are in PostgreSQL and whose files are in a folder.

use std::fs;

use anyhow::{Context as _, ensure};
use homelab_tests::{
    backup_lab::BackupLab,
    postgres::{CLIENTS, Cluster, PASSWORD, USER, run},
};
use serde_json::{Value, json};

use crate::{DB, YEARLY, each, text};

/// The tables that matter here, in the types that Vaultwarden's migrations give them.
const SCHEMA: &str = "\
    create table users (uuid char(36) primary key, enabled boolean not null default true,
      created_at timestamp not null, email text not null unique,
      client_kdf_type integer not null default 0, client_kdf_iter integer not null default 600000);
    create table organizations (uuid varchar(40) primary key, name text not null);
    create table collections (uuid varchar(40) primary key,
      org_uuid varchar(40) not null references organizations (uuid), name text not null);
    create table folders (uuid char(36) primary key,
      user_uuid char(36) not null references users (uuid), name text not null);
    create table ciphers (uuid char(36) primary key, user_uuid char(36) references users (uuid),
      organization_uuid varchar(40) references organizations (uuid), name text not null);
    create table attachments (id text primary key,
      cipher_uuid varchar(40) not null references ciphers (uuid), file_name text not null,
      file_size bigint not null, akey text);
    create table sends (uuid char(36) primary key, user_uuid char(36) references users (uuid),
      atype integer not null, data text not null);";

const USER_ID: &str = "5c0e1f6e-52a9-4c0f-8f0b-0d4a7f8f9a01";
const CIPHER: &str = "5c0e1f6e-52a9-4c0f-8f0b-0d4a7f8f9a02";
const SEND: &str = "5c0e1f6e-52a9-4c0f-8f0b-0d4a7f8f9a03";

fn fill(server: &Cluster) {
    run(server.client("createdb", "postgres").args(["vault"]));
    server.sql("vault", SCHEMA);
    server.sql(
        "vault",
        &format!(
            "insert into users values ('{USER_ID}', true, '2026-01-01', 'ada@lab.example');
             insert into ciphers values ('{CIPHER}', '{USER_ID}', null, 'n');
             insert into attachments values ('a1', '{CIPHER}', 'x', 1000, 'k');
             insert into sends values ('{SEND}', '{USER_ID}', 1,
               '{{\"id\":\"f1\",\"fileName\":\"x\",\"size\":\"20\",\"sizeName\":\"20 B\"}}');"
        ),
    );
}

/// The lab with a vault in `source` that is drilled in `nas` and in a folder.
fn lab(source: &Cluster, nas: &Cluster, mut lab: BackupLab) -> anyhow::Result<BackupLab> {
    let data = lab.write("vault/rsa_key.pem", "-----BEGIN PRIVATE KEY-----")?;
    lab.write(&format!("vault/attachments/{CIPHER}/a1"), [1; 1000])?;
    lab.write(&format!("vault/sends/{SEND}/f1"), [2; 20])?;
    let data = data.parent().context("a folder")?.display().to_string();
    let password = lab.write_secret("etc/postgres.password", PASSWORD)?;
    let server = |port: u16| {
        format!(
            "host = \"127.0.0.1\"\nport = {port}\nuser = \"{USER}\"\npassword = \"{}\"\n",
            password.display()
        )
    };
    lab.site(&format!(
        "[[repository]]\nname = \"nas\"\n[[backup]]\nname = \"vault\"\nhost = \"{DB}\"\n\
         source = \"vaultwarden\"\nrepository = \"nas\"\n{YEARLY}drill-target = \"server\"\n"
    ))?;
    fs::create_dir(lab.path("drills"))?;
    let repository = lab.repository("nas", "");
    lab.agent(
        DB,
        &format!(
            "[postgres]\nclients = \"{CLIENTS}\"\n{repository}\
             [[backup]]\nname = \"vault\"\nsource = \"vaultwarden\"\nrepository = \"nas\"\n\
             drill-target = \"server\"\nstore = \"postgres\"\ndata-folder = \"{data}\"\n{}\
             database = \"vault\"\n\
             [[drill-target]]\nname = \"server\"\n{}\
             [[drill-target]]\nname = \"folder\"\nkind = \"folder\"\npath = \"{}\"\n",
            server(source.port()),
            server(nas.port()),
            lab.path("drills").display(),
        ),
    )?;
    lab.init_repository(DB, "nas")?;
    lab.start()?;
    Ok(lab)
}

#[test]
fn a_vaultwarden_on_postgresql_is_backed_up_with_its_files_and_both_are_drilled()
-> anyhow::Result<()> {
    let empty = BackupLab::prepare(&[DB])?;
    let cache = empty.path("cache");
    fs::create_dir(&cache)?;
    let (source, nas) = (Cluster::start("source", &cache), Cluster::start("nas", &cache));
    fill(&source);
    let mut lab = lab(&source, &nas, empty)?;
    let backed = lab.back_up("vault")?;
    let manifest = &backed["snapshot"]["manifest"];
    let vault = &manifest["vaultwarden"];
    ensure!(vault["database"] == "postgresql" && vault["ciphers"] == "1", "{manifest}");
    ensure!(vault["attachments"] == "1" && vault["fileSends"] == "1", "{manifest}");
    ensure!(each(&manifest["postgres"], "tables").len() == 7, "{manifest}");
    let files: Vec<_> =
        each(&backed["snapshot"], "files").iter().map(|file| text(file, "path")).collect();
    for wanted in ["vaultwarden.tar", "database.sql", "globals.sql", "manifest.json"] {
        ensure!(files.iter().any(|path| path.ends_with(wanted)), "{wanted} is not in {files:?}");
    }

    let drilled = lab.drill("vault")?;
    let rows = |one: &Value| one["what"] == "rows" && one["count"] == "4";
    ensure!(each(&drilled["drill"], "compared").iter().any(rows), "{drilled}");
    let in_folder = json!({ "backup": "vault", "target": "folder" });
    let drilled = lab.ask_last(DB, "RunDrill", &in_folder)?;
    ensure!(drilled["report"]["verdict"] == "DRILL_VERDICT_PASSED", "{drilled}");

    a_missing_file_is_named(&lab, &source)?;
    by_hand(&lab, &nas)?;
    lab.stop()
}

/// A user deletes while the run goes on, or the file of a row never comes.
fn a_missing_file_is_named(lab: &BackupLab, source: &Cluster) -> anyhow::Result<()> {
    source.sql("vault", &format!("insert into attachments values ('a2', '{CIPHER}', 'y', 5, 'k')"));
    let check = json!({ "backup": "vault", "validateOnly": true });
    let found = lab.ask_last(DB, "RunBackup", &check)?;
    let findings = each(&found["validation"], "findings");
    let names_it = |one: &Value| one.as_str().is_some_and(|text| text.contains("a2 (5 bytes)"));
    ensure!(findings.iter().any(names_it), "{found}");
    lab.write(&format!("vault/attachments/{CIPHER}/a2"), b"12345")?;
    let backed = lab.back_up("vault")?;
    ensure!(backed["snapshot"]["manifest"]["vaultwarden"]["attachments"] == "2", "{backed}");
    Ok(())
}

/// Restored by what anybody has: `tar` and `psql`, as the steps say.
fn by_hand(lab: &BackupLab, nas: &Cluster) -> anyhow::Result<()> {
    let target = lab.path("restored").display().to_string();
    let restored = lab.call("RestoreBackup", &json!({ "backup": "vault", "target": target }))?;
    let report = &restored.last().context("an answer")?["response"]["report"];
    let steps = each(report, "nextSteps").iter().filter_map(Value::as_str).collect::<Vec<_>>();
    ensure!(steps.iter().any(|step| step.contains("psql")), "{steps:?}");
    ensure!(steps.iter().any(|step| step.contains("tar ")), "{steps:?}");
    run(nas.client("createdb", "postgres").args(["by_hand"]));
    let dump = fs::read_to_string(lab.path("restored/database.sql"))?;
    run(nas.psql("by_hand").stdin(dump));
    let found = nas.sql("by_hand", "select count(*) from attachments");
    ensure!(found == "2", "{found} attachments");
    Ok(())
}
