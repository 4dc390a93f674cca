//! `labctl job …`, `labctl ask` and `labctl model …`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::duration;

/// `labctl job …`.
#[derive(Clone, Debug, Subcommand)]
pub enum JobCommand {
    /// Put a job into the queue and print its identifier.
    Submit(Box<SubmitArgs>),
    /// List jobs, newest first.
    List(JobListArgs),
    /// Show one job with its states and answer.
    Show(JobArgs),
    /// Say why a job is where it is, and where its text may go.
    Explain(JobArgs),
    /// Follow a job until it has ended.
    Watch(JobArgs),
    /// Cancel a job.
    Cancel(JobArgs),
    /// Put an ended job into the queue again.
    Retry(JobArgs),
}

/// A verb on one job.
#[derive(Clone, Debug, Args)]
pub struct JobArgs {
    /// Identifier of the job.
    pub job: String,
}

/// `labctl job list`.
#[derive(Clone, Debug, Args)]
pub struct JobListArgs {
    /// Only those that have not ended.
    #[arg(long)]
    pub open: bool,
    /// At most this many.
    #[arg(long, default_value_t = 20)]
    pub limit: u16,
}

/// `labctl ask` and `labctl job submit`.
#[derive(Clone, Debug, Args)]
pub struct AskArgs {
    /// The question; `-` reads it from standard input.
    pub prompt: String,
    /// Model; the tier's default without it.
    #[arg(short, long, default_value = "")]
    pub model: String,
    /// Tier; the first that has the model without it.
    #[arg(short, long, value_enum)]
    pub tier: Option<TierWord>,
    /// Instructions for the model.
    #[arg(long)]
    pub system: Option<String>,
    /// Most tokens to answer with.
    #[arg(long)]
    pub tokens_max: Option<u32>,
    /// Higher goes first, 0 to 100.
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub priority: Option<u32>,
    /// Give up when the job has not begun after this time.
    #[arg(long, value_parser = duration)]
    pub within: Option<Duration>,
    /// Keep only figures of the job, not its text.
    #[arg(long)]
    pub private: bool,
}

/// `labctl job submit`.
#[derive(Clone, Debug, Args)]
pub struct SubmitArgs {
    /// What to ask.
    #[command(flatten)]
    pub ask: AskArgs,
    /// Who waits for it.
    #[arg(long, value_enum, default_value = "batch")]
    pub class: ClassWord,
    /// Run it only after this job has succeeded; may be given several times.
    #[arg(long, value_name = "JOB")]
    pub after: Vec<String>,
    /// A word for rules; may be given several times.
    #[arg(long = "tag", value_name = "WORD")]
    pub tags: Vec<String>,
    /// The conversation that it belongs to.
    #[arg(long, value_name = "NAME", default_value = "")]
    pub chat: String,
    /// Begin within this time, and wake a host for it if need be.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub start_within: Option<Duration>,
    /// Put documents of the house before it: of this source, or of all without a name; may be given
    /// several times.
    #[arg(long, value_name = "SOURCE", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub with_context: Vec<String>,
    /// Forget it so long after its end, instead of when others are forgotten.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub keep_for: Option<Duration>,
}

/// Who waits for a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ClassWord {
    /// Somebody: a sleeping host is woken for it.
    Interactive,
    /// Nobody: a host is woken once enough has gathered.
    Batch,
    /// A program asks by the way: nothing is woken or loaded for it.
    Background,
}

/// Tiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TierWord {
    /// Always on.
    Bronze,
    /// Waits until its worker is up.
    Silver,
    /// Leaves the house.
    Gold,
}

/// `labctl model …`.
#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// List the models of all tiers, sleeping ones too.
    List,
}
