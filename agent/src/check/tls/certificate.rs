//! What a certificate says, and what is wrong with it.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use rustls::RootCertStore;
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::server::ParsedCertificate;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::health::label;

/// Names shown of a certificate; some have hundreds.
const NAMES_MAX: usize = 8;
const NAME_CHARS_MAX: usize = 100;

/// A server's certificate, judged against a name, a time and a set of authorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::check) struct Certificate {
    subject: String,
    issuer: String,
    names: Vec<String>,
    not_before: Timestamp,
    not_after: Timestamp,
    /// Whole days until it ends; negative when it has.
    pub(in crate::check) days_left: i64,
    fingerprint: String,
    has_begun: bool,
    has_ended: bool,
    has_name: bool,
    distrust: Option<String>,
}

/// What is wrong with a certificate, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::check) enum Fault {
    /// It has ended.
    Expired,
    /// It has not begun.
    NotYetValid,
    /// It is for other names.
    WrongName,
    /// No authority that we know has signed it.
    NotTrusted,
}

impl Fault {
    /// The stable reason.
    pub(in crate::check) const fn reason(self) -> &'static str {
        match self {
            Self::Expired => "CERTIFICATE_EXPIRED",
            Self::NotYetValid => "CERTIFICATE_NOT_YET_VALID",
            Self::WrongName => "CERTIFICATE_FOR_OTHER_NAME",
            Self::NotTrusted => "CERTIFICATE_NOT_TRUSTED",
        }
    }
}

/// The server showed something that is no certificate.
#[derive(Debug, thiserror::Error)]
#[error("the server's certificate cannot be read: {0}")]
pub(in crate::check) struct Malformed(String);

impl Certificate {
    /// Reads the first of `chain` and judges it.
    pub(in crate::check) fn examine(
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        now: Timestamp,
        roots: &RootCertStore,
    ) -> Result<Self, Malformed> {
        let (leaf, intermediates) =
            chain.split_first().ok_or_else(|| Malformed("there is none".to_owned()))?;
        let (_rest, x509) =
            X509Certificate::from_der(leaf).map_err(|error| Malformed(error.to_string()))?;
        let time = |seconds| Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX);
        let not_before = time(x509.validity().not_before.timestamp());
        let not_after = time(x509.validity().not_after.timestamp());
        let digest = ring::digest::digest(&ring::digest::SHA256, leaf);
        let fingerprint = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let parsed = ParsedCertificate::try_from(leaf);
        let has_name = parsed.as_ref().is_ok_and(|cert| verify_server_name(cert, name).is_ok());
        let distrust = match &parsed {
            Ok(parsed) => distrust(parsed, intermediates, now, roots),
            Err(error) => Some(error.to_string()),
        };
        let shown = |name: String| label(name.as_bytes(), NAME_CHARS_MAX);
        Ok(Self {
            subject: shown(x509.subject().to_string()),
            issuer: shown(x509.issuer().to_string()),
            names: names(&x509),
            not_before,
            not_after,
            days_left: not_after.duration_since(now).as_secs().div_euclid(86_400),
            fingerprint,
            has_begun: not_before <= now,
            has_ended: not_after < now,
            has_name,
            distrust,
        })
    }

    /// The worst thing that is wrong with it.
    pub(in crate::check) fn fault(&self) -> Option<Fault> {
        if self.has_ended {
            Some(Fault::Expired)
        } else if !self.has_begun {
            Some(Fault::NotYetValid)
        } else if !self.has_name {
            Some(Fault::WrongName)
        } else {
            self.distrust.as_ref().map(|_| Fault::NotTrusted)
        }
    }
}

fn distrust(
    leaf: &ParsedCertificate<'_>,
    intermediates: &[CertificateDer<'_>],
    now: Timestamp,
    roots: &RootCertStore,
) -> Option<String> {
    let since_epoch = Duration::try_from(now.duration_since(Timestamp::UNIX_EPOCH));
    let now = UnixTime::since_unix_epoch(since_epoch.unwrap_or_default());
    let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms;
    verify_server_cert_signed_by_trust_anchor(leaf, roots, intermediates, now, algorithms.all)
        .err()
        .map(|error| error.to_string())
}

fn names(x509: &X509Certificate<'_>) -> Vec<String> {
    let extension = x509.subject_alternative_name().ok().flatten();
    let names = extension.iter().flat_map(|extension| &extension.value.general_names);
    let shown = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(label(name.as_bytes(), NAME_CHARS_MAX)),
        GeneralName::IPAddress(bytes) => address(bytes),
        _ => None,
    };
    names.filter_map(shown).take(NAMES_MAX).collect()
}

fn address(bytes: &[u8]) -> Option<String> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|bytes| std::net::Ipv4Addr::from(bytes).to_string());
    let v6 = <[u8; 16]>::try_from(bytes).map(|bytes| std::net::Ipv6Addr::from(bytes).to_string());
    v4.or(v6).ok()
}

impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subject, issuer, not_before, not_after, days_left, fingerprint, .. } = self;
        write!(
            f,
            "`{subject}` by `{issuer}`, for {}, valid {not_before} to {not_after} ({days_left} days left), ",
            if self.names.is_empty() { "no name".to_owned() } else { self.names.join(" ") },
        )?;
        match &self.distrust {
            None => write!(f, "signed by an authority that this system trusts")?,
            Some(why) => {
                write!(f, "not signed by an authority that this system trusts ({why})")?;
            }
        }
        write!(f, ", SHA-256 {fingerprint}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    use super::*;

    fn name() -> ServerName<'static> {
        ServerName::try_from("db.home.arpa").unwrap()
    }

    fn examine(chain: &[CertificateDer<'_>], roots: &RootCertStore) -> Certificate {
        Certificate::examine(chain, &name(), Timestamp::now(), roots).unwrap()
    }

    #[test]
    fn a_chain_to_a_trusted_root_is_trusted_and_no_other_is() {
        let authority = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&authority).unwrap();
        let issuer = Issuer::from_params(&params, &authority);
        let leaf = CertificateParams::new(["db.home.arpa".to_owned()])
            .unwrap()
            .signed_by(&KeyPair::generate().unwrap(), &issuer)
            .unwrap();
        let chain = [leaf.der().clone()];

        let mut roots = RootCertStore::empty();
        assert_eq!(examine(&chain, &roots).fault(), Some(Fault::NotTrusted));
        roots.add(root.der().clone()).unwrap();
        assert_eq!(examine(&chain, &roots).fault(), None);
        let other = ServerName::try_from("other.home.arpa").unwrap();
        let other = Certificate::examine(&chain, &other, Timestamp::now(), &roots).unwrap();
        assert_eq!(other.fault(), Some(Fault::WrongName));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            let chain = [CertificateDer::from(bytes)];
            let examined =
                Certificate::examine(&chain, &name(), Timestamp::now(), &RootCertStore::empty());
            prop_assert!(examined.is_err());
        }
    }
}
