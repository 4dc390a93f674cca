//! `/etc/homelab/gpu-worker.toml`.

mod engine;
mod show;

use std::{
    collections::BTreeSet,
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use homelab_common::config::{Document, Report, Section, parse};
use homelab_rpc::{daemon::DaemonConfig, peer::Kind};

use crate::{
    engine::{EngineConfig, backend::Backend},
    model::{Model, ModelName, Options, Purpose, Sha256},
};

/// Where the file stands unless another one is named.
pub const PATH: &str = "/etc/homelab/gpu-worker.toml";

/// More than any model is trained for.
const CONTEXT_TOKENS_MAX: u32 = 1 << 24;

/// llama-server's own bound.
const SLOTS_MAX: u32 = 256;

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
            root.tables("engine").iter().map(|section| engine::read(section, &models)).collect();
        let names: Vec<&str> =
            engines.iter().flatten().map(|entry| entry.engine.name.as_str()).collect();
        refuse_repeated(&root, "engine", &names);
        refuse_rivals(&root, &engines);

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
    let default = Options::default();
    let options = Options {
        sha256: section.optional("sha256", parse::text(str::parse::<Sha256>)),
        context_tokens: section.or(
            "context",
            default.context_tokens,
            parse::integer(256..=CONTEXT_TOKENS_MAX),
        ),
        slots: section.or("slots", default.slots, parse::integer(1..=SLOTS_MAX)),
        backends: section.list("backends", parse::text(str::parse::<Backend>)),
        arguments: section.list("arguments", parse::string),
        purpose: section.or("purpose", Purpose::Text, parse::word(&Purpose::WORDS)),
    };
    Some(Arc::new(Model::new(name?, path, options)))
}

/// A card holds one process: two that are loaded at the start would chase each other.
fn refuse_rivals(root: &Section<'_>, engines: &[Option<EngineEntry>]) {
    let first: Vec<&EngineConfig> = engines
        .iter()
        .flatten()
        .filter(|entry| entry.load.is_some())
        .map(|entry| &entry.engine)
        .collect();
    for (place, engine) in first.iter().enumerate() {
        let rival = first.iter().take(place).find(|other| other.shares_a_card_with(engine));
        if let Some(rival) = rival {
            let what = format!(
                "`load` in one of `{}` and `{}` only: they share a card",
                rival.name, engine.name
            );
            root.problem("engine", what);
        }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{device::DeviceId, engine::build::variants};

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
        assert_eq!(entry.engine.devices, [DeviceId::Cpu]);
        assert_eq!(entry.engine.builds[0].backend, Some(Backend::Cpu));
        assert_eq!(entry.load.as_ref().unwrap().as_str(), "smollm2");
        assert_eq!(entry.engine.timing.stall, Duration::from_secs(60));
        assert_eq!(
            (config.models[0].options.slots, config.models[0].options.context_tokens),
            (2, 4096)
        );
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
            backend = "vulkan"
            command = ["/opt/vulkan/llama-server"]
            command-previous = ["/opt/vulkan-old/llama-server"]
            models = ["a"]
            idle-end = "10m"
            [[engine.alternative]]
            backend = "sycl"
            command = ["/opt/sycl/llama-server"]
            environment = { GGML_SYCL_DISABLE_GRAPH = "1" }
            [[engine]]
            name = "both"
            devices = ["0000:83:00.0", "0000:03:00.0"]
            tensor-split = [2, 1]
            backend = "sycl"
            command = ["/opt/sycl/llama-server"]
            [[model]]
            name = "a"
            "#,
        )
        .unwrap();
        let left = &config.engines[0].engine;
        assert_eq!(left.devices[0].to_string(), "0000:03:00.0");
        let by_hand = [("GGML_VK_VISIBLE_DEVICES".to_owned(), "0".to_owned())];
        assert_eq!(left.builds[0].environment, by_hand);
        assert_eq!(left.timing.stall, Duration::from_secs(120));
        assert_eq!(config.engines[1].models.len(), 1);
        let right = &config.engines[1].engine;
        assert_eq!(right.timing.idle_end, Some(Duration::from_secs(600)));
        let all: Vec<String> =
            variants(&right.builds, &config.models[0]).iter().map(ToString::to_string).collect();
        let expected = [
            "vulkan, /opt/vulkan/llama-server",
            "vulkan, previous build, /opt/vulkan-old/llama-server",
            "sycl, /opt/sycl/llama-server",
        ];
        assert_eq!(all, expected);
        let both = &config.engines[2].engine;
        assert_eq!((both.devices.len(), both.tensor_split.as_slice()), (2, &[1, 2][..]));
        assert!(both.shares_a_card_with(left) && both.shares_a_card_with(right));
        assert!(!left.shares_a_card_with(right));
    }

    #[test]
    fn the_example_file_is_in_order() {
        let text = include_str!("../../packaging/examples/gpu-worker.toml");
        let config = Config::parse("gpu-worker.toml", text).unwrap();
        assert_eq!((config.engines.len(), config.models.len()), (3, 4));
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
            [[engine]]
            name = "by-luck"
            device = "0000:03:00.0"
            command = ["/e"]
            [[engine]]
            name = "two"
            devices = ["0000:03:00.0", "cpu"]
            tensor-split = [1]
            backend = "cuda"
            command = ["/e"]
            [[engine]]
            name = "abroad"
            url = "https://api.example.com/v1"
            command = ["/e", "{port}"]
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
            "`sycl` or `vulkan`, so that the card is found by its slot",
            "two or more PCI slots that differ",
            "one share for each device",
            "an IP address of this host or of a private network",
            "nothing beside `url`",
            "`sycl`, `vulkan` or `cpu`",
            "from 1 to 256",
            "`small` stands twice",
            "64 hexadecimal digits",
        ] {
            assert!(report.contains(expected), "{expected} is not in:\n{report}");
        }
    }

    #[test]
    fn an_engine_that_somebody_else_runs_needs_a_url_only() {
        let config = Config::parse(
            "gpu-worker.toml",
            r#"
            [[engine]]
            name = "ollama"
            url = "http://127.0.0.1:11434/v1"
            load = "llama3:8b"
            [[model]]
            name = "llama3:8b"
            "#,
        )
        .unwrap();
        let engine = &config.engines[0].engine;
        assert_eq!(engine.remote.as_ref().unwrap().url(), "http://127.0.0.1:11434/v1");
        assert!(engine.devices.is_empty() && engine.builds.is_empty());
    }

    #[test]
    fn two_engines_on_one_card_are_not_both_loaded_at_the_start() {
        let engine = |name: &str| {
            format!(
                "[[engine]]\nname = \"{name}\"\ndevice = \"0000:03:00.0\"\nbackend = \"sycl\"\n\
                 command = [\"/e\"]\nload = \"a\"\n"
            )
        };
        let report = problems(&format!("{}{}[[model]]\nname = \"a\"\n", engine("x"), engine("y")));
        assert!(report.contains("one of `x` and `y` only: they share a card"), "{report}");
    }

    #[test]
    fn everything_that_is_printed_is_read_as_it_was() {
        let text = include_str!("../../packaging/examples/gpu-worker.toml");
        // Values of an environment are not printed.
        let text = text.lines().filter(|line| !line.starts_with("environment"));
        let text: String = text.map(|line| format!("{line}\n")).collect();
        let printed = Config::parse("gpu-worker.toml", &text).unwrap().to_string();
        assert_eq!(Config::parse("printed", &printed).unwrap().to_string(), printed);
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
