//! What must be known of hosts after a restart.

use async_trait::async_trait;
use homelab_domain::{fleet::HostState, ids::HostName, site::DaemonKind};
use jiff::Timestamp;

use crate::error::StoreError;

/// One host. Everything else about it comes from the site file or from itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRecord {
    /// Name.
    pub name: HostName,
    /// Daemons that have enrolled at least once.
    pub enrolled: Vec<DaemonKind>,
    /// Takes no new work.
    pub drained: bool,
    /// When it last answered.
    pub last_seen_at: Option<Timestamp>,
    /// The state that was last shown, and since when.
    pub state: Option<(HostState, Timestamp)>,
}

/// Hosts. A host that nothing was said about yet has no record; writing makes one.
#[async_trait]
pub trait Hosts: Send {
    /// All records, by name.
    async fn all(&mut self) -> Result<Vec<HostRecord>, StoreError>;

    /// One record.
    async fn get(&mut self, host: &HostName) -> Result<Option<HostRecord>, StoreError>;

    /// A daemon has enrolled. Idempotent.
    async fn set_enrolled(&mut self, host: &HostName, kind: DaemonKind) -> Result<(), StoreError>;

    /// Drains a host (`true`) or lets it take work again.
    async fn set_drained(&mut self, host: &HostName, drained: bool) -> Result<(), StoreError>;

    /// What was seen of many hosts: moments of contact only grow, a state comes
    /// with the moment since when it has been so. `drained` and `enrolled` of the
    /// records are left alone.
    async fn observed(&mut self, records: &[HostRecord]) -> Result<(), StoreError>;

    /// Drops a host that left the site. False when there was none.
    async fn forget(&mut self, host: &HostName) -> Result<bool, StoreError>;
}
