//! Enrolling: once in the life of a host.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use homelab_common::{
    chance::Chance,
    clock::Clock,
    error_chain::Chain,
    tls::{
        CertificateDer, ClientOptions, ClientStream, ConnectError, Facts, Identity, IdentityError,
        PeerCheck, ServerTrust, SpkiPin, TlsClient,
    },
};
use homelab_proto::controller::v1::{
    BeginEnrolmentRequest, FinishEnrolmentRequest, FinishEnrolmentResponse,
    enrolment_service_client::EnrolmentServiceClient,
};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use rustls::{RootCertStore, server::WebPkiClientVerifier};
use rustls_pki_types::{UnixTime, pem::PemObject};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};
use tower::service_fn;

use super::{
    Enrolment, FilesError, IdentityFiles, InvalidToken, ProofParts, Token, files::must_be_free,
    prove, request::NewKey,
};
use crate::{
    connection::{EXPORTER_BYTES, EXPORTER_LABEL},
    dial::CONNECT_MAX,
    node::from_proto,
    peer::{Kind, Peer, SiteName, SpiffeId},
};

/// Clocks further apart than this make certificates that are not valid yet.
const SKEW_MAX: Duration = Duration::from_secs(5 * 60);

/// How long each of the two calls may take.
const CALL_MAX: Duration = Duration::from_secs(10);

/// What a daemon asks for.
#[derive(Clone, Debug)]
pub struct EnrolRequest {
    /// The right to enrol.
    pub token: Token,
    /// Which kind of daemon this is.
    pub kind: Kind,
    /// The address under which this host will be dialled.
    pub address: String,
}

/// A new identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolled {
    /// Who this is now.
    pub id: SpiffeId,
    /// When the certificate ends.
    pub not_after: Timestamp,
    /// Where it is renewed.
    pub enrolment: Enrolment,
}

