//! A database, restored into a scratch database of a *second* server.
//!
//! The second server is told from the source by its system identifier, never by its
//! address.

mod lanes;
mod scratch;
mod script;

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use homelab_common::{error_chain::Chain, exec::Streaming};

use super::{Compared, DrillError, FINDINGS_MAX, Shown, Verdict, Work, target_error};
use crate::{
    failpoint,
    ids::{Name, RunId},
    manifest::{Contents, Manifest},
    progress::{Progress, Stage},
    repository::SourceKind,
    source::{
        postgres::{
            PostgresError, Server, Tools,
            access::Access,
            contents,
            fault::Fault,
            manifest::{self, DatabaseContents, PostgresContents, StoredDatabase},
            session::{self, Session},
            version::{Client, Clients},
        },
        vaultwarden::manifest::VaultwardenContents,
    },
};
use lanes::Lanes;
use scratch::Scratch;
pub use scratch::{MARKER, PREFIX, sweep};
use script::Script;

/// A server to restore into.
#[derive(Clone, Debug)]
pub struct PostgresTarget {
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

impl PostgresTarget {
    pub(super) fn inspect(
        &self,
        work: &Work<'_>,
        manifest: &Manifest,
    ) -> Result<String, DrillError> {
        let attempt = self.attempt(work, manifest)?;
        let mut session = attempt.connect(&self.database)?;
        let facts = attempt.facts(&mut session)?;
        Ok(format!("PostgreSQL {} at {}", facts.version, self.server))
    }

    pub(super) fn show(&self, work: &Work<'_>, manifest: &Manifest) -> Result<Shown, DrillError> {
        let mut attempt = self.attempt(work, manifest)?;
        let mut session = attempt.connect(&self.database)?;
        let facts = attempt.facts(&mut session)?;
        attempt.target_major = facts.version_num / 10_000;
        if !facts.superuser {
            let because =
                "the target's role is no superuser and cannot give objects to their owners";
            return Ok(Shown::unverified(vec![because.to_owned()]));
        }
        let mut scratch = Scratch::new(self, work.drill.run, session);
        let shown = attempt.all_in_scratch(&mut scratch, &facts);
        work.progress.enter(Stage::CleaningUp, None);
        failpoint::reach("drill.examined");
        scratch.remove();
        failpoint::reach("drill.removed");
        shown
    }

    fn attempt<'a>(
        &'a self,
        work: &'a Work<'a>,
        manifest: &'a Manifest,
    ) -> Result<Attempt<'a>, DrillError> {
        let contents = match &manifest.contents {
            Contents::Postgres(contents)
            | Contents::Vaultwarden(VaultwardenContents { postgres: Some(contents), .. }) => {
                contents
            }
            other => {
                let wanted = if other.kind() == SourceKind::Zfs { "zfs" } else { "folder" };
                return Err(work.unsuited(manifest, wanted));
            }
        };
        Ok(Attempt { target: self, work, manifest, contents, target_major: 0 })
    }

    fn error(&self, source: PostgresError) -> DrillError {
        target_error(&self.name, source)
    }
}

/// Said in a report instead of a number of files.
const FILES_LEFT_OUT: &str = "files (left out: drill it in a folder as well)";

/// One drill of the databases of one snapshot.
struct Attempt<'a> {
    target: &'a PostgresTarget,
    work: &'a Work<'a>,
    manifest: &'a Manifest,
    contents: &'a PostgresContents,
    /// Major version of the target.
    target_major: u32,
}

