//! A repository on a server that speaks SFTP.
//!
//! The system's `ssh` carries it, with the host key pinned: the file of known hosts is
//! named in the configuration, an unknown or a changed key is refused, and nothing is
//! ever added to the file. The folder there has an identity file like any other place.
//! Rights that this host must not have (deleting, above all) are a matter of the
//! account on the server.

mod session;
mod wire;

use std::{
    fmt, io,
    path::PathBuf,
    str::FromStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use homelab_common::exec::{Exec, Program};
use jiff::Timestamp;
use ring::rand::{SecureRandom, SystemRandom};
use uuid::Uuid;

use super::{
    identity::{FILE_NAME, GuardError, Site, Transport, recognise},
    mount::Mount,
    probe::{self, CANARY_BYTES, Grade, Steps},
    storage::{Listed, Range, Storage, TEMPORARY, folder::random_suffix, split},
};
use session::Session;

/// A connection that is kept is never older: keys and accounts change.
const CONNECTION_MAX: Duration = Duration::from_secs(24 * 3600);

/// How long `ssh` may take to connect, and how long a server may be silent.
const CONNECT_SECONDS: u32 = 15;

const PORT: u16 = 22;

/// `sftp://user@host[:port]/path`; the path is absolute on the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Account.
    pub user: String,
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Folder.
    pub path: String,
}

/// Not an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an address as `sftp://user@host[:port]/folder`")]
pub struct InvalidAddress;

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let rest = text.strip_prefix("sftp://").ok_or(InvalidAddress)?;
        let (server, path) = rest.split_once('/').ok_or(InvalidAddress)?;
        let (user, server) = server.rsplit_once('@').ok_or(InvalidAddress)?;
        let (host, port) = match server.rsplit_once(':') {
            // An IPv6 address stands in brackets.
            Some((host, port)) if !port.ends_with(']') => {
                (host, port.parse().map_err(|_| InvalidAddress)?)
            }
            _ => (server, PORT),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        // They become arguments of ssh: nothing that could be an option or a space.
        let is_plain = |text: &str| {
            !text.is_empty()
                && !text.starts_with('-')
                && text.chars().all(|c| c.is_ascii_alphanumeric() || ".-_:".contains(c))
        };
        let path = path.trim_end_matches('/');
        if !is_plain(user) || !is_plain(host) || path.is_empty() || path.contains('\0') {
            return Err(InvalidAddress);
        }
        let (user, host) = (user.to_owned(), host.to_owned());
        Ok(Self { user, host, port, path: format!("/{path}") })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user, host, port, path } = self;
        let bracketed = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        if *port == PORT {
            write!(f, "sftp://{user}@{bracketed}{path}")
        } else {
            write!(f, "sftp://{user}@{bracketed}:{port}{path}")
        }
    }
}

/// How to reach a server.
#[derive(Clone, Debug)]
pub struct Login {
    /// Where.
    pub address: Address,
    /// The private key; without one, whatever `ssh` finds for the daemon's account.
    pub key: Option<PathBuf>,
    /// The file with the server's pinned key, in the form of `known_hosts`.
    pub known_hosts: PathBuf,
}

impl Login {
    /// The program that connects. It asks nobody anything, reads no configuration of
    /// the account, and trusts no key but the pinned one.
    #[must_use]
    pub fn program(&self) -> Program {
        let Address { user, host, port, .. } = &self.address;
        let known_hosts = format!("UserKnownHostsFile={}", self.known_hosts.display());
        let connect = format!("ConnectTimeout={CONNECT_SECONDS}");
        let alive = format!("ServerAliveInterval={CONNECT_SECONDS}");
        let mut program = Program::new("ssh").args(["-F", "none", "-T", "-a", "-x"]);
        for option in [
            "BatchMode=yes",
            "StrictHostKeyChecking=yes",
            "GlobalKnownHostsFile=none",
            "UpdateHostKeys=no",
            "CheckHostIP=no",
            "PermitLocalCommand=no",
            "ServerAliveCountMax=2",
            &known_hosts,
            &connect,
            &alive,
        ] {
            program = program.args(["-o", option]);
        }
        if let Some(key) = &self.key {
            let key = key.display().to_string();
            program = program.args(["-o", "IdentitiesOnly=yes", "-i", &key]);
        }
        let port = port.to_string();
        program.args(["-p", &port, "-l", user, "-s", "--", host, "sftp"]).deadline(CONNECTION_MAX)
    }
}

