//! Keeps the controller's own certificate good: it signs it for itself.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use homelab_common::{
    chance::Chance,
    clock::Clock,
    secret::Secret,
    tls::{Identity, IdentityError, IdentityHandle, Roots},
};
use homelab_store::Store;
use jiff::Timestamp;
use rcgen::KeyPair;
use tracing::warn;

use super::{BackgroundTask, Done, Outcome};
use crate::ca::{
    Authority, addresses_of,
    files::{self, FileError, Readers},
    issue::{IssueError, Leaf, PublicKey, Terms},
    record,
};

/// The part of its life that a certificate has left when it is renewed: one third.
const RENEW_AT: u32 = 3;

/// Why the controller has no certificate.
#[derive(Debug, thiserror::Error)]
pub enum OwnCertificateError {
    /// It could not be signed.
    #[error("could not sign the controller's own certificate")]
    Issue(#[from] IssueError),
    /// No key could be made.
    #[error("could not make a key for the controller's own certificate")]
    Key(#[from] rcgen::Error),
    /// It could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// What was signed cannot be used.
    #[error("the controller's own certificate cannot be used")]
    Identity(#[from] IdentityError),
}

/// The controller's own identity on the disk, and what its certificate should say.
#[derive(Clone, Debug)]
pub struct OwnIdentity {
    /// The folder.
    pub pki_dir: PathBuf,
    /// Who signs.
    pub authority: Arc<Authority>,
    /// What the certificate should say.
    pub terms: Terms,
}

impl OwnIdentity {
    /// The identity, renewed when that is due. Key and certificate are two files, and a crash may
    /// come between them: an identity that does not load is made anew, since the one who would have
    /// to be asked for it is this very process.
    ///
    /// # Errors
    ///
    /// It cannot be signed or written.
    pub fn ensure(
        &self,
        now: Timestamp,
        chance: &dyn Chance,
    ) -> Result<(Identity, Option<Leaf>), OwnCertificateError> {
        match Identity::from_dir(&self.pki_dir) {
            Ok(identity) if !is_due(&identity, now) && says(&identity, &self.terms) => {
                return Ok((identity, None));
            }
            Ok(_) => {}
            Err(error) => {
                warn!(error = %homelab_common::error_chain::Chain(&error),
                      "the controller's own certificate cannot be used; making a new one");
            }
        }
        let key = KeyPair::generate()?;
        let leaf = self.authority.issue(&self.terms, &PublicKey::of_pair(&key)?, now, chance)?;
        let (chain, key) = (self.authority.chain_of(&leaf), key.serialize_pem());
        write_pair(&self.pki_dir, &chain, &key)?;
        let identity = Identity::from_pem(&chain, &Secret::new(key))?;
        Ok((identity, Some(leaf)))
    }
}

fn write_pair(folder: &Path, chain: &str, key: &str) -> Result<(), FileError> {
    files::replace(&folder.join(files::KEY), key, Readers::Owner)?;
    files::replace(&folder.join(files::CHAIN), chain, Readers::All)
}

fn is_due(identity: &Identity, now: Timestamp) -> bool {
    let facts = identity.facts();
    let whole = facts.not_after.duration_since(facts.not_before).unsigned_abs();
    let left = facts.not_after.duration_since(now);
    left.is_negative() || left.unsigned_abs() <= whole / RENEW_AT
}

/// Whether the certificate says what it should: a name or an address may have changed.
fn says(identity: &Identity, terms: &Terms) -> bool {
    let facts = identity.facts();
    facts.uris == [terms.identity.to_string()]
        && facts.dns_names == terms.dns
        && identity.chain().first().map(addresses_of).unwrap_or_default() == terms.addresses
}

/// Renews the controller's own certificate and shows it from the next handshake on.
#[derive(Debug)]
pub struct RenewOwn {
    /// What is renewed.
    pub own: OwnIdentity,
    /// What clients with certificates, and browsers, are shown.
    pub main: IdentityHandle,
    /// What those who enrol are shown: the same with the root.
    pub enrolment: IdentityHandle,
    /// The roots.
    pub roots: Roots,
    /// Where issued certificates are kept.
    pub store: Arc<dyn Store>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub chance: Arc<dyn Chance>,
}

#[async_trait]
impl BackgroundTask for RenewOwn {
    fn name(&self) -> &'static str {
        "renew-own-certificate"
    }

    fn description(&self) -> &'static str {
        "Renews the controller's own certificate when a third of its life is left."
    }

    fn period(&self) -> Duration {
        Duration::from_secs(3600)
    }

    async fn activate(&self) -> Outcome {
        let now = self.clock.now();
        // Writes two small files once in 20 days: not worth a thread of its own.
        let (identity, leaf) = self.own.ensure(now, self.chance.as_ref())?;
        let Some(leaf) = leaf else { return Ok(Done::Nothing) };
        self.enrolment.replace(identity.showing_roots(&self.roots));
        self.main.replace(identity);
        let chain = self.own.authority.chain_of(&leaf);
        let row = record(&self.own.terms, &leaf, chain, now);
        let mut tx = self.store.begin().await?;
        tx.certificates().insert(&row).await?;
        tx.commit().await?;
        Ok(Done::Changed(format!("renewed, now good until {}", leaf.not_after)))
    }
}

#[cfg(test)]
mod tests {
    use homelab_common::chance::SystemChance;
    use homelab_rpc::peer::SiteName;

