//! Backup and drill of two databases, from the first run on.

mod drill;
mod ours;
mod peers;
mod server;

use std::process::Command;

use anyhow::Context as _;

use self::{
    drill::Drills,
    ours::{Agent, Run},
    peers::{Peer, Peers},
    server::Server,
};
use super::{
    Scale, close,
    dataset::{self, Size, client},
    pipeline::{self, Cost},
    report::{Chapter, Table, bytes, mb, ratio, secs, significant, verdict},
    runtime,
};
use crate::{
    demo::Story,
    lab::{BACKUP, Daemon, HOSTS, Lab, Ports},
    postgres::Cluster,
};

const FULL: Size = Size { documents: 80_000, blobs: 80 };
const QUICK: Size = Size { documents: 8_000, blobs: 8 };
/// The limits of the design, for the full set.
const WALL_MAX: f64 = 1.5;
const GROWTH_MB_MAX: f64 = 6.5;
const UNCHANGED_KB_MAX: f64 = 10.0;
const RSS_MB_MAX: f64 = 140.0;
const DRILL_MAX: f64 = 1.3;

/// Of `pgbench -i`, and how many of its transactions make a day.
const PGBENCH: (u32, u32) = (50, 10_000);
const PGBENCH_QUICK: (u32, u32) = (5, 1_000);

const METHOD: &str = "Two databases in a PostgreSQL without fsync. `wiki`: documents of 200 words with the \
frequencies of a language, and random blobs of 1 MiB (80,000 and 80; the quick run a tenth). `pgbench`: \
`pgbench -i -s 50`, changed by 10,000 of its transactions (quick: 5 and 1,000). `pg_dump` to nowhere is \
what nobody can pass. The peers keep a dump and prove nothing by themselves, so their checks stand in a \
table of their own; a file of `pg_dump -Fc` or `zstd` is whole each time. Ours is `RunBackup` of the \
`homelab-backup-agent` (release build, over mTLS): dump and globals, a manifest that counts and hashes \
every table in the exported snapshot, repository, and reading back what was stored before anything \
becomes visible. CPU of the server is that of the sessions of PostgreSQL; growth is that of all files of \
the repository, caches aside.";

/// What is backed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Set {
    Wiki,
    Pgbench,
}

impl Set {
    const ALL: [Self; 2] = [Self::Wiki, Self::Pgbench];

    const fn name(self) -> &'static str {
        match self {
            Self::Wiki => "wiki",
            Self::Pgbench => "pgbench",
        }
    }

    fn create(self, cluster: &Cluster, scale: Scale) -> anyhow::Result<()> {
        match self {
            Self::Wiki => dataset::create(cluster, BACKUP, scale.pick(FULL, QUICK)),
            Self::Pgbench => {
                dataset::create_pgbench(cluster, BACKUP, scale.pick(PGBENCH, PGBENCH_QUICK).0)
            }
        }
    }

    fn change(self, cluster: &Cluster, scale: Scale) -> anyhow::Result<()> {
        match self {
            Self::Wiki => {
                dataset::change(cluster, BACKUP, scale.pick(FULL, QUICK));
                Ok(())
            }
            Self::Pgbench => {
                dataset::change_pgbench(cluster, BACKUP, scale.pick(PGBENCH, PGBENCH_QUICK).1)
            }
        }
    }
}

/// A moment in the life of a backup, and what each way of making it cost.
#[derive(Debug)]
struct Moment {
    name: &'static str,
    limit: Cost,
    /// Cost and growth.
    peers: Vec<(Peer, Cost, u64)>,
    ours: Run,
}

impl Moment {
    fn of(&self, peer: Peer) -> Option<Cost> {
        self.peers.iter().find(|(it, ..)| *it == peer).map(|(_, cost, _)| *cost)
    }
}

/// All about one data set.
#[derive(Debug)]
struct Life {
    set: Set,
    moments: Vec<Moment>,
    /// What reading everything back costs.
    checks: Vec<(Peer, Cost)>,
    verification: Cost,
    drills: Drills,
}

pub(super) fn measure(story: &Story, scale: Scale) -> anyhow::Result<Chapter> {
    let mut lab = story.step("a lab with a backup agent", lab_with_backup_agent)?;
    let measured = measure_in(story, scale, &mut lab);
    close(story, lab)?;
    measured
}

fn measure_in(story: &Story, scale: Scale, lab: &mut Lab) -> anyhow::Result<Chapter> {
    let agent = Agent::of(lab)?;
    let mut tables = Vec::new();
    for set in Set::ALL {
        let life = live(story, scale, lab, &agent, set)?;
        tables.extend(life.tables());
    }
    Ok(Chapter::new("Backup and drill", METHOD, tables))
}

