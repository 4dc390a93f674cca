//! Who is at the other end: read from the SPIFFE id in a certificate, never from its subject.

use std::fmt;

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
    prelude::FromDer,
};

mod spiffe;

pub use spiffe::{Grant, InvalidSpiffeId, Kind, PeerName, Role, SiteName, SpiffeId};

/// Why a certificate does not say who its holder is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidCertificate {
    /// Not an X.509 certificate.
    #[error("not an X.509 certificate: {what}")]
    Malformed {
        /// What the parser said.
        what: String,
    },
    /// A CA certificate was shown as that of a peer.
    #[error("it is a CA certificate, which is nobody's identity")]
    IsCa,
    /// No URI, or several.
    #[error("it names {found} URIs; exactly one SPIFFE id is needed")]
    Uris {
        /// How many it names.
        found: usize,
    },
    /// The URI is not an identity of ours.
    #[error("its URI is not an identity")]
    SpiffeId(#[source] InvalidSpiffeId),
}

/// A party whose identity is proved: by a certificate, or by the kernel on a local socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    id: SpiffeId,
    serial_hex: String,
    not_after: Option<Timestamp>,
}

impl Peer {
    /// Reads the identity of a certificate. Whether the certificate is to be trusted is not
    /// asked here: the TLS handshake has done that.
    ///
    /// # Errors
    ///
    /// It is no certificate, belongs to a CA, or does not name exactly one identity.
    pub fn from_certificate(certificate: &CertificateDer<'_>) -> Result<Self, InvalidCertificate> {
        let (_, certificate) = X509Certificate::from_der(certificate)
            .map_err(|error| InvalidCertificate::Malformed { what: error.to_string() })?;
        if certificate.is_ca() {
            return Err(InvalidCertificate::IsCa);
        }
        let uris = uris(&certificate);
        let [uri] = uris.as_slice() else {
            return Err(InvalidCertificate::Uris { found: uris.len() });
        };
        let id = uri.parse().map_err(InvalidCertificate::SpiffeId)?;
        let not_after = Timestamp::from_second(certificate.validity().not_after.timestamp()).ok();
        Ok(Self { id, serial_hex: serial_hex(&certificate), not_after })
    }

    /// Who called on a unix socket that only root can open: an admin and approver without a
    /// certificate, named `root@local`, so that audit tells the two ways in apart.
    #[must_use]
    pub fn local_admin(site: SiteName) -> Self {
        let id = SpiffeId::local_root(site);
        Self { id, serial_hex: String::new(), not_after: None }
    }

    /// The identity.
    #[must_use]
    pub const fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The homelab that it belongs to.
    #[must_use]
    pub const fn site(&self) -> &SiteName {
        self.id.site()
    }

    /// What kind of party it is.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        self.id.kind()
    }

    /// The host or the person.
    #[must_use]
    pub fn name(&self) -> &str {
        self.id.name().as_str()
    }

    /// The role of a person; `None` for daemons.
    #[must_use]
    pub fn role(&self) -> Option<Role> {
        self.id.role()
    }

    /// Whether a person may approve.
    #[must_use]
    pub fn approver(&self) -> bool {
        self.id.approver()
    }

    /// Serial number of the certificate, lower-case hexadecimal; empty for a local caller.
    #[must_use]
    pub fn serial_hex(&self) -> &str {
        &self.serial_hex
    }

    /// When the certificate ends; `None` for a local caller.
    #[must_use]
    pub const fn not_after(&self) -> Option<Timestamp> {
        self.not_after
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

fn uris<'c>(certificate: &'c X509Certificate<'_>) -> Vec<&'c str> {
    certificate
        .extensions()
        .iter()
        .filter_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
            _ => None,
        })
        .flatten()
        .filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        })
        .collect()
}

fn serial_hex(certificate: &X509Certificate<'_>) -> String {
    let bytes = certificate.tbs_certificate.raw_serial();
    // DER puts a zero byte before a number whose first bit is set.
    let digits = match bytes {
        [0, rest @ ..] if !rest.is_empty() => rest,
        all => all,
    };
    digits.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
