//! Money before text: nothing leaves without a reservation, and every reservation is settled.

use std::sync::Arc;

use homelab_common::{clock::Clock, error_chain::Chain, lifecycle::Tasks};
use homelab_domain::{
    gold::{Money, Outbound, Refusal},
    ids::JobId,
    site::Site,
};
use homelab_store::{
    AuditOutcome, GoldOutcome, NewAuditEntry, NewGoldCall, Reserved, Settlement, Store, StoreError,
};
use jiff::Timestamp;
use ring::digest::{SHA256, digest};
use tracing::warn;

use crate::ca::issue::hex;

/// The audit action of text that leaves.
pub const SENT: &str = "gold.send";

/// The audit action of text that was kept.
pub const KEPT: &str = "gold.keep";

/// Tries to write down what a request cost.
const SETTLE_TRIES_MAX: u32 = 5;

/// Pause between them.
const SETTLE_PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

/// A request that may leave and for which money is reserved. Only [`Ledger::reserve`] makes one, and
/// only for an [`Outbound`].
#[derive(Debug)]
pub struct Ticket {
    outbound: Outbound,
}

impl Ticket {
    /// What may leave.
    #[must_use]
    pub const fn outbound(&self) -> &Outbound {
        &self.outbound
    }
}

/// What a request has used, as its provider says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    /// Tokens that it read.
    pub prompt_tokens: u32,
    /// Tokens that it wrote.
    pub completion_tokens: u32,
}

/// Reserves and settles.
#[derive(Clone, Debug)]
pub struct Ledger {
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) tasks: Tasks,
}

/// Why there is no ticket.
#[derive(Debug, thiserror::Error)]
pub enum ReserveError {
    /// A budget has no room.
    #[error("{}", .0.because.message)]
    Short(Box<Refusal>),
    /// The same attempt has been let out before.
    #[error("this attempt has been sent out before, and what became of it is not known")]
    Repeated,
    /// The store failed.
    #[error("could not reserve what it may cost")]
    Store(#[from] StoreError),
}

impl Ledger {
    /// Reserves what a request may cost and writes down what leaves, in one transaction.
    ///
    /// # Errors
    /// No budget has room, the attempt had its chance, or the store failed: nothing may leave.
    pub async fn reserve(
        &self,
        site: &Site,
        job: JobId,
        attempt: u32,
        outbound: Outbound,
    ) -> Result<(Ticket, Open), ReserveError> {
        let now = self.clock.now();
        let call = new_call(&outbound, job, attempt, now);
        let gold = site.gold();
        let mut tx = self.store.begin().await?;
        let reserved = tx.gold().reserve(&call, &gold.budgets, site.time_zone()).await?;
        match reserved {
            Reserved::Made => {}
            Reserved::Repeated => return Err(ReserveError::Repeated),
            Reserved::Short(short) => {
                let refusal = Refusal::over_budget(&short, &gold.currency);
                tx.rollback().await?;
                self.keep(job, outbound.asker().to_string(), &refusal).await;
                return Err(ReserveError::Short(Box::new(refusal)));
            }
        }
        tx.audit().append(&sent(&call, &outbound, &gold.currency)).await?;
        tx.commit().await?;
        let reserved = call.reserved;
        let open = Open { ledger: self.clone(), job, attempt, reserved, is_settled: false };
        Ok((Ticket { outbound }, open))
    }

    /// Writes down that a job was kept in the house, and why.
    pub async fn keep(&self, job: JobId, actor: String, refusal: &Refusal) {
        let entry = NewAuditEntry {
            at: self.clock.now(),
            actor,
            action: KEPT.to_owned(),
            subject: format!("job/{job}"),
            outcome: AuditOutcome::Denied,
            detail: format!("{}: {}", refusal.because.reason, refusal.because.message),
        };
        let appended = async {
            let mut tx = self.store.begin().await?;
            tx.audit().append(&entry).await?;
            tx.commit().await
        };
        if let Err(error) = appended.await {
            warn!(%job, error = %Chain(&error), "could not write down that a job was kept in the house");
        }
    }

    /// Settles as lost what an earlier controller had under way when it ended.
    ///
    /// # Errors
    /// The store failed.
    pub async fn give_up_old(&self) -> Result<u64, StoreError> {
        let now = self.clock.now();
        let mut tx = self.store.begin().await?;
        let lost = tx.gold().give_up(now, now).await?;
        tx.commit().await?;
        Ok(lost)
    }

