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
use crate::{
    grpc,
    job::{Jobs, engines::Contact},
};

/// Age after which a worker's last answer is greyed.
const STALE_SECS: u64 = 30;

/// What the page of workers is made from.
#[derive(Clone, Debug, Default)]
pub struct WorkersObserved {
    /// Name of the site.
    pub site: String,
    /// The workers, as last seen, and how each can be reached now.
    pub workers: Vec<(WorkerStatus, Contact)>,
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
        let workers = self.jobs.workers();
        let workers = workers.iter().map(|seen| (grpc::job::convert::worker(seen), seen.contact));
        let site = self.jobs.site().name().to_string();
        Ok(WorkersObserved { site, workers: workers.collect() })
    }
}

impl Live for WorkersObserved {
    const SECTIONS: &'static [&'static str] = &["workers"];

    fn sections(&self, ages: Ages) -> askama::Result<Vec<String>> {
        let connected = self.workers.iter().filter(|(worker, _)| worker.connected).count();
        let section = WorkersSection {
            count: tally(self.workers.len(), connected, "answer"),
            workers: self
                .workers
                .iter()
                .map(|(status, contact)| worker_view(status, *contact, ages))
                .collect(),
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
    /// What is not known of it, and why; empty when all is.
    unknown: String,
    devices: Vec<DeviceRow>,
    models: Vec<ModelRow>,
}

struct DeviceRow {
    id: String,
    name: String,
    memory: Reading<Gauge>,
    temperature: Reading<String>,
    power: Reading<String>,
    engines: Vec<EngineView>,
}

/// A figure of a device.
enum Reading<T> {
    /// As the device says.
    Known(T),
    /// Why nobody can tell.
    Unknown(String),
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

fn worker_view(status: &WorkerStatus, contact: Contact, ages: Ages) -> WorkerView {
    let worker = status.worker.clone().unwrap_or_default();
    let (tone, state) = match (contact, worker.draining) {
        (Contact::Connected, false) => (Tone::Ok, "answers"),
        (Contact::Connected, true) => (Tone::Warning, "takes no new work"),
        (Contact::Asleep, _) => (Tone::Idle, "asleep"),
        (Contact::Unreachable, _) => (Tone::Critical, "does not answer"),
    };
    let is_connected = contact == Contact::Connected;
    let unknown = match (is_connected, &status.worker) {
        (true, _) => "",
        (false, None) => {
            "Its devices and models are not known: it has not answered since the controller started."
        }
        (false, Some(_)) => "Figures and states are not known until it answers again.",
    };
    let seen = Moment::new(moment(status.last_seen_at), ages);
    WorkerView {
        host: status.host.clone(),
        tier: tier_word(status.tier()),
        tone,
        state,
        message: status.message.clone(),
        seen: if is_connected { seen.stale_after(STALE_SECS) } else { seen },
        unknown: unknown.to_owned(),
        devices: worker.devices.iter().map(|device| device_row(device, &worker)).collect(),
        models: worker.models.iter().map(|model| model_row(model, &worker)).collect(),
    }
    .of(is_connected)
}

impl WorkerView {
    /// Figures and states of a worker that does not answer are not shown: they were those of then.
    fn of(mut self, is_connected: bool) -> Self {
        if is_connected {
            return self;
        }
        for device in &mut self.devices {
            let unknown = || self.state.to_owned();
            device.memory = Reading::Unknown(unknown());
            device.temperature = Reading::Unknown(unknown());
            device.power = Reading::Unknown(unknown());
            device.engines.clear();
        }
        for model in &mut self.models {
            (model.tone, model.state) = (Tone::Idle, "not known");
            model.message.clear();
            model.slots = "–".to_owned();
        }
        self
    }
}

fn device_row(device: &Device, worker: &Worker) -> DeviceRow {
    let of = |field: &str| {
        let missing = device.missing.iter().find(|missing| missing.field == field);
        missing.map_or_else(|| "it does not say".to_owned(), |missing| missing.reason.clone())
    };
    let figure = |value: Option<f32>, unit: &str| value.map(|value| format!("{value:.0} {unit}"));
    let power = figure(device.power_watts, "W").map(|power| match device.power_limit_watts {
        Some(limit) => format!("{power} of {limit:.0} W"),
        None => power,
    });
    let on_it = worker
        .engines
        .iter()
        .filter(|engine| engine.device == device.id || engine.devices.contains(&device.id));
    DeviceRow {
        id: device.id.clone(),
        name: device.name.clone(),
        memory: match memory(device) {
            Some(share) => Reading::Known(Gauge::new(Some(share))),
            None => Reading::Unknown(match device.memory_bytes {
                Some(total) => {
                    format!("{} in all; in use: {}", bytes(total), of("memory_used_bytes"))
                }
                None => of("memory_bytes"),
            }),
        },
        temperature: Reading::of(figure(device.temperature_celsius, "°C"), || {
            of("temperature_celsius")
        }),
        power: Reading::of(power, || of("power_watts")),
        engines: on_it.map(engine_view).collect(),
    }
}

impl<T> Reading<T> {
    fn of(value: Option<T>, why: impl FnOnce() -> String) -> Self {
        value.map_or_else(|| Self::Unknown(why()), Self::Known)
    }
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
    use homelab_proto::common::v1::MissingReading;

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
        let shown = |contact: Contact| {
            let status = WorkerStatus {
                host: "x99".to_owned(),
                connected: contact == Contact::Connected,
                worker: Some(worker.clone()),
                ..WorkerStatus::default()
            };
            let observed =
                WorkersObserved { site: String::new(), workers: vec![(status, contact)] };
            observed.sections(Ages::Counted).expect("renders").remove(0)
        };
        let figures = ["61 °C", "142 W of 190 W", "4.0 GiB of 16.0 GiB"];
        let now = shown(Contact::Connected);
        assert!(figures.iter().all(|figure| now.contains(figure)), "{now}");
        for (contact, word) in
            [(Contact::Asleep, "asleep"), (Contact::Unreachable, "does not answer")]
        {
            let then = shown(contact);
            assert!(!figures.iter().any(|figure| then.contains(figure)), "{then}");
            assert!(then.contains(word) && then.contains("until it answers again"), "{then}");
        }
    }

    #[test]
    fn what_a_device_does_not_tell_is_unknown_and_says_why() {
        let missing = MissingReading {
            field: "power_watts".to_owned(),
            reason: "no sensor of the driver".to_owned(),
        };
        let device = Device {
            id: "0000:03:00.0".to_owned(),
            memory_bytes: Some(16 << 30),
            missing: vec![missing],
            ..Device::default()
        };
        let worker = Worker { devices: vec![device], ..Worker::default() };
        let status = WorkerStatus { worker: Some(worker), ..WorkerStatus::default() };
        let observed =
            WorkersObserved { site: String::new(), workers: vec![(status, Contact::Connected)] };
        let page = observed.sections(Ages::Counted).expect("renders").remove(0);
        for words in ["no sensor of the driver", "16.0 GiB in all", "it does not say"] {
            assert!(page.contains(words), "{words}: {page}");
        }
        assert!(page.matches(">unknown<").count() == 3 && !page.contains("0 W"), "{page}");
    }

    #[test]
    fn a_site_without_workers_is_taught_what_to_do() {
        let page = WorkersObserved::default().sections(Ages::Counted).expect("renders").remove(0);
        assert!(page.contains("labctl host enroll NAME --kind gpu-worker"), "{page}");
    }
}