    use super::*;
    use crate::ca::root::{CONTROLLER_VALID_FOR, Ceremony, controller_terms, found};

    fn now() -> Timestamp {
        "2026-06-01T12:00:00Z".parse().expect("a time")
    }

    fn own(folder: &Path) -> OwnIdentity {
        let site = SiteName::try_new("home").expect("a site");
        let addresses = ["127.0.0.1".parse().expect("an address")];
        let ceremony = Ceremony {
            site: &site,
            domain: "home.arpa",
            name: "hx310-db",
            addresses: &addresses,
            pki_dir: &folder.join("pki"),
            recovery_dir: &folder.join("recovery"),
            admin: "ada",
            admin_dir: &folder.join("ada"),
        };
        found(&ceremony, now(), &SystemChance).expect("founded");
        OwnIdentity {
            pki_dir: folder.join("pki"),
            authority: Arc::new(Authority::open(&folder.join("pki")).expect("opens")),
            terms: controller_terms(&site, "home.arpa", "hx310-db", &addresses).expect("names"),
        }
    }

    fn renewed(own: &OwnIdentity, at: Timestamp) -> bool {
        own.ensure(at, &SystemChance).expect("an identity").1.is_some()
    }

    #[test]
    fn it_is_renewed_when_a_third_of_its_life_is_left_and_not_before() {
        let folder = tempfile::tempdir().expect("a folder");
        let own = own(folder.path());
        assert!(!renewed(&own, now() + CONTROLLER_VALID_FOR / 2));
        let late = now() + CONTROLLER_VALID_FOR * 3 / 4;
        assert!(renewed(&own, late));
        assert!(!renewed(&own, late), "the new one is on the disk");
    }

    #[test]
    fn a_half_written_pair_is_replaced_instead_of_keeping_the_controller_down() {
        let folder = tempfile::tempdir().expect("a folder");
        let own = own(folder.path());
        let other = KeyPair::generate().expect("a key").serialize_pem();
        files::replace(&own.pki_dir.join(files::KEY), &other, Readers::Owner).expect("written");
        assert!(renewed(&own, now()));
        assert!(!renewed(&own, now()));
    }

    #[test]
    fn a_new_address_brings_a_new_certificate() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut own = own(folder.path());
        own.terms.addresses.push("192.0.2.20".parse().expect("an address"));
        assert!(renewed(&own, now()));
        assert!(!renewed(&own, now()));
    }
}
