//! One PostgreSQL database, as a plain SQL dump.
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
use homelab_common::{
    clock::Clock,
    exec::{Exec, Killer},
};

use super::{Capture, Context, Source, SourceError};
use crate::{
    blocking,
    ids::RunId,
    manifest::{Contents, FILE_NAME as MANIFEST, FORMAT, Manifest},
    repository::{Incoming, SourceKind, StoredFile},
    stream::{Content, Gauge, Later, Measured, Promise, Receipt, StreamError},
};
use access::Access;
pub use access::Server;
pub use contents::{Moment, contents};
use dump::Ending;
pub use error::PostgresError;
use session::Session;
use version::{Client, Clients};

/// The dump, in every snapshot of a database.
pub const DATABASE_FILE: &str = "database.sql";
/// Roles and tablespaces, in every snapshot of a database.
pub const GLOBALS_FILE: &str = "globals.sql";

/// A database to back up.
#[derive(Debug)]
pub struct PostgresSource {
    /// How to reach it.
    pub server: Server,
    /// The database.
    pub database: String,
    /// What runs and where.
    pub tools: Tools,
}

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
        Ok(vec![format!(
            "database `{}` on {} (PostgreSQL {}) would be dumped by pg_dump {}",
            self.database,
            self.server,
            opened.moment.database.server_version,
            opened.client.version
        )])
    }

    async fn begin(&self, context: Context) -> Result<Capture, SourceError> {
        let begin = self.opening(context.run);
        let opened = blocking::run(move || begin.open()).await?;
        let taken_at = self.tools.clock.now();
        let streams = opened.start(&context, &self.tools)?;
        let (later, promise) = Later::new();
        let mut files = streams.files;
        let (content, gauge) = Measured::new(Box::new(later), context.cancel.clone());
        files.push(Incoming { name: MANIFEST.to_owned(), content, gauge });
        let killers = KillOnDrop(streams.killers);
        let completing = Completing {
            context: context.clone(),
            taken_at,
            client: opened.client,
            access: opened.access,
            tools: self.tools.clone(),
            dumps: streams.dumps,
            promise,
        };
        let (session, moment, cancel) = (opened.session, opened.moment, context.cancel);
        let completion = Box::pin(async move {
            let killers = killers;
            tokio::select! {
                biased;
                () = cancel.cancelled() => {
                    drop(killers);
                    Err(cancelled().into())
                }
                done = completing.complete(session, moment) => done.map_err(SourceError::from),
            }
        });
        Ok(Capture { taken_at, files, completion })
    }
}

impl PostgresSource {
    fn opening(&self, run: RunId) -> Opening {
        Opening {
            server: self.server.clone(),
            database: self.database.clone(),
            tools: self.tools.clone(),
            run,
        }
    }
}

/// Opens a session in a snapshot that others can join. Blocks.
struct Opening {
    server: Server,
    database: String,
    tools: Tools,
    run: RunId,
}

struct Opened {
    session: Session,
    moment: Moment,
    client: Client,
    access: Access,
}

impl Opening {
    fn open(self) -> Result<Opened, PostgresError> {
        let clients = Clients::discover(&self.tools.clients);
        let access = Access::open(&self.server, &self.database, self.run, &self.tools)?;
        let newest = clients.newest()?;
        let mut session = Session::open(newest, &access, &self.tools)?;
        let major = session.server_major()?;
        let mut client = clients.choose(major)?.clone();
        client.probe(self.tools.exec.as_ref())?;
        let moment = Moment::fix(&mut session, self.tools.limits.lock_wait)?;
        Ok(Opened { session, moment, client, access })
    }
}

