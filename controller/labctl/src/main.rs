//! `labctl`.

use std::process::ExitCode;

use clap::Parser as _;
use homelab_common::exit::Exit;
use labctl::{args::Cli, failure::Failure, output};

fn main() -> ExitCode {
    let cli = Cli::parse();
    homelab_common::tls::install_crypto_provider();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            output::say(&format!("labctl: start the runtime: {error}"));
            return Exit::Failed.into();
        }
    };
    match runtime.block_on(labctl::run(cli)) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            if let Failure::Said(trouble) = &failure {
                output::say(&trouble.to_string());
            }
            failure.exit().into()
        }
    }
}
