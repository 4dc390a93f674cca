//! The controller's gRPC services: thin adapters between the wire and the parts that do the work.

pub mod audit;
pub mod backup_schedule;
pub mod context;
pub mod enrolment;
pub mod fleet;
pub mod gold;
pub mod job;
pub mod power;
pub mod runbook;
pub mod site;
pub mod status;
pub mod unbuilt;
pub mod wire;
