//! `labctl runbook …`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum, ValueHint};

/// `labctl runbook …`.
#[derive(Clone, Debug, Subcommand)]
pub enum RunbookCommand {
    /// List runbooks, newest first.
    #[command(after_help = "Examples:
  labctl runbook list
  labctl runbook list --state proposed")]
    List(RunbookListArgs),
    /// Show a runbook with its digest.
    Show(RunbookArgs),
    /// Propose a runbook: the answer of a job, or a file.
    #[command(after_help = "Examples:
  labctl runbook propose --from-job 0190a5de-9a2b-7c3d-8e4f-5a6b7c8d9e0f
  labctl runbook propose --file wake-x99.md

A runbook is Markdown: `# Title`, what it is for, `## Steps`, and numbered steps.")]
    Propose(RunbookProposeArgs),
    /// Approve of the text that you have read: it is found as context from then on.
    #[command(after_help = "Example:
  labctl runbook show 0190a5de-9a2b-7c3d-8e4f-5a6b7c8d9e0f
  labctl runbook approve 0190a5de-9a2b-7c3d-8e4f-5a6b7c8d9e0f --digest DIGEST

Nothing carries out the steps of a runbook: it is a document for people and for models.")]
    Approve(RunbookApproveArgs),
    /// Turn a runbook down, or withdraw an approval.
    Reject(RunbookRejectArgs),
}

/// A verb on one runbook.
#[derive(Clone, Debug, Args)]
pub struct RunbookArgs {
    /// Identifier of the runbook.
    pub runbook: String,
}

/// `labctl runbook list`.
#[derive(Clone, Debug, Args)]
pub struct RunbookListArgs {
    /// Only those that stand so.
    #[arg(long, value_enum)]
    pub state: Option<RunbookWord>,
    /// At most this many.
    #[arg(long, default_value_t = 50)]
    pub limit: u16,
}

/// Where a runbook stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RunbookWord {
    /// It waits for a person.
    Proposed,
    /// A person approved of it.
    Approved,
    /// A person turned it down.
    Rejected,
}

/// `labctl runbook propose`.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
pub struct RunbookProposeArgs {
    /// The job whose answer it is.
    #[arg(long, value_name = "JOB")]
    pub from_job: Option<String>,
    /// The file that holds it.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub file: Option<PathBuf>,
}

/// `labctl runbook approve`.
#[derive(Clone, Debug, Args)]
pub struct RunbookApproveArgs {
    /// Identifier of the runbook.
    pub runbook: String,
    /// Digest of the text that you have read, as `labctl runbook show` prints it.
    #[arg(long, value_name = "DIGEST")]
    pub digest: String,
    /// Why.
    #[arg(long, default_value = "")]
    pub reason: String,
}

/// `labctl runbook reject`.
#[derive(Clone, Debug, Args)]
pub struct RunbookRejectArgs {
    /// Identifier of the runbook.
    pub runbook: String,
    /// Digest of the text that you have read; that of now without it.
    #[arg(long, value_name = "DIGEST")]
    pub digest: Option<String>,
    /// Why.
    #[arg(long, default_value = "")]
    pub reason: String,
}
