//! What the daemons on a host have in common: configuration, identity, sockets, renewal.
//!
//! A `main` reads its file, calls [`Daemon::open`], makes its services, calls
//! [`Daemon::serve`], and waits for the end with `lifecycle::run`.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use homelab_common::{
    chance::Chance,
    clock::Clock,
    config::{Section, parse},
    lifecycle::Tasks,
    telemetry::{Format, LogConfig},
    tls::{
        BindError, Identity, IdentityError, IdentityHandle, Roots, RootsError, TlsServer,
        TrustHandle,
    },
};
use tokio::net::UnixListener;
use tracing::info;

use crate::{
    deny_list::{DenyList, DenyListError},
    dial::Dialer,
    enrol::{Enrolment, FilesError, Renewal, enrolment_in},
    guard::{CallLog, Observer},
    node::{LogHandle, NodeOptions},
    not_built::NotBuilt,
    peer::{InvalidCertificate, Kind, Peer, SpiffeId},
    serve::{BindUnixError, BuildError, Builder, Server, bind_unix, tls_options},
};

const DENY_LIST_FILE: &str = "deny-list.json";

/// Less than the `TimeoutStopSec=` of the units.
const GRACE: Duration = Duration::from_secs(20);

/// What every daemon on a host is configured with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonConfig {
    /// Where gRPC is served.
    pub listen: SocketAddr,
    /// Where the identity is.
    pub pki_dir: PathBuf,
    /// Where state is kept.
    pub state_dir: PathBuf,
    /// The unix socket of root; `None` when `admin-socket = false`.
    pub admin_socket: Option<PathBuf>,
    /// What is logged, and how.
    pub log: LogConfig,
    /// How long calls may go on after a stop.
    pub grace: Duration,
}

impl DaemonConfig {
    /// What a daemon of this kind has when its file says nothing.
    #[must_use]
    pub fn default_for(kind: Kind) -> Self {
        let port = match kind {
            Kind::Agent => 7450,
            Kind::BackupAgent => 7451,
            Kind::GpuWorker => 7452,
            Kind::Controller | Kind::User => 7440,
        };
        let state_dir = PathBuf::from(format!("/var/lib/homelab-{kind}"));
        Self {
            listen: ([0, 0, 0, 0], port).into(),
            pki_dir: state_dir.join("pki"),
            state_dir,
            admin_socket: Some(format!("/run/homelab-{kind}/admin.sock").into()),
            log: LogConfig::default(),
            grace: GRACE,
        }
    }

    /// Reads `listen`, `state-dir`, `pki-dir`, `admin-socket`, `grace` and `[log]` (`level`,
    /// `format`) at the top of a daemon's file. What is wrong is in the report of the document.
    #[must_use]
    pub fn read(root: &Section<'_>, kind: Kind) -> Self {
        let default = Self::default_for(kind);
        let state_dir = root.or("state-dir", default.state_dir, parse::path);
        let log = root.table("log");
        let formats = [("auto", Format::Auto), ("text", Format::Text), ("json", Format::Json)];
        Self {
            listen: root.or("listen", default.listen, parse::socket_addr),
            pki_dir: root.or("pki-dir", state_dir.join("pki"), parse::path),
            state_dir,
            admin_socket: root.or("admin-socket", default.admin_socket, |value| {
                match value.as_bool() {
                    Some(false) => Ok(None),
                    _ => parse::path(value).map(Some),
                }
            }),
            log: LogConfig {
                level: log.or("level", default.log.level, parse::string),
                format: log.or("format", default.log.format, parse::word(&formats)),
            },
            grace: root.or("grace", default.grace, parse::duration),
        }
    }
}

/// What one daemon is, besides its services.
#[derive(Clone, Debug)]
pub struct DaemonParts {
    /// Its configuration.
    pub config: DaemonConfig,
    /// Its kind, which its certificate must have.
    pub kind: Kind,
    /// Its version: `env!("CARGO_PKG_VERSION")`.
    pub version: &'static str,
    /// Its encoded `FileDescriptorSet`, for reflection.
    pub descriptors: &'static [u8],
    /// What is in its protocol and not in its code.
    pub not_built: &'static [NotBuilt],
    /// Names of features that a peer may rely on.
    pub features: Vec<String>,
    /// To change the log level at run time.
    pub log: Option<LogHandle>,
    /// Who hears of every call; `None` is the log.
    pub observer: Option<Arc<dyn Observer>>,
    /// All background work.
    pub tasks: Tasks,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub chance: Arc<dyn Chance>,
}

