//! How git is run: with settings of our own and nothing else.
//!
//! Neither the system's nor a user's settings count, no hook runs, no prompt waits,
//! and one transport alone is open. The login goes into files that only we may read
//! and that are gone after the run: never into arguments, never into the
//! environment. Git itself hands the names of these two files (`credential-store`,
//! `ssh -F`) to a shell; they are paths that we made, of letters and digits.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use homelab_common::{
    clock::Clock,
    exec::{Exec, ExecError, Output, Program},
};

use super::{
    GitError,
    remote::{Login, Remote, Scheme},
};
use crate::{ids::RunId, source::postgres::access::PrivateFolder};

/// The most that one answer may hold: a million refs.
const ANSWER_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// What running git takes.
#[derive(Clone, Debug)]
pub struct GitTools {
    /// Runs it.
    pub exec: Arc<dyn Exec>,
    /// Names what is kept after the moment.
    pub clock: Arc<dyn Clock>,
    /// The program, by path or by name.
    pub git: String,
    /// A private folder for logins, emptied at every start.
    pub scratch: PathBuf,
    /// Whatever takes longer is ended.
    pub deadline: Duration,
}

/// Git, able to reach one remote for as long as this value lives.
#[derive(Debug)]
pub(crate) struct Git {
    tools: GitTools,
    folder: PrivateFolder,
    ssh: bool,
}

impl Git {
    /// Git that reaches no remote but folders.
    pub(crate) fn local(tools: &GitTools, run: RunId) -> Result<Self, GitError> {
        Self::open(tools, run, None)
    }

    /// Git that reaches `remote`.
    pub(crate) fn reaching(
        tools: &GitTools,
        run: RunId,
        remote: &Remote,
    ) -> Result<Self, GitError> {
        Self::open(tools, run, Some(remote))
    }

    fn open(tools: &GitTools, run: RunId, remote: Option<&Remote>) -> Result<Self, GitError> {
        let failed = |source| GitError::Scratch { path: tools.scratch.clone(), source };
        let folder = PrivateFolder::make(&tools.scratch, run).map_err(failed)?;
        if !folder.path().to_string_lossy().chars().all(is_plain) {
            return Err(failed(io::Error::other("its path needs quoting in a shell")));
        }
        let settings = settings(folder.path(), remote);
        write_private(&folder.path().join("gitconfig"), &settings).map_err(failed)?;
        let ssh = match remote {
            Some(remote) => write_login(folder.path(), remote).map_err(failed)?,
            None => false,
        };
        Ok(Self { tools: tools.clone(), folder, ssh })
    }

    /// A call of git, `directory` being its repository.
    pub(crate) fn program<'a>(
        &self,
        directory: &Path,
        args: impl IntoIterator<Item = &'a str>,
    ) -> Program {
        let home = self.folder.path().display().to_string();
        let program = Program::new(self.tools.git.clone())
            .args(args)
            .directory(directory)
            .env("HOME", home.clone())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", format!("{home}/gitconfig"))
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("LC_ALL", "C")
            .deadline(self.tools.deadline)
            .output_bytes_max(ANSWER_BYTES_MAX);
        if self.ssh {
            return program
                .env("GIT_SSH_COMMAND", format!("ssh -F {home}/ssh_config"))
                .env("GIT_SSH_VARIANT", "ssh");
        }
        program
    }

    /// Runs git in a repository; gives what it printed.
    pub(crate) async fn run<'a>(
        &self,
        directory: &Path,
        args: impl IntoIterator<Item = &'a str>,
    ) -> Result<String, GitError> {
        self.output(self.program(directory, args)).await.map(|output| text(&output))
    }

    /// Runs git with an input.
    pub(crate) async fn feed<'a>(
        &self,
        directory: &Path,
        args: impl IntoIterator<Item = &'a str>,
        input: String,
    ) -> Result<Vec<u8>, GitError> {
        let program = self.program(directory, args).stdin(input);
        self.output(program).await.map(|output| output.stdout)
    }

    /// Runs git, accepting a second exit code besides 0; gives the code.
    pub(crate) async fn ask<'a>(
        &self,
        directory: &Path,
        args: impl IntoIterator<Item = &'a str>,
        other: i32,
    ) -> Result<i32, GitError> {
        let program = self.program(directory, args).accept([0, other]);
        self.output(program).await.map(|output| output.code)
    }

    pub(crate) async fn output(&self, program: Program) -> Result<Output, GitError> {
        self.tools.exec.run(program).await.map_err(GitError::Tool)
    }

    /// Whether `git lfs` can be run.
    pub(crate) async fn has_lfs(&self) -> bool {
        let program = self.program(self.folder.path(), ["lfs", "version"]);
        self.tools.exec.run(program).await.is_ok()
    }
}

pub(crate) fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Why a remote was not reached, as far as git's words tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// It has no such repository, or does not show it to us.
    Gone,
    /// It does not know us, or not any more.
    Login,
    /// The server has another key than the one that is known.
    HostKey,
    /// Anything else.
    Other,
}

impl Cause {
    /// Of a failed call. Git has one exit code for all of it, so that its words
    /// count; they are asked for in English.
    pub(crate) fn of(error: &ExecError) -> Self {
        let ExecError::Exit { stderr_tail, .. } = error else { return Self::Other };
        let said = stderr_tail.to_lowercase();
        let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
        if says(&["host key verification failed", "remote host identification has changed"]) {
            Self::HostKey
        } else if says(&[
            "authentication failed",
            "could not read username",
            "could not read password",
            "terminal prompts disabled",
            "permission denied (publickey",
            "returned error: 401",
            "returned error: 403",
            "invalid username or password",
        ]) {
            Self::Login
        } else if says(&[
            "not found",
            "returned error: 404",
            "returned error: 410",
            "does not appear to be a git repository",
            "does not exist",
        ]) && !says(&["could not resolve host"])
        {
            Self::Gone
        } else {
            Self::Other
        }
    }
}

