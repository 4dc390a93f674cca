//! Signs leaf certificates. The signer decides every field; a request gives its public key and nothing
//! else, so that no request can ask for more than it was granted.

use std::{net::IpAddr, time::Duration};

use homelab_common::chance::Chance;
use homelab_rpc::{
    enrol::{InvalidRequest, csr_public_key},
    peer::SpiffeId,
};
use jiff::Timestamp;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;

/// How long before now a certificate begins to be good, for clocks that are behind.
pub const BACKDATE: Duration = Duration::from_secs(5 * 60);

/// 128 bits of chance, so that serials never meet (RFC 5280 allows 20 bytes).
const SERIAL_BYTES: usize = 16;

/// A P-256 public key whose owner proved to hold the private one.
#[derive(Clone, Debug)]
pub struct PublicKey(SubjectPublicKeyInfo);

impl PublicKey {
    /// Takes the public key out of a signing request (PKCS#10 in DER), and nothing else.
    ///
    /// # Errors
    ///
    /// The request is too long, malformed, for another kind of key, or not signed by its key.
    pub fn from_request(der: &[u8]) -> Result<Self, InvalidRequest> {
        let key = csr_public_key(der)?;
        SubjectPublicKeyInfo::from_der(&key).map(Self).map_err(|_| InvalidRequest::Malformed)
    }

    /// The key of a pair that was made here.
    pub(crate) fn of_pair(pair: &KeyPair) -> Result<Self, rcgen::Error> {
        use rcgen::PublicKeyData as _;
        SubjectPublicKeyInfo::from_der(&pair.subject_public_key_info()).map(Self)
    }

    /// SHA-256 over the key's DER form: the same key gives the same digest.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        use rcgen::PublicKeyData as _;
        let digest = ring::digest::digest(&ring::digest::SHA256, &self.0.subject_public_key_info());
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        bytes
    }
}

/// What a certificate may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// Daemons: they serve, and call the controller to renew.
    ServerAndClient,
    /// People: they call only.
    Client,
}

/// All that a leaf certificate will say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Who: the only thing that authorisation reads.
    pub identity: SpiffeId,
    /// What it may be used for.
    pub usage: Usage,
    /// DNS names.
    pub dns: Vec<String>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// From now on.
    pub valid_for: Duration,
}

/// A signed leaf certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The certificate.
    pub der: CertificateDer<'static>,
    /// The certificate in PEM, without the issuing one.
    pub pem: String,
    /// Lower-case hexadecimal.
    pub serial_hex: String,
    /// From when.
    pub not_before: Timestamp,
    /// Until when.
    pub not_after: Timestamp,
}

/// Why no certificate could be signed.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The issuing certificate has ended, or ends before the leaf begins.
    #[error(
        "the issuing certificate ended at {ended_at}; a new one needs the root key in the recovery \
         kit"
    )]
    IssuingEnded {
        /// When.
        ended_at: Timestamp,
    },
    /// A name or an address cannot stand in a certificate.
    #[error("`{name}` cannot stand in a certificate")]
    Name {
        /// Which.
        name: String,
    },
    /// The signature could not be made.
    #[error("the certificate could not be signed")]
    Sign(#[source] rcgen::Error),
}

/// Signs what `terms` says for `key`. The leaf never outlives the issuing certificate, which ends at
/// `issuing_not_after`.
pub(super) fn sign(
    issuer: &Issuer<'_, KeyPair>,
    issuing_not_after: Timestamp,
    terms: &Terms,
    key: &PublicKey,
    now: Timestamp,
    chance: &dyn Chance,
) -> Result<Leaf, IssueError> {
    if issuing_not_after <= now {
        return Err(IssueError::IssuingEnded { ended_at: issuing_not_after });
    }
    let not_before = seconds(now.checked_sub(BACKDATE).unwrap_or(now));
    let not_after = seconds(now.checked_add(terms.valid_for).unwrap_or(issuing_not_after));
    let not_after = not_after.min(issuing_not_after);
    let serial = serial(chance);

    let mut params = CertificateParams::default();
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + since_epoch(not_before);
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since_epoch(not_after);
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = DistinguishedName::new();
    // For people who look at it; nothing here reads it.
    params.distinguished_name.push(DnType::CommonName, terms.identity.name().as_str());
    params.subject_alt_names = alternative_names(terms)?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = match terms.usage {
        Usage::ServerAndClient => {
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
        }
        Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
    };
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key.0, issuer).map_err(IssueError::Sign)?;
    Ok(Leaf {
        pem: certificate.pem(),
        der: certificate.der().clone(),
        serial_hex: hex(&serial),
        not_before,
        not_after,
    })
}

fn alternative_names(terms: &Terms) -> Result<Vec<SanType>, IssueError> {
    let ascii = |name: &str| {
        name.try_into().map_err(|_: rcgen::Error| IssueError::Name { name: name.to_owned() })
    };
    let mut names = vec![SanType::URI(ascii(&terms.identity.to_string())?)];
    for name in &terms.dns {
        names.push(SanType::DnsName(ascii(name)?));
    }
    names.extend(terms.addresses.iter().copied().map(SanType::IpAddress));
    Ok(names)
}

/// Positive (first bit clear) and always [`SERIAL_BYTES`] long (second bit set), whatever chance gives.
pub(super) fn serial(chance: &dyn Chance) -> [u8; SERIAL_BYTES] {
    let mut serial = [0; SERIAL_BYTES];
    chance.fill(&mut serial);
    serial[0] = serial[0] & 0x3f | 0x40;
    serial
}

/// Certificates know whole seconds only.
fn seconds(moment: Timestamp) -> Timestamp {
    Timestamp::from_second(moment.as_second()).unwrap_or(moment)
}

/// Seconds since 1970, to be added to `rcgen`'s date type, which has no other public constructor.
pub(super) fn since_epoch(moment: Timestamp) -> Duration {
    Duration::from_secs(u64::try_from(moment.as_second()).unwrap_or(0))
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}
