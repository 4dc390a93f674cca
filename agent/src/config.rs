//! `/etc/homelab/agent.toml`. An empty file is a good one.

use std::fmt;
use std::path::Path;

use homelab_common::config::{Document, Report, Section, parse};
use homelab_rpc::daemon::DaemonConfig;
use homelab_rpc::peer::Kind;

use crate::health::Thresholds;
use crate::power::PowerConfig;

/// Where the file stands unless another one is named.
pub const PATH: &str = "/etc/homelab/agent.toml";

/// A checked configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// What every daemon has.
    pub daemon: DaemonConfig,
    /// Where the conditions of this host stop to be good.
    pub thresholds: Thresholds,
    /// Whether and how this host may be put to sleep.
    pub power: PowerConfig,
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// Every problem of the file, in one report.
    pub fn load(path: &Path) -> Result<Self, Report> {
        Self::read(&Document::load(path)?)
    }

    /// Reads a file whose text is at hand.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(file: &str, text: &str) -> Result<Self, Report> {
        Self::read(&Document::parse(file, text)?)
    }

    fn read(document: &Document) -> Result<Self, Report> {
        let root = document.root();
        let daemon = DaemonConfig::read(&root, Kind::Agent);
        let thresholds = thresholds(&root.table("thresholds"));
        let power = power(&root.table("power"));
        document.finish_with(|| Some(Self { daemon, thresholds, power }))
    }
}

fn power(section: &Section<'_>) -> PowerConfig {
    let PowerConfig { may_sleep, systemctl } = PowerConfig::default();
    PowerConfig {
        may_sleep: section.or("may-sleep", may_sleep, parse::bool),
        systemctl: section.or("systemctl", systemctl, parse::path),
    }
}

/// Percentages, as people think of them; shares inside.
fn thresholds(section: &Section<'_>) -> Thresholds {
    let default = Thresholds::default();
    let percent =
        |key, share: f64| section.or(key, share * 100.0, parse::float(0.0..=100.0)) / 100.0;
    Thresholds {
        filesystem_available_share_min: percent(
            "filesystem-available-percent-min",
            default.filesystem_available_share_min,
        ),
        memory_available_share_min: percent(
            "memory-available-percent-min",
            default.memory_available_share_min,
        ),
        memory_stall_percent_max: section.or(
            "memory-stall-percent-max",
            default.memory_stall_percent_max,
            parse::float(0.0..=100.0),
        ),
        temperature_celsius_max: section.or(
            "temperature-celsius-max",
            default.temperature_celsius_max,
            parse::float(20.0..=150.0),
        ),
        age_max: default.age_max,
    }
}

/// What counts after all defaults, for people. There are no secrets in it.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DaemonConfig { listen, pki_dir, state_dir, admin_socket, log, grace } = &self.daemon;
        writeln!(f, "listen = \"{listen}\"")?;
        writeln!(f, "state-dir = \"{}\"", state_dir.display())?;
        writeln!(f, "pki-dir = \"{}\"", pki_dir.display())?;
        match admin_socket {
            Some(path) => writeln!(f, "admin-socket = \"{}\"", path.display())?,
            None => writeln!(f, "admin-socket = false")?,
        }
        writeln!(f, "grace = \"{}\"", parse::show_duration(*grace))?;
        writeln!(f, "\n[log]\nlevel = \"{}\"", log.level)?;
        let thresholds = &self.thresholds;
        let available = thresholds.filesystem_available_share_min * 100.0;
        writeln!(f, "\n[thresholds]\nfilesystem-available-percent-min = {available:?}")?;
        let available = thresholds.memory_available_share_min * 100.0;
        writeln!(f, "memory-available-percent-min = {available:?}")?;
        writeln!(f, "memory-stall-percent-max = {:?}", thresholds.memory_stall_percent_max)?;
        writeln!(f, "temperature-celsius-max = {:?}", thresholds.temperature_celsius_max)?;
        let PowerConfig { may_sleep, systemctl } = &self.power;
        writeln!(f, "\n[power]\nmay-sleep = {may_sleep}")?;
        writeln!(f, "systemctl = \"{}\"", systemctl.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse("agent.toml", text).map_err(|report| report.to_string())
    }

    #[test]
    fn the_example_is_a_valid_file() {
        parse(include_str!("../../packaging/examples/agent.toml")).unwrap();
    }

    #[test]
    fn an_empty_file_gives_the_defaults() {
        let config = parse("").unwrap();
        assert_eq!(config.thresholds, Thresholds::default());
        assert_eq!(config.daemon.listen.port(), 7450);
    }

    #[test]
    fn thresholds_are_percentages() {
        let text = "[thresholds]\nfilesystem-available-percent-min = 25\n\
            temperature-celsius-max = 70.5\n";
        let thresholds = parse(text).unwrap().thresholds;
        assert_eq!(thresholds.filesystem_available_share_min, 0.25);
        assert_eq!(thresholds.temperature_celsius_max, 70.5);
    }

    #[test]
    fn no_host_may_sleep_unless_it_is_told_so() {
        assert!(!parse("").unwrap().power.may_sleep);
        let power = parse("[power]\nmay-sleep = true\nsystemctl = \"/bin/true\"\n").unwrap().power;
        assert_eq!((power.may_sleep, power.systemctl), (true, "/bin/true".into()));
    }

    #[test]
    fn what_is_printed_reads_back_as_the_same() {
        let config = parse("listen = \"127.0.0.1:0\"\nadmin-socket = false\n").unwrap();
        assert_eq!(parse(&config.to_string()), Ok(config));
    }

    #[test]
    fn all_problems_come_in_one_report() {
        let text = "listn = \"127.0.0.1:0\"\n[thresholds]\nmemory-stall-percent-max = 101\n";
        let report = parse(text).unwrap_err();
        assert!(report.contains("2 problems"), "{report}");
        assert!(report.contains("did you mean `listen`"), "{report}");
    }
}
