//! A Vaultwarden on a real disk with real SQLite: backed up, examined, damaged.

use std::{fs, io::Read, os::unix::fs::PermissionsExt};

use homelab_common::{
    clock::SystemClock,
    exec::{Exec, Program, SystemExec},
};
use sqlx::{
    AssertSqlSafe, Connection, SqliteConnection,
    sqlite::{SqliteConnectOptions, SqliteJournalMode},
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
};

/// The tables and columns that matter here, as Vaultwarden 1.36 has them.
const SCHEMA: &str = "\
CREATE TABLE users (uuid TEXT NOT NULL PRIMARY KEY, enabled BOOLEAN NOT NULL DEFAULT 1, \
  created_at DATETIME NOT NULL, updated_at DATETIME NOT NULL, email TEXT NOT NULL UNIQUE, \
  name TEXT NOT NULL, password_hash BLOB NOT NULL, salt BLOB NOT NULL, \
  password_iterations INTEGER NOT NULL, akey TEXT NOT NULL, security_stamp TEXT NOT NULL, \
  client_kdf_type INTEGER NOT NULL DEFAULT 0, client_kdf_iter INTEGER NOT NULL DEFAULT 600000);\
CREATE TABLE organizations (uuid TEXT NOT NULL PRIMARY KEY, name TEXT NOT NULL, \
  billing_email TEXT NOT NULL);\
CREATE TABLE collections (uuid TEXT NOT NULL PRIMARY KEY, \
  org_uuid TEXT NOT NULL REFERENCES organizations (uuid), name TEXT NOT NULL);\
CREATE TABLE folders (uuid TEXT NOT NULL PRIMARY KEY, created_at DATETIME NOT NULL, \
  updated_at DATETIME NOT NULL, user_uuid TEXT NOT NULL REFERENCES users (uuid), \
  name TEXT NOT NULL);\
CREATE TABLE ciphers (uuid TEXT NOT NULL PRIMARY KEY, created_at DATETIME NOT NULL, \
  updated_at DATETIME NOT NULL, user_uuid TEXT REFERENCES users (uuid), \
  organization_uuid TEXT REFERENCES organizations (uuid), atype INTEGER NOT NULL, \
  name TEXT NOT NULL, notes TEXT, fields TEXT, data TEXT NOT NULL);\
CREATE TABLE attachments (id TEXT NOT NULL PRIMARY KEY, \
  cipher_uuid TEXT NOT NULL REFERENCES ciphers (uuid), file_name TEXT NOT NULL, \
  file_size INTEGER NOT NULL, akey TEXT);\
CREATE TABLE sends (uuid TEXT NOT NULL PRIMARY KEY, user_uuid TEXT REFERENCES users (uuid), \
  organization_uuid TEXT REFERENCES organizations (uuid), name TEXT NOT NULL, notes TEXT, \
  atype INTEGER NOT NULL, data TEXT NOT NULL, akey TEXT NOT NULL, \
  access_count INTEGER NOT NULL, creation_date DATETIME NOT NULL, \
  deletion_date DATETIME NOT NULL, disabled BOOLEAN NOT NULL);\
INSERT INTO users VALUES ('u1', 1, '2026-01-01', '2026-01-01', 'ada@lab.example', 'Ada', \
  x'00', x'00', 100000, 'k', 's', 1, 3);";

/// A data folder with one of everything, and a connection that keeps its log open, as
/// the running server does.
struct Vault {
    folder: TempDir,
    live: SqliteConnection,
}

const ATTACHMENT: &str = "attachments/c1/a1";

/// Nothing here takes so long.
const DEADLINE: Duration = Duration::from_secs(60);

