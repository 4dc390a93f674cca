//! Plain trees of files.
//!
//! One archive per backup, whatever the number of roots; see [`crate::tree`] for what
//! it keeps and what not. A tree that is written to while it is read has no single
//! moment: files are whole each by itself. Where they belong together (databases,
//! mailboxes), they need a source that knows them, or a ZFS snapshot.

pub mod config;
pub mod manifest;
pub(crate) mod restore;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use homelab_common::clock::Clock;
use homelab_rpc::status::Reason;
use tokio::sync::oneshot;

use super::{Capture, Context, Source, SourceError, SourceFailure};
use crate::{
    failure::SOURCE_FAILED,
    ids::RunId,
    manifest::{Contents, FILE_NAME as MANIFEST, FORMAT, Manifest, WARNINGS_MAX},
    repository::{Incoming, SourceKind, StoredFile},
    stream::{Gauge, Later, Measured, StreamError},
    tree::{Changing, Packed, Root, Rules, pack},
};
use manifest::FilesContents;

/// The archive, in every snapshot of a tree.
pub const ARCHIVE_FILE: &str = "files.tar";

/// Trees to back up.
#[derive(Debug)]
pub struct FilesSource {
    /// Folders and files.
    pub roots: Vec<PathBuf>,
    /// What of them.
    pub rules: Rules,
    /// What a file means that changes whenever it is read.
    pub changing: Changing,
    /// Tells when it began.
    pub clock: Arc<dyn Clock>,
}

/// Why a tree could not be read, or not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A root is not there.
    #[error("`{}` cannot be backed up", root.display())]
    Root {
        /// The root.
        root: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The archive did not come to its end.
    #[error("could not read all of the tree")]
    Stream(#[source] StreamError),
    /// A restored tree could not be looked at.
    #[error("could not compare the restored tree")]
    Compare(#[from] crate::tree::CompareError),
    /// An archive could not be extracted, for want of room or rights.
    #[error("could not extract the archive")]
    Extract(#[from] crate::tree::ExtractError),
    /// The manifest has no JSON form.
    #[error("could not write the manifest")]
    Encode(#[source] serde_json::Error),
}

impl SourceFailure for FilesError {
    fn is_echo(&self) -> bool {
        matches!(self, Self::Stream(StreamError::Abandoned | StreamError::Cancelled))
    }

    fn reason(&self) -> (Reason, bool) {
        (SOURCE_FAILED, true)
    }
}

#[async_trait]
impl Source for FilesSource {
    fn kind(&self) -> SourceKind {
        SourceKind::Files
    }

    async fn inspect(&self, _run: RunId) -> Result<Vec<String>, SourceError> {
        let mut findings = Vec::new();
        for root in &self.roots {
            let found = root.symlink_metadata();
            let found = found.map_err(|source| FilesError::Root { root: root.clone(), source })?;
            let what = if found.is_dir() { "folder" } else { "file" };
            findings.push(format!("{what} `{}` would be archived", root.display()));
        }
        Ok(findings)
    }

    async fn begin(&self, context: Context) -> Result<Capture, SourceError> {
        let taken_at = self.clock.now();
        let roots = self.roots.iter().map(|root| Root::under_own_path(root)).collect();
        let (tree, packed) = pack(roots, self.rules.clone(), self.changing);
        let (content, gauge) = Measured::new(Box::new(tree), context.cancel.clone());
        let tree = Incoming { name: ARCHIVE_FILE.to_owned(), content, gauge: gauge.clone() };
        let (later, promise) = Later::new();
        let (content, manifest_gauge) = Measured::new(Box::new(later), context.cancel.clone());
        let manifest = Incoming { name: MANIFEST.to_owned(), content, gauge: manifest_gauge };
        let (roots, exclude) = (self.roots.clone(), self.rules.exclude.patterns().to_vec());
        let completion = Box::pin(async move {
            let (file, mut packed) = complete(gauge, packed).await.map_err(FilesError::Stream)?;
            let mut warnings = std::mem::take(&mut packed.warnings);
            warnings.truncate(WARNINGS_MAX);
            let manifest = Manifest {
                format: FORMAT,
                run: context.run,
                backup: context.backup,
                taken_at,
                files: vec![file],
                warnings,
                contents: Contents::Files(FilesContents::new(&roots, &exclude, packed)),
            };
            promise.keep(manifest.to_bytes().map_err(FilesError::Encode)?);
            Ok(manifest)
        });
        Ok(Capture { taken_at, files: vec![tree, manifest], completion })
    }
}

/// Waits until an archive was read to its end; gives what flowed and what is in it.
async fn complete(
    mut gauge: Gauge,
    packed: oneshot::Receiver<Packed>,
) -> Result<(StoredFile, Packed), StreamError> {
    let receipt = gauge.finished().await?;
    // It is there before the end of the stream is.
    let packed = packed.await.map_err(|_| StreamError::Abandoned)?;
    let file =
        StoredFile { name: ARCHIVE_FILE.to_owned(), bytes: receipt.bytes, sha256: receipt.sha256 };
    Ok((file, packed))
}
