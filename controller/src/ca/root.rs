//! The ceremony that founds a site's identities: root CA, issuing CA, the controller's own
//! certificate and the first administrator's.
//!
//! The root's key is written once, into a folder that is not the controller's, and is not kept
//! anywhere else: who breaks into the controller gets an issuing CA of one year, not the site. The
//! folder is meant to be moved to a medium that stays in a drawer.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use homelab_common::chance::Chance;
use homelab_rpc::{
    enrol::{FilesError, give_to_owner_of},
    peer::{Grant, InvalidSpiffeId, Kind, Role, SiteName, SpiffeId},
};
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SerialNumber,
};

use super::{
    Authority, OpenError,
    files::{self, FileError, Readers},
    issue::{BACKDATE, IssueError, PublicKey, Terms, Usage, since_epoch},
};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// How long the root is good.
pub const ROOT_VALID_FOR: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// How long the issuing CA is good.
pub const ISSUING_VALID_FOR: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long the controller's own certificate is good.
pub const CONTROLLER_VALID_FOR: Duration = Duration::from_secs(30 * 24 * 3600);
/// How long the first administrator's certificate is good: long enough for the first evening.
pub const ADMIN_VALID_FOR: Duration = DAY;

/// File of the root's certificate in the recovery folder.
pub const ROOT: &str = "root.pem";
/// File of the root's key in the recovery folder.
pub const ROOT_KEY: &str = "root-key.pem";
const RECOVERY_README: &str = "README.txt";

/// What the ceremony needs to know.
#[derive(Clone, Debug)]
pub struct Ceremony<'a> {
    /// Name of the site: the trust domain of every identity.
    pub site: &'a SiteName,
    /// DNS domain of the site.
    pub domain: &'a str,
    /// The controller's name: first label of its DNS name.
    pub name: &'a str,
    /// Addresses of the controller.
    pub addresses: &'a [IpAddr],
    /// The controller's folder; must hold no identity yet.
    pub pki_dir: &'a Path,
    /// Where the root goes; must hold no root yet, and must not lie in `pki_dir`.
    pub recovery_dir: &'a Path,
    /// Name of the first administrator.
    pub admin: &'a str,
    /// Where the administrator's identity goes.
    pub admin_dir: &'a Path,
}

/// What was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founded {
    /// SHA-256 of the root's public key, as tokens carry it.
    pub root_pin: String,
    /// When the issuing CA must be renewed.
    pub issuing_not_after: Timestamp,
    /// The administrator's identity.
    pub admin: String,
    /// When it ends.
    pub admin_not_after: Timestamp,
}

