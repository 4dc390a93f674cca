//! Power cuts at every step of what needs a real pool or a real server: runs and drills of ZFS, and
//! drills of PostgreSQL. Daemons that start afterwards clear up by themselves.

use std::{fs, os::unix::process::ExitStatusExt as _};

use anyhow::{Context as _, ensure};
use homelab_backup_agent::failpoint::{STEPS, VARIABLE};
use homelab_tests::{
    backup_lab::BackupLab,
    postgres::{CLIENTS, Cluster, PASSWORD, USER, run},
};

use crate::{DB, YEARLY, pool::Pool, until};

/// Any that is no run of ours.
const FOREIGN: &str = "0190a8f2-6c1e-7d3a-9b57-000000000001";

fn steps(of: &str) -> impl Iterator<Item = &'static str> {
    let prefix = format!("{of}.");
    STEPS.iter().copied().filter(move |step| step.starts_with(&prefix))
}

/// Runs the agent as a command until it is killed at this step.
fn dies(lab: &BackupLab, arguments: &[&str], step: &str) -> anyhow::Result<()> {
    let mut agent = lab.offline_command(DB, arguments)?;
    let ended = agent.env(VARIABLE, step).output()?;
    let said = String::from_utf8_lossy(&ended.stderr);
    ensure!(ended.status.signal() == Some(9), "{step} was not reached: {} {said}", ended.status);
    Ok(())
}

#[test]
#[expect(clippy::print_stderr, reason = "whoever runs the tests must know what they left out")]
fn a_dataset_survives_a_power_cut_at_any_step_of_a_run_or_a_drill() -> anyhow::Result<()> {
    let mut lab = BackupLab::prepare(&[DB])?;
    let Some(pool) = Pool::start(&lab)? else {
        eprintln!("left out: power cuts during runs and drills of ZFS (needs root and /dev/fuse)");
        return Ok(());
    };
    let program = format!("program = \"{}\"\n", pool.zfs.display());
    configure(
        &lab,
        "zfs",
        &format!(
            "dataset = \"tank/vault\"\n{program}\
             keep = {{ hourly = 0, daily = 0, weekly = 0, monthly = 0 }}\n"
        ),
        &format!("kind = \"zfs\"\nparent = \"safe/drill\"\n{program}"),
        "",
    )?;
    lab.init_repository(DB, "nas")?;
    lab.start()?;
    pool.tell(&["zfs", "snapshot", "tank/vault@by-hand"])?;
    pool.tell(&["zfs", "create", &format!("safe/drill/homelab-drill-{FOREIGN}")])?;
    let theirs = pool.tell(&["zfs", "list", "-H", "-o", "name", "-r", "safe"])?;
    lab.offline(DB, &["backup", "it"])?;
    let snapshots = || lab.restic("nas", &["snapshots", "--tag", "verified", "--json"]);
    for step in steps("backup").chain(steps("zfs")) {
        write(&lab, &pool)?;
        let before = count(&snapshots()?)?;
        dies(&lab, &["backup", "it"], step)?;
        let published = usize::from(step == "backup.published");
        ensure!(count(&snapshots()?)? == before + published, "{step}");
        lab.offline(DB, &["backup", "it"])?;
        let names = pool.tell(&["zfs", "list", "-H", "-t", "snapshot", "-o", "name"])?;
        ensure!(names.contains("tank/vault@by-hand"), "{step} destroyed what is not ours");
    }
    let drill = ["drill", "nas", "latest:it", "here"];
    ensure!(lab.offline(DB, &drill)?.starts_with("passed"), "the chain does not restore");
    for step in steps("drill") {
        dies(&lab, &drill, step)?;
        let left = pool.tell(&["zfs", "list", "-H", "-o", "name", "-r", "safe"])?;
        ensure!((left == theirs) == (step == "drill.removed"), "{step}: {left}");
        lab.restart(DB)?;
        until("the sweeper", || {
            let left = pool.tell(&["zfs", "list", "-H", "-o", "name", "-r", "safe"])?;
            Ok(if left == theirs { Ok(()) } else { Err(left) })
        })
        .context(step)?;
    }
    ensure!(lab.offline(DB, &drill)?.starts_with("passed"), "it does not restore");
    lab.is_sound_to_restic("nas")?;
    lab.stop()
}

