//! A PostgreSQL whose commits survive a power cut, on a real file system.

use std::path::Path;

use anyhow::{Context as _, ensure};
use nix::unistd::{User, chown, geteuid};

use crate::{
    postgres::{Cluster, MAJOR, as_postgres, run},
    process::{command, output},
};

/// A cluster of the lab, moved from memory to the disk. Dropped, it is stopped and removed.
#[derive(Debug)]
pub(super) struct Durable {
    cluster: Cluster,
    folder: tempfile::TempDir,
}

impl Durable {
    /// Starts it below the system's folder for temporary files.
    pub(super) fn start(cache: &Path) -> anyhow::Result<Self> {
        let cluster = Cluster::start("queue", cache);
        let folder = tempfile::tempdir().context("make a folder")?;
        if geteuid().is_root() {
            let user = User::from_name("postgres")?.context("the user `postgres`")?;
            chown(folder.path(), Some(user.uid), Some(user.gid)).context("give the folder away")?;
        }
        let in_memory = cluster.sql("postgres", "show data_directory");
        run(as_postgres(MAJOR, "pg_ctl").args(["-D", &in_memory, "-w", "-m", "fast", "stop"]));
        let durable = Self { cluster, folder };
        output(command("cp").args(["-a", &in_memory, &durable.data()]))?;
        let place = durable.folder.path().display();
        let options = format!(
            "-c port={} -c listen_addresses=127.0.0.1 -c unix_socket_directories={place} -c fsync=on \
             -c synchronous_commit=on -c shared_buffers=128MB -c max_connections=40",
            durable.cluster.port()
        );
        run(as_postgres(MAJOR, "pg_ctl")
            .args(["-D", &durable.data(), "-l", &format!("{place}/log")])
            .args(["-w", "-t", "60", "-o", &options, "start"]));
        let sql = |sql| durable.cluster.sql("postgres", sql);
        ensure!(sql("show fsync") == "on", "fsync is not on");
        ensure!(sql("show data_directory") == durable.data(), "another cluster answers");
        Ok(durable)
    }

    /// The cluster, to talk to.
    pub(super) const fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    fn data(&self) -> String {
        self.folder.path().join("data").display().to_string()
    }
}

impl Drop for Durable {
    fn drop(&mut self) {
        let stop =
            as_postgres(MAJOR, "pg_ctl").args(["-D", &self.data(), "-m", "immediate", "stop"]);
        run(stop.accept([0, 1]));
    }
}

/// The kind of file system that a folder lies on, in words of stat(1).
pub(super) fn file_system(folder: &Path) -> anyhow::Result<String> {
    let kind = output(command("stat").args(["--file-system", "--format=%T"]).arg(folder))?;
    let kind = kind.trim().to_owned();
    ensure!(
        kind != "tmpfs",
        "{} lies in memory: set TMPDIR to a folder on a disk",
        folder.display()
    );
    Ok(kind)
}
