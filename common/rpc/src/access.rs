//! Who may call what: one table, generated from the `access` options of the `.proto` files, and
//! the rows of the two services that every gRPC server has. What is not in it is denied.

use std::time::Duration;

use homelab_proto::{
    access::{Access, Method, method},
    common::v1::{PeerKind, Role as Needed},
};
use tonic::{Code, Status};

use crate::{
    peer::{Grant, Kind, Peer, Role, SpiffeId},
    status::{Failure, Reason},
};

const EVERY_DAEMON: &[PeerKind] =
    &[PeerKind::Agent, PeerKind::BackupAgent, PeerKind::GpuWorker, PeerKind::Controller];

/// grpc.health.v1 and reflection v1 and v1alpha, sorted by path.
const COMMON: &[Method] = &[
    open("/grpc.health.v1.Health/Check", &[PeerKind::Controller], Answer::Once),
    open("/grpc.health.v1.Health/List", &[PeerKind::Controller], Answer::Once),
    open("/grpc.health.v1.Health/Watch", &[PeerKind::Controller], Answer::Stream),
    open(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        &[PeerKind::Controller],
        Answer::Stream,
    ),
    open(
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        &[PeerKind::Controller],
        Answer::Stream,
    ),
];

/// The controller's health is everybody's business: agents ask it before they renew.
const AT_CONTROLLER: &[Method] = &[
    open("/grpc.health.v1.Health/Check", EVERY_DAEMON, Answer::Once),
    open("/grpc.health.v1.Health/List", EVERY_DAEMON, Answer::Once),
    open("/grpc.health.v1.Health/Watch", EVERY_DAEMON, Answer::Stream),
];

enum Answer {
    Once,
    Stream,
}

const fn open(path: &'static str, kinds: &'static [PeerKind], answer: Answer) -> Method {
    Method {
        path,
        access: Some(Access {
            role: Some(Needed::Viewer),
            kinds,
            anonymous: false,
            mutates: false,
        }),
        server_streaming: matches!(answer, Answer::Stream),
    }
}

/// Why a call was not let through.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The caller showed no certificate.
    #[error("this method needs a client certificate; get one with `labctl login`")]
    NoCertificate,
    /// The certificate says nothing that can be used.
    #[error("the client certificate was not accepted: {what}")]
    BadCertificate {
        /// What is wrong with it.
        what: String,
    },
    /// The method is not in the table, or is open to nobody.
    #[error("`{path}` is not a method that anybody may call here")]
    UnknownMethod {
        /// The path of the call.
        path: String,
    },
    /// This kind of party may not call the method.
    #[error("a {kind} may not call `{path}`")]
    WrongKind {
        /// The path of the call.
        path: &'static str,
        /// The caller's kind.
        kind: Kind,
    },
    /// The person may less than the method needs.
    #[error("`{path}` needs the role {need}, this certificate has {have}; ask an admin for one")]
    RoleTooLow {
        /// The path of the call.
        path: &'static str,
        /// What the caller has: `viewer`, `admin+approver`.
        have: Grant,
        /// What is needed: `operator`, `approver`.
        need: &'static str,
    },
    /// The caller belongs to another homelab.
    #[error("the caller is of site `{theirs}`, this is site `{ours}`")]
    OtherSite {
        /// The site of the caller.
        theirs: String,
        /// The site of this server.
        ours: String,
    },
    /// The certificate is on the deny list.
    #[error("the certificate {serial_hex} is revoked; enrol again")]
    Revoked {
        /// Its serial number.
        serial_hex: String,
    },
    /// The caller shows no certificate and calls too often.
    #[error("too many calls without a certificate; come back in {} s", wait.as_secs().max(1))]
    TooMany {
        /// How long to wait.
        wait: Duration,
    },
}

/// Decides about one call on the server whose own identity is `at`. Revocation is not asked
/// here, because it changes while a server runs.
///
/// # Errors
///
/// Says why the call is denied.
pub fn authorize(
    path: &str,
    peer: Option<&Peer>,
    at: &SpiffeId,
) -> Result<&'static Method, Denied> {
    let found = row(path, at.kind());
    let open = found.and_then(|row| row.access.map(|access| (row, access)));
    if let Some((row, access)) = open
        && access.anonymous
    {
        return Ok(row);
    }
    let Some(peer) = peer else { return Err(Denied::NoCertificate) };
    if peer.site() != at.site() {
        let (theirs, ours) = (peer.site().to_string(), at.site().to_string());
        return Err(Denied::OtherSite { theirs, ours });
    }
    let Some((row, access)) = open else {
        return Err(Denied::UnknownMethod { path: path.into() });
    };
    admit(row, access, peer)?;
    Ok(row)
}

