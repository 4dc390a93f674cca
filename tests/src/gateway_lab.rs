//! A controller and one gpu-worker alone: real daemons on loopback with a real engine and a small real
//! model behind the gateway, and a second host that has joined, sleeps, and is not woken by anything.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::{
    lab::{end_orphans, key_hash, programs, wait_for_socket, workspace, write_private},
    person::Person,
    process::{Process, command, on_path, output},
    wait::{Look, wait_for},
};

/// The model that Bronze talks with.
pub const MODEL: &str = "smollm2";
/// The model that Bronze makes vectors with.
pub const VECTORS: &str = "smollm2-vectors";
/// The model that calls tools, in an engine that somebody else runs.
pub const CALLING: &str = "calls-tools";
/// The model of the host that sleeps.
pub const SLEEPING: &str = "smollm2-silver";
/// A key that may use Bronze and Silver, and load and unload models.
pub const KEY: &str = "sk-lab-homelab";
/// A key with one request a minute.
pub const FEW_KEY: &str = "sk-lab-few";
/// A key for Bronze only.
pub const BRONZE_KEY: &str = "sk-lab-bronze";

/// The document in the repository of notes.
pub const DOCUMENT: &str = "x99.md";

/// The host with the worker, and the one that sleeps.
const HOSTS: [&str; 2] = ["cw-nas", "x99"];
/// The controller makes keys and a database; the engines read their models from disk.
const START_WITHIN: Duration = Duration::from_secs(120);

/// The running lab.
#[derive(Debug)]
pub struct GatewayLab {
    processes: BTreeMap<&'static str, Process>,
    /// gRPC, enrolment, web.
    controller: [SocketAddr; 3],
    /// Of the worker of each host.
    workers: [SocketAddr; 2],
    /// Of the engine that somebody else runs.
    elsewhere: SocketAddr,
    programs: PathBuf,
    folder: tempfile::TempDir,
}

/// An engine, asked past everything that stands before it.
#[derive(Clone, Debug)]
pub struct EngineSeen {
    /// Its address.
    pub url: String,
    /// The key that it was started with.
    pub key: String,
}

impl GatewayLab {
    /// Starts controller and worker, and waits until both models are loaded.
    ///
    /// # Errors
    /// When a program is missing or fails; says which, and what it wrote.
    pub fn start() -> anyhow::Result<Self> {
        let folder =
            tempfile::Builder::new().prefix("homelab-").tempdir().context("make a folder")?;
        for name in ["logs", "etc", "cw-nas", "x99"] {
            fs::create_dir(folder.path().join(name)).context("make a folder")?;
        }
        // All stay bound until the last is found, so that none is given twice.
        let held: Vec<_> = (0..6)
            .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .collect::<Result<_, _>>()
            .context("find free ports")?;
        let address = |index: usize| held[index].local_addr().context("find a free port");
        let controller = [address(0)?, address(1)?, address(2)?];
        let (workers, elsewhere) = ([address(3)?, address(4)?], address(5)?);
        drop(held);
        let (processes, programs) = (BTreeMap::new(), programs()?);
        let mut lab = Self { processes, controller, workers, elsewhere, programs, folder };
        lab.write_files()?;
        lab.write_notes()?;
        lab.run()?;
        Ok(lab)
    }

