//! The configuration of an OPNsense firewall.
//!
//! Two copies for two purposes. The whole file goes into the repository, which is
//! encrypted, and can be imported again as it is. A copy without secrets goes into a
//! Git working tree, where people see what changed; it is made fail-closed
//! ([`redact`]), and where it cannot be made the run still stores the whole file and
//! says why in a warning.

pub mod api;
pub mod config;
mod examine;
pub mod manifest;
pub mod publish;
pub mod redact;
#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;
pub mod xml;

use std::{io::Cursor, sync::Arc};

use async_trait::async_trait;
use homelab_common::{clock::Clock, error_chain::Chain};
use homelab_rpc::status::Reason;

use super::{Capture, Context, Source, SourceError, SourceFailure};
use crate::{
    failure,
    ids::RunId,
    manifest::{Contents, FILE_NAME as MANIFEST, FORMAT, Manifest},
    repository::{Incoming, SourceKind, StoredFile},
    stream::{Measured, Sha256, StreamError},
};
use api::{Api, ApiError};
pub use examine::{examine, next_steps};
use manifest::{Expected, Facts, NotAConfig, OpnsenseContents, Published};
use publish::{Outcome, Publication};
use redact::paths::Paths;
use xml::{Element, XmlError};

/// The whole configuration, in every snapshot.
pub const CONFIG_FILE: &str = "config.xml";

/// The smallest file that is taken for a configuration: a fresh installation has 5 kB.
const BYTES_MIN: usize = 1_000;

/// A firewall to back up.
#[derive(Debug)]
pub struct OpnsenseSource {
    /// How to ask it.
    pub api: Api,
    /// What its owner says that must be there.
    pub expected: Expected,
    /// Which values are secret.
    pub paths: Paths,
    /// Where the copy without secrets goes.
    pub publication: Option<Publication>,
    /// Tells the moment.
    pub clock: Arc<dyn Clock>,
}

#[async_trait]
impl Source for OpnsenseSource {
    fn kind(&self) -> SourceKind {
        SourceKind::Opnsense
    }

    async fn inspect(&self, _run: RunId) -> Result<Vec<String>, SourceError> {
        let (_, root, facts) = self.download().await?;
        let mut findings = vec![format!(
            "the configuration of {} would be stored: {} interfaces, {} rules",
            facts.host,
            facts.interfaces.len(),
            facts.counts.get("rules").copied().unwrap_or_default()
        )];
        findings.extend(self.expected.differences(&facts));
        if self.publication.is_some() {
            findings.push(match redact::redact(&root, &self.paths, "") {
                Ok(redacted) => format!("{} values would be masked in Git", redacted.masked),
                Err(refused) => refused.to_string(),
            });
        }
        Ok(findings)
    }

    async fn begin(&self, context: Context) -> Result<Capture, SourceError> {
        let taken_at = self.clock.now();
        let (bytes, contents, warnings) = tokio::select! {
            biased;
            () = context.cancel.cancelled() => return Err(OpnsenseError::Cancelled.into()),
            gathered = self.gather(&context) => gathered?,
        };
        let stored = StoredFile {
            name: CONFIG_FILE.to_owned(),
            bytes: bytes.len() as u64,
            sha256: Sha256::of(&bytes),
        };
        let manifest = Manifest {
            format: FORMAT,
            run: context.run,
            backup: context.backup,
            taken_at,
            files: vec![stored],
            warnings,
            contents: Contents::Opnsense(contents),
        };
        let described = manifest.to_bytes().map_err(OpnsenseError::Encode)?;
        let files = [(CONFIG_FILE, bytes), (MANIFEST, described)].map(|(name, bytes)| {
            let content = Box::new(Cursor::new(bytes));
            let (content, gauge) = Measured::new(content, context.cancel.clone());
            Incoming { name: name.to_owned(), content, gauge }
        });
        let mut gauges = files.each_ref().map(|file| file.gauge.clone());
        let completion = Box::pin(async move {
            for gauge in &mut gauges {
                gauge.finished().await.map_err(OpnsenseError::Stream)?;
            }
            Ok(manifest)
        });
        Ok(Capture { taken_at, files: files.into(), completion })
    }
}

impl OpnsenseSource {
    async fn download(&self) -> Result<(Vec<u8>, Element, Facts), OpnsenseError> {
        let bytes = self.api.download().await.map_err(OpnsenseError::Api)?;
        let (root, facts) = read(&bytes)?;
        Ok((bytes, root, facts))
    }

