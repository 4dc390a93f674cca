//! One run of an engine's process, from its start to its end.

use std::{
    fs,
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use homelab_common::{
    chance::Chance,
    error_chain::Chain,
    exec::{Ended, ExecError, Program, Supervised},
    secret::{Secret, SecretError},
};
use http::StatusCode;
use nix::sys::signal::Signal;
use tokio::{
    sync::watch,
    time::{self, Instant},
};
use tracing::{info, warn};

use crate::{
    engine::{
        State, Supervisor, Wanted,
        backend::Unmapped,
        build::Variant,
        command::Values,
        health::{Limits, Readiness, Verdict, Watchdog, readiness},
        http::{self as engine_http, Endpoint, HttpError, NotLoopback},
        incident::{Incident, Remedy},
        placed::{Placed, check_card},
        session::{Session, SessionParts},
        trace::{self, Trace},
    },
    model::Model,
};

/// How often a starting engine is asked whether it is ready.
const READY_PERIOD: Duration = Duration::from_millis(50);

/// How long one such question may take.
const READY_DEADLINE: Duration = Duration::from_secs(2);

/// `/health` has a few words to say.
const HEALTH_BYTES_MAX: usize = 64 * 1024;

/// How many of its last lines are kept of an engine that ended by itself.
const INCIDENT_LINES_MAX: usize = 40;

/// How a run ended.
#[derive(Debug)]
pub(super) enum End {
    /// Because something else is wanted.
    Asked,
    /// Because nobody has used it for long.
    Idle,
    /// By itself, or because it hung.
    ByItself(Incident),
}

/// Why an engine ended without having been asked to.
#[derive(Debug, thiserror::Error)]
pub(super) enum Cause {
    #[error("no port of 127.0.0.1 could be had")]
    NoPort(#[source] io::Error),
    #[error("its key file {} could not be written", path.display())]
    KeyFile {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Endpoint(#[from] NotLoopback),
    #[error("what an earlier worker left running could not be ended")]
    Leftover(#[source] io::Error),
    #[error("its process id could not be written down")]
    Trace(#[source] io::Error),
    #[error("its devices could not be listed")]
    Listing(#[source] ExecError),
    #[error("the devices of this host could not be read within {after:?}")]
    Devices { after: Duration },
    #[error("its device cannot be told")]
    Unmapped(#[from] Unmapped),
    #[error(
        "its command does not say `{{device}}`, without which it would use other cards than {names}; add it, as in `-dev {{device}}`"
    )]
    NeedsDevice { names: String },
    #[error(
        "it uses the card in {used} and not that in {wanted}; correct `device`, or what `environment` and `command` say of it"
    )]
    WrongCard { used: String, wanted: String },
    #[error("its key could not be read")]
    RemoteKey(#[source] SecretError),
    #[error("it does not answer")]
    Remote(#[source] HttpError),
    #[error("its list of models answers {0}")]
    RemoteStatus(StatusCode),
    #[error("it has no model `{model}`; it has {known}")]
    RemoteModel { model: String, known: String },
    #[error("it could not be started")]
    Spawn(#[source] ExecError),
    #[error("{}", describe(*.0))]
    Ended(Ended),
    #[error("how it ended could not be found out")]
    Wait(#[source] ExecError),
    #[error("it was not ready within {after:?}; raise `start-deadline` if its model is large")]
    NotReady { after: Duration },
    #[error("it made no progress for {elapsed:?} while requests waited for it, and was killed")]
    Stalled { elapsed: Duration },
}

impl Cause {
    fn remedy(&self) -> Remedy {
        match self {
            // The driver may come up later than we do.
            Self::Unmapped(Unmapped::NothingSeen { .. } | Unmapped::NoCard { .. }) => Remedy::Again,
            Self::Unmapped(_) | Self::NeedsDevice { .. } | Self::WrongCard { .. } => {
                Remedy::Another
            }
            _ => Remedy::Again,
        }
    }
}

impl Supervisor {
    /// Starts a process and stays with it until it ends or is asked to.
    pub(super) async fn run_once(
        &self,
        model: &Arc<Model>,
        variant: &Arc<Variant>,
        wanted: &mut watch::Receiver<Wanted>,
    ) -> End {
        let mut run = Run::default();
        let end = self.start_and_watch(model, variant, wanted, &mut run).await;
        let cause = match end {
            Ok(Leave::Asked) => return End::Asked,
            Ok(Leave::Idle) => return End::Idle,
            Err(cause) => cause,
        };
        let because = Chain(&cause).to_string();
        if let Some(session) = &run.session {
            session.end(&because);
        }
        let mut last_lines = run.process.as_ref().map(Supervised::lines).unwrap_or_default();
        last_lines.drain(..last_lines.len().saturating_sub(INCIDENT_LINES_MAX));
        End::ByItself(Incident {
            at: self.world.clock.now(),
            because,
            model: Arc::clone(model),
            pid: run.process.as_ref().map(Supervised::pid),
            ready_for: run.ready_at.map(|at| at.elapsed()),
            last_lines,
            variant: Some(Arc::clone(variant)),
            remedy: cause.remedy(),
            bundle: None,
        })
    }

    async fn start_and_watch(
        &self,
        model: &Arc<Model>,
        variant: &Arc<Variant>,
        wanted: &mut watch::Receiver<Wanted>,
        run: &mut Run,
    ) -> Result<Leave, Cause> {
        let config = &self.engine.config;
        let runtime = &self.world.runtime;
        if let Some(pid) =
            trace::end_leftover(runtime, &config.name).await.map_err(Cause::Leftover)?
        {
            warn!(engine = %config.name, pid, "ended an engine that an earlier worker had left");
        }
        let Placed { placement, tensor_split } = self.placed(variant).await?;
        let key = Key::create(runtime, &config.name, self.world.chance.as_ref())?;
        let listen = free_port().map_err(Cause::NoPort)?;
        let endpoint = Endpoint::try_new(listen, key.secret.clone())?;
        let values = Values {
            listen,
            model: model.location(),
            alias: model.name.to_string(),
            context_tokens: model.options.context_tokens,
            slots: model.options.slots,
            key_file: key.path.clone(),
            devices: placement.names,
            tensor_split,
        };
        let program = program(variant, model, &values, &placement.environment);
        let process = self.world.exec.supervise(program).map_err(Cause::Spawn)?;
        let pid = process.pid();
        let process = run.process.insert(process);
        let _trace = Trace::leave(runtime, &config.name, pid).map_err(Cause::Trace)?;
        self.set(|status| {
            status.state = State::Starting;
            status.pid = Some(pid);
            status.variant = Some(Arc::clone(variant));
            status.starts += 1;
        });
        info!(engine = %config.name, model = %model.name, pid, address = %listen, "started an engine");

        let began = Instant::now();
        let is_ready = tokio::select! {
            ended = process.wait() => return Err(cause_of(ended)),
            ready = self.until_ready(&endpoint) => { ready?; true }
            () = self.asked(wanted) => false,
        };
        if !is_ready {
            return self.stop(process, Leave::Asked).await;
        }
        check_card(&config.slots(), &process.lines())?;
        info!(engine = %config.name, elapsed_ms = millis(began.elapsed()), "an engine is ready");

        let session = Session::new(SessionParts {
            model: Arc::clone(model),
            devices: config.devices.clone(),
            endpoint,
            patience: config.timing.patience,
            recent: Arc::clone(&self.engine.recent),
            tasks: self.world.tasks.clone(),
            changed: self.world.changed.clone(),
        });
        let session = run.session.insert(Arc::new(session));
        run.ready_at = Some(Instant::now());
        self.set_state(State::Ready(Arc::clone(session)));

        let leave = tokio::select! {
            ended = process.wait() => return Err(cause_of(ended)),
            stalled = self.until_stalled(session) => {
                // No grace: what hangs does not tidy up either.
                drop(process.terminate(Duration::ZERO).await);
                return Err(stalled);
            }
            () = self.asked_and_drained(session, wanted) => Leave::Asked,
            () = self.until_unused(session) => Leave::Idle,
        };
        session.end(match leave {
            Leave::Asked => "it was asked to end",
            Leave::Idle => "nobody has used it for long",
        });
        self.stop(process, leave).await
    }

    /// Waits until the engine has had no request for the configured time, and then
    /// takes none any more.
    async fn until_unused(&self, session: &Session) {
        let Some(idle_end) = self.engine.config.timing.idle_end else {
            return std::future::pending().await;
        };
        loop {
            let unused = session.unused_for();
            if unused < idle_end {
                time::sleep(idle_end - unused).await;
                continue;
            }
            session.close();
            // A request may have come in between.
            if session.unused_for() >= idle_end {
                return;
            }
            session.reopen();
        }
    }

    async fn until_ready(&self, endpoint: &Endpoint) -> Result<(), Cause> {
        let config = &self.engine.config;
        let after = config.timing.start;
        let asking = async {
            let mut was_loading = false;
            loop {
                let path = &config.health_path;
                let answer =
                    engine_http::get(endpoint, path, READY_DEADLINE, HEALTH_BYTES_MAX).await;
                match readiness(&answer) {
                    Readiness::Ready => return,
                    Readiness::Loading if !was_loading => {
                        was_loading = true;
                        self.set_state(State::Loading);
                    }
                    Readiness::Loading | Readiness::Silent => {}
                }
                time::sleep(READY_PERIOD).await;
            }
        };
        time::timeout(after, asking).await.map_err(|_| Cause::NotReady { after })
    }

    /// Looks at the engine while somebody waits for it; asks it nothing otherwise.
    pub(super) async fn until_stalled(&self, session: &Session) -> Cause {
        let timing = &self.engine.config.timing;
        let mut watchdog =
            Watchdog::new(Limits { tokens: timing.stall, prompt: timing.prompt_stall });
        let mut looks = time::interval(timing.look);
        looks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let waiting = session.waiting();
            let progress =
                if waiting.any() { session.progress().await } else { Default::default() };
            if let Verdict::Stalled { elapsed } =
                watchdog.observe(Instant::now(), waiting, progress)
            {
                return Cause::Stalled { elapsed };
            }
        }
    }

    pub(super) async fn asked_and_drained(
        &self,
        session: &Session,
        wanted: &mut watch::Receiver<Wanted>,
    ) {
        self.asked(wanted).await;
        session.close();
        self.world.changed.send_replace(());
        let drain = self.engine.config.timing.drain;
        if time::timeout(drain, session.idle()).await.is_err() {
            let busy = session.slots().busy();
            info!(engine = %self.engine.config.name, busy, "ending an engine under running requests");
        }
    }

    async fn stop(&self, process: &mut Supervised, leave: Leave) -> Result<Leave, Cause> {
        let ended = process.terminate(self.engine.config.timing.stop).await;
        self.set(|status| {
            status.state = State::Stopped;
            status.pid = None;
        });
        ended.map(|_| leave).map_err(Cause::Wait)
    }
}

/// What there is of a run so far.
#[derive(Debug, Default)]
struct Run {
    process: Option<Supervised>,
    session: Option<Arc<Session>>,
    ready_at: Option<Instant>,
}

/// Why a process was ended that had done nothing wrong.
#[derive(Debug, Clone, Copy)]
enum Leave {
    Asked,
    Idle,
}

fn program(
    variant: &Variant,
    model: &Model,
    values: &Values,
    placement: &[(String, String)],
) -> Program {
    let program = Program::new(variant.command.program())
        .args(variant.command.arguments(values))
        .args(model.options.purpose.argument())
        .args(model.options.arguments.iter().cloned());
    // What a person has set comes last and counts.
    let environment = placement.iter().chain(&variant.environment);
    environment.fold(program, |program, (name, value)| program.env(name, value))
}

/// A port that was free a moment ago. If somebody else takes it first, the engine
/// ends at once and is started again with another one.
fn free_port() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

fn cause_of(ended: Result<Ended, ExecError>) -> Cause {
    match ended {
        Ok(ended) => Cause::Ended(ended),
        Err(error) => Cause::Wait(error),
    }
}

fn describe(ended: Ended) -> String {
    match (ended.code, ended.signal) {
        (Some(code), _) => format!("its process ended with exit code {code}"),
        (None, Some(signal)) => match Signal::try_from(signal) {
            Ok(known) => format!("its process was ended by {known}"),
            Err(_) => format!("its process was ended by signal {signal}"),
        },
        (None, None) => "its process ended for an unknown reason".to_owned(),
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The key of one run, in a file that only we can read, until it is dropped.
///
/// Whoever else is on the host can reach the engine's port; the key keeps them out.
#[derive(Debug)]
struct Key {
    secret: Secret<String>,
    path: PathBuf,
}

impl Key {
    fn create(folder: &Path, engine: &str, chance: &dyn Chance) -> Result<Self, Cause> {
        let path = folder.join(format!("engine-{engine}.key"));
        let mut random = [0; 32];
        chance.fill(&mut random);
        let secret: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        write_private(&path, &secret)
            .map_err(|source| Cause::KeyFile { path: path.clone(), source })?;
        Ok(Self { secret: Secret::new(secret), path })
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        // A key file that stays behind opens nothing once its engine has ended.
        drop(fs::remove_file(&self.path));
    }
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")
}