    /// A path in the lab's folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Address of the gateway.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.controller[2])
    }

    /// The root certificate that clients of the gateway trust.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.person().identity().join("ca.pem")
    }

    /// Runs `labctl` as the person that is logged in, with its result as JSON.
    ///
    /// # Errors
    /// When it does not succeed; says what it wrote.
    pub fn labctl_json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        self.person().labctl_json(arguments)
    }

    /// A curl command to the gateway that trusts our root and shows the key.
    #[must_use]
    pub fn curl(&self, path: &str) -> Command {
        let mut curl = command("curl");
        curl.args(["--silent", "--show-error", "--no-buffer", "--cacert"]).arg(self.ca());
        curl.args(["--oauth2-bearer", KEY]).arg(format!("{}{path}", self.url()));
        curl
    }

    /// The engine that talks.
    ///
    /// # Errors
    /// When it has no process.
    pub fn engine(&self) -> anyhow::Result<EngineSeen> {
        let run = self.path("cw-nas/run");
        let pid = fs::read_to_string(run.join("engine-talk.pid")).context("no engine runs")?;
        let pid = pid.split(|letter: char| !letter.is_ascii_digit()).find(|word| !word.is_empty());
        let pid = pid.context("no pid in the engine's file")?;
        let arguments = fs::read_to_string(format!("/proc/{pid}/cmdline"))
            .context("the engine has no process")?;
        let port = arguments.split('\0').skip_while(|word| *word != "--port").nth(1);
        let key = fs::read_to_string(run.join("engine-talk.key")).context("no key")?;
        let url = format!("http://127.0.0.1:{}", port.context("no port")?);
        Ok(EngineSeen { url, key: key.trim().to_owned() })
    }

    /// How many slots the engine itself calls busy.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn busy(&self) -> anyhow::Result<usize> {
        let engine = self.engine()?;
        let mut curl = command("curl");
        curl.args(["--silent", "--show-error", "--fail", "--max-time", "10"]);
        curl.args(["--oauth2-bearer", &engine.key]).arg(format!("{}/slots", engine.url));
        let slots: Vec<Value> = serde_json::from_str(&output(&mut curl)?).context("no slots")?;
        Ok(slots.iter().filter(|slot| slot["is_processing"] == true).count())
    }

    /// Ends both daemons by SIGTERM, the worker first.
    ///
    /// # Errors
    /// When one had to be killed or did not end with success.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        let end = |name| self.processes.remove(name).map_or(Ok(()), |mut process| process.end());
        let ended = ["cw-nas", "controller"].map(end);
        ended.into_iter().collect()
    }

    fn write_files(&self) -> anyhow::Result<()> {
        let folder = self.folder.path().display();
        let [grpc, enrolment, web] = self.controller;
        let ports = self.workers.map(|address| address.port());
        let keys = format!(
            "lab {} bronze,silver manage-models context=all\nfew {} bronze requests=1/min\nbronze {} bronze\n",
            key_hash(KEY),
            key_hash(FEW_KEY),
            key_hash(BRONZE_KEY),
        );
        write_private(&self.path("etc/api-keys"), &keys)?;
        self.write(
            "controller.toml",
            &format!(
                "state-dir = \"{folder}/controller\"\nruntime-dir = \"{folder}/controller/run\"\n\
                 site = \"{folder}/etc/homelab.toml\"\naddresses = [\"127.0.0.1\"]\n\n\
                 [listen]\ngrpc = \"{grpc}\"\nenrolment = \"{enrolment}\"\nweb = \"{web}\"\n\n\
                 [gateway]\nkeys = \"{folder}/etc/api-keys\"\n"
            ),
        )?;
        self.write(
            "homelab.toml",
            &format!(
                "[site]\nname = \"lab\"\ndomain = \"home.arpa\"\ntime-zone = \"Europe/Amsterdam\"\n\n\
                 [[host]]\nname = \"cw-nas\"\naddress = \"127.0.0.1\"\ndaemons = [\"gpu-worker\"]\n\
                 gpu-worker-port = {}\n\n\
                 [[host]]\nname = \"x99\"\naddress = \"127.0.0.1\"\ndaemons = [\"gpu-worker\"]\n\
                 gpu-worker-port = {}\nexpected-power = \"on-demand\"\nmac = \"02:00:00:00:00:40\"\n\
                 power = {{ wake = \"command\", command = [\"/bin/true\"] }}\n\n\
                 [[ai.tier]]\ntier = \"bronze\"\nhosts = [\"cw-nas\"]\n\
                 models = [\"{MODEL}\", \"{VECTORS}\", \"{CALLING}\"]\ndefault-model = \"{MODEL}\"\n\n\
                 [[ai.tier]]\ntier = \"silver\"\nhosts = [\"x99\"]\nmodels = [\"{SLEEPING}\"]\n\n\
                 [[context.source]]\nname = \"notes\"\ngit = \"{folder}/notes\"\n",
                ports[0], ports[1],
            ),
        )?;
        HOSTS.iter().zip(self.workers).try_for_each(|(host, address)| self.worker(host, address))
    }

    /// Writes the configuration of a host's worker.
    fn worker(&self, host: &str, address: SocketAddr) -> anyhow::Result<()> {
        let engine = workspace().join(".dev/engine");
        ensure!(
            engine.join("bin/llama-server").is_file(),
            "{} holds no engine: run packaging/setup.sh test",
            engine.display()
        );
        let (engine, place) = (engine.display(), self.path(host));
        let (place, elsewhere) = (place.display(), self.elsewhere);
        let text = format!(
            "listen = \"{address}\"\nstate-dir = \"{place}\"\n\
             admin-socket = \"{place}/admin.sock\"\nruntime-dir = \"{place}/run\"\n\n\
             [[engine]]\nname = \"talk\"\ncommand = [\"{engine}/bin/llama-server\"]\n\
             models = [\"{MODEL}\"]\nload = \"{MODEL}\"\n\n\
             [[engine]]\nname = \"vectors\"\ncommand = [\"{engine}/bin/llama-server\"]\n\
             models = [\"{VECTORS}\"]\nload = \"{VECTORS}\"\n\n\
             [[engine]]\nname = \"elsewhere\"\nurl = \"http://{elsewhere}/v1\"\n\
             models = [\"{CALLING}\"]\nload = \"{CALLING}\"\n\n\
             [[model]]\nname = \"{CALLING}\"\n\n\
             [[model]]\nname = \"{MODEL}\"\npath = \"{engine}/model.gguf\"\n\
             context = 4096\nslots = 2\n\n\
             [[model]]\nname = \"{VECTORS}\"\npath = \"{engine}/model.gguf\"\ncontext = 512\n\
             purpose = \"embeddings\"\narguments = [\"--pooling\", \"mean\"]\n"
        );
        self.write(&format!("{host}.toml"), &text)
    }

    /// A repository of Git with one document, for jobs that ask for context.
    fn write_notes(&self) -> anyhow::Result<()> {
        let notes = self.path("notes");
        fs::create_dir(&notes).context("make a folder")?;
        let text = "# x99\n\nThe AI worker of the house.\n\n## Waking\n\nx99 wakes by a magic packet \
                    to the MAC 02:00:00:00:00:40, sent by the agent of cw-nas.\n";
        fs::write(notes.join(DOCUMENT), text).context("write a document")?;
        let git = |arguments: &[&str]| {
            let mut git = command(on_path("git")?);
            git.arg("-C").arg(&notes).args(["-c", "user.name=ada", "-c", "user.email=ada@lab"]);
            output(git.args(arguments)).map(drop)
        };
        git(&["init", "--quiet", "--initial-branch", "main"])?;
        git(&["add", "."])?;
        git(&["commit", "--quiet", "--message", "notes"])
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.path("etc").join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }

    fn run(&mut self) -> anyhow::Result<()> {
        let (config, recovery) = (self.path("etc/controller.toml"), self.path("recovery"));
        let person = self.person();
        let mut init = person.labctl_command(&["init", "--config"]);
        output(init.arg(config).arg("--recovery").arg(recovery))?;
        self.start_one("controller", "homelab-controller")?;
        let socket = self.path("controller/run/admin.sock");
        let controller = self.processes.get_mut("controller").context("no controller")?;
        wait_for_socket(controller, &socket)?;
        let socket = socket.display().to_string();
        person.labctl(&["login", "--socket", &socket, "--user", "ada", "--approver"])?;
        HOSTS.iter().try_for_each(|host| self.enrol(host))?;
        let mut calling = command(on_path("python3")?);
        calling.arg(workspace().join("tests/sdk/calling_engine.py"));
        calling.arg(self.elsewhere.port().to_string()).arg(CALLING);
        let calling = Process::start("elsewhere", &self.path("logs"), &mut calling)?;
        self.processes.insert("elsewhere", calling);
        self.start_one("cw-nas", "homelab-gpu-worker")?;
        self.wait_for_models()
    }

    fn enrol(&self, host: &str) -> anyhow::Result<()> {
        let made = self.labctl_json(&["host", "enroll", host, "--kind", "gpu-worker"])?;
        let token = self.path(&format!("{host}.token"));
        write_private(&token, made["token"].as_str().context("no token was made")?)?;
        let mut enrol = command(self.programs.join("homelab-gpu-worker"));
        enrol.args(["enroll", "--config"]).arg(self.path(&format!("etc/{host}.toml")));
        // By standard input: an argument would be in every process list.
        output(enrol.arg("-").stdin(fs::File::open(&token).context("open the token")?)).map(drop)
    }

    fn start_one(&mut self, name: &'static str, program: &str) -> anyhow::Result<()> {
        let mut start = command(self.programs.join(program));
        start.args(["run", "--config"]).arg(self.path(&format!("etc/{name}.toml")));
        let process = Process::start(name, &self.path("logs"), &mut start)?;
        self.processes.insert(name, process);
        Ok(())
    }

    fn wait_for_models(&self) -> anyhow::Result<()> {
        wait_for("the models", START_WITHIN, || {
            let listed = output(self.curl("/v1/models").args(["--max-time", "10"]))?;
            let list: Value = serde_json::from_str(&listed).context("no list")?;
            let is = |name: &str, wanted: &str| {
                let mut rows = list["data"].as_array().into_iter().flatten();
                rows.any(|row| row["id"] == name && row["status"]["value"] == wanted)
            };
            let ready = [MODEL, VECTORS, CALLING].iter().all(|name| is(name, "loaded"))
                && is(SLEEPING, "asleep");
            Ok(if ready { Look::Ready(()) } else { Look::NotYet(listed) })
        })
    }

    fn person(&self) -> Person {
        Person::new(&self.programs, self.path("ada"))
    }
}

impl Drop for GatewayLab {
    fn drop(&mut self) {
        // Before the folder goes that they write into, and politely: a worker that is killed leaves
        // its engines behind.
        drop(self.stop());
        end_orphans(&self.path("cw-nas/run"));
    }
}
