//! Which of the installed client programs to use.
//!
//! `pg_dump` refuses a server newer than itself, and a dump by a much newer one may
//! not restore into the old server again. So: the lowest major version that is not
//! below the server's, chosen anew in every run, because servers get upgraded.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use homelab_common::exec::{Exec, Program};

use super::{PostgresError, fault::Fault};

/// How long a program may take to say its version.
const PROBE_DEADLINE: Duration = Duration::from_secs(20);

/// One installed version of the client programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Major version.
    pub major: u32,
    /// The folder of `pg_dump`, `pg_dumpall` and `psql`.
    pub bin: PathBuf,
    /// The full version, once probed; the major one before.
    pub version: String,
    /// Whether it knows `--restrict-key`, once probed. Without it a plain dump
    /// holds a random word since the minor releases of August 2025.
    pub restrict_keys: bool,
}

impl Client {
    /// One of its programs.
    #[must_use]
    pub fn program(&self, name: &str) -> Program {
        Program::new(self.bin.join(name).display().to_string())
    }

    /// Asks `pg_dump` what it is. Blocks.
    ///
    /// # Errors
    ///
    /// It cannot be run.
    pub fn probe(&mut self, exec: &dyn Exec) -> Result<(), PostgresError> {
        let say = |flag: &str| {
            let program = self.program("pg_dump").arg(flag).deadline(PROBE_DEADLINE);
            let stream = exec.stream(program).map_err(PostgresError::Tool)?;
            std::io::read_to_string(stream).map_err(|error| PostgresError::Query {
                what: format!("run pg_dump {flag}"),
                server: self.bin.display().to_string(),
                source: Box::new(Fault::Pipe(error)),
            })
        };
        let (version, help) = (say("--version")?, say("--help")?);
        self.version = version_in(&version).unwrap_or_else(|| version.trim()).to_owned();
        self.restrict_keys = help.contains("--restrict-key");
        Ok(())
    }
}

/// `pg_dump (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)` gives `15.13`.
fn version_in(line: &str) -> Option<&str> {
    line.split_once("(PostgreSQL) ")?.1.split_whitespace().next()
}

/// The installed versions, lowest first.
#[derive(Clone, Debug)]
pub struct Clients {
    root: PathBuf,
    clients: Vec<Client>,
}

impl Clients {
    /// Looks below `root`, where Debian puts each major version: `<root>/15/bin`.
    /// Blocks.
    #[must_use]
    pub fn discover(root: &Path) -> Self {
        let entries = fs::read_dir(root).into_iter().flatten().flatten();
        let mut clients: Vec<Client> = entries
            .filter_map(|entry| {
                let major: u32 = entry.file_name().to_str()?.parse().ok()?;
                let bin = entry.path().join("bin");
                let complete =
                    ["pg_dump", "pg_dumpall", "psql"].iter().all(|name| bin.join(name).is_file());
                let version = major.to_string();
                complete.then_some(Client { major, bin, version, restrict_keys: false })
            })
            .collect();
        clients.sort_by_key(|client| client.major);
        Self { root: root.to_owned(), clients }
    }

    /// The newest, to ask a server what it is and to feed a dump to.
    ///
    /// # Errors
    ///
    /// None is installed.
    pub fn newest(&self) -> Result<&Client, PostgresError> {
        self.clients.last().ok_or_else(|| PostgresError::NoClients { root: self.root.clone() })
    }

    /// The one to dump a server of this major version with.
    ///
    /// # Errors
    ///
    /// All are too old.
    pub fn choose(&self, server_major: u32) -> Result<&Client, PostgresError> {
        let mut fitting = self.clients.iter().filter(|client| client.major >= server_major);
        fitting.next().ok_or_else(|| {
            let found: Vec<_> =
                self.clients.iter().map(|client| client.major.to_string()).collect();
            let found = match found.as_slice() {
                [] => "none is installed".to_owned(),
                found => format!("only {} is installed", found.join(" and ")),
            };
            PostgresError::NoClient { server_major, found }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(majors: &[u32]) -> Clients {
        let client = |major: &u32| Client {
            major: *major,
            bin: PathBuf::new(),
            version: major.to_string(),
            restrict_keys: false,
        };
        Clients { root: PathBuf::new(), clients: majors.iter().map(client).collect() }
    }

    #[test]
    fn the_lowest_version_that_is_not_below_the_server_is_chosen() {
        let clients = clients(&[13, 15, 17]);
        for (server, chosen) in [(12, 13), (13, 13), (14, 15), (16, 17)] {
            assert_eq!(clients.choose(server).expect("a client").major, chosen);
        }
    }

    #[test]
    fn a_server_that_is_too_new_is_refused_with_the_package_to_install() {
        let message = clients(&[13, 15]).choose(18).expect_err("refused").to_string();
        assert!(message.contains("only 13 and 15 is installed"), "{message}");
        assert!(message.contains("apt install postgresql-client-18"), "{message}");
    }

    #[test]
    fn the_version_is_found_in_what_debian_prints() {
        let line = "pg_dump (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)\n";
        assert_eq!(version_in(line), Some("15.13"));
        assert_eq!(version_in("nonsense"), None);
    }
}
