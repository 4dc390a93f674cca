//! From a mirror to another server: the second hop, and back to a new one.

use std::path::Path;

use super::{
    GitError,
    command::{Git, GitTools},
    lfs,
    mirror::{Mirror, holdings},
    refs::{self, Advertised, Refs},
    remote::{Remote, RepoName},
};
use crate::ids::RunId;

/// What a push may do to a ref that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overwrite {
    /// Only add to it: what is there belongs to somebody.
    Never,
    /// Follow upstream; what it drops is pushed under `kept/` before.
    AfterKeeping,
}

/// A repository that was pushed, its refs there shown to be equal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushedBack {
    /// The repository.
    pub name: String,
    /// Where it is now.
    pub url: String,
    /// Branches and tags.
    pub refs: u64,
    /// Large files.
    pub lfs_objects: u64,
}

/// Pushes a mirror and shows by `git ls-remote` that every branch and tag is there.
pub(crate) async fn push(
    mirror: &Mirror<'_>,
    overwrite: Overwrite,
) -> Result<PushedBack, GitError> {
    let Mirror { git, path, url, .. } = mirror;
    let (upstream, kept) = holdings(git, path).await?;
    let wanted = heads_and_tags(&upstream);
    let there = target(mirror).await?;
    if overwrite == Overwrite::Never {
        refuse_foreign(mirror, &wanted, &there.refs).await?;
    }
    if overwrite == Overwrite::AfterKeeping {
        push_kept(mirror, &kept, &there.refs).await?;
    }
    let pointers = lfs::audit(path, lfs::pointers(git, path).await?).await?.present;
    if !pointers.is_empty() {
        if !git.has_lfs().await {
            return Err(GitError::NoLfs { name: mirror.name.clone() });
        }
        lfs::push(git, path, url, &pointers).await.map_err(|error| error.explained(url))?;
    }
    let force = if overwrite == Overwrite::AfterKeeping { "+" } else { "" };
    let specs: Vec<String> = ["heads", "tags"]
        .iter()
        .filter(|kind| wanted.keys().any(|name| name.starts_with(&format!("{kind}/"))))
        .map(|kind| format!("{force}refs/upstream/{kind}/*:refs/{kind}/*"))
        .collect();
    send(mirror, &specs).await?;
    let found = target(mirror).await?.refs;
    let missing = |(name, id): &(&String, &String)| found.get(*name) != Some(id);
    let differing: Refs =
        wanted.iter().filter(missing).map(|(name, id)| (name.clone(), id.clone())).collect();
    if !differing.is_empty() {
        let found = found.into_iter().filter(|(name, _)| differing.contains_key(name)).collect();
        let differences = refs::differences(&mirror.name, &differing, &found, 5).join("; ");
        return Err(GitError::NotEqual { name: mirror.name.clone(), differences });
    }
    Ok(PushedBack {
        name: mirror.name.clone(),
        url: url.clone(),
        refs: wanted.len() as u64,
        lfs_objects: pointers.len() as u64,
    })
}

/// Pushes every mirror below `folder` to a new server: branches, tags, large files
/// and wikis. The server must have the repositories or make them when they are
/// pushed to (Gitea and Forgejo: `ENABLE_PUSH_CREATE_USER`).
///
/// # Errors
///
/// The first repository that is not equal there afterwards, with those that are.
pub async fn push_back(
    tools: &GitTools,
    run: RunId,
    folder: &Path,
    names: &[RepoName],
    to: &Remote,
) -> Result<Vec<PushedBack>, GitError> {
    let git = Git::reaching(tools, run, to)?;
    let mirrors = mirrors(&git, tools, folder, names, to)?;
    look_at(&mirrors).await?;
    let mut pushed = Vec::new();
    for mirror in &mirrors {
        pushed.push(push(mirror, Overwrite::Never).await?);
    }
    Ok(pushed)
}