struct Streams {
    files: Vec<Incoming>,
    dumps: Vec<(&'static str, Gauge)>,
    killers: Vec<Killer>,
}

impl Opened {
    /// Starts `pg_dump` in the session's snapshot, and `pg_dumpall` beside it.
    fn start(&self, context: &Context, tools: &Tools) -> Result<Streams, PostgresError> {
        let key = self.client.restrict_keys.then_some(context.key.as_str());
        let dump = dump::database(&self.client, &self.access, &self.moment.snapshot, key, tools);
        let globals =
            dump::globals(&self.client, &self.access, key, self.moment.reads_passwords, tools);
        let mut streams =
            Streams { files: Vec::new(), dumps: Vec::new(), killers: vec![self.session.killer()] };
        for (name, program) in [(DATABASE_FILE, dump), (GLOBALS_FILE, globals)] {
            let stream = tools.exec.stream(program).map_err(PostgresError::Tool)?;
            streams.killers.push(stream.killer());
            let (content, gauge) = Measured::new(Box::new(Child(stream)), context.cancel.clone());
            streams.dumps.push((name, gauge.clone()));
            streams.files.push(Incoming { name: name.to_owned(), content, gauge });
        }
        Ok(streams)
    }
}

/// What is left to do while the streams are read.
struct Completing {
    context: Context,
    taken_at: jiff::Timestamp,
    client: Client,
    access: Access,
    tools: Tools,
    dumps: Vec<(&'static str, Gauge)>,
    promise: Promise,
}

impl Completing {
    /// Whatever fails first is the cause; the rest is then ended by the caller.
    async fn complete(self, session: Session, moment: Moment) -> Result<Manifest, PostgresError> {
        let Self { context, taken_at, client, access, tools, dumps, promise } = self;
        let limit = tools.limits.run_max;
        let counting = blocking::run(move || moment.count(session, limit));
        match tokio::try_join!(counting, complete_files(dumps)) {
            Ok(((session, mut contents), files)) => {
                contents.dump_version = client.version;
                let after = move || {
                    let mut session = session;
                    contents::sequences_after(&mut session, &mut contents)?;
                    Ok(contents)
                };
                let manifest = Manifest {
                    format: FORMAT,
                    run: context.run,
                    backup: context.backup,
                    taken_at,
                    files,
                    warnings: Vec::new(),
                    contents: Contents::Postgres(blocking::run(after).await?),
                };
                promise.keep(manifest.to_bytes().map_err(PostgresError::Encode)?);
                Ok(manifest)
            }
            Err(error) => {
                let explain = move || dump::explain(error, &client, &access, &tools);
                Err(blocking::run(explain).await)
            }
        }
    }
}

/// Waits for the streams that programs write.
async fn complete_files(
    dumps: Vec<(&'static str, Gauge)>,
) -> Result<Vec<StoredFile>, PostgresError> {
    let mut complete = Vec::new();
    for (name, mut gauge) in dumps {
        complete.push(complete_file(name, gauge.finished().await)?);
    }
    Ok(complete)
}

/// A stream is complete when its program ended well *and* wrote its end mark.
fn complete_file(
    name: &'static str,
    receipt: Result<Receipt, StreamError>,
) -> Result<StoredFile, PostgresError> {
    let receipt = receipt.map_err(|source| PostgresError::Stream { file: name, source })?;
    let ending = if name == DATABASE_FILE { Ending::Database } else { Ending::Cluster };
    if !ending.is_at(&receipt.tail) {
        return Err(PostgresError::Truncated { file: name, bytes: receipt.bytes });
    }
    Ok(StoredFile { name: name.to_owned(), bytes: receipt.bytes, sha256: receipt.sha256 })
}

fn cancelled() -> PostgresError {
    PostgresError::Stream { file: DATABASE_FILE, source: StreamError::Cancelled }
}

/// A program's output. The reader itself fails when the program did.
struct Child(homelab_common::exec::Streaming);

impl std::io::Read for Child {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Content for Child {
    fn finish(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Ends programs that may still run when nobody waits for them any more.
struct KillOnDrop(Vec<Killer>);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.0.iter().for_each(Killer::kill);
    }
}