    async fn settle(&self, job: JobId, attempt: u32, settlement: Settlement) {
        let mut tries = 0;
        loop {
            tries += 1;
            let settled = async {
                let mut tx = self.store.begin().await?;
                tx.gold().settle(job, attempt, settlement).await?;
                tx.commit().await
            };
            match settled.await {
                Ok(()) => return,
                Err(error) if tries < SETTLE_TRIES_MAX => {
                    warn!(%job, error = %Chain(&error), "could not settle what a request cost; trying again");
                    tokio::time::sleep(SETTLE_PAUSE).await;
                }
                Err(error) => {
                    // It stays reserved, which is the most that it can have cost.
                    warn!(%job, error = %Chain(&error), "could not settle what a request cost");
                    return;
                }
            }
        }
    }
}

/// A reservation that must be settled. Dropped before, it counts as lost: what was under way may
/// cost as much as was reserved.
#[derive(Debug)]
pub struct Open {
    ledger: Ledger,
    job: JobId,
    attempt: u32,
    reserved: Money,
    is_settled: bool,
}

impl Open {
    /// It cost nothing: it never left, or was refused unread.
    pub async fn free(self) {
        self.finish(GoldOutcome::Free, Money::ZERO, None).await;
    }

    /// It cost what its tokens cost.
    pub async fn settle(self, cost: Money, used: Used) {
        if cost > self.reserved {
            warn!(job = %self.job, %cost, reserved = %self.reserved, "a provider used more than it was allowed");
        }
        self.finish(GoldOutcome::Settled, cost, Some(used)).await;
    }

    /// Nobody knows what it cost.
    pub async fn lost(self) {
        let reserved = self.reserved;
        self.finish(GoldOutcome::Lost, reserved, None).await;
    }

    async fn finish(mut self, outcome: GoldOutcome, cost: Money, used: Option<Used>) {
        let settlement = self.settlement(outcome, cost, used);
        // Spawned: the one who waits may be dropped in the middle of it.
        self.is_settled = true;
        let (ledger, job, attempt) = (self.ledger.clone(), self.job, self.attempt);
        let (done, settled) = tokio::sync::oneshot::channel();
        self.ledger.tasks.spawn(async move {
            ledger.settle(job, attempt, settlement).await;
            // Nobody may be waiting any more.
            let _told = done.send(());
        });
        // An error means that the task was stopped with the controller.
        let _stopped = settled.await;
    }

    fn settlement(&self, outcome: GoldOutcome, cost: Money, used: Option<Used>) -> Settlement {
        Settlement {
            at: self.ledger.clock.now(),
            outcome,
            cost,
            prompt_tokens: used.map(|used| used.prompt_tokens),
            completion_tokens: used.map(|used| used.completion_tokens),
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if !self.is_settled {
            let settlement = self.settlement(GoldOutcome::Lost, self.reserved, None);
            let (ledger, job, attempt) = (self.ledger.clone(), self.job, self.attempt);
            self.ledger.tasks.spawn(async move { ledger.settle(job, attempt, settlement).await });
        }
    }
}

fn new_call(outbound: &Outbound, job: JobId, attempt: u32, at: Timestamp) -> NewGoldCall {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, outbound.body()).as_ref());
    NewGoldCall {
        job,
        attempt,
        at,
        asker: outbound.asker().clone(),
        provider: outbound.provider().name.clone(),
        model: outbound.model().name.clone(),
        bytes: u64::try_from(outbound.body().len()).unwrap_or(u64::MAX),
        digest: hash,
        classes: outbound.verdict().classes(),
        rules: outbound.verdict().rules(),
        pseudonyms: u32::try_from(outbound.pseudonyms().len()).unwrap_or(u32::MAX),
        reserved: outbound.worst().cost,
    }
}

fn sent(call: &NewGoldCall, outbound: &Outbound, currency: &str) -> NewAuditEntry {
    let withheld = match outbound.withheld() {
        [] => String::new(),
        fields => format!("; withheld: {}", fields.join(", ")),
    };
    let detail = format!(
        "attempt {}: {} bytes to {} for {}, sha256 {}; found {}; {} pseudonyms; rules {}; at most {} {currency}{withheld}",
        call.attempt,
        call.bytes,
        outbound.provider().url,
        call.model,
        hex(&call.digest),
        call.classes,
        call.pseudonyms,
        call.rules,
        call.reserved,
    );
    NewAuditEntry {
        at: call.at,
        actor: call.asker.to_string(),
        action: SENT.to_owned(),
        subject: format!("job/{}", call.job),
        outcome: AuditOutcome::Allowed,
        detail,
    }
}