/// Looks whether every mirror could be pushed: the server answers, and has nothing of somebody else's.
///
/// # Errors
///
/// The first repository that could not be pushed there.
pub async fn inspect(
    tools: &GitTools,
    run: RunId,
    folder: &Path,
    names: &[RepoName],
    to: &Remote,
) -> Result<(), GitError> {
    let git = Git::reaching(tools, run, to)?;
    look_at(&mirrors(&git, tools, folder, names, to)?).await
}

async fn look_at(mirrors: &[Mirror<'_>]) -> Result<(), GitError> {
    for mirror in mirrors {
        let (upstream, _) = holdings(mirror.git, &mirror.path).await?;
        let there = target(mirror).await?;
        refuse_foreign(mirror, &heads_and_tags(&upstream), &there.refs).await?;
    }
    Ok(())
}

/// The mirrors of these names, each with its wiki where it has one.
fn mirrors<'a>(
    git: &'a Git,
    tools: &'a GitTools,
    folder: &Path,
    names: &[RepoName],
    to: &Remote,
) -> Result<Vec<Mirror<'a>>, GitError> {
    let mut found = Vec::new();
    for name in names {
        let path = folder.join(format!("{name}.git"));
        let own = Mirror { git, tools, name: name.to_string(), path, url: to.url(name) };
        if !own.exists() {
            return Err(GitError::NoMirror { path: own.path });
        }
        found.push(own);
        let (path, url) = (folder.join(format!("{name}.wiki.git")), to.wiki_url(name));
        let wiki = Mirror { git, tools, name: format!("{name} (wiki)"), path, url };
        found.extend(Some(wiki).filter(Mirror::exists));
    }
    Ok(found)
}

/// What is there must be from an earlier push: of a branch or tag of ours, and a commit that we have.
async fn refuse_foreign(mirror: &Mirror<'_>, wanted: &Refs, there: &Refs) -> Result<(), GitError> {
    for (name, id) in there.iter().filter(|(name, _)| is_pushed(name)) {
        let is_ours = match wanted.get(name) {
            None => false,
            Some(own) if own == id => true,
            Some(_) => {
                let known = ["cat-file", "-e", id.as_str()];
                mirror.git.ask(&mirror.path, known, 1).await? == 0
            }
        };
        if !is_ours {
            return Err(GitError::NotEmpty { url: mirror.url.clone(), name: name.clone() });
        }
    }
    Ok(())
}

/// What the target has; nothing where it has no such repository yet.
async fn target(mirror: &Mirror<'_>) -> Result<Advertised, GitError> {
    Ok(mirror.advertised().await?.unwrap_or_default())
}

/// What upstream dropped goes under `kept/`, as branches and tags that every server shows.
async fn push_kept(mirror: &Mirror<'_>, kept: &Refs, there: &Refs) -> Result<(), GitError> {
    let place = |name: &str| {
        let (folder, rest) = name.split_once('/')?;
        let (kind, rest) = rest.split_once('/')?;
        ["heads", "tags"].contains(&kind).then(|| format!("{kind}/kept/{folder}/{rest}"))
    };
    let specs: Vec<String> = kept
        .keys()
        .filter_map(|name| Some((name, place(name)?)))
        .filter(|(_, place)| !there.contains_key(place))
        .map(|(name, place)| format!("refs/kept/{name}:refs/{place}"))
        .collect();
    send(mirror, &specs).await
}

async fn send(mirror: &Mirror<'_>, specs: &[String]) -> Result<(), GitError> {
    // By and by: names are arguments, and there may be many.
    for batch in specs.chunks(200) {
        let mut args = vec!["push", "--quiet", "--no-verify", "--", &mirror.url];
        args.extend(batch.iter().map(String::as_str));
        let sent = mirror.git.run(&mirror.path, args).await;
        sent.map_err(|error| error.explained(&mirror.url))?;
    }
    Ok(())
}

fn is_pushed(name: &str) -> bool {
    name.starts_with("heads/") || name.starts_with("tags/")
}

fn heads_and_tags(refs: &Refs) -> Refs {
    refs.iter()
        .filter(|(name, _)| is_pushed(name))
        .map(|(name, id)| (name.clone(), id.clone()))
        .collect()
}
