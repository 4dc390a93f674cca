//! Errors as callers see them: a code, a sentence, and one `google.rpc.ErrorInfo` whose reason
//! programs can rely on.

use std::{error::Error, fmt, time::Duration};

use homelab_common::error_chain::Chain;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, PreconditionViolation, StatusExt};
use tracing::error;

/// The `domain` of every `ErrorInfo` of ours.
pub const DOMAIN: &str = "homelab";

/// The longest reason that AIP-193 allows, in characters.
const REASON_MAX: usize = 63;

/// A stable name for one way to fail, `UPPER_SNAKE`. The constants are those that the protocol
/// names; a service with more of them makes its own with [`Reason::named`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reason(&'static str);

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        impl Reason {
            $($(#[doc = $doc])+ pub const $name: Self = Self(stringify!($name));)+

            /// Every constant, in the order of the source.
            pub const ALL: &[Self] = &[$(Self::$name,)+];
        }
    };
}

reasons! {
    /// The caller showed no certificate.
    NO_CERTIFICATE,
    /// The certificate names no identity that can be used.
    CERTIFICATE_INVALID,
    /// The certificate is on the deny list.
    CERTIFICATE_REVOKED,
    /// There is no such certificate.
    CERTIFICATE_NOT_FOUND,
    /// The method is open to nobody, or not to this kind of party.
    METHOD_NOT_OPEN,
    /// The person's role is too low; metadata `have` and `need`.
    ROLE_REQUIRED,
    /// The caller belongs to another homelab.
    OTHER_SITE,
    /// The method is in the protocol and not built yet.
    NOT_BUILT_YET,
    /// The request breaks a rule; the field violations say which.
    INVALID_REQUEST,
    /// The deadline passed before the work was done.
    DEADLINE_PASSED,
    /// A bug or a broken machine; metadata `request_id` leads to the log.
    INTERNAL,
    /// The server is stopping; try another time.
    STOPPING,
    /// The caller's view is out of date; metadata `have` and `got`.
    STALE_GENERATION,
    /// A signature does not fit.
    SIGNATURE_INVALID,
    /// The token is unknown, spent, expired or revoked, or the proof is wrong.
    TOKEN_REFUSED,
    /// There is no such token.
    TOKEN_NOT_FOUND,
    /// There is no such host.
    HOST_NOT_FOUND,
    /// The host could not be reached.
    HOST_UNREACHABLE,
    /// Somebody else works on the host; metadata `holder` and `expires`.
    HOST_LOCKED,
    /// The host cannot be woken.
    HOST_CANNOT_WAKE,
    /// The worker sleeps.
    WORKER_ASLEEP,
    /// There is no such backup.
    BACKUP_NOT_FOUND,
    /// There is no such run.
    RUN_NOT_FOUND,
    /// Another run of the same backup goes on.
    RUN_IN_PROGRESS,
    /// There is no such snapshot.
    SNAPSHOT_NOT_FOUND,
    /// The repository cannot be used: not mounted, not the right one, or damaged.
    REPOSITORY_UNAVAILABLE,
    /// The target exists.
    TARGET_EXISTS,
    /// The target is what was backed up.
    TARGET_IS_SOURCE,
    /// There is no such model.
    MODEL_NOT_FOUND,
    /// Every slot is taken.
    SLOTS_BUSY,
    /// The inference process does not answer yet.
    ENGINE_NOT_READY,
    /// There is no such job.
    JOB_NOT_FOUND,
    /// The job has not ended.
    JOB_NOT_ENDED,
    /// The queue is full.
    QUEUE_FULL,
    /// The caller calls too often; the retry delay says when to come back.
    RATE_LIMITED,
    /// There is no such phase.
    PHASE_NOT_FOUND,
    /// There is no such operation.
    OPERATION_NOT_FOUND,
    /// There is no such document.
    DOCUMENT_NOT_FOUND,
}

impl Reason {
    /// A reason of one service alone.
    ///
    /// # Panics
    ///
    /// When compiled in a constant: the name is empty, longer than 63 characters or not
    /// `UPPER_SNAKE`.
    #[must_use]
    pub const fn named(name: &'static str) -> Self {
        let bytes = name.as_bytes();
        assert!(!bytes.is_empty() && bytes.len() <= REASON_MAX, "1 to 63 characters");
        let mut index = 0;
        while index < bytes.len() {
            let plain = matches!(bytes[index], b'A'..=b'Z' | b'0'..=b'9' | b'_');
            assert!(plain, "only A-Z, 0-9 and `_`");
            index += 1;
        }
        Self(name)
    }

    /// As in `ErrorInfo.reason`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// A [`Status`] being put together.
#[derive(Clone, Debug)]
pub struct Failure {
    code: Code,
    reason: Reason,
    message: String,
    metadata: Vec<(String, String)>,
    fields: Vec<FieldViolation>,
    preconditions: Vec<PreconditionViolation>,
    retry_after: Option<Duration>,
}

impl Failure {
    /// `message` says what failed, on what, why, and what to do next.
    #[must_use]
    pub fn new(code: Code, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            metadata: Vec::new(),
            fields: Vec::new(),
            preconditions: Vec::new(),
            retry_after: None,
        }
    }

