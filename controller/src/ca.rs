//! The certificate authority: an issuing CA whose root is kept elsewhere.
//!
//! [`root`] founds it, [`Authority`] signs with it, [`issue`] says what a leaf certificate looks like.
//! Who gets which certificate is decided in
//! [`enrolment`].

pub mod enrolment;
pub mod files;
pub mod issue;
pub mod nonce;
pub mod revocation;
pub mod root;
pub mod seal;
pub mod token;

use std::{fmt, net::IpAddr, path::Path};

use homelab_common::{
    chance::Chance,
    secret::{self, SecretError},
    tls::{Facts, SpkiPin},
};
use homelab_domain::identity::PeerKind;
use homelab_proto::common::v1::DenyList;
use homelab_rpc::{
    deny_list::{self, SignError, Signed},
    peer::Kind,
};
use homelab_store::NewCertificate;
use jiff::Timestamp;
use rcgen::{Issuer, KeyPair};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use x509_parser::extensions::GeneralName;

use self::{
    files::FileError,
    issue::{IssueError, Leaf, PublicKey, Terms},
};

/// The issuing CA with its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    issuing_pem: String,
    issuing_not_after: Timestamp,
    roots_pem: String,
    root_pin: SpkiPin,
}

/// Why the issuing CA cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file cannot be read.
    #[error(
        "the identity of this site is missing or unreadable; run `homelab-controller init` once"
    )]
    File(#[from] FileError),
    /// The issuing key is missing, or others may read it.
    #[error("the key of the issuing CA cannot be used")]
    Key(#[from] SecretError),
    /// A file does not hold what it should.
    #[error("`{file}` does not hold {expected}")]
    Content {
        /// Which file of the folder.
        file: &'static str,
        /// What it should hold.
        expected: &'static str,
    },
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("issuing_not_after", &self.issuing_not_after)
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// Opens the issuing CA in the controller's folder.
    ///
    /// # Errors
    ///
    /// A file is missing or holds something else.
    pub fn open(pki_dir: &Path) -> Result<Self, OpenError> {
        let roots_pem = files::read(&pki_dir.join(files::ROOTS))?;
        let issuing_pem = files::read(&pki_dir.join(files::ISSUING))?;
        let key_pem = secret::from_file(pki_dir.join(files::ISSUING_KEY))?;

        let root = certificate(&roots_pem, files::ROOTS)?;
        let issuing = certificate(&issuing_pem, files::ISSUING)?;
        let no_key =
            OpenError::Content { file: files::ISSUING_KEY, expected: "a P-256 key in PEM" };
        let Ok(key) = KeyPair::from_pem(key_pem.expose()) else { return Err(no_key) };
        let no_ca = || OpenError::Content { file: files::ISSUING, expected: "a CA certificate" };
        let issuer = Issuer::from_ca_cert_der(&issuing, key).map_err(|_| no_ca())?;
        Ok(Self {
            issuer,
            issuing_not_after: not_after(&issuing).ok_or_else(no_ca)?,
            root_pin: Facts::of(&root)
                .map_err(|_| OpenError::Content { file: files::ROOTS, expected: "a certificate" })?
                .pin,
            issuing_pem,
            roots_pem,
        })
    }

    /// Signs what `terms` says for `key`.
    ///
    /// # Errors
    ///
    /// The issuing certificate has ended, or a name cannot stand in a certificate.
    pub fn issue(
        &self,
        terms: &Terms,
        key: &PublicKey,
        now: Timestamp,
        chance: &dyn Chance,
    ) -> Result<Leaf, IssueError> {
        issue::sign(&self.issuer, self.issuing_not_after, terms, key, now, chance)
    }

    /// A leaf with the issuing certificate behind it, in PEM: what its owner presents.
    #[must_use]
    pub fn chain_of(&self, leaf: &Leaf) -> String {
        format!("{}{}", leaf.pem, self.issuing_pem)
    }

    /// Signs a deny list, as daemons take it.
    ///
    /// # Errors
    ///
    /// The issuing key is of another kind.
    pub fn sign_deny_list(&self, list: &DenyList) -> Result<Signed, SignError> {
        deny_list::sign(list, self.issuer.key().serialized_der())
    }

    /// The roots to trust, in PEM.
    #[must_use]
    pub fn roots_pem(&self) -> &str {
        &self.roots_pem
    }

    /// SHA-256 of the root's public key (SubjectPublicKeyInfo), as tokens carry it.
    #[must_use]
    pub const fn root_pin(&self) -> SpkiPin {
        self.root_pin
    }

    /// When the issuing certificate ends.
    #[must_use]
    pub const fn issuing_not_after(&self) -> Timestamp {
        self.issuing_not_after
    }
}

/// What the store keeps of an issued certificate.
#[must_use]
pub fn record(terms: &Terms, leaf: &Leaf, chain_pem: String, now: Timestamp) -> NewCertificate {
    NewCertificate {
        serial_hex: leaf.serial_hex.clone(),
        identity: terms.identity.to_string(),
        kind: kind_of(terms.identity.kind()),
        name: terms.identity.name().to_string(),
        not_before: leaf.not_before,
        not_after: leaf.not_after,
        chain_pem,
        issued_at: now,
    }
}

/// A kind of peer as the store has it.
#[must_use]
pub const fn kind_of(kind: Kind) -> PeerKind {
    match kind {
        Kind::Agent => PeerKind::Agent,
        Kind::BackupAgent => PeerKind::BackupAgent,
        Kind::GpuWorker => PeerKind::GpuWorker,
        Kind::Controller => PeerKind::Controller,
        Kind::User => PeerKind::User,
    }
}

/// The addresses that the first certificate of a PEM text names.
#[must_use]
pub fn addresses_in(pem: &str) -> Vec<IpAddr> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map(|leaf| addresses_of(&leaf))
        .unwrap_or_default()
}

