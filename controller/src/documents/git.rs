//! Documents of a Git repository, read by the real `git`.
//!
//! What stands in a repository is written by others, and so is its configuration: Git runs here
//! without hooks, without helpers, with the one protocol that its place needs, and with a
//! configuration of our own. It fetches one state of one branch into a folder of the controller, and
//! files are read from there by their digests; nothing is ever checked out.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use homelab_common::{
    exec::{Exec, ExecError, Output, Program},
    secret::{SecretError, Source},
};
use homelab_domain::context::{Document, GitPlace, GitSource};

use super::harvest::{DOCUMENT_BYTES_MAX, DOCUMENTS_MAX, Harvest, TOTAL_BYTES_MAX};

/// The branch of our own folder that holds what was fetched last.
const FETCHED: &str = "refs/homelab/fetched";

/// How long a fetch may take.
const FETCH_DEADLINE: Duration = Duration::from_secs(300);

/// How long anything else may.
const READ_DEADLINE: Duration = Duration::from_secs(60);

/// Largest file that Git may write: a fetch that brings more ends there.
const PACK_BYTES_MAX: u64 = 1 << 30;

/// Largest list of files that is read.
const LIST_BYTES_MAX: u64 = 32 << 20;

/// Bytes of files that are read by one process.
const BATCH_BYTES_MAX: u64 = 4 << 20;

