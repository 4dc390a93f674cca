//! The dashboard: pages that are complete without scripts, kept alive by one stream of events.
//!
//! Sections are rendered here, once for all who watch, and put into the page by 100 lines of script
//! of our own: that is all that a library would be used for. Nothing is loaded from elsewhere.

mod assets;
pub mod backups;
pub mod board;
pub mod chat;
pub mod handler;
pub mod jobs;
pub mod moment;
pub mod page;
pub mod source;
pub mod view;
pub mod workers;
