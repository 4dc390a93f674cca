//! The page of workers: their devices with memory, temperature and power, the engines on them, and
//! their models.

use std::{error::Error, sync::Arc};

use askama::Template;
use async_trait::async_trait;
use homelab_proto::{
    controller::v1::WorkerStatus,
    inference::v1::{Device, Engine, EngineState, Model, ModelState, Worker},
};
use jiff::Timestamp;

use super::{
    board::{Live, Source},
    moment::{Ages, Gauge, Moment, bytes},
    page::{Top, Viewer},
    view::{Tone, moment, tally, tier_word},
};
use crate::{grpc, job::Jobs};

/// Age after which a worker's last answer is greyed.
const STALE_SECS: u64 = 30;

/// What the page of workers is made from.
#[derive(Clone, Debug, Default)]
pub struct WorkersObserved {
    /// Name of the site.
    pub site: String,
    /// The workers, as last seen.
    pub workers: Vec<WorkerStatus>,
}

/// The workers of the queue.
#[derive(Clone, Debug)]
pub struct WorkersSource {
    jobs: Jobs,
}

impl WorkersSource {
    /// Reads from `jobs`.
    #[must_use]
    pub fn new(jobs: Jobs) -> Arc<Self> {
        Arc::new(Self { jobs })
    }
}

#[async_trait]
impl Source<WorkersObserved> for WorkersSource {
    async fn observe(&self) -> Result<WorkersObserved, Box<dyn Error + Send + Sync>> {
        let workers = self.jobs.workers().iter().map(grpc::job::convert::worker).collect();
        Ok(WorkersObserved { site: self.jobs.site().name().to_string(), workers })
    }
}

impl Live for WorkersObserved {
    const SECTIONS: &'static [&'static str] = &["workers"];

    fn sections(&self, ages: Ages) -> askama::Result<Vec<String>> {
        let connected = self.workers.iter().filter(|worker| worker.connected).count();
        let section = WorkersSection {
            count: tally(self.workers.len(), connected, "answer"),
            workers: self.workers.iter().map(|status| worker_view(status, ages)).collect(),
        };
        Ok(vec![section.render()?])
    }
}

/// The whole page, readable without scripts.
///
/// # Errors
/// When a template cannot be filled, which is a bug.
pub fn page(
    observed: &WorkersObserved,
    viewer: &Viewer,
    seq: u64,
    now: Timestamp,
) -> askama::Result<String> {
    let ages = Ages::Written(now);
    let page = WorkersPage {
        top: Top {
            site: &observed.site,
            viewer,
            here: "/workers",
            path: "/workers",
            events: "/events/workers",
            seq,
            made: Moment::new(Some(now), ages),
        },
        sections: observed.sections(ages)?,
    };
    page.render()
}

#[derive(Template)]
#[template(path = "workers/page.html")]
struct WorkersPage<'a> {
    top: Top<'a>,
    sections: Vec<String>,
}

#[derive(Template)]
#[template(path = "workers/workers.html")]
struct WorkersSection {
    count: String,
    workers: Vec<WorkerView>,
}

struct WorkerView {
    host: String,
    tier: &'static str,
    tone: Tone,
    state: &'static str,
    message: String,
    seen: Moment,
    devices: Vec<DeviceRow>,
    models: Vec<ModelRow>,
}

struct DeviceRow {
    id: String,
    name: String,
    memory: Gauge,
    temperature: String,
    power: String,
    engines: Vec<EngineView>,
}

struct EngineView {
    tone: Tone,
    state: &'static str,
    about: String,
    failure: String,
}

struct ModelRow {
    tone: Tone,
    name: String,
    state: &'static str,
    message: String,
    slots: String,
    context: String,
    size: String,
}

fn worker_view(status: &WorkerStatus, ages: Ages) -> WorkerView {
    let worker = status.worker.clone().unwrap_or_default();
    let (tone, state) = match (status.connected, worker.draining) {
        (true, false) => (Tone::Ok, "answers"),
        (true, true) => (Tone::Warning, "takes no new work"),
        // Whether that is as expected, its message says.
        (false, _) => (Tone::Idle, "does not answer"),
    };
    let seen = Moment::new(moment(status.last_seen_at), ages);
    WorkerView {
        host: status.host.clone(),
        tier: tier_word(status.tier()),
        tone,
        state,
        message: status.message.clone(),
        seen: if status.connected { seen.stale_after(STALE_SECS) } else { seen },
        devices: devices(&worker, status.connected),
        models: worker.models.iter().map(|model| model_row(model, &worker)).collect(),
    }
}

