//! The recovery kit: what it says beside its secrets, and the proofs that it opens everything.

use homelab_domain::{
    evidence::{Fact, StatementKind},
    ids::RequestId,
    recovery::{ColdStart, KitProof, ProofItem, cold_start},
    site::Site,
};
use homelab_store::{Attestation, PageRequest, Remembered, StoreError};
use jiff::Timestamp;
use serde_json::Value;

use super::{
    Backups,
    evidence::{attest, sha256},
};
use crate::ca::issue::hex;

/// What a kit says of one repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KitRepository {
    /// As the site file declares it.
    pub declared: homelab_domain::site::Repository,
    /// Identity that was found in it; empty when nobody has been able to tell.
    pub identity: String,
    /// Hosts whose agents use it, each with the path there.
    pub paths: Vec<String>,
}

impl Backups {
    /// Repositories as the kit names them, in the order of the site file.
    #[must_use]
    pub fn kit_repositories(&self) -> Vec<KitRepository> {
        let site = self.site();
        let each = site.repositories().iter().map(|declared| {
            let facts = self.holdings().facts(&declared.name);
            let mut paths: Vec<_> = site
                .backups()
                .iter()
                .filter(|backup| {
                    backup.repositories().chain(&backup.spool).any(|name| *name == declared.name)
                })
                .filter_map(|backup| {
                    let facts = self.holdings().shelf(&backup.name, &declared.name).facts?;
                    Some(format!("{}:{}", backup.host, facts.path))
                })
                .collect();
            paths.sort();
            paths.dedup();
            let identity = facts.map(|facts| facts.identity).unwrap_or_default();
            KitRepository { declared: declared.clone(), identity, paths }
        });
        each.collect()
    }

    /// SHA-256 of everything that a kit says and that makes it out of date when it changes, in
    /// hexadecimal digits: hosts and addresses, repositories and where they are, secrets and where
    /// they are kept, and the order of the cold start. Not which snapshot is the newest.
    #[must_use]
    pub fn kit_fingerprint(&self) -> String {
        let site = self.site();
        let mut text = format!("{} {}\n", site.name(), self.parts().signer.key_id());
        for host in site.hosts() {
            text.push_str(&format!("host {} {}\n", host.name, host.address));
        }
        for repository in site.repositories() {
            let host = repository.host.as_ref().map(ToString::to_string).unwrap_or_default();
            text.push_str(&format!(
                "repository {} {} {} {host}\n",
                repository.name, repository.medium, repository.place
            ));
        }
        for secret in site.secrets() {
            let kept: Vec<_> = secret.kept_in.iter().map(ToString::to_string).collect();
            text.push_str(&format!("secret {} {}\n", secret.name, kept.join(" ")));
        }
        for step in cold_start(&site).steps {
            text.push_str(&format!("step {} {}\n", step.stage, step.subject));
        }
        hex(&sha256(text.as_bytes()))
    }

    /// The order of a cold start.
    #[must_use]
    pub fn cold_start(&self) -> ColdStart {
        cold_start(&self.site())
    }

    /// The newest proof of the kit.
    ///
    /// # Errors
    ///
    /// The store failed.
    pub async fn last_kit_proof(&self) -> Result<Option<KitProof>, StoreError> {
        let mut tx = self.parts().store.read().await?;
        let page = PageRequest::first(1);
        let newest = tx.attestations().list(StatementKind::KitProof, None, &page).await?;
        Ok(newest.items.first().and_then(proof_of))
    }

    /// Keeps what a person tried with the kit, signed. Idempotent by the id of the call: the same call
    /// again gets the proof of the first; another one with the same id gets none.
    ///
    /// # Errors
    ///
    /// The store failed.
    pub async fn record_kit_proof(
        &self,
        proof: KitProof,
        call: RequestId,
        digest: [u8; 32],
    ) -> Result<Option<KitProof>, StoreError> {
        let parts = self.parts();
        let items = proof.items.iter();
        let items = items.map(|one| (one.secret.clone(), one.opened, one.message.clone()));
        let fact = Fact::KitProof {
            by: proof.by.clone(),
            fingerprint: proof.fingerprint.clone(),
            items: items.collect(),
        };
        let mut tx = parts.store.begin().await?;
        let remembered = tx.requests().remember(call, &digest, proof.at).await?;
        match remembered {
            Remembered::New => {}
            Remembered::Other => return Ok(None),
            Remembered::Same { answer } => {
                // The answer is the place of the statement in the chain.
                let place = answer.and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
                let Some(place) = place.map(u64::from_be_bytes) else { return Ok(Some(proof)) };
                let kept = tx.attestations().after(place.saturating_sub(1), 1).await?;
                return Ok(Some(kept.first().and_then(proof_of).unwrap_or(proof)));
            }
        }
        let kept = attest(tx.as_mut(), &parts.signer, proof.at, &fact).await?;
        tx.requests().answer(call, &kept.sequence.to_be_bytes()).await?;
        tx.commit().await?;
        self.changed();
        Ok(Some(proof))
    }

    /// When the next proof is due: at once, while there is none.
    #[must_use]
    pub fn next_kit_proof(&self, site: &Site, last: Option<&KitProof>) -> Timestamp {
        let due = last.and_then(|proof| proof.at.checked_add(site.kit_proof_every()).ok());
        due.unwrap_or_else(|| self.now())
    }
}

/// A proof, read from what was signed.
fn proof_of(one: &Attestation) -> Option<KitProof> {
    let text: Value = serde_json::from_str(&one.statement).ok()?;
    let member = |key: &str| Some(text.get(key)?.as_str()?.to_owned());
    let item = |item: &Value| {
        Some(ProofItem {
            secret: item.get(0)?.as_str()?.to_owned(),
            opened: item.get(1)?.as_bool()?,
            message: item.get(2)?.as_str()?.to_owned(),
        })
    };
    let items = text.get("items")?.as_array()?.iter().map(item).collect::<Option<Vec<_>>>()?;
    Some(KitProof { at: one.at, by: member("by")?, fingerprint: member("fingerprint")?, items })
}
