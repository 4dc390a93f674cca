//! One bare repository that remembers.
//!
//! What upstream has stands below `refs/upstream/`. Before a ref moves in a way that
//! loses something, or goes, what it pointed at is kept below `refs/kept/` for ever,
//! in the same transaction; so that nothing that was ever fetched becomes
//! unreachable, and no collection of garbage can remove it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use super::{
    GitError,
    command::{Cause, Git, GitTools},
    refs::{self, Advertised, Change, INCOMING, KEPT, NOT_MIRRORED, Refs, UPSTREAM},
};
use crate::{blocking, ids::RunId};

/// How often the fetch is repeated when upstream moves meanwhile.
const ATTEMPTS_MAX: u32 = 3;

/// Digits of the run in the names of what is kept.
const RUN_DIGITS: usize = 6;

/// Settings that every mirror carries itself, for whoever uses it by hand.
const OWN_SETTINGS: [(&str, &str); 6] = [
    ("gc.auto", "0"),
    ("gc.pruneExpire", "never"),
    ("gc.reflogExpire", "never"),
    ("gc.reflogExpireUnreachable", "never"),
    ("core.logAllRefUpdates", "always"),
    ("receive.denyDeletes", "true"),
];

/// A mirror and where it comes from.
#[derive(Debug)]
pub(crate) struct Mirror<'a> {
    /// Git, able to reach `url`.
    pub(crate) git: &'a Git,
    /// For the time of what is kept.
    pub(crate) tools: &'a GitTools,
    /// What people call it.
    pub(crate) name: String,
    /// Its folder.
    pub(crate) path: PathBuf,
    /// Upstream.
    pub(crate) url: String,
}

/// What a mirror became.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refreshed {
    /// It equals upstream.
    Equal {
        /// The branch that a clone begins with.
        head: Option<String>,
        /// What people should know.
        warnings: Vec<String>,
    },
    /// There is no such repository upstream.
    Gone,
}

