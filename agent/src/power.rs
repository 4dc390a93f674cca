//! What speaks against putting this host to sleep, and how it is done.
//!
//! The agent looks for itself: whoever asks from outside cannot know who is logged in here. What
//! cannot be found out speaks against sleeping like everything else. Switching off is one of two
//! fixed commands, only where the host's own configuration allows it, and only for the newest
//! fence.

mod armed;
mod fact;
mod login;
mod packet;
mod process;
mod scrub;
mod sleep;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use homelab_common::clock::Clock;
use homelab_common::exec::{Exec, ExecError};
use jiff::Timestamp;
use tokio::sync::Mutex;

use crate::health::{Probes, Roots};

pub use fact::{Fact, Word};
pub use packet::{InvalidMac, Mac, SendError, Sent, magic, send};
pub use sleep::{Asked, Mode, Obeyed, SleepError};

/// A hung disk must not hold those who ask.
const PATIENCE: Duration = Duration::from_secs(4);

/// More than these do not help anybody.
const FACTS_MAX: usize = 50;

/// `[power]` of `agent.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PowerConfig {
    /// Whether this host may be switched off or suspended from outside.
    pub may_sleep: bool,
    /// The program that does it.
    pub systemctl: PathBuf,
}

impl Default for PowerConfig {
    fn default() -> Self {
        Self { may_sleep: false, systemctl: PathBuf::from("/usr/bin/systemctl") }
    }
}

/// What this host could do, and what speaks against sleeping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PowerState {
    /// Whether a network card is set to wake this host; none when nobody knows.
    pub wake_armed: Option<bool>,
    /// What speaks against sleeping.
    pub facts: Vec<Fact>,
    /// When it booted.
    pub awake_since: Option<Timestamp>,
}

/// Power of this host.
#[derive(Debug)]
pub struct Power {
    config: PowerConfig,
    roots: Roots,
    clock: Arc<dyn Clock>,
    exec: Arc<dyn Exec>,
    probes: Probes,
    book: Mutex<sleep::Book>,
}

impl Power {
    /// Keeps its book in `state_dir`.
    #[must_use]
    pub fn new(
        config: PowerConfig,
        roots: Roots,
        state_dir: PathBuf,
        clock: Arc<dyn Clock>,
        exec: Arc<dyn Exec>,
    ) -> Self {
        let book = Mutex::new(sleep::Book::new(state_dir));
        Self { config, roots, clock, exec, probes: Probes::new(PATIENCE, 2), book }
    }

    /// Whether this host may be switched off or suspended from outside.
    #[must_use]
    pub const fn may_sleep(&self) -> bool {
        self.config.may_sleep
    }

    /// Looks at everything that speaks against sleeping now.
    pub async fn look(&self) -> PowerState {
        let roots = self.roots.clone();
        let files = self.probes.run("power", move || Ok(read(&roots)));
        let pools = scrub::pools(&self.roots.proc, self.exec.as_ref());
        let (files, pools) = tokio::join!(files, pools);
        let mut state = files.unwrap_or_else(|missing| PowerState {
            wake_armed: None,
            facts: vec![Fact::unknown("what happens on this host", missing)],
            awake_since: None,
        });
        state.facts.extend(pools);
        if !self.config.may_sleep {
            let message =
                "agent.toml of this host does not let it sleep: set may-sleep under [power]";
            state.facts.push(Fact::new(Word::SleepNotAllowed, message));
        }
        state.facts.truncate(FACTS_MAX);
        state
    }

    /// Switches off or suspends, when nothing speaks against it.
    ///
    /// # Errors
    /// Something does; an older fence; or the system does not obey.
    pub async fn sleep(&self, mode: Mode, asked: Asked) -> Result<Timestamp, SleepError> {
        // One after the other, so that two callers cannot both be the newest, and none acts on what was
        // so before another's order.
        let mut book = self.book.lock().await;
        let facts = self.look().await.facts;
        if let Some(at) = book.answered(mode, &asked)? {
            return Ok(at);
        }
        if !facts.is_empty() {
            return Err(SleepError::Vetoed(facts));
        }
        let now = self.clock.now();
        if asked.validate_only {
            return Ok(now);
        }
        let before = book.obeyed()?;
        book.keep(mode, &asked, now)?;
        let ran = sleep::run(mode, &self.config.systemctl, self.exec.as_ref()).await;
        if let Err(SleepError::Refused(ExecError::Exit { .. } | ExecError::NotFound { .. })) = &ran
        {
            // Nothing came of it, for certain: the same call may be tried again.
            book.only_fence(asked.fence, now, before)?;
        }
        ran.map(|()| now)
    }

    /// Makes every order under a lower fence void. Waits for one that is being carried out; says
    /// which was carried out last.
    ///
    /// # Errors
    /// A newer fence was seen; or it could not be written down.
    pub async fn void(&self, fence: u64) -> Result<Option<Obeyed>, SleepError> {
        let mut book = self.book.lock().await;
        let obeyed = book.obeyed()?;
        book.only_fence(fence, self.clock.now(), obeyed)?;
        Ok(obeyed)
    }
}

/// Everything that stands in files.
fn read(roots: &Roots) -> PowerState {
    let mut facts = login::sessions(&roots.run);
    facts.extend(login::inhibitors(&roots.run));
    facts.extend(process::at_work(&roots.proc));
    facts.extend(scrub::arrays(&roots.proc));
    PowerState {
        wake_armed: armed::by_any_card(&roots.sys),
        facts,
        awake_since: process::booted_at(&roots.proc),
    }
}

#[cfg(test)]
mod tests;