fn live(story: &Story, scale: Scale, lab: &Lab, agent: &Agent, set: Set) -> anyhow::Result<Life> {
    let told = |what: &str| format!("{}: {what}", set.name());
    story.step(&told("filled"), || set.create(&lab.source, scale))?;
    let (runtime, peers) = (runtime()?, Peers::init(lab, set.name())?);
    let server = Server::of(&lab.source)?;
    let mut moments = Vec::new();
    for (number, name) in
        ["first run", "after a day's changes", "unchanged"].into_iter().enumerate()
    {
        if number == 1 {
            set.change(&lab.source, scale)?;
        }
        moments.push(story.step(&told(name), || {
            let before = server.watched(|| dump_to_nowhere(lab), |cost| cost)?;
            let mut kept = Vec::new();
            for peer in Peer::ALL {
                let make = || peers.back_up(lab, peer, number);
                let (cost, growth) = server.watched(make, |(cost, _)| cost)?;
                kept.push((peer, cost, growth));
            }
            let ours = server.watched(|| runtime.block_on(agent.back_up()), |run| &mut run.cost)?;
            let limit = mean(before, server.watched(|| dump_to_nowhere(lab), |cost| cost)?);
            Ok(Moment { name, limit, peers: kept, ours })
        })?);
    }
    let number = moments.len() - 1;
    let (checks, verification) = story.step(&told("verified"), || {
        let check = |peer| Ok((peer, peers.check(lab, peer, number)?));
        let checks = Peer::ALL.into_iter().map(check).collect::<anyhow::Result<_>>()?;
        Ok((checks, runtime.block_on(agent.verify())?))
    })?;
    let drill = || Drills::measure(lab, &runtime, agent, (&peers, number));
    let drills = story.step(&told("drill"), drill)?;
    Ok(Life { set, moments, checks, verification, drills })
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

impl Life {
    fn tables(&self) -> Vec<Table> {
        let set = self.set.name();
        let mut tables: Vec<_> = self.moments.iter().map(|it| moment_table(set, it)).collect();
        tables.push(self.checks_table());
        tables.push(self.drills.table(set));
        let mut steps = Table::new(
            &format!("Where ours spends its time, {set}, as its own progress tells it (to 0.25 s)"),
            ["run", "step", "s"],
        );
        for moment in &self.moments {
            for (step, took) in &moment.ours.steps {
                steps.row([moment.name.to_owned(), step.clone(), secs(*took)]);
            }
        }
        tables.push(steps);
        tables.push(self.limits());
        tables
    }

    fn checks_table(&self) -> Table {
        let mut table = Table::new(
            &format!("Reading back what is kept, {}", self.set.name()),
            ["way", "wall, s", "CPU, s", "RSS peak, MB"],
        );
        let mut row = |way: &str, cost: Cost| {
            table.row([way.to_owned(), secs(cost.wall), secs(cost.cpu), mb(cost.rss_peak)]);
        };
        for (peer, cost) in &self.checks {
            row(peer.check(), *cost);
        }
        row("VerifyRepository with all data, every set so far", self.verification);
        table
    }

    /// The limits of the design are those of the wiki; the other set shows how far they carry.
    fn limits(&self) -> Table {
        let title = format!("Ours against the limits, {}", self.set.name());
        let mut table = Table::new(&title, ["what", "measured", "limit"]);
        let mut row = |what: String, value: f64, limit: f64| {
            table.row([what, significant(value), verdict(value, limit)]);
        };
        for moment in &self.moments {
            let ours = moment.ours.cost.wall.as_secs_f64();
            let times = ours / moment.limit.wall.as_secs_f64();
            row(format!("wall clock to pg_dump, {}", moment.name), times, WALL_MAX);
            let restic = moment.of(Peer::Restic).unwrap_or_default().wall.as_secs_f64();
            row(format!("wall clock to restic, {}", moment.name), ours / restic, 1.0);
        }
        let peak = self.moments.iter().map(|moment| moment.ours.cost.rss_peak).max();
        row("RSS peak, MB".to_owned(), peak.unwrap_or_default() as f64 / 1e6, RSS_MB_MAX);
        if let [_, changed, unchanged] = self.moments.as_slice() {
            let megabytes = changed.ours.growth as f64 / 1e6;
            row("growth after changes, MB".to_owned(), megabytes, GROWTH_MB_MAX);
            let kilobytes = unchanged.ours.growth as f64 / 1e3;
            row("growth unchanged, kB".to_owned(), kilobytes, UNCHANGED_KB_MAX);
        }
        row("drill to pg_restore -j2".to_owned(), self.drills.to_peer(), DRILL_MAX);
        table
    }
}

fn moment_table(set: &str, moment: &Moment) -> Table {
    let mut table = Table::new(
        &format!("Backup, {set}: {}", moment.name),
        [
            "way",
            "wall, s",
            "to pg_dump",
            "CPU, s",
            "CPU of server, s",
            "RSS peak, MB",
            "kept on disk, bytes more",
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
    for (peer, cost, growth) in &moment.peers {
        row(peer.way(), *cost, Some(*growth));
    }
    row("homelab-backup-agent, proved", moment.ours.cost, Some(moment.ours.growth));
    table
}
