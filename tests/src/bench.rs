//! `make bench`: what we cost, each beside a peer that does the same, in one run on one machine.
//!
//! A figure from another day or another machine says little, so every table holds ours and theirs as
//! they were measured minutes apart. CPU time is the steadier figure: wall clock suffers from whatever
//! else the machine does, which is why the load average stands beside it.

mod agent;
mod backup;
mod dataset;
mod durable;
mod engine;
mod gateway;
mod grpc;
mod interrupt;
mod load;
mod machine;
mod measure;
pub mod mock;
mod peer;
mod pipeline;
mod planner;
mod queue;
mod queue_peers;
mod report;

use std::time::Instant;

use anyhow::Context as _;
use homelab_common::tls::install_crypto_provider;

use self::{machine::Machine, report::Chapter};
use crate::{demo::Story, lab::Lab};

/// What can be measured on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// The health agent at rest and when asked, beside `prometheus-node-exporter`.
    Agent,
    /// The OpenAI gateway, beside the engine itself, nginx and LiteLLM in front of it.
    Gateway,
    /// The durable queue on SQLite and PostgreSQL, beside graphile-worker, procrastinate and raw commits
    /// by `pgbench`.
    Queue,
    /// The planner of the queue, by itself.
    Planner,
    /// Starts of the engine, cold and warm, beside the same program started by hand.
    Engine,
    /// Backup and drill, beside `pg_dump`, `pg_restore`, `zstd`, `restic` and `borg`.
    Backup,
}

impl Section {
    /// All, in the order of the document.
    pub const ALL: [Self; 6] =
        [Self::Agent, Self::Gateway, Self::Queue, Self::Planner, Self::Engine, Self::Backup];

    fn measure(self, story: &Story, scale: Scale) -> anyhow::Result<Chapter> {
        match self {
            Self::Agent => agent::measure(story, scale),
            Self::Gateway => gateway::measure(story, scale),
            Self::Queue => queue::measure(story, scale),
            Self::Planner => planner::measure(story, scale),
            Self::Engine => engine::measure(story, scale),
            Self::Backup => backup::measure(story, scale),
        }
    }
}

/// How much is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// As the document has it: about a quarter of an hour.
    Full,
    /// A tenth of the data and fewer rounds, to see whether all works.
    Quick,
}

impl Scale {
    fn pick<T>(self, full: T, quick: T) -> T {
        match self {
            Self::Full => full,
            Self::Quick => quick,
        }
    }
}

/// Measures the sections and prints their tables. A full run of all sections writes
/// `docs/benchmarks.md` anew, one of some sections only their chapters.
///
/// # Errors
/// Names the step that failed; nothing is written then.
pub fn run(sections: &[Section], scale: Scale) -> anyhow::Result<()> {
    install_crypto_provider();
    interrupt::listen()?;
    let story = Story::begin();
    let machine = Machine::look()?;
    story.tell(&format!("{}\n", machine.describe()))?;
    let mut chapters = Vec::new();
    for section in sections {
        let began = Instant::now();
        let load = machine::load_average()?;
        let mut chapter =
            section.measure(&story, scale).with_context(|| format!("measure {section:?}"))?;
        chapter.close(&machine::now(), &load, began.elapsed());
        story.tell(&format!("\n{}\n", chapter.render()))?;
        chapters.push(chapter);
    }
    let path = match scale {
        Scale::Quick => return Ok(()),
        Scale::Full if Section::ALL.iter().all(|section| sections.contains(section)) => {
            report::write(&machine, &chapters)?
        }
        Scale::Full => report::replace(&chapters)?,
    };
    story.tell(&format!("written: {}\n", path.display()))
}

/// A runtime for clients of what is measured: one thread, so that the other core is left to it.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")
}

/// Ends the daemons of a lab in order, so that none leaves an engine behind. What did not end well is
/// told, but spoils no figure.
fn close(story: &Story, mut lab: Lab) -> anyhow::Result<()> {
    story.step("the lab is closed", || {
        let Err(error) = lab.stop() else { return Ok(()) };
        let faults = error.to_string();
        // A controller that was not wanted any more was killed by ourselves.
        let faults = faults.lines().filter(|line| {
            line.contains(" end") && line.ends_with(':') && !line.contains("SIGKILL")
        });
        faults.into_iter().try_for_each(|fault| story.tell(&format!("[{fault} see its log] ")))
    })
}
