//! The tier that leaves the house.
//!
//! To the queue a provider outside is one more worker ([`engines`]): it has models and slots, and
//! answers a chat. What it is given is decided here, from the stored job itself, at the last moment
//! before it leaves: [`homelab_domain::gold::permit()`] takes out what the rules keep here, the
//! [`ledger`] reserves what it may cost and writes down that it left, and only the ticket that both
//! agree on opens a connection ([`wire`]).

mod answer;
pub mod engines;
pub mod ledger;
mod outlook;
mod request;
mod said;
mod sse;
pub mod wire;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use homelab_common::{
    clock::Clock,
    error_chain::Chain,
    lifecycle::Tasks,
    secret::{Secret, Source},
};
use homelab_domain::{
    gold::{ChunkRestorer, Classifier, Outbound, Refusal, Wish, permit},
    ids::{HostName, JobId},
    job::{JobSpec, Record, RequestForm},
    reason::{Because, Failure, Reason},
    site::{Provider, Site},
};
use homelab_proto::inference::v1::ChatCompleteRequest;
use homelab_store::{Store, StoreError};
use jiff::Timestamp;
use tokio::sync::watch;
use tracing::{info, warn};

pub use outlook::Trial;

use self::{
    answer::{Answer, failed, failure},
    ledger::{Ledger, Open, ReserveError, Ticket},
    wire::{Connector, Exchange, WireError},
};
use crate::job::engines::Pieces;

/// How long a key that could not be loaded is not looked for again.
const KEY_PAUSE: Duration = Duration::from_secs(10);

/// Longest wait that a provider may ask for before the attempt counts as failed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(15);

/// Largest request that may leave the house, in bytes: more text than fits the context of a model, and
/// some pictures. To read one for what it gives away takes a core for a moment.
pub const LEAVING_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What the tier is built from.
#[derive(Clone, Debug)]
pub struct Parts {
    /// What is remembered.
    pub store: Arc<dyn Store>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Where settlements are spawned.
    pub tasks: Tasks,
    /// What the site file says now.
    pub site: watch::Receiver<Arc<Site>>,
    /// The way out.
    pub connector: Arc<dyn Connector>,
}

/// The tier that leaves the house. Clones are the same.
#[derive(Clone)]
pub struct Gold(Arc<Inner>);

struct Inner {
    parts: Parts,
    ledger: Ledger,
    view: Mutex<Option<View>>,
}

/// What follows from the site file, kept until that changes.
#[derive(Clone)]
struct View {
    site: Arc<Site>,
    classifier: Arc<Classifier>,
    /// By provider: why its key cannot be loaded.
    keyless: Arc<HashMap<String, String>>,
    looked_at: Timestamp,
}

impl fmt::Debug for Gold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gold").finish_non_exhaustive()
    }
}

