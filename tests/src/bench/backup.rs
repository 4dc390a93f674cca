//! Backup and drill of a database, from the first run on.

mod drill;
mod ours;
mod server;

use std::{fs, path::PathBuf, process::Command};

use anyhow::Context as _;

use self::{
    drill::Drills,
    ours::{Agent, Run},
    server::Server,
};
use super::{
    Scale, close,
    dataset::{self, Size, client},
    measure::size_of,
    pipeline::{self, Cost},
    report::{Chapter, Table, bytes, mb, ratio, secs, significant, verdict},
    runtime,
};
use crate::{
    demo::Story,
    lab::{BACKUP, Daemon, HOSTS, Lab, Ports},
};

const FULL: Size = Size { documents: 80_000, blobs: 80 };
const QUICK: Size = Size { documents: 8_000, blobs: 8 };
/// The limits of the design, for the full set.
const WALL_MAX: f64 = 1.5;
const GROWTH_MB_MAX: f64 = 6.5;
const UNCHANGED_KB_MAX: f64 = 10.0;
const RSS_MB_MAX: f64 = 140.0;
const DRILL_MAX: f64 = 1.3;

const METHOD: &str = "A database like that of a wiki: documents of 200 words with the frequencies of a \
language, and random blobs of 1 MiB (80,000 and 80; the quick run a tenth), in a PostgreSQL without fsync \
whose files lie in memory. `pg_dump` to nowhere is what nobody can pass. `restic` gets the plain dump by \
`--stdin`; it proves nothing by itself, so a second line adds its own `check --read-data`. Ours is \
`RunBackup` of the `homelab-backup-agent` (release build, over mTLS): dump and globals, a manifest that \
counts and hashes every table in the exported snapshot, repository, and reading back what was stored \
before anything becomes visible. CPU of the server is that of the sessions of PostgreSQL; growth is that \
of all files of the repository.";

/// A moment in the life of a backup, and what each way of making it cost.
#[derive(Debug)]
struct Moment {
    name: &'static str,
    limit: Cost,
    restic: Cost,
    check: Cost,
    restic_growth: u64,
    ours: Run,
}

pub(super) fn measure(story: &Story, scale: Scale) -> anyhow::Result<Chapter> {
    let mut lab = story.step("a lab with a backup agent", lab_with_backup_agent)?;
    let measured = measure_in(story, scale, &mut lab);
    close(story, lab)?;
    measured
}

fn measure_in(story: &Story, scale: Scale, lab: &mut Lab) -> anyhow::Result<Chapter> {
    let size = scale.pick(FULL, QUICK);
    story.step("the wiki is filled", || dataset::create(&lab.source, BACKUP, size))?;
    let runtime = runtime()?;
    let restic = Restic::init(lab)?;
    let agent = Agent::of(lab)?;
    let server = Server::of(&lab.source)?;
    let mut moments = Vec::new();
    for name in ["first run", "after a day's changes", "unchanged"] {
        if name == "after a day's changes" {
            dataset::change(&lab.source, BACKUP, size);
        }
        moments.push(story.step(name, || {
            let before = server.watched(|| dump_to_nowhere(lab), |cost| cost)?;
            let (restic_cost, restic_growth) =
                server.watched(|| restic.backup(lab), |(cost, _)| cost)?;
            let check = restic_cost.and(restic.check()?);
            let ours = server.watched(|| runtime.block_on(agent.back_up()), |run| &mut run.cost)?;
            let limit = mean(before, server.watched(|| dump_to_nowhere(lab), |cost| cost)?);
            Ok(Moment { name, limit, restic: restic_cost, check, restic_growth, ours })
        })?);
    }
    let drills = story.step("drill", || Drills::measure(lab, &runtime, &agent))?;
    Ok(Chapter::new("Backup and drill", METHOD, tables(&moments, &drills)))
}

/// The agent of the database's host; the controller is ended again, so that no schedule interferes.
fn lab_with_backup_agent() -> anyhow::Result<Lab> {
    let mut lab = Lab::prepare(Ports::free()?)?;
    lab.start_controller()?;
    lab.init_repository()?;
    let host = HOSTS.iter().find(|host| host.name == "hx310-db").context("the host hx310-db")?;
    lab.join(host, Daemon::BackupAgent)?;
    lab.process("controller")?.kill_9()?;
    Ok(lab)
}

fn dump(lab: &Lab) -> Command {
    let mut dump = client(&lab.source, "pg_dump", BACKUP);
    dump.arg("--format=plain");
    dump
}

fn dump_to_nowhere(lab: &Lab) -> anyhow::Result<Cost> {
    pipeline::run(vec![dump(lab)])
}

