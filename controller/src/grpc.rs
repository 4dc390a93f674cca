//! The controller's gRPC services: thin adapters between the wire and the parts that do the work.

pub mod enrolment;
