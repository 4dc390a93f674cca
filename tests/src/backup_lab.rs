//! A controller and backup-agents alone: real daemons on loopback that back up what a test gives them.
//!
//! Days can be let pass: all daemons are started again with a clock that goes ahead.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, bail};
use homelab_common::{
    chance::{SystemChance, uuid_v7},
    clock::SystemClock,
};
use serde_json::{Deserializer, Value, json};

use crate::{
    lab::{programs, wait_for_socket, write_private},
    person::Person,
    process::{Process, command, output},
    wait::{Look, wait_for},
};

/// Opens every repository of the lab.
pub const PASSWORD: &str = "correct horse battery staple";
/// The service of the controller.
const CONTROLLER: &str = "homelab.controller.v1.BackupScheduleService";
/// The service of the agents.
const AGENT: &str = "homelab.backup.v1.BackupService";
/// What a caller gives a name, so that it is done once.
const NAMED: [&str; 5] =
    ["StartBackup", "StartDrill", "VerifyBackup", "RestoreBackup", "PushBackGit"];
/// Agents are dialled as soon as the controller is up.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// What a run of the little things in a test may take.
const RUN_WITHIN: Duration = Duration::from_secs(120);

/// The running lab.
#[derive(Debug)]
pub struct BackupLab {
    processes: BTreeMap<String, Process>,
    hosts: Vec<(&'static str, SocketAddr)>,
    /// gRPC, enrolment, web.
    controller: [SocketAddr; 3],
    programs: PathBuf,
    ahead: Duration,
    folder: tempfile::TempDir,
}

impl BackupLab {
    /// Finds ports for a controller and the agents of these hosts; nothing runs yet.
    ///
    /// # Errors
    /// When the system has no folder or port left.
    pub fn prepare(hosts: &[&'static str]) -> anyhow::Result<Self> {
        let folder =
            tempfile::Builder::new().prefix("homelab-").tempdir().context("make a folder")?;
        for name in ["logs", "etc"] {
            fs::create_dir(folder.path().join(name)).context("make a folder")?;
        }
        // All stay bound until the last is found, so that none is given twice.
        let mut held = Vec::new();
        let mut free = |address: Ipv4Addr| {
            let listener = TcpListener::bind((address, 0)).context("find a free port")?;
            let found = listener.local_addr().context("find a free port")?;
            held.push(listener);
            anyhow::Ok(found)
        };
        let home = Ipv4Addr::LOCALHOST;
        let controller = [free(home)?, free(home)?, free(home)?];
        let hosts = (10_u8..)
            .zip(hosts)
            .map(|(number, name)| Ok((*name, free(Ipv4Addr::new(127, 0, 1, number))?)))
            .collect::<anyhow::Result<_>>()?;
        write_private(&folder.path().join("etc/repository.password"), PASSWORD)?;
        let (processes, ahead) = (BTreeMap::new(), Duration::ZERO);
        Ok(Self { processes, hosts, controller, programs: programs()?, ahead, folder })
    }

    /// A path in the lab's folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file in the lab's folder, and the folders above it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> anyhow::Result<PathBuf> {
        let path = self.path(name);
        let parent = path.parent().context("a name")?;
        fs::create_dir_all(parent)
            .and_then(|()| fs::write(&path, content))
            .with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    /// Writes a file that nobody else may read.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_secret(&self, name: &str, content: &str) -> anyhow::Result<PathBuf> {
        let path = self.write(name, content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).context("chmod")?;
        Ok(path)
    }

    /// `[[repository]]` of an agent, for a folder of the lab.
    #[must_use]
    pub fn repository(&self, name: &str, more: &str) -> String {
        let id = uuid_of(name);
        format!(
            "[[repository]]\nname = \"{name}\"\nid = \"{id}\"\npath = \"{}\"\npassword = \"{}\"\n\
             require-mount = false\n{more}\n",
            self.path(name).display(),
            self.path("etc/repository.password").display(),
        )
    }

    /// Writes the site file: its hosts, and what the test adds.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn site(&self, text: &str) -> anyhow::Result<()> {
        let mut site = String::from(
            "[site]\nname = \"backups\"\ndomain = \"home.arpa\"\ntime-zone = \"Europe/Amsterdam\"\n",
        );
        for (name, address) in &self.hosts {
            write!(
                site,
                "\n[[host]]\nname = \"{name}\"\naddress = \"{}\"\ndaemons = [\"backup-agent\"]\n\
                 backup-agent-port = {}\n",
                address.ip(),
                address.port()
            )?;
        }
        self.write("etc/homelab.toml", format!("{site}\n{text}"))?;
        let folder = self.folder.path().display();
        let [grpc, enrolment, web] = self.controller;
        self.write("etc/api-keys", "")?;
        let controller = format!(
            "state-dir = \"{folder}/controller\"\nruntime-dir = \"{folder}/controller/run\"\n\
             site = \"{folder}/etc/homelab.toml\"\naddresses = [\"127.0.0.1\"]\n\n\
             [listen]\ngrpc = \"{grpc}\"\nenrolment = \"{enrolment}\"\nweb = \"{web}\"\n"
        );
        self.write("etc/controller.toml", controller).map(drop)
    }

