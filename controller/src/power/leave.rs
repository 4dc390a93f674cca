//! Hosts that are always on from now on: nothing of what we did to them while they were not stays.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::atomic::Ordering,
};

use homelab_domain::{
    ids::HostName,
    site::{ExpectedPower, Site},
};
use homelab_store::StoreError;

use super::{
    Powers,
    picture::{Known, Picture},
    round::{Round, STILL_FALLING},
    ward::{Doubt, Ward},
};

impl Powers {
    /// Lets the workers of hosts take work that the site file does not name as off until needed any more. A
    /// worker that does not answer is let work once it does.
    pub(super) async fn let_go(
        &self,
        site: &Site,
        wards: &mut BTreeMap<HostName, Ward>,
    ) -> Result<(), StoreError> {
        let leaves = |name: &HostName| {
            site.host(name).filter(|host| host.expected_power != ExpectedPower::OnDemand)
        };
        if !self.0.looked_back.load(Ordering::Relaxed) {
            // The site file may have changed while no controller ran.
            let mut tx = self.0.parts.store.read().await?;
            let records = tx.power().hosts().await?.into_iter();
            for record in records.filter(|it| it.fence > 0 && leaves(&it.host).is_some()) {
                if let Entry::Vacant(place) = wards.entry(record.host) {
                    place.insert(Ward::default());
                }
            }
            self.0.looked_back.store(true, Ordering::Relaxed);
        }
        // Whoever is not in the site file at all cannot be reached.
        wards.retain(|name, _| site.host(name).is_some());
        if !wards.keys().any(|name| leaves(name).is_some()) {
            return Ok(());
        }
        let picture = Picture::read(self).await?;
        let gone = Known::default();
        let mut done = Vec::new();
        for (name, ward) in wards.iter_mut() {
            let Some(host) = leaves(name) else { continue };
            let Some(seen) = self.0.parts.hands.seen(name) else { continue };
            let known = &gone;
            let round = Round { powers: self, picture: &picture, host, known, seen: &seen };
            if round.leave(ward).await? {
                done.push(name.clone());
            }
        }
        wards.retain(|name, _| !done.contains(name));
        Ok(())
    }
}

impl Round<'_> {
    /// Whether nothing is left to be done for a host that is always on from now on.
    async fn leave(&self, ward: &mut Ward) -> Result<bool, StoreError> {
        if !self.is_on() {
            ward.gone();
        }
        let falls = |since| self.now().duration_since(since) < STILL_FALLING;
        if !self.seen.worker || ward.falling_since.is_some_and(falls) {
            return Ok(false);
        }
        if ward.falling_since.take().is_some() {
            ward.doubt = Some(Doubt::Over);
        } else if self.drains_by_us() && !ward.drained_by_us {
            (ward.drained_by_us, ward.doubt) = (true, Some(Doubt::Earlier));
        }
        self.let_work(ward).await?;
        Ok(!ward.drained_by_us && ward.doubt.is_none())
    }
}
