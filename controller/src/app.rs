//! The composition root: the only place that names real sockets, clocks and stores.

mod context;
mod error;
mod event;
mod init;
mod listen;

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use homelab_common::{
    chance::{Chance, SystemChance},
    clock::{Clock, SystemClock},
    error_chain::Chain,
    exec::SystemExec,
    lifecycle::Tasks,
};
use homelab_proto::{
    controller::v1::{
        audit_service_server::AuditServiceServer,
        backup_schedule_service_server::BackupScheduleServiceServer,
        context_service_server::ContextServiceServer,
        enrolment_service_server::EnrolmentServiceServer, fleet_service_server::FleetServiceServer,
        gold_service_server::GoldServiceServer, job_service_server::JobServiceServer,
        power_service_server::PowerServiceServer, runbook_service_server::RunbookServiceServer,
        site_service_server::SiteServiceServer,
    },
    descriptors,
};
use homelab_rpc::{
    deny_list::DenyList,
    dial::Dialer,
    node::{LogHandle, NodeOptions},
    peer::SiteName,
    serve::{STREAMS_MAX_CONTROLLER, Server},
};
use tracing::{info, warn};

pub use context::Context;
pub use error::BuildError;
pub use event::{Change, Events};
pub use init::{InitError, InitOptions, init};
use listen::Listeners;

use crate::{
    audit::AuditLog,
    backup::{self, Backups, signer::Signer, wire::GrpcAgents},
    ca::{
        Authority,
        enrolment::{Contact, Enrolments},
        nonce::Nonces,
        root::controller_terms,
        seal::Seal,
    },
    config::{Config, StoreConfig},
    documents::{self, Documents},
    fleet::{
        Fleet,
        keep::ObserveHosts,
        watch::{Pace, Watchers},
    },
    gold::{self, Gold, engines::GoldEngines, wire::TlsConnector},
    grpc::{
        audit::AuditApi, backup_schedule::BackupScheduleApi, context::ContextApi,
        enrolment::EnrolmentApi, fleet::FleetApi, gold::GoldApi, job::JobApi, power::PowerApi,
        runbook::RunbookApi, site::SiteApi, unbuilt::NOT_BUILT,
    },
    http,
    job::{self, Jobs, fleet_engines::FleetEngines},
    login::LoginLinks,
    overview::Overviews,
    power::{self, Powers, wire::FleetHands},
    site::{CurrentSite, SiteFile},
    task::{
        Driver, Nudge,
        copy::CopyStore,
        deny::PushDenyList,
        expiry::Expire,
        lease::{Instance, KeepLease, Lease, release},
        renewal::{OwnIdentity, RenewOwn},
        upkeep::Upkeep,
    },
};

/// The key that seals secrets in the store, in the state folder.
const SEAL_KEY: &str = "seal.key";

/// The key that evidence is signed with, in the state folder.
const EVIDENCE_KEY: &str = "evidence.key";

/// The socket of root, in the runtime folder.
pub const ADMIN_SOCKET: &str = "admin.sock";

/// What the controller takes from its surroundings.
#[derive(Clone, Debug)]
pub struct Deps {
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub chance: Arc<dyn Chance>,
    /// Where tasks are spawned.
    pub tasks: Tasks,
    /// How often daemons are asked.
    pub pace: Pace,
    /// To change the log level at run time.
    pub log: Option<LogHandle>,
}

impl Deps {
    /// The real ones.
    #[must_use]
    pub fn system(log: Option<LogHandle>) -> Self {
        Self {
            clock: Arc::new(SystemClock),
            chance: Arc::new(SystemChance),
            tasks: Tasks::default(),
            pace: Pace::default(),
            log,
        }
    }
}

/// Where a running controller is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// gRPC with client certificates.
    pub grpc: SocketAddr,
    /// gRPC for those who enrol.
    pub enrolment: SocketAddr,
    /// Dashboard and gateway.
    pub web: SocketAddr,
    /// The socket of root.
    pub admin_socket: PathBuf,
}

/// A controller that runs. It ends with its tasks.
#[derive(Debug)]
pub struct App {
    context: Context,
    bound: Bound,
    jobs: Jobs,
    backups: Backups,
    powers: Powers,
    web: http::Running,
    _instance: Instance,
}

