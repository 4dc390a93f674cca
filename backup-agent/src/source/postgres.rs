//! PostgreSQL databases, each as a plain SQL dump.
//!
//! **Why plain text.** `pg_dump`'s custom format would allow `pg_restore -j`, but
//! plain text wins everything else here: it ends with a mark, so that a cut stream
//! shows; with `--restrict-key` two dumps of an unchanged database are equal byte
//! for byte, so that a run over unchanged data grows the repository by almost
//! nothing and *proves* that nothing changed; and `restic dump … | psql` restores
//! it on any machine, into any later version, without this program. It is left
//! uncompressed, because compression inside a dump defeats deduplication; the
//! repository compresses and authenticates each chunk. Its one danger, that a
//! dump cut in the middle restores with exit code 0, is met three times: by the end
//! mark, by the digest of the whole stream, and by the manifest.
//!
//! **Why `psql` and no client library.** The session that exports the snapshot and
//! counts the rows is a `psql` held open. It reaches the server exactly as
//! `pg_dump` does (same libpq, TLS, password file, host rules), so that what can be
//! dumped can be counted, and a privileged daemon carries one library less.

pub mod access;
mod capture;
pub mod config;
mod contents;
mod dump;
mod error;
pub mod fault;
pub mod grants;
pub mod manifest;
mod objects;
pub(crate) mod restore;
mod rows;
pub mod session;
pub mod version;
mod watch;

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use homelab_common::{clock::Clock, exec::Exec};

use super::{Capture, Context, Source, SourceError, rights::Explained};
use crate::{
    blocking,
    ids::RunId,
    manifest::{Contents, FILE_NAME as MANIFEST, FORMAT, Manifest},
    repository::{Incoming, SourceKind, StoredFile},
    stream::{Gauge, Later, Measured, Promise, Receipt, StreamError},
};
pub use access::Server;
use capture::{KillOnDrop, Killers, OpenDatabase, Opened, Opening};
pub use contents::{Moment, contents};
use dump::Ending;
pub use error::PostgresError;
use manifest::{PostgresContents, StoredDatabase};

/// The dump, in every snapshot of a single database.
pub const DATABASE_FILE: &str = "database.sql";
/// Roles and tablespaces, in every snapshot of databases.
pub const GLOBALS_FILE: &str = "globals.sql";

/// Databases to back up.
#[derive(Debug)]
pub struct PostgresSource {
    /// How to reach them.
    pub server: Server,
    /// Which.
    pub databases: Databases,
    /// What runs and where.
    pub tools: Tools,
}

/// Which databases of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Databases {
    /// This one.
    One(String),
    /// These.
    Named(Vec<String>),
    /// All that can be connected to, without the templates; looked up in every run.
    All,
}

impl Databases {
    /// One to connect to first.
    #[must_use]
    pub fn entry(&self) -> &str {
        match self {
            Self::One(name) => name,
            Self::Named(names) => names.first().map_or(ENTRY, String::as_str),
            Self::All => ENTRY,
        }
    }

    /// The file that holds the dump of a database.
    fn file(&self, database: &str) -> String {
        if let Self::One(_) = self {
            return DATABASE_FILE.to_owned();
        }
        let mut file = "database-".to_owned();
        for byte in database.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => file.push(byte.into()),
                other => file.push_str(&format!("%{other:02X}")),
            }
        }
        file + ".sql"
    }
}

/// The database that every server has (postgresql.org/docs/current/manage-ag-createdb.html).
const ENTRY: &str = "postgres";

/// What running PostgreSQL's programs takes.
#[derive(Clone, Debug)]
pub struct Tools {
    /// Runs them.
    pub exec: Arc<dyn Exec>,
    /// Tells the moment of a dump.
    pub clock: Arc<dyn Clock>,
    /// Where client versions are installed: `<root>/<major>/bin`.
    pub clients: PathBuf,
    /// A private folder for password files, emptied at every start.
    pub scratch: PathBuf,
    /// Bounds.
    pub limits: Limits,
}

/// Bounds on PostgreSQL's programs.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Whatever takes longer is ended.
    pub run_max: Duration,
    /// How long a table's lock is waited for.
    pub lock_wait: Duration,
    /// How long a step takes that reads no rows, such as making a database.
    pub step_max: Duration,
    /// Sessions that restore and compare at once.
    pub sessions: usize,
}

impl Default for Limits {
    fn default() -> Self {
        // A night; and less than anybody waits for a page to load.
        Self {
            run_max: Duration::from_secs(12 * 3600),
            lock_wait: Duration::from_secs(20),
            step_max: Duration::from_secs(5 * 60),
            // As many as the smallest machine has cores.
            sessions: 2,
        }
    }
}

#[async_trait]
impl Source for PostgresSource {
    fn kind(&self) -> SourceKind {
        SourceKind::Postgres
    }

    async fn inspect(&self, run: RunId) -> Result<Vec<String>, SourceError> {
        let begin = self.opening(run);
        let opened = blocking::run(move || begin.open()).await?;
        let say = |database: &OpenDatabase| {
            format!(
                "database `{}` on {} (PostgreSQL {}) would be dumped by pg_dump {}",
                database.name,
                self.server,
                database.moment.database.server_version,
                opened.client.version
            )
        };
        Ok(opened.databases.iter().map(say).collect())
    }