    /// `INVALID_ARGUMENT`: add what is wrong with [`Failure::field`].
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidArgument, Reason::INVALID_REQUEST, message)
    }

    /// Adds to `ErrorInfo.metadata`: whatever in the message changes from case to case.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.push((key.into(), value.into()));
        self
    }

    /// Adds a field of the request that breaks a rule (`google.rpc.BadRequest`).
    #[must_use]
    pub fn field(mut self, field: impl Into<String>, what: impl Into<String>) -> Self {
        self.fields.push(FieldViolation::new(field, what));
        self
    }

    /// Adds a condition that is not met (`google.rpc.PreconditionFailure`).
    #[must_use]
    pub fn precondition(
        mut self,
        kind: impl Into<String>,
        subject: impl Into<String>,
        what: impl Into<String>,
    ) -> Self {
        self.preconditions.push(PreconditionViolation::new(kind, subject, what));
        self
    }

    /// When trying again makes sense (`google.rpc.RetryInfo`).
    #[must_use]
    pub const fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        let mut details = ErrorDetails::new();
        let metadata: std::collections::HashMap<_, _> = failure.metadata.into_iter().collect();
        details.set_error_info(failure.reason.as_str(), DOMAIN, metadata);
        if !failure.fields.is_empty() {
            details.set_bad_request(failure.fields);
        }
        if !failure.preconditions.is_empty() {
            details.set_precondition_failure(failure.preconditions);
        }
        if failure.retry_after.is_some() {
            details.set_retry_info(failure.retry_after);
        }
        Self::with_error_details(failure.code, failure.message, details)
    }
}

/// A status with its reason and nothing else.
#[must_use]
pub fn fail(code: Code, reason: Reason, message: impl Into<String>) -> Status {
    Failure::new(code, reason, message).into()
}

/// What a method answers that is in the protocol and not built yet. `instead` says what to do
/// meanwhile, as a clause: `use labctl backup run`.
#[must_use]
pub fn not_built_yet(method: &str, instead: &str) -> Status {
    let message = format!("`{method}` is not built yet; {instead}");
    Failure::new(Code::Unimplemented, Reason::NOT_BUILT_YET, message).with("method", method).into()
}

/// Logs `error` with its causes and shows the caller only the id to look for.
#[must_use]
pub fn internal(error: &(dyn Error + 'static), request_id: &str) -> Status {
    error!(request_id, error = %Chain(error), "a call failed inside");
    let message = format!(
        "something failed inside; the log of this daemon says more: look for request id {request_id}"
    );
    Failure::new(Code::Internal, Reason::INTERNAL, message).with("request_id", request_id).into()
}

/// The reason of a status of ours; `None` when it is somebody else's or has none.
#[must_use]
pub fn reason_of(status: &Status) -> Option<String> {
    let details = status.get_error_details();
    details.error_info().filter(|info| info.domain == DOMAIN).map(|info| info.reason.clone())
}

/// One entry of the metadata of a status of ours.
#[must_use]
pub fn metadata_of(status: &Status, key: &str) -> Option<String> {
    status.get_error_details().error_info()?.metadata.get(key).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_fits_its_format() {
        for reason in Reason::ALL {
            assert_eq!(Reason::named(reason.as_str()), *reason);
        }
    }

    #[test]
    fn a_failure_carries_all_its_details_once() {
        let status = Status::from(
            Failure::invalid("the job is not acceptable")
                .with("tier", "gold")
                .field("tier", "gold needs a rule")
                .field("prompt", "must not be empty")
                .precondition("GATE", "phase 3", "is shut")
                .retry_after(Duration::from_secs(3)),
        );
        let details = status.get_error_details();
        let info = details.error_info().expect("an ErrorInfo");
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("INVALID_REQUEST", "homelab"));
        assert_eq!(details.bad_request().expect("violations").field_violations.len(), 2);
        assert_eq!(details.precondition_failure().expect("violations").violations.len(), 1);
        let retry = details.retry_info().expect("a delay").retry_delay;
        assert_eq!(retry, Some(Duration::from_secs(3)));
        assert_eq!(metadata_of(&status, "tier").as_deref(), Some("gold"));
    }

    #[test]
    fn a_plain_failure_has_no_empty_details() {
        let details = fail(Code::NotFound, Reason::JOB_NOT_FOUND, "no job 7").get_error_details();
        assert!(details.bad_request().is_none());
        assert!(details.precondition_failure().is_none());
        assert!(details.retry_info().is_none());
    }

    #[test]
    fn somebody_elses_status_has_no_reason_of_ours() {
        assert_eq!(reason_of(&Status::not_found("x")), None);
        let mut details = ErrorDetails::new();
        details.set_error_info("NOT_FOUND", "example.org", std::collections::HashMap::new());
        let foreign = Status::with_error_details(Code::NotFound, "x", details);
        assert_eq!(reason_of(&foreign), None);
    }

    #[test]
    fn an_inner_error_shows_its_id_and_not_its_text() {
        let status = internal(&std::io::Error::other("secret path"), "id-7");
        assert_eq!(status.code(), Code::Internal);
        assert!(status.message().contains("id-7"));
        assert!(!status.message().contains("secret"));
        assert_eq!(metadata_of(&status, "request_id").as_deref(), Some("id-7"));
    }
}