/// Why a repository could not be read.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// The folder of the controller cannot be used.
    #[error("could not use `{}`", path.display())]
    Folder {
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The token cannot be loaded.
    #[error("the token could not be loaded")]
    Token(#[source] SecretError),
    /// The token is not named in a way that can be read.
    #[error("the token is not named in a way that can be read")]
    TokenName,
    /// Git did not do what it was asked for.
    #[error("could not {doing}")]
    Git {
        /// What was asked for.
        doing: &'static str,
        /// What became of it.
        #[source]
        source: ExecError,
    },
    /// Git said something that cannot be read.
    #[error("git answered something that cannot be read, when asked to {0}")]
    Garbage(&'static str),
}

/// A repository, as this controller reads it.
#[derive(Debug)]
pub struct Repository<'a> {
    exec: &'a dyn Exec,
    source: &'a GitSource,
    folder: PathBuf,
    config: PathBuf,
}

impl<'a> Repository<'a> {
    /// The repository of a source; what is fetched goes into `NAME.git` of this folder.
    #[must_use]
    pub fn new(exec: &'a dyn Exec, source: &'a GitSource, folder: &Path, name: &str) -> Self {
        let config = folder.join(format!("{name}.gitconfig"));
        Self { exec, source, folder: folder.join(format!("{name}.git")), config }
    }

    /// Fetches the branch and says which commit it is now.
    ///
    /// # Errors
    /// The repository cannot be reached, or the folder cannot be used.
    pub async fn fetch(&self) -> Result<String, GitError> {
        self.prepare().await?;
        let wanted = format!("+{}:{FETCHED}", self.source.reference);
        let place = match &self.source.place {
            GitPlace::Folder(path) => path.display().to_string(),
            place => place.to_string(),
        };
        let args = [
            "fetch",
            "--quiet",
            "--depth=1",
            "--no-tags",
            "--no-auto-maintenance",
            "--no-recurse-submodules",
            "--no-write-fetch-head",
            "--end-of-options",
            &place,
            &wanted,
        ];
        let program = self.git(&args)?.deadline(FETCH_DEADLINE);
        self.run("fetch the repository", program).await?;
        let program = self.git(&["rev-parse", "--verify", &format!("{FETCHED}^{{commit}}")])?;
        let commit = self.run("find the commit", program).await?.text().trim().to_owned();
        let is_digest = commit.len() >= 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_digest.then_some(commit).ok_or(GitError::Garbage("find the commit"))
    }

    /// Reads the documents of a commit that was fetched.
    ///
    /// # Errors
    /// Git cannot read its own folder; drop that, and it is fetched anew.
    pub async fn read(&self, commit: &str) -> Result<Harvest, GitError> {
        let args = ["ls-tree", "-r", "-z", "--long", "--full-tree", commit];
        let program = self.git(&args)?.output_bytes_max(LIST_BYTES_MAX);
        let listed = self.run("list the files", program).await?;
        let mut harvest = Harvest::default();
        let files = self.wanted(&listed.stdout, &mut harvest)?;
        for batch in batches(&files) {
            let digests: String = batch.iter().map(|file| format!("{}\n", file.digest)).collect();
            let bytes: u64 = batch.iter().map(|file| file.bytes + 128).sum();
            let program = self.git(&["cat-file", "--batch"])?.stdin(digests.into_bytes());
            let read = self.run("read files", program.output_bytes_max(bytes)).await?;
            take(&read.stdout, batch, commit, &mut harvest)?;
        }
        Ok(harvest)
    }

    /// Makes room for what is not needed any more. Nothing depends on it.
    pub async fn tidy(&self) {
        if let Ok(program) = self.git(&["gc", "--quiet", "--prune=now"]) {
            let _untidy = self.exec.run(program.deadline(FETCH_DEADLINE)).await;
        }
    }

    /// Drops everything that was fetched.
    pub fn forget(&self) {
        let _gone = fs::remove_dir_all(&self.folder);
    }

    fn wanted(&self, listed: &[u8], harvest: &mut Harvest) -> Result<Vec<File>, GitError> {
        let mut files = Vec::new();
        let mut total = 0;
        for record in listed.split(|byte| *byte == 0).filter(|record| !record.is_empty()) {
            let Ok(record) = std::str::from_utf8(record) else {
                harvest.pass_over("a file", "its name is no text");
                continue;
            };
            let file = File::of(record).ok_or(GitError::Garbage("list the files"))?;
            let Some(file) = file else { continue };
            if !self.source.files.iter().any(|pattern| pattern.fits(&file.path)) {
                continue;
            }
            if file.bytes > DOCUMENT_BYTES_MAX {
                harvest.pass_over(&file.path, "it is larger than 256 KiB");
            } else if files.len() >= DOCUMENTS_MAX || total + file.bytes > TOTAL_BYTES_MAX {
                harvest.pass_over(&file.path, "the source has more than is read");
            } else {
                total += file.bytes;
                files.push(file);
            }
        }
        Ok(files)
    }

    async fn prepare(&self) -> Result<(), GitError> {
        let parent = self.config.parent().unwrap_or(&self.config);
        let folder_error = |path: &Path| {
            let path = path.to_owned();
            move |source| GitError::Folder { path, source }
        };
        fs::create_dir_all(parent).map_err(folder_error(parent))?;
        fs::write(&self.config, self.configuration()).map_err(folder_error(&self.config))?;
        if !self.folder.join("HEAD").exists() {
            let folder = self.folder.display().to_string();
            let program = self.git_without_folder(&["init", "--quiet", "--bare", &folder])?;
            self.run("prepare a folder for the repository", program).await?;
        }
        Ok(())
    }

    /// What must also reach the Git at the other end of a folder, which drops our environment.
    fn configuration(&self) -> String {
        let quoted = |path: &Path| {
            let text = path.display().to_string();
            format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
        };
        let mut text = "[core]\n\thooksPath = /dev/null\n\tfsmonitor = false\n".to_owned();
        if let GitPlace::Folder(path) = &self.source.place {
            // It belongs to somebody else as a rule, and the site file says that it may be read.
            let inner = path.join(".git");
            for path in [path.as_path(), &inner] {
                text.push_str(&format!("[safe]\n\tdirectory = {}\n", quoted(path)));
            }
        }
        text
    }

    fn git(&self, args: &[&str]) -> Result<Program, GitError> {
        let folder = format!("--git-dir={}", self.folder.display());
        let args: Vec<&str> =
            std::iter::once(folder.as_str()).chain(args.iter().copied()).collect();
        self.git_without_folder(&args)
    }

    fn git_without_folder(&self, args: &[&str]) -> Result<Program, GitError> {
        let mut program = Program::new("prlimit")
            .arg(format!("--fsize={PACK_BYTES_MAX}"))
            .args(["--", "git"])
            .args(args.iter().copied())
            .env("LC_ALL", "C")
            .env("HOME", self.config.parent().unwrap_or(&self.config).display().to_string())
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", self.config.display().to_string())
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "/bin/false")
            .env("GIT_PROTOCOL_FROM_USER", "0")
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("GIT_SSH_COMMAND", "ssh -oBatchMode=yes -oStrictHostKeyChecking=yes")
            .deadline(READ_DEADLINE);
        let settings = self.settings()?;
        program = program.env("GIT_CONFIG_COUNT", settings.len().to_string());
        for (index, (name, value)) in settings.into_iter().enumerate() {
            program = program
                .env(format!("GIT_CONFIG_KEY_{index}"), name)
                .env(format!("GIT_CONFIG_VALUE_{index}"), value);
        }
        Ok(program)
    }

    /// Settings of our own Git. They go in by the environment, which others cannot read: one of them
    /// is the token.
    fn settings(&self) -> Result<Vec<(String, String)>, GitError> {
        let protocol = match &self.source.place {
            GitPlace::Folder(_) => "file",
            GitPlace::Https(_) => "https",
            GitPlace::Ssh(_) => "ssh",
        };
        let mut settings = vec![
            ("protocol.allow".to_owned(), "never".to_owned()),
            (format!("protocol.{protocol}.allow"), "always".to_owned()),
            ("credential.helper".to_owned(), String::new()),
            ("http.followRedirects".to_owned(), "false".to_owned()),
            ("http.proxy".to_owned(), String::new()),
            ("gc.auto".to_owned(), "0".to_owned()),
        ];
        if let Some(path) = &self.source.ca_file {
            settings.push(("http.sslCAInfo".to_owned(), path.display().to_string()));
        }
        if let (GitPlace::Https(url), Some(token)) = (&self.source.place, &self.source.token) {
            let token: Source = token.parse().map_err(|_| GitError::TokenName)?;
            let token = token.load().map_err(GitError::Token)?;
            let pair = STANDARD.encode(format!("{}:{}", self.source.user, token.expose().trim()));
            settings
                .push((format!("http.{url}.extraHeader"), format!("Authorization: Basic {pair}")));
        }
        Ok(settings)
    }

    async fn run(&self, doing: &'static str, program: Program) -> Result<Output, GitError> {
        self.exec.run(program).await.map_err(|source| GitError::Git { doing, source })
    }
}

