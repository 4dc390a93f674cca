//! `homelab-agent`: see the library.

use std::process::ExitCode;

use clap::Parser;
use homelab_agent::cli::Cli;
use homelab_common::tls::install_crypto_provider;

fn main() -> ExitCode {
    install_crypto_provider();
    Cli::parse().run()
}
