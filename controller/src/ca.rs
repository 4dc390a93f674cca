//! The certificate authority: identities, enrolment, revocation.