/// The addresses that a certificate names.
#[must_use]
pub fn addresses_of(certificate: &CertificateDer<'_>) -> Vec<IpAddr> {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else {
        return Vec::new();
    };
    let Ok(Some(names)) = parsed.subject_alternative_name() else { return Vec::new() };
    let address = |name: &GeneralName<'_>| match name {
        GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
            Ok(bytes) => Some(IpAddr::from(bytes)),
            Err(_) => <[u8; 16]>::try_from(*bytes).ok().map(IpAddr::from),
        },
        _ => None,
    };
    names.value.general_names.iter().filter_map(address).collect()
}

/// When a certificate ends.
pub(crate) fn not_after(certificate: &CertificateDer<'_>) -> Option<Timestamp> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Timestamp::from_second(parsed.validity().not_after.timestamp()).ok()
}

fn certificate(pem: &str, file: &'static str) -> Result<CertificateDer<'static>, OpenError> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|_| OpenError::Content { file, expected: "a certificate in PEM" })
}

#[cfg(test)]
mod tests {
    use homelab_common::chance::SystemChance;
    use homelab_rpc::{
        enrol::InvalidRequest,
        peer::{Kind, Peer, Role, SiteName},
    };
    use rcgen::CertificateParams;
    use rustls::{RootCertStore, server::WebPkiClientVerifier};
    use rustls_pki_types::UnixTime;

    use super::{
        issue::{BACKDATE, Usage},
        root::{Ceremony, Founded, found},
        *,
    };

    struct Site {
        folder: tempfile::TempDir,
        founded: Founded,
    }

    impl Site {
        fn found() -> Self {
            let folder = tempfile::tempdir().expect("a folder");
            let founded = hold(folder.path()).expect("founded");
            Self { folder, founded }
        }

        fn authority(&self) -> Authority {
            Authority::open(&self.folder.path().join("pki")).expect("opens")
        }
    }

    fn hold(folder: &Path) -> Result<Founded, root::FoundError> {
        let ceremony = Ceremony {
            site: &SiteName::try_new("home").expect("a site"),
            domain: "home.arpa",
            name: "hx310-db",
            addresses: &["127.0.0.1".parse().expect("an address")],
            pki_dir: &folder.join("pki"),
            recovery_dir: &folder.join("recovery"),
            admin: "ada",
            admin_dir: &folder.join("ada"),
        };
        found(&ceremony, now(), &SystemChance)
    }

    fn now() -> Timestamp {
        "2026-06-01T12:00:00Z".parse().expect("a time")
    }

    fn request(params: CertificateParams) -> Vec<u8> {
        let key = KeyPair::generate().expect("a key");
        params.serialize_request(&key).expect("a request").der().to_vec()
    }

    fn terms() -> Terms {
        Terms {
            identity: "spiffe://home/agent/x99".parse().expect("an identity"),
            usage: Usage::ServerAndClient,
            dns: vec!["x99.home.arpa".into()],
            addresses: vec!["192.0.2.4".parse().expect("an address")],
            valid_for: root::CONTROLLER_VALID_FOR,
        }
    }

    /// What a TLS server of ours would say about the chain in `pem` at `when`.
    fn verify(roots: &str, pem: &str, when: Timestamp) -> Result<(), rustls::Error> {
        let certificates = |pem: &str| {
            CertificateDer::pem_slice_iter(pem.as_bytes())
                .map(|certificate| certificate.expect("PEM"))
                .collect::<Vec<_>>()
        };
        let mut store = RootCertStore::empty();
        for root in certificates(roots) {
            store.add(root).expect("a root");
        }
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(store.into(), provider)
            .build()
            .expect("a verifier");
        let chain = certificates(pem);
        let seconds = u64::try_from(when.as_second()).expect("after 1970");
        let when = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        let (leaf, issuers) = chain.split_first().expect("a leaf");
        verifier.verify_client_cert(leaf, issuers, when).map(|_| ())
    }

    #[test]
    fn the_first_certificates_verify_against_the_root_and_name_their_owners() {
        let site = Site::found();
        let roots = site.authority().roots_pem().to_owned();
        for (folder, identity) in [
            ("pki", "spiffe://home/controller/hx310-db"),
            ("ada", "spiffe://home/user/ada/admin+approver"),
        ] {
            let pem =
                files::read(&site.folder.path().join(folder).join(files::CHAIN)).expect("PEM");
            verify(&roots, &pem, now()).expect("verifies");
            let leaf = CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM");
            assert_eq!(Peer::from_certificate(&leaf).expect("an identity").to_string(), identity);
        }
        assert_eq!(site.founded.admin, "spiffe://home/user/ada/admin+approver");
    }

