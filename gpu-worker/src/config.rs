//! `/etc/homelab/gpu-worker.toml`.

use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use homelab_common::{
    config::{Allowed, Document, Report, Section, Value, parse},
    retry::Backoff,
};
use homelab_rpc::{daemon::DaemonConfig, peer::Kind};

use crate::{
    device::DeviceId,
    engine::{EngineConfig, Timing, command::Template, restart::RestartPolicy, stream::Patience},
    model::{Model, ModelName, Sha256},
};

/// Where the file stands unless another one is named.
pub const PATH: &str = "/etc/homelab/gpu-worker.toml";

/// More than any model is trained for.
const CONTEXT_TOKENS_MAX: u32 = 1 << 24;

/// llama-server's own bound.
const SLOTS_MAX: u32 = 256;

/// Pauses between restarts lose up to this part by chance.
const RESTART_JITTER: f64 = 0.2;

/// A checked configuration.
#[derive(Debug)]
pub struct Config {
    /// What every daemon has.
    pub daemon: DaemonConfig,
    /// What ends with the process: key files of engines.
    pub runtime: PathBuf,
    /// The engines.
    pub engines: Vec<EngineEntry>,
    /// The models.
    pub models: Vec<Arc<Model>>,
}

/// One `[[engine]]`.
#[derive(Debug, Clone)]
pub struct EngineEntry {
    /// The engine.
    pub engine: EngineConfig,
    /// The models that it may be given; empty for all.
    pub models: Vec<ModelName>,
    /// The model that it is given at the start.
    pub load: Option<ModelName>,
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
        let daemon = DaemonConfig::read(&root, Kind::GpuWorker);
        let runtime = root.or("runtime-dir", "/run/homelab-gpu-worker".into(), parse::path);
        let models: Vec<Option<Arc<Model>>> = root.tables("model").iter().map(model).collect();
        let known: Vec<ModelName> =
            models.iter().flatten().map(|model| model.name.clone()).collect();
        refuse_repeated(&root, "model", &known);
        let engines: Vec<Option<EngineEntry>> =
            root.tables("engine").iter().map(|section| engine(section, &known)).collect();
        let names: Vec<&str> =
            engines.iter().flatten().map(|entry| entry.engine.name.as_str()).collect();
        refuse_repeated(&root, "engine", &names);

        document.finish_with(|| {
            let engines = engines.into_iter().collect::<Option<_>>()?;
            let models = models.into_iter().collect::<Option<_>>()?;
            Some(Self { daemon, runtime, engines, models })
        })
    }
}

fn model(section: &Section<'_>) -> Option<Arc<Model>> {
    let name = section.required("name", parse::text(str::parse::<ModelName>));
    let path = section.optional("path", parse::path);
    let sha256 = section.optional("sha256", parse::text(str::parse::<Sha256>));
    let context = section.or("context", 4096, parse::integer(256..=CONTEXT_TOKENS_MAX));
    let slots = section.or("slots", 1, parse::integer(1..=SLOTS_MAX));
    Some(Arc::new(Model::new(name?, path, sha256, context, slots)))
}

fn engine(section: &Section<'_>, known: &[ModelName]) -> Option<EngineEntry> {
    let configured = |value: &Value<'_>| {
        let name = parse::text(str::parse::<ModelName>)(value)?;
        if known.contains(&name) {
            return Ok(name);
        }
        Err(Allowed::one_of(known.iter().map(ModelName::as_str)))
    };
    let name = section.required("name", parse::text(engine_name));
    let device = section.or("device", DeviceId::Cpu, parse::text(str::parse));
    let words = section.required_list("command", parse::string);
    let command = match Template::try_new(&words) {
        Ok(template) => Some(template),
        Err(broken) => {
            if !words.is_empty() {
                section.problem("command", broken.to_string());
            }
            None
        }
    };
    let environment = environment(&section.table("environment"));
    let models = section.list("models", configured);
    let load = section.optional("load", configured);
    if let Some(load) = &load
        && !models.is_empty()
        && !models.contains(load)
    {
        section.problem("load", "one of this engine's `models`");
    }
    let health_path = section.or("health-path", "/health".to_owned(), parse::text(http_path));
    let timing = timing(section);
    let (name, command, timing) = (name?, command?, timing?);
    let engine = EngineConfig { name, device, command, environment, health_path, timing };
    Some(EngineEntry { engine, models, load })
}

fn environment(section: &Section<'_>) -> Vec<(String, String)> {
    let pair = |name: String| {
        let value = section.required(&name, parse::string)?;
        Some((name, value))
    };
    section.keys().into_iter().filter_map(pair).collect()
}

