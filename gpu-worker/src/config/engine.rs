//! One `[[engine]]`.

use std::{sync::Arc, time::Duration};

use homelab_common::{
    config::{Allowed, Section, Value, parse},
    retry::Backoff,
};

use super::EngineEntry;
use crate::{
    device::DeviceId,
    engine::{
        EngineConfig, MemoryCheck, Timing,
        backend::{Backend, is_chosen_by_hand},
        build::Build,
        command::Template,
        remote::Remote,
        restart::RestartPolicy,
        stream::Patience,
    },
    model::{Model, ModelName},
};

/// Pauses between restarts lose up to this part by chance.
const RESTART_JITTER: f64 = 0.2;

/// More cards than a board has slots for.
const SHARE_MAX: u32 = 1024;

pub(super) fn read(section: &Section<'_>, models: &[Option<Arc<Model>>]) -> Option<EngineEntry> {
    let known: Vec<&Arc<Model>> = models.iter().flatten().collect();
    let configured = |value: &Value<'_>| {
        let name = parse::text(str::parse::<ModelName>)(value)?;
        if known.iter().any(|model| model.name == name) {
            return Ok(name);
        }
        Err(Allowed::one_of(known.iter().map(|model| model.name.as_str())))
    };
    let name = section.required("name", parse::text(engine_name));
    let remote = remote(section);
    let ((devices, tensor_split), builds) = if section.has("url") {
        for key in ["command", "device", "devices", "backend"] {
            if section.has(key) {
                section.problem(key, "nothing beside `url`: somebody else runs that engine");
            }
        }
        ((Vec::new(), Vec::new()), Some(Vec::new()))
    } else {
        let (devices, shares) = devices(section);
        let builds = builds(section, &devices);
        ((devices, shares), builds)
    };
    let models = section.list("models", configured);
    let load = section.optional("load", configured);
    if let Some(load) = &load
        && !models.is_empty()
        && !models.contains(load)
    {
        section.problem("load", "one of this engine's `models`");
    }
    let health_path = section.or("health-path", "/health".to_owned(), parse::text(http_path));
    let checks = [("refuse", MemoryCheck::Refuse), ("ignore", MemoryCheck::Ignore)];
    let memory_check = section.or("memory-check", MemoryCheck::Refuse, parse::word(&checks));
    let timing = timing(section);
    let engine = EngineConfig {
        name: name?,
        devices,
        tensor_split,
        builds: builds?,
        remote,
        health_path,
        memory_check,
        timing: timing?,
    };
    if let Some(load) = &load
        && let Some(model) = known.iter().find(|model| model.name == *load)
        && !engine.can_run(model)
    {
        section.problem("load", "a model whose `backends` name one of this engine's");
    }
    Some(EngineEntry { engine, models, load })
}

/// Where it is, if somebody else runs it.
fn remote(section: &Section<'_>) -> Option<Remote> {
    let remote = section.optional("url", parse::text(Remote::parse));
    let key = section.optional("key", parse::secret_source);
    if key.is_some() && !section.has("url") {
        section.problem("key", "nothing without `url`: our own engines get a new key each time");
    }
    Some(Remote { key, ..remote? })
}

/// Its devices, sorted by slot, and the share of each.
fn devices(section: &Section<'_>) -> (Vec<DeviceId>, Vec<u32>) {
    let spanned = section.list("devices", parse::text(str::parse::<DeviceId>));
    let shares: Vec<u32> = section.list("tensor-split", parse::integer(1..=SHARE_MAX));
    let device = section.optional("device", parse::text(str::parse));
    if !section.has("devices") {
        if section.has("tensor-split") {
            section.problem("tensor-split", "nothing unless `devices` names more than one card");
        }
        return (vec![device.unwrap_or(DeviceId::Cpu)], Vec::new());
    }
    if section.has("device") {
        section.problem("device", "either `device` or `devices`");
    }
    if !shares.is_empty() && shares.len() != spanned.len() {
        section.problem("tensor-split", "one share for each device");
    }
    let mut pairs: Vec<(DeviceId, u32)> =
        spanned.into_iter().zip(shares.iter().copied().chain(std::iter::repeat(0))).collect();
    // Builds count by slot; shares go with their cards.
    pairs.sort();
    let has_twins =
        pairs.windows(2).any(|two| two.first().map(|one| &one.0) == two.last().map(|one| &one.0));
    let has_cpu = pairs.iter().any(|(device, _)| device.slot().is_none());
    if pairs.len() < 2 || has_twins || has_cpu {
        section.problem("devices", "two or more PCI slots that differ");
    }
    let (devices, sorted): (Vec<DeviceId>, Vec<u32>) = pairs.into_iter().unzip();
    (devices, if shares.is_empty() { Vec::new() } else { sorted })
}

/// What may be started: this table's own build first, then its alternatives.
fn builds(section: &Section<'_>, devices: &[DeviceId]) -> Option<Vec<Build>> {
    let first = build(section, devices);
    let others = section.tables("alternative");
    let others: Vec<Option<Build>> = others.iter().map(|other| build(other, devices)).collect();
    std::iter::once(first).chain(others).collect()
}

fn build(section: &Section<'_>, devices: &[DeviceId]) -> Option<Build> {
    let is_card = devices.iter().any(|device| device.slot().is_some());
    let backend = section.optional("backend", parse::text(str::parse::<Backend>));
    let words = section.required_list("command", parse::string);
    let command = template(section, "command", &words);
    let earlier = section.list("command-previous", parse::string);
    let previous = match earlier.as_slice() {
        [] => None,
        words => Some(template(section, "command-previous", words)?),
    };
    let environment = environment(&section.table("environment"));
    match backend {
        Some(Backend::Sycl | Backend::Vulkan) if !is_card => {
            section.problem("backend", "`cpu`, unless `device` names a card by its PCI slot");
        }
        // A word that is no backend is a problem of its own.
        None if section.has("backend") => {}
        // Without either an engine would run on whichever card comes first.
        None | Some(Backend::Cpu) if is_card && !is_chosen_by_hand(&environment, &words) => {
            section.problem(
                "backend",
                "`sycl` or `vulkan`, so that the card is found by its slot; or choose it by hand \
                 in `environment`",
            );
        }
        _ => {}
    }
    let backend = backend.or_else(|| (!is_card).then_some(Backend::Cpu));
    Some(Build { backend, command: command?, previous, environment })
}

fn template(section: &Section<'_>, key: &str, words: &[String]) -> Option<Template> {
    match Template::try_new(words) {
        Ok(template) => Some(template),
        Err(broken) => {
            if !words.is_empty() {
                section.problem(key, broken.to_string());
            }
            None
        }
    }
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
        prompt_stall: section.or("prompt-stall-deadline", secs(180), span(1, 7200)),
        look: secs(1),
        idle_end: section.optional("idle-end", span(1, 604_800)),
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
            fall_back_after: section.or("fall-back-after", 2, parse::integer(1..=1000)),
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