/// A folder on a server, and how to know it.
pub struct SftpSite {
    id: Uuid,
    location: String,
    root: String,
    known_hosts: Option<PathBuf>,
    exec: Arc<dyn Exec>,
    program: Program,
    /// Kept from one call to the next.
    session: Arc<Mutex<Option<Session>>>,
}

impl SftpSite {
    /// The repository `id` behind a login.
    #[must_use]
    pub fn new(login: &Login, id: Uuid, exec: Arc<dyn Exec>) -> Self {
        Self {
            id,
            location: login.address.to_string(),
            root: login.address.path.clone(),
            known_hosts: Some(login.known_hosts.clone()),
            exec,
            program: login.program(),
            session: Arc::default(),
        }
    }

    /// Through a program that speaks SFTP itself, such as OpenSSH's `sftp-server`.
    #[must_use]
    pub fn through(program: Program, root: &str, id: Uuid, exec: Arc<dyn Exec>) -> Self {
        Self {
            id,
            location: format!("sftp:{root}"),
            root: root.to_owned(),
            known_hosts: None,
            exec,
            program: program.deadline(CONNECTION_MAX),
            session: Arc::default(),
        }
    }

    fn connect(&self) -> Result<Sftp, GuardError> {
        let mut session = lock(&self.session);
        if session.is_none() {
            let opened = Session::open(self.exec.as_ref(), self.program.clone());
            *session = Some(opened.map_err(|error| self.refused(error))?);
        }
        let (session, location) = (Arc::clone(&self.session), self.location.clone());
        Ok(Sftp { session, location, root: self.root.clone() })
    }

    fn refused(&self, source: io::Error) -> GuardError {
        let text = source.to_string();
        let location = self.location.clone();
        match &self.known_hosts {
            // ssh has no exit code of its own for it.
            Some(known_hosts) if text.contains("Host key verification failed") => {
                GuardError::HostKey { location, known_hosts: known_hosts.clone() }
            }
            _ => GuardError::NoConnection { location, source },
        }
    }
}

impl Site for SftpSite {
    fn location(&self) -> String {
        self.location.clone()
    }

    fn id(&self) -> Uuid {
        self.id
    }

    fn transport(&self) -> Transport {
        Transport::Sftp
    }

    fn enter(&self) -> Result<Arc<dyn Storage>, GuardError> {
        let read = |sftp: &Sftp| super::storage::read_if_there(sftp, FILE_NAME);
        let sftp = self.connect()?;
        let (sftp, text) = match read(&sftp) {
            Ok(text) => (sftp, text),
            // A connection that was kept may have died since.
            Err(_) if lock(&self.session).is_none() => {
                let sftp = self.connect()?;
                let text = read(&sftp).map_err(|error| self.refused(error))?;
                (sftp, text)
            }
            Err(error) => return Err(self.refused(error)),
        };
        recognise(self.root.as_ref(), text.as_deref(), self.id)?;
        Ok(Arc::new(sftp))
    }

    fn enter_empty(&self) -> Result<Arc<dyn Storage>, GuardError> {
        let sftp = self.connect()?;
        let entries = sftp.call(|session, root| session.list(root));
        if entries.map_err(|error| self.refused(error))?.is_empty() {
            return Ok(Arc::new(sftp));
        }
        Err(GuardError::NotEmpty { path: self.root.clone().into() })
    }