fn timing(section: &Section<'_>) -> Option<Timing> {
    let patience = Patience::default();
    let secs = Duration::from_secs;
    let restart_min = section.or("restart-min", secs(1), span(1, 3600));
    let restart_max = section.or("restart-max", secs(300), span(1, 86_400));
    let backoff = match Backoff::try_new(restart_min, restart_max, RESTART_JITTER) {
        Ok(backoff) => Some(backoff),
        Err(broken) => {
            section.problem("restart-max", broken.to_string());
            None
        }
    };
    Some(Timing {
        start: section.or("start-deadline", secs(600), span(1, 7200)),
        drain: section.or("drain-deadline", secs(15), span(0, 3600)),
        stop: section.or("stop-deadline", secs(5), span(0, 60)),
        stall: section.or("stall-deadline", secs(60), span(1, 3600)),
        look: secs(1),
        patience: Patience {
            first_byte: section.or("first-byte-deadline", patience.first_byte, span(1, 86_400)),
            between_chunks: section.or(
                "silence-deadline",
                patience.between_chunks,
                span(1, 86_400),
            ),
        },
        restart: RestartPolicy {
            settled: section.or("settled-after", secs(300), span(1, 86_400)),
            quick_ends_max: section.or("quick-ends-max", 5, parse::integer(1..=1000)),
            backoff: backoff?,
        },
    })
}

fn span(least_secs: u64, most_secs: u64) -> impl Fn(&Value<'_>) -> Result<Duration, Allowed> {
    parse::duration_in(Duration::from_secs(least_secs)..=Duration::from_secs(most_secs))
}

/// It becomes part of a file's name.
fn engine_name(text: &str) -> Result<String, &'static str> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if (1..=32).contains(&text.len()) && text.bytes().all(is_plain) {
        Ok(text.to_owned())
    } else {
        Err("1 to 32 letters, digits, `-` or `_`")
    }
}

fn http_path(text: &str) -> Result<String, &'static str> {
    if text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        Err("a path that begins with `/`, such as \"/health\"")
    }
}

fn refuse_repeated<T: Ord + fmt::Display>(root: &Section<'_>, what: &str, names: &[T]) {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name) {
            root.problem(what, format!("names that differ; `{name}` stands twice"));
        }
    }
}

/// What counts after all defaults, for people. There are no secrets in it: of an
/// engine's environment only the names are shown.
impl fmt::Display for Config {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DaemonConfig { listen, pki_dir, state_dir, admin_socket, log, grace } = &self.daemon;
        writeln!(formatter, "listen = \"{listen}\"")?;
        let folders =
            [("state-dir", state_dir), ("pki-dir", pki_dir), ("runtime-dir", &self.runtime)];
        for (key, path) in folders {
            writeln!(formatter, "{key} = \"{}\"", path.display())?;
        }
        match admin_socket {
            Some(path) => writeln!(formatter, "admin-socket = \"{}\"", path.display())?,
            None => writeln!(formatter, "admin-socket = false")?,
        }
        writeln!(formatter, "grace = \"{}\"", parse::show_duration(*grace))?;
        writeln!(formatter, "\n[log]\nlevel = \"{}\"", log.level)?;
        for entry in &self.engines {
            write_engine(formatter, entry)?;
        }
        for model in &self.models {
            writeln!(formatter, "\n[[model]]\nname = \"{}\"", model.name)?;
            if let Some(path) = &model.path {
                writeln!(formatter, "path = \"{}\"", path.display())?;
            }
            if let Some(sha256) = &model.sha256 {
                writeln!(formatter, "sha256 = \"{sha256}\"")?;
            }
            writeln!(formatter, "context = {}", model.context_tokens)?;
            writeln!(formatter, "slots = {}", model.slots)?;
        }
        Ok(())
    }
}

fn write_engine(formatter: &mut fmt::Formatter<'_>, entry: &EngineEntry) -> fmt::Result {
    let EngineEntry { engine, models, load } = entry;
    writeln!(formatter, "\n[[engine]]\nname = \"{}\"", engine.name)?;
    writeln!(formatter, "device = \"{}\"", engine.device)?;
    writeln!(formatter, "command = {:?}", engine.command.words())?;
    let names: Vec<&str> = engine.environment.iter().map(|(name, _)| name.as_str()).collect();
    writeln!(formatter, "# environment, values not shown: {}", names.join(", "))?;
    writeln!(formatter, "models = {:?}", listed(models))?;
    if let Some(load) = load {
        writeln!(formatter, "load = \"{load}\"")?;
    }
    writeln!(formatter, "health-path = \"{}\"", engine.health_path)?;
    let Timing { start, drain, stop, stall, look: _, patience, restart } = engine.timing;
    let deadlines = [
        ("start-deadline", start),
        ("drain-deadline", drain),
        ("stop-deadline", stop),
        ("stall-deadline", stall),
        ("first-byte-deadline", patience.first_byte),
        ("silence-deadline", patience.between_chunks),
        ("settled-after", restart.settled),
    ];
    for (key, span) in deadlines {
        writeln!(formatter, "{key} = \"{}\"", parse::show_duration(span))?;
    }
    writeln!(formatter, "quick-ends-max = {}", restart.quick_ends_max)
}

