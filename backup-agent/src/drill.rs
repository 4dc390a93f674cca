//! A test restore that proves something.
//!
//! A verified snapshot is restored into a scratch database of a *second* server and
//! compared with its manifest. The second server is told from the source by its
//! system identifier, never by its address. Everything the drill makes there is named
//! after the run and marked by a comment, and only what carries both is ever removed.

mod scratch;

use std::{
    io::Write,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use homelab_common::{error_chain::Chain, exec::Killer};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::{
    blocking,
    ids::{Name, RunId, SnapshotId},
    manifest::{self, Contents, FILE_NAME as MANIFEST, Manifest},
    progress::{Progress, Stage},
    repository::{Repository, RepositoryError, Snapshot},
    source::postgres::{
        DATABASE_FILE, PostgresError, Server, Tools,
        access::Access,
        contents,
        session::Session,
        version::{Client, Clients},
    },
};
use scratch::Scratch;
pub use scratch::{MARKER, PREFIX, sweep};

/// Findings that are given; more would not be read.
const FINDINGS_MAX: usize = 100;

/// A server to restore into.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its name.
    pub name: Name,
    /// How to reach it, as a superuser: a restore gives objects to their owners.
    pub server: Server,
    /// A database to connect to for making others.
    pub database: String,
    /// This host: what it makes there carries the name.
    pub owner: String,
    /// What runs and where.
    pub tools: Tools,
}

/// What to drill.
#[derive(Clone, Debug)]
pub struct Drill {
    /// The run.
    pub run: RunId,
    /// What is restored.
    pub snapshot: Snapshot,
    /// Where it is stored.
    pub repository: Arc<dyn Repository>,
    /// Where it is restored.
    pub target: Target,
}

/// What a drill showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything equals the manifest.
    Passed,
    /// The backup is not what it claims to be.
    Failed {
        /// A sentence each.
        differences: Vec<String>,
    },
    /// The target could not show it: neither passed nor failed.
    Unverified {
        /// A sentence each.
        because: Vec<String>,
    },
}

/// The evidence of a drill. It belongs to one snapshot and says how old that was:
/// "restorable" and "fresh" are two statements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What it showed.
    pub verdict: Verdict,
    /// The backup.
    pub backup: Name,
    /// The snapshot that was restored.
    pub snapshot: SnapshotId,
    /// How old its state was when the drill began.
    pub snapshot_age: Duration,
    /// Where it was restored.
    pub target: Name,
    /// The restore alone: the measured RTO.
    pub restore_elapsed: Duration,
    /// Everything.
    pub elapsed: Duration,
    /// When it ended.
    pub finished_at: Timestamp,
    /// Tables compared.
    pub tables: u32,
    /// Rows compared.
    pub rows: u64,
}

/// Why a drill could not be done.
#[derive(Debug, thiserror::Error)]
pub enum DrillError {
    /// The target is the server that was backed up.
    #[error(
        "drill target `{target}` is the very server that `{backup}` was taken from (system \
         identifier {identifier}); name another server as target"
    )]
    TargetIsSource {
        /// The target.
        target: Name,
        /// The backup.
        backup: Name,
        /// Of both.
        identifier: String,
    },
    /// The snapshot could not be read.
    #[error("could not read snapshot `{snapshot}` for the drill")]
    Repository {
        /// The snapshot.
        snapshot: SnapshotId,
        /// Why.
        #[source]
        source: RepositoryError,
    },
    /// The snapshot has no usable manifest.
    #[error(
        "the manifest of snapshot `{snapshot}` cannot be read; there is nothing to compare with"
    )]
    Manifest {
        /// The snapshot.
        snapshot: SnapshotId,
        /// What is wrong.
        #[source]
        source: serde_json::Error,
    },
    /// The target could not be used.
    #[error("could not use drill target `{target}`")]
    Target {
        /// The target.
        target: Name,
        /// Why.
        #[source]
        source: PostgresError,
    },
    /// Somebody cancelled it.
    #[error("the drill was cancelled; what it had made was removed")]
    Cancelled,
}

