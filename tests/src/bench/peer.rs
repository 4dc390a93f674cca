//! Programs of others that are measured beside ours, each on a free port of loopback.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, bail};

use crate::{
    process::{Process, command},
    wait::{Look, wait_for},
};

const START_WITHIN: Duration = Duration::from_secs(20);

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

    fn start(
        name: &str,
        folder: &Path,
        address: SocketAddr,
        start: &mut Command,
    ) -> anyhow::Result<Self> {
        let mut process = Process::start(name, folder, start)?;
        wait_for(name, START_WITHIN, || {
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
