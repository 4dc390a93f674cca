//! `homelab-controller init`: founds the identities of a site.

use std::path::PathBuf;

use homelab_common::{chance::Chance, clock::Clock, config::Report};
use homelab_rpc::peer::{InvalidSpiffeId, SiteName};

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
    Ok(found(&ceremony, now, chance)?)
}
