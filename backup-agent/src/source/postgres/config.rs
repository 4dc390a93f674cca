//! The configuration of PostgreSQL sources and of servers to drill on.

use std::{fmt, path::PathBuf};

use homelab_common::{
    config::{Allowed, Section, Value, parse},
    secret::Source as SecretSource,
};

use super::{Databases, Limits};

/// Where Debian puts each major version of PostgreSQL's programs.
const CLIENTS: &str = "/usr/lib/postgresql";

/// The modes of libpq (postgresql.org/docs/current/libpq-ssl.html).
const TLS_MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

/// `[postgres]`: what holds for all servers.
#[derive(Clone, Debug)]
pub struct ToolsConfig {
    /// Where PostgreSQL's programs are.
    pub clients: PathBuf,
    /// Bounds on them.
    pub limits: Limits,
}

impl ToolsConfig {
    /// Reads the table; problems go into the report.
    #[must_use]
    pub fn read(section: &Section<'_>) -> Self {
        let default = Limits::default();
        let clients = section.or("clients", CLIENTS.into(), parse::path);
        let limits = Limits {
            run_max: section.or("run-max", default.run_max, parse::duration),
            lock_wait: section.or("lock-wait", default.lock_wait, parse::duration),
            step_max: section.or("step-max", default.step_max, parse::duration),
            sessions: section.or("sessions", default.sessions, parse::integer(1..=16)),
        };
        Self { clients, limits }
    }
}

impl fmt::Display for ToolsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "clients = \"{}\"", self.clients.display())?;
        writeln!(f, "run-max = \"{}\"", parse::show_duration(self.limits.run_max))?;
        writeln!(f, "lock-wait = \"{}\"", parse::show_duration(self.limits.lock_wait))?;
        writeln!(f, "step-max = \"{}\"", parse::show_duration(self.limits.step_max))?;
        writeln!(f, "sessions = {}", self.limits.sessions)
    }
}

/// Databases to back up.
#[derive(Clone, Debug)]
pub struct PostgresConfig {
    /// How to reach them.
    pub server: ServerConfig,
    /// Which.
    pub databases: Databases,
}

impl PostgresConfig {
    /// Reads the keys of a `[[backup]]`; problems go into the report.
    #[must_use]
    pub fn read(section: &Section<'_>) -> Option<Self> {
        let one = section.optional("database", parse::string);
        let databases = match one {
            Some(one) => {
                section.optional("databases", |_: &Value<'_>| -> Result<(), Allowed> {
                    Err(Allowed::new("nothing: there is `database` already"))
                });
                Some(Databases::One(one))
            }
            None => match section.optional("databases", several) {
                Some(several) => Some(several),
                None => section.required("database", parse::string).map(Databases::One),
            },
        };
        let entry = databases.as_ref().map(|databases| databases.entry().to_owned());
        Some(Self { server: ServerConfig::read(section, entry)?, databases: databases? })
    }
}

fn several(value: &Value<'_>) -> Result<Databases, Allowed> {
    if value.as_str() == Some("all") {
        return Ok(Databases::All);
    }
    let name = |item: &Value<'_>| item.as_str().filter(|name| !name.is_empty()).map(str::to_owned);
    let names: Option<Vec<String>> =
        value.as_list().and_then(|items| items.iter().map(name).collect());
    names
        .filter(|names| !names.is_empty())
        .map(Databases::Named)
        .ok_or_else(|| Allowed::new("a list of names, or \"all\""))
}

impl fmt::Display for PostgresConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.server.fmt(f)?;
        match &self.databases {
            Databases::One(_) => Ok(()),
            Databases::Named(names) => writeln!(f, "databases = {names:?}"),
            Databases::All => writeln!(f, "databases = \"all\""),
        }
    }
}

/// How to reach a PostgreSQL server.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Host name, address, or folder of a Unix socket.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Role.
    pub user: String,
    /// Its password.
    pub password: Option<SecretSource>,
    /// Database.
    pub database: String,
    /// libpq's `sslmode`.
    pub tls_mode: Option<String>,
    /// Certificates to check the server's against.
    pub tls_root: Option<PathBuf>,
}

impl ServerConfig {
    /// Reads the keys of a server; problems go into the report.
    #[must_use]
    pub fn read(section: &Section<'_>, database: Option<String>) -> Option<Self> {
        let host = section.required("host", parse::string);
        let port = section.or("port", 5432, parse::integer(1..=u16::MAX));
        let user = section.required("user", parse::string);
        let password = section.optional("password", parse::secret_source);
        let modes = TLS_MODES.map(|mode| (mode, mode.to_owned()));
        let tls_mode = section.optional("tls-mode", parse::word(&modes));
        let tls_root = section.optional("tls-root", parse::path);
        Some(Self {
            host: host?,
            port,
            user: user?,
            password,
            database: database?,
            tls_mode,
            tls_root,
        })
    }
}

impl fmt::Display for ServerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "host = \"{}\"\nport = {}", self.host, self.port)?;
        writeln!(f, "user = \"{}\"\ndatabase = \"{}\"", self.user, self.database)?;
        if let Some(password) = &self.password {
            writeln!(f, "password = \"{password}\"")?;
        }
        if let Some(mode) = &self.tls_mode {
            writeln!(f, "tls-mode = \"{mode}\"")?;
        }
        match &self.tls_root {
            Some(root) => writeln!(f, "tls-root = \"{}\"", root.display()),
            None => Ok(()),
        }
    }
}
