//! The configuration of Git sources.

use std::{fmt, path::PathBuf, time::Duration};

use homelab_common::{
    config::{Section, parse},
    secret::{Secret, SecretError, Source as SecretSource},
};

use super::{
    Wikis,
    remote::{Base, Login, Remote, RepoName, Scheme},
};

/// The user that GitHub expects beside a token; others take any.
pub const TOKEN_USER: &str = "x-access-token";

/// A night.
const RUN_MAX: Duration = Duration::from_secs(12 * 3600);

/// Repositories to back up.
#[derive(Clone, Debug)]
pub struct GitConfig {
    /// Where they come from.
    pub remote: RemoteConfig,
    /// Which.
    pub repositories: Vec<RepoName>,
    /// The second hop.
    pub push_to: Option<RemoteConfig>,
    /// Whether wikis are mirrored too.
    pub wikis: Wikis,
    /// The program.
    pub git: String,
    /// Whatever takes longer is ended.
    pub run_max: Duration,
}

/// A place with repositories.
#[derive(Clone, Debug)]
pub struct RemoteConfig {
    /// Its address.
    pub base: Base,
    /// The user that belongs to the token.
    pub user: String,
    /// The token.
    pub token: Option<SecretSource>,
    /// The private key.
    pub ssh_key: Option<SecretSource>,
    /// The server's keys.
    pub known_hosts: Option<PathBuf>,
    /// Certificates to check the server's against.
    pub tls_root: Option<PathBuf>,
}

impl GitConfig {
    /// Reads the keys of a `[[backup]]`; problems go into the report.
    #[must_use]
    pub fn read(section: &Section<'_>) -> Option<Self> {
        let remote = RemoteConfig::read(section, "remote");
        let repositories =
            section.required_list("repositories", parse::text(str::parse::<RepoName>));
        let push_to = section.optional_table("push-to");
        let has_second = push_to.is_some();
        let push_to = push_to.and_then(|table| RemoteConfig::read(&table, "remote"));
        let wikis =
            if section.or("wikis", true, parse::bool) { Wikis::WhereTheyAre } else { Wikis::None };
        let git = section.or("git", "git".to_owned(), parse::string);
        let run_max = section.or("run-max", RUN_MAX, parse::duration);
        if has_second && push_to.is_none() {
            return None;
        }
        Some(Self { remote: remote?, repositories, push_to, wikis, git, run_max })
    }
}

impl RemoteConfig {
    /// Reads the keys of a remote, its address under `key`; problems go into the report.
    #[must_use]
    pub fn read(section: &Section<'_>, key: &str) -> Option<Self> {
        let base = section.required(key, parse::text(str::parse::<Base>));
        let user = section.or("user", TOKEN_USER.to_owned(), parse::string);
        let token = section.optional("token", parse::secret_source);
        let ssh_key = section.optional("ssh-key", parse::secret_source);
        let known_hosts = section.optional("known-hosts", parse::path);
        let tls_root = section.optional("tls-root", parse::path);
        let base = base?;
        let is_ssh = base.scheme() == Scheme::Ssh;
        if is_ssh && ssh_key.is_none() {
            section.problem("ssh-key", "a file with the private key, for an address with ssh://");
        }
        if is_ssh && known_hosts.is_none() {
            let what = "a file with the server's public keys, for an address with ssh://; fill it \
                        from `ssh-keyscan HOST` and compare it with what the server's owner says";
            section.problem("known-hosts", what);
        }
        if is_ssh && token.is_some() {
            section.problem("token", "nothing, for an address with ssh://");
        }
        Some(Self { base, user, token, ssh_key, known_hosts, tls_root })
    }

    /// With its secrets.
    ///
    /// # Errors
    ///
    /// A secret cannot be read.
    pub fn open(
        &self,
        load: impl Fn(&SecretSource) -> Result<Secret<String>, SecretError>,
    ) -> Result<Remote, SecretError> {
        let login = match (&self.token, &self.ssh_key, &self.known_hosts) {
            (Some(token), ..) => Login::Token { user: self.user.clone(), token: load(token)? },
            (None, Some(key), Some(known_hosts)) => {
                Login::Ssh { key: load(key)?, known_hosts: known_hosts.clone() }
            }
            _ => Login::None,
        };
        Ok(Remote { base: self.base.clone(), login, tls_root: self.tls_root.clone() })
    }
}

impl fmt::Display for GitConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.remote)?;
        let names: Vec<&str> = self.repositories.iter().map(RepoName::as_str).collect();
        writeln!(f, "repositories = {names:?}\nwikis = {}", self.wikis != Wikis::None)?;
        writeln!(f, "git = \"{}\"", self.git)?;
        writeln!(f, "run-max = \"{}\"", parse::show_duration(self.run_max))?;
        match &self.push_to {
            Some(second) => write!(f, "[backup.push-to]\n{second}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for RemoteConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "remote = \"{}\"", self.base)?;
        if let Some(token) = &self.token {
            writeln!(f, "user = \"{}\"\ntoken = \"{token}\"", self.user)?;
        }
        if let Some(key) = &self.ssh_key {
            writeln!(f, "ssh-key = \"{key}\"")?;
        }
        if let Some(known) = &self.known_hosts {
            writeln!(f, "known-hosts = \"{}\"", known.display())?;
        }
        match &self.tls_root {
            Some(root) => writeln!(f, "tls-root = \"{}\"", root.display()),
            None => Ok(()),
        }
    }
}