/// Why there is no identity. Nothing was written then.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The token is not good any more.
    #[error(transparent)]
    Token(#[from] InvalidToken),
    /// The token is for others.
    #[error("the token is for {allowed} on `{name}`, not for a {kind}; make one for it")]
    Kind {
        /// What this is.
        kind: Kind,
        /// For whom the token is.
        name: String,
        /// What the token allows.
        allowed: String,
    },
    /// The place for the identity is taken, or cannot be written.
    #[error("could not put the identity in place")]
    Files(#[source] FilesError),
    /// Nothing answers at the enrolment port.
    #[error("could not reach the controller's enrolment port at {address}")]
    Connect {
        /// Where.
        address: String,
        /// What the connector said.
        #[source]
        source: ConnectError,
    },
    /// Somebody else answers: the secret was not used.
    #[error(
        "what answers at {address} is not the controller that made this token; nothing was \
         proved to it. Check the address, and whether somebody is in between"
    )]
    Untrusted {
        /// Where.
        address: String,
        /// What the connector said.
        #[source]
        source: ConnectError,
    },
    /// TLS cannot be set up here.
    #[error("could not set up TLS")]
    Setup(#[source] rustls::Error),
    /// The two clocks differ too much for certificates.
    #[error(
        "the clock of this host is {hours:.1} hours {direction} the controller's; set it (check \
         `timedatectl`), then enrol again"
    )]
    Clock {
        /// How far, always positive.
        hours: f64,
        /// `ahead of` or `behind`.
        direction: &'static str,
    },
    /// The controller said no, or went away.
    #[error("the controller did not {step}: {}", status.message())]
    Refused {
        /// What it was asked for.
        step: &'static str,
        /// What it said.
        status: Box<Status>,
    },
    /// No key could be made.
    #[error("could not make a key")]
    Key(#[source] rcgen::Error),
    /// The certificate in the answer does not fit the key, or cannot be read.
    #[error("the controller's certificate for us cannot be used")]
    Identity(#[source] IdentityError),
    /// The answer is not what was asked for.
    #[error("the controller's answer is not acceptable: {what}")]
    Answer {
        /// What does not fit.
        what: String,
    },
}

/// Enrols with a token and puts the identity into `directory`, which must be missing or empty:
/// `key.pem`, `cert.pem`, `ca.pem` and `enrolment.json`, all of them or none.
///
/// Cancel safety: dropping the future before the files are written leaves nothing behind; the
/// token may be spent then.
///
/// # Errors
///
/// Says what stood in the way; the identity does not exist then.
pub async fn enrol(
    request: EnrolRequest,
    directory: &Path,
    clock: &Arc<dyn Clock>,
    chance: &dyn Chance,
) -> Result<Enrolled, EnrolError> {
    let EnrolRequest { token, kind, address } = request;
    token.check_time(clock.now())?;
    if !token.kinds.contains(&kind) {
        let kinds: Vec<&str> = token.kinds.iter().map(|kind| kind.as_str()).collect();
        return Err(EnrolError::Kind { kind, name: token.name, allowed: kinds.join(", ") });
    }
    must_be_free(directory).map_err(EnrolError::Files)?;

    let stream = connect(&token, clock).await?;
    let exporter = exporter(&stream)?;
    let mut controller = EnrolmentServiceClient::new(channel_over(stream).await?);

    let begun = controller
        .begin_enrolment(timed(BeginEnrolmentRequest { token_id: token.id_hex() }))
        .await
        .map_err(|status| refused("begin the enrolment", status))?
        .into_inner();
    let theirs = begun.now.as_ref().and_then(from_proto);
    check_clocks(clock.now(), theirs.ok_or_else(|| answer("it does not tell its time"))?)?;

    let new = NewKey::make().map_err(EnrolError::Key)?;
    let parts = ProofParts {
        signing_request: &new.signing_request,
        nonce: &begun.nonce,
        exporter: &exporter,
    };
    let finish = FinishEnrolmentRequest {
        token_id: token.id_hex(),
        kind: kind.to_proto().into(),
        proof: prove(&token.secret, parts).to_vec().into(),
        signing_request: new.signing_request.clone().into(),
        address,
    };
    let finished = controller
        .finish_enrolment(timed(finish))
        .await
        .map_err(|status| refused("give a certificate", status))?
        .into_inner();

    let (enrolled, files) = accept(&token, kind, &new, finished, clock.now())?;
    files.put(directory.into(), chance).await.map_err(EnrolError::Files)?;
    Ok(enrolled)
}

async fn connect(token: &Token, clock: &Arc<dyn Clock>) -> Result<ClientStream, EnrolError> {
    let mut options = ClientOptions::new(ServerTrust::Pin(token.root_pin));
    options.clock = Arc::clone(clock);
    options.peer_check = Some(is_controller_of(token.site.clone()));
    let client = TlsClient::new(options).map_err(EnrolError::Setup)?;
    let address = token.address.clone();
    let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
    let server_name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    client.connect(&address, &server_name, CONNECT_MAX).await.map_err(|source| match source {
        ConnectError::Handshake { .. } => EnrolError::Untrusted { address, source },
        source => EnrolError::Connect { address, source },
    })
}

fn is_controller_of(site: SiteName) -> PeerCheck {
    Arc::new(move |chain| {
        let leaf = chain.first().ok_or("it shows no certificate")?;
        let peer = Peer::from_certificate(leaf).map_err(|error| Chain(&error).to_string())?;
        if peer.kind() == Kind::Controller && *peer.site() == site {
            return Ok(());
        }
        Err(format!("`{peer}` answers there, not the controller of `{site}`"))
    })
}

fn exporter(stream: &ClientStream) -> Result<[u8; EXPORTER_BYTES], EnrolError> {
    stream
        .get_ref()
        .1
        .export_keying_material([0; EXPORTER_BYTES], EXPORTER_LABEL, None)
        .map_err(EnrolError::Setup)
}

/// A channel over this very connection: the proof is worth nothing in another one, so there is
/// no connecting again.
async fn channel_over(stream: ClientStream) -> Result<Channel, EnrolError> {
    let once = Arc::new(Mutex::new(Some(TokioIo::new(stream))));
    Endpoint::from_static("http://controller")
        .connect_with_connector(service_fn(move |_| {
            let stream = once.lock().unwrap_or_else(PoisonError::into_inner).take();
            let lost = || std::io::Error::other("the connection was lost");
            async move { stream.ok_or_else(lost) }
        }))
        .await
        .map_err(|error| refused("answer", Status::from_error(Box::new(error))))
}

fn timed<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(CALL_MAX);
    request
}