impl Vault {
    async fn make() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let options = SqliteConnectOptions::new()
            .filename(folder.path().join(DATABASE_FILE))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal);
        let mut live = SqliteConnection::connect_with(&options).await.expect("a database");
        // Everything stays in the log: the file itself has nothing.
        run(&mut live, "PRAGMA wal_autocheckpoint = 0").await;
        for statement in SCHEMA.split_inclusive(';') {
            run(&mut live, statement).await;
        }
        let mut vault = Self { folder, live };
        for index in 1..=10 {
            vault.cipher(&format!("c{index}")).await;
        }
        vault.write(ATTACHMENT, &[1; 1000]);
        vault.row("INSERT INTO attachments VALUES ('a1', 'c1', 'x', 1000, 'k')").await;
        vault.write("sends/s1/f1", &[2; 20]);
        let send = r#"{"id":"f1","fileName":"x","size":"20","sizeName":"20 B"}"#;
        vault
            .row(&format!(
                "INSERT INTO sends VALUES ('s1', 'u1', NULL, 'n', NULL, 1, '{send}', 'k', 0, \
                 '2026-01-01', '2026-02-01', 0), ('s2', 'u1', NULL, 'n', NULL, 0, \
                 '{{\"text\":\"t\"}}', 'k', 0, '2026-01-01', '2026-02-01', 0)"
            ))
            .await;
        vault.write("config.json", br#"{"smtp_host":"mail.lab.example"}"#);
        vault.write("rsa_key.pem", b"-----BEGIN PRIVATE KEY-----");
        vault.write("icon_cache/example.com.png", b"icon");
        vault.write("tmp/upload", b"half");
        vault.write("db_20260101_000000.sqlite3", b"its own backup");
        vault.write("vaultwarden.log", b"a line");
        vault
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, bytes).expect("written");
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.folder.path().join(name)).expect("removed");
    }

    async fn cipher(&mut self, id: &str) {
        self.row(&format!(
            "INSERT INTO ciphers VALUES ('{id}', '2026-01-01', '2026-01-01', 'u1', NULL, 1, 'n', \
             NULL, NULL, '{{}}')"
        ))
        .await;
    }

    async fn row(&mut self, sql: &str) {
        run(&mut self.live, sql).await;
    }

    fn source(&self, scratch: &Path) -> VaultwardenSource {
        VaultwardenSource {
            data_folder: self.folder.path().into(),
            attachments_folder: None,
            sends_folder: None,
            store: Store::Sqlite(None),
            may_fall_percent: 30,
            accept_items: None,
            known_missing: Vec::new(),
            settle: Duration::ZERO,
            scratch: scratch.into(),
            clock: Arc::new(SystemClock),
        }
    }
}

async fn run(database: &mut SqliteConnection, sql: &str) {
    sqlx::query(AssertSqlSafe(sql.to_owned())).execute(database).await.expect("SQL");
}

fn context(last_items: Option<u64>) -> Context {
    Context {
        run: RunId::from(uuid::Uuid::nil()),
        backup: "vault".parse().expect("a name"),
        key: String::new(),
        last_items,
        cancel: CancellationToken::new(),
        before: crate::source::Before::default(),
    }
}

/// What a run stores, as a restore would give it back.
struct Restored {
    folder: TempDir,
    contents: VaultwardenContents,
    warnings: Vec<String>,
}

async fn back_up(
    source: &VaultwardenSource,
    last_items: Option<u64>,
    meanwhile: impl FnOnce(),
) -> Result<Restored, SourceError> {
    let Capture { files, completion, .. } = source.begin(context(last_items)).await?;
    meanwhile();
    let folder = tempfile::tempdir().expect("a folder");
    let into = folder.path().to_owned();
    let reading = tokio::task::spawn_blocking(move || {
        for mut file in files {
            let mut bytes = Vec::new();
            if file.content.read_to_end(&mut bytes).is_ok() {
                fs::write(into.join(&file.name), bytes).expect("written");
            }
        }
    });
    let done = completion.await;
    reading.await.expect("read");
    let manifest = done?;
    let stored = fs::read(folder.path().join(MANIFEST)).expect("a manifest");
    assert_eq!(Manifest::from_bytes(&stored).expect("a manifest"), manifest);
    let Manifest { contents: Contents::Vaultwarden(contents), warnings, .. } = manifest else {
        panic!("another kind")
    };
    Ok(Restored { folder, contents, warnings })
}

