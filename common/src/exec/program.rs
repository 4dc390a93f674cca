//! What to run, and within which limits.

use std::{
    fmt,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use super::{Argv, ExecError};

/// Where programs are looked for that are named without a path.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

const DEADLINE_DEFAULT: Duration = Duration::from_secs(60);

const OUTPUT_BYTES_MAX_DEFAULT: u64 = 8 * 1024 * 1024;

/// What a child gets as standard input.
#[derive(Clone, Default, PartialEq, Eq)]
pub(super) enum Stdin {
    #[default]
    Null,
    Bytes(Vec<u8>),
    Piped,
}

/// A program to run: arguments, environment and limits.
#[derive(Clone)]
pub struct Program {
    path: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
    directory: Option<PathBuf>,
    pub(super) stdin: Stdin,
    pub(super) deadline: Duration,
    pub(super) output_bytes_max: Option<u64>,
    pub(super) accepted: Vec<i32>,
}

impl Program {
    /// Names the program: an absolute path, or a name that is looked for in
    /// `/usr/sbin`, `/usr/bin`, `/sbin` and `/bin`. Unless changed, it gets no
    /// input, 60 s, and must exit with 0.
    pub fn new(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            args: Vec::new(),
            env: Vec::new(),
            directory: None,
            stdin: Stdin::Null,
            deadline: DEADLINE_DEFAULT,
            output_bytes_max: None,
            accepted: vec![0],
        }
    }

    /// Adds one argument. Never a secret: arguments are visible to everyone.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Adds several arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds a variable to the otherwise empty environment (`PATH` is set).
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Starts it in this directory; otherwise in `/`.
    #[must_use]
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Gives it this input.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Stdin::Bytes(bytes.into());
        self
    }

    /// Lets the caller write its input, by
    /// [`Streaming::take_stdin`](super::Streaming::take_stdin).
    #[must_use]
    pub fn stdin_piped(mut self) -> Self {
        self.stdin = Stdin::Piped;
        self
    }

    /// Kills it when it has not ended after this time.
    #[must_use]
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Kills it when it writes more than this to standard output. Unless set,
    /// 8 MiB for [`Exec::run`](super::Exec::run) and no limit for streams.
    #[must_use]
    pub const fn output_bytes_max(mut self, bytes: u64) -> Self {
        self.output_bytes_max = Some(bytes);
        self
    }

    /// Accepts these exit codes instead of 0 alone.
    #[must_use]
    pub fn accept(mut self, codes: impl IntoIterator<Item = i32>) -> Self {
        self.accepted = codes.into_iter().collect();
        self
    }

    /// The program and its arguments.
    #[must_use]
    pub fn argv(&self) -> Argv {
        Argv::new(std::iter::once(&self.path).chain(&self.args).cloned().collect())
    }

    /// The input that was given as bytes.
    #[must_use]
    pub fn input(&self) -> Option<&[u8]> {
        match &self.stdin {
            Stdin::Bytes(bytes) => Some(bytes),
            Stdin::Null | Stdin::Piped => None,
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.path
    }

    pub(super) fn output_limit(&self) -> u64 {
        self.output_bytes_max.unwrap_or(OUTPUT_BYTES_MAX_DEFAULT)
    }

    /// The command with everything but standard output and error.
    pub(super) fn command(&self) -> Command {
        use std::os::unix::process::CommandExt;

        #[expect(clippy::disallowed_methods, reason = "the one place that makes commands")]
        let mut command = Command::new(&self.path);
        command
            .args(&self.args)
            .env_clear()
            .env("PATH", PATH)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(self.directory.as_deref().unwrap_or_else(|| std::path::Path::new("/")))
            .stdin(if self.stdin == Stdin::Null { Stdio::null() } else { Stdio::piped() })
            .process_group(0);
        command
    }

    pub(super) fn not_started(&self, source: std::io::Error) -> ExecError {
        let directory_is_there = self.directory.as_deref().is_none_or(std::path::Path::is_dir);
        if source.kind() == std::io::ErrorKind::NotFound && directory_is_there {
            return ExecError::NotFound { program: self.path.clone() };
        }
        ExecError::Spawn { argv: self.argv(), source }
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&String> = self.env.iter().map(|(name, _)| name).collect();
        f.debug_struct("Program")
            .field("argv", &self.argv())
            .field("env", &names)
            .field("directory", &self.directory)
            .field("input_bytes", &self.input().map(<[u8]>::len))
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}
