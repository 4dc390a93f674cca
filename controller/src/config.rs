//! What the controller is told by `/etc/homelab/controller.toml`.
//!
//! The site itself (hosts, backups, tiers) stands in the site file, see [`crate::site`]; here is only
//! what this process needs before it can read that one. Every key has a default, so that an empty
//! file is a valid one.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use homelab_common::{
    config::{Allowed, Document, Report, Section, Value, parse},
    secret,
    telemetry::{Format, LogConfig},
};
use homelab_domain::{
    queue::QueueLimits,
    upkeep::{AGE_MIN, GOLD_AGE_MIN, Keep, KeepRules},
};

/// Where the file is looked for when none is named.
pub const DEFAULT_PATH: &str = "/etc/homelab/controller.toml";

/// What may wait in the queue unless the file says otherwise.
pub const QUEUE: QueueLimits =
    QueueLimits { jobs_max: 10_000, bytes_max: 256 * 1024 * 1024, caller_jobs_max: 2_000 };

/// The largest request must fit.
const QUEUE_BYTES_MIN: u64 = crate::job::submission::REQUEST_BYTES_MAX as u64;

/// More than anybody keeps a queue for.
const QUEUE_BYTES_MAX: u64 = 1 << 40;

/// As good as for ever.
const AGE_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3_600);

/// Everything that the controller is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it listens.
    pub listen: Listen,
    /// What only this controller keeps: the database, the key that seals token secrets.
    pub state_dir: PathBuf,
    /// The admin socket.
    pub runtime_dir: PathBuf,
    /// Issuing CA, the controller's own certificate, the roots.
    pub pki_dir: PathBuf,
    /// The site file.
    pub site: PathBuf,
    /// The controller's name: first label of the DNS name in its certificate.
    pub name: String,
    /// Addresses under which daemons and people reach the controller; they stand in its certificate, and the
    /// first one in tokens.
    pub addresses: Vec<IpAddr>,
    /// Where state is kept.
    pub store: StoreConfig,
    /// The dashboard.
    pub web: WebConfig,
    /// The OpenAI-compatible gateway.
    pub gateway: GatewayConfig,
    /// How much may wait in the queue of AI jobs.
    pub queue: QueueLimits,
    /// How long what is over is kept.
    pub keep: KeepRules,
    /// Logs.
    pub log: LogConfig,
    origins: Vec<Origin>,
}

/// Where the controller listens; port 0 lets the system choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// gRPC with client certificates.
    pub grpc: SocketAddr,
    /// gRPC without them: the two methods of an enrolment.
    pub enrolment: SocketAddr,
    /// Dashboard and gateway over HTTPS.
    pub web: SocketAddr,
}

/// Where state is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreConfig {
    /// A file of the embedded database.
    Sqlite {
        /// The file.
        path: PathBuf,
    },
    /// A PostgreSQL server.
    Postgres {
        /// `postgres://user@host:port/database`, without the password.
        url: String,
        /// Where the password comes from.
        password: Option<secret::Source>,
    },
}

/// The dashboard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebConfig {
    /// How browsers reach it, without a slash at the end; absent means the bound address.
    pub public_url: Option<String>,
}

/// The gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayConfig {
    /// The file of API keys; absent means that the gateway lets nobody in.
    pub keys: Option<PathBuf>,
    /// Sites whose pages may call it from a browser, as browsers write them in `Origin`.
    pub origins: Vec<String>,
}

/// One key with its value as it counts, and whether it stands in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    key: String,
    shown: String,
    given: bool,
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// All problems of the file in one report.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Report> {
        Self::read(&Document::load(path)?)
    }

    /// Takes `text` as the content of `file`, a name for reports.
    ///
    /// # Errors
    ///
    /// All problems of the text in one report.
    pub fn parse(file: &str, text: &str) -> Result<Self, Report> {
        Self::read(&Document::parse(file, text)?)
    }

    fn read(document: &Document) -> Result<Self, Report> {
        let mut reader = Reader { origins: Vec::new() };
        let config = reader.config(&document.root());
        let origins = reader.origins;
        document.finish_with(|| Some(Self { origins, ..config }))
    }

    /// How long running calls get to finish when the controller stops.
    pub const GRACE: Duration = Duration::from_secs(20);
}