impl App {
    /// Builds the controller and starts it. Sockets are bound before anything else is done.
    ///
    /// # Errors
    ///
    /// Says what is missing, wrong, taken, or held by another controller.
    pub async fn build(config: Config, deps: Deps) -> Result<Self, BuildError> {
        let Deps { clock, chance, tasks, pace, log } = deps;
        let now = clock.now();
        for folder in [&config.state_dir, &config.runtime_dir] {
            crate::ca::files::make_folder(folder)?;
        }
        let instance = Instance::lock(&config.state_dir, chance.as_ref())?;
        let file = SiteFile::load(&config.site, now).map_err(BuildError::Site)?;
        let site_name = SiteName::try_new(file.site.name().as_str())?;
        let authority = Arc::new(Authority::open(&config.pki_dir)?);
        let own = OwnIdentity {
            pki_dir: config.pki_dir.clone(),
            authority: Arc::clone(&authority),
            terms: controller_terms(
                &site_name,
                file.site.domain(),
                &config.name,
                &config.addresses,
            )?,
        };
        let (identity, _) = own.ensure(now, chance.as_ref())?;
        let listeners = Listeners::bind(&config, identity, &clock).await?;
        let bound = listeners.bound.clone();

        let store = homelab_store::open(&store_url(&config.store)?).await?;
        let holder = format!("{}/{}", config.name, instance.name());
        let lease = Lease::acquire(store.as_ref(), &holder, now).await?;
        info!(%holder, token = lease.token(), "this controller acts");

        let events = Events::default();
        let driver = Driver::new(tasks.clone(), Arc::clone(&clock), Arc::clone(&chance));
        let site_file = CurrentSite::new(file);
        let audit = AuditLog::start(Arc::clone(&store), Arc::clone(&clock), events.clone(), &tasks);
        let context = Context {
            store,
            clock,
            chance,
            driver,
            site: site_file.subscribe(),
            site_file,
            fleet: Fleet::new(events.clone()),
            audit,
            events,
            lease,
            web_url: web_url(&config, bound.web).into(),
            tasks,
            config: Arc::new(config),
        };
        let gold = Gold::new(gold_parts(&context));
        gold.recover().await?;
        let jobs = Jobs::new(job_parts(&context, &gold));
        let agents = GrpcAgents::new(Arc::new(context.fleet.clone()));
        let signer = Signer::open(&context.config.state_dir.join(EVIDENCE_KEY))?;
        let parts = backup::Parts::of(&context, Arc::new(agents.clone()), signer);
        let backups = Backups::new(parts);
        let powers = Powers::new(power_parts(&context, &jobs));
        let documents = Documents::new(documents_parts(&context));
        let assembly = Assembly {
            context: context.clone(),
            jobs: jobs.clone(),
            gold,
            backups: backups.clone(),
            powers: powers.clone(),
            documents,
            agents,
            authority,
            own,
            site_name,
            pace,
            log,
        };
        let web = assembly.start(listeners).await?;
        Ok(Self { context, bound, jobs, backups, powers, web, _instance: instance })
    }

    /// What its parts are built from.
    #[must_use]
    pub const fn context(&self) -> &Context {
        &self.context
    }

    /// The queue of AI jobs.
    #[must_use]
    pub const fn jobs(&self) -> &Jobs {
        &self.jobs
    }

    /// Schedules and runs of backups.
    #[must_use]
    pub const fn backups(&self) -> &Backups {
        &self.backups
    }

    /// The power of hosts that are off until needed.
    #[must_use]
    pub const fn powers(&self) -> &Powers {
        &self.powers
    }

    /// Where it is reached.
    #[must_use]
    pub const fn bound(&self) -> &Bound {
        &self.bound
    }

    /// Reads the site file and the gateway's keys again.
    pub fn reload(&self) -> impl Future<Output = ()> + Send + use<> {
        let (site, clock) = (self.context.site_file.clone(), Arc::clone(&self.context.clock));
        let web = self.web.clone();
        async move {
            web.reload();
            if let Err(error) = site.reload(clock.now()) {
                warn!(error = %Chain(&error), "the new site file was not taken; the old one stays");
            }
        }
    }

    /// Gives back what others may wait for. Call it after the tasks have ended.
    pub async fn finish(&self) {
        let Context { lease, store, clock, .. } = &self.context;
        if let Err(error) = release(lease, store.as_ref(), clock.now()).await {
            warn!(error = %Chain(&error), "could not give the lease back; it runs out by itself");
        }
        store.close().await;
    }
}

/// Everything that is put together once.
struct Assembly {
    context: Context,
    jobs: Jobs,
    gold: Gold,
    backups: Backups,
    powers: Powers,
    documents: Documents,
    agents: GrpcAgents,
    authority: Arc<Authority>,
    own: OwnIdentity,
    site_name: SiteName,
    pace: Pace,
    log: Option<LogHandle>,
}

