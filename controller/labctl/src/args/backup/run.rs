//! Verbs that run something, and when it runs by itself.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::BackupNameArgs;
use crate::args::duration;

/// `labctl backup run`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  labctl backup run wiki --wait       back up and wait for the proof
  labctl backup run wiki --dry-run    only check source, tools and repository")]
pub struct RunArgs {
    /// Name of the backup.
    pub backup: String,
    /// Follow the run until it has ended.
    #[arg(long)]
    pub wait: bool,
}

/// `labctl backup drill`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  labctl backup drill wiki --wait
  labctl backup drill wiki --repository parents --snapshot 1f0c7a52 --wait")]
pub struct DrillArgs {
    /// Name of the backup.
    pub backup: String,
    /// Snapshot to drill, at least 8 digits of it; the newest verified one without it.
    #[arg(long)]
    pub snapshot: Option<String>,
    /// Repository to restore from; the backup's own without it.
    #[arg(long)]
    pub repository: Option<String>,
    /// Follow the drill until it has ended.
    #[arg(long)]
    pub wait: bool,
}

/// `labctl backup runs`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  labctl backup runs
  labctl backup runs wiki --drills --limit 5")]
pub struct RunsArgs {
    /// Only this backup.
    pub backup: Option<String>,
    /// Only drills.
    #[arg(long)]
    pub drills: bool,
    /// At most this many.
    #[arg(long, default_value_t = 20)]
    pub limit: u16,
}

/// `labctl backup watch`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  labctl backup watch 0190a8f2-6c1e-7d3a-9b57-3f2d1c4e5a60

Ctrl-C ends the watching, not the run.")]
pub struct WatchArgs {
    /// Identifier of the run or drill.
    pub run: String,
}

/// `labctl backup cancel`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  labctl backup cancel 0190a8f2-6c1e-7d3a-9b57-3f2d1c4e5a60
  labctl backup cancel 0190a8f2-6c1e-7d3a-9b57-3f2d1c4e5a60 --backup wiki   # a restore

Nothing half-done stays visible.")]
pub struct CancelArgs {
    /// Identifier of the run or drill, or what a restore, copy or verification printed.
    pub run: String,
    /// Backup that it works on; needed for what is neither run nor drill.
    #[arg(long)]
    pub backup: Option<String>,
}

/// `labctl backup snapshots`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  labctl backup snapshots wiki
  labctl backup snapshots wiki -o name | head -1")]
pub struct SnapshotsArgs {
    /// Name of the backup.
    pub backup: String,
    /// At most this many.
    #[arg(long, default_value_t = 100)]
    pub limit: u16,
}

/// `labctl backup restore`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  labctl backup restore wiki --target /srv/wiki-of-today
  labctl backup restore wiki --target /srv/wiki-of-monday --snapshot 1f0c7a52
  labctl backup restore wiki --target /srv/wiki --replace wiki    # what was there is kept beside it
  labctl backup restore wiki --target /srv/rest --salvage         # leave out what is damaged

The folder is one on the host of the backup's agent. Without a controller:
`homelab-backup-agent restore` on that host does the same.")]
pub struct RestoreArgs {
    /// Name of the backup.
    pub backup: String,
    /// Folder on the agent's host; it must not exist, unless it is to be replaced.
    #[arg(long, value_name = "FOLDER")]
    pub target: String,
    /// Snapshot to restore, at least 8 digits of it; the newest verified one without it.
    #[arg(long)]
    pub snapshot: Option<String>,
    /// Repository to restore from; the backup's own without it.
    #[arg(long)]
    pub repository: Option<String>,
    /// Replace a folder that exists: type the backup's name again.
    #[arg(long, value_name = "BACKUP")]
    pub replace: Option<String>,
    /// Deliver the files that are intact and name those that are not.
    #[arg(long)]
    pub salvage: bool,
}

/// `labctl backup push-back`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  labctl backup push-back git-mirrors --to https://forgejo.home.arpa/
  labctl backup push-back git-mirrors --mirror ada/site --to ssh://git@new.home.arpa/ada/site.git
  labctl backup push-back git-mirrors --to https://forgejo.home.arpa/ --dry-run

Mirrors are pushed as they are now. To push an older state, restore its snapshot: its next steps say how.")]
pub struct PushBackArgs {
    /// Name of a Git backup.
    pub backup: String,
    /// URL of the new server or repository, without a password.
    #[arg(long, value_name = "URL")]
    pub to: String,
    /// Only this mirror, as OWNER/NAME.
    #[arg(long, value_name = "OWNER/NAME")]
    pub mirror: Option<String>,
}

/// `labctl backup schedule …`.
#[derive(Clone, Debug, Subcommand)]
pub enum ScheduleCommand {
    /// List schedules with their next runs.
    #[command(after_help = "Examples:\n  labctl backup schedule list")]
    List,
    /// Keep a schedule from firing.
    #[command(after_help = "Examples:
  labctl backup schedule pause wiki --reason 'moving house'
  labctl backup schedule pause wiki --reason 'new disks' --for 6h")]
    Pause(PauseArgs),
    /// Let a schedule fire again.
    #[command(after_help = "Examples:\n  labctl backup schedule resume wiki")]
    Resume(BackupNameArgs),
}

/// `labctl backup schedule pause`.
#[derive(Clone, Debug, Args)]
pub struct PauseArgs {
    /// Name of the backup.
    pub backup: String,
    /// Why.
    #[arg(long)]
    pub reason: String,
    /// Resume by itself after this time, at most 90d; until resumed without it.
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub length: Option<Duration>,
}
