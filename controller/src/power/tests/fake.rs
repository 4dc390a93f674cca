//! A host that does what a test says.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use homelab_domain::{
    fleet::HostState,
    ids::HostName,
    reason::Because,
    site::{Host, Site},
};
use homelab_proto::inference::v1::{Device, Engine, Worker};
use jiff::Timestamp;

use crate::{
    job::{Jobs, submission::Submission},
    power::hands::{Hands, Look, Obeyed, Seen, SleepOrder},
};

/// What is so on the host, and what was asked of it.
#[derive(Debug)]
pub(super) struct State {
    pub(super) seen: Seen,
    pub(super) knocks: bool,
    pub(super) signals: u32,
    pub(super) look: Result<Look, String>,
    pub(super) drains: Vec<bool>,
    pub(super) running: u32,
    pub(super) orders: Vec<SleepOrder>,
    pub(super) refuses: Option<String>,
    /// Fences below which orders were made void.
    pub(super) voids: Vec<u64>,
    /// It obeys, whatever becomes of its answer.
    pub(super) obeys: bool,
    pub(super) obeyed: Option<Obeyed>,
    /// Nothing can be made void: its agent does not answer.
    pub(super) deaf: bool,
    /// Submitted in the moment in which it is drained.
    pub(super) late_job: Option<(Jobs, Submission)>,
}

/// The host.
#[derive(Debug)]
pub(super) struct X99(Mutex<State>);

impl Default for X99 {
    fn default() -> Self {
        Self(Mutex::new(State {
            seen: Seen {
                state: HostState::Asleep,
                agent: false,
                worker: false,
                snapshot: None,
                drained: false,
            },
            knocks: false,
            signals: 0,
            look: Err("the agent of x99 does not answer".to_owned()),
            drains: Vec::new(),
            running: 0,
            orders: Vec::new(),
            refuses: None,
            voids: Vec::new(),
            obeys: false,
            obeyed: None,
            deaf: false,
            late_job: None,
        }))
    }
}

impl X99 {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its worker answers, works on nothing and uses 100 W.
    pub(super) fn is_up(&self) {
        let device = Device { power_watts: Some(100.0), ..Device::default() };
        let devices = vec![device];
        let worker = Worker { devices, engines: vec![Engine::default()], ..Worker::default() };
        let mut state = self.state();
        state.seen = Seen {
            state: HostState::Healthy,
            agent: true,
            worker: true,
            snapshot: Some(Arc::new(worker)),
            drained: false,
        };
        state.look = Ok(Look { vetoes: Vec::new(), wake_armed: Some(true) });
    }

    /// It is off; the fleet is not sure of that at once.
    pub(super) fn is_gone(&self) {
        let mut state = self.state();
        (state.seen.agent, state.seen.worker) = (false, false);
        state.seen.state = HostState::Unknown;
        state.look = Err("the agent of x99 does not answer".to_owned());
    }

    /// Its worker says that it takes no work.
    pub(super) fn drains(&self) {
        let mut state = self.state();
        let mut worker = state.seen.snapshot.as_deref().cloned().unwrap_or_default();
        worker.draining = true;
        state.seen.snapshot = Some(Arc::new(worker));
        state.drains = vec![true];
    }

    /// Requests that its worker says it works on.
    pub(super) fn works_on(&self, requests: u32) {
        let mut state = self.state();
        let mut worker = state.seen.snapshot.as_deref().cloned().unwrap_or_default();
        worker.engines = vec![Engine { slots_busy: requests, ..Engine::default() }];
        state.seen.snapshot = Some(Arc::new(worker));
    }

    pub(super) fn speaks_against(&self, veto: Because) {
        self.state().look = Ok(Look { vetoes: vec![veto], wake_armed: Some(true) });
    }
}

#[async_trait]
impl Hands for X99 {
    fn seen(&self, _host: &HostName) -> Option<Seen> {
        Some(self.state().seen.clone())
    }

    fn dial_soon(&self) {}

    async fn knock(&self, _host: &Host) -> bool {
        self.state().knocks
    }

    async fn signal(&self, _host: &Host, _site: &Site) -> Result<String, String> {
        self.state().signals += 1;
        Ok("magic packets were sent: 3 by cw-nas".to_owned())
    }

    async fn look(&self, _host: &HostName) -> Result<Look, String> {
        self.state().look.clone()
    }

    async fn drain(&self, _host: &HostName, drain: bool, _wait: Duration) -> Result<u32, String> {
        let (running, late) = {
            let mut state = self.state();
            state.drains.push(drain);
            (state.running, state.late_job.take())
        };
        if let Some((jobs, submission)) = late {
            jobs.submit(submission).await.map_err(|error| error.to_string())?;
        }
        Ok(running)
    }

    async fn sleep(&self, _host: &HostName, order: SleepOrder) -> Result<(), String> {
        let mut state = self.state();
        if state.obeys {
            // By the host's own clock, which need not be the controller's.
            state.obeyed = Some(Obeyed { fence: order.fence, at: Timestamp::UNIX_EPOCH });
        }
        state.orders.push(order);
        state.refuses.clone().map_or(Ok(()), Err)
    }

    async fn void(&self, _host: &HostName, fence: u64) -> Result<Option<Obeyed>, String> {
        let mut state = self.state();
        if state.deaf {
            return Err("the agent of x99 does not answer".to_owned());
        }
        // What is given up is void before work is let in, and not after.
        assert_eq!(state.drains.last(), Some(&true), "its worker takes work already");
        state.voids.push(fence);
        Ok(state.obeyed)
    }
}