fn mean(one: Cost, other: Cost) -> Cost {
    let sum = one.and(other);
    Cost { wall: sum.wall / 2, cpu: sum.cpu / 2, server: sum.server / 2, ..sum }
}

/// restic with a repository of its own on the same disk.
#[derive(Debug)]
struct Restic {
    repository: PathBuf,
    cache: PathBuf,
}

impl Restic {
    fn init(lab: &Lab) -> anyhow::Result<Self> {
        let folder = lab.folder().join("restic");
        fs::create_dir(&folder).context("make a folder for restic")?;
        let restic = Self { repository: folder.join("repository"), cache: folder.join("cache") };
        pipeline::run(vec![restic.command("init")])?;
        Ok(restic)
    }

    /// What it cost, and what the repository grew by.
    fn backup(&self, lab: &Lab) -> anyhow::Result<(Cost, u64)> {
        let before = size_of(&self.repository)?;
        let mut backup = self.command("backup");
        backup.args(["--quiet", "--stdin", "--stdin-filename", "wiki.sql"]);
        let cost = pipeline::run(vec![dump(lab), backup])?;
        Ok((cost, size_of(&self.repository)?.saturating_sub(before)))
    }

    fn check(&self) -> anyhow::Result<Cost> {
        let mut check = self.command("check");
        check.args(["--quiet", "--read-data"]);
        pipeline::run(vec![check])
    }

    fn command(&self, verb: &str) -> Command {
        let mut restic = crate::process::command("restic");
        restic
            .env("RESTIC_PASSWORD", "correct horse battery staple")
            .env("RESTIC_REPOSITORY", &self.repository)
            .env("RESTIC_CACHE_DIR", &self.cache)
            .arg(verb);
        restic
    }
}

fn tables(moments: &[Moment], drills: &Drills) -> Vec<Table> {
    let mut tables: Vec<_> = moments.iter().map(moment_table).collect();
    tables.push(drills.table());
    let mut steps = Table::new(
        "Where ours spends its time, as its own progress tells it (to 0.25 s)",
        ["run", "step", "s"],
    );
    for moment in moments {
        for (step, took) in &moment.ours.steps {
            steps.row([moment.name.to_owned(), step.clone(), secs(*took)]);
        }
    }
    tables.push(steps);
    tables.push(limits(moments, drills));
    tables
}

fn moment_table(moment: &Moment) -> Table {
    let mut table = Table::new(
        &format!("Backup: {}", moment.name),
        [
            "way",
            "wall, s",
            "to pg_dump",
            "CPU, s",
            "CPU of server, s",
            "RSS peak, MB",
            "repository grew by, bytes",
        ],
    );
    let mut row = |way: &str, cost: Cost, growth: Option<u64>| {
        table.row([
            way.to_owned(),
            secs(cost.wall),
            ratio(cost.wall.as_secs_f64(), moment.limit.wall.as_secs_f64()),
            secs(cost.cpu),
            secs(cost.server),
            mb(cost.rss_peak),
            growth.map_or_else(|| "-".to_owned(), bytes),
        ]);
    };
    row("pg_dump to nowhere", moment.limit, None);
    row("pg_dump piped to restic", moment.restic, Some(moment.restic_growth));
    row("the same, then restic check --read-data", moment.check, Some(moment.restic_growth));
    row("homelab-backup-agent, proved", moment.ours.cost, Some(moment.ours.growth));
    table
}

fn limits(moments: &[Moment], drills: &Drills) -> Table {
    let mut table = Table::new("Ours against the limits", ["what", "measured", "limit"]);
    let mut row = |what: String, value: f64, limit: f64| {
        table.row([what, significant(value), verdict(value, limit)]);
    };
    for moment in moments {
        let (ours, limit) = (moment.ours.cost.wall, moment.limit.wall);
        let times = ours.as_secs_f64() / limit.as_secs_f64();
        row(format!("wall clock to pg_dump, {}", moment.name), times, WALL_MAX);
        let restic = moment.restic.wall.as_secs_f64();
        row(format!("wall clock to restic, {}", moment.name), ours.as_secs_f64() / restic, 1.0);
    }
    let peak = moments.iter().map(|moment| moment.ours.cost.rss_peak).max().unwrap_or_default();
    row("RSS peak, MB".to_owned(), peak as f64 / 1e6, RSS_MB_MAX);
    if let [_, changed, unchanged] = moments {
        row("growth after changes, MB".to_owned(), changed.ours.growth as f64 / 1e6, GROWTH_MB_MAX);
        let kilobytes = unchanged.ours.growth as f64 / 1e3;
        row("growth unchanged, kB".to_owned(), kilobytes, UNCHANGED_KB_MAX);
    }
    row("drill to pg_restore -j2".to_owned(), drills.to_peer(), DRILL_MAX);
    table
}
