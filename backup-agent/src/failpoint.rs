//! Steps at which a test can end the process as a power cut would.
//!
//! Whoever claims that a crash at any moment harms nothing must be able to crash at
//! any moment. A step is [`reach`]ed in the code where the order of things matters;
//! with its name in the environment the process ends there by SIGKILL, so that nothing
//! is dropped, flushed or cleaned up. Release builds hold nothing of this.

/// Names the step to end at.
pub const VARIABLE: &str = "HOMELAB_FAILPOINT";

/// Every step, by what it belongs to, in the order in which it is reached.
pub const STEPS: &[&str] = &[
    // The repository was looked at, the source not yet.
    "backup.begun",
    // The source's streams are open, and nothing has been read.
    "backup.source-open",
    // A pack is there, proved, and in no index.
    "backup.pack-proved",
    // The index names the packs, and there is no snapshot.
    "backup.indexed",
    // Everything is stored, and nothing of it is visible.
    "backup.stored",
    // The snapshot is visible, and nobody has been told.
    "backup.published",
    // The snapshot is read from the one repository and stored in the other, invisibly.
    "copy.stored",
    // It is in both.
    "copy.published",
    // It waits in the spool no longer.
    "copy.forgotten",
    // The scratch place of the drill is there and marked: a folder, a database or a dataset.
    "drill.scratch-made",
    // The snapshot is restored there, and not looked at.
    "drill.restored",
    // Everything was looked at, and the place is there still.
    "drill.examined",
    // The place is gone, and nobody has been told.
    "drill.removed",
    // The lock is taken, nothing is marked or removed.
    "prune.began",
    // The engine is done, the reserve is not kept again.
    "prune.packs-done",
    // Those to be recovered are shown, none is hidden.
    "retention.shown",
    // Those to be hidden are hidden, none is deleted.
    "retention.hidden",
    // The snapshots are deleted, their marks are there still.
    "retention.deleted",
    // The files are there under a name that is swept.
    "restore.filled",
    // The new folder has a name that is kept, the old one is in its place.
    "restore.named",
    // They are exchanged.
    "restore.exchanged",
    // The dataset has a snapshot of the run, and nothing is sent.
    "zfs.snapshot-made",
    // The stream was read to its end, holds are as they were.
    "zfs.sent",
    // The holds are moved on, what no policy keeps is there still.
    "zfs.holds-moved",
    // What no policy keeps is destroyed, the run is not published.
    "zfs.tidied",
];

/// Ends the process here, if a test wants it.
#[cfg(debug_assertions)]
pub fn reach(step: &'static str) {
    debug_assert!(STEPS.contains(&step), "`{step}` is not listed");
    if std::env::var_os(VARIABLE).is_some_and(|wanted| wanted == step) {
        let this = nix::unistd::Pid::this();
        // Cannot fail for oneself.
        let _sent = nix::sys::signal::kill(this, nix::sys::signal::Signal::SIGKILL);
    }
}

/// Ends the process here, if a test wants it: not in this build.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub const fn reach(_step: &'static str) {}
