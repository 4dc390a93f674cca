//! Where documents come from, as the site file says.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use super::Glob;
use crate::{ids::SourceName, site::ProviderUrl};

/// The source that holds approved runbooks; always there.
pub const RUNBOOKS: &str = "runbooks";

crate::words! {
    /// Whether a job that carries passages of a source may leave the house. The stricter first.
    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    Leaves {
        /// It never does, whatever the rules of gold say.
        Never = "never",
        /// The rules of gold decide, and one of them must name the class `document`.
        ByRule = "by-rule",
    }
}

/// One source of documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContextSource {
    /// Name.
    pub name: SourceName,
    /// Where its documents are.
    pub origin: Origin,
    /// How often it is looked at.
    pub every: Duration,
    /// Whether what is found in it may leave the house.
    pub leaves: Leaves,
}

/// Where documents are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In a Git repository.
    Git(GitSource),
    /// In Wiki.js.
    Wiki(WikiSource),
}

/// Documents of a Git repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitSource {
    /// Where it is.
    pub place: GitPlace,
    /// Branch or tag, in full or short; `HEAD` is what the repository calls its main branch.
    pub reference: String,
    /// Files that are documents.
    pub files: Vec<Glob>,
    /// Where the token for an address of HTTPS is kept, if it wants one.
    pub token: Option<String>,
    /// Who the token belongs to.
    pub user: String,
    /// File with the CAs that may vouch for an address of HTTPS; none means those of the system.
    pub ca_file: Option<PathBuf>,
}

/// Pages of Wiki.js.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WikiSource {
    /// Where it is.
    pub url: ProviderUrl,
    /// Where its token is kept.
    pub token: String,
    /// File with the CAs that may vouch for it; none means those of the system.
    pub ca_file: Option<PathBuf>,
    /// Only pages whose path begins so.
    pub prefix: String,
    /// Only pages of this language; none takes all.
    pub locale: Option<String>,
}

/// Where a repository is. Anything else that Git can follow is refused: other protocols run programs.
#[derive(Clone, PartialEq, Eq)]
pub enum GitPlace {
    /// A folder of this host, bare or with a working tree.
    Folder(PathBuf),
    /// `https://git.home.arpa/me/homelab.git`.
    Https(ProviderUrl),
    /// `ssh://git@host:22/path`, with the key of the controller's own account.
    Ssh(String),
}

/// The text is no such place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an absolute path, https://HOST/PATH or ssh://USER@HOST/PATH, without a password: {0}")]
pub struct InvalidGitPlace(&'static str);

impl FromStr for GitPlace {
    type Err = InvalidGitPlace;

    fn from_str(text: &str) -> Result<Self, InvalidGitPlace> {
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(InvalidGitPlace("it holds a space or a control character"));
        }
        if text.starts_with('/') {
            return Ok(Self::Folder(text.into()));
        }
        if text.starts_with("https://") {
            let url = text.parse().map_err(|_| InvalidGitPlace("the address is not valid"))?;
            return Ok(Self::Https(url));
        }
        let rest = text.strip_prefix("ssh://").ok_or(InvalidGitPlace("no other form is read"))?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let fits = |c: char| c.is_ascii_alphanumeric() || "-._@:[]".contains(c);
        // A host that begins with a hyphen would be read as an option by ssh.
        let host = authority.rsplit('@').next().unwrap_or_default();
        let user = authority.split_once('@').map_or("", |(user, _)| user);
        if path.is_empty() || host.is_empty() || !authority.chars().all(fits) {
            return Err(InvalidGitPlace("the address is not valid"));
        }
        if host.starts_with('-') || user.starts_with('-') || user.contains(':') {
            return Err(InvalidGitPlace("the address is not valid"));
        }
        Ok(Self::Ssh(text.to_owned()))
    }
}

impl fmt::Display for GitPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(path) => path.display().fmt(f),
            Self::Https(url) => url.fmt(f),
            Self::Ssh(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for GitPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GitPlace({self})")
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Git(git) => write!(f, "git {} {}", git.place, git.reference),
            Self::Wiki(wiki) if wiki.prefix.is_empty() => write!(f, "wiki {}", wiki.url),
            Self::Wiki(wiki) => write!(f, "wiki {} {}", wiki.url, wiki.prefix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_runs_a_program_or_holds_a_password_is_refused() {
        for wrong in [
            "ext::sh -c id",
            "ext::id",
            "git://host/x",
            "http://host/x",
            "file:///srv/git",
            "https://me:secret@host/x",
            "ssh://me:secret@host/x",
            "ssh://-oProxyCommand=id/x",
            "ssh://host",
            "relative/path",
            "me@host:x",
            "--upload-pack=id",
        ] {
            assert!(wrong.parse::<GitPlace>().is_err(), "{wrong}");
        }
        for right in
            ["/srv/git/homelab.git", "https://git.home.arpa/me/x.git", "ssh://git@host:22/x"]
        {
            assert!(right.parse::<GitPlace>().is_ok(), "{right}");
        }
    }
}
