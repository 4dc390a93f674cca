//! Who we are: a certificate chain with its key.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use rustls::{
    SignatureScheme,
    client::ResolvesClientCert,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::{Facts, FactsError, Roots, provider};
use crate::secret::{self, Secret, SecretError};

/// The file with the leaf certificate and the issuing CAs, leaf first.
const CHAIN_FILE: &str = "cert.pem";

/// The file with the key of the leaf.
const KEY_FILE: &str = "key.pem";

/// A certificate chain (leaf first, without the root) and the key of the leaf.
#[derive(Clone)]
pub struct Identity {
    certified: Arc<CertifiedKey>,
    facts: Facts,
}

/// Why an identity could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The certificate file could not be read.
    #[error("could not read the certificate file `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The key file could not be read, or others may read it.
    #[error("could not load the private key")]
    Key(#[source] SecretError),
    /// The text holds no certificate, or damaged ones.
    #[error("the certificate chain is not PEM with at least one certificate")]
    Chain,
    /// The text holds no private key, or a damaged one.
    #[error("the private key is not PEM with one private key (PKCS#8, SEC1 or PKCS#1)")]
    NoKey,
    /// Key and certificate do not belong together, or the key is of a kind that
    /// is not supported.
    #[error("the private key does not fit the first certificate of the chain")]
    Mismatch(#[source] rustls::Error),
    /// The leaf cannot be read.
    #[error("the first certificate of the chain cannot be read")]
    Facts(#[source] FactsError),
}

impl Identity {
    /// Loads `cert.pem` and `key.pem` from a directory. The key must be readable
    /// by its owner alone.
    ///
    /// # Errors
    ///
    /// A file is missing, damaged or readable by others, or they do not fit.
    pub fn from_dir(directory: impl AsRef<Path>) -> Result<Self, IdentityError> {
        let path = directory.as_ref().join(CHAIN_FILE);
        let chain =
            fs::read_to_string(&path).map_err(|source| IdentityError::Read { path, source })?;
        let key =
            secret::from_file(directory.as_ref().join(KEY_FILE)).map_err(IdentityError::Key)?;
        Self::from_pem(&chain, &key)
    }

    /// Takes a chain (leaf first) and the leaf's key as PEM text.
    ///
    /// # Errors
    ///
    /// The text is not what it should be, or key and leaf do not fit.
    pub fn from_pem(chain: &str, key: &Secret<String>) -> Result<Self, IdentityError> {
        let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|_| IdentityError::Chain)?;
        let facts =
            Facts::of(chain.first().ok_or(IdentityError::Chain)?).map_err(IdentityError::Facts)?;
        let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes())
            .map_err(|_| IdentityError::NoKey)?;
        let certified =
            CertifiedKey::from_der(chain, key, &provider()).map_err(IdentityError::Mismatch)?;
        Ok(Self { certified: Arc::new(certified), facts })
    }

    /// The same identity, which also shows the root: for servers whose clients
    /// know nothing but a [`SpkiPin`](super::SpkiPin) of it.
    #[must_use]
    pub fn showing_roots(&self, roots: &Roots) -> Self {
        let mut chain = self.certified.cert.clone();
        chain.extend(roots.certificates().iter().cloned());
        let certified = CertifiedKey::new(chain, Arc::clone(&self.certified.key));
        Self { certified: Arc::new(certified), facts: self.facts.clone() }
    }

    /// The certificates, leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// What the leaf says.
    #[must_use]
    pub const fn facts(&self) -> &Facts {
        &self.facts
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("leaf", &self.facts).finish_non_exhaustive()
    }
}

/// The identity that is shown from the next handshake on. Clones share it.
#[derive(Clone, Debug)]
pub struct IdentityHandle {
    current: Arc<RwLock<Identity>>,
}

impl IdentityHandle {
    /// Begins with `identity`.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        Self { current: Arc::new(RwLock::new(identity)) }
    }

    /// The identity that is shown now.
    #[must_use]
    pub fn current(&self) -> Identity {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Shows another identity from now on. Open connections are not touched.
    pub fn replace(&self, identity: Identity) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = identity;
    }

    fn certified(&self) -> Arc<CertifiedKey> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&current.certified)
    }
}

impl ResolvesServerCert for IdentityHandle {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.certified())
    }
}

impl ResolvesClientCert for IdentityHandle {
    fn resolve(
        &self,
        _root_hints: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(self.certified())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
