//! Renewing: a new key and certificate while the old one is still good.

use std::{path::PathBuf, sync::Arc, time::Duration};

use homelab_common::{
    chance::Chance,
    clock::Clock,
    error_chain::Chain,
    retry::Backoff,
    tls::{Identity, IdentityError, IdentityHandle, Roots, RootsError, TrustHandle},
};
use homelab_proto::controller::v1::{
    RenewCertificateRequest, RenewCertificateResponse,
    enrolment_service_client::EnrolmentServiceClient,
};
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};
use tracing::{info, warn};

use super::{Enrolment, FilesError, IdentityFiles, request::NewKey};
use crate::{
    dial::{DialError, Dialer, Target},
    peer::{InvalidCertificate, Kind, Peer},
};

/// How often the time is looked at: a host that slept wakes up late, not in time.
const LOOK_EVERY: Duration = Duration::from_secs(10 * 60);

const RETRY_MIN: Duration = Duration::from_secs(60);
const RETRY_MAX: Duration = Duration::from_secs(60 * 60);

/// How long the call may take.
const CALL_MAX: Duration = Duration::from_secs(10);

/// The part of the lifetime by which renewals of a fleet are spread.
const SPREAD: f64 = 1.0 / 20.0;

/// Why a certificate was not renewed. The old one stands.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    /// The controller's address makes no sense.
    #[error("the controller cannot be called")]
    Dial(#[source] DialError),
    /// No key could be made.
    #[error("could not make a key")]
    Key(#[source] rcgen::Error),
    /// The controller said no, or could not be reached.
    #[error("the controller gave no certificate: {}", .0.message())]
    Refused(#[source] Box<Status>),
    /// The certificate in the answer does not fit the key, or cannot be read.
    #[error("the new certificate cannot be used")]
    Identity(#[source] IdentityError),
    /// The roots in the answer cannot be read.
    #[error("the new roots cannot be used")]
    Roots(#[source] RootsError),
    /// A certificate does not name an identity.
    #[error("a certificate names no identity")]
    Certificate(#[source] InvalidCertificate),
    /// The answer is for somebody else.
    #[error("the new certificate is for `{theirs}`, this is `{ours}`")]
    OtherIdentity {
        /// Who we are.
        ours: String,
        /// For whom it is.
        theirs: String,
    },
    /// The answer knows none of the roots that are trusted now.
    #[error(
        "the new roots have none in common with those trusted now; enrol again if that is meant"
    )]
    OtherRoots,
    /// The files could not be written.
    #[error("could not put the new identity in place")]
    Files(#[source] FilesError),
}

/// Keeps an identity fresh.
#[derive(Debug)]
pub struct Renewal {
    /// Where its files are.
    pub directory: PathBuf,
    /// Where the controller is.
    pub enrolment: Enrolment,
    /// The identity, which is replaced while it is in use.
    pub identity: IdentityHandle,
    /// The roots, which are replaced with it.
    pub trust: TrustHandle,
    /// Calls the controller, with this identity.
    pub dialer: Dialer,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Spreads the renewals of a fleet.
    pub chance: Arc<dyn Chance>,
}

/// When to renew: when a third of the lifetime is left, or up to a twentieth of it earlier, by
/// `fraction` (0 to 1).
#[must_use]
pub fn due_at(not_before: Timestamp, not_after: Timestamp, fraction: f64) -> Timestamp {
    let lifetime = not_after.duration_since(not_before).unsigned_abs();
    let left = lifetime / 3 + lifetime.mul_f64(SPREAD * fraction.clamp(0.0, 1.0));
    not_after.checked_sub(left).unwrap_or(not_before)
}

impl Renewal {
    /// Renews when it is time, until `stopping` fires. Failures are logged and tried again; the
    /// old certificate stays in use.
    ///
    /// Cancel safety: dropping the future in the middle leaves the old identity or the new one.
    pub async fn run(self, stopping: CancellationToken) {
        let mut failures = 0;
        let mut fraction = self.chance.fraction();
        loop {
            let wait = match self.wait(fraction) {
                Some(wait) => wait,
                None => match self.renew().await {
                    Ok(not_after) => {
                        info!(%not_after, "renewed the certificate");
                        (failures, fraction) = (0, self.chance.fraction());
                        continue;
                    }
                    Err(error) => {
                        let ends = self.identity.current().facts().not_after;
                        warn!(error = %Chain(&error), %ends, "could not renew the certificate");
                        failures += 1;
                        self.pause(failures)
                    }
                },
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stopping.cancelled() => break,
            }
        }
    }

    /// Renews now, and gives the end of the new certificate.
    ///
    /// # Errors
    ///
    /// Says what stood in the way; the old identity is in use and on the disk.
    pub async fn renew(&self) -> Result<Timestamp, RenewError> {
        let target = Target {
            address: self.enrolment.controller_address.clone(),
            server_name: self.enrolment.controller_name.clone(),
            kind: Kind::Controller,
            name: None,
        };
        let channel = self.dialer.dial(target).map_err(RenewError::Dial)?;
        let new = NewKey::make().map_err(RenewError::Key)?;
        let signing_request = new.signing_request.clone().into();
        let mut request = Request::new(RenewCertificateRequest { signing_request });
        request.set_timeout(CALL_MAX);
        let answer = EnrolmentServiceClient::new(channel)
            .renew_certificate(request)
            .await
            .map_err(|status| RenewError::Refused(Box::new(status)))?
            .into_inner();
        self.take(new, answer).await
    }

    /// First the files, then the memory: a crash in between costs nothing.
    async fn take(
        &self,
        new: NewKey,
        answer: RenewCertificateResponse,
    ) -> Result<Timestamp, RenewError> {
        let identity = Identity::from_pem(&answer.certificate_chain, &new.key_pem)
            .map_err(RenewError::Identity)?;
        let roots = Roots::from_pem(&answer.roots).map_err(RenewError::Roots)?;
        let (ours, theirs) = (identity_of(&self.identity.current())?, identity_of(&identity)?);
        if ours != theirs {
            return Err(RenewError::OtherIdentity { ours, theirs });
        }
        let held = self.trust.roots();
        if !roots.certificates().iter().any(|root| held.certificates().contains(root)) {
            return Err(RenewError::OtherRoots);
        }
        let files = IdentityFiles {
            key: new.key_pem,
            chain: answer.certificate_chain,
            roots: answer.roots,
            enrolment: self.enrolment.clone(),
        };
        let put = files.put(self.directory.clone(), self.chance.as_ref());
        put.await.map_err(RenewError::Files)?;
        let not_after = identity.facts().not_after;
        self.trust.replace_roots(roots);
        self.identity.replace(identity);
        Ok(not_after)
    }

    /// How long to wait before looking again; `None` when it is time.
    fn wait(&self, fraction: f64) -> Option<Duration> {
        let current = self.identity.current();
        let facts = current.facts();
        let left =
            due_at(facts.not_before, facts.not_after, fraction).duration_since(self.clock.now());
        left.is_positive().then(|| left.unsigned_abs().min(LOOK_EVERY))
    }

    fn pause(&self, failures: u32) -> Duration {
        match Backoff::try_new(RETRY_MIN, RETRY_MAX, 0.5) {
            Ok(backoff) => backoff.delay(failures.saturating_sub(1), self.chance.as_ref()),
            Err(_) => RETRY_MAX,
        }
    }
}

fn identity_of(identity: &Identity) -> Result<String, RenewError> {
    // A chain has at least a leaf: `Identity` sees to that.
    let leaf = identity.chain().first().map(Peer::from_certificate);
    let peer = leaf.transpose().map_err(RenewError::Certificate)?;
    Ok(peer.map(|peer| peer.to_string()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    #[test]
    fn renewal_is_due_when_a_third_is_left() {
        let begin = Timestamp::UNIX_EPOCH;
        assert_eq!(due_at(begin, begin + 30 * DAY, 0.0), begin + 20 * DAY);
    }

    #[test]
    fn a_fleet_spreads_its_renewals_and_only_to_the_early_side() {
        let begin = Timestamp::UNIX_EPOCH;
        let earliest = due_at(begin, begin + 30 * DAY, 1.0);
        assert_eq!(earliest, begin + 18 * DAY + DAY / 2);
    }
}