    /// Writes the configuration of a host's agent.
    ///
    /// # Errors
    /// When it cannot be written, or there is no such host.
    pub fn agent(&self, host: &str, text: &str) -> anyhow::Result<()> {
        let address = self.address_of(host)?;
        let place = self.path(&format!("agent-{host}"));
        fs::create_dir_all(&place).context("make a folder")?;
        let place = place.display();
        let head = format!(
            "listen = \"{address}\"\nstate-dir = \"{place}\"\nadmin-socket = \"{place}/admin.sock\"\n\
             host = \"{host}\"\n\n"
        );
        self.write(&format!("etc/{host}.toml"), head + text).map(drop)
    }

    /// Makes a repository in a folder of its own, as a person does once.
    ///
    /// # Errors
    /// When the agent's program fails; says what it wrote.
    pub fn init_repository(&self, host: &str, name: &str) -> anyhow::Result<()> {
        fs::create_dir(self.path(name)).context("make a folder")?;
        self.offline(host, &["init-repository", name]).map(drop)
    }

    /// Runs a host's agent as a command, without the daemon.
    ///
    /// # Errors
    /// When it fails; says what it wrote.
    pub fn offline(&self, host: &str, arguments: &[&str]) -> anyhow::Result<String> {
        output(&mut self.offline_command(host, arguments)?)
    }

    /// The command itself, for what ends in its own way.
    ///
    /// # Errors
    /// When the clock cannot be shifted.
    pub fn offline_command(&self, host: &str, arguments: &[&str]) -> anyhow::Result<Command> {
        let mut agent = self.program("homelab-backup-agent")?;
        agent.arg("--config").arg(self.path(&format!("etc/{host}.toml"))).args(arguments);
        // What one that is killed leaves behind goes with the lab.
        agent.env("TMPDIR", self.path(""));
        Ok(agent)
    }

    /// Makes the certificate authority, starts the controller, and has every agent join.
    ///
    /// # Errors
    /// When a program fails; says what it wrote.
    pub fn start(&mut self) -> anyhow::Result<()> {
        let config = self.path("etc/controller.toml").display().to_string();
        let recovery = self.path("recovery").display().to_string();
        self.labctl(&["init", "--config", &config, "--recovery", &recovery])?;
        self.restart("controller")?;
        self.log_in()?;
        for (name, _) in self.hosts.clone() {
            let made =
                self.labctl(&["host", "enroll", name, "--kind", "backup-agent", "-o", "json"])?;
            let made: Value = serde_json::from_str(&made).context("no JSON")?;
            let token = made["token"].as_str().context("no token was made")?;
            let file = self.path(&format!("{name}.token"));
            write_private(&file, token)?;
            let mut enrol = self.program("homelab-backup-agent")?;
            enrol.args(["enroll", "--config"]).arg(self.path(&format!("etc/{name}.toml")));
            // By standard input: an argument would be in every process list.
            output(enrol.arg("-").stdin(fs::File::open(&file).context("open the token")?))?;
            self.restart(name)?;
        }
        self.wait_for_agents()?;
        self.pause_schedules()
    }

    /// Ends everything and starts it again when so much more time has passed.
    ///
    /// # Errors
    /// When a program fails; says what it wrote.
    pub fn let_pass(&mut self, time: Duration) -> anyhow::Result<()> {
        self.stop()?;
        self.ahead += time;
        for (name, _) in self.hosts.clone() {
            self.restart(name)?;
        }
        self.restart("controller")?;
        // A person's certificate lasts for a day.
        self.log_in()?;
        self.wait_for_agents()
    }

