//! Sources and drill targets out of their configuration.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use homelab_common::{clock::Clock, exec::Exec};

use super::{Deps, StartError, load, network};
use crate::{
    config::{BackupConfig, Config, PlaceConfig, SourceConfig, TargetConfig},
    drill::{
        Target,
        folder::{FolderTarget, FolderTools},
        postgres::PostgresTarget,
        zfs::ZfsTarget,
    },
    source::{
        Source,
        files::FilesSource,
        postgres::{
            PostgresSource, Server, Tools,
            config::{PostgresConfig, ServerConfig},
        },
        vaultwarden::{
            Store, VaultwardenSource,
            config::{StoreConfig, VaultwardenConfig},
        },
        zfs::{ReplicaTo, ZfsSource, config::ZfsConfig, program::Zfs},
    },
    tree::Rules,
};

/// How long an upload to Vaultwarden may be under way before the database is copied
/// anew: large attachments take a while over a home connection.
const UPLOAD_SETTLES: Duration = Duration::from_secs(20);

/// What they are all put together from.
pub(super) struct Parts<'a> {
    host: &'a str,
    pub(super) state_dir: &'a Path,
    pub(super) scratch: PathBuf,
    pub(super) exec: Arc<dyn Exec>,
    pub(super) clock: Arc<dyn Clock>,
    postgres: Tools,
}

impl<'a> Parts<'a> {
    pub(super) fn new(config: &'a Config, deps: &Deps, scratch: PathBuf) -> Self {
        let postgres = Tools {
            exec: Arc::clone(&deps.exec),
            clock: Arc::clone(&deps.clock),
            clients: config.postgres.clients.clone(),
            scratch: scratch.clone(),
            limits: config.postgres.limits,
        };
        let (exec, clock) = (Arc::clone(&deps.exec), Arc::clone(&deps.clock));
        let state_dir = &config.daemon.state_dir;
        Self { host: &config.host, state_dir, scratch, exec, clock, postgres }
    }

    /// What a backup reads.
    pub(super) fn source(&self, config: &BackupConfig) -> Result<Arc<dyn Source>, StartError> {
        let of = || format!("backup `{}`", config.name);
        Ok(match &config.source {
            SourceConfig::Postgres(postgres) => Arc::new(self.database(postgres, of)?),
            SourceConfig::Vaultwarden(entry) => Arc::new(self.vaultwarden(entry, of)?),
            SourceConfig::Files(files) => Arc::new(FilesSource {
                roots: files.roots.clone(),
                rules: Rules { exclude: files.exclude.clone(), filesystems: files.filesystems },
                changing: files.changing,
                clock: Arc::clone(&self.clock),
            }),
            SourceConfig::Git(git) => Arc::new(network::git(self, &config.name, git)?),
            SourceConfig::Opnsense(firewall) => {
                Arc::new(network::opnsense(self, &config.name, firewall)?)
            }
            SourceConfig::Zfs(zfs) => Arc::new(self.zfs_source(zfs)),
        })
    }

    fn zfs_source(&self, config: &ZfsConfig) -> ZfsSource {
        let max = config.transfer_max;
        let replica = config.replica.as_ref().map(|to| ReplicaTo {
            dataset: to.dataset.clone(),
            zfs: self.zfs(&to.over, &to.program, max),
            keep: to.keep,
        });
        ZfsSource {
            dataset: config.dataset.clone(),
            zfs: self.zfs(&[], &config.program, max),
            keep: config.keep,
            full_every: config.full_every,
            replica,
            count_files: config.count_files,
            clock: Arc::clone(&self.clock),
        }
    }

    fn zfs(&self, over: &[String], program: &str, transfer_max: Duration) -> Zfs {
        let (exec, over) = (Arc::clone(&self.exec), over.to_vec());
        Zfs { exec, over, program: program.to_owned(), transfer_max }
    }

    fn database(
        &self,
        config: &PostgresConfig,
        of: impl Fn() -> String,
    ) -> Result<PostgresSource, StartError> {
        Ok(PostgresSource {
            server: server(&config.server, of)?,
            databases: config.databases.clone(),
            tools: self.postgres.clone(),
        })
    }

    fn vaultwarden(
        &self,
        config: &VaultwardenConfig,
        of: impl Fn() -> String,
    ) -> Result<VaultwardenSource, StartError> {
        let store = match &config.store {
            StoreConfig::Sqlite(file) => Store::Sqlite(file.clone()),
            StoreConfig::Postgres(entry) => Store::Postgres(Arc::new(self.database(entry, of)?)),
        };
        Ok(VaultwardenSource {
            data_folder: config.data_folder.clone(),
            attachments_folder: config.attachments_folder.clone(),
            sends_folder: config.sends_folder.clone(),
            store,
            may_fall_percent: config.may_fall_percent,
            accept_items: config.accept_items,
            known_missing: config.known_missing.clone(),
            settle: UPLOAD_SETTLES,
            scratch: self.postgres.scratch.clone(),
            clock: Arc::clone(&self.clock),
        })
    }

    /// Where a drill restores.
    pub(super) fn target(&self, config: &TargetConfig) -> Result<Target, StartError> {
        let (name, owner) = (config.name.clone(), self.host.to_owned());
        let of = || format!("drill target `{}`", config.name);
        Ok(match &config.place {
            PlaceConfig::Postgres(place) => Target::Postgres(PostgresTarget {
                name,
                server: server(place, of)?,
                database: place.database.clone(),
                owner,
                tools: self.postgres.clone(),
            }),
            PlaceConfig::Folder(place) => {
                let (exec, clock) = (Arc::clone(&self.exec), Arc::clone(&self.clock));
                let tools = FolderTools { exec, clock, run_max: place.run_max };
                let (path, vaultwarden) = (place.path.clone(), place.vaultwarden.clone());
                Target::Folder(FolderTarget { name, path, owner, tools, vaultwarden })
            }
            PlaceConfig::Zfs(place) => Target::Zfs(ZfsTarget {
                name,
                parent: place.parent.clone(),
                zfs: self.zfs(&[], &place.program, place.transfer_max),
                mount_below: place.mount_below.clone(),
                owner,
            }),
        })
    }
}

fn server(config: &ServerConfig, of: impl Fn() -> String) -> Result<Server, StartError> {
    let password = config.password.as_ref().map(|source| load(source, of)).transpose()?;
    Ok(Server {
        host: config.host.clone(),
        port: config.port,
        user: config.user.clone(),
        password,
        tls_mode: config.tls_mode.clone(),
        tls_root: config.tls_root.clone(),
    })
}
