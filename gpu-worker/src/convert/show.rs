//! How the worker stands, on the wire.

use std::time::Duration;

use homelab_proto::{common::v1 as common, inference::v1 as pb};
use homelab_rpc::node::to_proto;

use crate::{
    device::{DeviceId, Missing},
    engine::{State, build::Age, chunk::Usage, incident::Incident},
    model::Purpose,
    worker::{EngineView, ModelState, ModelView, Reading, Snapshot},
};

/// Lines of an engine that are shown with every state of the worker; more of them are
/// in the bundle.
const SHOWN_LINES: usize = 10;

/// How much of such a line is shown.
const SHOWN_LETTERS: usize = 200;

impl From<Usage> for pb::Usage {
    fn from(usage: Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            prompt_elapsed: usage.prompt_elapsed.and_then(duration),
            completion_elapsed: usage.completion_elapsed.and_then(duration),
            energy_joules: None,
        }
    }
}

fn duration(span: Duration) -> Option<prost_types::Duration> {
    span.try_into().ok()
}

impl From<Reading> for pb::Device {
    fn from(Reading { device, power_watts, energy_joules }: Reading) -> Self {
        let kind = match device.id {
            DeviceId::Cpu => pb::DeviceKind::Cpu,
            DeviceId::Pci(_) => pb::DeviceKind::Gpu,
        };
        Self {
            id: device.id.to_string(),
            kind: kind.into(),
            name: device.name,
            driver: device.driver,
            memory_bytes: device.memory_bytes,
            memory_used_bytes: device.memory_used_bytes,
            temperature_celsius: device.temperature_celsius,
            power_watts,
            energy_joules,
            power_limit_watts: device.power_limit_watts,
            missing: device.missing.into_iter().map(missing).collect(),
        }
    }
}

fn missing(Missing { field, reason }: Missing) -> common::MissingReading {
    common::MissingReading { field: field.to_owned(), reason }
}

impl From<ModelView> for pb::Model {
    fn from(model: ModelView) -> Self {
        let state = match model.state {
            ModelState::Unloaded => pb::ModelState::Unloaded,
            ModelState::Loading => pb::ModelState::Loading,
            ModelState::Loaded => pb::ModelState::Loaded,
            ModelState::Failed => pb::ModelState::Failed,
        };
        Self {
            name: model.name.to_string(),
            state: state.into(),
            engine: model.engine.unwrap_or_default(),
            context_tokens: Some(model.context_tokens),
            slots: Some(model.slots),
            size_bytes: model.size_bytes,
            message: model.message,
            architecture: model.architecture,
            quantization: model.quantization,
            context_trained_tokens: model.context_trained,
            memory_bytes: model.memory_bytes,
            sha256: model.sha256.map(|sha256| sha256.to_string()).unwrap_or_default(),
            purpose: match model.purpose {
                Purpose::Text => pb::ModelPurpose::Text,
                Purpose::Embeddings => pb::ModelPurpose::Embeddings,
                Purpose::Rerank => pb::ModelPurpose::Rerank,
            }
            .into(),
            backends: model.backends.iter().map(ToString::to_string).collect(),
            engines: model.engines,
        }
    }
}

impl From<EngineView> for pb::Engine {
    fn from(engine: EngineView) -> Self {
        let status = engine.status;
        let incident = status.last_incident;
        let variant = status.variant.as_deref();
        let backend = variant.and_then(|variant| variant.backend);
        let state = match status.state {
            State::Stopped => pb::EngineState::Stopped,
            State::Starting | State::Loading => pb::EngineState::Starting,
            State::Ready(_) => pb::EngineState::Ready,
            State::Failed => pb::EngineState::Failed,
            State::Quarantined => pb::EngineState::Quarantined,
        };
        Self {
            name: engine.name,
            state: state.into(),
            device: engine.devices.first().map(ToString::to_string).unwrap_or_default(),
            devices: engine.devices.iter().map(ToString::to_string).collect(),
            backend: backend.map(|backend| backend.to_string()).unwrap_or_default(),
            program: variant
                .map(|variant| variant.command.program().to_owned())
                .unwrap_or_default(),
            url: engine.url.unwrap_or_default(),
            previous_build: variant.is_some_and(|variant| variant.age == Age::Previous),
            model: status.model.map(|model| model.name.to_string()).unwrap_or_default(),
            slots: engine.slots,
            slots_busy: engine.slots_busy,
            pid: status.pid,
            starts: status.starts,
            last_failure: incident
                .as_deref()
                .map(|incident| incident.because.clone())
                .unwrap_or_default(),
            completion_tokens: engine.completion_tokens,
            since: Some(to_proto(status.since)),
            incident: incident.as_deref().map(Into::into),
            jobs: engine.jobs,
        }
    }
}

impl From<Snapshot> for pb::Worker {
    fn from(snapshot: Snapshot) -> Self {
        Self {
            host: snapshot.host,
            engines: snapshot.engines.into_iter().map(Into::into).collect(),
            devices: snapshot.devices.into_iter().map(Into::into).collect(),
            models: snapshot.models.into_iter().map(Into::into).collect(),
            draining: snapshot.is_draining,
            observed_at: Some(to_proto(snapshot.observed_at)),
        }
    }
}

impl From<&Incident> for pb::Incident {
    fn from(incident: &Incident) -> Self {
        let variant = incident.variant.as_deref();
        let backend = variant.and_then(|variant| variant.backend);
        Self {
            at: Some(to_proto(incident.at)),
            because: incident.because.clone(),
            model: incident.model.name.to_string(),
            backend: backend.map(|backend| backend.to_string()).unwrap_or_default(),
            program: variant
                .map(|variant| variant.command.program().to_owned())
                .unwrap_or_default(),
            ready_elapsed: incident.ready_for.and_then(duration),
            last_lines: last_lines(&incident.last_lines),
            bundle: incident.bundle.clone().unwrap_or_default(),
        }
    }
}

/// The end of what an engine wrote, cut to what a person reads.
fn last_lines(lines: &[String]) -> Vec<String> {
    let first = lines.len().saturating_sub(SHOWN_LINES);
    let cut = |line: &String| line.chars().take(SHOWN_LETTERS).collect();
    lines.iter().skip(first).map(cut).collect()
}
