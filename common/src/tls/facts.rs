//! What a certificate says.

use std::fmt::Write;

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

use super::SpkiPin;

/// The parts of a certificate that decisions need. They are what the
/// certificate *says*; only a verified chain makes them true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The serial number in lower-case hexadecimal digits.
    pub serial: String,
    /// Valid from.
    pub not_before: Timestamp,
    /// Valid until.
    pub not_after: Timestamp,
    /// The hash of the public key.
    pub pin: SpkiPin,
    /// The URIs among the subject's alternative names.
    pub uris: Vec<String>,
    /// The DNS names among the subject's alternative names.
    pub dns_names: Vec<String>,
    /// The subject, for people.
    pub subject: String,
}

/// The bytes are not a certificate that can be read.
#[derive(Debug, thiserror::Error)]
#[error("not a readable X.509 certificate: {what}")]
pub struct FactsError {
    what: String,
}

impl Facts {
    /// Reads a certificate.
    ///
    /// # Errors
    ///
    /// It is not X.509, or its times cannot be represented.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, FactsError> {
        let wrong = |what: String| FactsError { what };
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|error| wrong(error.to_string()))?;
        let time =
            |seconds| Timestamp::from_second(seconds).map_err(|error| wrong(error.to_string()));
        let names = parsed
            .subject_alternative_name()
            .map_err(|error| wrong(error.to_string()))?
            .map(|extension| extension.value.general_names.as_slice())
            .unwrap_or_default();
        let uris = names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Some((*uri).to_owned()),
            _ => None,
        });
        let dns_names = names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        });
        Ok(Self {
            serial: hex(parsed.raw_serial()),
            not_before: time(parsed.validity().not_before.timestamp())?,
            not_after: time(parsed.validity().not_after.timestamp())?,
            pin: SpkiPin::of_spki(parsed.public_key().raw),
            uris: uris.collect(),
            dns_names: dns_names.collect(),
            subject: parsed.subject().to_string(),
        })
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut hex, byte| {
        // Writing to a string cannot fail.
        let _infallible = write!(hex, "{byte:02x}");
        hex
    })
}
