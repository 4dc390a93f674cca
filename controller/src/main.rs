//! `homelab-controller`: reads its arguments and hands over to the library.

use std::process::ExitCode;

use clap::Parser as _;
use homelab_controller::cli::{Cli, run};

fn main() -> ExitCode {
    run(Cli::parse())
}
