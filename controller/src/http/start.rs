//! Putting everything together that is served over HTTPS.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use homelab_common::{error_chain::Chain, tls::TlsServer};
use tracing::{info, warn};

use super::{
    Web,
    dashboard::{
        backups::source::BackupsSource,
        board::Board,
        chat::ChatSource,
        handler::Dashboard,
        jobs::source::JobsSource,
        source::{self, ControllerSource},
        workers::WorkersSource,
    },
    gateway::{
        Gateway, Keys,
        cors::Origins,
        key::{InvalidKeys, KeyRing},
    },
    guard::{Guard, HostNames},
    metrics::Metrics,
    server,
    session::Sessions,
};
use crate::{app::Context, backup::Backups, documents::Documents, job::Jobs, overview::Overviews};

/// Largest keys file.
const KEYS_BYTES_MAX: u64 = 1024 * 1024;

/// What the web is made from.
#[derive(Debug)]
pub struct Parts<'a> {
    /// What every part of the controller is given.
    pub context: &'a Context,
    /// The queue of AI jobs.
    pub jobs: &'a Jobs,
    /// Schedules and runs of backups.
    pub backups: &'a Backups,
    /// Documents that jobs may be given.
    pub documents: &'a Documents,
    /// Whether all is well.
    pub overviews: Overviews,
    /// Names in the controller's certificate.
    pub names: &'a [String],
}

/// The web while it is served. Clones are the same.
#[derive(Clone, Debug)]
pub struct Running {
    keys: Keys,
    keys_file: Option<PathBuf>,
}

/// Why the keys file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// It cannot be read.
    #[error("could not read the keys file `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It is larger than any keys file is.
    #[error("the keys file `{}` is larger than 1 MiB; is it the right file?", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A line is wrong.
    #[error("the keys file `{}` cannot be used: one key a line, `name sha256 [tiers] [setting...]`", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Which line, and what is wrong.
        #[source]
        source: InvalidKeys,
    },
}

/// Serves dashboard and gateway on `listener` until the tasks of the context stop.
///
/// # Errors
/// The keys file cannot be used.
pub fn start(parts: Parts<'_>, listener: TlsServer) -> Result<Running, KeysError> {
    let Parts { context, jobs, backups, documents, overviews, names } = parts;
    let keys_file = context.config.gateway.keys.clone();
    let ring = keys_file.as_deref().map(load).transpose()?.unwrap_or_default();
    if ring.is_empty() {
        info!("the gateway has no keys and lets nobody in; name a file in `gateway.keys`");
    }
    let keys = Keys::new(ring);
    let board = Board::new(Arc::new(ControllerSource {
        overviews,
        jobs: jobs.clone(),
        site: context.site.clone(),
        clock: Arc::clone(&context.clock),
    }));
    board.start(&context.tasks);
    source::follow(&board, &context.events, &context.tasks);
    let backup = BackupsSource::new(backups.clone());
    let backups = Board::new(Arc::new(backup.clone()));
    backups.start(&context.tasks);
    source::follow(&backups, &context.events, &context.tasks);
    let job = JobsSource::new(jobs.clone());
    let job_board = Board::new(Arc::new(job.clone()));
    job_board.start(&context.tasks);
    source::follow(&job_board, &context.events, &context.tasks);
    let workers = Board::new(WorkersSource::new(jobs.clone()));
    workers.start(&context.tasks);
    source::follow(&workers, &context.events, &context.tasks);
    let chat = Board::new(ChatSource::new(jobs.clone()));
    chat.start(&context.tasks);
    source::follow(&chat, &context.events, &context.tasks);
    let metrics = Arc::new(Metrics::default());
    let gateway = Gateway::new(jobs.clone(), documents.clone(), keys.clone(), Arc::clone(&metrics));
    gateway.start();
    let web = Web {
        gateway: gateway.clone(),
        guard: Guard {
            names: host_names(context, names),
            clock: Arc::clone(&context.clock),
            chance: Arc::clone(&context.chance),
        },
        dashboard: Dashboard {
            board,
            backups,
            backup: Arc::new(backup),
            jobs: job_board,
            job: Arc::new(job),
            workers,
            chat,
            gateway,
            sessions: Sessions {
                store: Arc::clone(&context.store),
                clock: Arc::clone(&context.clock),
                chance: Arc::clone(&context.chance),
            },
            clock: Arc::clone(&context.clock),
            tasks: context.tasks.clone(),
        },
        jobs: jobs.clone(),
        keys: keys.clone(),
        origins: Origins::new(context.config.gateway.origins.iter().cloned()),
        metrics,
    };
    server::serve(listener, web.router(), &context.tasks);
    Ok(Running { keys, keys_file })
}

impl Running {
    /// Reads the keys file again. A file that cannot be used leaves the old keys in force.
    pub fn reload(&self) {
        let Some(path) = &self.keys_file else { return };
        match load(path) {
            Ok(ring) => {
                info!(keys = ring.len(), "took over the keys file");
                self.keys.replace(ring);
            }
            Err(error) => {
                warn!(error = %Chain(&error), "the new keys file was not taken; the old one stays")
            }
        }
    }
}

fn load(path: &Path) -> Result<KeyRing, KeysError> {
    let reading = |source| KeysError::Read { path: path.to_owned(), source };
    if fs::metadata(path).map_err(reading)?.len() > KEYS_BYTES_MAX {
        return Err(KeysError::TooLarge { path: path.to_owned() });
    }
    let text = fs::read_to_string(path).map_err(reading)?;
    text.parse().map_err(|source| KeysError::Line { path: path.to_owned(), source })
}

fn host_names(context: &Context, names: &[String]) -> HostNames {
    let config = &context.config;
    let addresses = config.addresses.iter().map(ToString::to_string);
    let public = config.web.public_url.as_deref().and_then(|url| {
        let authority = url.strip_prefix("https://")?.split('/').next()?;
        Some(authority.rsplit_once(':').map_or(authority, |(name, _)| name).to_owned())
    });
    let own = [config.name.clone()];
    HostNames::new(names.iter().cloned().chain(addresses).chain(public).chain(own))
}