    fn mount(&self) -> io::Result<Option<Mount>> {
        Ok(Some(Mount {
            mount_point: self.root.clone().into(),
            filesystem: "sftp".to_owned(),
            source: self.location.clone(),
            device: String::new(),
        }))
    }
}

impl fmt::Debug for SftpSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SftpSite").field("location", &self.location).finish_non_exhaustive()
    }
}

/// The folder behind a connection.
struct Sftp {
    session: Arc<Mutex<Option<Session>>>,
    location: String,
    root: String,
}

impl Sftp {
    /// One question after the other; a connection that failed is not used again.
    fn call<T>(&self, ask: impl FnOnce(&mut Session, &str) -> io::Result<T>) -> io::Result<T> {
        let mut session = lock(&self.session);
        let Some(open) = session.as_mut() else {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "the SFTP connection ended"));
        };
        let outcome = ask(open, &self.root);
        // What the server says of a file leaves the connection as it was.
        if outcome.as_ref().is_err_and(is_of_the_connection) {
            *session = None;
        }
        outcome
    }

    fn at<T>(
        &self,
        path: &str,
        ask: impl FnOnce(&mut Session, &str) -> io::Result<T>,
    ) -> io::Result<T> {
        self.call(|session, root| match path {
            "" => ask(session, root),
            path => ask(session, &format!("{root}/{path}")),
        })
    }

    /// OpenSSH says only "Failure" of a full disk.
    fn perhaps_full(&self, error: io::Error, wanted: usize) -> io::Error {
        if error.kind() != io::ErrorKind::Other {
            return error;
        }
        match self.available_bytes() {
            Ok(Some(available)) if available < wanted as u64 => {
                io::Error::new(io::ErrorKind::StorageFull, error)
            }
            _ => error,
        }
    }
}

fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{
        AlreadyExists, NotFound, Other, PermissionDenied, StorageFull, UnexpectedEof, Unsupported,
    };
    !matches!(
        error.kind(),
        AlreadyExists
            | NotFound
            | Other
            | PermissionDenied
            | StorageFull
            | UnexpectedEof
            | Unsupported
    )
}

impl Storage for Sftp {
    fn location(&self) -> String {
        self.location.clone()
    }

    fn list(&self, folder: &str) -> io::Result<Vec<Listed>> {
        let entries = self.at(folder, |session, path| session.list(path))?;
        let files = entries.into_iter().filter(|entry| entry.attributes.is_file());
        let listed = files.map(|entry| Listed {
            name: entry.name,
            bytes: entry.attributes.bytes,
            modified_at: entry
                .attributes
                .modified
                .and_then(|second| Timestamp::from_second(second.into()).ok()),
        });
        Ok(listed.collect())
    }

    fn bytes_of(&self, path: &str) -> io::Result<u64> {
        self.at(path, |session, path| session.attributes(path)).map(|attributes| attributes.bytes)
    }

    fn read(&self, path: &str) -> io::Result<Bytes> {
        self.at(path, |session, path| {
            let bytes = session.attributes(path)?.bytes;
            let length = usize::try_from(bytes).map_err(io::Error::other)?;
            session.read(path, 0, length).map(Bytes::from)
        })
    }

    fn read_range(&self, path: &str, range: Range) -> io::Result<Bytes> {
        self.at(path, |session, path| {
            session.read(path, range.offset, range.length).map(Bytes::from)
        })
    }

    /// What the server remembers cannot be dropped from here; that it has the bytes can
    /// be seen.
    fn read_back(&self, path: &str) -> io::Result<Bytes> {
        self.read(path)
    }

