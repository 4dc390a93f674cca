//! `homelab-controller init`: founds the identities of a site.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use homelab_common::{chance::Chance, clock::Clock, config::Report, ledger};
use homelab_rpc::{
    enrol::{ENROLMENT_FILE, Enrolment},
    peer::{InvalidSpiffeId, SiteName},
};

use crate::{
    ca::root::{Ceremony, FoundError, Founded, found},
    config::Config,
    site::SiteFile,
};

/// What the ceremony is told on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitOptions {
    /// Where the root's key goes, and nowhere else.
    pub recovery_dir: PathBuf,
    /// Name of the first administrator.
    pub admin: String,
    /// Where the administrator's identity goes.
    pub admin_dir: PathBuf,
}

/// Why nothing was founded.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The site file has problems.
    #[error("the site file cannot be used\n{0}")]
    Site(Report),
    /// The site's name cannot stand in an identity.
    #[error(transparent)]
    Name(#[from] InvalidSpiffeId),
    /// The ceremony was not held.
    #[error(transparent)]
    Found(#[from] FoundError),
    /// The administrator's certificate is there, but not where to use it.
    #[error("could not write `{}`", path.display())]
    Enrolment {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// Founds the identities of the site that `config` names.
///
/// # Errors
///
/// There is an identity already, the site file has problems, or a file cannot be written.
pub fn init(
    config: &Config,
    options: &InitOptions,
    clock: &dyn Clock,
    chance: &dyn Chance,
) -> Result<Founded, InitError> {
    let now = clock.now();
    let file = SiteFile::load(&config.site, now).map_err(InitError::Site)?;
    let site = SiteName::try_new(file.site.name().as_str())?;
    let ceremony = Ceremony {
        site: &site,
        domain: file.site.domain(),
        name: &config.name,
        addresses: &config.addresses,
        pki_dir: &config.pki_dir,
        recovery_dir: &options.recovery_dir,
        admin: &options.admin,
        admin_dir: &options.admin_dir,
    };
    let founded = found(&ceremony, now, chance)?;
    let port = config.listen.grpc.port();
    let address = config.addresses.first().copied().unwrap_or_else(|| Ipv4Addr::LOCALHOST.into());
    let enrolment = Enrolment {
        identity: founded.admin.clone(),
        controller_address: SocketAddr::new(address, port).to_string(),
        controller_name: format!("{}.{}", config.name, file.site.domain()),
    };
    let path = options.admin_dir.join(ENROLMENT_FILE);
    let written = serde_json::to_vec_pretty(&enrolment).map_err(std::io::Error::from);
    written
        .and_then(|bytes| ledger::replace(&path, &bytes))
        .map_err(|source| InitError::Enrolment { path, source })?;
    Ok(founded)
}
