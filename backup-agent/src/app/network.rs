//! Sources that are reached over the network, out of their configuration.

use std::{path::Path, sync::Arc};

use homelab_common::tls::{Roots, ServerTrust, TrustHandle};

use super::{StartError, parts::Parts};
use crate::{
    ids::Name,
    source::{
        git::{
            GitSource, GitTools,
            config::{GitConfig, RemoteConfig},
            mirrors_of,
            remote::Remote,
        },
        opnsense::{
            OpnsenseSource,
            api::{Api, Credentials},
            config::{OpnsenseConfig, RedactedConfig, TrustConfig},
            publish::{Publication, Push},
            redact::paths::Paths,
        },
    },
};

/// Git, as every Debian has it.
const GIT: &str = "git";

/// Whatever takes longer at one commit and push is ended.
const PUBLISH_MAX: std::time::Duration = std::time::Duration::from_secs(300);

/// Repositories, with their mirrors below the state folder.
pub(super) fn git(
    parts: &Parts<'_>,
    backup: &Name,
    config: &GitConfig,
) -> Result<GitSource, StartError> {
    let second = config.push_to.as_ref();
    Ok(GitSource {
        remote: remote(backup, &config.remote)?,
        repositories: config.repositories.clone(),
        folder: mirrors_of(parts.state_dir, backup),
        push_to: second.map(|config| remote(backup, config)).transpose()?,
        wikis: config.wikis,
        tools: GitTools { git: config.git.clone(), deadline: config.run_max, ..tools(parts) },
    })
}

/// A firewall.
pub(super) fn opnsense(
    parts: &Parts<'_>,
    backup: &Name,
    config: &OpnsenseConfig,
) -> Result<OpnsenseSource, StartError> {
    let of = || format!("backup `{backup}`");
    let credentials = super::load(&config.credentials, of)?;
    let credentials = Credentials::parse(&credentials)
        .map_err(|source| StartError::ApiKey { of: of(), source })?;
    let trust = match &config.trust {
        TrustConfig::Key(pin) => ServerTrust::Key(*pin),
        TrustConfig::Root(path) => ServerTrust::Roots(TrustHandle::new(roots(path, of)?)),
    };
    let clock = Arc::clone(&parts.clock);
    let api = Api { address: config.address.clone(), trust, credentials, clock };
    let redacted = config.redacted.as_ref();
    Ok(OpnsenseSource {
        api,
        expected: config.expected.clone(),
        paths: Paths::with(config.secret_paths.clone(), config.public_paths.clone()),
        publication: redacted.map(|config| publication(parts, backup, config)).transpose()?,
        clock: Arc::clone(&parts.clock),
    })
}

fn publication(
    parts: &Parts<'_>,
    backup: &Name,
    config: &RedactedConfig,
) -> Result<Publication, StartError> {
    let push = match &config.push {
        Some((server, name)) => {
            let remote = remote(backup, server)?;
            Some(Push { url: remote.url(name), remote })
        }
        None => None,
    };
    Ok(Publication {
        tree: config.tree.clone(),
        file: config.file.clone(),
        author: config.author.clone(),
        push,
        tools: GitTools { deadline: PUBLISH_MAX, ..tools(parts) },
    })
}

fn tools(parts: &Parts<'_>) -> GitTools {
    GitTools {
        exec: Arc::clone(&parts.exec),
        clock: Arc::clone(&parts.clock),
        git: GIT.to_owned(),
        scratch: parts.scratch.clone(),
        deadline: PUBLISH_MAX,
    }
}

fn remote(backup: &Name, config: &RemoteConfig) -> Result<Remote, StartError> {
    let secret = |source| StartError::Secret { of: format!("backup `{backup}`"), source };
    config.open(homelab_common::secret::Source::load).map_err(secret)
}

fn roots(path: &Path, of: impl Fn() -> String) -> Result<Roots, StartError> {
    let read = std::fs::read_to_string(path)
        .map_err(|source| StartError::Folder { path: path.to_owned(), source })?;
    Roots::from_pem(&read).map_err(|source| StartError::Roots { of: of(), source })
}
