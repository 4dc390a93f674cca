//! The health of this host as the service gives it out: one sampler for all callers.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use homelab_common::clock::Clock;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::health::condition::{Condition, Thresholds, conditions};
use crate::health::sampler::{Counters, Sampler};
use crate::health::slow::Slow;
use crate::health::source::Roots;
use crate::health::window::{Sample, Window};

/// Callers that ask more often than this share a window; rates over less are mostly noise,
/// because the kernel counts CPU time in hundredths of a second.
const WINDOW_MIN: Duration = Duration::from_secs(1);
/// A window that nobody advanced for this long is advanced anyway, so that the rates of a seldom
/// caller are those of the last minute and not of the last night.
const WINDOW_MAX: Duration = Duration::from_secs(60);

/// A sample and what it means.
#[derive(Clone, Debug)]
pub struct Observation {
    /// The sample.
    pub sample: Sample,
    /// Statements drawn from it.
    pub conditions: Vec<Condition>,
}

/// Takes samples for everyone who asks.
#[derive(Debug)]
pub struct Monitor {
    clock: Arc<dyn Clock>,
    thresholds: Thresholds,
    slow: watch::Receiver<Arc<Slow>>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    sampler: Sampler,
    /// The window of those who ask once.
    shared: Window,
    conditions: Vec<Condition>,
}

impl Monitor {
    /// A monitor of the kernel at `roots`, with slow readings from `slow`.
    #[must_use]
    pub fn new(
        roots: &Roots,
        thresholds: Thresholds,
        clock: Arc<dyn Clock>,
        slow: watch::Receiver<Arc<Slow>>,
    ) -> Self {
        let sampler = Sampler::new(roots);
        let state = State { sampler, shared: Window::default(), conditions: Vec::new() };
        Self { clock, thresholds, slow, state: Mutex::new(state) }
    }

    /// One sample for a caller who asks once; its rates are over the last second to minute.
    #[must_use]
    pub fn observe(&self) -> Observation {
        let mut state = self.state();
        let counters = self.look(&mut state);
        let sample = state.shared.sample(&counters, self.newest());
        if state.shared.width(counters.taken).is_none_or(|width| width >= WINDOW_MIN) {
            state.shared.advance(counters);
        }
        self.judge(&mut state, sample)
    }

    /// A watcher with a window of its own.
    #[must_use]
    pub fn watcher(self: &Arc<Self>) -> Watcher {
        Watcher { monitor: Arc::clone(self), window: Window::default() }
    }

    /// Keeps the shared window from growing old. Runs for ever.
    ///
    /// Cancel safety: may be dropped at any time.
    pub async fn keep_fresh(&self) {
        let mut ticks = tokio::time::interval(WINDOW_MAX);
        loop {
            ticks.tick().await;
            let mut state = self.state();
            let counters = self.look(&mut state);
            if state.shared.width(counters.taken).is_none_or(|width| width >= WINDOW_MAX / 2) {
                state.shared.advance(counters);
            }
        }
    }

    fn look(&self, state: &mut State) -> Counters {
        state.sampler.read(self.clock.now(), Instant::now().into_std())
    }

    fn newest(&self) -> Arc<Slow> {
        Arc::clone(&self.slow.borrow())
    }

    fn judge(&self, state: &mut State, sample: Sample) -> Observation {
        let conditions = conditions(&sample, &self.thresholds, &state.conditions);
        state.conditions.clone_from(&conditions);
        Observation { sample, conditions }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes samples for one stream.
#[derive(Debug)]
pub struct Watcher {
    monitor: Arc<Monitor>,
    window: Window,
}

impl Watcher {
    /// The next sample; its rates are over the time since the one before.
    pub fn observe(&mut self) -> Observation {
        let monitor = Arc::clone(&self.monitor);
        let mut state = monitor.state();
        let counters = monitor.look(&mut state);
        let sample = self.window.sample(&counters, monitor.newest());
        self.window.advance(counters);
        monitor.judge(&mut state, sample)
    }
}

#[cfg(test)]
mod tests {
    use homelab_common::clock::SystemClock;

    use super::*;
    use crate::reading::Missing;

    fn monitor() -> Arc<Monitor> {
        let (_sender, slow) = watch::channel(Arc::default());
        let (roots, clock) = (Roots::default(), Arc::new(SystemClock));
        Arc::new(Monitor::new(&roots, Thresholds::default(), clock, slow))
    }

    #[tokio::test(start_paused = true)]
    async fn watchers_do_not_spoil_each_others_rates() {
        let monitor = monitor();
        let (mut slow, mut fast) = (monitor.watcher(), monitor.watcher());
        assert_eq!(slow.observe().sample.over, Err(Missing::FirstSample));
        for _ in 0..5 {
            fast.observe();
            tokio::time::advance(Duration::from_secs(2)).await;
        }
        assert_eq!(fast.observe().sample.over, Ok(Duration::from_secs(2)));
        assert_eq!(slow.observe().sample.over, Ok(Duration::from_secs(10)));
    }

    #[tokio::test(start_paused = true)]
    async fn two_calls_in_one_second_share_a_window() {
        let monitor = monitor();
        let _first = monitor.observe();
        tokio::time::advance(Duration::from_millis(600)).await;
        assert_eq!(monitor.observe().sample.over, Ok(Duration::from_millis(600)));
        tokio::time::advance(Duration::from_millis(600)).await;
        assert_eq!(monitor.observe().sample.over, Ok(Duration::from_millis(1200)));
        tokio::time::advance(Duration::from_millis(600)).await;
        assert_eq!(monitor.observe().sample.over, Ok(Duration::from_millis(600)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_after_a_long_night_gets_the_rates_of_the_last_minute() {
        let monitor = monitor();
        let _first = monitor.observe();
        let night = tokio::time::timeout(Duration::from_secs(8 * 3600), monitor.keep_fresh());
        assert!(night.await.is_err());
        let over = monitor.observe().sample.over.unwrap();
        assert!(over <= WINDOW_MAX, "{over:?}");
    }
}
