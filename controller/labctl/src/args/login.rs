//! `labctl init` and `labctl login`.

use std::path::PathBuf;

use clap::{Args, ValueEnum, ValueHint};

/// `labctl init`.
#[derive(Args, Debug)]
pub struct InitArgs {
    /// Configuration of the controller.
    #[arg(long, default_value = "/etc/homelab/controller.toml", value_hint = ValueHint::FilePath)]
    pub config: PathBuf,
    /// New folder for the root key, to be taken off this host afterwards.
    #[arg(long, value_hint = ValueHint::DirPath)]
    pub recovery: PathBuf,
    /// Name of the first admin.
    #[arg(long, default_value = "admin")]
    pub admin: String,
    /// The controller's program, when it is not beside labctl or on the path.
    #[arg(long, value_hint = ValueHint::FilePath)]
    pub program: Option<PathBuf>,
}

/// `labctl login`.
#[derive(Args, Debug)]
pub struct LoginArgs {
    /// Token that an admin made with `labctl host enroll NAME --kind user`.
    #[arg(long, conflicts_with = "socket")]
    pub token_file: Option<PathBuf>,
    /// The controller's local socket; works for root on the controller's host.
    #[arg(long, value_hint = ValueHint::FilePath)]
    pub socket: Option<PathBuf>,
    /// Name to log in as, over the local socket.
    #[arg(long, default_value = "admin")]
    pub user: String,
    /// Role to log in with, over the local socket.
    #[arg(long, value_enum, default_value_t = RoleWord::Admin)]
    pub role: RoleWord,
    /// Be an approver as well.
    #[arg(long)]
    pub approver: bool,
}

/// Roles of people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RoleWord {
    /// Reads everything but secrets.
    Viewer,
    /// Runs backups, drills, jobs and checks.
    Operator,
    /// Changes identities, phases and the site.
    Admin,
}
