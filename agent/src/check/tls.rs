//! Looks at the certificate that a TLS server shows.
//!
//! The handshake accepts every certificate, because an expired one is what such a check is there
//! to look at; it insists only that the server holds the key. The certificate is judged
//! afterwards, by us, with the whole chain in hand. Nothing secret is ever sent.

mod certificate;
mod handshake;

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};

use crate::check::connect::{Target, connect};
use crate::check::{Finding, Progress, Runner};

pub(super) use certificate::{Certificate, Fault};
pub(super) use handshake::handshake;

/// Where Debian keeps the certificates that the system trusts, its administrator's own included.
const SYSTEM_TRUST_FILE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// A TLS server.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsProbe {
    /// Where.
    pub target: Target,
    /// Name that the certificate must hold; `None` takes it from the target.
    pub server_name: Option<ServerName<'static>>,
    /// Least days that the certificate must still be valid.
    pub valid_days_min: u32,
}

pub(super) async fn run(
    probe: &TlsProbe,
    runner: &Runner,
    deadline: Duration,
    progress: &Progress,
) -> Finding {
    let name = match probe.server_name.clone().map_or_else(|| server_name(&probe.target), Ok) {
        Ok(name) => name,
        Err(finding) => return finding,
    };
    let stream = match connect(&probe.target, deadline, progress).await {
        Ok(stream) => stream,
        Err(why) => return why.into_failure(),
    };
    let session = match handshake(stream, name.clone()).await {
        Ok(session) => session,
        Err(why) => return why.into_failure(&probe.target),
    };
    let roots = runner.trust.roots();
    match Certificate::examine(&session.chain, &name, runner.clock.now(), &roots) {
        Ok(certificate) => judge(probe, &certificate),
        Err(why) => Finding::failed("CERTIFICATE_MALFORMED", why.to_string()),
    }
}

/// Passes a certificate that has the name and enough time left. That no public authority signed
/// it is said and not held against it: most certificates of a home are signed by one's own.
fn judge(probe: &TlsProbe, certificate: &Certificate) -> Finding {
    let observed = certificate.to_string();
    match certificate.fault() {
        Some(fault @ (Fault::Expired | Fault::NotYetValid | Fault::WrongName)) => {
            Finding::failed(fault.reason(), observed)
        }
        Some(Fault::NotTrusted) | None => {
            if certificate.days_left < i64::from(probe.valid_days_min) {
                return Finding::failed("CERTIFICATE_EXPIRES_SOON", observed);
            }
            Finding::passed(observed)
        }
    }
}

/// The name or address of `target` as TLS has it.
pub(super) fn server_name(target: &Target) -> Result<ServerName<'static>, Finding> {
    let host = target.host();
    let bare = host.strip_suffix('.').unwrap_or(&host).to_owned();
    ServerName::try_from(bare).map_err(|_| {
        Finding::unknown("NAME_NOT_USABLE", format!("{host} is no name that TLS knows"))
    })
}

/// The certificates that the system trusts, in memory only while a check uses them: the bundle
/// is as large as the rest of the agent.
#[derive(Debug, Default)]
pub(super) struct SystemTrust(Mutex<Weak<RootCertStore>>);

impl SystemTrust {
    /// The system's trust; empty where the system has none, so that nothing is trusted.
    pub(super) fn roots(&self) -> Arc<RootCertStore> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(roots) = held.upgrade() {
            return roots;
        }
        let mut roots = RootCertStore::empty();
        let certificates = CertificateDer::pem_file_iter(SYSTEM_TRUST_FILE);
        let (_added, _ignored) =
            roots.add_parsable_certificates(certificates.into_iter().flatten().flatten());
        let roots = Arc::new(roots);
        *held = Arc::downgrade(&roots);
        roots
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::check::tests::run;
    use crate::check::{Outcome, Probe, Verdict};

    /// A server certificate for `name`, valid for the `days` from the first to the second one
    /// counted from today.
    pub(crate) fn acceptor(name: &str, days: (i64, i64)) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        let today = jiff::Timestamp::now().as_second();
        let day = |day: i64| {
            let civil = jiff::Timestamp::from_second(today + day * 86_400)
                .unwrap()
                .to_zoned(jiff::tz::TimeZone::UTC);
            let number = |n: i8| u8::try_from(n).unwrap();
            rcgen::date_time_ymd(civil.year().into(), number(civil.month()), number(civil.day()))
        };
        (params.not_before, params.not_after) = (day(days.0), day(days.1));
        let certificate = params.self_signed(&key).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }

    async fn served(name: &str, days: (i64, i64), asked: &str, valid_days_min: u32) -> Outcome {
        let acceptor = acceptor(name, days);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::from(listener.local_addr().unwrap());
        let server = async {
            let (stream, _) = listener.accept().await.unwrap();
            let _session = acceptor.accept(stream).await;
        };
        let server_name = Some(ServerName::try_from(asked.to_owned()).unwrap());
        let probe = Probe::Tls(TlsProbe { target, server_name, valid_days_min });
        tokio::join!(run(probe), server).0
    }

    #[tokio::test]
    async fn a_good_certificate_passes_and_is_described() {
        let outcome = served("db.home.arpa", (-1, 90), "db.home.arpa", 14).await;
        assert_eq!(outcome.verdict, Verdict::Passed, "{}", outcome.observed);
        assert!(outcome.observed.contains("db.home.arpa"), "{}", outcome.observed);
        assert!(outcome.observed.contains("not signed by an authority"), "{}", outcome.observed);
    }

    #[tokio::test]
    async fn faults_are_told_apart() {
        for (days, asked, expected) in [
            ((-90, -1), "db.home.arpa", "CERTIFICATE_EXPIRED"),
            ((2, 90), "db.home.arpa", "CERTIFICATE_NOT_YET_VALID"),
            ((-1, 90), "nas.home.arpa", "CERTIFICATE_FOR_OTHER_NAME"),
            ((-1, 10), "db.home.arpa", "CERTIFICATE_EXPIRES_SOON"),
        ] {
            let outcome = served("db.home.arpa", days, asked, 14).await;
            assert_eq!((outcome.verdict, outcome.reason), (Verdict::Failed, expected));
        }
    }

    #[tokio::test]
    async fn a_certificate_for_an_address_is_known_by_it() {
        let outcome = served("127.0.0.1", (-1, 90), "127.0.0.1", 14).await;
        assert_eq!(outcome.verdict, Verdict::Passed, "{}", outcome.observed);
    }

    #[tokio::test]
    async fn a_server_that_speaks_something_else_fails() {
        use tokio::io::AsyncWriteExt as _;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::from(listener.local_addr().unwrap());
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"220 mail.home.arpa ESMTP\r\n").await.unwrap();
        };
        let probe = Probe::Tls(TlsProbe { target, server_name: None, valid_days_min: 14 });
        let (outcome, ()) = tokio::join!(run(probe), server);
        assert_eq!((outcome.verdict, outcome.reason), (Verdict::Failed, "HANDSHAKE_FAILED"));
    }
}
