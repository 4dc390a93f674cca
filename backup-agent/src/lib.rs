//! Backups that prove themselves: dump, repository, drill.