/// Decides about one call on a port that asks for no certificate: only what is open to
/// strangers passes.
///
/// # Errors
///
/// [`Denied::NoCertificate`] for what the main port has, [`Denied::UnknownMethod`] otherwise.
pub fn authorize_stranger(path: &str) -> Result<&'static Method, Denied> {
    match method(path).map(|row| (row, row.access)) {
        Some((row, Some(access))) if access.anonymous => Ok(row),
        Some((_, Some(_))) => Err(Denied::NoCertificate),
        _ => Err(Denied::UnknownMethod { path: path.into() }),
    }
}

/// The row of a method on a server of kind `at`.
#[must_use]
pub fn row(path: &str, at: Kind) -> Option<&'static Method> {
    let find = |rows: &'static [Method]| rows.iter().find(|row| row.path == path);
    let special = if at == Kind::Controller { find(AT_CONTROLLER) } else { None };
    special.or_else(|| find(COMMON)).or_else(|| method(path))
}

fn admit(row: &'static Method, access: Access, peer: &Peer) -> Result<(), Denied> {
    let wrong_kind = Denied::WrongKind { path: row.path, kind: peer.kind() };
    let Some(have) = peer.id().grant() else {
        let listed = access.kinds.contains(&peer.kind().to_proto());
        return if listed { Ok(()) } else { Err(wrong_kind) };
    };
    let enough = match access.role {
        None | Some(Needed::Unspecified) => return Err(wrong_kind),
        Some(Needed::Viewer) => have.role >= Role::Viewer,
        Some(Needed::Operator) => have.role >= Role::Operator,
        Some(Needed::Admin) => have.role >= Role::Admin,
        Some(Needed::Approver) => have.approver,
    };
    if enough {
        return Ok(());
    }
    let need = access.role.map_or("", name_of);
    Err(Denied::RoleTooLow { path: row.path, have, need })
}

const fn name_of(role: Needed) -> &'static str {
    match role {
        Needed::Unspecified => "",
        Needed::Viewer => "viewer",
        Needed::Operator => "operator",
        Needed::Admin => "admin",
        Needed::Approver => "approver",
    }
}

impl From<Denied> for Status {
    fn from(denied: Denied) -> Self {
        let message = denied.to_string();
        let refuse = |code, reason| Failure::new(code, reason, message);
        match denied {
            Denied::NoCertificate => refuse(Code::Unauthenticated, Reason::NO_CERTIFICATE),
            Denied::BadCertificate { .. } => {
                refuse(Code::Unauthenticated, Reason::CERTIFICATE_INVALID)
            }
            Denied::UnknownMethod { path } => {
                refuse(Code::PermissionDenied, Reason::METHOD_NOT_OPEN).with("method", path)
            }
            Denied::WrongKind { path, kind } => {
                refuse(Code::PermissionDenied, Reason::METHOD_NOT_OPEN)
                    .with("method", path)
                    .with("kind", kind.as_str())
            }
            Denied::RoleTooLow { path, have, need } => {
                refuse(Code::PermissionDenied, Reason::ROLE_REQUIRED)
                    .with("method", path)
                    .with("have", have.to_string())
                    .with("need", need)
            }
            Denied::OtherSite { theirs, ours } => {
                refuse(Code::PermissionDenied, Reason::OTHER_SITE)
                    .with("theirs", theirs)
                    .with("ours", ours)
            }
            Denied::Revoked { serial_hex } => {
                refuse(Code::Unauthenticated, Reason::CERTIFICATE_REVOKED)
                    .with("serial_hex", serial_hex)
            }
            Denied::TooMany { wait } => refuse(Code::ResourceExhausted, Reason::RATE_LIMITED)
                .retry_after(wait.max(Duration::from_secs(1))),
        }
        .into()
    }
}

#[cfg(test)]
mod tests;