impl Restored {
    async fn examine(&self, program: Option<PathBuf>) -> Shown {
        let (folder, contents) = (self.folder.path().to_owned(), self.contents.clone());
        // As in a drill: on a thread that may block, within the runtime.
        let look = tokio::task::spawn_blocking(move || {
            let work = tempfile::tempdir().expect("a folder");
            let tools = FolderTools {
                exec: Arc::new(SystemExec),
                clock: Arc::new(SystemClock),
                run_max: Duration::from_secs(60),
            };
            let examination = Examination {
                run: context(None).run,
                target: &"scratch".parse().expect("a name"),
                tools: &tools,
                work: work.path(),
                cancel: &CancellationToken::new(),
                progress: &Progress::unwatched(),
            };
            restore::examine(&folder, &contents, program.as_deref(), &examination)
        });
        look.await.expect("looked").expect("looked at")
    }

    /// Extracts the archive with plain tar, and gives the data folder.
    async fn with_tar(&self) -> PathBuf {
        let steps = crate::restore::next_steps(
            self.folder.path(),
            &Contents::Vaultwarden(self.contents.clone()),
        );
        let extract = steps.iter().find(|step| step.starts_with("mkdir")).expect("a step");
        let program = Program::new("sh").args(["-ec", extract]);
        SystemExec.run(program).await.expect("a shell and tar");
        self.folder.path().join("data")
    }
}

fn failed(shown: &Shown) -> &[String] {
    match &shown.verdict {
        Verdict::Failed { differences } => differences,
        other => panic!("{other:?}"),
    }
}

fn refusal(done: Result<Restored, SourceError>) -> String {
    let Err(error) = done else { panic!("it was backed up") };
    Chain(&error).to_string()
}

#[tokio::test]
async fn a_vault_comes_back_with_all_that_belongs_to_it() {
    let (vault, scratch) = (Vault::make().await, tempfile::tempdir().expect("a folder"));
    let restored = back_up(&vault.source(scratch.path()), Some(11), || {}).await.expect("done");
    let paths: Vec<&str> = restored.contents.entries.iter().map(|it| &*it.path).collect();
    let expected = [
        "db.sqlite3",
        "attachments",
        "attachments/c1",
        ATTACHMENT,
        "config.json",
        "rsa_key.pem",
        "sends",
        "sends/s1",
        "sends/s1/f1",
    ];
    assert_eq!(paths, expected);
    assert_eq!(restored.contents.items(), 12);
    assert_eq!(restored.warnings, Vec::<String>::new());
    let shown = restored.examine(None).await;
    assert_eq!(shown.verdict, Verdict::Passed);
    let last = shown.compared.last().expect("a count");
    assert!(last.what.starts_with("server starts"), "started, or named as left out: {last:?}");
    assert_eq!(fs::read_dir(scratch.path()).expect("a folder").count(), 0, "nothing stays");
}

#[tokio::test]
async fn an_unchanged_vault_gives_the_same_archive_again() {
    let (vault, scratch) = (Vault::make().await, tempfile::tempdir().expect("a folder"));
    let source = vault.source(scratch.path());
    let first = back_up(&source, None, || {}).await.expect("done");
    let second = back_up(&source, None, || {}).await.expect("done");
    assert_eq!(first.contents, second.contents);
    let archive = |of: &Restored| fs::read(of.folder.path().join(ARCHIVE_FILE)).expect("a file");
    assert!(archive(&first) == archive(&second));
}