impl Assembly {
    async fn start(self, listeners: Listeners) -> Result<http::Running, BuildError> {
        let context = &self.context;
        let deny_list = DenyList::default();
        let push = Nudge::default();
        let pusher = PushDenyList {
            store: Arc::clone(&context.store),
            authority: Arc::clone(&self.authority),
            own: deny_list.clone(),
            fleet: context.fleet.clone(),
            clock: Arc::clone(&context.clock),
            tasks: context.tasks.clone(),
        };
        // Before the first connection is let in.
        pusher.take_over().await?;
        let enrolments = Arc::new(self.enrolments(&listeners.bound, push.clone())?);
        let overviews = Overviews {
            fleet: context.fleet.clone(),
            backups: Arc::new(self.backups.clone()),
            store: Arc::clone(&context.store),
            documents: self.documents.clone(),
        };

        let api = EnrolmentApi::new(enrolments, self.login_links());
        let strangers = self
            .server(&deny_list)
            .service(EnrolmentServiceServer::new(api.clone()))
            .for_strangers()
            .build()?;
        let main = self
            .server(&deny_list)
            .descriptors(descriptors::CONTROLLER)
            .not_built(NOT_BUILT)
            .node(NodeOptions {
                identity: listeners.main.clone(),
                version: env!("CARGO_PKG_VERSION"),
                features: Vec::new(),
                log: self.log.clone(),
            })
            .service(EnrolmentServiceServer::new(api))
            .service(FleetServiceServer::new(FleetApi::new(context.clone(), overviews.clone())))
            .service(AuditServiceServer::new(AuditApi::new(Arc::clone(&context.store))))
            .service(SiteServiceServer::new(SiteApi::new(context.clone())))
            .service(PowerServiceServer::new(PowerApi::new(
                self.powers.clone(),
                context.tasks.clone(),
            )))
            .service(GoldServiceServer::new(GoldApi::new(self.gold.clone())))
            .service(BackupScheduleServiceServer::new(BackupScheduleApi::new(
                self.backups.clone(),
                self.agents.clone(),
                self.authority.roots_pem().into(),
            )));
        let main = self.with_jobs(main).build()?;

        let dialer = Dialer::new(self.site_name.clone(), listeners.trust.clone())
            .identity(listeners.main.clone())
            .deny_list(deny_list)
            .clock(Arc::clone(&context.clock));
        self.start_tasks(pusher, push, &listeners);
        self.jobs.start();
        self.backups.start(&context.driver);
        self.powers.start(&context.driver);
        self.documents.start(&context.driver);
        self.watchers(dialer).start(context.site.clone());
        let web = http::Parts {
            context,
            jobs: &self.jobs,
            backups: &self.backups,
            documents: &self.documents,
            overviews,
            names: &self.own.terms.dns,
        };
        let web = http::start(web, listeners.web_server)?;
        strangers.serve_tls(listeners.enrolment_server);
        main.serve_tls(listeners.grpc_server);
        main.serve_unix(listeners.admin);
        Ok(web)
    }

    /// Jobs, and what they are given.
    fn with_jobs(&self, server: homelab_rpc::serve::Builder) -> homelab_rpc::serve::Builder {
        let Self { jobs, documents, .. } = self;
        server
            .service(JobServiceServer::new(JobApi::new(jobs.clone(), documents.clone())))
            .service(ContextServiceServer::new(ContextApi::new(documents.clone())))
            .service(RunbookServiceServer::new(RunbookApi::new(documents.clone(), jobs.clone())))
    }

    fn server(&self, deny_list: &DenyList) -> homelab_rpc::serve::Builder {
        Server::builder(self.own.terms.identity.clone(), self.context.tasks.clone())
            .streams_max(STREAMS_MAX_CONTROLLER)
            .deny_list(deny_list.clone())
            .observer(Arc::new(self.context.audit.clone()))
            .clock(Arc::clone(&self.context.clock))
            .chance(Arc::clone(&self.context.chance))
    }

    fn enrolments(&self, bound: &Bound, push: Nudge) -> Result<Enrolments, BuildError> {
        let Context { config, chance, .. } = &self.context;
        let contact = Contact {
            enrolment_address: reached_at(config, bound.enrolment),
            main_address: reached_at(config, bound.grpc),
            name: self.own.terms.dns.first().cloned().unwrap_or_default(),
        };
        Ok(Enrolments {
            store: Arc::clone(&self.context.store),
            authority: Arc::clone(&self.authority),
            seal: Seal::open(&config.state_dir.join(SEAL_KEY), chance.as_ref())?,
            nonces: Nonces::new(chance.as_ref()),
            site: self.context.site_file.clone(),
            site_name: self.site_name.clone(),
            contact,
            fleet: self.context.fleet.clone(),
            push,
            clock: Arc::clone(&self.context.clock),
            chance: Arc::clone(chance),
        })
    }

    fn login_links(&self) -> LoginLinks {
        LoginLinks {
            store: Arc::clone(&self.context.store),
            web_url: Arc::clone(&self.context.web_url),
            clock: Arc::clone(&self.context.clock),
            chance: Arc::clone(&self.context.chance),
        }
    }