impl Drill {
    /// Checks that source and target differ and that the target answers.
    ///
    /// # Errors
    ///
    /// Why a drill could not begin.
    pub async fn inspect(&self) -> Result<Vec<String>, DrillError> {
        let drill = self.clone();
        blocking::run(move || {
            let manifest = drill.manifest(&CancellationToken::new())?;
            let mut session = drill.connect(&drill.target.database)?;
            let facts = drill.facts(&mut session, &manifest)?;
            Ok(vec![format!(
                "snapshot {} would be restored into PostgreSQL {} at {}",
                drill.snapshot.id, facts.version, drill.target.server
            )])
        })
        .await
    }

    /// Restores, compares and cleans up.
    ///
    /// Cancel safety: use `cancel`. Dropping the future lets the blocking part run to
    /// its end, cleaning included.
    ///
    /// # Errors
    ///
    /// Why nothing was shown.
    pub async fn run(
        &self,
        progress: &Progress,
        cancel: &CancellationToken,
    ) -> Result<Report, DrillError> {
        let stop = Arc::new(Stop { cancel: cancel.clone(), killers: Mutex::default() });
        let (drill, progress, stopped) = (self.clone(), progress.clone(), Arc::clone(&stop));
        let work = blocking::run(move || drill.restore_and_compare(&progress, &stopped));
        tokio::pin!(work);
        let report = tokio::select! {
            report = &mut work => report,
            () = cancel.cancelled() => {
                stop.kill();
                work.await
            }
        };
        if cancel.is_cancelled() { Err(DrillError::Cancelled) } else { report }
    }

    fn restore_and_compare(&self, progress: &Progress, stop: &Stop) -> Result<Report, DrillError> {
        let began = Instant::now();
        let began_at = self.target.tools.clock.now();
        progress.enter(Stage::Preparing, None);
        let manifest = self.manifest(&stop.cancel)?;
        let mut session = self.connect(&self.target.database)?;
        let facts = self.facts(&mut session, &manifest)?;
        let mut restore_elapsed = Duration::ZERO;
        let verdict = match facts.obstacles(&manifest) {
            obstacles if !obstacles.is_empty() => Verdict::Unverified { because: obstacles },
            _ => {
                let mut scratch = Scratch::new(self, session);
                let shown = self.in_scratch(&mut scratch, &manifest, progress, stop);
                progress.enter(Stage::CleaningUp, None);
                scratch.remove();
                let shown = shown?;
                restore_elapsed = shown.restore_elapsed;
                shown.verdict
            }
        };
        let compared = &manifest.postgres.tables;
        let age = began_at.duration_since(self.snapshot.taken_at);
        Ok(Report {
            verdict,
            backup: self.snapshot.backup.clone(),
            snapshot: self.snapshot.id.clone(),
            snapshot_age: Duration::try_from(age).unwrap_or_default(),
            target: self.target.name.clone(),
            restore_elapsed,
            elapsed: began.elapsed(),
            finished_at: self.target.tools.clock.now(),
            tables: u32::try_from(compared.len()).unwrap_or(u32::MAX),
            rows: compared.iter().map(|table| table.rows).sum(),
        })
    }

    fn in_scratch(
        &self,
        scratch: &mut Scratch<'_>,
        manifest: &Manifest,
        progress: &Progress,
        stop: &Stop,
    ) -> Result<Shown, DrillError> {
        let began = Instant::now();
        let shown = |verdict, restore_elapsed| Ok(Shown { verdict, restore_elapsed });
        if let Err(error) = scratch.make(manifest) {
            // Such as a locale that this server does not have.
            let because = format!("the scratch database cannot be made: {}", Chain(&error));
            return shown(Verdict::Unverified { because: vec![because] }, Duration::ZERO);
        }
        let total = self.snapshot.file(DATABASE_FILE).map(|file| file.bytes);
        progress.enter(Stage::Restoring, total);
        let restored = self.feed(&scratch.name, manifest, progress, stop)?;
        let restore_elapsed = began.elapsed();
        if let Err(failure) = restored {
            return shown(Verdict::Failed { differences: vec![failure] }, restore_elapsed);
        }
        progress.enter(Stage::Comparing, None);
        let mut session = self.connect(&scratch.name)?;
        stop.add(session.killer());
        let found = contents(&mut session).map_err(|source| self.target_error(source))?;
        shown(judge(&manifest.postgres, &found), restore_elapsed)
    }

