//! How far a run has come, for whoever watches.
//!
//! A watch channel holds only the newest state, so that a slow watcher neither
//! slows the run down nor makes a queue grow.

use std::fmt;

use tokio::sync::watch;

/// What a run is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stage {
    /// Looking at source, tools and repository.
    #[default]
    Preparing,
    /// Streaming the dump into the repository, counting rows meanwhile.
    Dumping,
    /// Reading back what was stored.
    Proving,
    /// Copying a snapshot from one repository into another.
    Copying,
    /// Checking the repository's structure and data.
    Checking,
    /// Reading a snapshot into its target.
    Restoring,
    /// Comparing what was restored with the manifest.
    Comparing,
    /// Removing what was only there for the run.
    CleaningUp,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Preparing => "preparing",
            Self::Dumping => "dumping",
            Self::Proving => "reading back",
            Self::Copying => "copying",
            Self::Checking => "checking",
            Self::Restoring => "restoring",
            Self::Comparing => "comparing",
            Self::CleaningUp => "cleaning up",
        })
    }
}

/// The newest state of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// What is being done.
    pub stage: Stage,
    /// Bytes done in this stage.
    pub done_bytes: u64,
    /// Bytes of this stage in all, when known.
    pub total_bytes: Option<u64>,
}

/// Reports; clones report to the same watchers.
#[derive(Clone, Debug)]
pub struct Progress(watch::Sender<Step>);

impl Progress {
    /// A reporter, and the first watcher.
    #[must_use]
    pub fn new() -> (Self, watch::Receiver<Step>) {
        let (sender, receiver) = watch::channel(Step::default());
        (Self(sender), receiver)
    }

    /// A reporter that nobody watches.
    #[must_use]
    pub fn unwatched() -> Self {
        Self::new().0
    }

    /// A new stage begins.
    pub fn enter(&self, stage: Stage, total_bytes: Option<u64>) {
        self.0.send_replace(Step { stage, done_bytes: 0, total_bytes });
    }

    /// So many bytes of the stage are done.
    pub fn done(&self, bytes: u64) {
        self.0.send_modify(|step| step.done_bytes = bytes);
    }
}
