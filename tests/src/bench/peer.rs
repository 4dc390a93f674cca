//! Programs of others that are measured beside ours, each on a free port of loopback.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};

use crate::{
    lab::{API_KEY, MODEL, workspace},
    process::{Process, command},
    wait::{Look, wait_for},
};

const START_WITHIN: Duration = Duration::from_secs(20);
/// LiteLLM imports for a long time.
const LITELLM_WITHIN: Duration = Duration::from_secs(180);

/// A file of what is installed for benches only; the folder itself for an empty name.
///
/// # Errors
/// When it is missing; says what installs it.
pub(super) fn installed(name: &str) -> anyhow::Result<PathBuf> {
    let folder = workspace().join(".dev/peers");
    let path = if name.is_empty() { folder } else { folder.join(name) };
    ensure!(path.exists(), "no {}: run `packaging/setup.sh bench`", path.display());
    Ok(path)
}

/// A running peer; it ends with the value.
#[derive(Debug)]
pub(super) struct Peer {
    /// Where it listens.
    pub(super) address: SocketAddr,
    process: Process,
}

impl Peer {
    /// Debian's `prometheus-node-exporter` as it is installed.
    pub(super) fn node_exporter(folder: &Path) -> anyhow::Result<Self> {
        let address = free_address()?;
        let mut start = command("prometheus-node-exporter");
        start.arg(format!("--web.listen-address={address}"));
        Self::start("node-exporter", folder, address, &mut start)
    }

    /// The engine without a model: this program in another mode.
    pub(super) fn mock_engine(folder: &Path) -> anyhow::Result<Self> {
        let address = free_address()?;
        let own = std::env::current_exe().context("find the own program")?;
        let mut start = command(own);
        start.args(["mock-engine", "--host", "127.0.0.1", "--port", &address.port().to_string()]);
        Self::start("mock-engine", folder, address, &mut start)
    }

    /// nginx that passes everything on to `upstream` as it comes, and keeps connections open.
    pub(super) fn nginx(folder: &Path, upstream: SocketAddr) -> anyhow::Result<Self> {
        let address = free_address()?;
        let place = folder.display();
        let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {place}/{kind};"))
            .concat();
        // One process: nothing is left when it is killed, and it is what one core would be given.
        let text = format!(
            "daemon off; master_process off; pid {place}/nginx.pid; error_log {place}/nginx.error;\n\
             events {{ worker_connections 256; }}\n\
             http {{ access_log off; {temporary}\n\
             upstream engine {{ server {upstream}; keepalive 32; keepalive_requests 1000000; }}\n\
             server {{ listen {address}; keepalive_requests 1000000;\n\
             location / {{ proxy_pass http://engine; proxy_http_version 1.1; proxy_buffering off;\n\
             proxy_set_header Connection \"\"; }} }} }}\n"
        );
        let file = folder.join("nginx.conf");
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
        let mut start = command("nginx");
        start.arg("-c").arg(&file).arg("-e").arg(folder.join("nginx.error"));
        Self::start("nginx", folder, address, &mut start)
    }

    /// LiteLLM's proxy before `upstream`: one process, a key that is checked, no database, and nothing
    /// that would call out.
    pub(super) fn litellm(folder: &Path, upstream: SocketAddr) -> anyhow::Result<Self> {
        let address = free_address()?;
        let text = format!(
            "model_list:\n  - model_name: {MODEL}\n    litellm_params:\n      model: openai/{MODEL}\n      \
             api_base: http://{upstream}/v1\n      api_key: none\n\
             litellm_settings:\n  telemetry: false\n  num_retries: 0\n  request_timeout: 60\n\
             general_settings:\n  master_key: {API_KEY}\n"
        );
        let file = folder.join("litellm.yaml");
        fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
        let mut start = command(installed("bin/litellm")?);
        start
            .args(["--host", "127.0.0.1", "--port", &address.port().to_string()])
            .args(["--num_workers", "1", "--telemetry", "False", "--config"])
            .arg(&file)
            .env("HOME", folder)
            // Prices of models come with it, instead of from its repository.
            .env("LITELLM_LOCAL_MODEL_COST_MAP", "True")
            .env("LITELLM_MODE", "PRODUCTION")
            .env("LITELLM_LOG", "ERROR")
            .env("DISABLE_ADMIN_UI", "True")
            .env("NO_DOCS", "True");
        Self::start_within(LITELLM_WITHIN, "litellm", folder, address, &mut start)
    }

    /// The development engine without a worker, with one model.
    pub(super) fn llama_server(folder: &Path, slots: u32, context: u32) -> anyhow::Result<Self> {
        let address = free_address()?;
        let engine = workspace().join(".dev/engine");
        let program = engine.join("bin/llama-server");
        ensure!(program.exists(), "no {}: run `packaging/setup.sh`", program.display());
        let mut start = command(program);
        start
            .args(["--host", "127.0.0.1", "--port", &address.port().to_string(), "-m"])
            .arg(engine.join("model.gguf"))
            .args(["--alias", MODEL, "-c", &(slots * context).to_string()])
            .args(["-np", &slots.to_string()]);
        let process = Process::start("llama-server", folder, &mut start)?;
        Ok(Self { address, process })
    }

    fn start(
        name: &str,
        folder: &Path,
        address: SocketAddr,
        start: &mut Command,
    ) -> anyhow::Result<Self> {
        Self::start_within(START_WITHIN, name, folder, address, start)
    }

    fn start_within(
        within: Duration,
        name: &str,
        folder: &Path,
        address: SocketAddr,
        start: &mut Command,
    ) -> anyhow::Result<Self> {
        let mut process = Process::start(name, folder, start)?;
        wait_for(name, within, || {
            if !process.is_running() {
                bail!("it ended:\n{}", process.log_tail());
            }
            let up = TcpStream::connect(address);
            Ok(up.map_or_else(|error| Look::NotYet(error.to_string()), |_| Look::Ready(())))
        })?;
        Ok(Self { address, process })
    }

    /// Its pid.
    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }
}

fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    listener.local_addr().context("find a free port")
}
