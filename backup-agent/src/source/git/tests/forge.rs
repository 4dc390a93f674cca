//! A forge: bare repositories on this disk, with a clone of each to work in.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use homelab_common::{
    clock::SystemClock,
    exec::{Exec, Program, SystemExec},
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::super::{
    GitSource, GitTools, Wikis,
    refs::{Advertised, Refs},
    remote::{Login, Remote, RepoName},
};
use crate::{
    blocking,
    ids::RunId,
    manifest::Manifest,
    source::{Context, Source, SourceError},
};

pub(super) struct Forge(TempDir);

/// What a run stored.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    pub(super) manifest: Manifest,
    pub(super) files: Vec<(String, Vec<u8>)>,
}

pub(super) fn run_of(number: u128) -> RunId {
    RunId::from(Uuid::from_u128(number))
}

pub(super) fn names(names: &[&str]) -> Vec<RepoName> {
    names.iter().map(|name| name.parse().expect("a name")).collect()
}

pub(super) fn context(run: RunId) -> Context {
    Context {
        run,
        backup: "github".parse().expect("a name"),
        key: "a secret of the backup".to_owned(),
        last_items: None,
        cancel: CancellationToken::new(),
        before: crate::source::Before::default(),
    }
}

/// Runs a source as the pipeline does: everything is read while it completes.
pub(super) async fn take(source: &dyn Source, run: RunId) -> Result<Taken, SourceError> {
    let capture = source.begin(context(run)).await?;
    let reading = blocking::run(move || {
        let read = |mut file: crate::repository::Incoming| {
            let mut bytes = Vec::new();
            file.content.read_to_end(&mut bytes).expect("the stream");
            (file.name, bytes)
        };
        capture.files.into_iter().map(read).collect()
    });
    let (files, manifest) = tokio::join!(reading, capture.completion);
    Ok(Taken { manifest: manifest?, files })
}

