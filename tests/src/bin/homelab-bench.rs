//! Measures our parts beside peers; see `homelab_tests::bench`.

use std::{
    net::{IpAddr, SocketAddr},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use homelab_tests::bench::{self, Scale, Section, mock};

/// What our parts cost, each beside a peer that does the same, in one run on this machine.
#[derive(Debug, Parser)]
struct Args {
    /// What to measure; everything unless said otherwise. Writes its chapter of docs/benchmarks.md.
    #[command(subcommand)]
    what: Option<What>,
    /// A tenth of the data and fewer rounds; writes no document.
    #[arg(long, global = true)]
    quick: bool,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum What {
    /// The health agent beside prometheus-node-exporter.
    Agent,
    /// The OpenAI gateway beside the bare engine, nginx and LiteLLM.
    Gateway,
    /// The durable queue beside graphile-worker, procrastinate and raw commits by pgbench.
    Queue,
    /// The planner of the queue by itself.
    Planner,
    /// Starts of the engine, cold and warm, beside the same program started by hand.
    Engine,
    /// Backup and drill beside pg_dump, pg_restore, zstd, restic and borg.
    Backup,
    /// Everything; writes docs/benchmarks.md.
    All,
    /// Serves as an OpenAI-compatible engine without a model.
    MockEngine {
        /// Address to listen on.
        #[arg(long)]
        host: IpAddr,
        /// Port to listen on.
        #[arg(long)]
        port: u16,
    },
}

fn main() -> ExitCode {
    let args = Args::parse();
    let scale = if args.quick { Scale::Quick } else { Scale::Full };
    let done = match args.what.unwrap_or(What::All) {
        What::Agent => bench::run(&[Section::Agent], scale),
        What::Gateway => bench::run(&[Section::Gateway], scale),
        What::Queue => bench::run(&[Section::Queue], scale),
        What::Planner => bench::run(&[Section::Planner], scale),
        What::Engine => bench::run(&[Section::Engine], scale),
        What::Backup => bench::run(&[Section::Backup], scale),
        What::All => bench::run(&Section::ALL, scale),
        What::MockEngine { host, port } => mock::serve(SocketAddr::new(host, port)),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("\nhomelab-bench: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "a program for people")]
fn say(words: &str) {
    eprintln!("{words}");
}
