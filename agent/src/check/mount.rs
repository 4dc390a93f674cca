//! Looks at a mount: is the path a mount point, of the right type, and does it answer.

use std::sync::Arc;

use nix::sys::statvfs::statvfs;

use crate::check::{Finding, Runner};
use crate::health::{Access, Mount, mounts};
use crate::reading::{Missing, Reading};

/// A mount.
#[derive(Clone, Debug, PartialEq)]
pub struct MountProbe {
    /// Absolute path that must be a mount point.
    pub path: String,
    /// Types that pass; empty takes any.
    pub types: Vec<String>,
}

pub(super) async fn run(probe: &MountProbe, runner: &Runner) -> Finding {
    let mounts = match mounts(&runner.roots.proc) {
        Ok(mounts) => mounts,
        Err(why) => return Finding::unknown("NOT_READABLE", why.to_string()),
    };
    let mount = match find(probe, &mounts) {
        Ok(mount) => mount,
        Err(finding) => return finding,
    };
    let observed = describe(mount);
    let point = mount.point.clone();
    match runner.filesystem.run(&mount.point, move || answers(&point)).await {
        Ok(()) => Finding::passed(observed),
        Err(why @ Missing::Hung { .. }) => {
            Finding::failed("MOUNT_HANGS", format!("{observed}: {why}"))
        }
        Err(why @ Missing::ProbesExhausted(_)) => {
            Finding::unknown("FILESYSTEM_HANGS", why.to_string())
        }
        Err(why) => Finding::failed("MOUNT_BROKEN", format!("{observed}: {why}")),
    }
}

fn find<'m>(probe: &MountProbe, mounts: &'m [Mount]) -> Result<&'m Mount, Finding> {
    let path = match probe.path.trim_end_matches('/') {
        "" => "/",
        path => path,
    };
    // What was mounted last lies on top.
    let Some(mount) = mounts.iter().rfind(|mount| mount.point == path) else {
        let observed = format!("nothing is mounted at {path}");
        return Err(Finding::failed("NOT_MOUNTED", observed));
    };
    if !probe.types.is_empty() && !probe.types.contains(&mount.kind) {
        let wanted = probe.types.join(" or ");
        let observed = format!("{}, and not {wanted}", describe(mount));
        return Err(Finding::failed("WRONG_FILESYSTEM", observed));
    }
    Ok(mount)
}

fn describe(mount: &Mount) -> String {
    let access = match mount.access {
        Access::Writable => "writable",
        Access::ReadOnly => "read-only",
        Access::ForcedReadOnly => "made read-only by the kernel",
    };
    format!("{} is {} from {}, {access}", mount.point, mount.kind, mount.source)
}

/// A mount whose server is gone is still in the table; asking it for its room tells.
fn answers(point: &str) -> Reading<()> {
    match statvfs(point) {
        Ok(_) => Ok(()),
        Err(errno) => Err(Missing::from_io(&Arc::from(point), &errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::run;
    use crate::check::{Outcome, Probe, Verdict};
    use crate::health::parse_mounts;

    async fn check(path: &str, types: &[&str]) -> Outcome {
        let types = types.iter().map(ToString::to_string).collect();
        run(Probe::Mount(MountProbe { path: path.to_owned(), types })).await
    }

    #[tokio::test]
    async fn the_root_is_a_mount_and_a_trailing_slash_does_not_matter() {
        assert_eq!(check("/", &[]).await.verdict, Verdict::Passed);
        assert_eq!(check("/proc/", &["proc"]).await.verdict, Verdict::Passed);
    }

    #[tokio::test]
    async fn another_type_fails_and_says_which() {
        let outcome = check("/proc", &["nfs4", "nfs"]).await;
        assert_eq!((outcome.verdict, outcome.reason), (Verdict::Failed, "WRONG_FILESYSTEM"));
        assert!(outcome.observed.contains("proc"), "{}", outcome.observed);
    }

    #[tokio::test]
    async fn a_folder_that_is_no_mount_fails() {
        let folder = tempfile::tempdir().unwrap();
        let outcome = check(&folder.path().to_string_lossy(), &[]).await;
        assert_eq!((outcome.verdict, outcome.reason), (Verdict::Failed, "NOT_MOUNTED"));
    }

    #[test]
    fn the_mount_on_top_counts() {
        let table =
            b"30 1 0:27 / /mnt rw - ext4 /dev/sda1 rw\n31 30 0:28 / /mnt rw - nfs4 nas:/x rw\n";
        let mounts = parse_mounts(table);
        let probe = MountProbe { path: "/mnt".to_owned(), types: vec!["ext4".to_owned()] };
        assert_eq!(find(&probe, &mounts).unwrap_err().reason, "WRONG_FILESYSTEM");
    }
}
