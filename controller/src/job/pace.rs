//! How long jobs usually take, learnt from those that ended.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use homelab_domain::{ids::ModelName, site::Tier};

/// So many of the newest are looked at.
const SAMPLES_MAX: usize = 32;

/// So many models are remembered: more than a site declares.
const MODELS_MAX: usize = 256;

/// The newest times of each model of each tier, in memory only.
#[derive(Debug, Default)]
pub(super) struct Pace(HashMap<(Tier, ModelName), VecDeque<Duration>>);

impl Pace {
    /// A job has run for so long, from when it was given away to its end.
    pub(super) fn note(&mut self, tier: Tier, model: &ModelName, took: Duration) {
        let key = (tier, model.clone());
        if self.0.len() >= MODELS_MAX && !self.0.contains_key(&key) {
            return;
        }
        let samples = self.0.entry(key).or_default();
        if samples.len() == SAMPLES_MAX {
            samples.pop_front();
        }
        samples.push_back(took);
    }

    /// How long one usually takes: the median; none when none has run yet.
    pub(super) fn usual(&self, tier: Tier, model: &ModelName) -> Option<Duration> {
        let samples = self.0.get(&(tier, model.clone()))?;
        let mut sorted: Vec<Duration> = samples.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slow_job_does_not_change_what_is_usual() {
        let (mut pace, model) = (Pace::default(), "tiny".parse().expect("a name"));
        assert_eq!(pace.usual(Tier::Bronze, &model), None);
        for secs in [4, 5, 900, 5, 6] {
            pace.note(Tier::Bronze, &model, Duration::from_secs(secs));
        }
        assert_eq!(pace.usual(Tier::Bronze, &model), Some(Duration::from_secs(5)));
        assert_eq!(pace.usual(Tier::Silver, &model), None);
        for _ in 0..SAMPLES_MAX {
            pace.note(Tier::Bronze, &model, Duration::from_secs(9));
        }
        assert_eq!(pace.usual(Tier::Bronze, &model), Some(Duration::from_secs(9)));
    }
}