#[tokio::test]
async fn pitfall_28_a_copied_database_holds_what_is_only_in_the_log() {
    let (mut vault, scratch) = (Vault::make().await, tempfile::tempdir().expect("a folder"));
    // The mistake: the file alone does not even have tables.
    let alone = scratch.path().join("alone.sqlite3");
    fs::copy(vault.folder.path().join(DATABASE_FILE), &alone).expect("copied");
    assert!(database::look(&alone).await.is_err());
    fs::remove_file(&alone).expect("removed");
    // A writer that never rests, while the backup runs.
    let options = SqliteConnectOptions::new()
        .filename(vault.folder.path().join(DATABASE_FILE))
        .busy_timeout(Duration::from_secs(10));
    let mut writer = SqliteConnection::connect_with(&options).await.expect("a database");
    let stop = CancellationToken::new();
    let stopping = stop.clone();
    let writing = async move {
        let mut written = 0_u32;
        while !stopping.is_cancelled() {
            let sql = format!(
                "INSERT INTO ciphers VALUES ('w{written}', '2026', '2026', 'u1', NULL, 1, 'n', \
                 NULL, NULL, '{{}}')"
            );
            run(&mut writer, &sql).await;
            written += 1;
        }
        written
    };
    let source = vault.source(scratch.path());
    let backing_up = async {
        let restored = back_up(&source, None, || {}).await;
        stop.cancel();
        restored
    };
    let (written, restored) = tokio::join!(writing, backing_up);
    let restored = restored.expect("done");
    assert!(written > 0);
    assert!(restored.contents.rows("ciphers") >= 10);
    let data = restored.with_tar().await;
    let facts = database::look(&data.join(DATABASE_FILE)).await.expect("a database");
    assert_eq!((facts.damage, facts.tables), (Vec::new(), restored.contents.tables.clone()));
    vault.row("PRAGMA wal_checkpoint").await;
}

#[tokio::test]
async fn pitfall_29_a_restore_never_lies_beside_a_stale_log() {
    let (mut vault, scratch) = (Vault::make().await, tempfile::tempdir().expect("a folder"));
    let restored = back_up(&vault.source(scratch.path()), None, || {}).await.expect("done");
    for name in ["db.sqlite3-wal", "db.sqlite3-shm"] {
        assert!(vault.folder.path().join(name).exists(), "the live vault has {name}");
        assert!(!restored.contents.entries.iter().any(|entry| &*entry.path == name));
    }
    vault.row("DELETE FROM ciphers WHERE uuid <> 'c1'").await;
    // The mistake: over the old folder, the log of the live database takes the restore back.
    let wrong = scratch.path().join("wrong");
    fs::create_dir(&wrong).expect("a folder");
    for name in ["db.sqlite3-wal", "db.sqlite3-shm"] {
        fs::copy(vault.folder.path().join(name), wrong.join(name)).expect("copied");
    }
    let data = restored.with_tar().await;
    fs::copy(data.join(DATABASE_FILE), wrong.join(DATABASE_FILE)).expect("copied");
    let undone = database::look(&wrong.join(DATABASE_FILE)).await;
    assert!(undone.is_err() || undone.is_ok_and(|facts| facts.tables != restored.contents.tables));
    // The printed way makes a new folder, and refuses one that is there.
    let facts = database::look(&data.join(DATABASE_FILE)).await.expect("a database");
    assert_eq!(facts.tables, restored.contents.tables);
    let steps = restore::next_steps(restored.folder.path(), &restored.contents);
    let extract = steps.iter().find(|step| step.starts_with("mkdir")).expect("a step");
    assert!(SystemExec.run(Program::new("sh").args(["-ec", extract])).await.is_err());
}

#[tokio::test]
async fn pitfall_30_an_attachment_without_its_file_fails_the_run() {
    let (vault, scratch) = (Vault::make().await, tempfile::tempdir().expect("a folder"));
    let mut source = vault.source(scratch.path());
    vault.remove(ATTACHMENT);
    let text = refusal(back_up(&source, None, || {}).await);
    assert!(text.contains("attachments/c1/a1 (1000 bytes)"), "{text}");
    vault.write(ATTACHMENT, b"cut");
    let text = refusal(back_up(&source, None, || {}).await);
    assert!(text.contains("or have another size: attachments/c1/a1"), "{text}");
    // Somebody looked into it and knows that it is lost.
    vault.remove(ATTACHMENT);
    source.known_missing = vec![ATTACHMENT.to_owned()];
    let restored = back_up(&source, None, || {}).await.expect("done");
    assert_eq!(restored.warnings, ["`attachments/c1/a1` is known to be missing"]);
}

