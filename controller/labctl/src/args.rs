//! What a person may type: verbs, flags, and their help. Man pages and completions come from here.

//!
//! A file each family of verbs.

mod ai;
mod backup;
mod host;
mod job;
mod login;
mod power;
mod recovery;
mod runbook;
mod site;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

pub use self::{
    ai::{AiCommand, BudgetArgs, CheckArgs, ContextCommand, ContextRefreshArgs, ContextSearchArgs},
    backup::{
        AcknowledgeArgs, ApplyArgs, BackupCommand, BackupNameArgs, CancelArgs, CopiesArgs,
        CopyArgs, DrillArgs, EvidenceCommand, EvidenceListArgs, EvidenceVerifyArgs, KeepArgs,
        PauseArgs, PlanArgs, PruneArgs, PushBackArgs, RestoreArgs, RetentionCommand, RunArgs,
        RunsArgs, ScheduleCommand, ScrubArgs, SnapshotsArgs, VerifyArgs, WatchArgs,
    },
    host::{DoctorArgs, EnrollArgs, HostCommand, KindWord, NameArgs},
    job::{
        AskArgs, ClassWord, JobArgs, JobCommand, JobListArgs, ModelCommand, SubmitArgs, TierWord,
    },
    login::{InitArgs, LoginArgs, RoleWord},
    power::{HeldWord, HoldArgs, PowerCommand, ReportArgs, SleepArgs},
    recovery::{DocsCommand, JoinArgs, KitCommand, PrintArgs, ProveArgs, RenderArgs},
    runbook::{
        RunbookApproveArgs, RunbookArgs, RunbookCommand, RunbookListArgs, RunbookProposeArgs,
        RunbookRejectArgs, RunbookWord,
    },
    site::{
        AuditCommand, AuditListArgs, CaCommand, CompletionsArgs, ManArgs, RevokeArgs, TaskCommand,
    },
};

/// Runs a homelab: hosts, backups, AI jobs, and who may do what.
#[derive(Debug, Parser)]
#[command(
    name = "labctl",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = EXAMPLES,
    after_long_help = EXIT_CODES
)]
pub struct Cli {
    /// What applies to every verb.
    #[command(flatten)]
    pub global: Global,
    /// The verb.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "Examples:
  labctl status                     is all well?
  labctl backup risk                what would I lose right now?
  labctl backup run wiki --wait     back up now and wait for the proof
  labctl recovery-kit show          what to print and put away
  labctl ask 'why is it so?'        ask the first model that answers
  labctl host enroll x99            the line to paste on a new host
  labctl host wake x99              wake it and follow its boot

`labctl VERB --help` shows more; `labctl doctor` says why something does not work.";

const EXIT_CODES: &str = "Exit codes:
  0 done                 4 done in part        7 rolled back
  1 failed               5 unreachable         8 unknown: the reply was lost
  2 wrong usage          6 denied
  3 a gate is shut

Results go to standard output, words to standard error.";

/// Flags that every verb takes.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// How to print the result.
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// Print again whenever something changes, until Ctrl-C.
    #[arg(short, long, global = true)]
    pub watch: bool,
    /// Print the grpcurl command that does the same, and do nothing.
    #[arg(long, global = true)]
    pub grpcurl: bool,
    /// Only say what would be done.
    #[arg(long, global = true)]
    pub dry_run: bool,
    /// Controller to talk to, as ADDRESS:PORT, instead of the one in the context.
    #[arg(long, global = true, env = "HOMELAB_CONTROLLER", value_name = "ADDRESS")]
    pub controller: Option<String>,
    /// Folder that holds the context: who you are and where the controller is.
    #[arg(long, global = true, env = "HOMELAB_CONTEXT", value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    pub context: Option<PathBuf>,
    /// How long to wait for an answer.
    #[arg(long, global = true, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub timeout: Duration,
}

