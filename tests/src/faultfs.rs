//! A file system that misbehaves when it is told to: a folder of this host, shown through FUSE.
//!
//! Network file systems hang, forget handles, flush nothing, and say only at `close` what was
//! lost. A stand-in behind a trait proves what we do about an error that we made up ourselves;
//! here it is the kernel that says it. Needs root and `/dev/fuse`.

mod calls;
mod nodes;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use fuser::{BackgroundSession, Config, Errno, MountOption};

use nodes::Nodes;

/// The types under which the system may list it.
pub const TYPES: [&str; 2] = ["fuse", "fuse.faultfs"];

/// What is wrong with the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is answered until the fault is taken away: a server that is gone.
    Hangs,
    /// Files cannot be flushed (`EINVAL`).
    NoFlush,
    /// Names cannot be flushed (`EINVAL`), as on many SMB servers.
    NoFlushOfNames,
    /// Flushing names fails (`EIO`).
    FailsToFlushNames,
    /// `close` says that what was written below this folder has no place (`EDQUOT`), as NFS does.
    FailsToClose(&'static str),
    /// No file is renamed over another one (`EEXIST`).
    NoReplacing,
    /// Renames are confirmed, and not done.
    ForgetsRenames,
    /// Removals are confirmed, and not done.
    ForgetsRemovals,
    /// A bit of what is written below this folder is another one.
    FlipsABit(&'static str),
    /// The last byte of what is written below this folder is dropped.
    Cuts(&'static str),
    /// Nothing can be changed any more (`EIO`) after so many changes.
    DiesAfter(u32),
}

/// The file system; unmounted with the value.
#[derive(Debug)]
pub struct FaultFs {
    shared: Arc<Shared>,
    session: Option<BackgroundSession>,
}

impl FaultFs {
    /// Shows `backing` at `point`, both existing folders.
    ///
    /// # Panics
    ///
    /// It cannot be mounted: without root or without `/dev/fuse`.
    #[must_use]
    pub fn mount(backing: &Path, point: &Path) -> Self {
        let shared = Arc::new(Shared {
            backing: fs::canonicalize(backing).expect("a folder"),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName("faultfs".to_owned()),
            MountOption::Subtype("faultfs".to_owned()),
        ];
        let session = fuser::spawn_mount(calls::Calls(Arc::clone(&shared)), point, &config)
            .expect("this test mounts a file system of its own: it needs root and /dev/fuse");
        Self { shared, session: Some(session) }
    }

    /// From now on this is wrong with it.
    pub fn suffer(&self, fault: Fault) {
        self.set(Some(fault));
    }

    /// From now on nothing is wrong with it.
    pub fn recover(&self) {
        self.set(None);
    }

    /// The server starts anew and knows no handle that it gave out before (`ESTALE`).
    pub fn forget_handles(&self) {
        self.shared.state().nodes.forget_all();
    }

    /// How many changes were asked for since the fault was set or taken away.
    #[must_use]
    pub fn changes(&self) -> u32 {
        self.shared.state().changes
    }

    fn set(&self, fault: Option<Fault>) {
        let mut state = self.shared.state();
        (state.fault, state.changes) = (fault, 0);
        drop(state);
        self.shared.changed.notify_all();
    }
}

impl Drop for FaultFs {
    fn drop(&mut self) {
        self.recover();
        if let Some(session) = self.session.take() {
            drop(session.umount_and_join());
        }
    }
}

/// What the handle and the thread that answers have in common.
#[derive(Debug)]
struct Shared {
    backing: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    fault: Option<Fault>,
    changes: u32,
    nodes: Nodes,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while nothing is answered.
    fn wait(&self) -> MutexGuard<'_, State> {
        let hangs = |state: &mut State| state.fault == Some(Fault::Hangs);
        self.changed.wait_while(self.state(), hangs).unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, for what changes something.
    fn change(&self) -> Result<MutexGuard<'_, State>, Errno> {
        let mut state = self.wait();
        state.changes += 1;
        match state.fault {
            Some(Fault::DiesAfter(changes)) if state.changes > changes => Err(Errno::EIO),
            _ => Ok(state),
        }
    }
}
