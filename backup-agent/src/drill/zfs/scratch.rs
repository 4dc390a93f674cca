//! The datasets that a drill makes, and how they are removed again.
//!
//! A container, marked from its first moment, and what is received below it. They are
//! removed piece by piece and never with everything below: a snapshot or dataset that
//! somebody else put there makes the removal fail, as it should.

use std::path::Path;

use homelab_common::error_chain::Chain;
use tracing::warn;

use super::ZfsTarget;
use crate::{
    ids::RunId,
    source::zfs::{ZfsError, inventory::own_mark, names::DatasetName},
};

/// How the name of a scratch dataset begins; the run's identifier follows.
pub const PREFIX: &str = "homelab-drill-";

/// The user property that says whose it is: the run's identifier and the host of the
/// agent. Whatever lacks it is not ours.
pub const MARK: &str = "homelab:drill";

/// The dataset below the container that streams are received into.
const DATA: &str = "data";

/// The datasets of one drill.
pub(super) struct Scratch<'t> {
    target: &'t ZfsTarget,
    run: RunId,
    /// What streams are received into.
    pub(super) data: DatasetName,
}

impl<'t> Scratch<'t> {
    pub(super) fn make(target: &'t ZfsTarget, run: RunId) -> Result<Self, ZfsError> {
        let container = container_of(target, run)?;
        let data = child(&container, DATA)?;
        let mark = format!("{MARK}={}", text_of(run, &target.owner));
        let words = ["create", "-o", "mountpoint=none", "-o", &mark, container.as_str()];
        target.zfs.ask(&format!("make the scratch dataset `{container}`"), words)?;
        Ok(Self { target, run, data })
    }

    /// Mounts what was received at the empty folder `path`, for as long as `look` takes.
    pub(super) fn mounted<T>(&self, path: &Path, look: impl FnOnce() -> T) -> Result<T, ZfsError> {
        let zfs = &self.target.zfs;
        zfs.set(self.data.as_str(), "readonly=on")?;
        // Some versions mount when the property is set, some do not.
        zfs.set(self.data.as_str(), &format!("mountpoint={}", path.display()))?;
        let is_mounted = || {
            let dataset = zfs.dataset(&self.data)?;
            Ok::<_, ZfsError>(dataset.value("mounted") == Some("yes"))
        };
        if !is_mounted()? {
            zfs.ask(&format!("mount `{}`", self.data), ["mount", self.data.as_str()])?;
        }
        let seen = look();
        zfs.ask(&format!("unmount `{}`", self.data), ["unmount", self.data.as_str()])?;
        Ok(seen)
    }

    /// Removes all of it. What cannot be removed is left to the sweeper.
    pub(super) fn remove(self) {
        if let Err(error) = remove(self.target, self.run) {
            warn!(
                target_name = %self.target.name, run = %self.run, error = %Chain(&error),
                "could not remove what a drill made; the sweeper will"
            );
        }
    }
}

/// Removes what drills left below the parent whose run `is_alive` denies. A dataset
/// needs our name *and* our mark with the same run in both.
pub(super) fn sweep(
    target: &ZfsTarget,
    is_alive: impl Fn(RunId) -> bool,
) -> Result<Vec<String>, ZfsError> {
    let mut removed = Vec::new();
    for name in target.zfs.dataset(&target.parent)?.children {
        let last = name.rsplit('/').next().unwrap_or_default();
        let run = last.strip_prefix(PREFIX).and_then(|run| run.parse::<RunId>().ok());
        let Some(run) = run.filter(|run| !is_alive(*run)) else { continue };
        match remove(target, run) {
            Ok(()) => removed.push(name),
            Err(ZfsError::NotScratch { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(removed)
}

fn remove(target: &ZfsTarget, run: RunId) -> Result<(), ZfsError> {
    let (zfs, container) = (&target.zfs, container_of(target, run)?);
    let mark = own_mark(&zfs.properties(&container)?, MARK).map(str::to_owned);
    if mark != Some(text_of(run, &target.owner)) {
        return Err(ZfsError::NotScratch { name: container.to_string() });
    }
    let data = child(&container, DATA)?;
    if let Some(received) = zfs.find(&data)? {
        if received.value("mounted") == Some("yes") {
            zfs.ask(&format!("unmount `{data}`"), ["unmount", data.as_str()])?;
        }
        for snapshot in &received.snapshots {
            destroy(target, &data.at(&snapshot.name))?;
        }
        destroy(target, data.as_str())?;
    }
    destroy(target, container.as_str())
}

fn destroy(target: &ZfsTarget, full: &str) -> Result<(), ZfsError> {
    target.zfs.ask(&format!("destroy `{full}`"), ["destroy", full]).map(drop)
}

fn container_of(target: &ZfsTarget, run: RunId) -> Result<DatasetName, ZfsError> {
    child(&target.parent, &format!("{PREFIX}{run}"))
}

fn child(parent: &DatasetName, name: &str) -> Result<DatasetName, ZfsError> {
    let too_long = |_| ZfsError::NotScratch { name: format!("{parent}/{name}") };
    parent.child(name).map_err(too_long)
}

/// One plain word: it is compared as a whole.
fn text_of(run: RunId, owner: &str) -> String {
    format!("{run}:{owner}")
}