    /// Pipes the dump into psql. The inner error is a failed restore, for people.
    fn feed(
        &self,
        database: &str,
        manifest: &Manifest,
        progress: &Progress,
        stop: &Stop,
    ) -> Result<Result<(), String>, DrillError> {
        let tools = &self.target.tools;
        let client = self.client()?;
        let access = self.access(database)?;
        let program = client
            .program("psql")
            .args(["--no-psqlrc", "--quiet", "--output=/dev/null", "--set", "ON_ERROR_STOP=1"])
            .stdin_piped()
            .deadline(tools.limits.run_max);
        let started = tools.exec.stream(access.apply(program)).map_err(PostgresError::Tool);
        let mut psql = started.map_err(|source| self.target_error(source))?;
        stop.add(psql.killer());
        let stdin = psql.take_stdin().unwrap_or_else(|| Box::new(std::io::sink()));
        let mut sink = Counting { sink: stdin, bytes: 0, progress };
        let path = self.snapshot.path_of(DATABASE_FILE);
        let read = self.repository.read(&self.snapshot.id, &path, &mut sink, &stop.cancel);
        drop(sink);
        if stop.cancel.is_cancelled() {
            return Err(DrillError::Cancelled);
        }
        let receipt = match read {
            Err(error @ RepositoryError::Guard(_)) => return Err(self.repository_error(error)),
            Err(error @ RepositoryError::Incomplete { .. }) => {
                return Ok(Err(format!("the dump cannot be read: {}", Chain(&error))));
            }
            // What could not be written to psql has its cause in psql's own end.
            other => other.ok(),
        };
        if let Err(error) = psql.finish() {
            return Ok(Err(format!("the dump does not restore: {}", Chain(&error))));
        }
        let Some(receipt) = receipt else {
            return Ok(Err("psql ended before it had read the whole dump".to_owned()));
        };
        let stored = manifest.files.iter().find(|file| file.name == DATABASE_FILE);
        if stored.is_none_or(|stored| stored.sha256 != receipt.sha256) {
            return Ok(Err("the dump is not the one that the manifest belongs to".to_owned()));
        }
        Ok(Ok(()))
    }

    fn manifest(&self, cancel: &CancellationToken) -> Result<Manifest, DrillError> {
        let path = self.snapshot.path_of(MANIFEST);
        let mut bytes = Vec::new();
        self.repository
            .read(&self.snapshot.id, &path, &mut bytes, cancel)
            .map_err(|source| self.repository_error(source))?;
        Manifest::from_bytes(&bytes)
            .map_err(|source| DrillError::Manifest { snapshot: self.snapshot.id.clone(), source })
    }

    fn facts(&self, session: &mut Session, manifest: &Manifest) -> Result<Facts, DrillError> {
        let facts = Facts::ask(session).map_err(|source| self.target_error(source))?;
        if facts.system_identifier == manifest.postgres.database.system_identifier {
            return Err(DrillError::TargetIsSource {
                target: self.target.name.clone(),
                backup: self.snapshot.backup.clone(),
                identifier: facts.system_identifier,
            });
        }
        Ok(facts)
    }

    fn connect(&self, database: &str) -> Result<Session, DrillError> {
        let client = self.client()?;
        let access = self.access(database)?;
        Session::open(&client, &access, &self.target.tools)
            .map(|session| session.keeping(access))
            .map_err(|source| self.target_error(source))
    }