/// Why a daemon could not start.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// There is no identity yet.
    #[error(
        "this host has no identity in `{}`; make a token with `labctl host enroll`, \
         then run: homelab-{kind} enroll -",
        pki_dir.display()
    )]
    NotEnrolled {
        /// Where it would be.
        pki_dir: PathBuf,
        /// What this daemon is.
        kind: Kind,
    },
    /// The identity cannot be loaded.
    #[error("could not load the identity")]
    Identity(#[source] IdentityError),
    /// The roots cannot be loaded.
    #[error("could not load the roots")]
    Roots(#[source] RootsError),
    /// The certificate names nobody.
    #[error("the certificate of this host cannot be used")]
    Certificate(#[source] InvalidCertificate),
    /// The certificate is for another kind of daemon.
    #[error("the certificate in `{}` is for `{id}`, this is a {kind}", pki_dir.display())]
    OtherKind {
        /// Where it is.
        pki_dir: PathBuf,
        /// For whom it is.
        id: SpiffeId,
        /// What this daemon is.
        kind: Kind,
    },
    /// `enrolment.json` cannot be read.
    #[error("could not read how this host was enrolled")]
    Enrolment(#[source] FilesError),
    /// The deny list cannot be read.
    #[error("could not load the deny list")]
    DenyList(#[source] DenyListError),
    /// The port cannot be had.
    #[error("could not serve gRPC")]
    Bind(#[source] BindError),
    /// The unix socket cannot be had.
    #[error("could not serve the admin socket")]
    BindUnix(#[source] BindUnixError),
    /// The server cannot be put together.
    #[error("could not put the server together")]
    Build(#[source] BuildError),
}

/// A daemon whose identity is loaded and whose sockets are bound, and that serves nothing yet.
#[derive(Debug)]
pub struct Daemon {
    parts: DaemonParts,
    id: SpiffeId,
    identity: IdentityHandle,
    trust: TrustHandle,
    deny_list: DenyList,
    enrolment: Option<Enrolment>,
    listener: TlsServer,
    admin: Option<UnixListener>,
}

impl Daemon {
    /// Loads the identity and the deny list, and binds the sockets: before any work, so that
    /// what is wrong shows at once.
    ///
    /// # Errors
    ///
    /// Says what is missing, wrong or taken.
    pub async fn open(parts: DaemonParts) -> Result<Self, DaemonError> {
        let config = &parts.config;
        let (kind, pki_dir) = (parts.kind, config.pki_dir.clone());
        if !pki_dir.join("cert.pem").exists() {
            return Err(DaemonError::NotEnrolled { pki_dir, kind });
        }
        let (identity, roots) = load(&pki_dir)?;
        let id = id_of(&identity)?;
        if id.kind() != kind {
            return Err(DaemonError::OtherKind { pki_dir, id, kind });
        }
        let deny_list =
            DenyList::load(config.state_dir.join(DENY_LIST_FILE)).map_err(DaemonError::DenyList)?;
        let enrolment = enrolment_in(&pki_dir).map_err(DaemonError::Enrolment)?;
        let (identity, trust) = (IdentityHandle::new(identity), TrustHandle::new(roots));
        let options = tls_options(identity.clone(), trust.clone(), &parts.clock);
        let listener = TlsServer::bind(config.listen, options).await.map_err(DaemonError::Bind)?;
        let admin = match &config.admin_socket {
            Some(path) => Some(bind_unix(path).await.map_err(DaemonError::BindUnix)?),
            None => None,
        };
        info!(%id, grpc = %listener.local_addr(), admin = ?config.admin_socket, "listening");
        Ok(Self { parts, id, identity, trust, deny_list, enrolment, listener, admin })
    }

    /// Who this is.
    #[must_use]
    pub const fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Where gRPC will be served.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// All background work.
    #[must_use]
    pub const fn tasks(&self) -> &Tasks {
        &self.parts.tasks
    }

    /// Calls other daemons as this one.
    #[must_use]
    pub fn dialer(&self) -> Dialer {
        Dialer::new(self.id.site().clone(), self.trust.clone())
            .identity(self.identity.clone())
            .deny_list(self.deny_list.clone())
            .clock(Arc::clone(&self.parts.clock))
    }

    /// Loads identity and roots again: for SIGHUP.
    #[must_use]
    pub fn reloader(&self) -> Reloader {
        Reloader {
            pki_dir: self.parts.config.pki_dir.clone(),
            id: self.id.clone(),
            identity: self.identity.clone(),
            trust: self.trust.clone(),
        }
    }

    /// Serves: what `add` puts in, `NodeService`, health and reflection, on the port and on the
    /// admin socket; and keeps the certificate fresh. Everything ends with the tasks.
    ///
    /// # Errors
    ///
    /// The descriptor set is damaged.
    pub fn serve(self, add: impl FnOnce(Builder) -> Builder) -> Result<Server, DaemonError> {
        let dialer = self.dialer();
        let Self { parts, id, identity, trust, deny_list, enrolment, listener, admin } = self;
        let builder = Server::builder(id, parts.tasks.clone())
            .descriptors(parts.descriptors)
            .deny_list(deny_list)
            .not_built(parts.not_built)
            .clock(Arc::clone(&parts.clock))
            .chance(Arc::clone(&parts.chance))
            .node(NodeOptions {
                identity: identity.clone(),
                version: parts.version,
                features: parts.features,
                log: parts.log,
            });
        let observer = parts.observer.unwrap_or_else(|| Arc::new(CallLog::default()));
        let server = add(builder.observer(observer)).build().map_err(DaemonError::Build)?;
        server.serve_tls(listener);
        if let Some(admin) = admin {
            server.serve_unix(admin);
        }
        if let Some(enrolment) = enrolment {
            let directory = parts.config.pki_dir;
            let (clock, chance) = (parts.clock, parts.chance);
            let renewal = Renewal { directory, enrolment, identity, trust, dialer, clock, chance };
            parts.tasks.spawn(renewal.run(parts.tasks.stopping()));
        }
        Ok(server)
    }
}

/// Loads identity and roots of a running daemon again.
#[derive(Clone, Debug)]
pub struct Reloader {
    pki_dir: PathBuf,
    id: SpiffeId,
    identity: IdentityHandle,
    trust: TrustHandle,
}

impl Reloader {
    /// Takes what is on the disk. Blocks on it, for a moment.
    ///
    /// # Errors
    ///
    /// The files cannot be used, or are for somebody else; what was loaded stays in use.
    pub fn reload(&self) -> Result<(), DaemonError> {
        let (identity, roots) = load(&self.pki_dir)?;
        let id = id_of(&identity)?;
        if id != self.id {
            let (pki_dir, kind) = (self.pki_dir.clone(), self.id.kind());
            return Err(DaemonError::OtherKind { pki_dir, id, kind });
        }
        self.trust.replace_roots(roots);
        self.identity.replace(identity);
        Ok(())
    }
}

fn load(pki_dir: &std::path::Path) -> Result<(Identity, Roots), DaemonError> {
    let identity = Identity::from_dir(pki_dir).map_err(DaemonError::Identity)?;
    let roots = Roots::from_dir(pki_dir).map_err(DaemonError::Roots)?;
    Ok((identity, roots))
}

fn id_of(identity: &Identity) -> Result<SpiffeId, DaemonError> {
    // A chain has at least a leaf: `Identity` sees to that.
    let leaf = identity.chain().first().ok_or(DaemonError::Identity(IdentityError::Chain))?;
    Ok(Peer::from_certificate(leaf).map_err(DaemonError::Certificate)?.id().clone())
}

#[cfg(test)]
mod tests {
    use homelab_common::config::Document;

    use super::*;

    fn read(text: &str) -> (DaemonConfig, Result<(), String>) {
        let document = Document::parse("agent.toml", text).expect("TOML");
        let config = DaemonConfig::read(&document.root(), Kind::Agent);
        (config, document.finish().map_err(|report| report.to_string()))
    }

    #[test]
    fn an_empty_file_gives_the_documented_defaults() {
        let (config, problems) = read("");
        assert_eq!(problems, Ok(()));
        assert_eq!(config, DaemonConfig::default_for(Kind::Agent));
        assert_eq!(config.listen.port(), 7450);
        assert_eq!(config.pki_dir, PathBuf::from("/var/lib/homelab-agent/pki"));
    }

    #[test]
    fn the_identity_follows_the_state_directory() {
        let (config, problems) = read("state-dir = \"/srv/a\"\nadmin-socket = false\n");
        assert_eq!(problems, Ok(()));
        assert_eq!(config.pki_dir, PathBuf::from("/srv/a/pki"));
        assert_eq!(config.admin_socket, None);
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let (_, problems) =
            read("listen = \"here\"\nadmin-socket = true\n[log]\nformat = \"jsn\"\n");
        let report = problems.expect_err("three problems");
        assert!(report.contains("3 problems"), "{report}");
        assert!(report.contains("did you mean `json`"), "{report}");
    }
}
