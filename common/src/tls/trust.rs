//! Whom we trust: roots, and what was revoked since.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    server::{
        VerifierBuilderError, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject};

use super::{
    client::{PeerCheck, apply},
    provider,
};

/// The file with the trusted roots; several during a rotation.
const ROOTS_FILE: &str = "ca.pem";

/// Tells whether a certificate (a leaf or a CA below the root) was revoked.
pub type IsRevoked = Arc<dyn Fn(&CertificateDer<'_>) -> bool + Send + Sync>;

/// Root certificates; at least one.
#[derive(Clone)]
pub struct Roots {
    certificates: Vec<CertificateDer<'static>>,
    of_servers: Arc<WebPkiServerVerifier>,
    of_clients: Arc<dyn ClientCertVerifier>,
}

/// Why roots could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// The file could not be read.
    #[error("could not read the file of trusted roots `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The text holds no certificate, or damaged ones.
    #[error("the trusted roots are not PEM with at least one certificate")]
    Pem,
    /// A certificate cannot be a root.
    #[error("a trusted root cannot be used")]
    Unusable(#[source] Error),
    /// The roots make no verifier.
    #[error("the trusted roots cannot be used")]
    Verifier(#[source] VerifierBuilderError),
}

impl Roots {
    /// Loads `ca.pem` from a directory.
    ///
    /// # Errors
    ///
    /// The file is missing, or holds no usable certificate.
    pub fn from_dir(directory: impl AsRef<Path>) -> Result<Self, RootsError> {
        let path = directory.as_ref().join(ROOTS_FILE);
        let text = fs::read_to_string(&path).map_err(|source| RootsError::Read { path, source })?;
        Self::from_pem(&text)
    }

    /// Takes one or more certificates as PEM text.
    ///
    /// # Errors
    ///
    /// The text holds no usable certificate.
    pub fn from_pem(text: &str) -> Result<Self, RootsError> {
        let certificates: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(text.as_bytes())
                .collect::<Result<_, _>>()
                .map_err(|_| RootsError::Pem)?;
        if certificates.is_empty() {
            return Err(RootsError::Pem);
        }
        let mut store = RootCertStore::empty();
        for certificate in &certificates {
            store.add(certificate.clone()).map_err(RootsError::Unusable)?;
        }
        let store = Arc::new(store);
        let of_servers =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(&store), provider())
                .build()
                .map_err(RootsError::Verifier)?;
        let of_clients = WebPkiClientVerifier::builder_with_provider(store, provider())
            .build()
            .map_err(RootsError::Verifier)?;
        Ok(Self { certificates, of_servers, of_clients })
    }

    /// The certificates.
    #[must_use]
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }
}

impl fmt::Debug for Roots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roots").field("count", &self.certificates.len()).finish_non_exhaustive()
    }
}

/// The roots and revocations that count from the next handshake on. Clones
/// share them.
#[derive(Clone)]
pub struct TrustHandle {
    current: Arc<RwLock<Trust>>,
}

#[derive(Clone)]
struct Trust {
    roots: Roots,
    is_revoked: Option<IsRevoked>,
}

impl TrustHandle {
    /// Begins with `roots` and nothing revoked.
    #[must_use]
    pub fn new(roots: Roots) -> Self {
        Self { current: Arc::new(RwLock::new(Trust { roots, is_revoked: None })) }
    }

    /// The roots that count now.
    #[must_use]
    pub fn roots(&self) -> Roots {
        self.current().roots
    }

    /// Trusts other roots from now on. Open connections are not touched.
    pub fn replace_roots(&self, roots: Roots) {
        self.current.write().unwrap_or_else(PoisonError::into_inner).roots = roots;
    }

    /// Asks `is_revoked` from now on, about the leaf and each CA that the peer
    /// shows. Open connections are not touched: see
    /// [`Connections::close_where`](super::Connections::close_where).
    pub fn replace_revocation(&self, is_revoked: IsRevoked) {
        self.current.write().unwrap_or_else(PoisonError::into_inner).is_revoked = Some(is_revoked);
    }

    /// Whether any certificate of a chain was revoked.
    #[must_use]
    pub fn is_revoked(&self, chain: &[CertificateDer<'_>]) -> bool {
        let trust = self.current();
        trust.is_revoked.is_some_and(|is_revoked| chain.iter().any(|cert| is_revoked(cert)))
    }

    /// A copy, so that no lock is held while certificates are checked.
    fn current(&self) -> Trust {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for TrustHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustHandle").field("roots", &self.roots()).finish_non_exhaustive()
    }
}

impl Trust {
    fn refuse_revoked(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
    ) -> Result<(), Error> {
        let Some(is_revoked) = &self.is_revoked else { return Ok(()) };
        if is_revoked(leaf) || intermediates.iter().any(|ca| is_revoked(ca)) {
            return Err(CertificateError::Revoked.into());
        }
        Ok(())
    }
}

/// Checks the certificates of clients.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    pub(super) trust: TrustHandle,
    pub(super) mandatory: bool,
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    /// None: the roots may change, and our clients have one certificate anyway.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let trust = self.trust.current();
        let verified = trust.roots.of_clients.verify_client_cert(leaf, intermediates, now)?;
        trust.refuse_revoked(leaf, intermediates)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.trust.roots().of_clients.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.trust.roots().of_clients.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.roots().of_clients.supported_verify_schemes()
    }
}

/// Checks the certificates of servers.
pub(super) struct ServerVerifier {
    pub(super) trust: TrustHandle,
    pub(super) check: Option<PeerCheck>,
}

impl fmt::Debug for ServerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerVerifier").field("trust", &self.trust).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let trust = self.trust.current();
        let verified = trust.roots.of_servers.verify_server_cert(
            leaf,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )?;
        trust.refuse_revoked(leaf, intermediates)?;
        apply(self.check.as_ref(), leaf, intermediates)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.trust.roots().of_servers.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.trust.roots().of_servers.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.roots().of_servers.supported_verify_schemes()
    }
}