impl Mirror<'_> {
    /// Whether there is a mirror already.
    pub(crate) fn exists(&self) -> bool {
        self.path.join("HEAD").is_file()
    }

    /// Makes the mirror equal to upstream and shows that it is.
    pub(crate) async fn refresh(&self, run: RunId) -> Result<Refreshed, GitError> {
        // Asked first: what is not there leaves no empty mirror behind.
        let Some(mut advertised) = self.advertised().await? else { return Ok(Refreshed::Gone) };
        if self.exists() {
            self.clear_up().await?;
        } else {
            self.make().await?;
        }
        let mut warnings = Vec::new();
        for attempt in 1..=ATTEMPTS_MAX {
            self.fetch().await?;
            warnings.extend(self.follow(run, attempt).await?);
            let Some(now) = self.advertised().await? else { return Ok(Refreshed::Gone) };
            advertised = now;
            if self.refs(UPSTREAM).await? == advertised.refs {
                self.point_head(advertised.head.as_deref()).await?;
                warnings.extend(self.check().await?);
                return Ok(Refreshed::Equal { head: advertised.head, warnings });
            }
        }
        let found = self.refs(UPSTREAM).await?;
        let differences = refs::differences(&self.name, &advertised.refs, &found, 5);
        Err(GitError::NotEqual { name: self.name.clone(), differences: differences.join("; ") })
    }

    /// What upstream has; nothing when it has no such repository.
    pub(crate) async fn advertised(&self) -> Result<Option<Advertised>, GitError> {
        let home = self.tools.scratch.clone();
        match self.git.run(&home, ["ls-remote", "--symref", "--", &self.url]).await {
            Ok(text) => Ok(Some(Advertised::parse(&text))),
            Err(error) => match error.explained(&self.url) {
                GitError::Gone { .. } => Ok(None),
                other => Err(other),
            },
        }
    }

    /// The mirror's refs below a prefix, without it.
    pub(crate) async fn refs(&self, prefix: &str) -> Result<Refs, GitError> {
        local_refs(self.git, &self.path, prefix).await
    }

    /// In a folder beside it, renamed when it is complete.
    async fn make(&self) -> Result<(), GitError> {
        let partial = self.path.with_extension("git.partial");
        let failed = |source| GitError::Folder { path: partial.clone(), source };
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(failed)?;
        }
        fs::create_dir_all(&partial).map_err(failed)?;
        self.git.run(&partial, ["init", "--bare", "--quiet", "--template=", "."]).await?;
        for (key, value) in OWN_SETTINGS {
            self.git.run(&partial, ["config", key, value]).await?;
        }
        fs::rename(&partial, &self.path).map_err(failed)
    }

    /// Removes what a killed git left: locks that would refuse every later run, and half
    /// packs. Nobody else writes to a mirror, and a backup runs once at a time.
    async fn clear_up(&self) -> Result<(), GitError> {
        let path = self.path.clone();
        blocking::run(move || {
            let mut folders = vec![path.clone()];
            while let Some(folder) = folders.pop() {
                let failed = |source| GitError::Folder { path: folder.clone(), source };
                for entry in fs::read_dir(&folder).map_err(failed)? {
                    let entry = entry.map_err(failed)?;
                    let name = entry.file_name();
                    let name = name.to_string_lossy();
                    if entry.file_type().map_err(failed)?.is_dir() {
                        folders.push(entry.path());
                    } else if name.ends_with(".lock") || name.starts_with("tmp_") {
                        tracing::warn!(path = %entry.path().display(), "git was cut off here");
                        fs::remove_file(entry.path()).map_err(failed)?;
                    }
                }
            }
            Ok(())
        })
        .await
    }

    /// Brings everything that upstream has, and moves nothing of the mirror.
    async fn fetch(&self) -> Result<(), GitError> {
        let everything = format!("+refs/*:{INCOMING}*");
        let without = NOT_MIRRORED.map(|prefix| format!("^{prefix}*"));
        let mut args = vec![
            "-c",
            "core.logAllRefUpdates=false",
            "fetch",
            "--quiet",
            "--prune",
            "--no-tags",
            "--no-write-fetch-head",
            "--",
            &self.url,
            &everything,
        ];
        args.extend(without.iter().map(String::as_str));
        let Err(error) = self.git.run(&self.path, args).await else { return Ok(()) };
        let error = error.explained(&self.url);
        if matches!(error, GitError::Remote { .. }) {
            // Git reads the mirror too: it is not always the other side that fails.
            self.check().await?;
        }
        Err(error)
    }

    /// Moves the mirror to what was fetched; gives what people should know.
    async fn follow(&self, run: RunId, attempt: u32) -> Result<Vec<String>, GitError> {
        let (old, new) = (self.refs(UPSTREAM).await?, self.refs(INCOMING).await?);
        let changes = refs::changes(&old, &new);
        let mut forward = BTreeSet::new();
        for change in &changes {
            if self.is_forward(change).await? {
                forward.insert(change.name.clone());
            }
        }
        let digits = run.compact();
        let digits = digits.get(digits.len() - RUN_DIGITS..).unwrap_or_default();
        let suffix = format!("{digits}-{attempt}");
        let is_forward = |change: &Change| forward.contains(&change.name);
        let now = self.tools.clock.now();
        let plan = refs::plan(&self.name, &changes, is_forward, now, &suffix);
        self.transact(plan.first, "homelab: keep what upstream dropped").await?;
        self.transact(plan.then, "homelab: follow upstream").await?;
        let gone: String = new.keys().map(|name| format!("delete {INCOMING}{name}\n")).collect();
        self.transact(gone, "homelab: done").await?;
        if !changes.is_empty() {
            self.git.run(&self.path, ["pack-refs", "--all"]).await?;
        }
        Ok(plan.warnings)
    }

    /// Whether a branch only grew. Tags do not move at all.
    async fn is_forward(&self, change: &Change) -> Result<bool, GitError> {
        let (Some(old), Some(new)) = (&change.old, &change.new) else { return Ok(false) };
        if !change.name.starts_with("heads/") {
            return Ok(false);
        }
        let asked = self.git.ask(&self.path, ["merge-base", "--is-ancestor", old, new], 1).await;
        asked.map(|code| code == 0)
    }

    async fn transact(&self, commands: String, why: &str) -> Result<(), GitError> {
        if commands.is_empty() {
            return Ok(());
        }
        let args = ["update-ref", "--create-reflog", "-m", why, "--stdin"];
        self.git.feed(&self.path, args, commands).await.map(drop)
    }

    async fn point_head(&self, head: Option<&str>) -> Result<(), GitError> {
        let Some(head) = head else { return Ok(()) };
        // Its own name: git takes a HEAD outside of `refs/heads/` for damage.
        let target = format!("refs/{head}");
        let now = fs::read_to_string(self.path.join("HEAD")).unwrap_or_default();
        if now.trim() == format!("ref: {target}") {
            return Ok(());
        }
        self.git.run(&self.path, ["symbolic-ref", "HEAD", &target]).await.map(drop)
    }

    /// Every object is there and is what its name says. What only breaks a rule of
    /// form, as old repositories do, is a warning.
    async fn check(&self) -> Result<Vec<String>, GitError> {
        let broken = fsck(self.git, &self.path).await.map_err(|error| match error {
            GitError::Tool(source) => {
                let (name, path) = (self.name.clone(), self.path.clone());
                GitError::Damaged { name, path, source: Box::new(source) }
            }
            other => other,
        })?;
        let text = broken.map(|what| format!("{} breaks a rule of form: {what}", self.name));
        Ok(text.into_iter().collect())
    }
}

/// `git fsck`; gives the first broken rule of form.
pub(crate) async fn fsck(git: &Git, path: &Path) -> Result<Option<String>, GitError> {
    let args = |strict| {
        let args = ["fsck", "--full", strict, "--no-dangling", "--no-progress"];
        args.into_iter().filter(|arg| !arg.is_empty())
    };
    let Err(strict) = git.run(path, args("--strict")).await else { return Ok(None) };
    git.run(path, args("")).await?;
    let GitError::Tool(homelab_common::exec::ExecError::Exit { stderr_tail, .. }) = strict else {
        return Err(strict);
    };
    Ok(Some(stderr_tail.lines().next().unwrap_or("unknown").to_owned()))
}

/// Refs of a repository on this disk.
pub(crate) async fn local_refs(git: &Git, path: &Path, prefix: &str) -> Result<Refs, GitError> {
    let args = ["for-each-ref", "--format=%(objectname) %(refname)", prefix];
    git.run(path, args).await.map(|text| refs::parse_local(&text, prefix))
}

/// What a mirror holds: upstream's refs, and those that it kept.
pub(crate) async fn holdings(git: &Git, path: &Path) -> Result<(Refs, Refs), GitError> {
    Ok((local_refs(git, path, UPSTREAM).await?, local_refs(git, path, KEPT).await?))
}

impl GitError {
    /// The cause behind git's words, where it is one that people must tell apart.
    pub(crate) fn explained(self, url: &str) -> Self {
        let Self::Tool(source) = self else { return self };
        let (url, source) = (url.to_owned(), Box::new(source));
        match Cause::of(&source) {
            Cause::Gone => Self::Gone { url, source },
            Cause::Login => Self::Login { url, source },
            Cause::HostKey => Self::HostKey { url, source },
            Cause::Other => Self::Remote { url, source },
        }
    }
}