    async fn explain(&self, run: RunId) -> Result<Explained, SourceError> {
        Ok(self.probe(run).await?.explained())
    }

    async fn begin(&self, context: Context) -> Result<Capture, SourceError> {
        let begin = self.opening(context.run);
        let opened = blocking::run(move || begin.open()).await?;
        let taken_at = self.tools.clock.now();
        let killers = Killers::default();
        let (mut files, dumps) = opened.streams(&context, &self.tools, &killers);
        let (later, promise) = Later::new();
        let (content, gauge) = Measured::new(Box::new(later), context.cancel.clone());
        files.push(Incoming { name: MANIFEST.to_owned(), content, gauge });
        let cancel = context.cancel.clone();
        let tools = self.tools.clone();
        let completing = Completing { context, taken_at, opened, tools, dumps, promise };
        let completion = Box::pin(async move {
            let killers = KillOnDrop(killers);
            tokio::select! {
                biased;
                () = cancel.cancelled() => {
                    drop(killers);
                    Err(cancelled().into())
                }
                done = completing.complete() => done.map_err(SourceError::from),
            }
        });
        Ok(Capture { taken_at, files, completion })
    }
}

impl PostgresSource {
    fn opening(&self, run: RunId) -> Opening {
        Opening {
            server: self.server.clone(),
            databases: self.databases.clone(),
            tools: self.tools.clone(),
            run,
        }
    }
}

/// What is left to do while the streams are read.
struct Completing {
    context: Context,
    taken_at: jiff::Timestamp,
    opened: Opened,
    tools: Tools,
    dumps: Vec<(String, Gauge)>,
    promise: Promise,
}

impl Completing {
    /// Whatever fails first is the cause; the rest is then ended by the caller.
    async fn complete(self) -> Result<Manifest, PostgresError> {
        let Self { context, taken_at, opened, tools, dumps, promise } = self;
        let Opened { databases, client, tablespaces } = opened;
        let limit = tools.limits.run_max;
        let entry = databases.first().map(|database| Arc::clone(&database.access));
        let counting = blocking::run(move || {
            databases
                .into_iter()
                .map(|database| database.count(limit))
                .collect::<Result<Vec<_>, _>>()
        });
        let (counted, files) = match tokio::try_join!(counting, complete_files(dumps)) {
            Ok(done) => done,
            Err(error) => {
                let explain = move || match entry {
                    Some(access) => dump::explain(error, &client, &access, &tools),
                    None => error,
                };
                return Err(blocking::run(explain).await);
            }
        };
        let after = move || {
            let mut stored = Vec::with_capacity(counted.len());
            for mut database in counted {
                contents::sequences_after(&mut database.session, &mut database.contents)?;
                stored.push(StoredDatabase { file: database.file, contents: database.contents });
            }
            Ok::<_, PostgresError>(stored)
        };
        let databases = blocking::run(after).await?;
        let contents = PostgresContents { dump_version: client.version, tablespaces, databases };
        let manifest = Manifest {
            format: FORMAT,
            run: context.run,
            backup: context.backup,
            taken_at,
            files,
            warnings: Vec::new(),
            contents: Contents::Postgres(contents),
        };
        promise.keep(manifest.to_bytes().map_err(PostgresError::Encode)?);
        Ok(manifest)
    }
}

/// Waits for the streams that programs write.
async fn complete_files(dumps: Vec<(String, Gauge)>) -> Result<Vec<StoredFile>, PostgresError> {
    let mut complete = Vec::new();
    for (name, mut gauge) in dumps {
        complete.push(complete_file(name, gauge.finished().await)?);
    }
    Ok(complete)
}

/// A stream is complete when its program ended well *and* wrote its end mark.
fn complete_file(
    name: String,
    receipt: Result<Receipt, StreamError>,
) -> Result<StoredFile, PostgresError> {
    let receipt = match receipt {
        Ok(receipt) => receipt,
        Err(source) => return Err(PostgresError::Stream { file: name, source }),
    };
    let ending = if name == GLOBALS_FILE { Ending::Cluster } else { Ending::Database };
    if !ending.is_at(&receipt.tail) {
        return Err(PostgresError::Truncated { file: name, bytes: receipt.bytes });
    }
    Ok(StoredFile { name, bytes: receipt.bytes, sha256: receipt.sha256 })
}

fn cancelled() -> PostgresError {
    PostgresError::Stream { file: DATABASE_FILE.to_owned(), source: StreamError::Cancelled }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_database_has_a_file_name_of_its_own() {
        let all = Databases::All;
        assert_eq!(all.file("wiki_2"), "database-wiki_2.sql");
        assert_eq!(all.file("../a b"), "database-%2E%2E%2Fa%20b.sql");
        assert_ne!(all.file("a%20"), all.file("a "));
        assert_eq!(Databases::One("x/y".to_owned()).file("x/y"), DATABASE_FILE);
    }
}