    async fn gather(
        &self,
        context: &Context,
    ) -> Result<(Vec<u8>, OpnsenseContents, Vec<String>), OpnsenseError> {
        let (bytes, root, facts) = self.download().await?;
        let mut warnings: Vec<String> = self.expected.differences(&facts);
        let (redacted, masked) = self.publish(context, &root, &facts, &mut warnings).await;
        let expected = self.expected.clone();
        let contents = OpnsenseContents { facts, expected, redacted, masked };
        Ok((bytes, contents, warnings))
    }

    /// Makes and commits the copy without secrets. What fails here is a warning: the
    /// whole file is worth storing in any case.
    async fn publish(
        &self,
        context: &Context,
        root: &Element,
        facts: &Facts,
        warnings: &mut Vec<String>,
    ) -> (Published, u64) {
        let Some(publication) = &self.publication else { return (Published::NotWanted, 0) };
        let redacted = match redact::redact(root, &self.paths, &context.key) {
            Ok(redacted) => redacted,
            Err(refused) => {
                warnings.push(refused.to_string());
                let paths = refused.suspects.into_iter().map(|suspect| suspect.path);
                return (Published::Refused { paths: paths.collect() }, 0);
            }
        };
        let revision = redact::revision(root, &self.paths, &facts.revision);
        let (run, host) = (context.run, &facts.host);
        let published = publication.publish(run, host, &redacted.document, &revision).await;
        let published = match published {
            Ok(Outcome::Committed(commit)) => Published::Committed { commit },
            Ok(Outcome::Unchanged(commit)) => Published::Unchanged { commit },
            Err(error) => {
                let reason = Chain(&error).to_string();
                warnings.push(format!("the redacted copy is not in Git: {reason}"));
                Published::Failed { reason }
            }
        };
        (published, redacted.masked)
    }
}

/// Reads a configuration and looks for what every one has.
///
/// # Errors
///
/// It is none.
pub(crate) fn read(bytes: &[u8]) -> Result<(Element, Facts), OpnsenseError> {
    if bytes.is_empty() {
        return Err(OpnsenseError::Empty);
    }
    let start: Vec<u8> = bytes.iter().take(512).map(u8::to_ascii_lowercase).collect();
    let start = String::from_utf8_lossy(&start);
    if start.contains("<!doctype html") || start.contains("<html") {
        return Err(OpnsenseError::WebPage);
    }
    let root = Element::parse(bytes).map_err(OpnsenseError::Xml)?;
    let facts = Facts::of(&root).map_err(OpnsenseError::Config)?;
    if bytes.len() < BYTES_MIN {
        return Err(OpnsenseError::TooSmall { bytes: bytes.len() });
    }
    Ok((root, facts))
}

/// Why a firewall could not be backed up.
#[derive(Debug, thiserror::Error)]
pub enum OpnsenseError {
    /// It did not give its configuration.
    #[error("could not download the configuration")]
    Api(#[source] ApiError),
    /// It gave nothing.
    #[error("the firewall answered with nothing; look at the privileges of the API key's user")]
    Empty,
    /// Something else answered.
    #[error("a web page came instead of a configuration; is it really the firewall's address?")]
    WebPage,
    /// It is no XML.
    #[error("what came is no configuration")]
    Xml(#[source] XmlError),
    /// It is another XML.
    #[error("what came is no configuration")]
    Config(#[source] NotAConfig),
    /// It is too small.
    #[error("the configuration has {bytes} bytes, fewer than any real one ({BYTES_MIN})")]
    TooSmall {
        /// Its size.
        bytes: usize,
    },
    /// It was not read to its end.
    #[error("the configuration was not stored completely")]
    Stream(#[source] StreamError),
    /// The manifest has no JSON form.
    #[error("could not write the manifest")]
    Encode(#[source] serde_json::Error),
    /// Somebody cancelled it.
    #[error("cancelled")]
    Cancelled,
}

impl SourceFailure for OpnsenseError {
    fn is_echo(&self) -> bool {
        matches!(
            self,
            Self::Cancelled | Self::Stream(StreamError::Abandoned | StreamError::Cancelled)
        )
    }

    fn reason(&self) -> (Reason, bool) {
        let retryable = match self {
            Self::Api(error) => error.is_retryable(),
            Self::Config(_) => false,
            _ => true,
        };
        (failure::SOURCE_FAILED, retryable)
    }
}
