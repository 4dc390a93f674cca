//! Where repositories come from and go to.

use std::{fmt, path::PathBuf, str::FromStr};

use homelab_common::secret::Secret;

/// The name of a repository below its remote, such as `homelab-proxmox` or
/// `owner/project`, without `.git`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RepoName(String);

/// The text is no name of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a repository such as \"project\" or \"owner/project\", without `.git`")]
pub struct InvalidRepoName;

impl FromStr for RepoName {
    type Err = InvalidRepoName;

    fn from_str(text: &str) -> Result<Self, InvalidRepoName> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let is_name = |part: &str| {
            !part.is_empty() && part.chars().any(|c| c != '.') && part.chars().all(plain)
        };
        let ends_well = [".git", ".wiki"].iter().all(|end| !text.ends_with(end));
        if text.len() > 200 || text.starts_with('-') || !ends_well || !text.split('/').all(is_name)
        {
            return Err(InvalidRepoName);
        }
        Ok(Self(text.to_owned()))
    }
}

impl RepoName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RepoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a remote is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// `https://`.
    Https,
    /// `http://`, to this very host alone: nothing protects a token on the way.
    Http,
    /// `ssh://`.
    Ssh,
    /// `file://`: a folder, for mirrors on a mounted disk.
    File,
}

impl Scheme {
    /// What git calls it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Http => "http",
            Self::Ssh => "ssh",
            Self::File => "file",
        }
    }
}

/// The address below which repositories are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    scheme: Scheme,
    text: String,
}

/// The text is no address of a remote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an address such as \"https://github.com/OWNER\", \"ssh://git@github.com/OWNER\" or \
     \"file:///srv/git\", without a password; \"http://\" only to 127.0.0.1 or localhost"
)]
pub struct InvalidBase;

impl FromStr for Base {
    type Err = InvalidBase;

    fn from_str(text: &str) -> Result<Self, InvalidBase> {
        let text = text.trim_end_matches('/');
        let (scheme, rest) = text.split_once("://").ok_or(InvalidBase)?;
        let scheme = match scheme {
            "https" => Scheme::Https,
            "http" => Scheme::Http,
            "ssh" => Scheme::Ssh,
            "file" => Scheme::File,
            _ => return Err(InvalidBase),
        };
        let host = rest.split('/').next().unwrap_or_default();
        let (login, host) = host.rsplit_once('@').unwrap_or(("", host));
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let fits = match scheme {
            Scheme::File => rest.starts_with('/'),
            Scheme::Ssh => !host.is_empty() && !host.starts_with('-') && !login.contains(':'),
            Scheme::Https => !host.is_empty() && login.is_empty(),
            Scheme::Http => ["127.0.0.1", "localhost", "[::1]"].contains(&name) && login.is_empty(),
        };
        let plain = |c: char| c.is_ascii_graphic() && !"'\"\\`$?#".contains(c);
        if !fits || !text.chars().all(plain) {
            return Err(InvalidBase);
        }
        Ok(Self { scheme, text: text.to_owned() })
    }
}

impl Base {
    /// How it is spoken to.
    #[must_use]
    pub const fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Whether both are on one server, reached in the same way.
    #[must_use]
    pub fn is_at_same_origin(&self, other: &Self) -> bool {
        self.scheme != Scheme::File && self.origin() == other.origin()
    }

    /// The address up to the path, as credentials are bound to it.
    pub(super) fn origin(&self) -> Option<(&str, &str)> {
        let (scheme, rest) = self.text.split_once("://")?;
        Some((scheme, rest.split('/').next()?))
    }
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// How we show who we are.
#[derive(Clone, Debug)]
pub enum Login {
    /// Not at all.
    None,
    /// With a token, by HTTP.
    Token {
        /// The user that belongs to it; GitHub wants `x-access-token`.
        user: String,
        /// The token.
        token: Secret<String>,
    },
    /// With a key, by SSH, to a server whose keys are known.
    Ssh {
        /// The private key.
        key: Secret<String>,
        /// The server's keys, in the form of `known_hosts`. Only they count, and a
        /// server with another key is refused.
        known_hosts: PathBuf,
    },
}

/// A place with repositories.
#[derive(Clone, Debug)]
pub struct Remote {
    /// Its address.
    pub base: Base,
    /// How we show who we are.
    pub login: Login,
    /// Certificates to check the server's against, instead of the system's.
    pub tls_root: Option<PathBuf>,
}

impl Remote {
    /// The address of a repository there.
    #[must_use]
    pub fn url(&self, name: &RepoName) -> String {
        format!("{}/{name}.git", self.base)
    }

    /// The address of a repository's wiki.
    #[must_use]
    pub fn wiki_url(&self, name: &RepoName) -> String {
        format!("{}/{name}.wiki.git", self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_lead_out_of_their_folder() {
        for good in ["a", "owner/project", ".github", "a.b-c_d"] {
            assert!(good.parse::<RepoName>().is_ok(), "{good}");
        }
        for bad in ["", "/a", "a/", "..", "a/../b", "-a", "a.git", "a.wiki", "a b", "a\n"] {
            assert_eq!(bad.parse::<RepoName>(), Err(InvalidRepoName), "{bad}");
        }
    }

    #[test]
    fn addresses_hold_no_passwords_and_no_tricks() {
        for good in [
            "https://github.com/me",
            "ssh://git@github.com/me",
            "ssh://git@[::1]:2222/me",
            "file:///srv/git",
            "http://127.0.0.1:3000/me",
            "https://git.home.example:8443",
        ] {
            assert_eq!(good.parse::<Base>().expect("an address").to_string(), good);
        }
        for bad in [
            "http://git.home.example/me",
            "https://me:pw@github.com",
            "ssh://a:b@h/x",
            "file://srv",
            "ext::sh -c id",
            "https://",
            "git://h/x",
            "ssh://-oProxyCommand=x/y",
            "/srv/git",
            "https://h/$(id)",
        ] {
            assert_eq!(bad.parse::<Base>(), Err(InvalidBase), "{bad}");
        }
    }
}
