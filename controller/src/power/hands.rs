//! What power needs of hosts: a seam, so that everything above is tried out without one.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use homelab_domain::{
    fleet::HostState,
    ids::HostName,
    reason::Because,
    site::{Host, Site, SleepMethod},
};
use homelab_proto::inference::v1::Worker;
use jiff::Timestamp;

/// What is seen of a host now, from memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// How it stands.
    pub state: HostState,
    /// Whether its agent answers.
    pub agent: bool,
    /// Whether its worker answers.
    pub worker: bool,
    /// What its worker last said; none when it never did.
    pub snapshot: Option<Arc<Worker>>,
    /// Whether a person takes work off it.
    pub drained: bool,
}

/// What its own agent says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// What speaks against sleeping.
    pub vetoes: Vec<Because>,
    /// Whether a card is set to wake it; none when nobody knows.
    pub wake_armed: Option<bool>,
}

/// One order to sleep.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SleepOrder {
    /// Id of the call.
    pub request_id: String,
    /// Number of the attempt.
    pub fence: u64,
    /// Off, or suspended.
    pub method: SleepMethod,
}

/// An order that a host carried out, by its agent's account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Obeyed {
    /// Its fence.
    pub fence: u64,
    /// When, by the host's clock.
    pub at: Timestamp,
}

/// Reaches hosts. Every error is a sentence for people.
#[async_trait]
pub trait Hands: fmt::Debug + Send + Sync {
    /// What is seen of a host now; from memory.
    fn seen(&self, host: &HostName) -> Option<Seen>;

    /// Has daemons that do not answer dialled again soon.
    fn dial_soon(&self);

    /// Whether anything at the host's address answers, if only by refusing.
    async fn knock(&self, host: &Host) -> bool;

    /// Sends the signal that wakes it; says what was done.
    async fn signal(&self, host: &Host, site: &Site) -> Result<String, String>;

    /// Asks its agent what speaks against sleeping.
    async fn look(&self, host: &HostName) -> Result<Look, String>;

    /// Has its worker take no work, waiting for what runs, or take work again; what still runs.
    async fn drain(&self, host: &HostName, drain: bool, wait: Duration) -> Result<u32, String>;

    /// Has its agent put it to sleep.
    async fn sleep(&self, host: &HostName, order: SleepOrder) -> Result<(), String>;

    /// Has its agent carry out no order under a lower fence any more; which it carried out last.
    async fn void(&self, host: &HostName, fence: u64) -> Result<Option<Obeyed>, String>;
}
