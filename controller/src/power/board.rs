//! What was last found of each host that is off until needed, for those who want to know.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use homelab_domain::{
    ids::HostName,
    power::{
        Hold,
        boot::{self, Boot},
        sleep::Veto,
    },
    reason::Because,
    text,
};
use jiff::Timestamp;
use tokio::sync::watch;

homelab_domain::words! {
    /// Where a host stands.
    PowerState {
        /// Off or suspended.
        Asleep = "asleep",
        /// Woken, and not up yet.
        Waking = "waking",
        /// Up.
        Awake = "awake",
        /// About to sleep.
        Draining = "draining",
        /// Nobody knows.
        Unknown = "unknown",
    }
}

/// How one host stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    /// Host.
    pub host: HostName,
    /// Where it stands.
    pub state: PowerState,
    /// Since when, as far as this controller has seen.
    pub since: Timestamp,
    /// What keeps it so. Never empty.
    pub because: Vec<Because>,
    /// While it is awake: whatever speaks against sleeping.
    pub vetoes: Vec<Veto>,
    /// How long it usually takes to wake.
    pub usual: Duration,
    /// Boots that this was learnt from.
    pub boots_learnt: usize,
    /// The hold in force.
    pub hold: Option<Hold>,
    /// The newest boot.
    pub boot: Option<Boot>,
    /// While it wakes: when it will probably be up; none when it takes longer than any before.
    pub up_at: Option<Timestamp>,
    /// While it sleeps: when it will be woken as things stand.
    pub next_wake_at: Option<Timestamp>,
    /// When it last came up after being woken.
    pub proved_at: Option<Timestamp>,
    /// What it uses now.
    pub watts: Option<f64>,
}

/// When a host will be there, as far as anybody can say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// In how long; none when nobody can say.
    pub up_in: Option<Duration>,
    /// The same in words, with what it waits for.
    pub words: String,
}

/// All hosts that are off until needed. Clones are the same board.
#[derive(Clone, Debug, Default)]
pub struct Board(watch::Sender<Arc<BTreeMap<HostName, Standing>>>);

impl Board {
    /// All of them, by name.
    #[must_use]
    pub fn all(&self) -> Arc<BTreeMap<HostName, Standing>> {
        Arc::clone(&self.0.borrow())
    }

    /// One of them.
    #[must_use]
    pub fn get(&self, host: &HostName) -> Option<Standing> {
        self.0.borrow().get(host).cloned()
    }

    /// Follows what is found.
    #[must_use]
    pub fn follow(&self) -> watch::Receiver<Arc<BTreeMap<HostName, Standing>>> {
        self.0.subscribe()
    }

    /// When a host that sleeps or wakes will be there; none for one that is up, or that nobody
    /// looks after.
    #[must_use]
    pub fn expected(&self, host: &HostName, now: Timestamp) -> Option<Expected> {
        let standing = self.get(host)?;
        match standing.state {
            PowerState::Waking => Some(waking(&standing, now)),
            PowerState::Asleep => Some(asleep(&standing, now)),
            PowerState::Awake | PowerState::Draining | PowerState::Unknown => None,
        }
    }

    pub(super) fn show(&self, standings: BTreeMap<HostName, Standing>) -> bool {
        self.0.send_if_modified(|before| {
            let news = **before != standings;
            *before = Arc::new(standings);
            news
        })
    }

    /// Replaces what is known of one host.
    pub(super) fn show_one(&self, standing: Standing) {
        self.0.send_modify(|all| {
            Arc::make_mut(all).insert(standing.host.clone(), standing);
        });
    }
}

fn waking(standing: &Standing, now: Timestamp) -> Expected {
    let up_in = standing.up_at.map(|at| until(now, at));
    let rest = match up_in {
        Some(span) => format!("it will be up in about {}", text::span(span)),
        None => "it takes longer than any boot before".to_owned(),
    };
    let (ago, phase) = match &standing.boot {
        Some(boot) => (until(boot.started_at, now), boot::words(boot.phase())),
        None => (Duration::ZERO, "the signal to wake was sent"),
    };
    let words = format!("{} was woken {} ago; {phase}; {rest}", standing.host, text::span(ago));
    Expected { up_in, words }
}

fn asleep(standing: &Standing, now: Timestamp) -> Expected {
    let up_in = standing.next_wake_at.map(|at| until(now, at).saturating_add(standing.usual));
    let why = standing.because.first().map_or("it sleeps", |why| why.message.as_str());
    let words = match standing.next_wake_at {
        Some(at) if at > now => {
            format!("{} sleeps until {at} at the latest: {why}", standing.host)
        }
        Some(_) => format!("{} is being woken: {why}", standing.host),
        None => format!("{} sleeps: {why}", standing.host),
    };
    Expected { up_in, words }
}

fn until(from: Timestamp, to: Timestamp) -> Duration {
    let span = to.duration_since(from);
    if span.is_negative() { Duration::ZERO } else { span.unsigned_abs() }
}