struct File {
    digest: String,
    bytes: u64,
    path: String,
}

impl File {
    /// One record of `ls-tree --long`: mode, kind, digest and size, a tab, the path. None within for
    /// what is no plain file: a link, a folder of another repository.
    fn of(record: &str) -> Option<Option<Self>> {
        let (facts, path) = record.split_once('\t')?;
        let mut facts = facts.split_ascii_whitespace();
        let (mode, kind, digest, bytes) =
            (facts.next()?, facts.next()?, facts.next()?, facts.next()?);
        if kind != "blob" || !mode.starts_with("100") {
            return Some(None);
        }
        let bytes = bytes.parse().ok()?;
        Some(Some(Self { digest: digest.to_owned(), bytes, path: path.to_owned() }))
    }
}

/// Files in groups that are not too large.
fn batches(files: &[File]) -> Vec<&[File]> {
    let mut batches = Vec::new();
    let (mut from, mut bytes) = (0, 0);
    for (index, file) in files.iter().enumerate() {
        if index > from && bytes + file.bytes > BATCH_BYTES_MAX {
            batches.extend(files.get(from..index));
            (from, bytes) = (index, 0);
        }
        bytes += file.bytes;
    }
    batches.extend(files.get(from..).filter(|rest| !rest.is_empty()));
    batches
}

/// Takes files out of what `cat-file --batch` writes: `DIGEST blob SIZE`, a line break, the bytes, a
/// line break.
fn take(
    mut written: &[u8],
    files: &[File],
    commit: &str,
    harvest: &mut Harvest,
) -> Result<(), GitError> {
    const GARBAGE: GitError = GitError::Garbage("read files");
    for file in files {
        let end = written.iter().position(|byte| *byte == b'\n').ok_or(GARBAGE)?;
        let (head, rest) = written.split_at_checked(end).ok_or(GARBAGE)?;
        let head = std::str::from_utf8(head).map_err(|_| GARBAGE)?;
        if head != format!("{} blob {}", file.digest, file.bytes) {
            return Err(GARBAGE);
        }
        let length = usize::try_from(file.bytes).map_err(|_| GARBAGE)?;
        let content = rest.get(1..=length).ok_or(GARBAGE)?;
        written = rest.get(length + 2..).ok_or(GARBAGE)?;
        match std::str::from_utf8(content) {
            Ok(text) if !text.contains('\0') => harvest.documents.push(Document {
                path: file.path.clone(),
                title: String::new(),
                url: String::new(),
                version: commit.to_owned(),
                text: text.to_owned(),
            }),
            _ => harvest.pass_over(&file.path, "it is no text"),
        }
    }
    Ok(())
}
