//! The process group of a child.

use nix::{
    errno::Errno,
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tracing::warn;

/// Kills its process group when dropped, unless the group is known to be gone.
#[derive(Debug)]
pub(super) struct Group {
    leader: Option<Pid>,
}

impl Group {
    /// The group that the child `leader` leads.
    pub(super) fn of(leader: u32) -> Self {
        Self { leader: i32::try_from(leader).ok().map(Pid::from_raw) }
    }

    /// Sends a signal to every process of the group.
    pub(super) fn signal(&self, signal: Signal) {
        let Some(leader) = self.leader else { return };
        match killpg(leader, signal) {
            // Nobody left, or only zombies of another parent.
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => warn!(group = %leader, %signal, %error, "could not signal a child"),
        }
    }

    /// Kills what is left of the group and forgets it. Right after the leader
    /// ended its number still belongs to the group: a group with members keeps
    /// it, and an empty one was not reused in this instant.
    pub(super) fn finish(&mut self) {
        self.signal(Signal::SIGKILL);
        self.leader = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.finish();
    }
}
