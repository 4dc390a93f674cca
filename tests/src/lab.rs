//! The main job on real parts, on loopback: four hosts with their daemons, two PostgreSQL servers, a
//! real engine with a real model, the controller, and a person with `labctl`.
//!
//! Everything is driven as a person would: by the built programs, through files and public interfaces.
//! Nothing is left behind: processes end and the folder goes when the value is dropped.

mod files;
mod hosts;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use ring::digest::{SHA256, digest};
use serde_json::Value;

pub use self::hosts::{Daemon, HOSTS, Host, Ports};
use crate::{
    person::Person,
    postgres::{Cluster, run as run_program},
    process::{Process, command, on_path, output},
    wait::{Look, wait_for},
};

/// Name of the backup of the wiki's database.
pub const BACKUP: &str = "wiki";
/// Name of the model that bronze serves.
pub const MODEL: &str = "smollm2-135m";
/// The API key that the gateway takes.
pub const API_KEY: &str = "sk-demo-homelab";
/// A start includes making keys and a database.
const START_WITHIN: Duration = Duration::from_secs(60);
/// The engine reads its model from disk.
const MODEL_WITHIN: Duration = Duration::from_secs(120);

/// The running lab.
#[derive(Debug)]
pub struct Lab {
    /// The PostgreSQL that is backed up.
    pub source: Cluster,
    /// The PostgreSQL that stands for the NAS: drills restore into it.
    pub nas: Cluster,
    processes: BTreeMap<String, Process>,
    ports: Ports,
    programs: PathBuf,
    root: PathBuf,
    folder: tempfile::TempDir,
}

impl Lab {
    /// Starts the databases and makes identities and files; no daemon runs yet.
    ///
    /// # Errors
    /// When a program is missing or fails; says which, and what it wrote.
    pub fn prepare(ports: Ports) -> anyhow::Result<Self> {
        let folder =
            tempfile::Builder::new().prefix("homelab-").tempdir().context("make a folder")?;
        let cache = folder.path().join("cache");
        for name in ["cache", "logs", "nas", "etc"] {
            fs::create_dir(folder.path().join(name)).context("make a folder")?;
        }
        let lab = Self {
            source: Cluster::start("source", &cache),
            nas: Cluster::start("nas", &cache),
            processes: BTreeMap::new(),
            ports,
            programs: programs()?,
            root: workspace(),
            folder,
        };
        lab.fill_source();
        lab.write_files()?;
        Ok(lab)
    }

    /// Folder of everything that this lab writes.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Folder of the built programs.
    #[must_use]
    pub fn programs(&self) -> &Path {
        &self.programs
    }

    /// The root of the repository.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A program by its name, wherever the person has it.
    ///
    /// # Errors
    /// When it is not on the path.
    pub fn program_on_path(&self, name: &str) -> anyhow::Result<PathBuf> {
        on_path(name)
    }

    /// Where each daemon listens.
    #[must_use]
    pub const fn ports(&self) -> &Ports {
        &self.ports
    }

    /// Makes the certificate authority, starts the controller and logs a person in.
    ///
    /// # Errors
    /// As [`Lab::prepare`].
    pub fn start_controller(&mut self) -> anyhow::Result<()> {
        let etc = self.etc("controller.toml").display().to_string();
        let recovery = self.folder().join("recovery").display().to_string();
        self.labctl(&["init", "--config", &etc, "--recovery", &recovery])?;
        self.restart("controller")?;
        self.labctl(&["login", "--socket", &self.socket(), "--user", "ada", "--approver"])?;
        Ok(())
    }

    /// Enrols one daemon by a token and starts it.
    ///
    /// # Errors
    /// As [`Lab::prepare`].
    pub fn join(&mut self, host: &Host, daemon: Daemon) -> anyhow::Result<()> {
        let made = self.labctl_json(&["host", "enroll", host.name, "--kind", daemon.word()])?;
        let token = made["token"].as_str().context("no token was made")?;
        let file = self.folder().join(format!("{}-{}.token", host.name, daemon.word()));
        write_private(&file, token)?;
        let config = self.config_of(host, daemon);
        let mut enrol = command(self.programs.join(daemon.program()));
        // By standard input: an argument would be in every process list.
        let token = fs::File::open(&file).context("open the token")?;
        enrol.args(["enroll", "--config"]).arg(&config).arg("-").stdin(token);
        output(&mut enrol).with_context(|| format!("enrol {} of {}", daemon.word(), host.name))?;
        fs::remove_file(&file).context("remove the used token")?;
        self.restart(&process_name(host, daemon))
    }

