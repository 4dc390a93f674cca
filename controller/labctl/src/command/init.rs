//! `labctl init`: has the controller's own program make the certificate authority on this host.
//!
//! labctl does not make certificates itself, so that there is one place that knows how.

use std::{path::PathBuf, time::Duration};

use homelab_common::{
    error_chain::Chain,
    exec::{Exec as _, ExecError, Program, SystemExec},
    exit::Exit,
};

use crate::{args::InitArgs, context, failure::Failure, lab::Lab, output};

/// The controller's program.
const CONTROLLER: &str = "homelab-controller";
/// Keys are made in milliseconds; a slow disk may take its time.
const DEADLINE: Duration = Duration::from_secs(60);

/// Makes root CA, issuing CA and the controller's certificate.
///
/// # Errors
/// When there is an identity already, or a folder cannot be written to.
pub async fn run(lab: &Lab, args: InitArgs) -> Result<Exit, Failure> {
    let recovery = std::path::absolute(&args.recovery)
        .map_err(|error| anyhow::Error::from(error).context("find the recovery folder"))?;
    let config = std::path::absolute(&args.config)
        .map_err(|error| anyhow::Error::from(error).context("find the configuration"))?;
    let admin = context::identity_folder(&lab.folder);
    let program = Program::new(program(args.program).display().to_string())
        .args(["init".to_owned(), "--config".to_owned(), config.display().to_string()])
        .args(["--recovery".to_owned(), recovery.display().to_string()])
        .args(["--admin".to_owned(), args.admin])
        .args(["--admin-dir".to_owned(), admin.display().to_string()])
        .deadline(DEADLINE);
    if lab.global.dry_run {
        output::write(&format!("{}\n", program.argv()))?;
        return Ok(Exit::Ok);
    }
    let done = SystemExec.run(program).await.map_err(failed)?;
    output::write(&done.text())?;
    output::say(&format!(
        "Take {} off this host: whoever has it can be anybody in this lab.\n\
         next: systemctl start homelab-controller, then labctl status",
        recovery.display()
    ));
    Ok(Exit::Ok)
}

fn failed(error: ExecError) -> Failure {
    match &error {
        ExecError::Exit { stderr_tail, .. } if !stderr_tail.is_empty() => {
            Failure::new(Exit::Failed, stderr_tail.trim_end().to_owned())
        }
        ExecError::NotFound { .. } => Failure::new(Exit::Failed, Chain(&error).to_string())
            .next("run this on the controller's host, or give --program PATH"),
        _ => Failure::new(Exit::Failed, Chain(&error).to_string()),
    }
}

/// The program that was named; else the one beside labctl; else the one on the path.
fn program(given: Option<PathBuf>) -> PathBuf {
    let beside = || {
        let own = std::env::current_exe().ok()?;
        Some(own.with_file_name(CONTROLLER)).filter(|path| path.exists())
    };
    given.or_else(beside).unwrap_or_else(|| PathBuf::from(CONTROLLER))
}
