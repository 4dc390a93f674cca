//! Real PostgreSQL clusters for tests: made by `initdb`, on a free port, gone with
//! the value.
//!
//! PostgreSQL does not run as root. Where the tests do, its programs run as the
//! user `postgres` that the Debian package makes.

use std::{
    fs,
    io::Write as _,
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use homelab_common::exec::{Exec, Program, SystemExec};

/// The major version that the tests are written for: Debian 12's.
pub const MAJOR: u32 = 15;

/// The superuser of every cluster.
pub const USER: &str = "labadmin";

/// Its password: with the characters that a password file escapes.
pub const PASSWORD: &str = r"pa:ss\word";

const INITDB_DEADLINE: Duration = Duration::from_secs(120);
const DEADLINE: Duration = Duration::from_secs(60);

/// Where Debian puts the programs of each major version.
pub const CLIENTS: &str = "/usr/lib/postgresql";

/// A running cluster on loopback with password login, without fsync. Dropped, it is
/// stopped and removed.
#[derive(Debug)]
pub struct Cluster {
    major: u32,
    folder: tempfile::TempDir,
    port: u16,
}

impl Cluster {
    /// Starts a cluster. `initdb` runs once per `kind` and its result is kept in
    /// `cache`: clusters of one kind share their system identifier, those of two
    /// kinds never do.
    ///
    /// # Panics
    ///
    /// PostgreSQL is missing or does not start.
    #[must_use]
    pub fn start(kind: &str, cache: &Path) -> Self {
        Self::start_of(MAJOR, kind, cache)
    }

    /// As [`Cluster::start`], of another major version.
    ///
    /// # Panics
    ///
    /// PostgreSQL is missing or does not start.
    #[must_use]
    pub fn start_of(major: u32, kind: &str, cache: &Path) -> Self {
        let server = bin(major, "postgres");
        let how = if major == MAJOR {
            format!("apt install postgresql-{MAJOR}")
        } else {
            "packaging/dev-postgres/install.sh".to_owned()
        };
        assert!(server.is_file(), "no {}: {how}", server.display());
        let template = template(major, kind, cache);
        let folder = scratch_folder();
        let data = folder.path().join("data");
        run(Program::new("cp").args(["-a", &text(&template), &text(&data)]));
        let mut cluster = Self { major, folder, port: 0 };
        // A port can be taken between looking and binding.
        for _attempt in 0..5 {
            cluster.port = free_port();
            if cluster.try_start() {
                return cluster;
            }
        }
        let log = fs::read_to_string(cluster.folder.path().join("log")).unwrap_or_default();
        panic!("PostgreSQL does not start: {log}");
    }

    fn try_start(&self) -> bool {
        let folder = self.folder.path();
        let options = format!(
            "-c port={} -c listen_addresses=127.0.0.1 -c unix_socket_directories={} -c fsync=off \
             -c shared_buffers=16MB -c max_connections=30 -c wal_level=minimal -c max_wal_senders=0 \
             -c autovacuum=off",
            self.port,
            folder.display()
        );
        let program = as_postgres(self.major, "pg_ctl")
            .args(["-D", &text(&folder.join("data")), "-l", &text(&folder.join("log"))])
            .args(["-w", "-t", "30", "-o", &options, "start"])
            .accept([0, 1]);
        run(program).code == 0
    }

    /// Where it listens, on 127.0.0.1.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Speaks TLS from now on with this certificate and its key, both PEM; plain connections still work.
    ///
    /// # Panics
    ///
    /// The server does not take them.
    pub fn speak_tls(&self, certificate: &str, key: &str) {
        for (name, text) in [("server.crt", certificate), ("server.key", key)] {
            let path = self.folder.path().join("data").join(name);
            fs::write(&path, text).expect("the folder of the cluster is writable");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
            if let Some(user) = owner() {
                nix::unistd::chown(&path, Some(user.uid), Some(user.gid)).expect("chown");
            }
        }
        self.sql("postgres", "ALTER SYSTEM SET ssl = on");
        self.sql("postgres", "SELECT pg_reload_conf()");
    }

    /// Runs SQL as superuser and gives what it prints, unaligned and without headers.
    ///
    /// # Panics
    ///
    /// The SQL fails.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        run(self.psql(database).stdin(sql)).text().trim_end().to_owned()
    }

    /// A psql that reads SQL from its input and stops at the first error.
    #[must_use]
    pub fn psql(&self, database: &str) -> Program {
        self.client("psql", database)
            .args(["--no-psqlrc", "--quiet", "--no-align", "--tuples-only"])
            .args(["--set", "ON_ERROR_STOP=1"])
    }

    /// Another client program, able to connect as superuser.
    #[must_use]
    pub fn client(&self, name: &str, database: &str) -> Program {
        // The older server comes without.
        self.program(&text(&bin(self.major.max(MAJOR), name)), database)
    }

    /// Any program that reads libpq's environment.
    #[must_use]
    pub fn program(&self, path: &str, database: &str) -> Program {
        Program::new(path)
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", USER)
            .env("PGPASSWORD", PASSWORD)
            .env("PGDATABASE", database)
            .env("LC_ALL", "C.UTF-8")
            .deadline(DEADLINE)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let data = text(&self.folder.path().join("data"));
        run(as_postgres(self.major, "pg_ctl")
            .args(["-D", &data, "-m", "immediate", "stop"])
            .accept([0, 1]));
    }
}

