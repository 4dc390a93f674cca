//! Puts passages before a job.

use homelab_domain::{
    context::{
        Attached, BYTES_MAX, Budget, Candidate, Citation, Leaves, Query, question, quoted, select,
        spliced,
    },
    ids::SourceName,
    job::{JobRequest, RequestForm},
};
use homelab_proto::inference::v1::{ChatCompleteRequest, ChatMessage, ChatRole};
use homelab_store::StoreError;
use prost::Message as _;
use serde_json::Value;

use super::{Documents, NoSource, sha256};

/// Passages that the store is asked for, of which the best are taken.
const CANDIDATES_MAX: u32 = 100;

/// What a job is to be given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContextWish {
    /// Sources; empty takes all.
    pub sources: Vec<String>,
    /// What to look for; none takes what the job asks.
    pub query: Option<String>,
    /// Bytes of passages at most; none takes what is usual.
    pub bytes_max: Option<u32>,
}

/// Why a job is given nothing.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// A source is not there.
    #[error(transparent)]
    NoSource(#[from] NoSource),
    /// More was asked for than there may be.
    #[error("at most {BYTES_MAX} bytes of passages, and at least 1")]
    Bytes,
    /// The request has no messages to put anything before.
    #[error("the request is no chat, so nothing can be put before it")]
    NotAChat,
    /// The store failed.
    #[error("could not search the documents")]
    Store(#[from] StoreError),
}

/// What was found for a text.
#[derive(Clone, Debug)]
pub struct Found {
    /// What was looked for; none when the text says nothing.
    pub query: Option<Query>,
    /// The best passages, with their numbers.
    pub passages: Vec<(Citation, Candidate)>,
}

impl Documents {
    /// Finds what a job with this text would be given.
    ///
    /// # Errors
    /// A source is not there, the bound is none, or the store failed.
    pub async fn search(&self, text: &str, wish: &ContextWish) -> Result<Found, AttachError> {
        let sources = self.chosen(&wish.sources)?;
        let bytes = match wish.bytes_max {
            None => Budget::default().bytes,
            Some(bytes) if (1..=BYTES_MAX).contains(&bytes) => bytes as usize,
            Some(_) => return Err(AttachError::Bytes),
        };
        let Some(query) = Query::of(wish.query.as_deref().unwrap_or(text)) else {
            return Ok(Found { query: None, passages: Vec::new() });
        };
        let mut tx = self.0.parts.store.read().await?;
        let found = tx.context().search(&query, &sources, CANDIDATES_MAX).await?;
        tx.rollback().await?;
        let taken = select(&query, found, Budget { bytes });
        let passages = (1..)
            .zip(taken)
            .map(|(number, one)| (Citation::of(number, &one.source, &one.passage), one))
            .collect();
        Ok(Found { query: Some(query), passages })
    }

    /// Puts what fits a request before it. A request for which nothing is found stays as it is.
    ///
    /// # Errors
    /// As [`Documents::search`]; besides, it is no chat.
    pub async fn attach(
        &self,
        request: JobRequest,
        wish: &ContextWish,
    ) -> Result<JobRequest, AttachError> {
        let asks = asks(&request).ok_or(AttachError::NotAChat)?;
        let Found { passages, .. } = self.search(&asks, wish).await?;
        if passages.is_empty() {
            return Ok(request);
        }
        let pairs: Vec<_> =
            passages.iter().map(|(citation, one)| (citation.clone(), &one.passage)).collect();
        let text = quoted(&pairs, &sha256);
        let bytes = with(&request, &text).ok_or(AttachError::NotAChat)?;
        let attached = Attached {
            leaves: self.strictest(&passages),
            citations: passages.into_iter().map(|(citation, _)| citation).collect(),
            asked: asked(&request),
        };
        Ok(JobRequest { form: request.form, bytes, attached: Some(Box::new(attached)) })
    }

    fn chosen(&self, names: &[String]) -> Result<Vec<SourceName>, NoSource> {
        if names.is_empty() {
            return Ok(self.names());
        }
        names.iter().map(|name| self.named(name)).collect()
    }

    /// What is not in the site file stays.
    fn strictest(&self, passages: &[(Citation, Candidate)]) -> Leaves {
        let site = self.site();
        let leaves = |one: &Candidate| {
            let source = site.context().iter().find(|source| source.name == one.source);
            source.map_or(Leaves::Never, |source| source.leaves)
        };
        passages.iter().map(|(_, one)| leaves(one)).min().unwrap_or(Leaves::Never)
    }
}

/// The digest by which a call that comes again is known: of the request as its caller sent it.
#[must_use]
pub fn asked(request: &JobRequest) -> [u8; 32] {
    match &request.attached {
        Some(attached) => attached.asked,
        None => sha256(&[&request.bytes]),
    }
}

/// What a request asks.
fn asks(request: &JobRequest) -> Option<String> {
    match request.form {
        RequestForm::OpenaiCompletion => None,
        RequestForm::OpenaiChat => {
            let value: Value = serde_json::from_slice(&request.bytes).ok()?;
            value.get("messages")?;
            Some(question(&value))
        }
        RequestForm::Chat => {
            let chat = ChatCompleteRequest::decode(request.bytes.as_slice()).ok()?;
            let is_user = |message: &&ChatMessage| {
                matches!(message.role(), ChatRole::User | ChatRole::Unspecified)
            };
            let last = chat.messages.iter().rev().find(is_user);
            Some(last.map(|message| message.content.clone()).unwrap_or_default())
        }
    }
}

/// The request with a text before everything else that is said in it.
fn with(request: &JobRequest, text: &str) -> Option<Vec<u8>> {
    match request.form {
        RequestForm::OpenaiCompletion => None,
        RequestForm::OpenaiChat => spliced(&request.bytes, text).ok(),
        RequestForm::Chat => {
            let mut chat = ChatCompleteRequest::decode(request.bytes.as_slice()).ok()?;
            match chat.messages.first_mut() {
                Some(first) if first.role() == ChatRole::System => {
                    first.content = format!("{}\n\n{text}", first.content);
                }
                _ => {
                    let mut own = ChatMessage { content: text.to_owned(), ..Default::default() };
                    own.set_role(ChatRole::System);
                    chat.messages.insert(0, own);
                }
            }
            Some(chat.encode_to_vec())
        }
    }
}