#[test]
fn a_database_server_survives_a_power_cut_at_any_step_of_a_drill() -> anyhow::Result<()> {
    let mut lab = BackupLab::prepare(&[DB])?;
    let cache = lab.path("cache");
    fs::create_dir(&cache)?;
    let (source, nas) = (Cluster::start("source", &cache), Cluster::start("nas", &cache));
    run(source.client("createdb", "postgres").args(["wiki"]));
    source.sql("wiki", "create role writer; create table pages (id int primary key, body text);");
    source.sql("wiki", "alter table pages owner to writer;");
    source.sql(
        "wiki",
        "insert into pages select i, repeat('x', 100) from generate_series(1, 2000) i",
    );
    // Looks like one of ours, and is not.
    let foreign = format!("homelab_scratch_{}", FOREIGN.replace('-', ""));
    run(nas.client("createdb", "postgres").args([foreign.as_str()]));
    let password = lab.write_secret("etc/postgres.password", PASSWORD)?;
    let server = |port: u16| {
        format!(
            "host = \"127.0.0.1\"\nport = {port}\nuser = \"{USER}\"\npassword = \"{}\"\n",
            password.display()
        )
    };
    configure(
        &lab,
        "postgres",
        &format!("{}database = \"wiki\"\n", server(source.port())),
        &server(nas.port()),
        &format!("[postgres]\nclients = \"{CLIENTS}\"\n"),
    )?;
    lab.init_repository(DB, "nas")?;
    lab.start()?;
    lab.offline(DB, &["backup", "it"])?;
    let all = "select datname from pg_database union all select rolname from pg_roles order by 1";
    let theirs = nas.sql("postgres", all);
    let drill = ["drill", "nas", "latest:it", "here"];
    for step in steps("drill") {
        dies(&lab, &drill, step)?;
        let left = nas.sql("postgres", all);
        ensure!((left == theirs) == (step == "drill.removed"), "{step}: {left}");
        lab.restart(DB)?;
        until("the sweeper", || {
            let left = nas.sql("postgres", all);
            Ok(if left == theirs { Ok(()) } else { Err(left) })
        })
        .context(step)?;
    }
    ensure!(lab.offline(DB, &drill)?.starts_with("passed"), "it does not restore");
    lab.is_sound_to_restic("nas")?;
    lab.stop()
}

/// One backup in `nas` and one place to drill it in.
fn configure(
    lab: &BackupLab,
    source: &str,
    keys: &str,
    target: &str,
    head: &str,
) -> anyhow::Result<()> {
    lab.site(&format!(
        "[[repository]]\nname = \"nas\"\n[[backup]]\nname = \"it\"\nhost = \"{DB}\"\n\
         source = \"{source}\"\nrepository = \"nas\"\n{YEARLY}drill-target = \"here\"\n"
    ))?;
    let nas = lab.repository("nas", "");
    lab.agent(
        DB,
        &format!(
            "{head}{nas}[[backup]]\nname = \"it\"\nsource = \"{source}\"\nrepository = \"nas\"\n\
             drill-target = \"here\"\n{keys}[[drill-target]]\nname = \"here\"\n{target}"
        ),
    )
}

/// Something that an increment must carry.
fn write(lab: &BackupLab, pool: &Pool) -> anyhow::Result<()> {
    let file = format!("of={}", lab.path("tank/vault/one").display());
    pool.tell(&["dd", "if=/dev/urandom", "bs=1024", "count=32", "status=none", &file]).map(drop)
}

fn count(listed: &str) -> anyhow::Result<usize> {
    Ok(serde_json::from_str::<Vec<serde_json::Value>>(listed)?.len())
}