fn settings(folder: &Path, remote: Option<&Remote>) -> String {
    let folder = folder.display();
    let scheme = remote.map_or(Scheme::File, |remote| remote.base.scheme()).as_str();
    let mut settings = format!(
        "[core]\n\thooksPath = /dev/null\n\tlogAllRefUpdates = always\n\tfsync = committed\n\
         \taskPass =\n\tattributesFile = /dev/null\n\texcludesFile = /dev/null\n\
         [gc]\n\tauto = 0\n\tpruneExpire = never\n\treflogExpire = never\n\
         \treflogExpireUnreachable = never\n\
         [maintenance]\n\tauto = false\n\
         [receive]\n\tautogc = false\n\
         [fetch]\n\trecurseSubmodules = false\n\twriteCommitGraph = false\n\tunpackLimit = 1\n\
         [push]\n\trecurseSubmodules = no\n\
         [http]\n\tfollowRedirects = initial\n\tlowSpeedLimit = 100\n\tlowSpeedTime = 120\n\
         [safe]\n\tdirectory = *\n\
         [lfs]\n\tlocksverify = false\n\tdialtimeout = 30\n\ttlstimeout = 30\n\
         [user]\n\tname = homelab-backup-agent\n\temail = homelab-backup-agent@localhost\n\
         [protocol]\n\tallow = never\n[protocol \"{scheme}\"]\n\tallow = always\n\
         [protocol \"ext\"]\n\tallow = never\n"
    );
    if let Some(Remote { login: Login::Token { .. }, .. }) = remote {
        settings += &format!("[credential]\n\thelper = store --file={folder}/credentials\n");
    }
    if let Some(root) = remote.and_then(|remote| remote.tls_root.as_ref()) {
        settings += &format!("[http]\n\tsslCAInfo = \"{}\"\n", quoted(root));
    }
    settings
}

/// Inside the double quotes of a git setting.
fn quoted(path: &Path) -> String {
    path.display().to_string().replace('\\', "\\\\").replace('"', "\\\"")
}

/// Writes what the login needs; tells whether it goes by SSH.
fn write_login(folder: &Path, remote: &Remote) -> io::Result<bool> {
    match &remote.login {
        Login::None => Ok(false),
        Login::Token { user, token } => {
            let Some((scheme, host)) = remote.base.origin() else { return Ok(false) };
            let (user, token) = (percent(user), percent(token.expose()));
            let line = format!("{scheme}://{user}:{token}@{host}\n");
            write_private(&folder.join("credentials"), &line)?;
            Ok(false)
        }
        Login::Ssh { key, known_hosts } => {
            let key = key.expose().trim_end();
            write_private(&folder.join("ssh_key"), &format!("{key}\n"))?;
            let known = std::fs::read_to_string(known_hosts)?;
            write_private(&folder.join("known_hosts"), &known)?;
            write_private(&folder.join("ssh_config"), &ssh_config(folder))?;
            Ok(true)
        }
    }
}

/// Only the given key is shown, and only to a server with a known key: a changed
/// key is refused and never learned (ssh_config(5)).
fn ssh_config(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "Host *\n  IdentityFile {folder}/ssh_key\n  IdentitiesOnly yes\n  BatchMode yes\n\
         \x20 StrictHostKeyChecking yes\n  UpdateHostKeys no\n\
         \x20 UserKnownHostsFile {folder}/known_hosts\n  GlobalKnownHostsFile /dev/null\n\
         \x20 PasswordAuthentication no\n  KbdInteractiveAuthentication no\n\
         \x20 ForwardAgent no\n  ConnectTimeout 20\n  ServerAliveInterval 30\n\
         \x20 ServerAliveCountMax 4\n"
    )
}

/// As a URL wants it (RFC 3986, unreserved characters alone).
fn percent(text: &str) -> String {
    let one = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    text.bytes().map(one).collect()
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "/._-".contains(c)
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use homelab_common::exec::{
        Program,
        fake::{Answer, FakeExec},
    };

    use super::*;

    async fn cause(stderr: &str) -> Cause {
        let exec = FakeExec::default().on("git", Answer::exit(128, stderr));
        Cause::of(&exec.run(Program::new("git")).await.expect_err("a failure"))
    }

    #[tokio::test]
    async fn gone_and_locked_out_are_told_apart() {
        for (said, expected) in [
            ("fatal: repository 'https://h/x.git/' not found", Cause::Gone),
            (
                "ERROR: Repository not found.\nfatal: Could not read from remote repository.",
                Cause::Gone,
            ),
            ("fatal: '/srv/x.git' does not appear to be a git repository", Cause::Gone),
            ("fatal: Authentication failed for 'https://h/x.git/'", Cause::Login),
            (
                "fatal: could not read Username for 'https://h': terminal prompts disabled",
                Cause::Login,
            ),
            ("error: The requested URL returned error: 403", Cause::Login),
            ("git@h: Permission denied (publickey).", Cause::Login),
            ("Host key verification failed.", Cause::HostKey),
            ("fatal: unable to access 'https://h/': Could not resolve host: h", Cause::Other),
            ("fatal: the remote end hung up unexpectedly", Cause::Other),
        ] {
            assert_eq!(cause(said).await, expected, "{said}");
        }
    }

    #[test]
    fn a_token_cannot_break_out_of_its_line() {
        assert_eq!(percent("a:b@c/\n%"), "a%3Ab%40c%2F%0A%25");
    }
}
