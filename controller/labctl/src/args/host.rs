//! `labctl host …` and `labctl doctor`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::{HoldArgs, RoleWord, SleepArgs, duration};

/// `labctl doctor`.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// Host to look at; without it the controller, and every host as the controller sees it.
    pub host: Option<String>,
}

/// `labctl host …`.
#[derive(Clone, Debug, Subcommand)]
pub enum HostCommand {
    /// List hosts with their states.
    List,
    /// Show all that is known of one host.
    Show(NameArgs),
    /// Make the token with which a host or a person enrols.
    Enroll(EnrollArgs),
    /// Move work off a host.
    Drain(NameArgs),
    /// Let a host take work again.
    Undrain(NameArgs),
    /// Wake a host that is off until needed, and follow its boot until it is up.
    #[command(after_help = "Examples:\n  labctl host wake x99")]
    Wake(NameArgs),
    /// Put a host to sleep that is off until needed, when nothing speaks against it.
    Sleep(SleepArgs),
    /// Hold a host awake or asleep for a time, whatever the plan says.
    Hold(HoldArgs),
    /// End a hold.
    #[command(after_help = "Examples:\n  labctl host release x99")]
    Release(NameArgs),
}

/// A verb on one named thing.
#[derive(Clone, Debug, Args)]
pub struct NameArgs {
    /// Its name.
    pub name: String,
}

/// `labctl host enroll`.
#[derive(Clone, Debug, Args)]
pub struct EnrollArgs {
    /// Name of the host, or of the person.
    pub name: String,
    /// Who enrols; may be given several times. Without it: what the site file says of the host.
    #[arg(long = "kind", value_enum)]
    pub kinds: Vec<KindWord>,
    /// How long the token is good, at most 24h.
    #[arg(long, default_value = "1h", value_parser = duration)]
    pub valid_for: Duration,
    /// Role of the person.
    #[arg(long, value_enum, default_value_t = RoleWord::Viewer)]
    pub role: RoleWord,
    /// The person is an approver as well.
    #[arg(long)]
    pub approver: bool,
}

/// Who may enrol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KindWord {
    /// homelab-agent.
    Agent,
    /// homelab-backup-agent.
    BackupAgent,
    /// homelab-gpu-worker.
    GpuWorker,
    /// A person.
    User,
}
