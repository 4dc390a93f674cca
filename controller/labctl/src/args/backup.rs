//! `labctl backup …`.

mod keep;
mod run;

use clap::{Args, Subcommand};

pub use self::{
    keep::{
        AcknowledgeArgs, ApplyArgs, CopiesArgs, CopyArgs, EvidenceCommand, EvidenceListArgs,
        EvidenceVerifyArgs, KeepArgs, PlanArgs, PruneArgs, RetentionCommand, ScrubArgs, VerifyArgs,
    },
    run::{
        CancelArgs, DrillArgs, PauseArgs, PushBackArgs, RestoreArgs, RunArgs, RunsArgs,
        ScheduleCommand, SnapshotsArgs, WatchArgs,
    },
};

/// `labctl backup …`.
#[derive(Clone, Debug, Subcommand)]
pub enum BackupCommand {
    /// List backups with how they stand.
    #[command(after_help = "Examples:\n  labctl backup list\n  labctl backup list --watch")]
    List,
    /// Say what would be lost right now, worst first.
    #[command(after_help = "Examples:
  labctl backup risk
  labctl backup risk -o json | jq '.risks[] | select(.withinRpo | not)'

Exit code 4 when a backup is not within its target.")]
    Risk,
    /// Run a backup now.
    Run(RunArgs),
    /// Restore the newest snapshot into a scratch place and compare.
    Drill(DrillArgs),
    /// List runs and drills, newest first.
    Runs(RunsArgs),
    /// Follow a run or drill until it has ended.
    Watch(WatchArgs),
    /// Cancel a run, drill, restore, verification, copy or pruning.
    Cancel(CancelArgs),
    /// List the verified snapshots of a backup.
    Snapshots(SnapshotsArgs),
    /// Restore a snapshot, to a new folder unless the old one is named.
    Restore(RestoreArgs),
    /// Push mirrored Git repositories to a new, empty server.
    PushBack(PushBackArgs),
    /// What is kept and what is given up: plan, calendar, apply.
    #[command(subcommand)]
    Retention(RetentionCommand),
    /// Say where the copies are, and whether they make 3-2-1.
    Copies(CopiesArgs),
    /// Copy a snapshot into another repository and prove it there.
    Copy(CopyArgs),
    /// Say how the repositories of a backup stand: room, trust, identity.
    #[command(after_help = "Examples:\n  labctl backup repositories wiki")]
    Repositories(BackupNameArgs),
    /// Check a repository of a backup.
    Verify(VerifyArgs),
    /// Read the part of the data that was read longest ago, and check it.
    Scrub(ScrubArgs),
    /// Free the room of snapshots that were deleted.
    Prune(PruneArgs),
    /// Show, pause or resume schedules.
    #[command(subcommand)]
    Schedule(ScheduleCommand),
    /// Keep a schedule from firing; the same as `schedule pause`.
    #[command(after_help = "Examples:
  labctl backup pause wiki --reason 'moving house' --for 2d")]
    Pause(PauseArgs),
    /// Let a schedule fire again; the same as `schedule resume`.
    #[command(after_help = "Examples:\n  labctl backup resume wiki")]
    Resume(BackupNameArgs),
    /// List maintenance windows, in which schedules do not fire.
    #[command(after_help = "Examples:
  labctl backup windows

Windows are declared in the site file, under [[window]]; SIGHUP makes the controller read it again.")]
    Windows,
    /// Print the rights that a backup needs at its source, and which it has.
    #[command(after_help = "Examples:
  labctl backup access wiki
  labctl backup access wiki -o name | psql -X -d wiki   # give them

Exit code 4 when a right is missing.")]
    Access(BackupNameArgs),
    /// What drills have shown: list it, check its signatures.
    #[command(subcommand)]
    Evidence(EvidenceCommand),
}

impl BackupCommand {
    /// Whether the verb shows a state, so that `--watch` makes sense.
    #[must_use]
    pub const fn is_list(&self) -> bool {
        matches!(
            self,
            Self::List
                | Self::Risk
                | Self::Runs(_)
                | Self::Snapshots(_)
                | Self::Copies(_)
                | Self::Repositories(_)
                | Self::Windows
                | Self::Schedule(ScheduleCommand::List)
                | Self::Evidence(EvidenceCommand::List(_))
                | Self::Retention(RetentionCommand::Plan(_) | RetentionCommand::Calendar(_))
        )
    }
}

/// A verb on one backup.
#[derive(Clone, Debug, Args)]
pub struct BackupNameArgs {
    /// Name of the backup.
    pub backup: String,
}
