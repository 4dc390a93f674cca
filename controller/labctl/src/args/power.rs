//! `labctl power …`, and the verbs of `labctl host` that are about power.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::duration;

/// `labctl power …`.
#[derive(Clone, Debug, Subcommand)]
pub enum PowerCommand {
    /// List hosts that are off until needed: where they stand, what keeps them so.
    #[command(after_help = "Examples:
  labctl power list
  labctl power list -o wide   # with what speaks against sleeping")]
    List,
    /// Say what kept hosts awake, what they used and for whom, and how they woke.
    #[command(after_help = "Examples:\n  labctl power report --days 30")]
    Report(ReportArgs),
}

/// `labctl power report`.
#[derive(Clone, Debug, Args)]
pub struct ReportArgs {
    /// Days to look back, today included; at most 366.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=366))]
    pub days: u32,
}

/// `labctl host sleep`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  labctl host sleep x99 --dry-run    # only say what speaks against it
  labctl host sleep x99 --unproved   # the first time, when somebody is there to switch it on

Nothing that runs is cut off: jobs, guests, logins, backups and whatever nobody knows keep it awake. That it
has not been idle for long, or would be woken again soon, does not count when you ask for it.")]
pub struct SleepArgs {
    /// Its name.
    pub name: String,
    /// Go on although nobody has lately seen it come up after being woken.
    #[arg(long)]
    pub unproved: bool,
}

/// `labctl host hold`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "Examples:
  labctl host hold x99 awake --for 4h
  labctl host hold x99 asleep --for 2d

`labctl host release` ends it before.")]
pub struct HoldArgs {
    /// Its name.
    pub name: String,
    /// What to hold it to.
    #[arg(value_enum)]
    pub state: HeldWord,
    /// For how long, at most 7d.
    #[arg(long = "for", value_parser = duration, default_value = "4h")]
    pub lasting: Duration,
}

/// What a host is held to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HeldWord {
    /// It does not go to sleep, and is woken when it sleeps.
    Awake,
    /// It is not woken; when it is awake it may still finish what it does.
    Asleep,
}
