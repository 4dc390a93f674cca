//! Why the controller does not start.

use homelab_common::{
    config::Report,
    secret::SecretError,
    tls::{BindError, RootsError},
};
use homelab_rpc::{peer::InvalidSpiffeId, serve::BindUnixError};
use homelab_store::StoreError;

use crate::{
    ca::{OpenError, files::FileError, seal::SealError},
    task::{
        deny::TakeOverError,
        lease::{InstanceError, LeaseError},
        renewal::OwnCertificateError,
    },
};

/// Why the controller does not start. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A folder cannot be made.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another process has the state folder.
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// The site file has problems.
    #[error("the site file cannot be used\n{0}")]
    Site(Report),
    /// A name of the configuration or the site file cannot stand in an identity.
    #[error(transparent)]
    Name(#[from] InvalidSpiffeId),
    /// There is no usable issuing CA.
    #[error(transparent)]
    Authority(#[from] OpenError),
    /// The controller has no certificate of its own.
    #[error(transparent)]
    Own(#[from] OwnCertificateError),
    /// The roots cannot be loaded.
    #[error("could not load the roots")]
    Roots(#[from] RootsError),
    /// A port cannot be had.
    #[error("could not listen")]
    Bind(#[from] BindError),
    /// The admin socket cannot be had.
    #[error("could not serve the admin socket")]
    BindUnix(#[from] BindUnixError),
    /// The password of the store cannot be had.
    #[error("could not load the password of the store")]
    Password(#[from] SecretError),
    /// The store cannot be opened.
    #[error("could not open the store")]
    Store(#[from] StoreError),
    /// The keys of the gateway cannot be loaded.
    #[error(transparent)]
    Keys(#[from] crate::http::KeysError),
    /// Another controller acts.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// The key that seals secrets cannot be used.
    #[error("could not load the key that seals secrets")]
    Seal(#[from] SealError),
    /// The key that evidence is signed with cannot be used.
    #[error(transparent)]
    Signer(#[from] crate::backup::signer::SignerError),
    /// The deny list could not be taken over.
    #[error("could not take over the deny list")]
    DenyList(#[from] TakeOverError),
    /// The servers cannot be put together.
    #[error("could not put the server together")]
    Server(#[from] homelab_rpc::serve::BuildError),
}