#[tokio::test]
async fn pitfall_30_an_upload_under_way_is_waited_for() {
    let (mut vault, scratch) = (Vault::make().await, tempfile::tempdir().expect("a folder"));
    vault.row("INSERT INTO attachments VALUES ('a2', 'c2', 'x', 5, 'k')").await;
    let source = vault.source(scratch.path());
    let path = vault.folder.path().join("attachments/c2/a2");
    // The file arrives once the source has seen that it is not there and looks again.
    let again = scratch.path().join(format!("vaultwarden-{}/2.sqlite3", context(None).run));
    let arriving = async {
        while !again.exists() {
            tokio::task::yield_now().await;
        }
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(&path, b"12345").expect("written");
    };
    // A source that never looks again would be waited for without end.
    let both = async { tokio::join!(back_up(&source, None, || {}), arriving) };
    let (restored, ()) = tokio::time::timeout(DEADLINE, both).await.expect("it looks again");
    let restored = restored.expect("done");
    assert!(restored.warnings[0].contains("the database was looked at"), "{:?}", restored.warnings);
    assert!(restored.contents.entries.iter().any(|entry| &*entry.path == "attachments/c2/a2"));
}

#[tokio::test]
async fn pitfall_30_what_a_user_deletes_meanwhile_is_a_warning_and_orphans_are_listed() {
    let (mut vault, scratch) = (Vault::make().await, tempfile::tempdir().expect("a folder"));
    vault.write("attachments/c9/forgotten", b"x");
    let source = vault.source(scratch.path());
    // The row goes first, then the file, as Vaultwarden does it; both after the copy.
    let Capture { files, completion, .. } = source.begin(context(None)).await.expect("begun");
    vault.row("DELETE FROM attachments").await;
    vault.remove(ATTACHMENT);
    let reading = tokio::task::spawn_blocking(move || {
        for mut file in files {
            file.content.read_to_end(&mut Vec::new()).expect("read");
        }
    });
    let manifest = completion.await.expect("done");
    reading.await.expect("read");
    assert_eq!(
        manifest.warnings,
        [
            "`attachments/c1/a1` was deleted while the backup ran",
            "no row stands for 1 uploaded files, such as `attachments/c9/forgotten`"
        ]
    );
    // A file that goes while its row stays is a loss.
    vault.write(ATTACHMENT, &[1; 1000]);
    vault.row("INSERT INTO attachments VALUES ('a1', 'c1', 'x', 1000, 'k')").await;
    let text = refusal(back_up(&source, None, || vault.remove(ATTACHMENT)).await);
    assert!(text.contains("attachments/c1/a1"), "{text}");
}

#[tokio::test]
async fn pitfall_31_a_missing_or_empty_database_is_no_backup() {
    let (mut vault, scratch) = (Vault::make().await, tempfile::tempdir().expect("a folder"));
    let mut source = vault.source(scratch.path());
    source.store = Store::Sqlite(Some(vault.folder.path().join("other.sqlite3")));
    let text = refusal(back_up(&source, None, || {}).await);
    assert!(text.contains("there is no database"), "{text}");
    assert!(!vault.folder.path().join("other.sqlite3").exists(), "none is made by looking");
    vault.write("other.sqlite3", b"");
    let text = refusal(back_up(&source, None, || {}).await);
    assert!(text.contains("has no users"), "{text}");
    vault.write("other.sqlite3", b"this is no database at all");
    let text = refusal(back_up(&source, None, || {}).await);
    assert!(text.contains("not a database"), "{text}");
    for table in ["attachments", "sends", "ciphers", "users"] {
        vault.row(&format!("DELETE FROM {table}")).await;
    }
    let text = refusal(back_up(&vault.source(scratch.path()), None, || {}).await);
    assert!(text.contains("has no users"), "{text}");
}

#[tokio::test]
async fn pitfall_31_a_collapse_of_rows_fails_until_it_is_accepted() {
    let (vault, scratch) = (Vault::make().await, tempfile::tempdir().expect("a folder"));
    let mut source = vault.source(scratch.path());
    assert!(back_up(&source, Some(17), || {}).await.is_ok(), "12 of 17 are enough");
    let text = refusal(back_up(&source, Some(18), || {}).await);
    assert!(text.contains("there are 12") && text.contains("accept-items = 12"), "{text}");
    source.accept_items = Some(12);
    assert!(back_up(&source, Some(18), || {}).await.is_ok());
}

