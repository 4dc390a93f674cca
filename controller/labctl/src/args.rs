//! What a person may type: verbs, flags, and their help. Man pages and completions come from here.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;

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
  labctl ask 'why is the sky blue?' ask the first model that answers
  labctl host enroll x99            the line to paste on a new host

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
    /// Hosts: list, show, enroll.
    #[command(subcommand)]
    Host(HostCommand),
    /// Backups: run, verify, restore, drill.
    #[command(subcommand)]
    Backup(BackupCommand),
    /// AI jobs: submit, follow, explain, cancel.
    #[command(subcommand)]
    Job(JobCommand),
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

/// `labctl backup …`.
#[derive(Clone, Debug, Subcommand)]
pub enum BackupCommand {
    /// List backups with how they stand.
    List,
    /// Say what would be lost right now, worst first.
    Risk,
    /// Run a backup now.
    Run(RunArgs),
    /// Restore the newest snapshot into a scratch place and compare.
    Drill(DrillArgs),
    /// List runs and drills, newest first.
    Runs(RunsArgs),
    /// List the verified snapshots of a backup.
    Snapshots(BackupNameArgs),
    /// Check the repository of a backup.
    Verify(VerifyArgs),
    /// Restore a snapshot into a new folder on the agent's host.
    Restore(RestoreArgs),
    /// Show, pause or resume schedules.
    #[command(subcommand)]
    Schedule(ScheduleCommand),
}

impl BackupCommand {
    /// Whether the verb shows a state, so that `--watch` makes sense.
    #[must_use]
    pub fn is_list(&self) -> bool {
        matches!(
            self,
            Self::List
                | Self::Risk
                | Self::Runs(_)
                | Self::Snapshots(_)
                | Self::Schedule(ScheduleCommand::List)
        )
    }
}

/// A verb on one backup.
#[derive(Clone, Debug, Args)]
pub struct BackupNameArgs {
    /// Name of the backup.
    pub backup: String,
}

/// `labctl backup run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Name of the backup.
    pub backup: String,
    /// Follow the run until it has ended.
    #[arg(long)]
    pub wait: bool,
}

/// `labctl backup drill`.
#[derive(Clone, Debug, Args)]
pub struct DrillArgs {
    /// Name of the backup.
    pub backup: String,
    /// Snapshot to drill; the newest verified one without it.
    #[arg(long)]
    pub snapshot: Option<String>,
    /// Follow the drill until it has ended.
    #[arg(long)]
    pub wait: bool,
}

/// `labctl backup runs`.
#[derive(Clone, Debug, Args)]
pub struct RunsArgs {
    /// Only this backup.
    pub backup: Option<String>,
    /// At most this many.
    #[arg(long, default_value_t = 20)]
    pub limit: u16,
}

/// `labctl backup verify`.
#[derive(Clone, Debug, Args)]
pub struct VerifyArgs {
    /// Name of the backup.
    pub backup: String,
    /// Read every byte of data as well.
    #[arg(long)]
    pub read_data: bool,
}

/// `labctl backup restore`.
#[derive(Clone, Debug, Args)]
pub struct RestoreArgs {
    /// Name of the backup.
    pub backup: String,
    /// New folder on the agent's host.
    #[arg(long, value_name = "FOLDER")]
    pub target: String,
    /// Snapshot to restore; the newest verified one without it.
    #[arg(long)]
    pub snapshot: Option<String>,
}

/// `labctl backup schedule …`.
#[derive(Clone, Debug, Subcommand)]
pub enum ScheduleCommand {
    /// List schedules with their next runs.
    List,
    /// Keep a schedule from firing.
    Pause(PauseArgs),
    /// Let a schedule fire again.
    Resume(BackupNameArgs),
}

/// `labctl backup schedule pause`.
#[derive(Clone, Debug, Args)]
pub struct PauseArgs {
    /// Name of the backup.
    pub backup: String,
    /// Why.
    #[arg(long)]
    pub reason: String,
}

/// `labctl job …`.
#[derive(Clone, Debug, Subcommand)]
pub enum JobCommand {
    /// Put a job into the queue and print its identifier.
    Submit(AskArgs),
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
    use clap::CommandFactory;

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
}
