//! Git repositories of a forge, as mirrors that remember.
//!
//! Three hops: from the forge into bare mirrors of our own (`mirror`), from there
//! to a second server if one is declared ([`push`]), and all mirrors as one archive
//! into the repository. A plain mirror is no backup: it follows a force push and a
//! deletion at once. Ours keeps what upstream drops, for ever, and says so.
//!
//! A repository that is gone upstream (404) keeps its mirror and raises an alarm; a
//! login that is refused (401) fails the run, because then nothing is known of any
//! repository.

mod command;
pub mod config;
mod examine;
mod lfs;
pub mod manifest;
mod mirror;
pub mod push;
pub mod refs;
pub mod remote;
#[cfg(test)]
mod tests;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use homelab_common::{error_chain::Chain, exec::ExecError};
use homelab_rpc::status::Reason;
use jiff::Timestamp;

use super::{Capture, Context, Source, SourceError, SourceFailure};
use crate::{
    blocking, failure,
    ids::{Name, RunId},
    manifest::{Contents, FILE_NAME as MANIFEST, FORMAT, Manifest, WARNINGS_MAX},
    repository::{Incoming, SourceKind, StoredFile},
    stream::{Later, Measured, StreamError},
    tree::{self, Changing, CompareError, ExtractError, Packed, Root, Rules},
};
pub(crate) use command::Git;
pub use command::GitTools;
pub use examine::{examine, next_steps};
use manifest::{GitContents, MirrorContents, MirrorState, Pushed};
use mirror::{Mirror, Refreshed};
use push::Overwrite;
pub use push::{PushedBack, inspect, push_back};
use remote::{Remote, RepoName};

/// The archive of all mirrors, in every snapshot.
pub const ARCHIVE_FILE: &str = "repositories.tar";

/// Missing large files that a manifest names.
const MISSING_MAX: usize = 100;

/// Repositories to back up.
#[derive(Debug)]
pub struct GitSource {
    /// Where they come from.
    pub remote: Remote,
    /// Which.
    pub repositories: Vec<RepoName>,
    /// Where the mirrors are kept.
    pub folder: PathBuf,
    /// The second hop.
    pub push_to: Option<Remote>,
    /// Whether wikis are mirrored too.
    pub wikis: Wikis,
    /// What runs and where.
    pub tools: GitTools,
}

/// Whether wikis are mirrored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wikis {
    /// Of each repository that has one.
    #[default]
    WhereTheyAre,
    /// None: saves one question per repository and run.
    None,
}

#[async_trait]
impl Source for GitSource {
    fn kind(&self) -> SourceKind {
        SourceKind::Git
    }

    fn as_git(&self) -> Option<&GitSource> {
        Some(self)
    }

    async fn inspect(&self, run: RunId) -> Result<Vec<String>, SourceError> {
        let git = Git::reaching(&self.tools, run, &self.remote)?;
        let mut findings = Vec::new();
        for name in &self.repositories {
            let mirror = self.mirror(&git, name);
            findings.push(match mirror.advertised().await? {
                Some(found) => format!("`{name}` would be mirrored: {} refs", found.refs.len()),
                None => format!("`{name}` is not there; its mirror would stay as it is"),
            });
        }
        if !git.has_lfs().await {
            findings.push("git-lfs is not installed; large files would not be mirrored".to_owned());
        }
        Ok(findings)
    }

    async fn begin(&self, context: Context) -> Result<Capture, SourceError> {
        let taken_at = self.tools.clock.now();
        let gathered = tokio::select! {
            biased;
            () = context.cancel.cancelled() => return Err(GitError::Cancelled.into()),
            gathered = self.gather(context.run) => gathered?,
        };
        Ok(self.capture(context, taken_at, gathered))
    }
}

/// What all mirrors became.
#[derive(Debug, Default)]
struct Gathered {
    repositories: Vec<MirrorContents>,
    warnings: Vec<String>,
}

impl GitSource {
    fn mirror<'a>(&'a self, git: &'a Git, name: &RepoName) -> Mirror<'a> {
        Mirror {
            git,
            tools: &self.tools,
            name: name.to_string(),
            path: self.folder.join(format!("{name}.git")),
            url: self.remote.url(name),
        }
    }