/// Runs a program to its end, in code that may block.
///
/// # Panics
///
/// It fails.
pub fn run(program: Program) -> homelab_common::exec::Output {
    let shown = program.argv().to_string();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    // A thread of its own: the caller may be inside of a runtime.
    let work = move || runtime.expect("a runtime").block_on(SystemExec.run(program));
    let done = std::thread::spawn(work).join().expect("the thread ends");
    done.unwrap_or_else(|error| panic!("{shown}: {}", homelab_common::error_chain::Chain(&error)))
}

/// Runs a program as the user that owns the clusters.
#[must_use]
pub fn as_postgres(major: u32, name: &str) -> Program {
    let path = text(&bin(major, name));
    if !nix::unistd::geteuid().is_root() {
        return Program::new(path).deadline(INITDB_DEADLINE);
    }
    Program::new("setpriv")
        .args(["--reuid=postgres", "--regid=postgres", "--clear-groups", &path])
        .deadline(INITDB_DEADLINE)
}

/// Where the programs of a major version are.
#[must_use]
pub fn home(major: u32) -> PathBuf {
    if major == MAJOR {
        return Path::new(CLIENTS).join(major.to_string());
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.dev/postgres");
    let installed = folder.join(major.to_string());
    if !nix::unistd::geteuid().is_root() || !installed.is_dir() || is_open_to_all(&installed) {
        return installed;
    }
    let (folder, installed) = (real(&folder), real(&installed));
    let inside = installed.strip_prefix(&folder).expect("installed in the folder");
    open_copy(&folder).join(inside)
}

fn real(path: &Path) -> PathBuf {
    path.canonicalize().expect("a path that is there")
}

/// Whether every user can get at `path`.
fn is_open_to_all(path: &Path) -> bool {
    let open = |path: &Path| path.metadata().is_ok_and(|it| it.permissions().mode() & 0o001 != 0);
    real(path).ancestors().all(open)
}

/// A copy of the folder of programs that every user can get at: servers do not run as root,
/// and the checkout may lie in its home.
fn open_copy(folder: &Path) -> PathBuf {
    // The stamp changes with what is installed.
    let stamp = fs::read_to_string(folder.join("installed")).expect("installed as a whole");
    let stamp: String = stamp.chars().take(12).collect();
    let ready = std::env::temp_dir().join(format!("homelab-tests-postgres-{stamp}"));
    if ready.is_dir() {
        return ready;
    }
    let scratch = tempfile::tempdir().expect("a folder");
    let mine = scratch.path().join("programs");
    run(Program::new("cp").args(["-a", &text(folder), &text(&mine)]));
    // Tests run side by side: the first to be ready wins.
    let _won = fs::rename(&mine, &ready);
    ready
}

fn bin(major: u32, name: &str) -> PathBuf {
    home(major).join("bin").join(name)
}

fn template(major: u32, kind: &str, cache: &Path) -> PathBuf {
    let ready = cache.join(format!("postgres-{major}-{kind}"));
    if ready.is_dir() {
        return ready;
    }
    let folder = scratch_folder();
    let (data, password) = (folder.path().join("data"), folder.path().join("password"));
    let mut file = fs::File::create(&password).expect("a password file");
    writeln!(file, "{PASSWORD}").expect("a password file");
    fs::set_permissions(&password, fs::Permissions::from_mode(0o644)).expect("chmod");
    let program = as_postgres(major, "initdb")
        .args(["-D", &text(&data), "-U", USER, "-A", "scram-sha-256"])
        .args(["--pwfile", &text(&password), "-E", "UTF8", "--locale=C", "--no-sync"])
        .arg("--wal-segsize=1");
    run(program);
    // Tests run side by side: the first to be ready wins, the others use theirs.
    let own = folder.path().file_name().unwrap_or_default().to_string_lossy();
    let mine = cache.join(format!("postgres-{major}-{kind}{own}"));
    run(Program::new("cp").args(["-a", &text(&data), &text(&mine)]));
    if fs::rename(&mine, &ready).is_err() {
        fs::remove_dir_all(&mine).expect("a second template is removed");
    }
    ready
}

/// A folder that the user `postgres` can write into; in memory where there is one,
/// since every test copies a cluster.
fn scratch_folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let folder = folder.expect("a scratch directory");
    if let Some(user) = owner() {
        nix::unistd::chown(folder.path(), Some(user.uid), Some(user.gid)).expect("chown");
    }
    folder
}

/// Who the clusters belong to, when that is somebody else.
fn owner() -> Option<nix::unistd::User> {
    let user = || nix::unistd::User::from_name("postgres").ok().flatten();
    nix::unistd::geteuid()
        .is_root()
        .then(|| user().expect("the user `postgres`: apt install postgresql-common"))
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