/// Runs git as a person would.
pub(super) async fn git(directory: &Path, args: &[&str]) -> String {
    let program = Program::new("git")
        .args(args.iter().copied())
        .directory(directory)
        .env("HOME", directory.display().to_string())
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_AUTHOR_NAME", "me")
        .env("GIT_AUTHOR_EMAIL", "me@home.example")
        .env("GIT_COMMITTER_NAME", "me")
        .env("GIT_COMMITTER_EMAIL", "me@home.example");
    let output = SystemExec.run(program).await.expect("git; apt install git git-lfs");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

pub(super) fn overwrite(path: &Path, bytes: &[u8]) {
    remove(path);
    fs::write(path, bytes).expect("a file");
}

/// Objects are read-only, but their folder is not.
pub(super) fn remove(path: &Path) {
    fs::remove_file(path).expect("a file");
}

impl Taken {
    /// Damages a stored file without changing its size.
    pub(super) fn damage(&mut self, around: &[u8]) {
        let (_, bytes) = &mut self.files[0];
        // An object or pack in the archive: the last file's content before the end.
        let at = bytes.windows(4).position(|window| window == b"PACK").expect("a pack");
        bytes[at + 12 + around.len()] ^= 1;
    }
}

impl Forge {
    pub(super) async fn new() -> Self {
        let forge = Self(tempfile::tempdir().expect("a folder"));
        for name in ["upstream", "work", "mirrors", "scratch"] {
            fs::create_dir(forge.0.path().join(name)).expect("a folder");
        }
        forge
    }

    pub(super) fn home(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn upstream(&self) -> PathBuf {
        self.0.path().join("upstream")
    }

    pub(super) fn mirrors(&self) -> PathBuf {
        self.0.path().join("mirrors")
    }

    pub(super) fn mirror(&self, name: &str) -> PathBuf {
        self.mirrors().join(format!("{name}.git"))
    }

    pub(super) fn tools(&self) -> GitTools {
        GitTools {
            exec: Arc::new(SystemExec),
            clock: Arc::new(SystemClock),
            git: "git".to_owned(),
            scratch: self.0.path().join("scratch"),
            deadline: Duration::from_secs(60),
        }
    }

    pub(super) fn source(&self, repositories: &[&str]) -> GitSource {
        GitSource {
            remote: folder(&self.upstream()),
            repositories: names(repositories),
            folder: self.mirrors(),
            push_to: None,
            wikis: Wikis::WhereTheyAre,
            tools: self.tools(),
        }
    }

    /// Another server with these empty repositories.
    pub(super) async fn server(&self, name: &str, repositories: &[&str]) -> Remote {
        let path = self.0.path().join(name);
        fs::create_dir(&path).expect("a folder");
        for repository in repositories {
            git(&path, &["init", "--quiet", "--bare", &format!("{repository}.git")]).await;
        }
        folder(&path)
    }

    pub(super) async fn refs_at(&self, remote: &Remote, name: &str) -> Refs {
        let url = remote.url(&name.parse().expect("a name"));
        Advertised::parse(&git(self.0.path(), &["ls-remote", &url]).await).refs
    }

    /// An empty repository and a clone of it.
    pub(super) async fn make(&self, name: &str) -> PathBuf {
        let work = self.0.path().join("work").join(name);
        if work.exists() {
            return work;
        }
        let (upstream, bare) = (self.upstream(), format!("{name}.git"));
        let init = ["init", "--quiet", "--bare", "--initial-branch=main", &bare];
        git(&upstream, &init).await;
        let path = upstream.join(&bare).display().to_string();
        fs::create_dir(&work).expect("a folder");
        git(&work, &["init", "--quiet", "--initial-branch=main"]).await;
        git(&work, &["remote", "add", "origin", &format!("file://{path}")]).await;
        work
    }

    /// Runs git in the clone.
    pub(super) async fn git(&self, name: &str, args: &[&str]) -> String {
        let work = self.make(name).await;
        git(&work, args).await
    }

    /// A commit on a branch, pushed.
    pub(super) async fn commit(&self, name: &str, branch: &str, text: &str) {
        let work = self.make(name).await;
        git(&work, &["checkout", "--quiet", "-B", branch]).await;
        fs::write(work.join("file"), text).expect("a file");
        git(&work, &["add", "file"]).await;
        git(&work, &["commit", "--quiet", "-m", text]).await;
        git(&work, &["push", "--quiet", "origin", branch]).await;
        if branch == "master" {
            let bare = self.upstream().join(format!("{name}.git"));
            git(&bare, &["symbolic-ref", "HEAD", "refs/heads/master"]).await;
        }
    }

    /// Another history for a branch, pushed by force.
    pub(super) async fn rewrite(&self, name: &str, branch: &str) {
        self.git(name, &["checkout", "--quiet", branch]).await;
        self.git(name, &["commit", "--quiet", "--amend", "-m", "another history"]).await;
        self.git(name, &["push", "--quiet", "--force", "origin", branch]).await;
    }

    /// Deletes every ref upstream.
    pub(super) async fn empty(&self, name: &str) {
        let bare = self.upstream().join(format!("{name}.git"));
        let refs = git(&bare, &["for-each-ref", "--format=%(refname)"]).await;
        for name in refs.lines() {
            git(&bare, &["update-ref", "-d", name]).await;
        }
    }

    /// A commit with a large file, pushed by git-lfs; gives its name.
    pub(super) async fn commit_large(&self, name: &str, bytes: &[u8]) -> String {
        let work = self.make(name).await;
        git(&work, &["lfs", "install", "--local"]).await;
        git(&work, &["lfs", "track", "*.bin"]).await;
        fs::write(work.join("a.bin"), bytes).expect("a file");
        git(&work, &["checkout", "--quiet", "-B", "main"]).await;
        git(&work, &["add", "."]).await;
        git(&work, &["commit", "--quiet", "-m", "large"]).await;
        git(&work, &["push", "--quiet", "origin", "main"]).await;
        crate::stream::Sha256::of(bytes).to_string()
    }
}

fn folder(path: &Path) -> Remote {
    Remote {
        base: format!("file://{}", path.display()).parse().expect("an address"),
        login: Login::None,
        tls_root: None,
    }
}