    /// Starts a process again, or for the first time: `controller`, or the agent of a host.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn restart(&mut self, name: &str) -> anyhow::Result<()> {
        let (program, config) = match name {
            "controller" => ("homelab-controller", self.path("etc/controller.toml")),
            host => ("homelab-backup-agent", self.path(&format!("etc/{host}.toml"))),
        };
        let mut start = self.program(program)?;
        start.args(["run", "--config"]).arg(config);
        drop(self.processes.remove(name));
        let mut process = Process::start(name, &self.path("logs"), &mut start)?;
        if name == "controller" {
            wait_for_socket(&mut process, &self.path("controller/run/admin.sock"))?;
        }
        self.processes.insert(name.to_owned(), process);
        Ok(())
    }

    /// Calls the controller's service of backups; every message of the answer.
    ///
    /// # Errors
    /// What was refused, as grpcurl says it.
    pub fn call(&self, method: &str, request: &Value) -> anyhow::Result<Vec<Value>> {
        let mut request = request.clone();
        if NAMED.contains(&method) {
            request["requestId"] = uuid_v7(&SystemClock, &SystemChance).to_string().into();
        }
        self.grpc(self.controller[0], &format!("{CONTROLLER}/{method}"), &request)
    }

    /// The same, where there is one message.
    ///
    /// # Errors
    /// As [`BackupLab::call`].
    pub fn call_once(&self, method: &str, request: &Value) -> anyhow::Result<Value> {
        self.call(method, request)?.pop().with_context(|| format!("{method} said nothing"))
    }

    /// Calls the service of a host's agent; every message of the answer.
    ///
    /// # Errors
    /// What was refused, as grpcurl says it.
    pub fn ask(&self, host: &str, method: &str, request: &Value) -> anyhow::Result<Vec<Value>> {
        self.grpc(self.address_of(host)?, &format!("{AGENT}/{method}"), request)
    }

    /// The same, where the last message counts.
    ///
    /// # Errors
    /// As [`BackupLab::ask`].
    pub fn ask_last(&self, host: &str, method: &str, request: &Value) -> anyhow::Result<Value> {
        self.ask(host, method, request)?.pop().with_context(|| format!("{method} said nothing"))
    }

    /// Runs `labctl` as the person that is logged in, and returns what it prints.
    ///
    /// # Errors
    /// When it does not succeed; says what it wrote.
    pub fn labctl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut labctl = self.person().labctl_command(arguments);
        self.shift(&mut labctl)?;
        output(&mut labctl)
    }

    /// Starts a backup through the controller and follows it to its end.
    ///
    /// # Errors
    /// When it does not succeed; says how it ended.
    pub fn back_up(&self, backup: &str) -> anyhow::Result<Value> {
        self.follow("StartBackup", backup)
    }

    /// Starts a drill through the controller and follows it to its end.
    ///
    /// # Errors
    /// When it does not pass; says how it ended.
    pub fn drill(&self, backup: &str) -> anyhow::Result<Value> {
        self.follow("StartDrill", backup)
    }

    /// Runs the independent program on a repository.
    ///
    /// # Errors
    /// When it is not installed or finds a fault.
    pub fn restic(&self, repository: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let mut restic = command("restic");
        restic
            .args(["--no-cache", "--repo"])
            .arg(self.path(repository))
            .args(arguments)
            .env("RESTIC_PASSWORD", PASSWORD);
        output(&mut restic).context("apt install restic")
    }

    /// Every byte is whole, says the independent program.
    ///
    /// # Errors
    /// What it finds.
    pub fn is_sound_to_restic(&self, repository: &str) -> anyhow::Result<()> {
        let text = self.restic(repository, &["check", "--read-data"])?;
        if text.contains("no errors were found") { Ok(()) } else { bail!("{text}") }
    }

    /// Bytes of the packs of a repository.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn data_bytes(&self, repository: &str) -> anyhow::Result<u64> {
        bytes_below(&self.path(repository).join("data"))
    }

    /// The last lines of the log of a process.
    #[must_use]
    pub fn log_tail(&self, name: &str) -> String {
        self.processes.get(name).map(Process::log_tail).unwrap_or_default()
    }

    /// Ends every daemon by SIGTERM, agents first.
    ///
    /// # Errors
    /// When one had to be killed or did not end with success.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        let controller = self.processes.remove("controller");
        let mut faults = Vec::new();
        for mut process in std::mem::take(&mut self.processes).into_values().chain(controller) {
            if let Err(error) = process.end() {
                faults.push(format!("{error:#}"));
            }
        }
        if faults.is_empty() { Ok(()) } else { bail!("{}", faults.join("\n")) }
    }

    fn follow(&self, method: &str, backup: &str) -> anyhow::Result<Value> {
        // Another run of the same may be about to end.
        let run = wait_for(method, RUN_WITHIN, || {
            match self.call_once(method, &json!({ "backup": backup })) {
                Ok(mut started) => Ok(Look::Ready(Ok(started["run"].take()))),
                Err(refused) if refused.to_string().contains("goes on since") => Err(refused),
                Err(refused) => Ok(Look::Ready(Err(refused))),
            }
        })??;
        let watched = self.call("WatchRun", &json!({ "runId": run["runId"] }))?;
        let last = watched.into_iter().last().context("the run was not shown")?["run"].take();
        if last["state"] != "RUN_STATE_SUCCEEDED" {
            let host = last["host"].as_str().unwrap_or_default();
            bail!("{method} of {backup} ended as {last:#}\n{}", self.log_tail(host));
        }
        Ok(last)
    }

    fn grpc(&self, at: SocketAddr, method: &str, body: &Value) -> anyhow::Result<Vec<Value>> {
        let body = body.to_string();
        let text = self.person().grpcurl(&at.to_string(), &["-d", &body], &[method])?;
        let values = Deserializer::from_str(&text).into_iter::<Value>();
        values.collect::<Result<_, _>>().with_context(|| format!("{method} said no JSON: {text}"))
    }

    fn person(&self) -> Person {
        Person::new(&self.programs, self.path("ada"))
    }

    fn log_in(&self) -> anyhow::Result<()> {
        let socket = self.path("controller/run/admin.sock").display().to_string();
        self.labctl(&["login", "--socket", &socket, "--user", "ada", "--approver"]).map(drop)
    }

    fn wait_for_agents(&self) -> anyhow::Result<()> {
        wait_for("the agents", ANSWER_WITHIN, || {
            let listed = self.labctl(&["host", "list", "-o", "json"])?;
            let listed: Value = serde_json::from_str(&listed).context("no JSON")?;
            let hosts = listed["hosts"].as_array().context("no hosts")?;
            let daemons = || hosts.iter().flat_map(|host| host["daemons"].as_array()).flatten();
            let away: Vec<_> = daemons().filter(|daemon| daemon["connected"] != true).collect();
            if daemons().count() == self.hosts.len() && away.is_empty() {
                return Ok(Look::Ready(()));
            }
            Ok(Look::NotYet(format!("{away:?}")))
        })
    }

    /// What runs is started by hand.
    fn pause_schedules(&self) -> anyhow::Result<()> {
        let listed = self.call_once("ListSchedules", &json!({}))?;
        let schedules = listed["schedules"].as_array().into_iter().flatten();
        for backup in schedules.map(|schedule| &schedule["backup"]) {
            let pause = json!({ "backup": backup, "reason": "runs are started by hand" });
            self.call_once("PauseSchedule", &pause)?;
        }
        Ok(())
    }

    fn program(&self, name: &str) -> anyhow::Result<Command> {
        let mut program = command(self.programs.join(name));
        self.shift(&mut program)?;
        Ok(program)
    }

    /// Gives a program a clock that goes ahead. What it measures durations by is left alone.
    fn shift(&self, program: &mut Command) -> anyhow::Result<()> {
        if self.ahead.is_zero() {
            return Ok(());
        }
        program
            .env("LD_PRELOAD", faketime()?)
            .env("FAKETIME", format!("+{}", self.ahead.as_secs()))
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("NO_FAKE_STAT", "1");
        Ok(())
    }

    fn address_of(&self, host: &str) -> anyhow::Result<SocketAddr> {
        let found = self.hosts.iter().find(|(name, _)| *name == host);
        found.map(|(_, address)| *address).with_context(|| format!("no host `{host}`"))
    }
}

impl Drop for BackupLab {
    fn drop(&mut self) {
        // Before the folder goes that they write into.
        drop(self.stop());
    }
}

/// The library that shifts the clock of a program.
fn faketime() -> anyhow::Result<PathBuf> {
    let found = fs::read_dir("/usr/lib").context("list /usr/lib")?.flatten();
    let found = found.map(|entry| entry.path().join("faketime/libfaketime.so.1"));
    found.into_iter().find(|path| path.is_file()).context("apt install libfaketime")
}

/// The same for each run of a test.
fn uuid_of(name: &str) -> String {
    let sum = name.bytes().fold(0_u64, |sum, byte| sum.rotate_left(8) ^ u64::from(byte));
    format!("0190a8f2-6c1e-7d3a-9b57-{:012x}", sum & 0xffff_ffff_ffff)
}

fn bytes_below(folder: &Path) -> anyhow::Result<u64> {
    let entries = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    entries.flatten().map(|entry| entry.path()).try_fold(0, |sum, path| {
        let bytes = if path.is_dir() {
            bytes_below(&path)?
        } else {
            path.metadata().map_or(0, |found| found.len())
        };
        Ok(sum + bytes)
    })
}