fn listed(models: &[ModelName]) -> Vec<&str> {
    models.iter().map(ModelName::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
        [[engine]]
        name = "cpu"
        command = ["/usr/bin/llama-server"]
        load = "smollm2"

        [[model]]
        name = "smollm2"
        path = "/var/lib/models/smollm2.gguf"
        slots = 2
    "#;

    fn problems(text: &str) -> String {
        Config::parse("gpu-worker.toml", text).unwrap_err().to_string()
    }

    #[test]
    fn a_small_file_is_enough() {
        let config = Config::parse("gpu-worker.toml", SMALL).unwrap();
        assert_eq!(config.daemon.listen.port(), 7452);
        assert_eq!(config.runtime, Path::new("/run/homelab-gpu-worker"));
        let entry = &config.engines[0];
        assert_eq!(entry.engine.device, DeviceId::Cpu);
        assert_eq!(entry.load.as_ref().unwrap().as_str(), "smollm2");
        assert_eq!(entry.engine.timing.stall, Duration::from_secs(60));
        assert_eq!((config.models[0].slots, config.models[0].context_tokens), (2, 4096));
    }

    #[test]
    fn a_host_with_two_cards_says_which_engine_runs_where() {
        let config = Config::parse(
            "gpu-worker.toml",
            r#"
            listen = "127.0.0.1:0"
            [[engine]]
            name = "left"
            device = "0000:03:00.0"
            command = ["/opt/vulkan/llama-server", "--port", "{port}", "-m", "{model}"]
            environment = { GGML_VK_VISIBLE_DEVICES = "0" }
            stall-deadline = "2m"
            [[engine]]
            name = "right"
            device = "0000:83:00.0"
            command = ["/opt/vulkan/llama-server"]
            models = ["a"]
            [[model]]
            name = "a"
            "#,
        )
        .unwrap();
        let left = &config.engines[0].engine;
        assert_eq!(left.device.to_string(), "0000:03:00.0");
        assert_eq!(left.environment, [("GGML_VK_VISIBLE_DEVICES".into(), "0".into())]);
        assert_eq!(left.timing.stall, Duration::from_secs(120));
        assert_eq!(config.engines[1].models.len(), 1);
    }

    #[test]
    fn the_example_file_is_in_order() {
        let text = include_str!("../../packaging/examples/gpu-worker.toml");
        let config = Config::parse("gpu-worker.toml", text).unwrap();
        assert_eq!((config.engines.len(), config.models.len()), (2, 2));
    }

    #[test]
    fn all_problems_come_in_one_report() {
        let report = problems(
            r#"
            grace = "soon"
            [[engine]]
            name = "a/b"
            device = "card0"
            command = ["llama-server"]
            load = "big"
            stal-deadline = "2m"
            [[engine]]
            name = "x"
            command = []
            [[model]]
            name = "small"
            slots = 0
            [[model]]
            name = "small"
            sha256 = "abc"
            "#,
        );
        for expected in [
            "grace",
            "1 to 32 letters",
            "`cpu`, or a PCI slot",
            "`llama-server` is not an absolute path",
            "engine[0].load",
            "did you mean `stall-deadline`?",
            "at least one element",
            "from 1 to 256",
            "`small` stands twice",
            "64 hexadecimal digits",
        ] {
            assert!(report.contains(expected), "{expected} is not in:\n{report}");
        }
    }

    #[test]
    fn what_is_printed_can_be_read_again_and_hides_the_environment() {
        let text =
            SMALL.replace("load =", "environment = { HF_TOKEN = \"hunter2\" }\n        load =");
        let printed = Config::parse("gpu-worker.toml", &text).unwrap().to_string();
        assert!(printed.contains("HF_TOKEN") && !printed.contains("hunter2"), "{printed}");
        let again = Config::parse("printed", &printed).unwrap().to_string();
        assert_eq!(again, printed.replace("HF_TOKEN", ""));
    }
}
