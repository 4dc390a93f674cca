//! Short calls that need no row in the queue: vectors and the order of texts.
//!
//! They take a slot as jobs do, wait for one for a bounded time, and are asked again by their caller when
//! anything goes wrong: both give the same answer however often they are asked. Nothing is woken for them.

use std::{fmt, time::Duration};

use bytes::Bytes;
use homelab_domain::{
    ids::{HostName, ModelName},
    placement::resolve,
    reason::{Because, Reason},
    site::Tier,
};
use homelab_proto::inference::v1::{EmbedRequest, ModelState, RerankRequest, Usage};
use homelab_rpc::status::reason_of;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::Status;

use super::{
    Jobs,
    engines::{Contact, WorkerSeen},
    plan,
    slots::Slot,
    submission::Refused,
};

/// How often it is looked for a free slot: most calls end within this.
const LOOK: Duration = Duration::from_millis(20);

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errand {
    /// Vectors of texts.
    Embed,
    /// The order of texts.
    Rerank,
}

/// A short call. Its text never shows in debug output.
pub struct ShortCall {
    /// What is asked.
    pub errand: Errand,
    /// Model.
    pub model: String,
    /// Tiers that the caller may use.
    pub tiers_allowed: Vec<Tier>,
    /// The request as JSON, as it came.
    pub request: Bytes,
    /// How long it may wait for its turn and take.
    pub within: Duration,
}

impl fmt::Debug for ShortCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ShortCall")
            .field("errand", &self.errand)
            .field("model", &self.model)
            .field("bytes", &self.request.len())
            .finish_non_exhaustive()
    }
}

/// What came of it. It never shows in debug output either.
pub struct Fetched {
    /// The engine's own answer as JSON.
    pub answer: Bytes,
    /// What it cost, when the engine said so.
    pub usage: Option<Usage>,
}

impl fmt::Debug for Fetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fetched({} bytes)", self.answer.len())
    }
}

/// Why nothing came of it.
#[derive(Debug, thiserror::Error)]
pub enum ErrandError {
    /// It can have no place.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Nobody who has the model is there.
    #[error("{}", .0.message)]
    Away(Because),
    /// Every slot was in use for as long as it may wait.
    #[error("every slot for {model} was in use for {} s", within.as_secs())]
    Busy {
        /// Model.
        model: ModelName,
        /// So long.
        within: Duration,
    },
    /// The worker refused or failed.
    #[error("{worker} did not do it")]
    Worker {
        /// Which.
        worker: HostName,
        /// What it said.
        #[source]
        source: Box<Status>,
    },
}

impl Jobs {
    /// Runs a short call.
    ///
    /// Cancel safety: dropping it frees the slot.
    ///
    /// # Errors
    /// See [`ErrandError`].
    pub async fn fetch(&self, call: ShortCall) -> Result<Fetched, ErrandError> {
        let until = Instant::now() + call.within;
        let (tier, model) = self.place_of(&call)?;
        let busy = || ErrandError::Busy { model: model.clone(), within: call.within };
        loop {
            let slot = match timeout_at(until, self.free_slot(tier, &model)).await {
                Ok(slot) => slot?,
                Err(_) => return Err(busy()),
            };
            let asked = timeout_at(until, self.ask(&slot, &model, &call)).await;
            match asked {
                Ok(Err(status)) if is_busy(&status) => sleep(LOOK).await,
                Ok(Err(status)) => {
                    let worker = slot.worker().clone();
                    return Err(ErrandError::Worker { worker, source: Box::new(status) });
                }
                Ok(Ok(fetched)) => return Ok(fetched),
                Err(_) => return Err(busy()),
            }
        }
    }

    fn place_of(&self, call: &ShortCall) -> Result<(Tier, ModelName), Refused> {
        let no_place = |because| Refused::NoPlace { model: call.model.clone(), because };
        let name = ModelName::try_new(&call.model)
            .map_err(|error| no_place(Because::new(Reason::MODEL_NOT_FOUND, error.to_string())))?;
        let resolved = resolve(&self.site(), Some(&name), None).map_err(no_place)?;
        if !call.tiers_allowed.contains(&resolved.tier) {
            return Err(Refused::TierNotAllowed(resolved.tier));
        }
        Ok((resolved.tier, resolved.model))
    }

    async fn free_slot(&self, tier: Tier, model: &ModelName) -> Result<Slot, ErrandError> {
        loop {
            let workers = self.workers();
            let able: Vec<_> =
                workers.iter().filter(|seen| seen.tier == tier && can(seen, model)).collect();
            if able.is_empty() {
                return Err(ErrandError::Away(away(&workers, tier, model)));
            }
            let free = able
                .iter()
                .find_map(|seen| self.0.slots.take(&seen.host, model, plan::slots_of(seen, model)));
            match free {
                Some(slot) => return Ok(slot),
                None => sleep(LOOK).await,
            }
        }
    }

    async fn ask(
        &self,
        slot: &Slot,
        model: &ModelName,
        call: &ShortCall,
    ) -> Result<Fetched, Status> {
        let engines = &self.0.parts.engines;
        let (model, openai_request) = (model.to_string(), call.request.clone());
        match call.errand {
            Errand::Embed => {
                let request = EmbedRequest { model, openai_request, ..Default::default() };
                let answer = engines.embed(slot.worker(), request).await?;
                Ok(Fetched { answer: answer.openai_response, usage: answer.usage })
            }
            Errand::Rerank => {
                let request = RerankRequest { model, openai_request, ..Default::default() };
                let answer = engines.rerank(slot.worker(), request).await?;
                Ok(Fetched { answer: answer.openai_response, usage: answer.usage })
            }
        }
    }
}

fn can(seen: &WorkerSeen, model: &ModelName) -> bool {
    let drains = seen.drained || seen.worker.as_ref().is_some_and(|worker| worker.draining);
    seen.contact == Contact::Connected
        && !drains
        && seen.models().any(|row| row.name == model.as_str() && row.state() != ModelState::Failed)
}

fn away(workers: &[WorkerSeen], tier: Tier, model: &ModelName) -> Because {
    let sleeps = workers.iter().any(|seen| seen.tier == tier && seen.contact == Contact::Asleep);
    if sleeps {
        let words = format!("the {tier} host that has {model} sleeps, and is woken by a chat only");
        return Because::new(Reason::WORKER_ASLEEP, words);
    }
    Because::new(Reason::WORKER_UNREACHABLE, format!("no {tier} host that has {model} answers"))
}

fn is_busy(status: &Status) -> bool {
    matches!(reason_of(status).as_deref(), Some("SLOTS_BUSY" | "ENGINE_NOT_READY"))
}
