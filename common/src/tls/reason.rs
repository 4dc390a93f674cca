//! TLS failures in words.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

/// Why a handshake failed, for people. `peer` names the other side.
pub(super) fn why(error: &io::Error, peer: &str) -> String {
    let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match tls {
        Some(tls) => why_tls(tls, peer),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            format!("the {peer} hung up during the handshake")
        }
        None => error.to_string(),
    }
}

fn why_tls(error: &Error, peer: &str) -> String {
    match error {
        Error::InvalidCertificate(certificate) => why_certificate(certificate, peer),
        Error::NoCertificatesPresented => format!("the {peer} shows no certificate"),
        Error::AlertReceived(alert) => why_alert(*alert, peer),
        Error::InvalidMessage(_) => format!("the {peer} does not speak TLS"),
        Error::General(reason) => reason.clone(),
        other => other.to_string(),
    }
}

fn why_certificate(error: &CertificateError, peer: &str) -> String {
    use CertificateError as E;
    match error {
        E::Revoked => format!("the certificate of the {peer} is revoked"),
        E::UnknownIssuer => {
            format!("the certificate of the {peer} is not from a CA that is trusted here")
        }
        E::Expired | E::ExpiredContext { .. } => {
            format!("the certificate of the {peer} has expired: {error}")
        }
        E::NotValidYet | E::NotValidYetContext { .. } => {
            format!("the certificate of the {peer} is not valid yet; compare the clocks: {error}")
        }
        E::NotValidForName | E::NotValidForNameContext { .. } => {
            format!("the certificate of the {peer} is for another name: {error}")
        }
        E::InvalidPurpose | E::InvalidPurposeContext { .. } => {
            format!("the certificate of the {peer} is not made for this use")
        }
        _ => format!("the certificate of the {peer} is not valid: {error}"),
    }
}

fn why_alert(alert: AlertDescription, peer: &str) -> String {
    use AlertDescription as A;
    match alert {
        A::CertificateRequired => format!("the {peer} demands a certificate from us"),
        A::CertificateRevoked => format!("the {peer} says that our certificate is revoked"),
        A::CertificateExpired => format!("the {peer} says that our certificate has expired"),
        A::UnknownCA => format!("the {peer} does not trust the CA of our certificate"),
        A::ProtocolVersion => format!("the {peer} speaks no version of TLS that we speak"),
        A::NoApplicationProtocol => format!("the {peer} speaks no protocol that we speak"),
        other => format!("the {peer} refused us: {other:?}"),
    }
}
