//! The store and its transactions.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use async_trait::async_trait;

use crate::{
    error::StoreError,
    noun::{
        attestations::Attestations, audit::Audit, batches::Batches, certificates::Certificates,
        context::Context, gold::Gold, hosts::Hosts, jobs::Jobs, leadership::Leadership,
        power::PowerBook, requests::Requests, runbooks::Runbooks, runs::Runs, schedules::Schedules,
        sessions::Sessions, snapshots::Snapshots, tokens::Tokens,
    },
};

/// Something that remembers. Shared as `Arc<dyn Store>`.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync {
    /// Begins a transaction that may write. SQLite has one at a time; it waits
    /// for its turn, and answers [`StoreError::Busy`] after 5 s.
    async fn begin(&self) -> Result<Box<dyn Tx>, StoreError>;

    /// Begins a transaction that only reads, all of it as of one moment. It never
    /// waits for a writer, nor a writer for it. Writing in it fails.
    async fn read(&self) -> Result<Box<dyn Tx>, StoreError>;

    /// Asks the back end for a sign of life.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Waits for open transactions and closes the connections. Afterwards every
    /// call answers [`StoreError::Busy`].
    async fn close(&self);

    /// Puts a copy of everything, as of one moment, in the place of the file at `path`; a
    /// store can be opened from it. After an error, what was there before is still there.
    /// A server has means of its own, and is left alone.
    async fn copy_to(&self, path: &Path) -> Result<Copied, StoreError>;
}

/// What became of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// It is in place.
    Whole {
        /// Its size.
        bytes: u64,
    },
    /// The store lies in a server, which is backed up as such.
    Elsewhere,
}

/// One transaction. Dropped without [`Tx::commit`], it leaves nothing behind.
#[async_trait]
pub trait Tx: Send {
    /// Enrolment tokens.
    fn tokens(&mut self) -> Box<dyn Tokens + '_>;
    /// Certificates that were issued.
    fn certificates(&mut self) -> Box<dyn Certificates + '_>;
    /// What must be known of hosts after a restart.
    fn hosts(&mut self) -> Box<dyn Hosts + '_>;
    /// Who did what.
    fn audit(&mut self) -> Box<dyn Audit + '_>;
    /// When schedules fired and which are paused.
    fn schedules(&mut self) -> Box<dyn Schedules + '_>;
    /// Runs of backups and drills.
    fn runs(&mut self) -> Box<dyn Runs + '_>;
    /// The queue of AI jobs.
    fn jobs(&mut self) -> Box<dyn Jobs + '_>;
    /// Browsers that are logged in.
    fn sessions(&mut self) -> Box<dyn Sessions + '_>;
    /// Which controller acts.
    fn leadership(&mut self) -> Box<dyn Leadership + '_>;
    /// Answers to calls that may come twice.
    fn requests(&mut self) -> Box<dyn Requests + '_>;

    /// Snapshots that were seen, and what people let go of them.
    fn snapshots(&mut self) -> Box<dyn Snapshots + '_>;
    /// Power of hosts that are off until needed.
    fn power(&mut self) -> Box<dyn PowerBook + '_>;
    /// Signed statements.
    fn attestations(&mut self) -> Box<dyn Attestations + '_>;
    /// Requests that left the house, and what they cost.
    fn gold(&mut self) -> Box<dyn Gold + '_>;

    /// Documents that jobs may be given as context.
    fn context(&mut self) -> Box<dyn Context + '_>;

    /// Runbooks that were proposed.
    fn runbooks(&mut self) -> Box<dyn Runbooks + '_>;

    /// Files and batches of the gateway, and what keys have used.
    fn batches(&mut self) -> Box<dyn Batches + '_>;

    /// Keeps everything that was written. Once this has returned, it survives the
    /// death of the process and a power cut. After an error nobody knows whether
    /// it was kept; look again.
    async fn commit(self: Box<Self>) -> Result<(), StoreError>;

    /// Drops everything that was written, and waits until that is done.
    async fn rollback(self: Box<Self>) -> Result<(), StoreError>;
}

/// Where a store lies.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// An SQLite file, `sqlite:/var/lib/homelab-controller/store.db`.
    Sqlite(PathBuf),
    /// A PostgreSQL database, `postgres://user@host:port/name`. May hold a
    /// password, and never shows it.
    Postgres(String),
}

/// The text names no store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a store is `sqlite:` with an absolute path, or `postgres://user@host/database`")]
pub struct InvalidStoreUrl;

impl FromStr for StoreUrl {
    type Err = InvalidStoreUrl;

    fn from_str(text: &str) -> Result<Self, InvalidStoreUrl> {
        if let Some(path) = text.strip_prefix("sqlite:") {
            let path = PathBuf::from(path);
            return if path.is_absolute() { Ok(Self::Sqlite(path)) } else { Err(InvalidStoreUrl) };
        }
        let postgres = ["postgres://", "postgresql://"];
        if postgres.iter().any(|scheme| text.len() > scheme.len() && text.starts_with(scheme)) {
            return Ok(Self::Postgres(text.to_owned()));
        }
        Err(InvalidStoreUrl)
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(url) => {
                // What stands before the last @ may hold a password.
                let place = url.rsplit_once('@').map_or("***", |(_, place)| place);
                let place = place.split_once('?').map_or(place, |(place, _)| place);
                write!(f, "postgres://***@{place}")
            }
        }
    }
}

/// Opens a store and brings its schema up to date. A missing SQLite file is made
/// (its folder is not); a damaged one is [`StoreError::Corrupt`] and left alone.
pub async fn open(url: &StoreUrl) -> Result<Arc<dyn Store>, StoreError> {
    match url {
        StoreUrl::Sqlite(path) => crate::sqlite::open(path).await,
        StoreUrl::Postgres(url) => crate::postgres::open(url).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_never_shows_its_password() {
        let url: StoreUrl =
            "postgres://lab:hunter2@db:5432/homelab?password=hunter3".parse().unwrap();
        for shown in [url.to_string(), format!("{url:?}")] {
            assert!(!shown.contains("hunter"), "{shown}");
            assert!(shown.contains("db:5432/homelab"), "{shown}");
        }
    }

    #[test]
    fn a_relative_file_is_refused() {
        assert_eq!("sqlite:store.db".parse::<StoreUrl>(), Err(InvalidStoreUrl));
        assert!("sqlite:/var/lib/store.db".parse::<StoreUrl>().is_ok());
        assert_eq!("mysql://x".parse::<StoreUrl>(), Err(InvalidStoreUrl));
    }
}