fn check_clocks(ours: Timestamp, theirs: Timestamp) -> Result<(), EnrolError> {
    let ahead = ours.duration_since(theirs);
    if ahead.unsigned_abs() <= SKEW_MAX {
        return Ok(());
    }
    let direction = if ahead.is_positive() { "ahead of" } else { "behind" };
    Err(EnrolError::Clock { hours: ahead.unsigned_abs().as_secs_f64() / 3_600.0, direction })
}

/// Checks the answer in every part before anything is written.
fn accept(
    token: &Token,
    kind: Kind,
    new: &NewKey,
    finished: FinishEnrolmentResponse,
    now: Timestamp,
) -> Result<(Enrolled, IdentityFiles), EnrolError> {
    let FinishEnrolmentResponse { certificate_chain, roots, .. } = finished;
    let identity =
        Identity::from_pem(&certificate_chain, &new.key_pem).map_err(EnrolError::Identity)?;
    must_chain_up(identity.chain(), &pinned_root(&roots, token.root_pin)?, now)?;
    let peer = identity.chain().first().map(Peer::from_certificate);
    let peer = peer.ok_or_else(|| answer("there is no certificate"))?;
    let id = peer.map_err(|error| answer(&Chain(&error).to_string()))?.id().clone();
    if *id.site() != token.site || id.kind() != kind || id.name().as_str() != token.name {
        return Err(answer(&format!("the certificate is for `{id}`")));
    }
    let enrolment = Enrolment {
        identity: id.to_string(),
        controller_address: finished.controller_address,
        controller_name: finished.controller_name,
    };
    let not_after = identity.facts().not_after;
    let enrolled = Enrolled { id, not_after, enrolment: enrolment.clone() };
    let key = new.key_pem.clone();
    Ok((enrolled, IdentityFiles { key, chain: certificate_chain, roots, enrolment }))
}

fn pinned_root(roots: &str, pin: SpkiPin) -> Result<CertificateDer<'static>, EnrolError> {
    let parsed: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_slice_iter(roots.as_bytes()).collect();
    let parsed = parsed.map_err(|_| answer("the roots are not PEM"))?;
    let pinned = |root: &CertificateDer<'_>| Facts::of(root).is_ok_and(|facts| facts.pin == pin);
    let found = parsed.into_iter().find(pinned);
    found.ok_or_else(|| answer("the root that the token names is not among the roots"))
}

fn must_chain_up(
    chain: &[CertificateDer<'_>],
    root: &CertificateDer<'static>,
    now: Timestamp,
) -> Result<(), EnrolError> {
    let (leaf, intermediates) =
        chain.split_first().ok_or_else(|| answer("there is no certificate"))?;
    let seconds = u64::try_from(now.as_second()).unwrap_or_default();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let mut store = RootCertStore::empty();
    store.add(root.clone()).map_err(EnrolError::Setup)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider)
        .build()
        .map_err(|error| answer(&error.to_string()))?
        .verify_client_cert(leaf, intermediates, now)
        .map(|_| ())
        .map_err(|error| answer(&format!("the certificate does not lead to the root: {error}")))
}

fn refused(step: &'static str, status: Status) -> EnrolError {
    EnrolError::Refused { step, status: Box::new(status) }
}

fn answer(what: &str) -> EnrolError {
    EnrolError::Answer { what: what.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_may_differ_by_five_minutes() {
        let now = Timestamp::UNIX_EPOCH;
        check_clocks(now, now + SKEW_MAX).expect("close enough");
        check_clocks(now + SKEW_MAX, now).expect("close enough");
    }

    #[test]
    fn a_wrong_clock_is_named_with_its_hours() {
        let now = Timestamp::UNIX_EPOCH;
        let hours = Duration::from_secs(9_000);
        let ahead = check_clocks(now + hours, now).expect_err("refused").to_string();
        assert!(ahead.contains("2.5 hours ahead of"), "{ahead}");
        let behind = check_clocks(now, now + hours).expect_err("refused").to_string();
        assert!(behind.contains("2.5 hours behind"), "{behind}");
    }
}
