//! The files that a person would write: the site file and one configuration a daemon.

use std::{fmt::Write as _, fs};

use anyhow::Context as _;

use super::{API_KEY, BACKUP, Daemon, HOSTS, Host, Lab, MODEL, key_hash, write_private};
use crate::{
    postgres::{CLIENTS, PASSWORD, USER},
    process::{command, output},
};

/// Any UUID will do: it is what tells this repository from another one on the same path.
const REPOSITORY_ID: &str = "0190a8f2-6c1e-7d3a-9b57-3f2d1c4e5a60";

impl Lab {
    pub(super) fn write_files(&self) -> anyhow::Result<()> {
        write_private(&self.etc("postgres.password"), PASSWORD)?;
        write_private(&self.etc("repository.password"), "correct horse battery staple")?;
        let hex = key_hash(API_KEY);
        write_private(&self.etc("api-keys"), &format!("demo {hex} bronze,silver\n"))?;
        self.write("homelab.toml", &self.site()?)?;
        self.write("controller.toml", &self.controller())?;
        for host in &HOSTS {
            for daemon in host.daemons {
                let text = match daemon {
                    Daemon::Agent => self.daemon(host, *daemon)?,
                    Daemon::BackupAgent => self.backup_agent(host)?,
                    Daemon::GpuWorker => self.gpu_worker(host)?,
                };
                self.write(&format!("{}-{}.toml", host.name, daemon.word()), &text)?;
            }
        }
        Ok(())
    }

    /// Makes the repository on "the NAS"; the agent itself never does that.
    ///
    /// # Errors
    /// When the agent's program fails; says what it wrote.
    pub fn init_repository(&self) -> anyhow::Result<()> {
        let mut init = command(self.programs.join(Daemon::BackupAgent.program()));
        init.args(["init-repository", "nas", "--config"])
            .arg(self.etc("hx310-db-backup-agent.toml"));
        output(&mut init).map(drop)
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.etc(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))
    }

    fn site(&self) -> anyhow::Result<String> {
        let mut text = String::from(
            "[site]\nname = \"demo\"\ndomain = \"home.arpa\"\ntime-zone = \"Europe/Amsterdam\"\n",
        );
        for host in &HOSTS {
            let daemons = host
                .daemons
                .iter()
                .map(|daemon| format!("\"{}\"", daemon.word()))
                .collect::<Vec<_>>();
            write!(
                text,
                "\n[[host]]\nname = \"{}\"\naddress = \"{}\"\ndescription = \"{}\"\ndaemons = [{}]\n",
                host.name,
                host.address,
                host.description,
                daemons.join(", ")
            )?;
            if host.on_demand {
                // Nothing leaves the machine: whoever looks at the file may switch the host on.
                let signal = self.folder().join(format!("{}.woken", host.name));
                write!(
                    text,
                    "expected-power = \"on-demand\"\nmac = \"02:00:00:00:00:40\"\n\
                     power = {{ wake = \"command\", command = [\"/usr/bin/touch\", \"{}\"] }}\n",
                    signal.display()
                )?;
            }
            for daemon in host.daemons {
                writeln!(text, "{}-port = {}", daemon.word(), self.port(host, *daemon)?)?;
            }
        }
        write!(
            text,
            "\n[[repository]]\nname = \"nas\"\n\n[[backup]]\nname = \"{BACKUP}\"\nhost = \"hx310-db\"\n\
             source = \"postgres\"\nrepository = \"nas\"\nschedule = \"*/15 * * * *\"\nrpo = \"1h\"\n\
             drill-schedule = \"5 * * * *\"\ndrill-target = \"nas-postgres\"\n"
        )?;
        for (tier, host) in [("bronze", "cw-nas"), ("silver", "x99")] {
            write!(
                text,
                "\n[[ai.tier]]\ntier = \"{tier}\"\nhosts = [\"{host}\"]\nmodels = [\"{}\"]\ndefault-model = \"{0}\"\n",
                model_of(host)
            )?;
        }
        Ok(text)
    }

    fn controller(&self) -> String {
        let folder = self.folder().display();
        format!(
            "state-dir = \"{folder}/controller\"\nruntime-dir = \"{folder}/controller/run\"\n\
             site = \"{folder}/etc/homelab.toml\"\naddresses = [\"127.0.0.1\"]\n\n\
             [listen]\ngrpc = \"{}\"\nenrolment = \"{}\"\nweb = \"{}\"\n\n[gateway]\nkeys = \"{folder}/etc/api-keys\"\n",
            self.ports.grpc(),
            self.ports.enrolment(),
            self.ports.web(),
        )
    }

    fn daemon(&self, host: &Host, daemon: Daemon) -> anyhow::Result<String> {
        let address = self.ports.of(host.name, daemon).context("a port")?;
        let place = format!("{}/{}-{}", self.folder().display(), host.name, daemon.word());
        fs::create_dir_all(&place).with_context(|| format!("make {place}"))?;
        Ok(format!(
            "listen = \"{address}\"\nstate-dir = \"{place}\"\nadmin-socket = \"{place}/admin.sock\"\n"
        ))
    }

    fn backup_agent(&self, host: &Host) -> anyhow::Result<String> {
        let folder = self.folder().display();
        let mut text = self.daemon(host, Daemon::BackupAgent)?;
        write!(
            text,
            "host = \"{}\"\n\n[postgres]\nclients = \"{CLIENTS}\"\n\n\
             [[repository]]\nname = \"nas\"\nid = \"{REPOSITORY_ID}\"\npath = \"{folder}/nas\"\n\
             password = \"{folder}/etc/repository.password\"\nrequire-mount = false\n\n\
             [[backup]]\nname = \"{BACKUP}\"\nsource = \"postgres\"\nrepository = \"nas\"\nhost = \"127.0.0.1\"\n\
             port = {}\nuser = \"{USER}\"\npassword = \"{folder}/etc/postgres.password\"\ndatabase = \"{BACKUP}\"\n\
             drill-target = \"nas-postgres\"\n\n\
             [[drill-target]]\nname = \"nas-postgres\"\nhost = \"127.0.0.1\"\nport = {}\nuser = \"{USER}\"\n\
             password = \"{folder}/etc/postgres.password\"\n",
            host.name,
            self.source.port(),
            self.nas.port(),
        )?;
        Ok(text)
    }

    fn gpu_worker(&self, host: &Host) -> anyhow::Result<String> {
        let engine = self.root.join(".dev/engine").display().to_string();
        let model = model_of(host.name);
        let mut text = self.daemon(host, Daemon::GpuWorker)?;
        write!(
            text,
            "runtime-dir = \"{}/{}-gpu-worker/run\"\n\n\
             [[engine]]\nname = \"cpu\"\ncommand = [\"{engine}/bin/llama-server\"]\nload = \"{model}\"\n\n\
             [[model]]\nname = \"{model}\"\npath = \"{engine}/model.gguf\"\ncontext = 2048\nslots = 2\n",
            self.folder().display(),
            host.name,
        )?;
        Ok(text)
    }

    fn port(&self, host: &Host, daemon: Daemon) -> anyhow::Result<u16> {
        Ok(self.ports.of(host.name, daemon).context("a port")?.port())
    }
}

/// Silver would have a larger model; here it is the same file under another name.
fn model_of(host: &str) -> String {
    if host == "x99" { format!("{MODEL}-silver") } else { MODEL.to_owned() }
}
