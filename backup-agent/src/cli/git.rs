//! `homelab-backup-agent git …`: mirrors back to a server, without daemon and controller.

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::{Args, Subcommand};
use homelab_common::{
    chance::SystemChance,
    clock::SystemClock,
    exec::SystemExec,
    secret::{SecretError, Source as SecretSource},
};

use crate::{
    config::Config,
    ids::{Name, RunId},
    source::git::{
        GitError, GitTools, PushedBack,
        config::{RemoteConfig, TOKEN_USER},
        mirrors_below, mirrors_of, push_back,
        remote::{Base, RepoName},
    },
};

/// A day: a first push of years goes over a slow line.
const PUSH_MAX: Duration = Duration::from_secs(24 * 3600);

/// What can be done with mirrors by hand.
#[derive(Debug, Subcommand)]
pub(super) enum GitCommand {
    /// Pushes mirrors to a new server: branches, tags, large files and wikis. The server
    /// must have the repositories, empty, or make them when they are pushed to.
    PushBack(PushBack),
}

/// What is pushed, and where.
#[derive(Debug, Args)]
pub(super) struct PushBack {
    /// The address below which the repositories are to be, such as `https://git.home.example/me`.
    #[arg(long, value_name = "URL")]
    to: Base,
    /// The backup whose mirrors on this host are pushed.
    #[arg(long, value_name = "NAME", required_unless_present = "mirrors")]
    backup: Option<Name>,
    /// A folder with mirrors, such as an extracted snapshot; needs no configuration.
    #[arg(long, value_name = "FOLDER", conflicts_with = "backup")]
    mirrors: Option<PathBuf>,
    /// The user that belongs to the token.
    #[arg(long, default_value = TOKEN_USER)]
    user: String,
    /// The file with the token.
    #[arg(long, value_name = "FILE")]
    token: Option<SecretSource>,
    /// The file with the private key, for an address with ssh://.
    #[arg(long, value_name = "FILE", requires = "known_hosts")]
    ssh_key: Option<SecretSource>,
    /// The file with the server's public keys, for an address with ssh://.
    #[arg(long, value_name = "FILE")]
    known_hosts: Option<PathBuf>,
    /// A file with the CA of the server.
    #[arg(long, value_name = "FILE")]
    tls_root: Option<PathBuf>,
    /// The repositories; all that have a mirror unless some are named.
    repositories: Vec<RepoName>,
}

/// Why nothing, or not everything, was pushed.
#[derive(Debug, thiserror::Error)]
pub(super) enum PushBackError {
    /// There is no such backup.
    #[error("there is no backup `{name}` in the configuration")]
    NoBackup {
        /// What was asked for.
        name: Name,
    },
    /// A secret cannot be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// Git failed.
    #[error(transparent)]
    Git(#[from] GitError),
}

impl PushBack {
    /// Whether the configuration has to be read.
    pub(super) const fn needs_config(&self) -> bool {
        self.mirrors.is_none()
    }

    /// Pushes; gives what to print.
    pub(super) async fn run(self, config: Option<&Config>) -> Result<String, PushBackError> {
        let folder = match (&self.mirrors, &self.backup, config) {
            (Some(folder), ..) => folder.clone(),
            (None, Some(name), Some(config)) => {
                if !config.backups.iter().any(|backup| backup.name == *name) {
                    return Err(PushBackError::NoBackup { name: name.clone() });
                }
                mirrors_of(&config.daemon.state_dir, name)
            }
            _ => PathBuf::new(),
        };
        let remote = RemoteConfig {
            base: self.to,
            user: self.user,
            token: self.token,
            ssh_key: self.ssh_key,
            known_hosts: self.known_hosts,
            tls_root: self.tls_root,
        };
        let remote = remote.open(SecretSource::load)?;
        let tools = GitTools {
            exec: Arc::new(SystemExec),
            clock: Arc::new(SystemClock),
            git: "git".to_owned(),
            scratch: std::env::temp_dir(),
            deadline: PUSH_MAX,
        };
        let run = RunId::generate(&SystemClock, &SystemChance);
        let names = match self.repositories {
            names if names.is_empty() => mirrors_below(&folder).await?,
            names => names,
        };
        let pushed = push_back(&tools, run, &folder, &names, &remote).await?;
        let line = |it: &PushedBack| {
            let (refs, large) = (it.refs, it.lfs_objects);
            format!("{} is equal at {}: {refs} refs, {large} large files\n", it.name, it.url)
        };
        Ok(pushed.iter().map(line).collect())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        command: GitCommand,
    }

    fn parse(words: &str) -> Result<PushBack, clap::Error> {
        let line = Line::try_parse_from(["x", "push-back"].into_iter().chain(words.split(' ')))?;
        let GitCommand::PushBack(push) = line.command;
        Ok(push)
    }

    #[test]
    fn either_a_backup_or_a_folder_says_what_is_pushed() {
        assert!(parse("--to https://h/me --backup github").expect("a line").needs_config());
        assert!(!parse("--to https://h/me --mirrors /srv/m a b").expect("a line").needs_config());
        for bad in [
            "--to https://h/me",
            "--to https://h/me --backup github --mirrors /m",
            "--backup github",
            "--to https://me:pw@h/me --backup github",
            "--to ssh://git@h/me --backup github --ssh-key /key",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_folder_without_mirrors_pushes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let line = format!("--to file:///nowhere --mirrors {}", folder.path().display());
        assert_eq!(parse(&line).expect("a line").run(None).await.expect("nothing"), "");
        let line = format!("--to file:///nowhere --mirrors {} gone", folder.path().display());
        let error = parse(&line).expect("a line").run(None).await.expect_err("no mirror");
        assert!(error.to_string().contains("there is no mirror"), "{error}");
    }
}
