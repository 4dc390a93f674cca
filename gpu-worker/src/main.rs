//! `homelab-gpu-worker`: see the library.

use std::process::ExitCode;

use clap::Parser;
use homelab_common::tls::install_crypto_provider;
use homelab_gpu_worker::cli::Cli;

fn main() -> ExitCode {
    install_crypto_provider();
    Cli::parse().run()
}