impl Gold {
    /// A tier that has sent nothing yet.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts { store, clock, tasks, .. } = parts.clone();
        let ledger = Ledger { store, clock, tasks };
        Self(Arc::new(Inner { parts, ledger, view: Mutex::default() }))
    }

    /// Settles what an earlier controller left open. Call it before jobs run.
    ///
    /// # Errors
    /// The store failed.
    pub async fn recover(&self) -> Result<(), StoreError> {
        let lost = self.0.ledger.give_up_old().await?;
        if lost > 0 {
            warn!(
                lost,
                "requests outside were cut off; each counts as the most that it could cost"
            );
        }
        Ok(())
    }

    /// Why a job may not leave the house, from its own text and the rules of now.
    pub async fn objection(&self, spec: &JobSpec) -> Option<Because> {
        self.outbound(spec).await.err().map(|refusal| refusal.because)
    }

    /// Has a provider answer an attempt at a job. What goes wrong comes as the last message.
    pub async fn chat(&self, provider: &HostName, request: &ChatCompleteRequest) -> Pieces {
        match Box::pin(self.try_chat(provider, request)).await {
            Ok(pieces) => pieces,
            Err(why) => stream::iter([Ok(failed(why))]).boxed(),
        }
    }

    async fn try_chat(
        &self,
        provider: &HostName,
        request: &ChatCompleteRequest,
    ) -> Result<Pieces, Failure> {
        let spec = self.job(provider, request).await?;
        let outbound = match self.outbound(&spec).await {
            Ok(outbound) => outbound,
            Err(refusal) => {
                self.0.ledger.keep(spec.id, spec.submitted_by.clone(), &refusal).await;
                return Err(kept(refusal));
            }
        };
        if outbound.provider().name.as_str() != provider.as_str() {
            let message = format!("{provider} does not offer {} any more", spec.model);
            return Err(failure("MODEL_NOT_FOUND", message, true));
        }
        let key = load_key(outbound.provider()).map_err(|why| {
            // Looked for anew, so that the job waits for the key and not for another attempt.
            *self.0.view.lock().unwrap_or_else(PoisonError::into_inner) = None;
            failure("PROVIDER_UNREACHABLE", why, true)
        })?;
        let site = self.view().site;
        let reserved = self.0.ledger.reserve(&site, spec.id, request.attempt, outbound).await;
        let (ticket, open) = reserved.map_err(unreserved)?;
        self.send(ticket, open, &key, &spec).await
    }

    async fn send(
        &self,
        ticket: Ticket,
        open: Open,
        key: &Secret<String>,
        spec: &JobSpec,
    ) -> Result<Pieces, Failure> {
        let name: Arc<str> = ticket.outbound().provider().name.as_str().into();
        let bytes = ticket.outbound().body().len();
        info!(job = %spec.id, provider = %name, bytes, "a job leaves the house by its rules");
        let exchange = match Exchange::start(self.0.parts.connector.as_ref(), &ticket, key).await {
            Ok(exchange) => exchange,
            Err(error) => {
                if error.is_free() {
                    open.free().await
                } else {
                    open.lost().await
                }
                return Err(told(&name, &error, ticket.outbound(), spec.record).await);
            }
        };
        if !answer::is_stream(&exchange) {
            open.lost().await;
            let message = format!("{name} answered with something else than a stream of events");
            return Err(failure("PROVIDER_REFUSED", message, false));
        }
        let outbound = ticket.outbound();
        let restorer = ChunkRestorer::new(Arc::clone(outbound.pseudonyms()));
        let price = outbound.model().price;
        let form = spec.request.form;
        let record = spec.record;
        Ok(Answer { exchange, open, restorer, form, price, record, provider: name }.pieces())
    }

    /// The one gate, asked about a job on a thread of its own: text is read at some megabytes a second.
    async fn outbound(&self, spec: &JobSpec) -> Result<Outbound, Refusal> {
        let bytes = spec.request.bytes.len();
        if bytes > LEAVING_BYTES_MAX {
            return Err(refusal(format!(
                "its request has {bytes} bytes, and at most {LEAVING_BYTES_MAX} (4 MiB) may leave the \
                 house at a time; shorten it, or ask for silver or bronze"
            )));
        }
        let (gold, spec) = (self.clone(), spec.clone());
        let read = self.0.parts.tasks.blocking(move || gold.read(&spec)).await;
        // The controller stops, or what reads it broke: then it stays.
        read.unwrap_or_else(|_| {
            Err(refusal("what its request gives away could not be found out".to_owned()))
        })
    }

    fn read(&self, spec: &JobSpec) -> Result<Outbound, Refusal> {
        let view = self.view();
        let request = request::openai(&spec.request).ok_or_else(|| {
            let message = match spec.request.form {
                RequestForm::OpenaiCompletion => {
                    "only chats are looked through for what must stay here; ask for it as a chat, or of silver or bronze"
                }
                RequestForm::Chat | RequestForm::OpenaiChat => {
                    "its request cannot be read, so nobody can say what it gives away"
                }
            };
            refusal(message.to_owned())
        })?;
        let wish = Wish {
            tier: spec.tier,
            submitted_by: &spec.submitted_by,
            tokens_max: spec.tokens_max,
            tags: &spec.terms.tags,
            request: &request,
            attached: spec.request.attached.as_deref(),
            seed: request::seed(spec),
        };
        permit(&view.site, &view.classifier, &spec.model, wish)
    }

    /// The job as it is stored, which must have been given to this provider.
    async fn job(
        &self,
        provider: &HostName,
        request: &ChatCompleteRequest,
    ) -> Result<JobSpec, Failure> {
        let over =
            || failure("LEASE_EXPIRED", format!("{provider} does not have this attempt"), false);
        let id: JobId = request.job_id.parse().map_err(|_| over())?;
        let job = async { self.0.parts.store.read().await?.jobs().get(id).await };
        let job = job.await.map_err(|error| {
            let message = format!("the job could not be read: {}", Chain(&error));
            failure("STORE_BUSY", message, true)
        })?;
        let job = job.ok_or_else(over)?;
        let lease = job.state().lease().ok_or_else(over)?;
        if lease.worker != *provider || lease.attempt != request.attempt {
            return Err(over());
        }
        Ok(job.spec().clone())
    }

    fn view(&self) -> View {
        let site = Arc::clone(&self.0.parts.site.borrow());
        let now = self.0.parts.clock.now();
        let mut view = self.0.view.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = view.as_mut().filter(|view| Arc::ptr_eq(&view.site, &site)) {
            let due = kept.looked_at.checked_add(KEY_PAUSE).unwrap_or(Timestamp::MAX) <= now;
            if due && !kept.keyless.is_empty() {
                kept.keyless = Arc::new(keyless(&site));
                kept.looked_at = now;
            }
            return kept.clone();
        }
        let classifier = Arc::new(Classifier::of(&site));
        let keyless = Arc::new(keyless(&site));
        let fresh = View { site, classifier, keyless, looked_at: now };
        *view = Some(fresh.clone());
        fresh
    }
}