    /// Starts a process again, or for the first time: `controller`, or `HOST/KIND`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart(&mut self, name: &str) -> anyhow::Result<()> {
        let mut start = self.start_command(name)?;
        let log = name.replace('/', "-");
        let process = Process::start(&log, &self.folder().join("logs"), &mut start)?;
        drop(self.processes.insert(name.to_owned(), process));
        if name == "controller" { self.wait_for_socket() } else { Ok(()) }
    }

    /// Ends the daemons of a host, as switching it off would.
    ///
    /// # Errors
    /// When one does not end gracefully.
    pub fn switch_off(&mut self, host: &Host) -> anyhow::Result<()> {
        for daemon in host.daemons {
            if let Some(mut process) = self.processes.remove(&process_name(host, *daemon)) {
                process.end()?;
            }
        }
        Ok(())
    }

    /// Starts the daemons of an enrolled host again, as switching it on would.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn switch_on(&mut self, host: &Host) -> anyhow::Result<()> {
        host.daemons.iter().try_for_each(|daemon| self.restart(&process_name(host, *daemon)))
    }

    /// Names of all running processes.
    #[must_use]
    pub fn running(&self) -> Vec<String> {
        self.processes.keys().cloned().collect()
    }

    /// A process, to be killed or looked at.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn process(&mut self, name: &str) -> anyhow::Result<&mut Process> {
        self.processes.get_mut(name).with_context(|| format!("no process `{name}`"))
    }

    /// Waits until the controller sees every host in the wished-for state.
    ///
    /// # Errors
    /// When it does not come about; says how the hosts stand.
    pub fn wait_for_hosts(&self, wished: &[(&str, &str)]) -> anyhow::Result<()> {
        wait_for("the hosts", START_WITHIN, || {
            let hosts = self.labctl_json(&["host", "list"])?;
            let state = |name: &str| {
                let found = hosts["hosts"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .find(|host| host["name"] == name);
                found.and_then(|host| host["state"].as_str()).unwrap_or("missing").to_owned()
            };
            let off: Vec<_> = wished
                .iter()
                .filter(|(name, wish)| !is(&state(name), wish))
                .map(|(name, _)| format!("{name} is {}", state(name)))
                .collect();
            Ok(if off.is_empty() { Look::Ready(()) } else { Look::NotYet(off.join(", ")) })
        })
    }

    /// Waits until a model answers on a tier.
    ///
    /// # Errors
    /// When it is not loaded in time.
    pub fn wait_for_model(&self, tier: &str) -> anyhow::Result<()> {
        wait_for("the model", MODEL_WITHIN, || {
            let models = self.labctl_json(&["model", "list"])?;
            let loaded = models["models"].as_array().into_iter().flatten().any(|model| {
                model["tier"] == format!("TIER_{}", tier.to_uppercase())
                    && model["state"] == "MODEL_STATE_LOADED"
            });
            Ok(if loaded { Look::Ready(()) } else { Look::NotYet(models.to_string()) })
        })
    }

    /// The person that is logged in, for those who work beside the lab.
    #[must_use]
    pub fn person(&self) -> Person {
        Person::new(&self.programs, self.folder().join("ada"))
    }

    /// Runs `labctl` as the person that is logged in, and returns what it prints.
    ///
    /// # Errors
    /// When it does not succeed; says what it wrote.
    pub fn labctl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.person().labctl(arguments)
    }

    /// The same, with its result as JSON.
    ///
    /// # Errors
    /// As [`Lab::labctl`].
    pub fn labctl_json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        self.person().labctl_json(arguments)
    }

    /// The command itself, for what needs its exit code or its output as it comes.
    #[must_use]
    pub fn labctl_command(&self, arguments: &[&str]) -> Command {
        self.person().labctl_command(arguments)
    }

    /// Folder with the person's certificate: `cert.pem`, `key.pem`, `ca.pem`.
    #[must_use]
    pub fn identity(&self) -> PathBuf {
        self.person().identity()
    }

    /// A curl command to the web port that trusts our root, with the API key for the gateway.
    #[must_use]
    pub fn curl(&self, path: &str) -> Command {
        let mut curl = command("curl");
        curl.args([
            "--silent",
            "--show-error",
            "--fail-with-body",
            "--max-time",
            "120",
            "--cacert",
        ])
        .arg(self.identity().join("ca.pem"))
        .arg("--oauth2-bearer")
        .arg(API_KEY)
        .arg(format!("{}{path}", self.web_url()));
        curl
    }

    /// Address of dashboard and gateway.
    #[must_use]
    pub fn web_url(&self) -> String {
        format!("https://{}", self.ports.web())
    }

    /// The grpcurl that `packaging/setup.sh` installs.
    #[must_use]
    pub fn grpcurl_program(&self) -> PathBuf {
        self.person().grpcurl_program()
    }

    /// Runs grpcurl against an address as the person that is logged in.
    ///
    /// # Errors
    /// When it does not succeed; says what it wrote.
    pub fn grpcurl(
        &self,
        address: &str,
        arguments: &[&str],
        call: &[&str],
    ) -> anyhow::Result<String> {
        self.person().grpcurl(address, arguments, call)
    }

    /// Ends every daemon by SIGTERM, agents first.
    ///
    /// # Errors
    /// When one had to be killed or did not end with success.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        let mut faults = Vec::new();
        let controller = self.processes.remove("controller");
        for mut process in std::mem::take(&mut self.processes).into_values().chain(controller) {
            if let Err(error) = process.end() {
                faults.push(format!("{error:#}"));
            }
        }
        if faults.is_empty() { Ok(()) } else { bail!("{}", faults.join("\n")) }
    }

    fn start_command(&self, name: &str) -> anyhow::Result<Command> {
        if name == "controller" {
            let mut start = command(self.programs.join("homelab-controller"));
            start.args(["run", "--config"]).arg(self.etc("controller.toml"));
            return Ok(start);
        }
        let (host, daemon) = hosts::parse(name)?;
        let mut start = command(self.programs.join(daemon.program()));
        start.args(["run", "--config"]).arg(self.config_of(host, daemon));
        Ok(start)
    }

    fn wait_for_socket(&mut self) -> anyhow::Result<()> {
        let socket = PathBuf::from(self.socket());
        let process = self.processes.get_mut("controller").context("no controller")?;
        wait_for_socket(process, &socket)
    }

    /// A wiki with pages, attachments as large objects, and a sequence that has moved.
    fn fill_source(&self) {
        run_program(self.source.client("createdb", "postgres").args([BACKUP]));
        self.source.sql(
            BACKUP,
            "create table pages (id bigserial primary key, title text not null, body text not null, \
               updated timestamptz not null default now());
             create table attachments (page bigint not null references pages, content oid not null);
             insert into pages (title, body) select 'Page ' || i, repeat(md5(i::text) || ' ', 40) \
               from generate_series(1, 3000) i;
             insert into attachments select i, lo_from_bytea(0, decode(repeat(md5(i::text), 64), 'hex')) \
               from generate_series(1, 20) i;",
        );
    }

    fn socket(&self) -> String {
        self.folder().join("controller/run/admin.sock").display().to_string()
    }

    fn etc(&self, name: &str) -> PathBuf {
        self.folder().join("etc").join(name)
    }

    fn config_of(&self, host: &Host, daemon: Daemon) -> PathBuf {
        self.etc(&format!("{}-{}.toml", host.name, daemon.word()))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // The clusters stop by themselves; daemons first, so that nothing writes into a folder that goes.
        // Politely, because a worker that is killed leaves its engine behind.
        drop(self.stop());
        for host in &HOSTS {
            end_orphans(&self.folder().join(format!("{}-gpu-worker/run", host.name)));
        }
    }
}

