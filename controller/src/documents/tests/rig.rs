//! Documents over a store in a folder of their own.

use std::{fs, path::Path, sync::Arc};

use homelab_common::{
    clock::ManualClock,
    exec::{Exec as _, Program, SystemExec},
};
use homelab_domain::context::SourceState;
use homelab_store::StoreUrl;
use jiff::Timestamp;
use tempfile::TempDir;
use tokio::sync::watch;

use super::super::{Documents, Parts, refresh::Refresh};
use crate::{
    site::SiteFile,
    task::{BackgroundTask as _, Done},
};

pub(super) struct Rig {
    pub(super) documents: Documents,
    pub(super) clock: ManualClock,
    pub(super) folder: TempDir,
    site: watch::Sender<Arc<homelab_domain::site::Site>>,
}

pub(super) fn now() -> Timestamp {
    Timestamp::from_second(1_790_000_000).expect("a moment")
}

impl Rig {
    /// With a site file that has these sources; `{folder}` is the rig's own.
    pub(super) async fn new(sources: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let url = StoreUrl::Sqlite(folder.path().join("store.db"));
        let store = homelab_store::open(&url).await.expect("a store");
        let clock = ManualClock::new(now());
        let (site, receiver) = watch::channel(parsed(folder.path(), sources));
        let documents = Documents::new(Parts {
            store,
            clock: Arc::new(clock.clone()),
            exec: Arc::new(SystemExec),
            site: receiver,
            folder: folder.path().join("context"),
        });
        Self { documents, clock, folder, site }
    }

    /// Takes another site file.
    pub(super) fn takes(&self, sources: &str) {
        self.site.send_replace(parsed(self.folder.path(), sources));
    }

    /// Lets the reconciler look once, long after it last did.
    pub(super) async fn look(&self) -> Done {
        self.clock.advance(jiff::SignedDuration::from_hours(2).unsigned_abs());
        Refresh(self.documents.clone()).activate().await.expect("the store works")
    }

    pub(super) async fn state(&self, name: &str) -> SourceState {
        let sources = self.documents.sources().await.expect("the store works");
        let source = sources.into_iter().find(|source| source.name.as_str() == name);
        source.expect("a source").state.expect("it was looked at")
    }

    pub(super) async fn trouble(&self, name: &str) -> String {
        self.state(name).await.trouble.expect("it fails").message
    }

    pub(super) async fn found(&self, text: &str) -> Vec<String> {
        let found = self.documents.search(text, &Default::default()).await.expect("searchable");
        found.passages.into_iter().map(|(citation, _)| citation.to_string()).collect()
    }
}

fn parsed(folder: &Path, sources: &str) -> Arc<homelab_domain::site::Site> {
    let sources = sources.replace("{folder}", &folder.display().to_string());
    let text = format!("[site]\nname = \"home\"\n{sources}");
    let file = SiteFile::parse("homelab.toml", &text, now());
    file.unwrap_or_else(|report| panic!("{report}")).site
}

/// Runs Git as a person would.
pub(super) async fn git(folder: &Path, args: &[&str]) {
    let program = Program::new("git")
        .args(["-c", "user.name=Ann", "-c", "user.email=ann@home.arpa"])
        .args(["-c", "init.defaultBranch=main", "-c", "commit.gpgSign=false"])
        .args(args.iter().copied())
        .env("HOME", folder.display().to_string())
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .directory(folder);
    if let Err(error) = SystemExec.run(program).await {
        panic!("{error}; is it there? apt install git");
    }
}

/// Commits files to a repository that is made when it is not there.
pub(super) async fn commit(folder: &Path, files: &[(&str, &[u8])]) {
    if !folder.join(".git").exists() {
        fs::create_dir_all(folder).expect("a folder");
        git(folder, &["init", "--quiet"]).await;
    }
    for (path, content) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().expect("within the folder")).expect("a folder");
        fs::write(path, content).expect("writable");
    }
    git(folder, &["add", "--all"]).await;
    git(folder, &["commit", "--quiet", "--message", "more"]).await;
}