/// Why the ceremony was not held. Nothing that was there has been touched.
#[derive(Debug, thiserror::Error)]
pub enum FoundError {
    /// There is an identity already.
    #[error(
        "there is an identity already: `{}`; running `init` over it would lock every host out. \
         Move it away if that is what you want",
        path.display()
    )]
    AlreadyFounded {
        /// The file that is there.
        path: PathBuf,
    },
    /// The recovery folder lies where the controller could read it.
    #[error(
        "the recovery folder `{}` lies within the controller's own folder; name another one, best \
         on a medium that you can take out",
        path.display()
    )]
    RecoveryInside {
        /// The folder.
        path: PathBuf,
    },
    /// A name breaks a rule.
    #[error(transparent)]
    Name(#[from] InvalidSpiffeId),
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The controller's user could not be given what is its own.
    #[error(transparent)]
    Owner(#[from] FilesError),
    /// A CA certificate could not be made.
    #[error("the CA certificate could not be made")]
    Certificate(#[from] rcgen::Error),
    /// What was just written could not be opened.
    #[error("the new issuing CA cannot be used")]
    Open(#[source] OpenError),
    /// A leaf certificate could not be issued.
    #[error("the certificate of `{name}` could not be issued")]
    Issue {
        /// Whose.
        name: String,
        /// Why.
        #[source]
        source: IssueError,
    },
}

/// Holds the ceremony.
///
/// # Errors
///
/// There is an identity already, or a file cannot be written.
pub fn found(
    ceremony: &Ceremony<'_>,
    now: Timestamp,
    chance: &dyn Chance,
) -> Result<Founded, FoundError> {
    refuse_to_overwrite(ceremony)?;
    let Ceremony { site, domain, name, addresses, .. } = *ceremony;
    let own = controller_terms(site, domain, name, addresses)?;
    let grant = Grant { role: Role::Admin, approver: true };
    let admin = SpiffeId::user(site.clone(), ceremony.admin, grant)?;
    let admin = user_terms(admin, ADMIN_VALID_FOR);
    for folder in [ceremony.pki_dir, ceremony.recovery_dir, ceremony.admin_dir] {
        files::make_folder(folder)?;
    }
    let root = make_root(ceremony, now, chance)?;
    let issuing = make_issuing(ceremony.site, &root, now, chance)?;
    write_recovery(ceremony, &root)?;
    let pki = |file: &str| ceremony.pki_dir.join(file);
    files::create(&pki(files::ROOTS), &root.pem, Readers::All)?;
    files::create(&pki(files::ISSUING), &issuing.pem, Readers::All)?;
    files::create(&pki(files::ISSUING_KEY), &issuing.key.serialize_pem(), Readers::Owner)?;

    let authority = Authority::open(ceremony.pki_dir).map_err(FoundError::Open)?;
    write_identity(&authority, ceremony.pki_dir, &own, now, chance)?;
    if let Some(state_dir) = ceremony.pki_dir.parent() {
        // Root holds the ceremony, and the controller's own user must read the keys.
        give_to_owner_of(state_dir, ceremony.pki_dir)?;
    }
    let admin_not_after = write_identity(&authority, ceremony.admin_dir, &admin, now, chance)?;
    // Last: a folder without roots is not taken for an identity.
    files::create(&ceremony.admin_dir.join(files::ROOTS), &root.pem, Readers::All)?;
    Ok(Founded {
        root_pin: authority.root_pin().to_string(),
        issuing_not_after: authority.issuing_not_after(),
        admin: admin.identity.to_string(),
        admin_not_after,
    })
}

/// What the controller's own certificate says; daemons check the DNS name.
///
/// # Errors
///
/// The name is not a host name.
pub fn controller_terms(
    site: &SiteName,
    domain: &str,
    name: &str,
    addresses: &[IpAddr],
) -> Result<Terms, InvalidSpiffeId> {
    Ok(Terms {
        identity: SpiffeId::daemon(site.clone(), Kind::Controller, name)?,
        usage: Usage::ServerAndClient,
        dns: vec![format!("{name}.{domain}")],
        addresses: addresses.to_vec(),
        valid_for: CONTROLLER_VALID_FOR,
    })
}

/// What a person's certificate says.
#[must_use]
pub fn user_terms(identity: SpiffeId, valid_for: Duration) -> Terms {
    Terms { identity, usage: Usage::Client, dns: Vec::new(), addresses: Vec::new(), valid_for }
}

/// A CA certificate with its key.
struct CaPair {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
}

fn refuse_to_overwrite(ceremony: &Ceremony<'_>) -> Result<(), FoundError> {
    if ceremony.recovery_dir.starts_with(ceremony.pki_dir) {
        return Err(FoundError::RecoveryInside { path: ceremony.recovery_dir.into() });
    }
    let own = [files::ROOTS, files::ISSUING, files::ISSUING_KEY, files::CHAIN, files::KEY];
    let paths = own.iter().map(|file| ceremony.pki_dir.join(file));
    let kit = [ROOT, ROOT_KEY].iter().map(|file| ceremony.recovery_dir.join(file));
    let person = [files::CHAIN, files::KEY].iter().map(|file| ceremony.admin_dir.join(file));
    match paths.chain(kit).chain(person).find(|path| path.exists()) {
        Some(path) => Err(FoundError::AlreadyFounded { path }),
        None => Ok(()),
    }
}

fn make_root(
    ceremony: &Ceremony<'_>,
    now: Timestamp,
    chance: &dyn Chance,
) -> Result<CaPair, rcgen::Error> {
    let key = KeyPair::generate()?;
    let name = format!("{} root CA", ceremony.site);
    let params = ca_params(name, BasicConstraints::Constrained(1), ROOT_VALID_FOR, now, chance);
    let pem = params.self_signed(&key)?.pem();
    Ok(CaPair { params, key, pem })
}

fn make_issuing(
    site: &SiteName,
    root: &CaPair,
    now: Timestamp,
    chance: &dyn Chance,
) -> Result<CaPair, rcgen::Error> {
    let key = KeyPair::generate()?;
    let name = format!("{site} issuing CA {}", now.strftime("%Y-%m-%d"));
    let params = ca_params(name, BasicConstraints::Constrained(0), ISSUING_VALID_FOR, now, chance);
    let pem = params.signed_by(&key, &Issuer::from_params(&root.params, &root.key))?.pem();
    Ok(CaPair { params, key, pem })
}

fn ca_params(
    name: String,
    constraints: BasicConstraints,
    valid_for: Duration,
    now: Timestamp,
    chance: &dyn Chance,
) -> CertificateParams {
    let mut params = CertificateParams::default();
    let epoch = || rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch() + since_epoch(now).saturating_sub(BACKDATE);
    params.not_after = epoch() + since_epoch(now) + valid_for;
    params.serial_number = Some(SerialNumber::from_slice(&super::issue::serial(chance)));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(constraints);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        // The issuing key signs the deny list as well.
        KeyUsagePurpose::DigitalSignature,
    ];
    params.use_authority_key_identifier_extension = true;
    params
}

fn write_recovery(ceremony: &Ceremony<'_>, root: &CaPair) -> Result<(), FileError> {
    let folder = ceremony.recovery_dir;
    files::create(&folder.join(ROOT_KEY), &root.key.serialize_pem(), Readers::Owner)?;
    files::create(&folder.join(ROOT), &root.pem, Readers::All)?;
    let readme = format!(
        "Recovery kit of the homelab site `{site}`.\n\n\
         {ROOT_KEY} is the key of the root CA. It exists only here. Copy this folder to two media \
         that stay offline, then delete it from this machine.\n\n\
         It is needed to give the controller a new issuing CA: once a year, or after the controller \
         was broken into. Without it every host must enrol again under a new root.\n",
        site = ceremony.site,
    );
    files::create(&folder.join(RECOVERY_README), &readme, Readers::All)
}

/// Makes a key and its certificate, and writes both where no identity is yet.
fn write_identity(
    authority: &Authority,
    folder: &Path,
    terms: &Terms,
    now: Timestamp,
    chance: &dyn Chance,
) -> Result<Timestamp, FoundError> {
    let key = KeyPair::generate()?;
    let leaf = authority
        .issue(terms, &PublicKey::of_pair(&key)?, now, chance)
        .map_err(|source| FoundError::Issue { name: terms.identity.to_string(), source })?;
    files::create(&folder.join(files::KEY), &key.serialize_pem(), Readers::Owner)?;
    files::create(&folder.join(files::CHAIN), &authority.chain_of(&leaf), Readers::All)?;
    Ok(leaf.not_after)
}