    fn wiki<'a>(&'a self, git: &'a Git, name: &RepoName) -> Mirror<'a> {
        Mirror {
            git,
            tools: &self.tools,
            name: format!("{name} (wiki)"),
            path: self.folder.join(format!("{name}.wiki.git")),
            url: self.remote.wiki_url(name),
        }
    }

    /// Refreshes every mirror. One that fails does not keep the others from it, but
    /// the run fails in the end; a login that is refused ends it at once.
    async fn gather(&self, run: RunId) -> Result<Gathered, GitError> {
        let make = |source| GitError::Folder { path: self.folder.clone(), source };
        fs::create_dir_all(&self.folder).map_err(make)?;
        let git = Git::reaching(&self.tools, run, &self.remote)?;
        let second = self.push_to.as_ref().map(|to| Git::reaching(&self.tools, run, to));
        let second = second.transpose()?;
        let mut gathered = Gathered::default();
        let mut failed = None;
        for name in &self.repositories {
            match self.gather_one(name, &git, second.as_ref(), run, &mut gathered).await {
                Ok(()) => {}
                Err(error @ (GitError::Login { .. } | GitError::HostKey { .. })) => {
                    return Err(error);
                }
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(gathered),
        }
    }

    async fn gather_one(
        &self,
        name: &RepoName,
        git: &Git,
        second: Option<&Git>,
        run: RunId,
        gathered: &mut Gathered,
    ) -> Result<(), GitError> {
        let mirror = self.mirror(git, name);
        let refreshed = mirror.refresh(run).await?;
        if refreshed == Refreshed::Gone && !mirror.exists() {
            return Err(GitError::NotThere { url: mirror.url });
        }
        self.finish(&mirror, name, refreshed, second, gathered).await?;
        if self.wikis == Wikis::None {
            return Ok(());
        }
        let wiki = self.wiki(git, name);
        match wiki.refresh(run).await {
            Ok(Refreshed::Gone) if !wiki.exists() => Ok(()),
            Ok(refreshed) => self.finish(&wiki, name, refreshed, second, gathered).await,
            // The repository itself could be read: the login is right, the wiki is off.
            Err(GitError::Login { .. }) if !wiki.exists() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Large files, second hop, and what is written down.
    async fn finish(
        &self,
        mirror: &Mirror<'_>,
        name: &RepoName,
        refreshed: Refreshed,
        second: Option<&Git>,
        gathered: &mut Gathered,
    ) -> Result<(), GitError> {
        let shown = &mirror.name;
        let (state, head) = match refreshed {
            Refreshed::Equal { head, warnings } => {
                gathered.warnings.extend(warnings);
                (MirrorState::Equal, head)
            }
            Refreshed::Gone => {
                gathered.warnings.push(format!(
                    "{shown} is gone upstream or hidden from us (404 from {}); its mirror is kept \
                     as it was; if that is intended, take it out of `repositories`",
                    mirror.url
                ));
                (MirrorState::GoneUpstream, None)
            }
        };
        let audit = self.large_files(mirror, state, &mut gathered.warnings).await?;
        let pushed = match (&self.push_to, second) {
            (Some(to), Some(git)) if state == MirrorState::Equal => {
                let url = if mirror.path.to_string_lossy().ends_with(".wiki.git") {
                    to.wiki_url(name)
                } else {
                    to.url(name)
                };
                let hop = Mirror { git, tools: &self.tools, url, ..named(mirror) };
                let failure = push::push(&hop, Overwrite::AfterKeeping).await.err();
                let failure = failure.map(|error| Chain(&error).to_string());
                if let Some(failure) = &failure {
                    let text = format!("{shown} was not pushed to {}: {failure}", hop.url);
                    gathered.warnings.push(text);
                }
                Some(Pushed { to: hop.url, failure })
            }
            _ => None,
        };
        let (refs, kept) = mirror::holdings(mirror.git, &mirror.path).await?;
        let folder = mirror.path.strip_prefix(&self.folder).unwrap_or(&mirror.path);
        gathered.repositories.push(MirrorContents {
            name: shown.clone(),
            folder: folder.to_string_lossy().into_owned(),
            state,
            head,
            refs,
            kept,
            lfs_objects: audit.present.len() as u64,
            lfs_bytes: audit.present.values().sum(),
            lfs_missing: audit.missing.keys().take(MISSING_MAX).cloned().collect(),
            pushed,
        });
        Ok(())
    }

    /// Fetches and compares large files; what stays missing is a warning.
    async fn large_files(
        &self,
        mirror: &Mirror<'_>,
        state: MirrorState,
        warnings: &mut Vec<String>,
    ) -> Result<lfs::Audit, GitError> {
        let Mirror { git, path, url, name, .. } = mirror;
        let pointers = lfs::pointers(git, path).await?;
        let audit = lfs::audit(path, pointers.clone()).await?;
        if audit.missing.is_empty() {
            return Ok(audit);
        }
        let mut why = "upstream does not have them";
        let mut audit = audit;
        if !git.has_lfs().await {
            why = "git-lfs is not installed: apt install git-lfs";
        } else if state == MirrorState::Equal {
            lfs::set_aside(&audit)?;
            if let Err(error) = lfs::fetch(git, path, url).await {
                tracing::warn!(%name, error = %Chain(&error), "git lfs did not fetch everything");
                why = "git lfs could not fetch them";
            }
            audit = lfs::audit(path, pointers).await?;
        }
        if !audit.missing.is_empty() {
            let bytes: u64 = audit.missing.values().sum();
            let first = audit.missing.keys().next().map_or("", String::as_str);
            warnings.push(format!(
                "{name} points to {} large files ({bytes} bytes) that are not in its mirror, such \
                 as {first}: {why}",
                audit.missing.len()
            ));
        }
        Ok(audit)
    }

    fn capture(&self, context: Context, taken_at: Timestamp, gathered: Gathered) -> Capture {
        let root = Root { path: self.folder.clone(), inside: PathBuf::new() };
        let (pack, packed) = tree::pack(vec![root], Rules::default(), Changing::Fail);
        let (content, archive) = Measured::new(Box::new(pack), context.cancel.clone());
        let (later, promise) = Later::new();
        let (manifest, gauge) = Measured::new(Box::new(later), context.cancel.clone());
        let files = vec![
            Incoming { name: ARCHIVE_FILE.to_owned(), content, gauge: archive.clone() },
            Incoming { name: MANIFEST.to_owned(), content: manifest, gauge },
        ];
        let remote = self.remote.base.to_string();
        let completion = Box::pin(async move {
            let mut archive = archive;
            let receipt = archive.finished().await.map_err(GitError::Stream)?;
            let abandoned = |_| GitError::Stream(StreamError::Abandoned);
            let packed: Packed = packed.await.map_err(abandoned)?;
            let Gathered { repositories, mut warnings } = gathered;
            warnings.extend(packed.warnings);
            warnings.truncate(WARNINGS_MAX);
            let archive = StoredFile {
                name: ARCHIVE_FILE.to_owned(),
                bytes: receipt.bytes,
                sha256: receipt.sha256,
            };
            let manifest = Manifest {
                format: FORMAT,
                run: context.run,
                backup: context.backup,
                taken_at,
                files: vec![archive],
                warnings,
                contents: Contents::Git(GitContents {
                    remote,
                    repositories,
                    entries: packed.entries,
                }),
            };
            promise.keep(manifest.to_bytes().map_err(GitError::Encode)?);
            Ok(manifest)
        });
        Capture { taken_at, files, completion }
    }
}

/// The same mirror, to be given another address.
fn named<'a>(mirror: &Mirror<'a>) -> Mirror<'a> {
    Mirror {
        git: mirror.git,
        tools: mirror.tools,
        name: mirror.name.clone(),
        path: mirror.path.clone(),
        url: mirror.url.clone(),
    }
}

/// The folder of a backup's mirrors.
#[must_use]
pub fn mirrors_of(state_dir: &Path, backup: &Name) -> PathBuf {
    state_dir.join("git").join(backup.as_str())
}

/// The repositories that have a mirror below `folder`, sorted.
///
/// # Errors
///
/// The folder cannot be read.
pub async fn mirrors_below(folder: &Path) -> Result<Vec<RepoName>, GitError> {
    fn look(folder: &Path, below: &Path, depth: u8, found: &mut Vec<RepoName>) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let path = below.join(entry.file_name());
            let name = path.to_string_lossy().into_owned();
            if let Some(name) = name.strip_suffix(".git").and_then(|name| name.parse().ok()) {
                found.push(name);
            } else if depth > 0 && entry.file_type()?.is_dir() && !name.ends_with(".git") {
                look(&entry.path(), &path, depth - 1, found)?;
            }
        }
        Ok(())
    }
    let folder = folder.to_owned();
    blocking::run(move || {
        let mut found = Vec::new();
        look(&folder, Path::new(""), 3, &mut found)
            .map_err(|source| GitError::Folder { path: folder.clone(), source })?;
        found.sort_unstable();
        Ok(found)
    })
    .await
}