/// As `print-config` shows it: one key per line with where it comes from. Secrets are named by their
/// place only.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self
            .origins
            .iter()
            .map(|origin| origin.key.len() + origin.shown.len() + 3)
            .max()
            .unwrap_or(0);
        for Origin { key, shown, given } in &self.origins {
            let line = format!("{key} = {shown}");
            writeln!(f, "{line:<width$}  # {}", if *given { "file" } else { "default" })?;
        }
        Ok(())
    }
}

/// Reads keys and remembers where each came from.
struct Reader {
    origins: Vec<Origin>,
}

impl Reader {
    fn config(&mut self, root: &Section<'_>) -> Config {
        let state_dir = self.path(root, "state-dir", "/var/lib/homelab-controller");
        let runtime_dir = self.path(root, "runtime-dir", "/run/homelab-controller");
        let pki_dir = self.path(root, "pki-dir", state_dir.join("pki"));
        let site = self.path(root, "site", "/etc/homelab/homelab.toml");
        let name =
            self.or(root, "name", "controller".to_owned(), parse::text(dns_label), Clone::clone);
        let addresses = self.addresses(root);
        let listen = self.listen(&root.table("listen"));
        let store = self.store(&root.table("store"), &state_dir);
        let web = root.table("web");
        let public_url = self.optional(&web, "public-url", parse::text(https_url), Clone::clone);
        let gateway = root.table("gateway");
        let keys = self.optional(&gateway, "keys", parse::path, |path| path.display().to_string());
        let origins = gateway.list("origins", parse::text(origin));
        let shown = if origins.is_empty() { "(none)".to_owned() } else { origins.join(", ") };
        self.note(&gateway, "origins", shown, gateway.has("origins"));
        let queue = self.queue(&root.table("queue"));
        let keep = self.keep(&root.table("keep"));
        let log = self.log(&root.table("log"));
        Config {
            listen,
            state_dir,
            runtime_dir,
            pki_dir,
            site,
            name,
            addresses,
            store,
            web: WebConfig { public_url },
            gateway: GatewayConfig { keys, origins },
            queue,
            keep,
            log,
            origins: Vec::new(),
        }
    }

    fn addresses(&mut self, root: &Section<'_>) -> Vec<IpAddr> {
        let given = root.has("addresses");
        let mut addresses = root.list("addresses", parse::ip_addr);
        if addresses.is_empty() {
            addresses.push(Ipv4Addr::LOCALHOST.into());
        }
        let shown = addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        self.note(root, "addresses", shown, given);
        addresses
    }

    fn listen(&mut self, section: &Section<'_>) -> Listen {
        let mut address = |key, port| {
            let default = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
            self.or(section, key, default, parse::socket_addr, ToString::to_string)
        };
        Listen {
            grpc: address("grpc", 7440),
            enrolment: address("enrolment", 7441),
            web: address("web", 7480),
        }
    }

    fn store(&mut self, section: &Section<'_>, state_dir: &Path) -> StoreConfig {
        let default = StoreConfig::Sqlite { path: state_dir.join("controller.db") };
        let store = self.or(section, "url", default, store_url, show_store);
        let password =
            self.optional(section, "password", parse::secret_source, ToString::to_string);
        match store {
            StoreConfig::Sqlite { .. } if password.is_some() => {
                section.problem("password", "only for a `postgres://` store; leave it out");
                store
            }
            StoreConfig::Sqlite { .. } => store,
            StoreConfig::Postgres { url, .. } => StoreConfig::Postgres { url, password },
        }
    }

    fn queue(&mut self, section: &Section<'_>) -> QueueLimits {
        let QueueLimits { jobs_max, bytes_max, caller_jobs_max } = QUEUE;
        let texts = parse::bytes_in(QUEUE_BYTES_MIN..=QUEUE_BYTES_MAX);
        let mut count = |key, default| {
            self.or(section, key, default, parse::integer(1..=1_000_000), ToString::to_string)
        };
        QueueLimits {
            jobs_max: count("jobs-max", jobs_max),
            caller_jobs_max: count("caller-jobs-max", caller_jobs_max),
            bytes_max: self
                .or(section, "text-max", bytes_max, texts, |size| parse::show_bytes(*size)),
        }
    }