impl Attempt<'_> {
    fn all_in_scratch(
        &self,
        scratch: &mut Scratch<'_>,
        facts: &Facts,
    ) -> Result<Shown, DrillError> {
        let databases = &self.contents.databases;
        if let Err(error) = scratch.make_roles(self.contents) {
            let because = format!("the roles cannot be made: {}", Chain(&error));
            return Ok(Shown::unverified(vec![because]));
        }
        let mut total = Total::default();
        for (number, database) in databases.iter().enumerate() {
            let obstacles = facts.obstacles(&database.contents);
            let (verdict, elapsed) = if obstacles.is_empty() {
                self.in_scratch(scratch, number, database)?
            } else {
                (Verdict::Unverified { because: obstacles }, Duration::ZERO)
            };
            let about = (databases.len() > 1).then_some(&database.contents.database.name);
            total.add(verdict, elapsed, about);
        }
        let count = |of: fn(&DatabaseContents) -> u64| -> u64 {
            databases.iter().map(|database| of(&database.contents)).sum()
        };
        let mut compared = vec![
            Compared { what: "tables", count: count(|contents| contents.tables.len() as u64) },
            Compared { what: "rows", count: count(DatabaseContents::rows) },
            Compared {
                what: "sequences",
                count: count(|contents| contents.sequences.len() as u64),
            },
            Compared {
                what: "large objects",
                count: count(|contents| contents.large_objects.count),
            },
            Compared {
                what: "schema objects",
                count: count(|contents| contents.objects.len() as u64),
            },
        ];
        if databases.len() > 1 {
            compared.insert(0, Compared { what: "databases", count: databases.len() as u64 });
        }
        if matches!(self.manifest.contents, Contents::Vaultwarden(_)) {
            compared.push(Compared { what: FILES_LEFT_OUT, count: 0 });
        }
        Ok(Shown { verdict: total.verdict(), restore_elapsed: total.elapsed, compared })
    }

    fn in_scratch(
        &self,
        scratch: &mut Scratch<'_>,
        number: usize,
        stored: &StoredDatabase,
    ) -> Result<(Verdict, Duration), DrillError> {
        let Work { drill, progress, stop } = self.work;
        let began = Instant::now();
        let made = scratch.make(number, &stored.contents.database);
        let name = match made {
            Ok(name) => name,
            Err(error) => {
                // Such as a locale that this server does not have.
                let because = format!("the scratch database cannot be made: {}", Chain(&error));
                return Ok((Verdict::Unverified { because: vec![because] }, Duration::ZERO));
            }
        };
        failpoint::reach("drill.scratch-made");
        let total = drill.snapshot.file(&stored.file).map(|file| file.bytes);
        progress.enter(Stage::Restoring, total);
        let ended = self.feed(&name, stored)?;
        let elapsed = began.elapsed();
        failpoint::reach("drill.restored");
        if let Some(verdict) = ended {
            return Ok((verdict, elapsed));
        }
        progress.enter(Stage::Comparing, None);
        let sessions = (0..self.target.tools.limits.sessions.max(1)).map(|_number| {
            let session = self.connect(&name)?;
            stop.add(session.killer());
            Ok(session)
        });
        let mut sessions: Vec<Session> = sessions.collect::<Result<_, DrillError>>()?;
        let row_hash = stored.contents.row_hash;
        let found = contents(&mut sessions, row_hash, self.target.tools.limits);
        let found = found.map_err(|source| self.target.error(source))?;
        Ok((judge(&stored.contents, &found), elapsed))
    }

    /// Restores the dump by several sessions at once; a verdict is the end of it.
    fn feed(&self, database: &str, stored: &StoredDatabase) -> Result<Option<Verdict>, DrillError> {
        let Work { drill, progress, stop } = self.work;
        let access = self.access(database)?;
        let mark = format!("homelab-restored-{}", drill.run);
        let lanes = Lanes::start(self.restorers(&access)?, &mark);
        let lanes = lanes.map_err(|error| self.restore_error(Fault::Pipe(error)))?;
        let mut sink = Counting { sink: Script::new(lanes), bytes: 0, progress, refused: false };
        let path = drill.snapshot.path_of(&stored.file);
        let read = drill.repository.read(&drill.snapshot.id, &path, &mut sink, &stop.cancel);
        if stop.cancel.is_cancelled() {
            return Err(DrillError::Cancelled);
        }
        match read {
            // The sessions know why they took no more, and tell below.
            Err(_) if sink.refused => {}
            Err(error) if error.is_damage() => {
                let text = format!("the dump cannot be read: {}", Chain(&error));
                return Ok(Some(Verdict::of(vec![text])));
            }
            Err(error) => return Err(self.work.repository_error(error)),
            Ok(receipt) => {
                let mut files = self.manifest.files.iter();
                if files.all(|file| file.name != stored.file || file.sha256 != receipt.sha256) {
                    let text = "the dump is not the one that the manifest belongs to";
                    return Ok(Some(Verdict::of(vec![text.to_owned()])));
                }
            }
        }
        let Counting { sink: mut script, refused, .. } = sink;
        let ended = script.end();
        match (script.into_stage().finish(), ended) {
            (Err(_), _) if stop.cancel.is_cancelled() => Err(DrillError::Cancelled),
            (Err(fault), _) => self.judge_fault(fault, stored).map(Some),
            (Ok(()), Ok(())) if !refused => Ok(None),
            (Ok(()), ended) => {
                let error = ended.err().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into());
                Err(self.restore_error(Fault::Pipe(error)))
            }
        }
    }

    fn restorers(&self, access: &Access) -> Result<Vec<Streaming>, DrillError> {
        let tools = &self.target.tools;
        let client = self.client()?;
        let open = |_number| {
            let program = session::program(&client, access, tools).arg("--tuples-only");
            let psql = tools.exec.stream(program).map_err(PostgresError::Tool);
            let psql = psql.map_err(|source| self.target.error(source))?;
            self.work.stop.add(psql.killer());
            Ok(psql)
        };
        (0..tools.limits.sessions.max(1)).map(open).collect()
    }

    fn restore_error(&self, fault: Fault) -> DrillError {
        self.target.error(PostgresError::Restore(fault))
    }

    /// A restore that failed: is it the server or the dump?
    fn judge_fault(&self, fault: Fault, stored: &StoredDatabase) -> Result<Verdict, DrillError> {
        let is_other_major = stored.contents.database.major() != self.target_major;
        let is_version = is_other_major && fault.may_be_version();
        if is_version || fault.is_of_server() {
            return Err(self.restore_error(fault));
        }
        Ok(Verdict::of(vec![format!("the dump does not restore: {}", Chain(&fault))]))
    }

    fn facts(&self, session: &mut Session) -> Result<Facts, DrillError> {
        let facts = Facts::ask(session).map_err(|source| self.target.error(source))?;
        let is_source = |stored: &StoredDatabase| {
            stored.contents.database.system_identifier == facts.system_identifier
        };
        if self.contents.databases.iter().any(is_source) {
            return Err(DrillError::TargetIsSource {
                target: self.target.name.clone(),
                backup: self.work.drill.snapshot.backup.clone(),
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
            .map_err(|source| self.target.error(source))
    }

    /// The newest: it understands what every older `pg_dump` writes.
    fn client(&self) -> Result<Client, DrillError> {
        let clients = Clients::discover(&self.target.tools.clients);
        clients.newest().cloned().map_err(|source| self.target.error(source))
    }

    fn access(&self, database: &str) -> Result<Access, DrillError> {
        let PostgresTarget { server, tools, .. } = self.target;
        let run: RunId = self.work.drill.run;
        Access::open(server, database, run, tools).map_err(|source| self.target.error(source))
    }
}

/// What the target is.
#[derive(Debug, serde::Deserialize)]
struct Facts {
    system_identifier: String,
    version: String,
    version_num: u32,
    superuser: bool,
    extensions: Vec<String>,
}

const FACTS: &str = "\
SELECT json_build_object(
  'system_identifier', (SELECT system_identifier::text FROM pg_control_system()),
  'version', current_setting('server_version'),
  'version_num', current_setting('server_version_num')::int,
  'superuser', (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
  'extensions', (SELECT coalesce(json_agg(name), '[]') FROM pg_available_extensions))";

impl Facts {
    fn ask(session: &mut Session) -> Result<Self, PostgresError> {
        session.ask("look at the drill target", FACTS)
    }

    /// What keeps this target from showing anything, a sentence each.
    fn obstacles(&self, contents: &DatabaseContents) -> Vec<String> {
        let missing = contents
            .extensions
            .iter()
            .filter(|extension| !self.extensions.contains(&extension.name));
        missing
            .map(|extension| {
                format!(
                    "extension {} {} is not installed on the target; install its package there",
                    extension.name, extension.version
                )
            })
            .collect()
    }
}

/// What all databases showed together.
#[derive(Default)]
struct Total {
    differences: Vec<String>,
    because: Vec<String>,
    elapsed: Duration,
}

impl Total {
    fn add(&mut self, verdict: Verdict, elapsed: Duration, database: Option<&String>) {
        self.elapsed += elapsed;
        let (into, texts) = match verdict {
            Verdict::Passed => return,
            Verdict::Failed { differences } => (&mut self.differences, differences),
            Verdict::Unverified { because } => (&mut self.because, because),
        };
        into.extend(texts.into_iter().map(|text| match database {
            Some(database) => format!("database `{database}`: {text}"),
            None => text,
        }));
    }

    /// One that failed is enough, and one that showed nothing keeps all from passing.
    fn verdict(&mut self) -> Verdict {
        let (differences, because) =
            (std::mem::take(&mut self.differences), std::mem::take(&mut self.because));
        match (differences.is_empty(), because.is_empty()) {
            (false, _) => Verdict::Failed { differences },
            (true, false) => Verdict::Unverified { because },
            (true, true) => Verdict::Passed,
        }
    }
}

/// What cannot be told from a difference between versions proves nothing.
fn judge(expected: &DatabaseContents, found: &DatabaseContents) -> Verdict {
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
    /// Nobody takes what is read.
    refused: bool,
    bytes: u64,
    progress: &'a Progress,
}

impl<W: Write> Write for Counting<'_, W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.sink.write(buffer).inspect_err(|_| self.refused = true)?;
        self.bytes += count as u64;
        self.progress.done(self.bytes);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}
