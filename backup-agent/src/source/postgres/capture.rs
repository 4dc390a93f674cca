//! Fixing the moment of each database, and starting the programs that read it.

use std::{
    io::{self, Read},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use homelab_common::{
    error_chain::Chain,
    exec::{Exec, Killer, Program, Streaming},
};

use super::{
    Databases, GLOBALS_FILE, PostgresError, Server, Tools,
    access::Access,
    contents::Moment,
    dump,
    manifest::DatabaseContents,
    session::Session,
    version::{Client, Clients},
};
use crate::{
    ids::RunId,
    repository::Incoming,
    source::Context,
    stream::{Content, Gauge, Measured},
};

/// Databases that one run may hold open: each takes two connections.
const DATABASES_MAX: usize = 40;

/// Those of drills are nobody's data.
const ALL: &str = "\
SELECT coalesce(json_agg(datname ORDER BY datname), '[]') FROM pg_database
WHERE datallowconn AND NOT datistemplate AND datname !~ '^homelab_scratch_'";

const TABLESPACES: &str = "\
SELECT coalesce(json_agg(spcname ORDER BY spcname), '[]') FROM pg_tablespace
WHERE spcname !~ '^pg_'";

/// Opens a session in each database, in a snapshot that others can join. Blocks.
pub(super) struct Opening {
    pub(super) server: Server,
    pub(super) databases: Databases,
    pub(super) tools: Tools,
    pub(super) run: RunId,
}

/// Databases at a moment.
pub(super) struct Opened {
    pub(super) databases: Vec<OpenDatabase>,
    pub(super) client: Client,
    pub(super) tablespaces: Vec<String>,
}

/// One of them.
pub(super) struct OpenDatabase {
    pub(super) name: String,
    pub(super) moment: Moment,
    pub(super) access: Arc<Access>,
    file: String,
    session: Session,
}

/// One that was counted; its session still has the snapshot.
pub(super) struct CountedDatabase {
    pub(super) file: String,
    pub(super) contents: DatabaseContents,
    pub(super) session: Session,
}

impl Opening {
    pub(super) fn open(self) -> Result<Opened, PostgresError> {
        let clients = Clients::discover(&self.tools.clients);
        let newest = clients.newest()?;
        let entry = self.databases.entry().to_owned();
        let (access, mut session) = self.connect(newest, &entry)?;
        let major = session.server_major()?;
        let mut client = clients.choose(major)?.clone();
        client.probe(self.tools.exec.as_ref())?;
        let tablespaces = session.ask("list the tablespaces", TABLESPACES)?;
        let mut names = match &self.databases {
            Databases::One(name) => vec![name.clone()],
            Databases::Named(names) => names.clone(),
            Databases::All => session.ask("list the databases", ALL)?,
        };
        names.sort();
        names.dedup();
        if names.is_empty() || names.len() > DATABASES_MAX {
            let server = self.server.to_string();
            return Err(PostgresError::Databases {
                found: names.len(),
                server,
                max: DATABASES_MAX,
            });
        }
        let mut first = Some((access, session));
        let mut databases = Vec::with_capacity(names.len());
        for name in names {
            let connected = if name == entry { first.take() } else { None };
            let (access, session) = match connected {
                Some(connected) => connected,
                None => self.connect(newest, &name)?,
            };
            databases.push(self.fix(name, access, session)?);
        }
        Ok(Opened { databases, client, tablespaces })
    }

    fn connect(
        &self,
        client: &Client,
        database: &str,
    ) -> Result<(Arc<Access>, Session), PostgresError> {
        let access = Access::open(&self.server, database, self.run, &self.tools)?;
        let session = Session::open(client, &access, &self.tools)?;
        Ok((Arc::new(access), session))
    }

    fn fix(
        &self,
        name: String,
        access: Arc<Access>,
        mut session: Session,
    ) -> Result<OpenDatabase, PostgresError> {
        let moment = Moment::fix(&mut session, self.tools.limits.lock_wait)?;
        Ok(OpenDatabase { file: self.databases.file(&name), name, moment, access, session })
    }
}

impl OpenDatabase {
    /// Counts everything in the snapshot. Blocks.
    pub(super) fn count(self, limit: Duration) -> Result<CountedDatabase, PostgresError> {
        let (session, contents) = self.moment.count(self.session, limit)?;
        Ok(CountedDatabase { file: self.file, contents, session })
    }
}

impl Opened {
    /// `pg_dump` of each database in its session's snapshot, and `pg_dumpall` beside
    /// them. Each starts when somebody reads it, so that a server with many databases
    /// is not asked for all of them at once.
    pub(super) fn streams(
        &self,
        context: &Context,
        tools: &Tools,
        killers: &Killers,
    ) -> (Vec<Incoming>, Vec<(String, Gauge)>) {
        let key = self.client.restrict_keys.then_some(context.key.as_str());
        let mut programs = Vec::with_capacity(self.databases.len() + 1);
        for OpenDatabase { file, moment, access, session, .. } in &self.databases {
            killers.add(session.killer());
            let dump = dump::database(&self.client, access, &moment.snapshot, key, tools);
            programs.push((file.clone(), dump, Arc::clone(access)));
        }
        if let Some(OpenDatabase { moment, access, .. }) = self.databases.first() {
            let reads_passwords = moment.reads_passwords;
            let globals = dump::globals(&self.client, access, key, reads_passwords, tools);
            programs.push((GLOBALS_FILE.to_owned(), globals, Arc::clone(access)));
        }
        let mut files = Vec::with_capacity(programs.len());
        let mut dumps = Vec::with_capacity(programs.len());
        for (name, program, access) in programs {
            let child = Child {
                exec: Arc::clone(&tools.exec),
                killers: killers.clone(),
                state: State::Waiting(Box::new(program)),
                _access: access,
            };
            let (content, gauge) = Measured::new(Box::new(child), context.cancel.clone());
            dumps.push((name.clone(), gauge.clone()));
            files.push(Incoming { name, content, gauge });
        }
        (files, dumps)
    }
}

/// A program's output, from the first read on. The reader itself fails when the
/// program did.
struct Child {
    exec: Arc<dyn Exec>,
    killers: Killers,
    state: State,
    /// Its password file.
    _access: Arc<Access>,
}

enum State {
    Waiting(Box<Program>),
    Running(Box<Streaming>),
    Ended,
}

impl Read for Child {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let State::Running(stream) = &mut self.state {
            return stream.read(buffer);
        }
        let State::Waiting(program) = std::mem::replace(&mut self.state, State::Ended) else {
            return Ok(0);
        };
        let started = self.exec.stream(*program);
        let mut stream = started.map_err(|error| io::Error::other(Chain(&error).to_string()))?;
        self.killers.add(stream.killer());
        let read = stream.read(buffer);
        self.state = State::Running(Box::new(stream));
        read
    }
}

impl Content for Child {
    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Programs that run for a capture.
#[derive(Clone, Default)]
pub(super) struct Killers(Arc<Mutex<Running>>);

#[derive(Default)]
struct Running {
    killers: Vec<Killer>,
    /// Nobody waits for them any more.
    ended: bool,
}

impl Killers {
    fn add(&self, killer: Killer) {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if running.ended {
            killer.kill();
        }
        running.killers.push(killer);
    }
}

/// Ends the programs that may still run when nobody waits for them any more.
pub(super) struct KillOnDrop(pub(super) Killers);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let mut running = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        running.ended = true;
        running.killers.iter().for_each(Killer::kill);
    }
}
