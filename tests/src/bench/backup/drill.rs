//! A drill beside a bare restore.

use std::process::Command;

use anyhow::Context as _;
use tokio::runtime::Runtime;

use super::{
    ours::{Agent, Drill},
    peers::{Peer, Peers},
    server::Server,
};
use crate::{
    bench::{
        dataset::client,
        pipeline::{self, Cost},
        report::{Table, mb, ratio, secs},
    },
    lab::{BACKUP, Lab},
};

/// Database that the peers restore into.
const SCRATCH: &str = "bench_restore";

/// Restores into the second cluster.
#[derive(Debug)]
pub(super) struct Drills {
    parallel: Cost,
    plain: Cost,
    peers: Vec<(Peer, Cost)>,
    ours: Drill,
}

impl Drills {
    /// Of the newest backup, whose number at the peers is `number`.
    pub(super) fn measure(
        lab: &Lab,
        runtime: &Runtime,
        agent: &Agent,
        (peers, number): (&Peers, usize),
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("make a folder for dumps")?;
        let (custom, plain) = (folder.path().join("wiki.dump"), folder.path().join("wiki.sql"));
        for (format, file) in [("--format=custom", &custom), ("--format=plain", &plain)] {
            let mut dump = client(&lab.source, "pg_dump", BACKUP);
            dump.args([format, "--compress=0", "--file"]).arg(file);
            pipeline::run(vec![dump])?;
        }
        let mut restore = client(&lab.nas, "pg_restore", SCRATCH);
        restore.args(["--jobs=2", "--dbname", SCRATCH]).arg(&custom);
        let server = Server::of(&lab.nas)?;
        let parallel = server.watched(|| restored(lab, vec![restore]), |cost| cost)?;
        let mut psql = client(&lab.nas, "psql", SCRATCH);
        psql.args(["--no-psqlrc", "--quiet", "--file"]).arg(&plain);
        let plain = server.watched(|| restored(lab, vec![psql]), |cost| cost)?;
        let mut restores = Vec::new();
        for peer in Peer::ALL {
            let restore = || restored(lab, peers.restore(lab, peer, number, SCRATCH));
            restores.push((peer, server.watched(restore, |cost| cost)?));
        }
        let ours = server.watched(|| runtime.block_on(agent.drill()), |drill| &mut drill.cost)?;
        Ok(Self { parallel, plain, peers: restores, ours })
    }

    /// Wall clock of ours to that of a bare restore.
    pub(super) fn to_peer(&self) -> f64 {
        self.ours.cost.wall.as_secs_f64() / self.parallel.wall.as_secs_f64()
    }

    pub(super) fn table(&self, set: &str) -> Table {
        let mut table = Table::new(
            &format!("Drill, {set}: restore into a second PostgreSQL"),
            ["way", "wall, s", "to pg_restore", "CPU, s", "CPU of server, s", "RSS peak, MB"],
        );
        let mut row = |way: &str, cost: Cost| {
            let times = ratio(cost.wall.as_secs_f64(), self.parallel.wall.as_secs_f64());
            table.row([
                way.to_owned(),
                secs(cost.wall),
                times,
                secs(cost.cpu),
                secs(cost.server),
                mb(cost.rss_peak),
            ]);
        };
        row("createdb, pg_restore -j2 of an uncompressed file", self.parallel);
        row("createdb, psql of a plain file", self.plain);
        for (peer, cost) in &self.peers {
            row(peer.restore(), *cost);
        }
        row("homelab-backup-agent, compared with the manifest", self.ours.cost);
        let restore = self.ours.report.restore_elapsed.unwrap_or_default();
        let restore = std::time::Duration::try_from(restore).unwrap_or_default();
        let times = ratio(restore.as_secs_f64(), self.parallel.wall.as_secs_f64());
        let none = String::new;
        table.row(["of which restoring".to_owned(), secs(restore), times, none(), none(), none()]);
        table
    }
}

fn restored(lab: &Lab, restore: Vec<Command>) -> anyhow::Result<Cost> {
    let mut create = client(&lab.nas, "createdb", "postgres");
    create.arg(SCRATCH);
    let cost = pipeline::run(vec![create])?.and(pipeline::run(restore)?);
    let mut remove = client(&lab.nas, "dropdb", "postgres");
    remove.arg(SCRATCH);
    pipeline::run(vec![remove])?;
    Ok(cost)
}
