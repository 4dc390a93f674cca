//! Everything that one round reads before it decides anything.

use std::{collections::BTreeMap, sync::Arc};

use homelab_domain::{
    ids::{HostName, RepositoryName},
    job::Job,
    power::{
        Hold,
        boot::{Boot, BootCurve, LEARNT_MAX},
        in_force,
        wake::{Demand, Failures, WakeInput},
    },
    reason::{Because, Reason},
    run::{Run, RunKind},
    site::{ExpectedPower, Host, Site},
};
use homelab_store::{PowerRecord, StoreError};
use jiff::Timestamp;

use super::{Powers, demand::demands};

/// Jobs of the queue that are looked at.
const PENDING_MAX: u32 = 500;

/// What is so, as of one moment.
#[derive(Debug)]
pub(super) struct Picture {
    pub(super) now: Timestamp,
    pub(super) site: Arc<Site>,
    hosts: BTreeMap<HostName, Known>,
    owned: Vec<Job>,
    runs: Vec<Run>,
}

/// What is known of one host.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) hold: Option<Hold>,
    pub(super) record: Option<PowerRecord>,
    /// The newest first.
    pub(super) boots: Vec<Boot>,
    pub(super) demands: Vec<Demand>,
}

impl Known {
    /// The boot that goes on.
    pub(super) fn open_boot(&self) -> Option<&Boot> {
        self.boots.first().filter(|boot| boot.end.is_none())
    }

    pub(super) fn curve(&self) -> BootCurve {
        BootCurve::learn(&self.boots)
    }

    pub(super) fn proved_at(&self) -> Option<Timestamp> {
        self.record.as_ref().and_then(|record| record.proved_at)
    }

    /// Boots that failed since the last that did not.
    fn failures(&self) -> Failures {
        let ended = self.boots.iter().filter_map(|boot| boot.end.as_ref());
        let failed: Vec<_> = ended.take_while(|end| end.failure.is_some()).collect();
        Failures {
            count: u32::try_from(failed.len()).unwrap_or(u32::MAX),
            last_at: failed.first().map(|end| end.at),
        }
    }
}

impl Picture {
    /// Reads everything.
    pub(super) async fn read(powers: &Powers) -> Result<Self, StoreError> {
        let (now, site, parts) = (powers.now(), powers.site(), &powers.0.parts);
        let workers = parts.jobs.workers();
        let mut tx = parts.store.read().await?;
        let holds: BTreeMap<_, _> = tx.power().holds().await?.into_iter().collect();
        let records = tx.power().hosts().await?;
        let pending = tx.jobs().pending(PENDING_MAX).await?;
        let mut held: Vec<_> = Vec::new();
        if pending.iter().any(|job| !job.spec().terms.after.is_empty()) {
            held.extend(tx.jobs().unmet_needs().await?.into_iter().map(|unmet| unmet.job));
        }
        let owned = tx.jobs().owned().await?;
        let runs = tx.runs().open().await?;
        let mut hosts = BTreeMap::new();
        for host in on_demand(&site) {
            let name = &host.name;
            let hold = in_force(holds.get(name), now).cloned();
            let record = records.iter().find(|record| record.host == *name).cloned();
            let boots = tx.power().boots(name, LEARNT_MAX).await?;
            let demands = demands(name, &site, &pending, &held, &workers);
            hosts.insert(name.clone(), Known { hold, record, boots, demands });
        }
        Ok(Self { now, site, hosts, owned, runs })
    }

    /// What is known of a host.
    pub(super) fn known(&self, host: &HostName) -> Option<&Known> {
        self.hosts.get(host)
    }

    /// What waking it is decided from.
    pub(super) fn wake_input<'a>(&'a self, host: &'a Host, known: &'a Known) -> WakeInput<'a> {
        WakeInput {
            now: self.now,
            host: &host.name,
            power: &host.power,
            boot: known.curve().whole(&host.power),
            demands: &known.demands,
            hold: known.hold.as_ref(),
            failures: known.failures(),
        }
    }

    /// Jobs that its worker has.
    pub(super) fn running(&self, host: &HostName) -> Vec<&Job> {
        let has = |job: &&Job| job.state().lease().is_some_and(|lease| lease.worker == *host);
        self.owned.iter().filter(has).collect()
    }

    /// Runs of backups and drills that need it.
    pub(super) fn open_work(&self, host: &HostName) -> Vec<Because> {
        let open = self.runs.iter().filter_map(|run| {
            let where_to = if run.spec.host == *host {
                format!("on {host}")
            } else {
                let name = self.repository_on(host, run)?;
                format!("on {} with repository {name} on {host}", run.spec.host)
            };
            let message = format!("a {} of {} runs {where_to}", run.spec.kind, run.spec.backup);
            Some(Because::new(Reason::RUN_OPEN, message))
        });
        open.collect()
    }

    /// A repository on that host that a run of another host writes or reads.
    fn repository_on<'a>(&'a self, host: &HostName, run: &'a Run) -> Option<&'a RepositoryName> {
        let backup = self.site.backup(&run.spec.backup)?;
        let used: Vec<&RepositoryName> = match run.spec.kind {
            RunKind::Backup => backup.repositories().chain(&backup.spool).collect(),
            RunKind::Drill => {
                vec![run.spec.repository.as_ref().unwrap_or_else(|| backup.drilled_from())]
            }
        };
        let there = |name: &&RepositoryName| {
            self.site.repository(name).is_some_and(|it| it.host.as_ref() == Some(host))
        };
        used.into_iter().find(there)
    }
}

/// Hosts that are off until needed.
pub(super) fn on_demand(site: &Site) -> impl Iterator<Item = &Host> {
    site.hosts().iter().filter(|host| host.expected_power == ExpectedPower::OnDemand)
}
