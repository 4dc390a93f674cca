//! A Vaultwarden: its database, and the files that belong to it.
//!
//! The database is copied first, the files are read after: then every row of the copy
//! has its file, unless a user deleted it in between. That is checked and not hoped
//! for: a backup without one of its attachments fails. What is left out can be had
//! again or hurts: icons, temporary files, logs, Vaultwarden's own copies of its
//! database, and SQLite's `-wal` and `-shm`, which destroy a restored database when
//! they lie beside it.

pub mod config;
pub(crate) mod database;
mod error;
pub mod manifest;
mod postgres;
pub(crate) mod restore;
mod server;
#[cfg(test)]
mod tests;

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::{ffi::OsStrExt, fs::DirBuilderExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use homelab_common::{clock::Clock, error_chain::Chain};
use jiff::Timestamp;
use tokio::sync::oneshot;

pub use error::VaultwardenError;
pub use server::PROGRAMS;

use super::{Capture, Context, Source, SourceError, postgres::PostgresSource};
use crate::{
    ids::RunId,
    manifest::{Contents, FILE_NAME as MANIFEST, FORMAT, Manifest, WARNINGS_MAX},
    repository::{Incoming, SourceKind, StoredFile},
    stream::{Gauge, Later, Measured, Promise, StreamError},
    tree::{Changing, Exclude, Filesystems, Names, Packed, Root, Rules, escape, pack, unescape},
};
use database::Facts;
use manifest::{Upload, VaultwardenContents, items, missing, orphans};

/// The archive, in every snapshot of a Vaultwarden.
pub const ARCHIVE_FILE: &str = "vaultwarden.tar";

/// The database, in the archive.
pub const DATABASE_FILE: &str = "db.sqlite3";

/// How often the database is looked at until all files that it names are there.
const LOOKS_MAX: u32 = 3;

/// What never belongs into the archive: see the module. Patterns of [`Exclude`].
const LEFT_OUT: [&str; 6] =
    ["/db.sqlite3*", "/db_*.sqlite3*", "/icon_cache", "/tmp", "/*.log", "/*.log.*"];

/// A Vaultwarden to back up.
#[derive(Debug)]
pub struct VaultwardenSource {
    /// Its data folder.
    pub data_folder: PathBuf,
    /// Where its attachments are, if not there.
    pub attachments_folder: Option<PathBuf>,
    /// Where its Sends are, if not there.
    pub sends_folder: Option<PathBuf>,
    /// Its database.
    pub store: Store,
    /// By how much the rows may have fallen since the last backup, in percent.
    pub may_fall_percent: u8,
    /// So many rows are enough, whatever there were before.
    pub accept_items: Option<u64>,
    /// Uploads that are known to be lost.
    pub known_missing: Vec<String>,
    /// How long an upload that is under way gets before the database is copied anew.
    pub settle: Duration,
    /// A private folder, for the copy of the database.
    pub scratch: PathBuf,
    /// Tells the moment of the copy.
    pub clock: Arc<dyn Clock>,
}

/// Where a Vaultwarden keeps its rows.
#[derive(Clone, Debug)]
pub enum Store {
    /// In a file; without a name in `db.sqlite3` of the data folder.
    Sqlite(Option<PathBuf>),
    /// In PostgreSQL.
    Postgres(Arc<PostgresSource>),
}

#[async_trait]
impl Source for VaultwardenSource {
    fn kind(&self) -> SourceKind {
        SourceKind::Vaultwarden
    }

    async fn inspect(&self, run: RunId) -> Result<Vec<String>, SourceError> {
        let work = Work::make(&self.scratch, run)?;
        let places = self.places()?;
        let mut findings = match &places.database {
            Live::Sqlite(_) => Vec::new(),
            Live::Postgres(source) => source.inspect(run).await?,
        };
        let seen = places.database.look(&work, run, 0, self.clock.as_ref()).await?;
        findings.push(format!(
            "`{}` with {} users, vault entries and the like, and {} uploaded files would be \
             archived",
            places.data.display(),
            items(&seen.facts.tables),
            seen.facts.uploads.len()
        ));
        let lacking = self.lacking(&places, &seen.facts.uploads);
        if !lacking.is_empty() {
            findings.push(format!("files that the database names are missing: {lacking}"));
        }
        Ok(findings)
    }

    async fn begin(&self, context: Context) -> Result<Capture, SourceError> {
        let work = Work::make(&self.scratch, context.run)?;
        let places = self.places()?;
        // Its moment comes before that of the files.
        let dump = match &places.database {
            Live::Sqlite(_) => None,
            Live::Postgres(source) => Some(source.begin(context.clone()).await?),
        };
        let seen = self.settled(&work, &places, &context).await?;
        self.refuse_collapse(&seen.facts, context.last_items)?;
        let (tree, packed) = pack(places.roots(seen.copy.as_deref()), rules()?, Changing::Fail);
        let (content, gauge) = Measured::new(Box::new(tree), context.cancel.clone());
        let tree = Incoming { name: ARCHIVE_FILE.to_owned(), content, gauge: gauge.clone() };
        let (later, promise) = Later::new();
        let (content, manifest_gauge) = Measured::new(Box::new(later), context.cancel.clone());
        let manifest = Incoming { name: MANIFEST.to_owned(), content, gauge: manifest_gauge };
        let (mut taken_at, mut dumped, mut files) = (seen.taken_at, None, Vec::new());
        if let Some(capture) = dump {
            taken_at = capture.taken_at;
            files.extend(capture.files.into_iter().filter(|file| file.name != MANIFEST));
            dumped = Some(capture.completion);
        }
        // The manifest waits for all the others and must not be waited for before them.
        files.extend([tree, manifest]);
        let completing = Completing {
            context,
            seen,
            taken_at,
            folder: escape(places.data.as_os_str().as_bytes()),
            live: places.database,
            known_missing: self.known_missing.clone(),
            clock: Arc::clone(&self.clock),
            promise,
            work,
        };
        let completion = Box::pin(completing.complete(gauge, packed, dumped));
        Ok(Capture { taken_at, files, completion })
    }
}

/// Where things are, with the links in the configured paths followed.
#[derive(Debug)]
pub(super) struct Places {
    data: PathBuf,
    attachments: Option<PathBuf>,
    sends: Option<PathBuf>,
    database: Live,
}

impl Places {
    /// Where an upload lies now.
    fn upload(&self, upload: &Upload) -> PathBuf {
        use std::os::unix::ffi::OsStringExt;
        let path = unescape(&upload.path).unwrap_or_default();
        let path = PathBuf::from(std::ffi::OsString::from_vec(path));
        let moved = [("attachments", &self.attachments), ("sends", &self.sends)];
        for (folder, moved) in moved {
            if let (Ok(rest), Some(moved)) = (path.strip_prefix(folder), moved) {
                return moved.join(rest);
            }
        }
        self.data.join(path)
    }

    /// What goes into the archive, the database first.
    fn roots(&self, database: Option<&Path>) -> Vec<Root> {
        let root = |path: &Path, inside: &str| Root { path: path.into(), inside: inside.into() };
        let mut roots = Vec::new();
        roots.extend(database.map(|copy| root(copy, DATABASE_FILE)));
        roots.push(root(&self.data, ""));
        roots.extend(self.attachments.as_ref().map(|path| root(path, "attachments")));
        roots.extend(self.sends.as_ref().map(|path| root(path, "sends")));
        roots
    }
}

/// What of a data folder is read.
fn rules() -> Result<Rules, VaultwardenError> {
    let exclude = Exclude::new(&LEFT_OUT.map(str::to_owned)).map_err(|error| {
        VaultwardenError::Stream(StreamError::Source(Arc::new(io::Error::other(error))))
    })?;
    Ok(Rules { exclude, filesystems: Filesystems::All })
}

/// A database that is in use.
#[derive(Clone, Debug)]
enum Live {
    Sqlite(PathBuf),
    Postgres(Arc<PostgresSource>),
}

/// What a database held when it was looked at.
#[derive(Debug)]
struct Seen {
    /// The copy of it, if it is a file.
    copy: Option<PathBuf>,
    facts: Facts,
    taken_at: Timestamp,
    /// How many looks it took until all files were there.
    looks: u32,
}

impl Live {
    async fn look(
        &self,
        work: &Work,
        run: RunId,
        looks: u32,
        clock: &dyn Clock,
    ) -> Result<Seen, SourceError> {
        let taken_at = clock.now();
        let (copy, facts) = match self {
            Self::Postgres(source) => (None, postgres::look(source, run).await?),
            Self::Sqlite(file) => {
                let copy = work.0.join(format!("{looks}.sqlite3"));
                database::copy(file, &copy).await?;
                let facts = database::look(&copy).await.map_err(|error| match error {
                    // The copy is ours; the fault is the database's.
                    VaultwardenError::NoUsers { .. } => {
                        VaultwardenError::NoUsers { path: file.clone() }
                    }
                    other => other,
                })?;
                (Some(copy), facts)
            }
        };
        if !facts.damage.is_empty() {
            return Err(VaultwardenError::Damaged { damage: facts.damage.join("; ") }.into());
        }
        Ok(Seen { copy, facts, taken_at, looks })
    }
}

impl VaultwardenSource {
    fn places(&self) -> Result<Places, VaultwardenError> {
        let real = |path: &PathBuf| {
            path.canonicalize()
                .map_err(|source| VaultwardenError::Folder { path: path.clone(), source })
        };
        let data = real(&self.data_folder)?;
        let database = match &self.store {
            Store::Sqlite(file) => {
                Live::Sqlite(file.clone().unwrap_or_else(|| data.join(DATABASE_FILE)))
            }
            Store::Postgres(source) => Live::Postgres(Arc::clone(source)),
        };
        let attachments = self.attachments_folder.as_ref().map(real).transpose()?;
        let sends = self.sends_folder.as_ref().map(real).transpose()?;
        Ok(Places { data, attachments, sends, database })
    }

    /// Looks at the database until every row has its file. Uploads that are under way
    /// get time to arrive; what was deleted is gone at the next look.
    async fn settled(
        &self,
        work: &Work,
        places: &Places,
        context: &Context,
    ) -> Result<Seen, SourceError> {
        let mut looks = 1;
        loop {
            let clock = self.clock.as_ref();
            let seen = places.database.look(work, context.run, looks, clock).await?;
            let lacking = self.lacking(places, &seen.facts.uploads);
            if lacking.is_empty() {
                return Ok(seen);
            }
            if looks == LOOKS_MAX {
                return Err(VaultwardenError::Missing { paths: lacking }.into());
            }
            looks += 1;
            tokio::select! {
                () = tokio::time::sleep(self.settle) => {}
                () = context.cancel.cancelled() => {
                    return Err(VaultwardenError::Stream(StreamError::Cancelled).into());
                }
            }
        }
    }

    /// The uploads that are not there in the right size.
    fn lacking(&self, places: &Places, uploads: &[Upload]) -> Names {
        let mut lacking = Names::default();
        for upload in uploads {
            let found = places.upload(upload).metadata();
            let fits = found.is_ok_and(|found| found.is_file() && found.len() == upload.bytes);
            if !fits && !self.known_missing.iter().any(|known| **known == *upload.path) {
                lacking.push(|| format!("{} ({} bytes)", upload.path, upload.bytes));
            }
        }
        lacking
    }

    fn refuse_collapse(&self, facts: &Facts, before: Option<u64>) -> Result<(), VaultwardenError> {
        let found = items(&facts.tables);
        let Some(before) = before else { return Ok(()) };
        let floor = before.saturating_mul(100 - u64::from(self.may_fall_percent.min(100)));
        let accepted = self.accept_items.is_some_and(|enough| found >= enough);
        if found.saturating_mul(100) < floor && !accepted {
            return Err(VaultwardenError::Collapsed { found, before });
        }
        Ok(())
    }
}

/// What is left to do while the archive is read.
struct Completing {
    context: Context,
    seen: Seen,
    taken_at: Timestamp,
    folder: Box<str>,
    live: Live,
    known_missing: Vec<String>,
    clock: Arc<dyn Clock>,
    promise: Promise,
    /// Holds the copy that is being read.
    work: Work,
}

/// What the source of the database has to say in the end.
type Dumped = BoxFuture<'static, Result<Manifest, SourceError>>;

impl Completing {
    async fn complete(
        self,
        gauge: Gauge,
        packed: oneshot::Receiver<Packed>,
        dumped: Option<Dumped>,
    ) -> Result<Manifest, SourceError> {
        let dumped = async {
            match dumped {
                Some(dumped) => dumped.await.map(Some),
                None => Ok(None),
            }
        };
        let tree = async {
            let read = read_to_end(gauge, packed).await;
            read.map_err(|error| SourceError::from(VaultwardenError::Stream(error)))
        };
        let ((file, mut packed), dump) = tokio::try_join!(tree, dumped)?;
        let deleted = self.deleted_meanwhile(&packed).await?;
        let warnings = self.warnings(std::mem::take(&mut packed.warnings), &packed, &deleted);
        let Self { context, seen, taken_at, folder, known_missing, promise, work, .. } = self;
        let mut files = vec![file];
        let mut postgres = None;
        if let Some(Manifest { files: dumps, contents: Contents::Postgres(contents), .. }) = dump {
            files.extend(dumps);
            postgres = Some(contents);
        }
        let known = known_missing.iter().map(|path| path.as_str().into());
        let contents = VaultwardenContents {
            folder,
            postgres,
            tables: seen.facts.tables,
            uploads: seen.facts.uploads,
            deleted_meanwhile: deleted.into_iter().chain(known).collect(),
            entries: packed.entries,
        };
        let manifest = Manifest {
            format: FORMAT,
            run: context.run,
            backup: context.backup,
            taken_at,
            files,
            warnings,
            contents: Contents::Vaultwarden(contents),
        };
        promise.keep(manifest.to_bytes().map_err(VaultwardenError::Encode)?);
        drop(work);
        Ok(manifest)
    }

    fn warnings(
        &self,
        mut warnings: Vec<String>,
        packed: &Packed,
        deleted: &[Box<str>],
    ) -> Vec<String> {
        if self.seen.looks > 1 {
            warnings.push(format!(
                "files were uploaded or deleted meanwhile: the database was looked at {} times",
                self.seen.looks
            ));
        }
        for path in &self.known_missing {
            warnings.push(format!("`{path}` is known to be missing"));
        }
        for path in deleted {
            warnings.push(format!("`{path}` was deleted while the backup ran"));
        }
        let orphans = orphans(&self.seen.facts.uploads, &packed.entries);
        if let Some(first) = orphans.first() {
            let count = orphans.len();
            warnings.push(format!("no row stands for {count} uploaded files, such as `{first}`"));
        }
        warnings.truncate(WARNINGS_MAX);
        warnings
    }

    /// Uploads that were there when the archive was begun and are not in it: their rows
    /// must be gone by now, for a user deleted them.
    async fn deleted_meanwhile(&self, packed: &Packed) -> Result<Vec<Box<str>>, SourceError> {
        let known = |upload: &&Upload| !self.known_missing.iter().any(|it| **it == *upload.path);
        let lost = missing(&self.seen.facts.uploads, &packed.entries);
        let lost: Vec<&Upload> = lost.into_iter().filter(known).collect();
        if lost.is_empty() {
            return Ok(Vec::new());
        }
        let looks = self.seen.looks + 1;
        let now = self.live.look(&self.work, self.context.run, looks, self.clock.as_ref()).await?;
        let mut deleted = Vec::new();
        let mut paths = Names::default();
        for upload in lost {
            if now.facts.uploads.iter().any(|other| other.path == upload.path) {
                paths.push(|| upload.path.to_string());
            } else {
                deleted.push(upload.path.clone());
            }
        }
        if paths.is_empty() {
            return Ok(deleted);
        }
        Err(VaultwardenError::Missing { paths }.into())
    }
}

/// Waits until the archive was read to its end.
async fn read_to_end(
    mut gauge: Gauge,
    packed: oneshot::Receiver<Packed>,
) -> Result<(StoredFile, Packed), StreamError> {
    let receipt = gauge.finished().await?;
    let packed = packed.await.map_err(|_| StreamError::Abandoned)?;
    let file =
        StoredFile { name: ARCHIVE_FILE.to_owned(), bytes: receipt.bytes, sha256: receipt.sha256 };
    Ok((file, packed))
}

/// A private folder for one run. What is left of one that was cut off goes with the
/// agent's scratch folder at its next start.
#[derive(Debug)]
struct Work(PathBuf);

impl Work {
    fn make(scratch: &Path, run: RunId) -> Result<Self, VaultwardenError> {
        let path = scratch.join(format!("vaultwarden-{run}"));
        let made = fs::remove_dir_all(&path)
            .or_else(
                |error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) },
            )
            .and_then(|()| DirBuilder::new().mode(0o700).create(&path));
        made.map_err(|source| VaultwardenError::Scratch { path: scratch.into(), source })?;
        Ok(Self(path))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(
                path = %self.0.display(), error = %Chain(&error),
                "could not remove the copy of a database; the next start will"
            );
        }
    }
}