    fn write(&self, path: &str, content: Bytes) -> io::Result<()> {
        let temporary = format!("{path}{TEMPORARY}{}", random_suffix()?);
        let write = || self.at(&temporary, |session, path| session.write_new(path, &content));
        let written = match write() {
            // As in a local folder: the last one may be missing, never what is above it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_folder(split(path).0)?;
                write()
            }
            outcome => outcome,
        };
        let renamed = written.and_then(|_| {
            self.call(|session, root| {
                session.rename(&format!("{root}/{temporary}"), &format!("{root}/{path}"))
            })
        });
        renamed.map_err(|error| {
            let error = self.perhaps_full(error, content.len());
            // What failed may have left nothing to remove; the first error says why.
            drop(self.remove(&temporary));
            error
        })
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.at(path, |session, path| session.remove(path))
    }

    fn make_folder(&self, path: &str) -> io::Result<()> {
        self.at(path, |session, path| session.make_folder(path))
    }

    fn probe(&self) -> io::Result<Grade> {
        let mut noise = vec![0; CANARY_BYTES];
        SystemRandom::new()
            .fill(&mut noise)
            .map_err(|_| io::Error::other("the system gives no random numbers"))?;
        probe::grade(&Canaries(self), &random_suffix()?, &noise)
    }

    fn available_bytes(&self) -> io::Result<Option<u64>> {
        let room = self.call(|session, root| session.room(root))?;
        Ok(room.map(|room| room.available_bytes))
    }

    fn is_writable(&self) -> io::Result<bool> {
        let room = self.call(|session, root| session.room(root))?;
        Ok(room.is_none_or(|room| room.is_writable))
    }
}

impl fmt::Debug for Sftp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sftp").field("location", &self.location).finish_non_exhaustive()
    }
}

struct Canaries<'a>(&'a Sftp);

impl Steps for Canaries<'_> {
    fn write_flushed(&self, name: &str, content: &[u8]) -> io::Result<bool> {
        self.0.at(name, |session, path| session.write_new(path, content))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.call(|session, root| {
            session.rename(&format!("{root}/{from}"), &format!("{root}/{to}"))
        })
    }

    /// SFTP has no word for it.
    fn flush_names(&self) -> io::Result<bool> {
        Ok(false)
    }

    fn read_back(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let content = super::storage::read_if_there(self.0, name)?;
        Ok(content.map(|content| content.to_vec()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_and_shown() {
        for (text, host, port, path) in [
            ("sftp://backup@nas/srv/homelab", "nas", 22, "/srv/homelab"),
            (
                "sftp://backup@192.168.120.10:2222/srv/homelab",
                "192.168.120.10",
                2222,
                "/srv/homelab",
            ),
            ("sftp://backup@[fd00::10]:2222/a b", "fd00::10", 2222, "/a b"),
            ("sftp://backup@[fd00::10]/srv", "fd00::10", 22, "/srv"),
        ] {
            let address: Address = text.parse().expect("an address");
            assert_eq!((address.host.as_str(), address.port), (host, port));
            assert_eq!((address.path.as_str(), address.to_string().as_str()), (path, text));
        }
        for text in [
            "/srv/homelab",
            "sftp://nas/srv",
            "sftp://-oProxyCommand=x@nas/srv",
            "sftp://backup@-oProxyCommand=x/srv",
            "sftp://backup@nas;reboot/srv",
            "sftp://backup@nas:port/srv",
            "sftp://backup@nas/",
        ] {
            assert_eq!(text.parse::<Address>(), Err(InvalidAddress), "{text}");
        }
    }

    #[test]
    fn pitfall_34_no_key_but_the_pinned_one_is_trusted_and_nobody_is_asked() {
        let login = Login {
            address: "sftp://backup@nas:2222/srv".parse().expect("an address"),
            key: Some("/etc/homelab/ssh/key".into()),
            known_hosts: "/etc/homelab/ssh/known_hosts".into(),
        };
        let argv = login.program().argv().to_string();
        for part in [
            "StrictHostKeyChecking=yes",
            "UserKnownHostsFile=/etc/homelab/ssh/known_hosts",
            "GlobalKnownHostsFile=none",
            "BatchMode=yes",
            "-p 2222 -l backup -s -- nas sftp",
        ] {
            assert!(argv.contains(part), "{part}: {argv}");
        }
    }
}