/// Forms of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// Columns for people.
    Table,
    /// More columns.
    Wide,
    /// The answer as JSON, in the form of protocol buffers.
    Json,
    /// The same as YAML.
    Yaml,
    /// Only names or identifiers, one a line.
    Name,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make the certificate authority and the controller's identity on this host.
    Init(InitArgs),
    /// Get a certificate for yourself, or a fresh one.
    Login(LoginArgs),
    /// Say whether all is well, and what is not.
    Status,
    /// Find out why something does not work, layer by layer.
    Doctor(DoctorArgs),
    /// Hosts: list, show, enroll, wake, sleep.
    #[command(subcommand)]
    Host(HostCommand),
    /// Hosts that are off until needed: what keeps them awake, what they use.
    #[command(subcommand)]
    Power(PowerCommand),
    /// Backups: run, restore, drill, keep, prove.
    #[command(subcommand)]
    Backup(BackupCommand),
    /// What is needed after everything was lost: show it, prove that it opens everything.
    #[command(subcommand)]
    RecoveryKit(KitCommand),
    /// Documents that are made from what is so.
    #[command(subcommand)]
    Docs(DocsCommand),
    /// AI jobs: submit, follow, explain, cancel.
    #[command(subcommand)]
    Job(JobCommand),
    /// Runbooks: propose one from a job's answer, read it, approve or reject it.
    #[command(subcommand)]
    Runbook(RunbookCommand),
    /// The AI half as a whole: what will be done with what waits, what may leave, what is left to spend.
    #[command(subcommand)]
    Ai(AiCommand),
    /// Ask a model, and print its answer as it comes.
    Ask(AskArgs),
    /// Models of all tiers.
    #[command(subcommand)]
    Model(ModelCommand),
    /// Certificates: list and revoke.
    #[command(subcommand)]
    Ca(CaCommand),
    /// Who did what.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// The controller's background tasks.
    #[command(subcommand)]
    Task(TaskCommand),
    /// Print a link that logs a browser into the dashboard once.
    Dashboard,
    /// Print a completion script.
    Completions(CompletionsArgs),
    /// Write the man pages.
    Man(ManArgs),
}

/// Parses `90s`, `5m`, `1h30m`, `2d`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration such as 30s, 5m, 1h30m or 2d");
    let mut total = Duration::ZERO;
    let mut digits = String::new();
    for letter in text.chars() {
        if letter.is_ascii_digit() {
            digits.push(letter);
            continue;
        }
        let seconds = match letter {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return Err(wrong()),
        };
        let count: u32 = digits.parse().map_err(|_| wrong())?;
        total += Duration::from_secs(seconds).checked_mul(count).ok_or_else(wrong)?;
        digits.clear();
    }
    if digits.is_empty() && !total.is_zero() { Ok(total) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_add_up() {
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5_400)));
        assert_eq!(duration("2d"), Ok(Duration::from_secs(172_800)));
    }

    #[test]
    fn a_duration_without_a_unit_is_refused_with_examples() {
        assert!(duration("30").is_err_and(|words| words.contains("30s")));
        assert!(duration("").is_err());
        assert!(duration("s").is_err());
    }

    #[test]
    fn a_typo_in_a_verb_gets_a_suggestion() {
        let words = Cli::try_parse_from(["labctl", "backup", "dril", "wiki"]).expect_err("a typo");
        assert!(words.to_string().contains("'drill'"), "{words}");
    }

    #[test]
    fn every_backup_verb_shows_an_example() {
        fn lacking(command: &clap::Command, path: &str, found: &mut Vec<String>) {
            for verb in command.get_subcommands() {
                let path = format!("{path} {}", verb.get_name());
                if verb.has_subcommands() {
                    lacking(verb, &path, found);
                    continue;
                }
                let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
                if !help.contains(&path) {
                    found.push(path);
                }
            }
        }
        let command = Cli::command();
        let mut found = Vec::new();
        for family in ["ai", "backup", "power", "recovery-kit", "docs"] {
            let verbs = command.find_subcommand(family).expect(family);
            lacking(verbs, &format!("labctl {family}"), &mut found);
        }
        assert!(found.is_empty(), "no example of its own: {found:#?}");
    }
}