/// Whether a host's state is the wished one. The lab runs on whatever machine it is given, whose disk may
/// be nearly full: `ANSWERING` is content with degraded.
fn is(state: &str, wish: &str) -> bool {
    match wish {
        "ANSWERING" => matches!(state, "HOST_STATE_HEALTHY" | "HOST_STATE_DEGRADED"),
        wish => state.strip_prefix("HOST_STATE_") == Some(wish),
    }
}

/// Waits until the controller answers people on its host.
pub(crate) fn wait_for_socket(process: &mut Process, socket: &Path) -> anyhow::Result<()> {
    wait_for("the controller", START_WITHIN, || {
        if !process.is_running() {
            bail!("it ended:\n{}", process.log_tail());
        }
        let up = std::os::unix::net::UnixStream::connect(socket);
        Ok(up.map_or_else(|error| Look::NotYet(error.to_string()), |_| Look::Ready(())))
    })
}

/// Ends engines whose worker was killed and not started again; it left their pids in its runtime folder
/// for its successor.
pub(crate) fn end_orphans(run: &Path) {
    for entry in fs::read_dir(run).into_iter().flatten().flatten() {
        if entry.path().extension().is_some_and(|ending| ending == "pid")
            && let Some(pid) =
                fs::read_to_string(entry.path()).ok().as_deref().and_then(first_number)
        {
            // It may be gone already.
            let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// A key of the gateway, as its keys file has it.
pub(crate) fn key_hash(key: &str) -> String {
    let hash = digest(&SHA256, key.as_bytes());
    hash.as_ref().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

fn first_number(text: &str) -> Option<i32> {
    text.split(|letter: char| !letter.is_ascii_digit()).find(|word| !word.is_empty())?.parse().ok()
}

fn process_name(host: &Host, daemon: Daemon) -> String {
    format!("{}/{}", host.name, daemon.word())
}

/// The folder of the built programs: where this one lies, or above it for tests.
pub(crate) fn programs() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("find the own program")?;
    let found =
        own.ancestors().skip(1).take(3).find(|folder| folder.join("homelab-controller").is_file());
    found.map(Path::to_path_buf).with_context(|| {
        format!("homelab-controller is not beside {}: run `make build` first", own.display())
    })
}

/// The root of the repository.
#[must_use]
pub fn workspace() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_path_buf()
}

pub(crate) fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("write {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("write {}", path.display()))
}