#[tokio::test]
async fn a_damaged_database_is_not_backed_up() {
    let (mut vault, scratch) = (Vault::make().await, tempfile::tempdir().expect("a folder"));
    vault.row("PRAGMA foreign_keys = OFF").await;
    vault.row("INSERT INTO folders VALUES ('f1', '2026', '2026', 'nobody', 'n')").await;
    let text = refusal(back_up(&vault.source(scratch.path()), None, || {}).await);
    assert!(text.contains("row 1 of `folders` refers to a row of `users`"), "{text}");
}

#[tokio::test]
async fn a_drill_names_an_attachment_that_the_archive_has_otherwise() {
    let (vault, scratch) = (Vault::make().await, tempfile::tempdir().expect("a folder"));
    let source = vault.source(scratch.path());
    let mut restored = back_up(&source, None, || {}).await.expect("done");
    vault.write(ATTACHMENT, &[9; 1000]);
    let other = back_up(&source, None, || {}).await.expect("done");
    restored.folder = other.folder;
    let shown = restored.examine(None).await;
    assert!(failed(&shown)[0].contains("`attachments/c1/a1` is different"), "{shown:?}");
}

#[tokio::test]
async fn a_drill_names_rows_that_are_not_the_manifests() {
    let (vault, scratch) = (Vault::make().await, tempfile::tempdir().expect("a folder"));
    let mut restored = back_up(&vault.source(scratch.path()), None, || {}).await.expect("done");
    let ciphers = restored.contents.tables.iter_mut().find(|it| it.table == "ciphers");
    ciphers.expect("a table").rows = 11;
    let shown = restored.examine(None).await;
    assert_eq!(failed(&shown), ["`ciphers` has 10 rows, not 11"]);
}

/// Stands in for Vaultwarden, whose program no package archive has: it reads the same
/// variables, and answers from the database that it is given.
const STAND_IN: &str = include_str!("../../../../tests/stand-ins/vaultwarden.py");

fn stand_in(folder: &Path, text: &str) -> PathBuf {
    let program = folder.join("vaultwarden");
    fs::write(&program, text).expect("a file");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a mode");
    program
}

#[tokio::test]
async fn a_stand_in_started_on_the_restored_folder_answers_a_prelogin() {
    let (vault, scratch) = (Vault::make().await, tempfile::tempdir().expect("a folder"));
    let restored = back_up(&vault.source(scratch.path()), None, || {}).await.expect("done");
    let program = stand_in(scratch.path(), &STAND_IN.replace("EXTRA", "0"));
    let shown = restored.examine(Some(program)).await;
    assert_eq!(shown.verdict, Verdict::Passed, "apt install python3");
    let started = shown.compared.last().expect("a count");
    assert_eq!((started.what, started.count), ("server starts", 1));
    let count = |what: &str| shown.compared.iter().find(|it| it.what == what).map(|it| it.count);
    assert_eq!(count("attachments"), Some(1));
    assert_eq!(count("file Sends"), Some(1));
    assert_eq!(count("vault entries"), Some(10));
}

#[tokio::test]
async fn a_stand_in_that_knows_the_user_otherwise_fails_the_drill() {
    let (vault, scratch) = (Vault::make().await, tempfile::tempdir().expect("a folder"));
    let restored = back_up(&vault.source(scratch.path()), None, || {}).await.expect("done");
    let program = stand_in(scratch.path(), &STAND_IN.replace("EXTRA", "1"));
    let shown = restored.examine(Some(program)).await;
    assert!(failed(&shown)[0].contains("key derivation 1 with 4 rounds"), "{shown:?}");
}

#[tokio::test]
async fn a_stand_in_that_ends_at_once_leaves_the_drill_unverified() {
    let (vault, scratch) = (Vault::make().await, tempfile::tempdir().expect("a folder"));
    let restored = back_up(&vault.source(scratch.path()), None, || {}).await.expect("done");
    let program = stand_in(scratch.path(), "#!/bin/sh\necho no such migration\nexit 1\n");
    let Verdict::Unverified { because } = restored.examine(Some(program)).await.verdict else {
        panic!("unverified")
    };
    assert!(because[0].contains("no such migration"), "{because:?}");
}
