//! Switching off and suspending, each at most once for a call and only for the newest fence, which
//! whoever gave an order up raises.

use std::path::{Path, PathBuf};
use std::time::Duration;

use homelab_common::exec::{Exec, ExecError, Program};
use homelab_common::ledger::{Ledger, LedgerError};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::fact::Fact;

/// systemd only takes the job into its queue.
const PATIENCE: Duration = Duration::from_secs(15);

const FILE: &str = "power.json";
const FORMAT: u32 = 1;

/// How the host goes to sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// It is switched off.
    PowerOff,
    /// It is suspended to memory.
    Suspend,
}

impl Mode {
    /// The verb of `systemctl`.
    const fn verb(self) -> &'static str {
        match self {
            Self::PowerOff => "poweroff",
            Self::Suspend => "suspend",
        }
    }
}

/// What a caller asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The caller's own id of the call.
    pub request_id: String,
    /// Only look.
    pub validate_only: bool,
    /// Number of the attempt; a lower one than was seen is over.
    pub fence: u64,
}

/// Why the host stays on.
#[derive(Debug, thiserror::Error)]
pub enum SleepError {
    /// Something speaks against it.
    #[error("{} against it: {}", speak(.0.len()), list(.0))]
    Vetoed(Vec<Fact>),
    /// A newer attempt was made already.
    #[error("the attempt {got} is over: {have} is the newest that was made")]
    Stale {
        /// The newest.
        have: u64,
        /// What the caller has.
        got: u64,
    },
    /// The system did not obey.
    #[error("the system did not obey; docs/power.md says how the agent is allowed to do this")]
    Refused(#[source] ExecError),
    /// The attempt could not be written down.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

fn speak(count: usize) -> String {
    if count == 1 { "1 thing speaks".to_owned() } else { format!("{count} things speak") }
}

fn list(facts: &[Fact]) -> String {
    facts.iter().map(|fact| fact.message.as_str()).collect::<Vec<_>>().join("; ")
}

/// An order that was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Obeyed {
    /// Its fence.
    pub fence: u64,
    /// When.
    pub at: Timestamp,
}

/// The newest fence, written down before anything is done under it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Newest {
    /// Empty where nothing came of it: the fence only makes older orders void.
    request_id: String,
    mode: Mode,
    fence: u64,
    at: Timestamp,
    /// What was carried out last.
    #[serde(default)]
    obeyed: Option<Obeyed>,
}

/// What was done before.
#[derive(Debug)]
pub(super) struct Book {
    path: PathBuf,
    ledger: Option<Ledger<Newest>>,
}

impl Book {
    pub(super) fn new(state_dir: PathBuf) -> Self {
        Self { path: state_dir.join(FILE), ledger: None }
    }

    /// The answer that the same call got before; none when it is to be done.
    pub(super) fn answered(
        &mut self,
        mode: Mode,
        asked: &Asked,
    ) -> Result<Option<Timestamp>, SleepError> {
        let Some(newest) = self.ledger()?.get().cloned() else { return Ok(None) };
        if asked.fence < newest.fence {
            return Err(SleepError::Stale { have: newest.fence, got: asked.fence });
        }
        let same = newest.request_id == asked.request_id && newest.mode == mode;
        Ok(same.then_some(newest.at))
    }

    /// Notes an order that is about to be carried out.
    pub(super) fn keep(
        &mut self,
        mode: Mode,
        asked: &Asked,
        at: Timestamp,
    ) -> Result<(), SleepError> {
        let (request_id, fence) = (asked.request_id.clone(), asked.fence);
        let obeyed = Some(Obeyed { fence, at });
        self.ledger()?.store(Newest { request_id, mode, fence, at, obeyed })?;
        Ok(())
    }

    /// What was carried out last.
    pub(super) fn obeyed(&mut self) -> Result<Option<Obeyed>, SleepError> {
        Ok(self.ledger()?.get().and_then(|newest| newest.obeyed))
    }

    /// Notes a fence under which nothing is done, and that no more than `obeyed` ever was.
    pub(super) fn only_fence(
        &mut self,
        fence: u64,
        at: Timestamp,
        obeyed: Option<Obeyed>,
    ) -> Result<(), SleepError> {
        let newest = self.ledger()?.get();
        if let Some(newest) = newest.filter(|newest| fence < newest.fence) {
            return Err(SleepError::Stale { have: newest.fence, got: fence });
        }
        let mode = newest.map_or(Mode::PowerOff, |newest| newest.mode);
        self.ledger()?.store(Newest { request_id: String::new(), mode, fence, at, obeyed })?;
        Ok(())
    }

    fn ledger(&mut self) -> Result<&mut Ledger<Newest>, LedgerError> {
        let ledger = match self.ledger.take() {
            Some(ledger) => ledger,
            None => Ledger::load(&self.path, FORMAT)?,
        };
        Ok(self.ledger.insert(ledger))
    }
}

/// Tells the system.
pub(super) async fn run(mode: Mode, systemctl: &Path, exec: &dyn Exec) -> Result<(), SleepError> {
    let program = Program::new(systemctl.to_string_lossy()).arg(mode.verb()).deadline(PATIENCE);
    exec.run(program).await.map(drop).map_err(SleepError::Refused)
}