    fn watchers(&self, dialer: Dialer) -> Watchers {
        Watchers {
            fleet: self.context.fleet.clone(),
            dialer,
            clock: Arc::clone(&self.context.clock),
            chance: Arc::clone(&self.context.chance),
            tasks: self.context.tasks.clone(),
            pace: self.pace,
        }
    }

    fn start_tasks(&self, pusher: PushDenyList, push: Nudge, listeners: &Listeners) {
        let Context { driver, store, clock, chance, tasks, fleet, lease, config, .. } =
            &self.context;
        let upkeep =
            Upkeep { store: Arc::clone(store), clock: Arc::clone(clock), rules: config.keep };
        let observe = ObserveHosts {
            fleet: fleet.clone(),
            store: Arc::clone(store),
            clock: Arc::clone(clock),
        };
        let keep_lease = KeepLease {
            lease: lease.clone(),
            store: Arc::clone(store),
            clock: Arc::clone(clock),
            tasks: tasks.clone(),
        };
        let renew = RenewOwn {
            own: self.own.clone(),
            main: listeners.main.clone(),
            enrolment: listeners.enrolment.clone(),
            roots: listeners.trust.roots(),
            store: Arc::clone(store),
            clock: Arc::clone(clock),
            chance: Arc::clone(chance),
        };
        driver.start(Arc::new(keep_lease));
        driver.start(Arc::new(renew));
        driver.start(Arc::new(Expire { store: Arc::clone(store), clock: Arc::clone(clock) }));
        driver.start(Arc::new(upkeep));
        let state_dir = config.state_dir.clone();
        driver.start(Arc::new(CopyStore { store: Arc::clone(store), state_dir }));
        driver.start_with(Arc::new(pusher), push);
        driver.start_with(Arc::new(observe), fleet.turned());
    }
}

fn gold_parts(context: &Context) -> gold::Parts {
    gold::Parts {
        store: Arc::clone(&context.store),
        clock: Arc::clone(&context.clock),
        tasks: context.tasks.clone(),
        site: context.site.clone(),
        connector: Arc::new(TlsConnector::new(Arc::clone(&context.clock))),
    }
}

fn job_parts(context: &Context, gold: &Gold) -> job::Parts {
    let house =
        FleetEngines::new(context.fleet.clone(), context.site.clone(), context.tasks.clone());
    job::Parts {
        store: Arc::clone(&context.store),
        clock: Arc::clone(&context.clock),
        chance: Arc::clone(&context.chance),
        tasks: context.tasks.clone(),
        driver: context.driver.clone(),
        site: context.site.clone(),
        engines: Arc::new(GoldEngines::new(Arc::new(house), gold.clone())),
        events: context.events.clone(),
        limits: context.config.queue,
    }
}

fn documents_parts(context: &Context) -> documents::Parts {
    documents::Parts {
        store: Arc::clone(&context.store),
        clock: Arc::clone(&context.clock),
        exec: Arc::new(SystemExec),
        site: context.site.clone(),
        folder: context.config.state_dir.join("context"),
    }
}

fn power_parts(context: &Context, jobs: &Jobs) -> power::Parts {
    power::Parts {
        store: Arc::clone(&context.store),
        clock: Arc::clone(&context.clock),
        chance: Arc::clone(&context.chance),
        tasks: context.tasks.clone(),
        site: context.site.clone(),
        jobs: jobs.clone(),
        events: context.events.clone(),
        hands: Arc::new(FleetHands::new(context.fleet.clone(), Arc::new(SystemExec))),
    }
}

/// How others reach a port of ours.
fn reached_at(config: &Config, bound: SocketAddr) -> String {
    let address = config.addresses.first().copied().unwrap_or_else(|| bound.ip());
    SocketAddr::new(address, bound.port()).to_string()
}

fn web_url(config: &Config, bound: SocketAddr) -> String {
    let own = || format!("https://{}", reached_at(config, bound));
    config.web.public_url.clone().unwrap_or_else(own)
}

/// The store's own words for where it lies, with the password put in.
fn store_url(config: &StoreConfig) -> Result<homelab_store::StoreUrl, BuildError> {
    Ok(match config {
        StoreConfig::Sqlite { path } => homelab_store::StoreUrl::Sqlite(path.clone()),
        StoreConfig::Postgres { url, password: None } => {
            homelab_store::StoreUrl::Postgres(url.clone())
        }
        StoreConfig::Postgres { url, password: Some(source) } => {
            let password = source.load()?;
            homelab_store::StoreUrl::Postgres(with_password(url, password.expose()))
        }
    })
}

fn with_password(url: &str, password: &str) -> String {
    let encoded: String = password
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        })
        .collect();
    url.replacen('@', &format!(":{encoded}@"), 1)
}

#[cfg(test)]
mod tests;