    fn keep(&mut self, section: &Section<'_>) -> KeepRules {
        let mut count = |key, default| {
            self.or(section, key, default, parse::integer(1..=10_000_000), ToString::to_string)
        };
        let KeepRules { jobs, runs, certificates, tokens, gold } = KeepRules::default();
        let (jobs_max, runs_max) = (count("jobs-max", jobs.count), count("runs-max", runs.count));
        let mut age = |key, min, default| {
            let ages = parse::duration_in(min..=AGE_MAX);
            self.or(section, key, default, ages, |span| parse::show_duration(*span))
        };
        KeepRules {
            jobs: Keep { age: age("jobs", AGE_MIN, jobs.age), count: jobs_max },
            runs: Keep { age: age("runs", AGE_MIN, runs.age), count: runs_max },
            certificates: age("certificates", AGE_MIN, certificates),
            tokens: age("tokens", AGE_MIN, tokens),
            gold: age("gold", GOLD_AGE_MIN, gold),
        }
    }

    fn log(&mut self, section: &Section<'_>) -> LogConfig {
        let default = LogConfig::default();
        let level = self.or(section, "level", default.level, parse::string, Clone::clone);
        let words = [("auto", Format::Auto), ("text", Format::Text), ("json", Format::Json)];
        let show = |format: &Format| format!("{format:?}").to_lowercase();
        LogConfig {
            level,
            format: self.or(section, "format", default.format, parse::word(&words), show),
        }
    }

    fn path(&mut self, section: &Section<'_>, key: &str, default: impl Into<PathBuf>) -> PathBuf {
        self.or(section, key, default.into(), parse::path, |path| path.display().to_string())
    }

    fn or<'d, T>(
        &mut self,
        section: &Section<'d>,
        key: &str,
        default: T,
        parse: impl FnOnce(&Value<'d>) -> Result<T, Allowed>,
        show: impl FnOnce(&T) -> String,
    ) -> T {
        let value = section.or(key, default, parse);
        self.note(section, key, show(&value), section.has(key));
        value
    }

    fn optional<'d, T>(
        &mut self,
        section: &Section<'d>,
        key: &str,
        parse: impl FnOnce(&Value<'d>) -> Result<T, Allowed>,
        show: impl FnOnce(&T) -> String,
    ) -> Option<T> {
        let value = section.optional(key, parse);
        let shown = value.as_ref().map_or_else(|| "(none)".to_owned(), show);
        self.note(section, key, shown, section.has(key));
        value
    }

    fn note(&mut self, section: &Section<'_>, key: &str, shown: String, given: bool) {
        let path = section.path();
        let key = if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
        self.origins.push(Origin { key, shown, given });
    }
}

/// One label of a DNS name (RFC 1123): the shape of every host's and the controller's name.
pub(crate) fn dns_label(text: &str) -> Result<String, &'static str> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let whole = (1..=63).contains(&text.len()) && text.chars().all(fits);
    if whole && !text.starts_with('-') && !text.ends_with('-') {
        Ok(text.to_owned())
    } else {
        Err(
            "1 to 63 lower-case letters, digits and hyphens, no hyphen at either end, such as \"hx310-db\"",
        )
    }
}

fn https_url(text: &str) -> Result<String, &'static str> {
    let url = text.trim_end_matches('/');
    let has_host = |rest: &str| {
        !rest.is_empty() && !rest.starts_with('/') && !rest.contains(char::is_whitespace)
    };
    if url.strip_prefix("https://").is_some_and(has_host) {
        Ok(url.to_owned())
    } else {
        Err("an address that begins with `https://`, such as \"https://homelab.example:7480\"")
    }
}

/// Scheme, name and port, and nothing behind them: what a browser sends is compared byte for byte.
fn origin(text: &str) -> Result<String, &'static str> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.:[]".contains(c);
    match rest {
        Some(rest) if !rest.is_empty() && rest.chars().all(fits) => Ok(text.to_owned()),
        _ => Err(
            "scheme, name in lower case and port without anything behind, such as \"https://chat.home.arpa:8443\"",
        ),
    }
}

