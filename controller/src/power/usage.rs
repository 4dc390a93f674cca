//! What kept a host awake, what it used, and for whom.

use std::time::Duration;

use homelab_domain::{
    ids::JobId,
    power::{
        energy::{Reading, split},
        sleep::{SleepPlan, keeper},
    },
};
use homelab_store::{JobEnergy, Kept, StoreError};

use super::{round::Round, ward::Ward};

/// How often it is written down: more often would be the largest load on the store.
const EVERY: Duration = Duration::from_secs(10);

/// A longer gap says nothing about what was so in it.
const GAP_MAX: Duration = Duration::from_mins(1);

impl Round<'_> {
    /// What its devices use now; none when none of them says.
    pub(super) fn watts(&self) -> Option<f64> {
        let worker = self.seen.snapshot.as_ref().filter(|_| self.seen.worker)?;
        let said = worker.devices.iter().filter_map(|device| device.power_watts);
        said.map(f64::from).reduce(|sum, watts| sum + watts)
    }

    /// Writes down what kept it awake and what it used since the last time.
    pub(super) async fn count(&self, ward: &mut Ward, plan: &SleepPlan) -> Result<(), StoreError> {
        let now = self.now();
        let Some(counted_at) = ward.counted_at else {
            ward.counted_at = Some(now);
            ward.reading = self.watts().map(|watts| Reading { at: now, watts });
            return Ok(());
        };
        let lasted = now.duration_since(counted_at);
        let lasted = if lasted.is_negative() { Duration::ZERO } else { lasted.unsigned_abs() };
        if lasted < EVERY {
            return Ok(());
        }
        let name = &self.host.name;
        let day = self.picture.site.time_zone().local(now).date();
        let reading = self.watts().map(|watts| Reading { at: now, watts });
        let running = self.picture.running(name);
        let ids: Vec<JobId> = running.iter().map(|job| job.id()).collect();
        let used = reading.map(|reading| split(ward.reading, reading, &ids)).unwrap_or_default();
        let tier = |id: JobId| running.iter().find(|job| job.id() == id).map(|it| it.spec().tier);
        let energy = |(job, millijoules): &(JobId, u64)| {
            Some(JobEnergy { job: *job, tier: tier(*job)?, millijoules: *millijoules })
        };
        let jobs: Vec<JobEnergy> = used.jobs.iter().filter_map(energy).collect();
        let mut tx = self.powers.0.parts.store.begin().await?;
        if lasted <= GAP_MAX {
            let because = keeper(plan, name);
            let kept = Kept { host: name.clone(), day, because, lasted };
            tx.power().kept_awake(&kept).await?;
        }
        tx.power().used(name, day, used.idle_millijoules, &jobs).await?;
        tx.commit().await?;
        ward.counted_at = Some(now);
        ward.reading = reading;
        Ok(())
    }
}
