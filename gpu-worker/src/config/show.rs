//! The configuration as it counts, for people.

use std::fmt::{self, Display};

use homelab_common::config::parse;
use homelab_rpc::daemon::DaemonConfig;

use super::{Config, EngineEntry};
use crate::{
    engine::{MemoryCheck, Timing, build::Build},
    model::Options,
};

/// What counts after all defaults, for people. There are no secrets in it: of an
/// engine's environment only the names are shown.
impl Display for Config {
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
            let Options { sha256, context_tokens, slots, backends, arguments, purpose } =
                &model.options;
            if let Some(sha256) = sha256 {
                writeln!(formatter, "sha256 = \"{sha256}\"")?;
            }
            writeln!(formatter, "context = {context_tokens}")?;
            writeln!(formatter, "slots = {slots}")?;
            writeln!(formatter, "backends = {:?}", words(backends))?;
            writeln!(formatter, "arguments = {arguments:?}")?;
            writeln!(formatter, "purpose = \"{purpose}\"")?;
        }
        Ok(())
    }
}

fn write_engine(formatter: &mut fmt::Formatter<'_>, entry: &EngineEntry) -> fmt::Result {
    let EngineEntry { engine, models, load } = entry;
    writeln!(formatter, "\n[[engine]]\nname = \"{}\"", engine.name)?;
    if let Some(remote) = &engine.remote {
        writeln!(formatter, "url = \"{}\"", remote.url())?;
        if let Some(key) = &remote.key {
            writeln!(formatter, "key = \"{key}\"")?;
        }
    }
    match engine.devices.as_slice() {
        [] => {}
        [device] => writeln!(formatter, "device = \"{device}\"")?,
        devices => writeln!(formatter, "devices = {:?}", words(devices))?,
    }
    if !engine.tensor_split.is_empty() {
        writeln!(formatter, "tensor-split = {:?}", engine.tensor_split)?;
    }
    writeln!(formatter, "models = {:?}", words(models))?;
    if let Some(load) = load {
        writeln!(formatter, "load = \"{load}\"")?;
    }
    writeln!(formatter, "health-path = \"{}\"", engine.health_path)?;
    let check = match engine.memory_check {
        MemoryCheck::Refuse => "refuse",
        MemoryCheck::Ignore => "ignore",
    };
    writeln!(formatter, "memory-check = \"{check}\"")?;
    let Timing { start, drain, stop, stall, prompt_stall, look: _, idle_end, patience, restart } =
        engine.timing;
    let deadlines = [
        ("start-deadline", Some(start)),
        ("drain-deadline", Some(drain)),
        ("stop-deadline", Some(stop)),
        ("stall-deadline", Some(stall)),
        ("prompt-stall-deadline", Some(prompt_stall)),
        ("idle-end", idle_end),
        ("first-byte-deadline", Some(patience.first_byte)),
        ("silence-deadline", Some(patience.between_chunks)),
        ("settled-after", Some(restart.settled)),
    ];
    for (key, span) in deadlines {
        if let Some(span) = span {
            writeln!(formatter, "{key} = \"{}\"", parse::show_duration(span))?;
        }
    }
    writeln!(formatter, "quick-ends-max = {}", restart.quick_ends_max)?;
    writeln!(formatter, "fall-back-after = {}", restart.fall_back_after)?;
    for (place, build) in engine.builds.iter().enumerate() {
        if place > 0 {
            writeln!(formatter, "[[engine.alternative]]")?;
        }
        write_build(formatter, build)?;
    }
    Ok(())
}

fn write_build(formatter: &mut fmt::Formatter<'_>, build: &Build) -> fmt::Result {
    if let Some(backend) = build.backend {
        writeln!(formatter, "backend = \"{backend}\"")?;
    }
    writeln!(formatter, "command = {:?}", build.command.words())?;
    if let Some(previous) = &build.previous {
        writeln!(formatter, "command-previous = {:?}", previous.words())?;
    }
    let names: Vec<&str> = build.environment.iter().map(|(name, _)| name.as_str()).collect();
    writeln!(formatter, "# environment, values not shown: {}", names.join(", "))
}

fn words<T: Display>(values: &[T]) -> Vec<String> {
    values.iter().map(T::to_string).collect()
}
