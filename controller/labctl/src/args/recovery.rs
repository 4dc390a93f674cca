//! `labctl recovery-kit …` and `labctl docs …`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

/// `labctl recovery-kit …`.
#[derive(Debug, Subcommand)]
pub enum KitCommand {
    /// Print what must be at hand after everything was lost; never a secret.
    #[command(after_help = "Examples:
  labctl recovery-kit show > recovery-kit.txt     # print it, and write the secrets onto the paper
  labctl recovery-kit show -o json")]
    Show,
    /// Write the kit as pages to print, with the secrets and their QR codes.
    Print(PrintArgs),
    /// Give a secret back from two of its three shares; needs no controller.
    Join(JoinArgs),
    /// Check that the secrets of the kit still open everything, and keep the proof.
    Prove(ProveArgs),
}

/// `labctl recovery-kit print`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  labctl recovery-kit print --secrets /media/usb/kit --out /media/usb
  labctl recovery-kit print --secrets /media/usb/kit --out /media/usb --split

In the folder is a file for each secret of the kit, named as the kit names it. With --split there are
three sheets for three places; any two of them give every secret back, one alone says nothing. The
secrets never leave this host. Exit code 4 when a secret of the kit was not in the folder.")]
pub struct PrintArgs {
    /// Folder with one file for each secret.
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    pub secrets: PathBuf,
    /// Folder to write the pages into; nothing is written over.
    #[arg(long, value_name = "FOLDER", default_value = ".", value_hint = ValueHint::DirPath)]
    pub out: PathBuf,
    /// Three sheets with a share of each secret instead of one with all of it.
    #[arg(long)]
    pub split: bool,
}

/// `labctl recovery-kit join`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  labctl recovery-kit join sheet-1.txt sheet-3.txt --out nas-repository-key

Each file holds the text of one share, as its QR code gives it or as it was typed.")]
pub struct JoinArgs {
    /// A share.
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub one: PathBuf,
    /// Another share of the same secret.
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub other: PathBuf,
    /// File to write the secret into; standard output without it.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub out: Option<PathBuf>,
}

/// `labctl recovery-kit prove`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  labctl recovery-kit prove --secrets /media/usb/kit
  labctl recovery-kit prove --secrets /media/usb/kit --repository nas=/mnt/nas/backup
  labctl recovery-kit prove --secrets /media/usb/kit --opened disk-passphrase

In the folder is a file for each secret of the kit, named as the kit names it: `nas-repository-key`, or
two of its shares as `nas-repository-key.share-1` to `.share-3`. A repository is opened with plain restic where this host can reach it, the key of the CA's root is
compared with its certificate, and what labctl cannot try itself you say with --opened or --failed.
Run it on a host that sees the repositories. Exit code 1 when something did not open, 4 when something
was not tried.")]
pub struct ProveArgs {
    /// Folder with one file for each secret.
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    pub secrets: Option<PathBuf>,
    /// Where this host finds a repository; without it where the kit says.
    #[arg(long = "repository", value_name = "NAME=PLACE", value_parser = pair)]
    pub repositories: Vec<(String, String)>,
    /// A secret that you have tried yourself, and it opened what it should.
    #[arg(long, value_name = "SECRET")]
    pub opened: Vec<String>,
    /// A secret that you have tried yourself, and why it did not open.
    #[arg(long, value_name = "SECRET=WHY", value_parser = pair)]
    pub failed: Vec<(String, String)>,
    /// Fingerprint on the paper; that of the present kit without it.
    #[arg(long)]
    pub fingerprint: Option<String>,
    /// The restic program.
    #[arg(long, default_value = "restic", value_hint = ValueHint::FilePath)]
    pub restic: String,
}

/// `labctl docs …`.
#[derive(Debug, Subcommand)]
pub enum DocsCommand {
    /// Write the backup and restore strategy and the runbook of a cold start.
    Render(RenderArgs),
}

/// `labctl docs render`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  labctl docs render --out docs
  labctl docs render --dry-run        to standard output

Writes 70-backup-and-restore-strategy.md and 71-cold-start-runbook.md. A file of that name that was not
made by this verb is left alone.")]
pub struct RenderArgs {
    /// Folder to write into.
    #[arg(long, value_name = "FOLDER", default_value = ".", value_hint = ValueHint::DirPath)]
    pub out: PathBuf,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() && !value.is_empty() => {
            Ok((name.to_owned(), value.to_owned()))
        }
        _ => Err(format!("`{text}` is not NAME=VALUE")),
    }
}