    #[test]
    fn the_root_key_is_in_the_recovery_kit_and_nowhere_else() {
        let site = Site::found();
        let key = files::read(&site.folder.path().join("recovery").join(root::ROOT_KEY));
        let key = key.expect("in the kit");
        for folder in ["pki", "ada"] {
            for entry in std::fs::read_dir(site.folder.path().join(folder)).expect("a folder") {
                let path = entry.expect("an entry").path();
                assert_ne!(files::read(&path).expect("text"), key, "{}", path.display());
            }
        }
    }

    #[test]
    fn an_issuing_key_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let site = Site::found();
        let pki = site.folder.path().join("pki");
        let readable = std::fs::Permissions::from_mode(0o640);
        std::fs::set_permissions(pki.join(files::ISSUING_KEY), readable).expect("changed");
        let error = Authority::open(&pki).expect_err("refused");
        assert!(matches!(error, OpenError::Key(_)), "{error}");
    }

    #[test]
    fn a_second_ceremony_is_refused_and_changes_nothing() {
        let site = Site::found();
        let before = site.authority().root_pin();
        let error = hold(site.folder.path()).expect_err("refused");
        assert!(matches!(error, root::FoundError::AlreadyFounded { .. }), "{error}");
        assert_eq!(site.authority().root_pin(), before);
    }

    #[test]
    fn nothing_but_the_public_key_is_taken_over_from_a_request() {
        let site = Site::found();
        let mut greedy = CertificateParams::new(vec!["evil.example".into()]).expect("params");
        greedy.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        greedy.distinguished_name.push(rcgen::DnType::OrganizationName, "evil");
        greedy.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
        let key = PublicKey::from_request(&request(greedy)).expect("a P-256 request");
        let authority = site.authority();
        let leaf = authority.issue(&terms(), &key, now(), &SystemChance).expect("issued");

        let text = String::from_utf8_lossy(&leaf.der).into_owned();
        assert!(!text.contains("evil"), "something of the request was copied");
        let peer = Peer::from_certificate(&leaf.der).expect("no CA, one identity");
        assert_eq!((peer.kind(), peer.name(), peer.role()), (Kind::Agent, "x99", None::<Role>));
        assert_eq!(peer.serial_hex(), leaf.serial_hex);
        verify(authority.roots_pem(), &authority.chain_of(&leaf), now()).expect("verifies");
    }

    #[test]
    fn a_certificate_is_back_dated_and_ends_when_it_should() {
        let site = Site::found();
        let authority = site.authority();
        let key = PublicKey::from_request(&request(CertificateParams::default())).expect("a key");
        let leaf = authority.issue(&terms(), &key, now(), &SystemChance).expect("issued");
        assert_eq!(leaf.not_before, now() - BACKDATE);
        assert_eq!(leaf.not_after, now() + root::CONTROLLER_VALID_FOR);
        let chain = authority.chain_of(&leaf);
        assert!(verify(authority.roots_pem(), &chain, leaf.not_after).is_ok());
        let after = leaf.not_after + std::time::Duration::from_secs(1);
        assert!(verify(authority.roots_pem(), &chain, after).is_err());
    }

    #[test]
    fn a_leaf_never_outlives_the_issuing_certificate() {
        let site = Site::found();
        let authority = site.authority();
        let key = PublicKey::from_request(&request(CertificateParams::default())).expect("a key");
        let end = authority.issuing_not_after();
        let late = end - std::time::Duration::from_secs(60);
        let leaf = authority.issue(&terms(), &key, late, &SystemChance).expect("issued");
        assert_eq!(leaf.not_after, end);
        let error = authority.issue(&terms(), &key, end, &SystemChance).expect_err("ended");
        assert!(error.to_string().contains("recovery kit"), "{error}");
    }

    #[test]
    fn garbage_requests_are_refused() {
        let refused = |der: &[u8]| PublicKey::from_request(der).expect_err("refused");
        assert_eq!(refused(b""), InvalidRequest::Malformed);
        assert_eq!(refused(&[0x30; 500]), InvalidRequest::Malformed);
        assert!(matches!(refused(&vec![0x30; 1024 * 1024]), InvalidRequest::TooLarge { .. }));
        let mut good = request(CertificateParams::default());
        good.push(0);
        assert_eq!(refused(&good), InvalidRequest::Malformed, "trailing bytes");

        let p384 = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("a key");
        let p384 = CertificateParams::default().serialize_request(&p384).expect("a request");
        assert_eq!(refused(p384.der()), InvalidRequest::Algorithm);
        let ed25519 = KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key");
        let ed25519 = CertificateParams::default().serialize_request(&ed25519).expect("a request");
        assert_eq!(refused(ed25519.der()), InvalidRequest::Algorithm);
    }
}
