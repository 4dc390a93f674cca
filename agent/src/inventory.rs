//! What this host is: system, hardware, addresses and routes. Changes seldom, so it is read at
//! most once a minute.

mod address;
mod package;
mod route;
mod system;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use homelab_common::clock::Clock;
use homelab_common::exec::Exec;
use jiff::Timestamp;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::health::{Probes, Roots};
use crate::reading::Reading;

pub use address::Interface;
pub use route::Route;
pub use system::System;

const AGE_MAX: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(5);

/// Where Debian keeps what is installed.
const PACKAGES_FILE: &str = "/var/lib/dpkg/status";

/// What this host is.
#[derive(Clone, Debug, PartialEq)]
pub struct Host {
    /// When it was read.
    pub observed_at: Timestamp,
    /// System and hardware.
    pub system: Reading<System>,
    /// Version of Proxmox VE; [`Missing::Absent`](crate::reading::Missing::Absent) when it is none.
    pub proxmox_version: Reading<String>,
    /// What virtualises it, as `systemd-detect-virt` names it; `none` on hardware.
    pub virtualization: Reading<String>,
    /// Network interfaces by name.
    pub interfaces: Reading<Vec<Interface>>,
    /// Routes of the main table.
    pub routes: Reading<Vec<Route>>,
}

/// Reads what this host is, and remembers it for a minute.
#[derive(Debug)]
pub struct Inventory {
    roots: Roots,
    packages: PathBuf,
    clock: Arc<dyn Clock>,
    exec: Arc<dyn Exec>,
    probes: Probes,
    newest: Mutex<Option<(Instant, Arc<Host>)>>,
}

impl Inventory {
    /// An inventory that has read nothing yet.
    #[must_use]
    pub fn new(roots: Roots, clock: Arc<dyn Clock>, exec: Arc<dyn Exec>) -> Self {
        let packages = PathBuf::from(PACKAGES_FILE);
        // One thread for each part that is read, so that one that hangs leaves the others.
        let probes = Probes::new(PATIENCE, 4);
        Self { roots, packages, clock, exec, probes, newest: Mutex::default() }
    }

    /// What this host is, at most a minute old. Callers at the same time share one reading.
    ///
    /// Cancel safety: a dropped reading is lost, and the next caller reads again.
    pub async fn host(&self) -> Arc<Host> {
        let mut newest = self.newest.lock().await;
        if let Some((read_at, host)) = newest.as_ref()
            && read_at.elapsed() < AGE_MAX
        {
            return Arc::clone(host);
        }
        let host = Arc::new(self.read().await);
        *newest = Some((Instant::now(), Arc::clone(&host)));
        host
    }

    async fn read(&self) -> Host {
        let Roots { proc, sys, .. } = self.roots.clone();
        let packages = self.packages.clone();
        let system = self.probes.run("system", system::read);
        let interfaces = self.probes.run("interfaces", move || address::read(&sys));
        let routes = self.probes.run("routes", move || route::read(&proc));
        let proxmox = move || package::installed_version(&packages, "pve-manager");
        let (system, interfaces, routes, proxmox_version, virtualization) = tokio::join!(
            system,
            interfaces,
            routes,
            self.probes.run("packages", proxmox),
            system::virtualization(self.exec.as_ref()),
        );
        let observed_at = self.clock.now();
        Host { observed_at, system, proxmox_version, virtualization, interfaces, routes }
    }
}

#[cfg(test)]
mod tests {
    use homelab_common::clock::ManualClock;
    use homelab_common::exec::fake::{Answer, FakeExec};

    use super::*;

    fn inventory(exec: &FakeExec) -> Inventory {
        let clock = Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH));
        Inventory::new(Roots::default(), clock, Arc::new(exec.clone()))
    }

    #[tokio::test]
    async fn this_machine_is_described() {
        let exec = FakeExec::default().on("systemd-detect-virt", Answer::stdout("kvm\n"));
        let host = inventory(&exec).host().await;
        let system = host.system.as_ref().unwrap();
        assert!(system.cpu_count > 0);
        assert!(system.memory_bytes > 0);
        assert!(system.kernel.is_some());
        assert_eq!(host.virtualization.as_deref(), Ok("kvm"));
        let interfaces = host.interfaces.as_ref().unwrap();
        let loopback = interfaces.iter().find(|interface| interface.name == "lo").unwrap();
        assert!(loopback.addresses.iter().any(|address| address == "127.0.0.1/8"));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_read_at_most_once_a_minute() {
        let exec = FakeExec::default().on("systemd-detect-virt", Answer::stdout("none\n"));
        let inventory = inventory(&exec);
        let first = inventory.host().await;
        assert!(Arc::ptr_eq(&first, &inventory.host().await));
        tokio::time::advance(AGE_MAX).await;
        assert!(!Arc::ptr_eq(&first, &inventory.host().await));
        assert_eq!(exec.calls().len(), 2);
    }
}