fn store_url(value: &Value<'_>) -> Result<StoreConfig, Allowed> {
    let allowed =
        "`sqlite:/absolute/path`, or `postgres://user@host:port/database` without a password";
    let text = value.as_str().unwrap_or_default();
    if let Some(path) = text.strip_prefix("sqlite:").filter(|path| path.starts_with('/')) {
        return Ok(StoreConfig::Sqlite { path: path.into() });
    }
    let rest = text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://"));
    match rest.and_then(|rest| rest.split_once('@')) {
        Some((user, _)) if user.contains(':') => Err(Allowed::new(
            "an address without a password; put the password into a file of mode 0600 and name it in `password`",
        )),
        _ if rest.is_some_and(|rest| !rest.is_empty()) => {
            Ok(StoreConfig::Postgres { url: text.to_owned(), password: None })
        }
        _ => Err(Allowed::new(allowed)),
    }
}

fn show_store(store: &StoreConfig) -> String {
    match store {
        StoreConfig::Sqlite { path } => format!("sqlite:{}", path.display()),
        StoreConfig::Postgres { url, .. } => url.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_a_valid_file() {
        let text = include_str!("../../packaging/examples/controller.toml");
        let config = Config::parse("controller.toml", text).expect("the example is valid");
        assert_eq!(config.site, Path::new("/etc/homelab/homelab.toml"));
    }

    #[test]
    fn an_empty_file_means_the_documented_defaults() {
        let config = Config::parse("controller.toml", "").expect("an empty file is valid");
        assert_eq!(config.listen.grpc, "0.0.0.0:7440".parse().expect("an address"));
        assert_eq!(config.listen.enrolment.port(), 7441);
        assert_eq!(config.listen.web.port(), 7480);
        assert_eq!(config.pki_dir, Path::new("/var/lib/homelab-controller/pki"));
        let store =
            StoreConfig::Sqlite { path: "/var/lib/homelab-controller/controller.db".into() };
        assert_eq!(config.store, store);
    }

    #[test]
    fn an_origin_is_written_as_browsers_send_it() {
        let text = |origin: &str| format!("[gateway]\norigins = [\"{origin}\"]\n");
        let config = Config::parse("c", &text("https://chat.home.arpa:8443")).expect("valid");
        assert_eq!(config.gateway.origins, ["https://chat.home.arpa:8443"]);
        for wrong in ["*", "null", "https://chat.home.arpa/", "chat.home.arpa", "https://Chat"] {
            assert!(Config::parse("c", &text(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn all_problems_come_in_one_report() {
        let text = "nam = \"x\"\nsite = \"homelab.toml\"\n[listen]\ngrpc = \"localhost\"\n\
                    [store]\nurl = \"postgres://u:geheim@db/x\"\n";
        let report = Config::parse("controller.toml", text).expect_err("has problems").to_string();
        for part in ["4 problems", "did you mean `name`?", "begins with `/`", "listen.grpc", "0600"]
        {
            assert!(report.contains(part), "{part}: {report}");
        }
    }

    #[test]
    fn what_is_kept_and_what_may_wait_is_said_in_the_file() {
        let text = "[keep]\njobs = \"7d\"\nruns-max = 100\n[queue]\ntext-max = \"64 MiB\"\n";
        let config = Config::parse("controller.toml", text).expect("valid");
        assert_eq!(config.keep.jobs.age, Duration::from_secs(7 * 24 * 3_600));
        assert_eq!(config.keep.runs.count, 100);
        assert_eq!(config.keep.tokens, KeepRules::default().tokens);
        assert_eq!(config.queue, QueueLimits { bytes_max: 64 << 20, ..QUEUE });
        let text = "[keep]\njobs = \"5m\"\n[queue]\ntext-max = \"1 MiB\"\njobs-max = 0\n";
        let report = Config::parse("controller.toml", text).expect_err("refused").to_string();
        assert!(report.contains("3 problems"), "{report}");
    }

    #[test]
    fn a_password_belongs_to_postgres_only() {
        let text = "[store]\nurl = \"sqlite:/x.db\"\npassword = \"/secret\"\n";
        let report = Config::parse("controller.toml", text).expect_err("refused").to_string();
        assert!(report.contains("only for a `postgres://` store"), "{report}");
    }

    #[test]
    fn print_config_says_where_each_value_comes_from() {
        let config = Config::parse("controller.toml", "name = \"hx310-db\"\n").expect("valid");
        let shown = config.to_string();
        let line = |key: &str| {
            shown.lines().find(|line| line.starts_with(key)).unwrap_or_default().to_owned()
        };
        assert!(line("name = hx310-db").ends_with("# file"), "{shown}");
        assert!(line("listen.grpc").ends_with("# default"), "{shown}");
    }
}