    /// The newest: it understands what every older `pg_dump` writes.
    fn client(&self) -> Result<Client, DrillError> {
        let clients = Clients::discover(&self.target.tools.clients);
        clients.newest().cloned().map_err(|source| self.target_error(source))
    }

    fn access(&self, database: &str) -> Result<Access, DrillError> {
        let Target { server, tools, .. } = &self.target;
        Access::open(server, database, self.run, tools).map_err(|source| self.target_error(source))
    }

    fn target_error(&self, source: PostgresError) -> DrillError {
        DrillError::Target { target: self.target.name.clone(), source }
    }

    fn repository_error(&self, source: RepositoryError) -> DrillError {
        DrillError::Repository { snapshot: self.snapshot.id.clone(), source }
    }
}

/// What a scratch database showed.
struct Shown {
    verdict: Verdict,
    restore_elapsed: Duration,
}

/// Ends the programs of a drill that is cancelled while they work.
struct Stop {
    cancel: CancellationToken,
    killers: Mutex<Vec<Killer>>,
}

impl Stop {
    fn add(&self, killer: Killer) {
        let mut killers = self.killers.lock().unwrap_or_else(PoisonError::into_inner);
        // Cancelled before it was added: nobody else would end it.
        if self.cancel.is_cancelled() {
            killer.kill();
        }
        killers.push(killer);
    }

    fn kill(&self) {
        let killers = self.killers.lock().unwrap_or_else(PoisonError::into_inner);
        killers.iter().for_each(Killer::kill);
    }
}

/// What the target is.
#[derive(Debug, serde::Deserialize)]
struct Facts {
    system_identifier: String,
    version: String,
    superuser: bool,
    extensions: Vec<String>,
}

const FACTS: &str = "\
SELECT json_build_object(
  'system_identifier', (SELECT system_identifier::text FROM pg_control_system()),
  'version', current_setting('server_version'),
  'superuser', (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
  'extensions', (SELECT coalesce(json_agg(name), '[]') FROM pg_available_extensions))";

impl Facts {
    fn ask(session: &mut Session) -> Result<Self, PostgresError> {
        session.ask("look at the drill target", FACTS)
    }

    /// What keeps this target from showing anything, a sentence each.
    fn obstacles(&self, manifest: &Manifest) -> Vec<String> {
        let missing = manifest
            .postgres
            .extensions
            .iter()
            .filter(|extension| !self.extensions.contains(&extension.name));
        let mut obstacles: Vec<String> = missing
            .map(|extension| {
                format!(
                    "extension {} {} is not installed on the target; install its package there",
                    extension.name, extension.version
                )
            })
            .collect();
        if !self.superuser {
            obstacles.push(
                "the target's role is no superuser and cannot give objects to their owners"
                    .to_owned(),
            );
        }
        obstacles
    }
}

/// What cannot be told from a difference between versions proves nothing.
fn judge(expected: &Contents, found: &Contents) -> Verdict {
    let differences = manifest::compare(expected, found);
    if differences.is_empty() {
        return Verdict::Passed;
    }
    let (excused, real): (Vec<_>, Vec<_>) =
        differences.into_iter().partition(|difference| difference.may_be_version);
    if real.is_empty() {
        let (source, target) = (&expected.database.server_version, &found.database.server_version);
        let because = excused
            .into_iter()
            .take(FINDINGS_MAX)
            .map(|difference| format!("{} (source is {source}, target {target})", difference.text));
        return Verdict::Unverified { because: because.collect() };
    }
    let texts = real.into_iter().chain(excused).map(|difference| difference.text);
    Verdict::Failed { differences: texts.take(FINDINGS_MAX).collect() }
}

struct Counting<'a, W> {
    sink: W,
    bytes: u64,
    progress: &'a Progress,
}

impl<W: Write> Write for Counting<'_, W> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let count = self.sink.write(buffer)?;
        self.bytes += count as u64;
        self.progress.done(self.bytes);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.sink.flush()
    }
}