/// Why repositories could not be mirrored, pushed or looked at.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// The private folder for the login could not be made.
    #[error("could not make a private folder in `{}`", path.display())]
    Scratch {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The mirrors cannot be read or written.
    #[error("could not use `{}`", path.display())]
    Folder {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Git failed on something of ours.
    #[error("git failed")]
    Tool(#[source] ExecError),
    /// The remote could not be reached.
    #[error("could not reach {url}")]
    Remote {
        /// What.
        url: String,
        /// What git said.
        #[source]
        source: Box<ExecError>,
    },
    /// The remote says that there is no such repository.
    #[error("there is no repository at {url} (404), or it is hidden from us")]
    Gone {
        /// What.
        url: String,
        /// What git said.
        #[source]
        source: Box<ExecError>,
    },
    /// A declared repository is not there and never was.
    #[error(
        "there is no repository at {url} (404), and no mirror of it; look at its name and at what \
         the login may see"
    )]
    NotThere {
        /// What.
        url: String,
    },
    /// The remote does not let us in.
    #[error("{url} refuses the login (401 or 403); has the token expired? make a new one")]
    Login {
        /// What.
        url: String,
        /// What git said.
        #[source]
        source: Box<ExecError>,
    },
    /// The remote has another key than the one that is known.
    #[error(
        "the SSH key of the server of {url} is not the one in `known-hosts`; nothing was sent; if \
         the server was set up anew, compare its key by another way and replace the line"
    )]
    HostKey {
        /// What.
        url: String,
        /// What ssh said.
        #[source]
        source: Box<ExecError>,
    },
    /// A mirror and the other side differ after all.
    #[error("{name} is not equal on both sides: {differences}")]
    NotEqual {
        /// What.
        name: String,
        /// Some.
        differences: String,
    },
    /// A mirror has lost objects.
    #[error(
        "the mirror of {name} is damaged; move `{}` aside and run again, it is then made anew \
         (what it kept is in earlier snapshots)", path.display()
    )]
    Damaged {
        /// What.
        name: String,
        /// Where.
        path: PathBuf,
        /// What git said.
        #[source]
        source: Box<ExecError>,
    },
    /// Large files cannot be pushed.
    #[error("{name} has large files, and git-lfs is not installed: apt install git-lfs")]
    NoLfs {
        /// What.
        name: String,
    },
    /// The other server's repository is somebody else's.
    #[error("{url} has a `{name}` of its own; nothing was pushed there; empty it first")]
    NotEmpty {
        /// Where.
        url: String,
        /// A ref there.
        name: String,
    },
    /// There is nothing to push.
    #[error("there is no mirror at `{}`", path.display())]
    NoMirror {
        /// Where.
        path: PathBuf,
    },
    /// The archive cannot be extracted on a drill target.
    #[error("could not extract the archive of the mirrors")]
    Extract(#[source] ExtractError),
    /// Extracted mirrors cannot be read back.
    #[error("could not read back the extracted mirrors")]
    Compare(#[source] CompareError),
    /// The archive was not read to its end.
    #[error("the archive of the mirrors is not complete")]
    Stream(#[source] StreamError),
    /// The manifest has no JSON form.
    #[error("could not write the manifest")]
    Encode(#[source] serde_json::Error),
    /// Somebody cancelled it.
    #[error("cancelled")]
    Cancelled,
}

impl SourceFailure for GitError {
    fn is_echo(&self) -> bool {
        matches!(
            self,
            Self::Cancelled | Self::Stream(StreamError::Abandoned | StreamError::Cancelled)
        )
    }

    fn reason(&self) -> (Reason, bool) {
        match self {
            Self::Login { .. } | Self::HostKey { .. } | Self::NotThere { .. } => {
                (failure::SOURCE_FAILED, false)
            }
            Self::NotEmpty { .. } => (failure::TARGET_NOT_EMPTY, false),
            _ => (failure::SOURCE_FAILED, true),
        }
    }
}
