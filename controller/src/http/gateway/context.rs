//! Documents of the house before a chat, and where they are from in its answer.
//!
//! Who may read the house's documents through the gateway stands with the key: without `context=` in
//! its line a key gets none.

use bytes::Bytes;
use homelab_domain::{
    context::Citation,
    job::{Job, JobRequest},
};
use homelab_store::Piece;
use http::{HeaderMap, HeaderName};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Gateway, ask,
    error::ApiError,
    key::{Key, Reads},
    outcome::sentence,
};
use crate::documents::attach::{AttachError, ContextWish};

/// For clients whose requests cannot be extended: `all`, or names of sources separated by commas.
const CONTEXT: HeaderName = HeaderName::from_static("x-homelab-context");

/// The field of ours in a request.
#[derive(Deserialize)]
pub(super) struct Extension {
    context: Option<Wanted>,
}

/// The ways to ask for context.
#[derive(Deserialize)]
#[serde(untagged)]
enum Wanted {
    Switch(bool),
    One(String),
    Many(Vec<String>),
    Wish {
        #[serde(default)]
        sources: Vec<String>,
        query: Option<String>,
        bytes_max: Option<u32>,
    },
}

impl Extension {
    /// What is to be put before the request, if anything.
    pub(super) fn wish(self) -> Option<ContextWish> {
        let of = |sources| ContextWish { sources, ..ContextWish::default() };
        match self.context? {
            Wanted::Switch(is_on) => is_on.then(ContextWish::default),
            Wanted::One(source) => Some(of(vec![source])),
            Wanted::Many(sources) => Some(of(sources)),
            Wanted::Wish { sources, query, bytes_max } => {
                Some(ContextWish { sources, query, bytes_max })
            }
        }
    }
}

/// What the headers ask for.
pub(super) fn of_headers(headers: &HeaderMap) -> Option<ContextWish> {
    let names = headers.get(&CONTEXT)?.to_str().ok()?;
    let names = names.split(',').map(str::trim).filter(|name| !name.is_empty());
    let sources: Vec<String> = names.map(str::to_owned).collect();
    match sources.as_slice() {
        [] => None,
        [all] if all == "all" => Some(ContextWish::default()),
        _ => Some(ContextWish { sources, ..ContextWish::default() }),
    }
}

/// Puts documents before a request, as far as its key may read them.
///
/// # Errors
/// The key may not, a source is not there, or the store failed.
pub(super) async fn attach(
    gateway: &Gateway,
    key: &Key,
    wish: Option<ContextWish>,
    request: JobRequest,
) -> Result<JobRequest, ApiError> {
    let Some(wish) = wish else { return Ok(request) };
    let wish = permitted(&key.reads, wish)?;
    gateway.documents.attach(request, &wish).await.map_err(|error| match error {
        AttachError::Store(error) => ask::store_failed(&error),
        error => ApiError::invalid(Some("homelab.context"), sentence(&error.to_string())),
    })
}

fn permitted(reads: &Reads, wish: ContextWish) -> Result<ContextWish, ApiError> {
    let may = match reads {
        Reads::All => return Ok(wish),
        Reads::Nothing => {
            return Err(ApiError::forbidden(
                "This key may not read documents of the house. Add `context=all` or `context=NAME` to its line in the keys file.",
            ));
        }
        Reads::Of(sources) => sources,
    };
    if wish.sources.is_empty() {
        return Ok(ContextWish { sources: may.clone(), ..wish });
    }
    match wish.sources.iter().find(|source| !may.contains(source)) {
        None => Ok(wish),
        Some(_) => Err(ApiError::forbidden(
            "This key may not read one of the sources. Add it to `context=` in the key's line in the keys file.",
        )),
    }
}

/// Our part of an answer to a job that was given passages.
pub(super) fn of_job(job: &Job) -> Option<Value> {
    let attached = job.spec().request.attached.as_deref()?;
    let citations: &[Citation] = &attached.citations;
    Some(json!({ "citations": citations }))
}

/// The chunk that ends an answer, with our part in it; none when it is another one.
pub(super) fn last_chunk(piece: &Piece, ours: &Value) -> Option<Bytes> {
    let mut chunk: Value = serde_json::from_slice(&piece.openai_chunk).ok()?;
    let ends = |choice: &Value| choice.get("finish_reason").is_some_and(|reason| !reason.is_null());
    let choices = chunk.get("choices").and_then(Value::as_array);
    if !choices.is_some_and(|choices| choices.iter().any(ends)) {
        return None;
    }
    chunk.as_object_mut()?.insert("homelab".to_owned(), ours.clone());
    Some(chunk.to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_reads_what_its_line_says_and_nothing_without_one() {
        let wish = |names: &[&str]| ContextWish {
            sources: names.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        };
        let some = Reads::Of(vec!["wiki".to_owned()]);
        assert_eq!(permitted(&Reads::Nothing, wish(&[])).expect_err("no").status(), 403);
        assert_eq!(permitted(&some, wish(&["homelab"])).expect_err("no").status(), 403);
        assert_eq!(permitted(&some, wish(&[])).expect("its own"), wish(&["wiki"]));
        assert_eq!(permitted(&Reads::All, wish(&[])).expect("all"), wish(&[]));
    }

    #[test]
    fn context_is_asked_for_in_the_body_or_by_a_header() {
        let of = |text: &str| serde_json::from_str::<Extension>(text).expect("readable").wish();
        assert_eq!(of("{}"), None);
        assert_eq!(of(r#"{"context":false}"#), None);
        assert_eq!(of(r#"{"context":true,"x":1}"#), Some(ContextWish::default()));
        assert_eq!(of(r#"{"context":"wiki"}"#).expect("some").sources, ["wiki"]);
        let whole = of(r#"{"context":{"query":"x99","bytes_max":100}}"#).expect("some");
        assert_eq!((whole.query.as_deref(), whole.bytes_max), (Some("x99"), Some(100)));
        let header = |value: &'static str| {
            let value = http::HeaderValue::from_static(value);
            of_headers(&HeaderMap::from_iter([(CONTEXT, value)]))
        };
        assert_eq!(header("all"), Some(ContextWish::default()));
        assert_eq!(header("wiki, homelab").expect("some").sources, ["wiki", "homelab"]);
        assert_eq!(header(""), None);
    }

    #[test]
    fn only_the_chunk_that_ends_an_answer_carries_citations() {
        let piece =
            |chunk: &str| Piece { openai_chunk: chunk.as_bytes().to_vec(), ..Default::default() };
        let ours = json!({ "citations": [] });
        let going = r#"{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}"#;
        assert_eq!(last_chunk(&piece(going), &ours), None);
        assert_eq!(last_chunk(&piece(r#"{"choices":[],"usage":{}}"#), &ours), None);
        let last = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
        let told: Value =
            serde_json::from_slice(&last_chunk(&piece(last), &ours).expect("last")).expect("JSON");
        assert_eq!(told["homelab"], ours);
    }
}
