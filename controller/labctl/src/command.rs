//! The verbs, a file each noun.

pub mod ai;
pub mod audit;
pub mod backup;
pub mod ca;
pub mod docs;
pub mod doctor;
pub mod host;
pub mod init;
pub mod job;
pub mod login;
pub mod manual;
pub mod overview;
pub mod power;
pub mod recovery_kit;
pub mod runbook;
pub mod status;
