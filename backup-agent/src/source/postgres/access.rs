//! How to reach a server, with the password in a file.
//!
//! Never on a command line, which every user of the machine can read, and not in
//! the environment either: libpq reads a password file that only its owner may
//! read (postgresql.org/docs/current/libpq-pgpass.html).

use std::{
    fmt,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use homelab_common::{exec::Program, secret::Secret};

use super::{PostgresError, Tools};
use crate::ids::RunId;

/// Seconds that libpq waits for a connection.
const CONNECT_SECS: &str = "15";

/// A server that is gone without a word is noticed within two minutes, where the
/// system's own default is two hours (postgresql.org/docs/current/libpq-connect.html).
/// There are no variables for these, and what a server must be told is in variables.
const KEEP_ALIVE: &str = "keepalives=1 keepalives_idle=30 keepalives_interval=10 \
     keepalives_count=6 tcp_user_timeout=90000";

/// A server to connect to.
#[derive(Clone, Debug)]
pub struct Server {
    /// Host name, address, or the folder of a Unix socket.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Role to connect as.
    pub user: String,
    /// Its password, unless the server asks for none.
    pub password: Option<Secret<String>>,
    /// libpq's `sslmode`; absent leaves libpq's own choice.
    pub tls_mode: Option<String>,
    /// Certificates to check the server's against.
    pub tls_root: Option<PathBuf>,
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// What a client program needs to connect, for as long as this value lives.
#[derive(Debug)]
pub struct Access {
    folder: PrivateFolder,
    variables: Vec<(&'static str, String)>,
    server: String,
}

impl Access {
    /// Writes the password file and collects the variables. Blocks.
    ///
    /// # Errors
    ///
    /// The private folder could not be made.
    pub fn open(
        server: &Server,
        database: &str,
        run: RunId,
        tools: &Tools,
    ) -> Result<Self, PostgresError> {
        let failed = |source| PostgresError::Scratch { path: tools.scratch.clone(), source };
        let folder = PrivateFolder::make(&tools.scratch, run).map_err(failed)?;
        let mut variables = vec![
            ("PGHOST", server.host.clone()),
            ("PGPORT", server.port.to_string()),
            ("PGUSER", server.user.clone()),
            // By variable: as an argument a name with `=` would be read as settings.
            ("PGDATABASE", database.to_owned()),
            ("PGAPPNAME", format!("homelab-backup-agent {run}")),
            ("PGCONNECT_TIMEOUT", CONNECT_SECS.to_owned()),
            ("LC_ALL", "C.UTF-8".to_owned()),
        ];
        if let Some(password) = &server.password {
            let file = folder.path().join("pgpass");
            write_private(&file, &pgpass_line(password)).map_err(failed)?;
            variables.push(("PGPASSFILE", file.display().to_string()));
        }
        if let Some(mode) = &server.tls_mode {
            variables.push(("PGSSLMODE", mode.clone()));
        }
        if let Some(root) = &server.tls_root {
            variables.push(("PGSSLROOTCERT", root.display().to_string()));
        }
        Ok(Self { folder, variables, server: format!("{server}, database `{database}`") })
    }

    /// The program, able to connect.
    #[must_use]
    pub fn apply(&self, program: Program) -> Program {
        let program =
            program.args(["--no-password", "--dbname", KEEP_ALIVE]).directory(self.folder.path());
        self.variables.iter().fold(program, |program, (name, value)| program.env(*name, value))
    }

    /// The server and database, for people.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }
}

/// One line for every server and role: the file serves one connection only.
fn pgpass_line(password: &Secret<String>) -> Secret<String> {
    let escaped = password.expose().replace('\\', r"\\").replace(':', r"\:");
    Secret::new(format!("*:*:*:*:{escaped}\n"))
}

fn write_private(path: &Path, text: &Secret<String>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.expose().as_bytes())
}

/// A folder for its owner only, removed when dropped.
#[derive(Debug)]
pub(crate) struct PrivateFolder(PathBuf);

impl PrivateFolder {
    pub(crate) fn make(parent: &Path, run: RunId) -> io::Result<Self> {
        // Several connections of one run, each with its own folder.
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("{run}-{number}"));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PrivateFolder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "could not remove a private folder");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colons_and_backslashes_in_a_password_are_escaped() {
        let line = pgpass_line(&Secret::new(r"a:b\c".to_owned()));
        assert_eq!(line.expose(), "*:*:*:*:a\\:b\\\\c\n");
    }
}
