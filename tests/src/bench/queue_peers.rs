//! Queues of others on PostgreSQL, each driven by a small program in its own language.

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use serde::Deserialize;

use super::{peer::installed, queue::Rate};
use crate::{
    lab::workspace,
    postgres::{Cluster, run},
};

/// Longest that a program may take for one load.
const LOAD_MAX: Duration = Duration::from_secs(240);

/// A queue of somebody else.
#[derive(Clone, Debug)]
pub(super) struct QueuePeer {
    name: &'static str,
    database: &'static str,
    /// The program with what stands before the number of callers and jobs.
    command: Vec<String>,
}

/// What a program says about a load.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Said {
    put_in_s: f64,
    taken_out_s: f64,
    cpu_s: f64,
}

/// The peers, as `packaging/setup.sh bench` installs them.
///
/// # Errors
/// When one is missing; says what installs it.
pub(super) fn find() -> anyhow::Result<[QueuePeer; 2]> {
    let peers = installed("")?;
    let driver = |name: &str| workspace().join("tests/peers").join(name);
    let text = |path: PathBuf| path.display().to_string();
    installed("node_modules/graphile-worker/package.json")?;
    Ok([
        QueuePeer {
            name: "graphile-worker",
            database: "graphile",
            command: vec!["node".to_owned(), text(driver("graphile-worker.mjs")), text(peers)],
        },
        QueuePeer {
            name: "procrastinate",
            database: "procrastinate",
            command: vec![
                text(installed("bin/python")?),
                "-I".to_owned(),
                text(driver("procrastinate_jobs.py")),
            ],
        },
    ])
}

impl QueuePeer {
    pub(super) const fn name(&self) -> &'static str {
        self.name
    }

    /// Has it put in and take out so many jobs, in a database of its own.
    pub(super) fn load(&self, cluster: &Cluster, callers: u32, jobs: u32) -> anyhow::Result<Rate> {
        let exists =
            format!("select count(*) from pg_database where datname = '{}'", self.database);
        if cluster.sql("postgres", &exists) == "0" {
            cluster.sql("postgres", &format!("create database {}", self.database));
        }
        let (program, arguments) = self.command.split_first().context("a program")?;
        let program = cluster
            .program(program, self.database)
            .args(arguments)
            .args([callers.to_string(), jobs.to_string()])
            .deadline(LOAD_MAX);
        let text = run(program).text();
        let said: Said = serde_json::from_str(text.trim())
            .with_context(|| format!("{} said {text}", self.name))?;
        let seconds = |value: f64| Duration::try_from_secs_f64(value).context("a duration");
        Ok(Rate {
            clients: callers,
            jobs,
            put_in: seconds(said.put_in_s)?,
            taken_out: seconds(said.taken_out_s)?,
            cpu: seconds(said.cpu_s)?,
        })
    }
}
