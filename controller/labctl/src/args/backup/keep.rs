//! Verbs on what is kept: retention, copies, repositories, evidence.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueHint};

use crate::args::duration;

/// `labctl backup retention …`.
#[derive(Clone, Debug, Subcommand)]
pub enum RetentionCommand {
    /// Say of each snapshot whether it would be kept, and why.
    Plan(PlanArgs),
    /// Show the periods that are kept and the snapshot that stands for each: a dry run as a calendar.
    #[command(after_help = "Examples:
  labctl backup retention calendar wiki
  labctl backup retention calendar wiki --daily 7 --weekly 4   # try a policy")]
    Calendar(PlanArgs),
    /// Carry out a plan that was looked at.
    Apply(ApplyArgs),
    /// Say that a brake was looked at and may be let go.
    Acknowledge(AcknowledgeArgs),
}

/// `labctl backup retention plan` and `calendar`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  labctl backup retention plan wiki
  labctl backup retention plan wiki --repository parents
  labctl backup retention plan wiki --daily 7 --weekly 4 --monthly 12   # try a policy

Exit code 3 when a brake keeps everything.")]
pub struct PlanArgs {
    /// Name of the backup.
    pub backup: String,
    /// Only this repository.
    #[arg(long)]
    pub repository: Option<String>,
    /// A policy to try.
    #[command(flatten)]
    pub keep: KeepArgs,
}

/// A policy to try instead of the site file's. What is not given is not kept by that rule.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Policy to try")]
pub struct KeepArgs {
    /// The newest so many.
    #[arg(long, value_name = "COUNT")]
    pub last: Option<u32>,
    /// The newest of each of so many hours.
    #[arg(long, value_name = "COUNT")]
    pub hourly: Option<u32>,
    /// The newest of each of so many days.
    #[arg(long, value_name = "COUNT")]
    pub daily: Option<u32>,
    /// The newest of each of so many weeks.
    #[arg(long, value_name = "COUNT")]
    pub weekly: Option<u32>,
    /// The newest of each of so many months.
    #[arg(long, value_name = "COUNT")]
    pub monthly: Option<u32>,
    /// The newest of each of so many years.
    #[arg(long, value_name = "COUNT")]
    pub yearly: Option<u32>,
    /// Never fewer verified snapshots than this.
    #[arg(long, value_name = "COUNT")]
    pub floor: Option<u32>,
    /// How long a snapshot stays recoverable after it was given up.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub quarantine: Option<Duration>,
}

/// `labctl backup retention apply`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  labctl backup retention apply wiki                     shows the plan and asks
  labctl backup retention apply wiki --yes               for scripts
  labctl backup retention apply wiki --digest 5c1f…      exactly the plan that was looked at

What is given up stays recoverable until its quarantine ends. Exit code 3 when a brake keeps everything.")]
pub struct ApplyArgs {
    /// Name of the backup.
    pub backup: String,
    /// Only this repository.
    #[arg(long)]
    pub repository: Option<String>,
    /// Digest of the plan that was looked at: any other is refused, and nothing is asked.
    #[arg(long)]
    pub digest: Option<String>,
    /// Do not ask.
    #[arg(short, long)]
    pub yes: bool,
}

/// `labctl backup retention acknowledge`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  labctl backup retention acknowledge wiki --brake SIZES_COLLAPSED --subject 1f0c7a52 \\
      --reason 'old pages were archived on purpose'

`labctl backup retention plan` prints this line for each brake that a person may let go.")]
pub struct AcknowledgeArgs {
    /// Name of the backup.
    pub backup: String,
    /// The brake, as in the plan.
    #[arg(long)]
    pub brake: String,
    /// What showed it, as in the plan.
    #[arg(long)]
    pub subject: String,
    /// Why it may be let go.
    #[arg(long)]
    pub reason: String,
}

/// `labctl backup copies`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  labctl backup copies
  labctl backup copies wiki

Exit code 4 when three copies on two media, one of them elsewhere, are not there.")]
pub struct CopiesArgs {
    /// Only this backup.
    pub backup: Option<String>,
}

/// `labctl backup copy`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  labctl backup copy wiki --to parents
  labctl backup copy wiki --snapshot 1f0c7a52 --from nas --to parents")]
pub struct CopyArgs {
    /// Name of the backup.
    pub backup: String,
    /// Repository to copy to.
    #[arg(long, value_name = "REPOSITORY")]
    pub to: String,
    /// Repository to copy from; the backup's own without it.
    #[arg(long, value_name = "REPOSITORY")]
    pub from: Option<String>,
    /// Snapshot to copy, at least 8 digits of it; the newest verified one without it.
    #[arg(long)]
    pub snapshot: Option<String>,
}

/// `labctl backup verify`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  labctl backup verify wiki
  labctl backup verify wiki --read-data
  labctl backup verify wiki --repository parents --read-data")]
pub struct VerifyArgs {
    /// Name of the backup.
    pub backup: String,
    /// Another of its repositories.
    #[arg(long)]
    pub repository: Option<String>,
    /// Read every byte of data as well.
    #[arg(long)]
    pub read_data: bool,
}

/// `labctl backup scrub`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  labctl backup scrub wiki               a thirtieth of the data
  labctl backup scrub wiki --parts 7     a seventh: done daily, everything is read in a week")]
pub struct ScrubArgs {
    /// Name of the backup.
    pub backup: String,
    /// Another of its repositories.
    #[arg(long)]
    pub repository: Option<String>,
    /// Into how many parts the data is divided.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=365))]
    pub parts: u32,
    /// This part, counted from 1; the one that was read longest ago without it.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub part: u32,
}

/// `labctl backup prune`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  labctl backup prune wiki
  labctl backup prune wiki --repository parents

What nothing refers to is set aside first, and removed by a later call. What any snapshot needs stays.")]
pub struct PruneArgs {
    /// Name of the backup.
    pub backup: String,
    /// Another of its repositories.
    #[arg(long)]
    pub repository: Option<String>,
}

/// `labctl backup evidence …`.
#[derive(Clone, Debug, Subcommand)]
pub enum EvidenceCommand {
    /// List what drills have shown, newest first.
    List(EvidenceListArgs),
    /// Check every digest and signature: here as well as by the controller.
    Verify(EvidenceVerifyArgs),
}

/// `labctl backup evidence list`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  labctl backup evidence list
  labctl backup evidence list wiki --limit 5")]
pub struct EvidenceListArgs {
    /// Only this backup.
    pub backup: Option<String>,
    /// At most this many.
    #[arg(long, default_value_t = 20)]
    pub limit: u16,
}

/// `labctl backup evidence verify`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  labctl backup evidence verify
  labctl backup evidence verify --key kit/evidence.pem   # the key of the printed kit

Without --key the controller's own word is taken for the key. Exit code 1 when something does not fit.")]
pub struct EvidenceVerifyArgs {
    /// The public key in PEM that was put away with the recovery kit.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub key: Option<PathBuf>,
}