/// Figures of a worker that does not answer are not shown: they were those of then.
fn devices(worker: &Worker, is_connected: bool) -> Vec<DeviceRow> {
    let row = |device: &Device| {
        let reading = |value: Option<f32>, unit: &str| {
            let value = value.filter(|_| is_connected);
            value.map(|value| format!("{value:.0} {unit}")).unwrap_or_default()
        };
        let limit = device.power_limit_watts.filter(|_| is_connected);
        let mut power = reading(device.power_watts, "W");
        if let (false, Some(limit)) = (power.is_empty(), limit) {
            power.push_str(&format!(" of {limit:.0} W"));
        }
        let on_it = worker
            .engines
            .iter()
            .filter(|engine| engine.device == device.id || engine.devices.contains(&device.id));
        DeviceRow {
            id: device.id.clone(),
            name: device.name.clone(),
            memory: Gauge::new(memory(device).filter(|_| is_connected)),
            temperature: reading(device.temperature_celsius, "°C"),
            power,
            engines: on_it.map(engine_view).collect(),
        }
    };
    worker.devices.iter().map(row).collect()
}

fn memory(device: &Device) -> Option<(f64, String)> {
    let total = device.memory_bytes.filter(|total| *total > 0)?;
    let used = device.memory_used_bytes?;
    #[expect(clippy::cast_precision_loss, reason = "shown as a bar")]
    let percent = used as f64 / total as f64 * 100.0;
    Some((percent, format!("{} of {}", bytes(used), bytes(total))))
}

fn engine_view(engine: &Engine) -> EngineView {
    let (tone, state) = match engine.state() {
        EngineState::Ready => (Tone::Ok, "ready"),
        EngineState::Starting => (Tone::Idle, "starting"),
        EngineState::Stopped => (Tone::Idle, "no process"),
        EngineState::Failed => (Tone::Warning, "starts again"),
        EngineState::Quarantined => (Tone::Critical, "left alone"),
        EngineState::Unspecified => (Tone::Warning, "unknown"),
    };
    let mut about = vec![engine.name.clone(), engine.model.clone(), engine.backend.clone()];
    if engine.previous_build {
        about.push("previous build".to_owned());
    }
    about.retain(|part| !part.is_empty());
    let is_well = matches!(engine.state(), EngineState::Ready | EngineState::Stopped);
    EngineView {
        tone,
        state,
        about: about.join(" · "),
        failure: if is_well { String::new() } else { engine.last_failure.clone() },
    }
}

fn model_row(model: &Model, worker: &Worker) -> ModelRow {
    let (tone, state) = match model.state() {
        ModelState::Loaded => (Tone::Ok, "loaded"),
        ModelState::Loading => (Tone::Idle, "loading"),
        ModelState::Unloaded => (Tone::Idle, "on disk"),
        ModelState::Failed => (Tone::Critical, "does not load"),
        ModelState::Unspecified => (Tone::Warning, "unknown"),
    };
    let on = worker.engines.iter().filter(|engine| engine.model == model.name);
    let (busy, slots) =
        on.fold((0, 0), |(busy, slots), engine| (busy + engine.slots_busy, slots + engine.slots));
    ModelRow {
        tone,
        name: model.name.clone(),
        state,
        message: model.message.clone(),
        slots: match slots {
            0 => "–".to_owned(),
            slots => format!("{busy} of {slots}"),
        },
        context: model.context_tokens.map(|tokens| format!("{tokens} tokens")).unwrap_or_default(),
        size: model.size_bytes.map(bytes).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_worker_that_does_not_answer_are_not_shown() {
        let device = Device {
            id: "0000:03:00.0".to_owned(),
            name: "Intel Arc A770".to_owned(),
            memory_bytes: Some(16 << 30),
            memory_used_bytes: Some(4 << 30),
            temperature_celsius: Some(61.4),
            power_watts: Some(142.0),
            power_limit_watts: Some(190.0),
            ..Device::default()
        };
        let worker = Worker { devices: vec![device], ..Worker::default() };
        let status = |connected| WorkerStatus {
            host: "x99".to_owned(),
            connected,
            worker: Some(worker.clone()),
            ..WorkerStatus::default()
        };
        let shown = |connected| {
            let observed =
                WorkersObserved { site: String::new(), workers: vec![status(connected)] };
            observed.sections(Ages::Counted).expect("renders").remove(0)
        };
        let figures = ["61 °C", "142 W of 190 W", "4.0 GiB of 16.0 GiB"];
        assert!(figures.iter().all(|figure| shown(true).contains(figure)), "{}", shown(true));
        assert!(!figures.iter().any(|figure| shown(false).contains(figure)), "{}", shown(false));
    }

    #[test]
    fn a_site_without_workers_is_taught_what_to_do() {
        let page = WorkersObserved::default().sections(Ages::Counted).expect("renders").remove(0);
        assert!(page.contains("labctl host enroll NAME --kind gpu-worker"), "{page}");
    }
}
