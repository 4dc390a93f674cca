//! The unix socket of root: the way in that needs neither network nor controller.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use homelab_common::error_chain::Chain;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::Semaphore,
};
use tracing::warn;

use super::{Shared, Stranger, drive::drive, is_transient};
use crate::connection::ConnectionInfo;

/// Open connections; people and their scripts need few.
const CONNECTIONS_MAX: usize = 64;

/// The pause after a failed accept, which is most often for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why a unix socket could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindUnixError {
    /// Another process answers there.
    #[error("another process serves the socket `{}`; stop it first", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is no socket is in the way.
    #[error("`{}` exists and is not a socket; move it away", path.display())]
    NotASocket {
        /// What is in the way.
        path: PathBuf,
    },
    /// The system refused.
    #[error("could not bind the socket `{}`", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// Binds a socket that only its owner can open; what a dead process left behind is replaced.
///
/// # Errors
///
/// Another process serves it, or the system refuses.
pub async fn bind_unix(path: &Path) -> Result<UnixListener, BindUnixError> {
    let failed = |source| BindUnixError::Io { path: path.into(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(BindUnixError::NotASocket { path: path.into() });
        }
        Ok(_) if UnixStream::connect(path).await.is_ok() => {
            return Err(BindUnixError::InUse { path: path.into() });
        }
        Ok(_) => fs::remove_file(path).map_err(failed)?,
    }
    let listener = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Serves what a unix socket accepts. Whoever got past its permissions is judged again, by what
/// the kernel says of the process.
pub(super) async fn serve(shared: Arc<Shared>, listener: UnixListener) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let own_uid = nix::unistd::geteuid().as_raw();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shared.ending.cancelled() => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                if !is_transient(&error) {
                    warn!(error = %Chain(&error), "could not accept on the unix socket");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                continue;
            }
        };
        let uid = stream.peer_cred().ok().map(|cred| cred.uid());
        let info = ConnectionInfo::unix(uid, own_uid, shared.rules.at.site().clone());
        let age = shared.age_of(Stranger::No);
        let serving = drive(Arc::clone(&shared), stream, info, age);
        shared.tasks.spawn(async move {
            serving.await;
            drop(place);
        });
    }
}
