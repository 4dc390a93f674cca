//! The configuration of OPNsense sources.

use std::{fmt, path::PathBuf};

use homelab_common::{
    config::{Section, parse},
    secret::Source as SecretSource,
    tls::SpkiPin,
};

use super::{
    api::Address,
    manifest::Expected,
    publish::{Author, is_below},
    redact::paths::Pattern,
};
use crate::source::git::{config::RemoteConfig, remote::RepoName};

/// A firewall to back up.
#[derive(Clone, Debug)]
pub struct OpnsenseConfig {
    /// Where it answers.
    pub address: Address,
    /// The file with key and secret of the API.
    pub credentials: SecretSource,
    /// How it is known.
    pub trust: TrustConfig,
    /// What its owner says that must be there.
    pub expected: Expected,
    /// Paths that are secret besides those we know.
    pub secret_paths: Vec<Pattern>,
    /// Paths that look secret and are not.
    pub public_paths: Vec<Pattern>,
    /// The redacted copy.
    pub redacted: Option<RedactedConfig>,
}

/// How a firewall is known.
#[derive(Clone, Debug)]
pub enum TrustConfig {
    /// By the key of its certificate.
    Key(SpkiPin),
    /// By a CA, in this file.
    Root(PathBuf),
}

/// The redacted copy.
#[derive(Clone, Debug)]
pub struct RedactedConfig {
    /// A Git working tree.
    pub tree: PathBuf,
    /// The file in it.
    pub file: PathBuf,
    /// Who commits.
    pub author: Author,
    /// Where it is pushed: a server and a repository there.
    pub push: Option<(RemoteConfig, RepoName)>,
}

impl OpnsenseConfig {
    /// Reads the keys of a `[[backup]]`; problems go into the report.
    #[must_use]
    pub fn read(section: &Section<'_>) -> Option<Self> {
        let address = section.required("url", parse::text(str::parse::<Address>));
        let credentials = section.required("credentials", parse::secret_source);
        let key = section.optional("tls-key", parse::text(str::parse::<SpkiPin>));
        let root = section.optional("tls-root", parse::path);
        if section.has("tls-key") == section.has("tls-root") {
            let what = "either `tls-key`, the hash of the certificate's key that `openssl` shows, \
                        or `tls-root`, a file with the CA";
            section.problem("tls-key", what);
        }
        let trust = match (key, root) {
            (Some(key), _) => Some(TrustConfig::Key(key)),
            (None, root) => root.map(TrustConfig::Root),
        };
        let pattern = parse::text(str::parse::<Pattern>);
        let secret_paths = section.list("secret-paths", &pattern);
        let public_paths = section.list("public-paths", &pattern);
        let expected = Expected {
            host: section.optional("expect-host", parse::string),
            interfaces: section.list("expect-interfaces", parse::string),
            vlans: section.list("expect-vlans", parse::integer(1..=4094)),
        };
        let table = section.optional_table("redacted");
        let wanted = table.is_some();
        let redacted = table.and_then(|table| RedactedConfig::read(&table));
        if wanted && redacted.is_none() {
            return None;
        }
        Some(Self {
            address: address?,
            credentials: credentials?,
            trust: trust?,
            expected,
            secret_paths,
            public_paths,
            redacted,
        })
    }
}

impl RedactedConfig {
    fn read(section: &Section<'_>) -> Option<Self> {
        let tree = section.required("tree", parse::path);
        let file = section.or("file", "opnsense/config.xml".into(), |value| {
            let path = parse::string(value).map(PathBuf::from)?;
            let what = "a path below the tree, such as \"opnsense/config.xml\"";
            is_below(&path)
                .then_some(path)
                .ok_or_else(|| homelab_common::config::Allowed::new(what))
        });
        let author = Author {
            name: section.or("author", "homelab-backup-agent".to_owned(), parse::string),
            mail: section.or("mail", "homelab-backup-agent@localhost".to_owned(), parse::string),
        };
        let push = section.optional_table("push");
        let wanted = push.is_some();
        let push = push.and_then(|table| {
            let remote = RemoteConfig::read(&table, "remote");
            let name = table.required("repository", parse::text(str::parse::<RepoName>));
            Some((remote?, name?))
        });
        if wanted && push.is_none() {
            return None;
        }
        Some(Self { tree: tree?, file, author, push })
    }
}

impl fmt::Display for OpnsenseConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "url = \"{}\"\ncredentials = \"{}\"", self.address, self.credentials)?;
        match &self.trust {
            TrustConfig::Key(pin) => writeln!(f, "tls-key = \"{pin}\"")?,
            TrustConfig::Root(path) => writeln!(f, "tls-root = \"{}\"", path.display())?,
        }
        if let Some(host) = &self.expected.host {
            writeln!(f, "expect-host = \"{host}\"")?;
        }
        writeln!(f, "expect-interfaces = {:?}", self.expected.interfaces)?;
        writeln!(f, "expect-vlans = {:?}", self.expected.vlans)?;
        let lists = [("secret-paths", &self.secret_paths), ("public-paths", &self.public_paths)];
        for (name, paths) in lists {
            let paths: Vec<String> = paths.iter().map(Pattern::to_string).collect();
            writeln!(f, "{name} = {paths:?}")?;
        }
        let Some(redacted) = &self.redacted else { return Ok(()) };
        writeln!(f, "[backup.redacted]\ntree = \"{}\"", redacted.tree.display())?;
        writeln!(f, "file = \"{}\"", redacted.file.display())?;
        let Author { name, mail } = &redacted.author;
        writeln!(f, "author = \"{name}\"\nmail = \"{mail}\"")?;
        match &redacted.push {
            Some((remote, name)) => {
                write!(f, "[backup.redacted.push]\nrepository = \"{name}\"\n{remote}")
            }
            None => Ok(()),
        }
    }
}
