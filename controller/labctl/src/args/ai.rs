//! `labctl ai …`.

use clap::{Args, Subcommand};

/// `labctl ai …`.
#[derive(Clone, Debug, Subcommand)]
pub enum AiCommand {
    /// Say what will be done with everything that waits, and why.
    #[command(after_help = "Examples:
  labctl ai plan
  labctl ai plan --watch")]
    Plan,
    /// Say how much of each budget for models outside is left, and what the newest requests cost.
    #[command(after_help = "Examples:
  labctl ai budget
  labctl ai budget --calls 20 -o wide")]
    Budget(BudgetArgs),
    /// Say what would leave the house if the text on standard input were asked outside. Nothing is sent.
    #[command(after_help = "Examples:
  cat prompt.txt | labctl ai check
  echo 'why does x99 not wake?' | labctl ai check --key key/open-webui --tag public")]
    Check(CheckArgs),
    /// Documents of the house that jobs may be given: what is searched, and how fresh it is.
    #[command(subcommand)]
    Context(ContextCommand),
}

/// `labctl ai context …`.
#[derive(Clone, Debug, Subcommand)]
pub enum ContextCommand {
    /// List the sources of documents, with what is searched of each and what is left out.
    #[command(after_help = "Examples:
  labctl ai context list
  labctl ai context list -o json")]
    List,
    /// Find the passages that a job with this text would be given.
    #[command(after_help = "Examples:
  labctl ai context search 'how does x99 wake?'
  labctl ai context search --source homelab 'restore the wiki'")]
    Search(ContextSearchArgs),
    /// Have a source read now and not when it is due.
    #[command(after_help = "Example:
  labctl ai context refresh homelab")]
    Refresh(ContextRefreshArgs),
}

/// `labctl ai context search`.
#[derive(Clone, Debug, Args)]
pub struct ContextSearchArgs {
    /// A question or words.
    pub text: String,
    /// Only this source; may be given several times.
    #[arg(long = "source", value_name = "SOURCE")]
    pub sources: Vec<String>,
    /// Bytes of passages at most.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(1..=32_000))]
    pub bytes_max: Option<u32>,
}

/// `labctl ai context refresh`.
#[derive(Clone, Debug, Args)]
pub struct ContextRefreshArgs {
    /// Name of the source.
    pub source: String,
}

/// `labctl ai budget`.
#[derive(Clone, Debug, Args)]
pub struct BudgetArgs {
    /// Show the newest requests that left as well, at most this many.
    #[arg(long, default_value_t = 0, value_name = "COUNT")]
    pub calls: u16,
}

/// `labctl ai check`.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Who would ask, as rules name them: key/NAME or user/NAME; you without it.
    #[arg(long, default_value = "", value_name = "ASKER")]
    pub key: String,
    /// A tag that the request would carry; may be given several times.
    #[arg(long = "tag", value_name = "TAG")]
    pub tags: Vec<String>,
}