fn keyless(site: &Site) -> HashMap<String, String> {
    let why = |provider: &Provider| Some((provider.name.to_string(), load_key(provider).err()?));
    site.gold().providers.iter().filter_map(why).collect()
}

fn load_key(provider: &Provider) -> Result<Secret<String>, String> {
    let source: Source =
        provider.key.parse().map_err(|_| format!("the key of {} is not named", provider.name))?;
    let key = source.load().map_err(|error| {
        format!("the key of {} could not be loaded: {}", provider.name, Chain(&error))
    })?;
    Ok(key.map(|key| key.trim().to_owned()))
}

fn refusal(message: String) -> Refusal {
    Refusal { because: Because::new(Reason::GOLD_REFUSED, message), found: Vec::new() }
}

fn kept(refusal: Refusal) -> Failure {
    Failure { reason: refusal.because.reason, message: refusal.because.message, retryable: false }
}

fn unreserved(error: ReserveError) -> Failure {
    match error {
        ReserveError::Short(refusal) => kept(*refusal),
        error @ ReserveError::Repeated => failure("LEASE_EXPIRED", error.to_string(), true),
        error @ ReserveError::Store(_) => failure("STORE_BUSY", Chain(&error).to_string(), true),
    }
}

/// What went wrong, for the person who asked. What the provider says is passed on, freed of pseudonyms,
/// as far as the job may leave text behind.
async fn told(provider: &str, error: &WireError, outbound: &Outbound, record: Record) -> Failure {
    let WireError::Refused { status, retry_after, body } = error else {
        let is_lasting =
            matches!(error, WireError::Roots { .. } | WireError::Tls(_) | WireError::Request(_));
        let message = format!("{provider} gave no answer: {}", Chain(error));
        return failure("PROVIDER_UNREACHABLE", message, !is_lasting);
    };
    let said = said::said(&restored(body, outbound), record);
    match status.as_u16() {
        401 | 403 => {
            let message = format!(
                "{provider} does not accept the key, or not for this model ({status}){said}"
            );
            failure("PROVIDER_REFUSED", message, false)
        }
        402 => failure(
            "PROVIDER_REFUSED",
            format!("{provider} wants to be paid ({status}){said}"),
            false,
        ),
        408 | 409 | 425 | 429 => {
            tokio::time::sleep(retry_after.unwrap_or_default().min(RETRY_AFTER_MAX)).await;
            failure("PROVIDER_UNREACHABLE", format!("{provider} is busy ({status}){said}"), true)
        }
        300..400 => {
            let message = format!(
                "{provider} points elsewhere ({status}); text goes to its own host only, so set `url` to where it is now"
            );
            failure("PROVIDER_REFUSED", message, false)
        }
        400..500 => failure(
            "ENGINE_REFUSED",
            format!("{provider} refused the request ({status}){said}"),
            false,
        ),
        _ => failure("PROVIDER_UNREACHABLE", format!("{provider} failed ({status}){said}"), true),
    }
}

fn restored(body: &[u8], outbound: &Outbound) -> serde_json::Value {
    let mut body = serde_json::from_slice(body).unwrap_or_default();
    ChunkRestorer::new(Arc::clone(outbound.pseudonyms())).restore(&mut body);
    body
}

#[cfg(test)]
mod tests;
