//! A real repository, read by the real Git.

use std::os::unix::fs::symlink;

use homelab_domain::fleet::Verdict;

use super::rig::{Rig, commit, git, now};
use crate::task::Done;

const SOURCE: &str = "[[context.source]]\nname = \"homelab\"\ngit = \"{folder}/repo\"\n";

#[tokio::test]
async fn a_repository_is_read_and_cited_by_its_commit() {
    let rig = Rig::new(SOURCE).await;
    let repo = rig.folder.path().join("repo");
    let wake = b"# Power\n## Wake\nA magic packet wakes x99.\n".as_slice();
    commit(&repo, &[("docs/wake.md", wake), ("src/main.rs", b"fn magic() {}")]).await;
    assert!(matches!(rig.look().await, Done::Changed(_)));
    let found = rig.found("how does a magic packet wake x99?").await;
    let refreshed = rig.state("homelab").await.refreshed.expect("read");
    let version: String = refreshed.version.chars().take(24).collect();
    assert_eq!(found, [format!("[1] homelab: docs/wake.md @ {version} — Power > Wake")]);
    assert_eq!((refreshed.documents, refreshed.passages), (1, 1));
}

#[tokio::test]
async fn nothing_is_read_again_until_the_repository_changes() {
    let rig = Rig::new(SOURCE).await;
    let repo = rig.folder.path().join("repo");
    commit(&repo, &[("a.md", b"the old magic word")]).await;
    rig.look().await;
    let before = rig.state("homelab").await;
    assert_eq!(rig.look().await, Done::Nothing);
    let seen = rig.state("homelab").await;
    assert_eq!(seen.refreshed, before.refreshed);
    assert!(seen.looked_at > before.looked_at);
    commit(&repo, &[("a.md", b"the new magic word")]).await;
    rig.look().await;
    assert!(rig.found("old").await.is_empty());
    assert_eq!(rig.found("new magic").await.len(), 1);
    rig.takes(&SOURCE.replace("homelab", "other"));
    rig.look().await;
    assert!(rig.found("new magic").await[0].contains("other: a.md"));
}

#[tokio::test]
async fn what_is_no_text_too_large_a_link_or_a_secret_is_left_out_and_counted() {
    let rig = Rig::new(SOURCE).await;
    let repo = rig.folder.path().join("repo");
    let keys =
        b"# Keys\nmagic token ghp_16C7e42F292c6912E7710c838347Ae178B4a\n# Rest\nmagic rest\n";
    commit(
        &repo,
        &[
            ("keys.md", keys.as_slice()),
            ("binary.md", b"magic \0\xff\xfe"),
            ("large.md", &b"magic ".repeat(60_000)),
        ],
    )
    .await;
    symlink("/etc/passwd", repo.join("link.md")).expect("a link");
    git(&repo, &["add", "--all"]).await;
    git(&repo, &["commit", "--quiet", "--message", "link"]).await;
    rig.look().await;
    let refreshed = rig.state("homelab").await.refreshed.expect("read");
    assert_eq!((refreshed.documents, refreshed.passages), (1, 1));
    assert_eq!((refreshed.withheld, refreshed.skipped), (1, 2));
    let notes = refreshed.notes.join("\n");
    assert!(notes.contains("keys.md: a passage holds a secret (Keys)"), "{notes}");
    assert!(notes.contains("binary.md: it is no text"), "{notes}");
    assert!(notes.contains("large.md: it is larger than 256 KiB"), "{notes}");
    assert!(!notes.contains("ghp_"), "{notes}");
    assert_eq!(rig.found("magic").await.len(), 1);
}

#[tokio::test]
async fn no_hook_or_setting_of_a_repository_runs_a_program() {
    let rig = Rig::new(SOURCE).await;
    let repo = rig.folder.path().join("repo");
    commit(&repo, &[("a.md", b"magic")]).await;
    let mark = rig.folder.path().join("ran");
    let touch = format!("touch {}", mark.display());
    for (name, value) in [
        ("core.fsmonitor", touch.as_str()),
        ("uploadpack.packObjectsHook", &touch),
        ("core.sshCommand", &touch),
        ("credential.helper", &format!("!{touch}")),
    ] {
        git(&repo, &["config", name, value]).await;
    }
    rig.look().await;
    assert_eq!(rig.found("magic").await.len(), 1);
    assert!(!mark.exists(), "a program of the repository ran");
}

#[tokio::test]
async fn a_repository_that_is_not_there_is_a_concern_and_what_was_read_stays() {
    let rig = Rig::new(SOURCE).await;
    let repo = rig.folder.path().join("repo");
    commit(&repo, &[("a.md", b"magic")]).await;
    rig.look().await;
    std::fs::rename(&repo, rig.folder.path().join("away")).expect("moved");
    assert_eq!(rig.look().await, Done::Nothing);
    rig.look().await;
    assert_eq!(rig.state("homelab").await.trouble.expect("fails").failures, 2);
    let concerns = rig.documents.concerns(now()).await.expect("the store works");
    assert_eq!(concerns.len(), 1);
    assert_eq!(
        (concerns[0].verdict, concerns[0].subject.as_str()),
        (Verdict::Warning, "context/homelab")
    );
    assert!(concerns[0].because.message.contains("could not fetch the repository"));
    assert_eq!(rig.found("magic").await.len(), 1, "what was read can be searched");
}

#[tokio::test]
async fn a_source_that_somebody_wants_is_read_before_it_is_due() {
    let rig = Rig::new(SOURCE).await;
    assert!(
        rig.documents.want("homelap").is_err_and(|error| error.to_string().contains("homelab"))
    );
    rig.documents.want("homelab").expect("a source");
    assert!(
        rig.documents.wanted().contains(
            "homelab".parse::<homelab_domain::ids::SourceName>().as_ref().expect("a name")
        )
    );
    rig.look().await;
    assert!(rig.documents.wanted().is_empty());
}
