//! A tree through source and examination, without a repository in between.

use std::{fs, io::Read, path::Path, time::Duration};

use homelab_common::{
    clock::SystemClock,
    exec::{Exec, Program, SystemExec},
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    drill::{
        Shown, Verdict,
        folder::{Examination, FolderTools},
    },
    progress::Progress,
    tree::Exclude,
};

fn context() -> Context {
    Context {
        run: RunId::from(uuid::Uuid::nil()),
        backup: "tree".parse().expect("a name"),
        key: String::new(),
        last_items: None,
        cancel: CancellationToken::new(),
        before: crate::source::Before::default(),
    }
}

fn source(root: &Path) -> FilesSource {
    FilesSource {
        roots: vec![root.to_owned()],
        rules: Rules {
            exclude: Exclude::new(&["*.tmp".to_owned()]).expect("a pattern"),
            ..Rules::default()
        },
        changing: Changing::Fail,
        clock: Arc::new(SystemClock),
    }
}

/// Runs the source and writes its files into `folder`, as a restore would.
async fn store(source: &FilesSource, folder: &Path) -> Result<Manifest, SourceError> {
    let Capture { files, completion, .. } = source.begin(context()).await.expect("begun");
    let folder = folder.to_owned();
    let reading = tokio::task::spawn_blocking(move || {
        for mut file in files {
            let mut bytes = Vec::new();
            if file.content.read_to_end(&mut bytes).is_ok() {
                fs::write(folder.join(&file.name), bytes).expect("written");
            }
        }
    });
    let done = completion.await;
    reading.await.expect("read");
    done
}

fn examine(folder: &Path, contents: &FilesContents) -> Shown {
    let work = tempfile::tempdir().expect("a folder");
    let tools = FolderTools {
        exec: Arc::new(SystemExec),
        clock: Arc::new(SystemClock),
        run_max: Duration::from_secs(60),
    };
    let examination = Examination {
        run: context().run,
        target: &"scratch".parse().expect("a name"),
        tools: &tools,
        work: work.path(),
        cancel: &CancellationToken::new(),
        progress: &Progress::unwatched(),
    };
    restore::examine(folder, contents, &examination).expect("looked at")
}

fn tree() -> TempDir {
    let tree = tempfile::tempdir().expect("a folder");
    fs::create_dir(tree.path().join("it's a folder")).expect("a folder");
    fs::write(tree.path().join("it's a folder/notes.md"), b"notes").expect("a file");
    fs::write(tree.path().join("junk.tmp"), b"junk").expect("a file");
    tree
}

#[tokio::test]
async fn a_tree_is_stored_and_examined() {
    let (tree, folder) = (tree(), tempfile::tempdir().expect("a folder"));
    let manifest = store(&source(tree.path()), folder.path()).await.expect("stored");
    let stored = fs::read(folder.path().join(MANIFEST)).expect("a manifest");
    assert_eq!(Manifest::from_bytes(&stored).expect("a manifest"), manifest);
    let Contents::Files(contents) = &manifest.contents else { panic!("files") };
    assert_eq!((contents.count(), contents.bytes(), contents.excluded), (3, 5, 1));
    let shown = examine(folder.path(), contents);
    assert_eq!(shown.verdict, Verdict::Passed);
    assert_eq!(shown.compared[0].count, 3);
}

#[tokio::test]
async fn an_archive_that_is_not_the_manifests_fails_by_name() {
    let (tree, folder) = (tree(), tempfile::tempdir().expect("a folder"));
    let manifest = store(&source(tree.path()), folder.path()).await.expect("stored");
    let Contents::Files(contents) = &manifest.contents else { panic!("files") };
    fs::write(tree.path().join("it's a folder/notes.md"), b"NOTES").expect("a file");
    store(&source(tree.path()), folder.path()).await.expect("stored");
    let Verdict::Failed { differences } = examine(folder.path(), contents).verdict else {
        panic!("failed")
    };
    assert!(differences[0].contains("notes.md` is different"), "{differences:?}");
}

#[tokio::test]
async fn a_root_that_went_away_fails_the_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = source(&folder.path().join("gone"));
    assert!(source.inspect(context().run).await.is_err());
    let error = store(&source, folder.path()).await.expect_err("failed");
    let text = homelab_common::error_chain::Chain(&error).to_string();
    assert!(text.contains("gone (No such file"), "{text}");
    assert!(!folder.path().join(MANIFEST).exists(), "a broken promise is no file");
}

#[tokio::test]
async fn the_printed_commands_restore_the_tree() {
    let (tree, folder) = (tree(), tempfile::tempdir().expect("a folder"));
    let folder = folder.path().join("it's here");
    fs::create_dir(&folder).expect("a folder");
    let manifest = store(&source(tree.path()), &folder).await.expect("stored");
    let steps = crate::restore::next_steps(&folder, &manifest.contents);
    let program = Program::new("sh").args(["-ec", &steps[..2].join("\n")]);
    SystemExec.run(program).await.expect("a shell and tar");
    let own = tree.path().strip_prefix("/").expect("absolute");
    let back = folder.join("tree").join(own).join("it's a folder/notes.md");
    assert_eq!(fs::read(back).expect("restored"), b"notes");
}
