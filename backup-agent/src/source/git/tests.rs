//! Mirrors against real git.

mod cgi;
mod forge;
mod ssh;

use std::{fs, sync::Arc};

use homelab_common::{
    clock::SystemClock,
    exec::{
        SystemExec,
        fake::{Answer, FakeExec},
    },
    secret::Secret,
};
use tokio_util::sync::CancellationToken;

use super::{manifest::MirrorState, remote::Login, *};
use crate::{
    drill::{
        Verdict,
        folder::{Examination, FolderTools},
    },
    progress::Progress,
};
use cgi::Cgi;
use forge::{Forge, Taken, names, run_of, take};
use ssh::Sshd;

fn contents(taken: &Taken) -> &GitContents {
    match &taken.manifest.contents {
        Contents::Git(contents) => contents,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn pitfall_32_what_a_force_push_and_a_deletion_drop_is_kept_for_ever() {
    let forge = Forge::new().await;
    forge.commit("project", "main", "one").await;
    forge.commit("project", "topic", "side").await;
    let source = forge.source(&["project"]);
    let first = take(&source, run_of(1)).await.expect("a run");
    assert_eq!(first.manifest.warnings, Vec::<String>::new());
    let old = contents(&first).repositories[0].refs.clone();

    forge.rewrite("project", "main").await;
    forge.git("project", &["push", "--quiet", "origin", ":topic"]).await;
    let second = take(&source, run_of(2)).await.expect("a run");
    let warnings = second.manifest.warnings.join("\n");
    assert!(warnings.contains("history rewritten: branch main of project from"), "{warnings}");
    assert!(warnings.contains("branch topic of project deleted upstream"), "{warnings}");
    let mirror = &contents(&second).repositories[0];
    assert_eq!(mirror.refs.keys().collect::<Vec<_>>(), ["heads/main"]);
    let kept: Vec<&String> = mirror.kept.values().collect();
    assert_eq!(kept, [&old["heads/main"], &old["heads/topic"]]);

    // Whatever somebody does to it by hand.
    let path = forge.mirror("project");
    forge::git(&path, &["reflog", "expire", "--expire=now", "--all"]).await;
    forge::git(&path, &["gc", "--quiet", "--prune=now"]).await;
    for id in kept {
        forge::git(&path, &["cat-file", "-e", &format!("{id}^{{commit}}")]).await;
    }
    let third = take(&source, run_of(3)).await.expect("a run");
    assert_eq!(third.manifest.warnings, Vec::<String>::new());
    assert_eq!(contents(&third).repositories[0].kept, mirror.kept);
}

#[tokio::test]
async fn pitfall_32_a_moved_tag_and_an_emptied_repository_are_alarms_too() {
    let forge = Forge::new().await;
    forge.commit("project", "main", "one").await;
    forge.git("project", &["tag", "v1"]).await;
    forge.git("project", &["push", "--quiet", "origin", "v1"]).await;
    let source = forge.source(&["project"]);
    take(&source, run_of(1)).await.expect("a run");

    forge.commit("project", "main", "two").await;
    forge.git("project", &["push", "--quiet", "--force", "origin", "HEAD:refs/tags/v1"]).await;
    let moved = take(&source, run_of(2)).await.expect("a run").manifest.warnings;
    assert_eq!(moved.len(), 1);
    assert!(moved[0].contains("tag v1 of project from"), "{moved:?}");

    forge.empty("project").await;
    let emptied = take(&source, run_of(3)).await.expect("a run");
    assert_eq!(emptied.manifest.warnings.len(), 2, "{:?}", emptied.manifest.warnings);
    let mirror = &contents(&emptied).repositories[0];
    assert!(mirror.refs.is_empty());
    assert_eq!(mirror.kept.len(), 3);
}

#[tokio::test]
async fn a_branch_may_become_a_folder_of_branches() {
    let forge = Forge::new().await;
    forge.commit("project", "main", "one").await;
    forge.commit("project", "topic", "side").await;
    let source = forge.source(&["project"]);
    take(&source, run_of(1)).await.expect("a run");
    forge.git("project", &["push", "--quiet", "origin", ":topic"]).await;
    forge.git("project", &["branch", "--quiet", "--move", "topic", "other"]).await;
    forge.commit("project", "topic/a", "other").await;
    let taken = take(&source, run_of(2)).await.expect("a run");
    let mirror = &contents(&taken).repositories[0];
    assert!(mirror.refs.contains_key("heads/topic/a"), "{:?}", mirror.refs);
    assert_eq!(mirror.kept.len(), 1);
}

#[tokio::test]
async fn pitfall_33_an_empty_repository_is_a_backup_of_an_empty_repository() {
    let forge = Forge::new().await;
    forge.make("empty").await;
    let taken = take(&forge.source(&["empty"]), run_of(1)).await.expect("a run");
    let mirror = &contents(&taken).repositories[0];
    assert_eq!((mirror.state, mirror.refs.len()), (MirrorState::Equal, 0));
    assert!(taken.examine().await.0 == Verdict::Passed);
}

#[tokio::test]
async fn pitfall_33_gone_upstream_keeps_the_mirror_and_an_expired_token_fails_the_run() {
    let forge = Forge::new().await;
    forge.commit("project", "main", "one").await;
    let server = Cgi::start(forge.upstream(), "x-access-token:t0ken/@:%").await;
    let mut source = forge.source(&["project"]);
    source.remote = Remote {
        base: server.base(),
        login: Login::Token {
            user: "x-access-token".to_owned(),
            token: Secret::new("t0ken/@:%".to_owned()),
        },
        tls_root: None,
    };
    take(&source, run_of(1)).await.expect("a run");

    server.expire();
    let error = take(&source, run_of(2)).await.expect_err("no login");
    assert!(matches!(error, SourceError::Git(GitError::Login { .. })), "{error:?}");
    assert!(error.to_string().contains("has the token expired"), "{error}");
    assert_eq!(error.reason(), (failure::SOURCE_FAILED, false));

    server.renew();
    fs::rename(forge.upstream().join("project.git"), forge.upstream().join("gone")).expect("gone");
    let taken = take(&source, run_of(3)).await.expect("a run");
    let mirror = &contents(&taken).repositories[0];
    assert_eq!((mirror.state, mirror.refs.len()), (MirrorState::GoneUpstream, 1));
    let warnings = &taken.manifest.warnings;
    assert!(warnings[0].contains("project is gone upstream"), "{warnings:?}");
    assert_eq!(taken.examine().await.0, Verdict::Passed);

    source.repositories = names(&["never-there"]);
    let error = take(&source, run_of(4)).await.expect_err("not there");
    assert!(matches!(error, SourceError::Git(GitError::NotThere { .. })), "{error:?}");
}

#[tokio::test]
async fn pitfall_33_large_files_are_fetched_compared_and_missed_aloud() {
    let forge = Forge::new().await;
    let oid = forge.commit_large("project", b"a large file, in principle").await;
    let source = forge.source(&["project"]);
    let taken = take(&source, run_of(1)).await.expect("a run");
    let mirror = &contents(&taken).repositories[0];
    assert_eq!((mirror.lfs_objects, mirror.lfs_bytes), (1, 26), "{:?}", taken.manifest.warnings);
    assert_eq!(taken.examine().await.0, Verdict::Passed);

    // Rotten here: put aside and fetched again.
    let object = lfs::object_path(&forge.mirror("project").join("lfs/objects"), &oid);
    forge::overwrite(&object, b"a large file, in princIple");
    let taken = take(&source, run_of(2)).await.expect("a run");
    assert_eq!(contents(&taken).repositories[0].lfs_objects, 1);
    assert_eq!(fs::read(&object).expect("the file"), b"a large file, in principle");

    // Gone everywhere: said, by name.
    forge::remove(&object);
    let upstream = forge.upstream().join("project.git/lfs/objects");
    forge::remove(&lfs::object_path(&upstream, &oid));
    let taken = take(&source, run_of(3)).await.expect("a run");
    assert_eq!(contents(&taken).repositories[0].lfs_missing, std::slice::from_ref(&oid));
    let warnings = &taken.manifest.warnings;
    assert!(warnings[0].contains("1 large files (26 bytes)"), "{warnings:?}");
    assert!(warnings[0].contains(&oid), "{warnings:?}");
}

#[tokio::test]
async fn pitfall_34_a_server_with_another_key_than_the_known_one_is_refused() {
    let forge = Forge::new().await;
    forge.commit("project", "main", "one").await;
    let keys = Sshd::keys(forge.home()).await;
    let mut source = forge.source(&["project"]);
    let server = Sshd::start(&keys, "first", forge.home()).await;
    source.remote = server.remote(forge.upstream(), keys.known("first", server.port()));
    take(&source, run_of(1)).await.expect("a run with the known key");

    forge.commit("project", "main", "two").await;
    let known = keys.known("first", server.port());
    let server = server.restart(&keys, "second", forge.home()).await;
    let before = fs::read(&known).expect("the known keys");
    let error = take(&source, run_of(2)).await.expect_err("another key");
    assert!(matches!(error, SourceError::Git(GitError::HostKey { .. })), "{error:?}");
    assert_eq!(error.reason(), (failure::SOURCE_FAILED, false));
    assert_eq!(fs::read(&known).expect("the known keys"), before, "nothing is learned");
    server.stop().await;
}

#[tokio::test]
async fn a_wiki_is_mirrored_where_there_is_one() {
    let forge = Forge::new().await;
    forge.commit("project", "main", "one").await;
    forge.commit("other", "main", "two").await;
    forge.commit("project.wiki", "master", "Home").await;
    let taken = take(&forge.source(&["project", "other"]), run_of(1)).await.expect("a run");
    let mirrors = &contents(&taken).repositories;
    let names: Vec<&str> = mirrors.iter().map(|mirror| mirror.name.as_str()).collect();
    assert_eq!(names, ["project", "project (wiki)", "other"]);
    assert_eq!(mirrors[1].folder, "project.wiki.git");
    assert_eq!(mirrors[1].head.as_deref(), Some("heads/master"));
}

#[tokio::test]
async fn the_second_hop_follows_upstream_and_keeps_what_it_drops_there_as_well() {
    let forge = Forge::new().await;
    forge.commit("project", "main", "one").await;
    let second = forge.server("second", &["project"]).await;
    let mut source = forge.source(&["project"]);
    source.wikis = Wikis::None;
    source.push_to = Some(second.clone());
    let first = take(&source, run_of(1)).await.expect("a run");
    let old = contents(&first).repositories[0].refs["heads/main"].clone();
    forge.rewrite("project", "main").await;
    let taken = take(&source, run_of(2)).await.expect("a run");
    let mirror = &contents(&taken).repositories[0];
    let pushed = mirror.pushed.as_ref().expect("a second hop");
    assert_eq!(pushed.failure, None);
    let there = forge.refs_at(&second, "project").await;
    assert_eq!(there["heads/main"], mirror.refs["heads/main"]);
    let kept: Vec<_> = there.iter().filter(|(name, _)| name.starts_with("heads/kept/")).collect();
    assert_eq!(kept.len(), 1);
    assert_eq!(kept[0].1, &old);
}

#[tokio::test]
async fn a_second_hop_that_is_away_is_said_and_spares_the_run() {
    let forge = Forge::new().await;
    forge.commit("project", "main", "one").await;
    let mut source = forge.source(&["project"]);
    source.push_to = Some(forge.server("nowhere", &[]).await);
    let taken = take(&source, run_of(1)).await.expect("a run");
    let mirror = &contents(&taken).repositories[0];
    assert!(mirror.pushed.as_ref().is_some_and(|pushed| pushed.failure.is_some()));
    assert!(
        taken.manifest.warnings[0].contains("was not pushed to"),
        "{:?}",
        taken.manifest.warnings
    );
}

#[tokio::test]
async fn everything_goes_back_to_a_new_server_in_one_call() {
    let forge = Forge::new().await;
    forge.commit_large("project", b"a large file, in principle").await;
    forge.git("project", &["tag", "-a", "v1", "-m", "one"]).await;
    forge.git("project", &["push", "--quiet", "origin", "v1"]).await;
    forge.commit("project.wiki", "master", "Home").await;
    take(&forge.source(&["project"]), run_of(1)).await.expect("a run");

    let target = forge.server("new", &["project", "project.wiki"]).await;
    let found = mirrors_below(&forge.mirrors()).await.expect("mirrors");
    assert_eq!(found, names(&["project"]));
    let pushed = push_back(&forge.tools(), run_of(2), &forge.mirrors(), &found, &target).await;
    let pushed = pushed.expect("a push");
    let counts: Vec<_> = pushed.iter().map(|it| (it.refs, it.lfs_objects)).collect();
    assert_eq!(counts, [(2, 1), (1, 0)]);
    let there = forge.refs_at(&target, "project").await;
    assert_eq!(there.keys().collect::<Vec<_>>(), ["heads/main", "tags/v1"]);

    // Not over something that is somebody else's.
    forge.rewrite("project", "main").await;
    take(&forge.source(&["project"]), run_of(3)).await.expect("a run");
    let again = push_back(&forge.tools(), run_of(4), &forge.mirrors(), &found, &target).await;
    again.expect_err("history that differs");
    assert_eq!(forge.refs_at(&target, "project").await, there);

    let own = forge.server("own", &["project"]).await;
    let somebody = Forge::new().await;
    somebody.commit("project", "main", "theirs").await;
    somebody.git("project", &["push", "--quiet", &own.url(&found[0]), "main"]).await;
    let theirs = push_back(&forge.tools(), run_of(6), &forge.mirrors(), &found, &own).await;
    assert!(
        matches!(theirs, Err(GitError::NotEmpty { .. })),
        "the same name, and theirs: {theirs:?}"
    );

    let taken = forge.server("taken", &["project"]).await;
    let (path, url) = (forge.mirror("project"), taken.url(&found[0]));
    forge::git(&path, &["push", "--quiet", &url, "refs/upstream/heads/main:refs/heads/foreign"])
        .await;
    let foreign = push_back(&forge.tools(), run_of(5), &forge.mirrors(), &found, &taken).await;
    assert!(matches!(foreign, Err(GitError::NotEmpty { .. })), "{foreign:?}");
}

#[tokio::test]
async fn a_drill_finds_a_ref_a_file_and_an_object_that_are_not_what_was_stored() {
    let forge = Forge::new().await;
    forge.commit("project", "main", "one").await;
    let good = take(&forge.source(&["project"]), run_of(1)).await.expect("a run");
    let (verdict, compared) = good.examine().await;
    assert_eq!(verdict, Verdict::Passed);
    let refs = compared.iter().find(|it| it.what == "refs").map(|it| it.count);
    assert_eq!(refs, Some(1));

    let mut other = good.clone();
    if let Contents::Git(contents) = &mut other.manifest.contents {
        let mirror = &mut contents.repositories[0];
        mirror.refs.insert("heads/lost".to_owned(), "0".repeat(40));
        mirror.lfs_objects = 1;
    }
    let Verdict::Failed { differences } = other.examine().await.0 else { panic!("passed") };
    let text = differences.join("\n");
    assert!(text.contains("heads/lost is missing"), "{text}");
    assert!(text.contains("0 large files are there and right, stored were 1"), "{text}");

    let mut torn = good.clone();
    torn.damage(b"tree ");
    let Verdict::Failed { differences } = torn.examine().await.0 else { panic!("passed") };
    assert!(differences.iter().any(|text| text.contains("is different")), "{differences:?}");
}

#[tokio::test]
async fn what_a_killed_git_left_stops_no_later_run() {
    let forge = Forge::new().await;
    forge.commit("project", "main", "one").await;
    let source = forge.source(&["project"]);
    take(&source, run_of(1)).await.expect("a run");
    forge.commit("project", "main", "two").await;
    let mirror = forge.mirror("project");
    let left = ["packed-refs.lock", "HEAD.lock", "objects/pack/tmp_pack_Ab12Cd"];
    for name in left {
        fs::write(mirror.join(name), "").expect("a file");
    }
    take(&source, run_of(2)).await.expect("a run");
    for name in left {
        assert!(!mirror.join(name).exists(), "{name}");
    }
}

#[tokio::test]
async fn a_mirror_that_rots_on_the_disk_fails_the_run_and_says_what_to_do() {
    let forge = Forge::new().await;
    forge.commit("project", "main", "one").await;
    let source = forge.source(&["project"]);
    take(&source, run_of(1)).await.expect("a run");
    let packs = forge.mirror("project").join("objects/pack");
    let pack = fs::read_dir(packs).expect("packs").filter_map(|entry| {
        let path = entry.expect("an entry").path();
        (path.extension()? == "pack").then_some(path)
    });
    let pack = pack.last().expect("a pack");
    let mut bytes = fs::read(&pack).expect("the pack");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    forge::overwrite(&pack, &bytes);
    let error = take(&source, run_of(2)).await.expect_err("rot");
    assert!(matches!(error, SourceError::Git(GitError::Damaged { .. })), "{error:?}");
    assert!(error.to_string().contains("move `"), "{error}");
}

#[tokio::test]
async fn a_token_is_in_no_argument() {
    let forge = Forge::new().await;
    let exec = FakeExec::default().on("git", Answer::exit(128, "fatal: Authentication failed"));
    let mut source = forge.source(&["project"]);
    source.tools.exec = Arc::new(exec.clone());
    source.remote.login =
        Login::Token { user: "me".to_owned(), token: Secret::new("hunter2".to_owned()) };
    take(&source, run_of(1)).await.expect_err("no login");
    let calls = exec.calls();
    assert!(!calls.is_empty());
    assert!(calls.iter().all(|call| !call.argv.join(" ").contains("hunter2")), "{calls:?}");
    let left = fs::read_dir(&forge.tools().scratch).expect("a folder").count();
    assert_eq!(left, 0, "the login is gone after the run");
}

#[tokio::test]
async fn a_cancelled_run_stores_nothing() {
    let forge = Forge::new().await;
    forge.commit("project", "main", "one").await;
    let context = forge::context(run_of(1));
    context.cancel.cancel();
    let error = forge.source(&["project"]).begin(context).await.expect_err("cancelled");
    assert!(error.is_echo());
}

impl Taken {
    /// Looks at it as a drill would.
    async fn examine(&self) -> (Verdict, Vec<crate::drill::Compared>) {
        let taken = self.clone();
        blocking::run(move || {
            let folder = tempfile::tempdir().expect("a folder");
            let (files, work) = (folder.path().join("snapshot"), folder.path().join("work"));
            for path in [&files, &work] {
                fs::create_dir(path).expect("a folder");
            }
            for (name, bytes) in &taken.files {
                fs::write(files.join(name), bytes).expect("a file");
            }
            let tools = FolderTools {
                exec: Arc::new(SystemExec),
                clock: Arc::new(SystemClock),
                run_max: std::time::Duration::from_secs(60),
            };
            let (target, cancel) = ("nas".parse().expect("a name"), CancellationToken::new());
            let examination = Examination {
                run: run_of(99),
                target: &target,
                tools: &tools,
                work: &work,
                cancel: &cancel,
                progress: &Progress::unwatched(),
            };
            let shown = examine(&files, contents(&taken), &examination).expect("a look");
            (shown.verdict, shown.compared)
        })
        .await
    }
}
