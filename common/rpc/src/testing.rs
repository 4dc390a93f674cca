//! A homelab on paper: CAs and certificates for tests. Compiled with the feature `testing` only.

#![expect(clippy::expect_used, reason = "only tests call this, and a test that fails here says so")]

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use homelab_common::{
    secret::Secret,
    tls::{Facts, Identity, IdentityHandle, Roots, SpkiPin, TlsServer, TrustHandle},
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SubjectPublicKeyInfo,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};

use crate::{
    dial::{Dialer, Target},
    peer::{Grant, Kind, Role, SiteName, SpiffeId},
    serve,
};

/// The DNS name in every certificate, besides 127.0.0.1.
pub const SERVER_NAME: &str = "localhost";

/// A root, an issuing CA below it, and what they sign.
#[derive(Debug)]
pub struct TestSite {
    name: SiteName,
    root_pem: String,
    issuing_pem: String,
    issuing: Issuer<'static, KeyPair>,
}

/// A certificate with its key.
#[derive(Clone, Debug)]
pub struct TestLeaf {
    /// Leaf and issuing CA, PEM.
    pub chain_pem: String,
    /// The key, PEM.
    pub key_pem: Secret<String>,
}

/// From when until when a test certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// For years before and after today.
    Now,
    /// It ended years ago.
    Ended,
    /// From one day to another, counted from 1970.
    Days(i64, i64),
}

impl TestSite {
    /// A new homelab with its own CAs.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let root_key = KeyPair::generate().expect("a key");
        let root_params = ca("root", 1);
        let root = root_params.self_signed(&root_key).expect("a root");
        let root_issuer = Issuer::new(root_params, root_key);
        let issuing_key = KeyPair::generate().expect("a key");
        let issuing_params = ca("issuing", 0);
        let issuing = issuing_params.signed_by(&issuing_key, &root_issuer).expect("a CA");
        Self {
            name: SiteName::try_new(name).expect("a site name"),
            root_pem: root.pem(),
            issuing_pem: issuing.pem(),
            issuing: Issuer::new(issuing_params, issuing_key),
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(&self) -> &SiteName {
        &self.name
    }

    /// A daemon's identity.
    #[must_use]
    pub fn daemon(&self, kind: Kind, name: &str) -> SpiffeId {
        SpiffeId::daemon(self.name.clone(), kind, name).expect("an identity")
    }

    /// A person's identity: `operator`, `viewer+approver`.
    #[must_use]
    pub fn user(&self, name: &str, grant: &str) -> SpiffeId {
        let grant: Grant = grant.parse().expect("a role");
        SpiffeId::user(self.name.clone(), name, grant).expect("an identity")
    }

    /// A certificate that is good now, for 127.0.0.1 and `localhost`.
    #[must_use]
    pub fn leaf(&self, id: &SpiffeId) -> TestLeaf {
        self.leaf_valid(id, Validity::Now)
    }

    /// A certificate with another validity.
    #[must_use]
    pub fn leaf_valid(&self, id: &SpiffeId, validity: Validity) -> TestLeaf {
        let key = KeyPair::generate().expect("a key");
        let leaf = leaf(id, validity).signed_by(&key, &self.issuing).expect("a leaf");
        let chain_pem = format!("{}{}", leaf.pem(), self.issuing_pem);
        TestLeaf { chain_pem, key_pem: Secret::new(key.serialize_pem()) }
    }

    /// Signs a public key (SubjectPublicKeyInfo, DER), as the controller does for a signing
    /// request; gives the chain as PEM.
    #[must_use]
    pub fn sign(&self, spki: &[u8], id: &SpiffeId, validity: Validity) -> String {
        let key = SubjectPublicKeyInfo::from_der(spki).expect("a public key");
        let leaf = leaf(id, validity).signed_by(&key, &self.issuing).expect("a leaf");
        format!("{}{}", leaf.pem(), self.issuing_pem)
    }

    /// An identity that is good now.
    #[must_use]
    pub fn identity(&self, id: &SpiffeId) -> Identity {
        self.leaf(id).identity()
    }

    /// The root, PEM.
    #[must_use]
    pub fn root_pem(&self) -> &str {
        &self.root_pem
    }

    /// The root, to be trusted.
    #[must_use]
    pub fn roots(&self) -> Roots {
        Roots::from_pem(&self.root_pem).expect("a root")
    }

    /// The root, to be trusted by a server or a dialer.
    #[must_use]
    pub fn trust(&self) -> TrustHandle {
        TrustHandle::new(self.roots())
    }

    /// The pin of the root's key, as in a token.
    #[must_use]
    pub fn pin(&self) -> SpkiPin {
        let root = CertificateDer::from_pem_slice(self.root_pem.as_bytes()).expect("a root");
        Facts::of(&root).expect("readable").pin
    }

    /// The key of the issuing CA (PKCS#8, DER): signs deny lists.
    #[must_use]
    pub fn issuing_key(&self) -> Vec<u8> {
        self.issuing.key().serialize_der()
    }

    /// Calls daemons of this site as `id`.
    #[must_use]
    pub fn dialer(&self, id: &SpiffeId) -> Dialer {
        self.dialer_with(self.identity(id))
    }

    /// Calls daemons of this site with this identity.
    #[must_use]
    pub fn dialer_with(&self, identity: Identity) -> Dialer {
        Dialer::new(self.name.clone(), self.trust()).identity(IdentityHandle::new(identity))
    }

    /// A TLS listener on a free port of loopback, as daemons have it.
    pub async fn listener(&self, identity: IdentityHandle) -> TlsServer {
        let clock: Arc<dyn homelab_common::clock::Clock> =
            Arc::new(homelab_common::clock::SystemClock);
        let options = serve::tls_options(identity, self.trust(), &clock);
        TlsServer::bind((Ipv4Addr::LOCALHOST, 0).into(), options).await.expect("a free port")
    }
}

impl TestLeaf {
    /// As an identity.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity::from_pem(&self.chain_pem, &self.key_pem).expect("an identity")
    }
}

/// Where a test daemon is.
#[must_use]
pub fn target(address: impl std::fmt::Display, id: &SpiffeId) -> Target {
    Target {
        address: address.to_string(),
        server_name: SERVER_NAME.into(),
        kind: id.kind(),
        name: Some(id.name().to_string()),
    }
}

/// One identity of each kind and, for people, of each role with and without approver.
#[must_use]
pub fn everybody(site: &TestSite) -> Vec<SpiffeId> {
    let daemons = Kind::ALL.into_iter().filter(|kind| *kind != Kind::User);
    let roles =
        Role::ALL.into_iter().flat_map(|role| [role.to_string(), format!("{role}+approver")]);
    daemons
        .map(|kind| site.daemon(kind, "somehost"))
        .chain(roles.map(|grant| site.user("somebody", &grant)))
        .collect()
}

fn ca(name: &str, path_len: u8) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_len));
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn leaf(id: &SpiffeId, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::new([SERVER_NAME.to_owned()]).expect("a DNS name");
    params.subject_alt_names.push(SanType::IpAddress(Ipv4Addr::LOCALHOST.into()));
    params
        .subject_alt_names
        .push(SanType::URI(id.to_string().try_into().expect("an ASCII identity")));
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let day = |days: i64| epoch + Duration::from_secs(86_400 * days.unsigned_abs());
    (params.not_before, params.not_after) = match validity {
        Validity::Now => (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2120, 1, 1)),
        Validity::Ended => (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2021, 1, 1)),
        Validity::Days(from, to) => (day(from), day(to)),
    };
    params
}
