//! The paths at the root by which llama.cpp's router is steered: Open WebUI shows buttons to load and
//! unload models for a connection of that kind.
//!
//! Listing is for every key; loading and unloading for keys with `manage-models`, within their tiers.
//! A host that sleeps is not woken for it: a button that is pressed by mistake must not start a machine.

use std::{collections::BTreeMap, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use homelab_common::error_chain::Chain;
use homelab_domain::ids::{HostName, ModelName};
use homelab_proto::inference::v1::ModelState;
use homelab_rpc::status::reason_of;
use http::{HeaderValue, header};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tonic::Code;
use tracing::info;

use super::{
    Gateway, body,
    error::ApiError,
    frame,
    head::Known,
    key::{Key, Models},
    models::{json, models_of},
};
use crate::job::{engines::Contact, models::TierModel};

/// How often the states of models are compared with those that were told.
const LOOK: Duration = Duration::from_secs(1);

/// Silence after which a comment is sent.
const PING: Duration = Duration::from_secs(10);

/// When a worker that is not there is worth another try.
const WORKER_RETRY: Duration = Duration::from_secs(30);

#[derive(Serialize)]
struct List {
    object: &'static str,
    data: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    id: String,
    object: &'static str,
    created: i64,
    owned_by: &'static str,
    in_cache: bool,
    status: Status,
}

#[derive(Serialize)]
struct Status {
    value: &'static str,
    args: [&'static str; 0],
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    failed: bool,
}

#[derive(Serialize)]
struct Success {
    success: bool,
}

/// `GET /models`.
pub(super) async fn list(State(gateway): State<Gateway>, Known(key): Known) -> Response {
    let created = gateway.started_at.as_second();
    let data = models_of(&gateway, &key).map(|model| row(&model, created)).collect();
    json(&List { object: "list", data })
}

fn row(model: &TierModel, created: i64) -> Row {
    Row {
        id: model.name.to_string(),
        object: "model",
        created,
        owned_by: "llamacpp",
        in_cache: true,
        status: Status { value: word(model), args: [], failed: model.state == ModelState::Failed },
    }
}

/// One of the router's own words: what Open WebUI compares.
fn word(model: &TierModel) -> &'static str {
    match (model.contact, model.state) {
        (Some(Contact::Connected), ModelState::Loaded) => "loaded",
        (Some(Contact::Connected), ModelState::Loading) => "loading",
        _ => "unloaded",
    }
}

/// `POST /models/load`: answers once the worker has begun; how it goes is told by `/models/sse`.
pub(super) async fn load(
    State(gateway): State<Gateway>,
    Known(key): Known,
    body: Body,
) -> Result<Response, ApiError> {
    change(&gateway, &key, body, Change::Load).await
}

/// `POST /models/unload`: answers once it is unloaded. What runs on it is answered to the end first.
pub(super) async fn unload(
    State(gateway): State<Gateway>,
    Known(key): Known,
    body: Body,
) -> Result<Response, ApiError> {
    change(&gateway, &key, body, Change::Unload).await
}

/// `POST /models` and `DELETE /models` fetch and delete files in the router of llama.cpp.
pub(super) async fn no_files(_key: Known) -> ApiError {
    let words = "Model files are not fetched or deleted from here. They are listed in gpu-worker.toml of their host.";
    ApiError::not_allowed("files_not_managed", words)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Load,
    Unload,
}

async fn change(
    gateway: &Gateway,
    key: &Arc<Key>,
    body: Body,
    change: Change,
) -> Result<Response, ApiError> {
    #[derive(Deserialize)]
    struct Wish {
        model: String,
    }
    let _ticket = gateway.meters.enter(key)?;
    if key.models != Models::Manage {
        let words = format!(
            "The key `{}` may not load or unload models. Add `manage-models` to its line in the keys file.",
            key.name
        );
        return Err(ApiError::not_allowed("models_not_managed", words));
    }
    let wish: Wish = serde_json::from_slice(&body::read(body).await?)
        .map_err(|_| ApiError::invalid(Some("model"), "The body must be `{\"model\": NAME}`."))?;
    let (model, workers) = places(gateway, key, &wish.model, change)?;
    for worker in workers {
        let engines = &gateway.jobs.parts().engines;
        let done = match change {
            Change::Load => engines.load(&worker, &model).await,
            Change::Unload => engines.unload(&worker, &model).await,
        };
        done.map_err(|status| refused_by(&worker, &status))?;
        info!(%model, %worker, key = %key.name, ?change, "a key changed what is loaded");
    }
    Ok(json(&Success { success: true }))
}

/// The workers at which something is to be done: for loading the one that is nearest, for unloading
/// all that have the model loaded.
fn places(
    gateway: &Gateway,
    key: &Arc<Key>,
    model: &str,
    change: Change,
) -> Result<(ModelName, Vec<HostName>), ApiError> {
    let known = models_of(gateway, key).find(|row| row.name.as_str() == model);
    let Some(known) = known else { return Err(ApiError::model_not_found(model)) };
    let workers = gateway.jobs.workers();
    let having: Vec<_> =
        workers.iter().filter(|seen| seen.tier == known.tier && seen.has(&known.name)).collect();
    let awake: Vec<_> =
        having.iter().filter(|seen| seen.contact == Contact::Connected && !seen.drained).collect();
    let is_loaded = |host: &HostName| {
        let seen = workers.iter().find(|seen| seen.host == *host);
        let row = seen.and_then(|seen| seen.models().find(|row| row.name == model));
        row.is_some_and(|row| matches!(row.state(), ModelState::Loaded | ModelState::Loading))
    };
    let chosen = match change {
        Change::Load if awake.iter().any(|seen| is_loaded(&seen.host)) => Vec::new(),
        Change::Load => awake.first().map(|seen| seen.host.clone()).into_iter().collect(),
        Change::Unload => {
            awake.iter().map(|seen| seen.host.clone()).filter(|host| is_loaded(host)).collect()
        }
    };
    if awake.is_empty() && change == Change::Load {
        let sleeps = having.iter().any(|seen| seen.contact == Contact::Asleep);
        let why = if sleeps { "sleeps, and is woken by a chat" } else { "does not answer" };
        let words = format!("No worker can load `{model}` now: the one that has it {why}.");
        return Err(ApiError::unavailable("worker_unreachable", words, WORKER_RETRY));
    }
    Ok((known.name, chosen))
}

fn refused_by(worker: &HostName, status: &tonic::Status) -> ApiError {
    let words = format!("{worker} did not do it: {}.", status.message());
    let code = reason_of(status).unwrap_or_else(|| "worker_failed".to_owned());
    match status.code() {
        Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded => {
            ApiError::unavailable(code.to_ascii_lowercase(), words, WORKER_RETRY)
        }
        _ => ApiError::engine(code.to_ascii_lowercase(), words),
    }
}

/// `GET /models/sse`: the state of each model at first, then each change.
pub(super) async fn events(State(gateway): State<Gateway>, Known(key): Known) -> Response {
    let told = Told::new(gateway, key);
    let frames = stream::unfold(told, |mut told| async {
        let frame = told.next().await?;
        Some((Ok::<_, Infallible>(frame), told))
    });
    let headers = [(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"))];
    (headers, Body::from_stream(frames)).into_response()
}

/// What one follower of the models has been told.
struct Told {
    gateway: Gateway,
    key: Arc<Key>,
    states: BTreeMap<String, &'static str>,
    frames: Vec<Bytes>,
    looks: tokio::time::Interval,
    ping_due: Instant,
}

#[derive(Serialize)]
struct Event<'a> {
    model: &'a str,
    event: &'static str,
    data: EventStatus,
}

#[derive(Serialize)]
struct EventStatus {
    status: &'static str,
}

impl Told {
    fn new(gateway: Gateway, key: Arc<Key>) -> Self {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ping_due = Instant::now() + PING;
        Self { gateway, key, states: BTreeMap::new(), frames: Vec::new(), looks, ping_due }
    }

    async fn next(&mut self) -> Option<Bytes> {
        let stopping = self.gateway.jobs.parts().tasks.stopping();
        loop {
            if let Some(frame) = self.frames.pop() {
                self.ping_due = Instant::now() + PING;
                return Some(frame);
            }
            tokio::select! {
                _ = self.looks.tick() => self.look(),
                () = stopping.cancelled() => return None,
            }
            if self.frames.is_empty() && Instant::now() >= self.ping_due {
                self.frames.push(frame::comment("still there"));
            }
        }
    }

    fn look(&mut self) {
        for model in models_of(&self.gateway, &self.key) {
            let (name, status) = (model.name.to_string(), word(&model));
            if self.states.get(&name) == Some(&status) {
                continue;
            }
            let event =
                Event { model: &name, event: "status_change", data: EventStatus { status } };
            match serde_json::to_vec(&event) {
                Ok(event) => self.frames.push(frame::data(&event)),
                Err(error) => info!(error = %Chain(&error), "an event could not be written"),
            }
            self.states.insert(name, status);
        }
    }
}
