//! The sockets, bound before any work, so that what is taken shows at once.

use std::sync::Arc;

use homelab_common::{
    clock::Clock,
    tls::{
        Alpn, ClientPolicy, Identity, IdentityHandle, Protocol, Roots, ServerOptions, TlsServer,
        TrustHandle,
    },
};
use homelab_rpc::serve::{bind_unix, enrolment_tls_options, tls_options};
use tokio::net::UnixListener;
use tracing::info;

use super::{ADMIN_SOCKET, Bound, BuildError};
use crate::config::Config;

/// All sockets of the controller, with what they show and trust.
pub(super) struct Listeners {
    pub(super) bound: Bound,
    pub(super) grpc_server: TlsServer,
    pub(super) enrolment_server: TlsServer,
    pub(super) web_server: TlsServer,
    pub(super) admin: UnixListener,
    /// What everybody but those who enrol is shown.
    pub(super) main: IdentityHandle,
    /// The same with the root.
    pub(super) enrolment: IdentityHandle,
    pub(super) trust: TrustHandle,
}

impl Listeners {
    pub(super) async fn bind(
        config: &Config,
        identity: Identity,
        clock: &Arc<dyn Clock>,
    ) -> Result<Self, BuildError> {
        let roots = Roots::from_dir(&config.pki_dir)?;
        let enrolment = IdentityHandle::new(identity.showing_roots(&roots));
        let main = IdentityHandle::new(identity);
        let trust = TrustHandle::new(roots);

        let options = tls_options(main.clone(), trust.clone(), clock);
        let grpc_server = TlsServer::bind(config.listen.grpc, options).await?;
        let options = enrolment_tls_options(enrolment.clone(), clock);
        let enrolment_server = TlsServer::bind(config.listen.enrolment, options).await?;
        let web_server = TlsServer::bind(config.listen.web, web_options(&main, clock)).await?;
        let admin_socket = config.runtime_dir.join(ADMIN_SOCKET);
        let admin = bind_unix(&admin_socket).await?;
        let bound = Bound {
            grpc: grpc_server.local_addr(),
            enrolment: enrolment_server.local_addr(),
            web: web_server.local_addr(),
            admin_socket,
        };
        info!(
            grpc = %bound.grpc,
            enrolment = %bound.enrolment,
            web = %bound.web,
            admin = %bound.admin_socket.display(),
            "listening"
        );
        Ok(Self { bound, grpc_server, enrolment_server, web_server, admin, main, enrolment, trust })
    }
}

/// Browsers have no certificates of ours, and some still speak TLS 1.2 and HTTP/1.1.
fn web_options(identity: &IdentityHandle, clock: &Arc<dyn Clock>) -> ServerOptions {
    let mut options = ServerOptions::new(identity.clone(), ClientPolicy::None);
    options.alpn = Alpn::Http2And1;
    options.protocol = Protocol::Tls12And13;
    options.clock = Arc::clone(clock);
    options
}
