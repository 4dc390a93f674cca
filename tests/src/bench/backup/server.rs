//! What the database server has to do for a backup or a restore.

use std::fs;

use anyhow::Context as _;

use crate::{
    bench::{measure::cpu_of_family, pipeline::Cost},
    postgres::Cluster,
};

/// A cluster, by the process that all others of it are children of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Server {
    pid: u32,
}

impl Server {
    pub(super) fn of(cluster: &Cluster) -> anyhow::Result<Self> {
        let file = format!("{}/postmaster.pid", cluster.sql("postgres", "show data_directory"));
        let text = fs::read_to_string(&file).with_context(|| format!("read {file}"))?;
        let pid = text.lines().next().and_then(|line| line.trim().parse().ok());
        Ok(Self { pid: pid.with_context(|| format!("no pid in {file}"))? })
    }

    /// Does something, and adds to its cost what the server did meanwhile in sessions that have ended.
    pub(super) fn watched<T>(
        self,
        work: impl FnOnce() -> anyhow::Result<T>,
        cost: impl FnOnce(&mut T) -> &mut Cost,
    ) -> anyhow::Result<T> {
        let before = cpu_of_family(self.pid)?;
        let mut done = work()?;
        cost(&mut done).server = cpu_of_family(self.pid)?.saturating_sub(before);
        Ok(done)
    }
}
