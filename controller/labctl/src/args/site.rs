//! Verbs on the controller itself: certificates, audit log, background tasks, manual.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};
use clap_complete::Shell;

/// `labctl ca …`.
#[derive(Debug, Subcommand)]
pub enum CaCommand {
    /// List certificates that were issued.
    List,
    /// Revoke all certificates of a host, an identity, or one serial number.
    Revoke(RevokeArgs),
}

/// `labctl ca revoke`.
#[derive(Args, Debug)]
pub struct RevokeArgs {
    /// Host name, SPIFFE id, or serial number in hexadecimal.
    pub who: String,
    /// Why.
    #[arg(long)]
    pub reason: String,
}

/// `labctl audit …`.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// List entries, newest first.
    List(AuditListArgs),
    /// Walk the whole chain and name the first broken link.
    Verify,
}

/// `labctl audit list`.
#[derive(Args, Debug)]
pub struct AuditListArgs {
    /// Only by this actor.
    #[arg(long, default_value = "")]
    pub actor: String,
    /// At most this many.
    #[arg(long, default_value_t = 50)]
    pub limit: u16,
}

/// `labctl task …`.
#[derive(Debug, Subcommand)]
pub enum TaskCommand {
    /// List background tasks with their last results.
    List,
}

/// `labctl completions`.
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// Shell to write for.
    pub shell: Shell,
}

/// `labctl man`.
#[derive(Args, Debug)]
pub struct ManArgs {
    /// Folder to write into; without it the main page goes to standard output.
    #[arg(long, value_hint = ValueHint::DirPath)]
    pub dir: Option<PathBuf>,
}
