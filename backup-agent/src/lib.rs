//! Backups that prove themselves: dump, repository, drill.

pub mod backup;
mod blocking;
pub mod drill;
pub mod ids;
pub mod journal;
pub mod manifest;
pub mod progress;
pub mod repository;
pub mod restore;
pub mod source;
pub mod stream;
pub mod verify;
