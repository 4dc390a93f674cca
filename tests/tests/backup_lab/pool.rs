//! Two real pools of zfs-fuse on files, in a mount namespace of their own.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, time::Duration};

use anyhow::{Context as _, ensure};
use homelab_tests::{
    backup_lab::BackupLab,
    process::{Process, command, output},
    wait::{Look, wait_for},
};

/// Starts the daemon where its sockets and caches are nobody else's.
const DAEMON: &str = "\
#!/bin/sh
set -e
for folder in /run/zfs /run/lock/zfs /var/lib/zfs; do
    mkdir -p $folder
    mount -t tmpfs zfs-test $folder
done
exec zfs-fuse --no-daemon --no-kstat-mount --pidfile /run/zfs/pid
";

/// The pools `tank` and `safe`; they end with their daemon.
pub(crate) struct Pool {
    /// The program to give to the agent.
    pub(crate) zfs: PathBuf,
    inside: PathBuf,
    _daemon: Process,
}

impl Pool {
    /// None where it cannot be: without root, or without FUSE.
    pub(crate) fn start(lab: &BackupLab) -> anyhow::Result<Option<Self>> {
        if !nix::unistd::geteuid().is_root() || !fs::exists("/dev/fuse")? {
            return Ok(None);
        }
        ensure!(fs::exists("/usr/sbin/zfs-fuse")?, "install it: apt install zfs-fuse");
        let daemon = script(lab, "pool/daemon", DAEMON)?;
        let mut start = command("unshare");
        start.args(["--mount", "--propagation", "private"]).arg(daemon);
        let daemon = Process::start("zfs-fuse", &lab.path("logs"), &mut start)?;
        let enter = format!("#!/bin/sh\nexec nsenter --mount=/proc/{}/ns/mnt -- ", daemon.pid());
        let zfs = script(lab, "pool/zfs", &format!("{enter}zfs \"$@\"\n"))?;
        let inside = script(lab, "pool/in", &format!("{enter}\"$@\"\n"))?;
        let pool = Self { zfs, inside, _daemon: daemon };
        wait_for("zfs-fuse", Duration::from_secs(60), || {
            pool.tell(&["zpool", "list"]).map(Look::Ready)
        })?;
        for (name, file) in [("tank", "pool/a"), ("safe", "pool/b")] {
            let disk = lab.path(file);
            fs::File::create(&disk).and_then(|it| it.set_len(96 << 20)).context("a file")?;
            let (disk, below) = (disk.display().to_string(), lab.path(name).display().to_string());
            pool.tell(&["zpool", "create", "-f", "-m", &below, name, &disk])?;
        }
        pool.tell(&["zfs", "create", "tank/vault"])?;
        pool.tell(&["zfs", "create", "safe/drill"])?;
        Ok(Some(pool))
    }

    /// Runs a program where the pools are mounted.
    pub(crate) fn tell(&self, words: &[&str]) -> anyhow::Result<String> {
        output(command(&self.inside).args(words))
    }
}

fn script(lab: &BackupLab, name: &str, text: &str) -> anyhow::Result<PathBuf> {
    let path = lab.write(name, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).context("chmod")?;
    Ok(path)
}
