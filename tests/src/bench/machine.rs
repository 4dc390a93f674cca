//! The machine that is measured on, and the versions of the peers.

use std::{fs, thread};

use anyhow::Context as _;
use jiff::Zoned;

use crate::{
    lab::workspace,
    postgres::{CLIENTS, MAJOR},
    process::command,
};

/// What a reader must know to compare figures.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    lines: Vec<(&'static str, String)>,
}

impl Machine {
    /// Looks at this machine.
    pub(super) fn look() -> anyhow::Result<Self> {
        let postgres = format!("{CLIENTS}/{MAJOR}/bin/postgres");
        let cores = thread::available_parallelism().context("count the cores")?;
        let lines = vec![
            ("date", now()),
            ("processor", format!("{}, {cores} cores", value_of("/proc/cpuinfo", "model name"))),
            ("memory", memory()),
            ("kernel", first_line("/proc/sys/kernel/osrelease")),
            ("system", value_of("/etc/os-release", "PRETTY_NAME").trim_matches('"').to_owned()),
            ("load average at the start", load_average()?),
            ("homelab", env!("CARGO_PKG_VERSION").to_owned()),
            ("node exporter", version("prometheus-node-exporter", "--version")),
            ("nginx", version("nginx", "-v")),
            ("LiteLLM", pinned("litellm==")),
            ("PostgreSQL", version(&postgres, "--version")),
            ("graphile-worker", of_npm("graphile-worker")),
            ("procrastinate", pinned("procrastinate==")),
            ("restic", version("restic", "version")),
            ("borg", version("borg", "--version")),
            ("zstd", version("zstd", "--version")),
        ];
        Ok(Self { lines })
    }

    /// A line each.
    pub(super) fn describe(&self) -> String {
        self.lines.iter().map(|(what, value)| format!("- {what}: {value}\n")).collect()
    }
}

/// The date and time of day, to the minute.
pub(super) fn now() -> String {
    Zoned::now().strftime("%Y-%m-%d %H:%M %Z").to_string()
}

/// Of the last 1, 5 and 15 minutes.
pub(super) fn load_average() -> anyhow::Result<String> {
    let text = fs::read_to_string("/proc/loadavg").context("read /proc/loadavg")?;
    Ok(text.split_ascii_whitespace().take(3).collect::<Vec<_>>().join(" "))
}

fn memory() -> String {
    let total = value_of("/proc/meminfo", "MemTotal");
    let kilobytes: f64 = total.trim_end_matches(" kB").parse().unwrap_or_default();
    format!("{:.1} GiB", kilobytes / 1024.0 / 1024.0)
}

/// The first value of a key in a file of `key: value` or `key=value`; a question mark when there is none.
fn value_of(path: &str, key: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let found = text.lines().find_map(|line| {
        let (name, value) = line.split_once([':', '='])?;
        (name.trim() == key).then(|| value.trim().to_owned())
    });
    found.unwrap_or_else(|| "?".to_owned())
}

fn first_line(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or("?").to_owned()
}

/// The first line that a program says about itself; some say it on standard error.
fn version(program: &str, flag: &str) -> String {
    let Ok(output) = command(program).arg(flag).output() else {
        return "not installed".to_owned();
    };
    let said = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    String::from_utf8_lossy(&said).lines().next().unwrap_or("?").to_owned()
}

/// The version of a package of Python that the benches are pinned to.
fn pinned(prefix: &str) -> String {
    let file = workspace().join("packaging/bench-peers/requirements.txt");
    let text = fs::read_to_string(file).unwrap_or_default();
    let found = text.lines().find_map(|line| line.strip_prefix(prefix)?.split(' ').next());
    found.unwrap_or("?").to_owned()
}

/// The version of a package of npm that is installed.
fn of_npm(name: &str) -> String {
    let file = workspace().join(".dev/peers/node_modules").join(name).join("package.json");
    let text = fs::read_to_string(file).unwrap_or_default();
    let package: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    package["version"].as_str().unwrap_or("not installed").to_owned()
}
