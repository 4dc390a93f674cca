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
