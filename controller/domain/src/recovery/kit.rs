//! Whether anybody has shown lately that the recovery kit opens everything.

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    fleet::Verdict,
    reason::{Because, Reason},
    risk::Gap,
    site::Site,
    text::span,
};

/// What a person tried with the kit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KitProof {
    /// When.
    pub at: Timestamp,
    /// Who.
    pub by: String,
    /// Fingerprint of the kit that was tried.
    pub fingerprint: String,
    /// What was tried.
    pub items: Vec<ProofItem>,
}

/// One secret that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProofItem {
    /// Its name.
    pub secret: String,
    /// It opened what it should.
    pub opened: bool,
    /// Why it did not, for people.
    pub message: String,
}

impl KitProof {
    /// Everything opened that was tried, and something was.
    #[must_use]
    pub fn passed(&self) -> bool {
        !self.items.is_empty() && self.items.iter().all(|item| item.opened)
    }

    /// Secrets of the site that were not tried: by name, in the order of the site file.
    #[must_use]
    pub fn left_out(&self, site: &Site) -> Vec<String> {
        let names = site.secrets().iter().map(|secret| secret.name.to_string());
        names.filter(|name| !self.items.iter().any(|item| item.secret == *name)).collect()
    }
}

/// What is missing of the kit: nobody has proved it, not lately, not this one, or it failed. `newest`
/// is the newest proof, `fingerprint` that of the present kit. A key that is lost is a backup that is
/// lost, so that a kit nobody can open makes everything critical.
#[must_use]
pub fn proof_gap(
    now: Timestamp,
    site: &Site,
    fingerprint: &str,
    newest: Option<&KitProof>,
) -> Option<Gap> {
    let gap = |verdict, reason, message: String, since| Gap {
        verdict,
        because: Because::new(reason, message),
        since,
        command: "labctl recovery-kit prove".to_owned(),
    };
    let Some(proof) = newest else {
        let message = "nobody has proved that the recovery kit opens the repositories";
        return Some(gap(Verdict::Warning, Reason::KIT_UNPROVED, message.to_owned(), None));
    };
    let since = Some(proof.at);
    if let Some(failed) = proof.items.iter().find(|item| !item.opened) {
        let message = format!(
            "the recovery kit did not open everything: `{}`: {}",
            failed.secret, failed.message
        );
        return Some(gap(Verdict::Critical, Reason::KIT_FAILED, message, since));
    }
    let left_out = proof.left_out(site);
    if let Some(secret) = left_out.first() {
        let message = format!("the last proof of the recovery kit left out `{secret}`");
        return Some(gap(Verdict::Warning, Reason::KIT_UNPROVED, message, since));
    }
    let age = Duration::try_from(now.duration_since(proof.at)).unwrap_or(Duration::ZERO);
    if age > site.kit_proof_every() {
        let message = format!("the recovery kit was last proved {} ago", span(age));
        return Some(gap(Verdict::Warning, Reason::KIT_UNPROVED, message, since));
    }
    (proof.fingerprint != fingerprint).then(|| {
        let message = "the site has changed since the recovery kit was made; print a new one";
        gap(Verdict::Warning, Reason::KIT_OUTDATED, message.to_owned(), since)
    })
}
