//! Brings the deny list to every daemon that does not have it yet.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use homelab_common::{
    clock::Clock,
    lifecycle::{Abandoned, Tasks},
};
use homelab_domain::{ids::HostName, site::DaemonKind};
use homelab_proto::common::v1::{
    self as pb, PutDenyListRequest, node_service_client::NodeServiceClient,
};
use homelab_rpc::{
    deny_list::{DenyList, DenyListError, Taken},
    node::to_proto,
};
use homelab_store::{Store, StoreError};
use tonic::{Request, Status, transport::Channel};

use super::{BackgroundTask, Done, Outcome};
use crate::{ca::Authority, fleet::Fleet};

/// How long one daemon may take.
const PUT_MAX: Duration = Duration::from_secs(5);

/// Daemons that are told at once.
const AT_ONCE_MAX: usize = 32;

/// Pushes the deny list.
#[derive(Debug)]
pub struct PushDenyList {
    /// Where it is kept.
    pub store: Arc<dyn Store>,
    /// Who signs it.
    pub authority: Arc<Authority>,
    /// The controller's own, which closes its open connections.
    pub own: DenyList,
    /// The daemons.
    pub fleet: Fleet,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Where blocking work is done.
    pub tasks: Tasks,
}

/// Not every daemon has the list.
#[derive(Debug, thiserror::Error)]
#[error("{} of {asked} daemons could not be told: {}", failed.len(), failed.join("; "))]
struct Incomplete {
    asked: usize,
    failed: Vec<String>,
}

#[async_trait]
impl BackgroundTask for PushDenyList {
    fn name(&self) -> &'static str {
        "push-deny-list"
    }

    fn description(&self) -> &'static str {
        "Brings the list of revoked certificates to every daemon that does not have it yet."
    }

    fn period(&self) -> Duration {
        Duration::from_secs(10)
    }

    async fn activate(&self) -> Outcome {
        let (list, taken) = self.take_over().await?;
        if list.epoch == 0 {
            return Ok(Done::Nothing);
        }
        let mut done = Vec::new();
        if let Some(taken) = taken {
            done.push(format!("closed {} connections here", taken.closed_connections));
        }
        let behind = self.behind(list.epoch);
        let asked = behind.len();
        if asked > 0 {
            let told = self.push(&list, behind).await?;
            done.push(format!("told {told} daemons of epoch {}", list.epoch));
        }
        Ok(if done.is_empty() { Done::Nothing } else { Done::Changed(done.join(", ")) })
    }
}

/// Why the controller's own deny list was not brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum TakeOverError {
    /// The store failed.
    #[error("could not read the deny list")]
    Store(#[from] StoreError),
    /// The list was refused.
    #[error(transparent)]
    DenyList(#[from] DenyListError),
    /// The controller stops.
    #[error(transparent)]
    Stopping(#[from] Abandoned),
}

impl PushDenyList {
    /// Brings the controller's own list up to date; gives the list, and what it did when it was new.
    ///
    /// # Errors
    ///
    /// The store fails, or the controller stops.
    pub async fn take_over(&self) -> Result<(pb::DenyList, Option<Taken>), TakeOverError> {
        let list = self.current().await?;
        if self.own.epoch() >= list.epoch {
            return Ok((list, None));
        }
        let (own, new) = (self.own.clone(), list.clone());
        let taken = self.tasks.blocking(move || own.replace(new)).await??;
        Ok((list, Some(taken)))
    }

    /// The list as it should be everywhere.
    async fn current(&self) -> Result<pb::DenyList, StoreError> {
        let mut tx = self.store.read().await?;
        let list = tx.certificates().deny_list(self.clock.now()).await?;
        let entries = list.entries.into_iter().filter_map(|entry| {
            let revocation = entry.revocation?;
            Some(pb::DenyListEntry {
                serial_hex: entry.certificate.serial_hex,
                identity: entry.certificate.identity,
                reason: revocation.reason,
                revoked_at: Some(to_proto(revocation.at)),
            })
        });
        Ok(pb::DenyList { epoch: list.epoch, entries: entries.collect() })
    }

    /// Daemons that answer and hold an older list.
    fn behind(&self, epoch: u64) -> Vec<(HostName, DaemonKind, Channel)> {
        let has = |host: &HostName, kind| {
            let view = self.fleet.host(host);
            view.and_then(|view| view.daemon(kind)?.deny_list_epoch).unwrap_or(0)
        };
        let mut channels = self.fleet.channels();
        channels.retain(|(host, kind, _)| has(host, *kind) < epoch);
        channels
    }

    async fn push(
        &self,
        list: &pb::DenyList,
        behind: Vec<(HostName, DaemonKind, Channel)>,
    ) -> Result<usize, Box<dyn std::error::Error + Send + Sync>> {
        let signed = self.authority.sign_deny_list(list)?;
        let message = PutDenyListRequest {
            deny_list: signed.deny_list.into(),
            signature: signed.signature.into(),
        };
        let asked = behind.len();
        let answers: Vec<_> = stream::iter(behind)
            .map(|(host, kind, channel)| {
                let message = message.clone();
                async move { (host, kind, put(channel, message).await) }
            })
            .buffer_unordered(AT_ONCE_MAX)
            .collect()
            .await;
        let mut failed = Vec::new();
        for (host, kind, answer) in answers {
            match answer {
                Ok(epoch) => self.fleet.holds_deny_list(&host, kind, epoch),
                Err(status) => failed.push(format!("{kind} of {host}: {}", status.message())),
            }
        }
        if failed.is_empty() { Ok(asked) } else { Err(Incomplete { asked, failed }.into()) }
    }
}

async fn put(channel: Channel, message: PutDenyListRequest) -> Result<u64, Status> {
    let mut request = Request::new(message);
    request.set_timeout(PUT_MAX);
    let answer = NodeServiceClient::new(channel).put_deny_list(request).await?;
    Ok(answer.into_inner().epoch)
}
