//! Errors of the parts as callers see them: the one place where they become a status.

use std::time::Duration;

use homelab_common::error_chain::Chain;
use homelab_rpc::status::{Failure, Reason, fail, internal};
use homelab_store::{InvalidCursor, StoreError};
use tonic::{Code, Status};
use tracing::warn;

use crate::ca::{enrolment::EnrolmentError, revocation::RevokeError, token::CreateTokenError};

/// When asking a busy store again makes sense.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// The store cannot be asked now.
pub const STORE_BUSY: Reason = Reason::named("STORE_BUSY");
/// Somebody else changed the same thing first.
pub const CONFLICT: Reason = Reason::named("CONFLICT");

/// An error that callers may see. `request_id` leads from an `INTERNAL` to the log.
pub trait IntoStatus {
    /// The status for it.
    fn into_status(self, request_id: &str) -> Status;
}

impl IntoStatus for StoreError {
    fn into_status(self, request_id: &str) -> Status {
        match &self {
            Self::Busy { .. } => {
                warn!(request_id, error = %Chain(&self), "the store is busy");
                Failure::new(Code::Unavailable, STORE_BUSY, "the store is busy; try again")
                    .retry_after(STORE_RETRY)
                    .into()
            }
            Self::Conflict { .. } => {
                let message = format!("{self}; look again, then decide again");
                fail(Code::Aborted, CONFLICT, message)
            }
            // The other cases are for whoever reads the log.
            _ => internal(&self, request_id),
        }
    }
}

impl IntoStatus for InvalidCursor {
    fn into_status(self, _request_id: &str) -> Status {
        Failure::invalid(self.to_string()).field("page_token", self.to_string()).into()
    }
}

impl IntoStatus for CreateTokenError {
    fn into_status(self, request_id: &str) -> Status {
        match self {
            Self::Order { field, what } => {
                Failure::invalid(format!("{field}: {what}")).field(field, what).into()
            }
            Self::Name(error) => {
                Failure::invalid(error.to_string()).field("name", error.to_string()).into()
            }
            Self::Store(error) => error.into_status(request_id),
            Self::Seal(_) => internal(&self, request_id),
        }
    }
}

impl IntoStatus for EnrolmentError {
    fn into_status(self, request_id: &str) -> Status {
        let field =
            |field: &str, what: String| Failure::invalid(what.clone()).field(field, what).into();
        match self {
            Self::TokenRefused { .. } => {
                fail(Code::PermissionDenied, Reason::TOKEN_REFUSED, self.to_string())
            }
            Self::Request(error) => field("signing_request", error.to_string()),
            Self::Address { what } => field("address", what),
            Self::Name(error) => field("name", error.to_string()),
            Self::ValidFor => field("valid_for", self.to_string()),
            Self::Revoked => {
                fail(Code::Unauthenticated, Reason::CERTIFICATE_REVOKED, self.to_string())
            }
            Self::NothingToRenew => {
                fail(Code::FailedPrecondition, Reason::NO_CERTIFICATE, self.to_string())
            }
            Self::Store(error) => error.into_status(request_id),
            Self::Issue(_) | Self::Seal(_) => internal(&self, request_id),
        }
    }
}

impl IntoStatus for RevokeError {
    fn into_status(self, request_id: &str) -> Status {
        match self {
            Self::NotFound { .. } => {
                fail(Code::NotFound, Reason::CERTIFICATE_NOT_FOUND, self.to_string())
            }
            Self::Store(error) => error.into_status(request_id),
        }
    }
}
