//! `GET /v1/models`: from memory, at once, never waking anything. Open WebUI asks every second.

use std::sync::Arc;

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use homelab_proto::inference::v1::ModelState;
use serde::Serialize;

use super::{
    Gateway, chat,
    error::ApiError,
    head::{Id, Known},
    key::Key,
};
use crate::job::{engines::Contact, models::TierModel};

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
    owned_by: String,
    tier: String,
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    meta: Option<Meta>,
}

/// As llama-server's router says it.
#[derive(Serialize)]
struct Status {
    value: &'static str,
}

#[derive(Serialize)]
struct Meta {
    n_ctx: u32,
}

/// The models that the caller may use.
pub(super) async fn list(State(gateway): State<Gateway>, Known(key): Known) -> Response {
    json(&List { object: "list", data: rows(&gateway, &key).collect() })
}

/// One model.
pub(super) async fn get(
    State(gateway): State<Gateway>,
    Known(key): Known,
    Id(model): Id,
) -> Result<Response, ApiError> {
    let row = rows(&gateway, &key).find(|row| row.id == model);
    Ok(json(&row.ok_or_else(|| ApiError::model_not_found(&model))?))
}

/// The models of the tiers that a key may use.
pub(super) fn models_of(gateway: &Gateway, key: &Arc<Key>) -> impl Iterator<Item = TierModel> {
    let key = Arc::clone(key);
    gateway.jobs.models().into_iter().filter(move |model| key.tiers.contains(&model.tier))
}

fn rows(gateway: &Gateway, key: &Arc<Key>) -> impl Iterator<Item = Row> {
    let created = gateway.started_at.as_second();
    models_of(gateway, key).map(move |model| row(&model, created))
}

fn row(model: &TierModel, created: i64) -> Row {
    Row {
        id: model.name.to_string(),
        object: "model",
        created,
        owned_by: format!("homelab-{}", model.tier),
        tier: model.tier.to_string(),
        status: Status { value: status(model) },
        meta: model.context_tokens.map(|n_ctx| Meta { n_ctx }),
    }
}

fn status(model: &TierModel) -> &'static str {
    match (model.contact, model.state) {
        (Some(Contact::Asleep), _) => "asleep",
        (Some(Contact::Unreachable) | None, _) => "unreachable",
        (Some(Contact::Connected), ModelState::Loaded) => "loaded",
        (Some(Contact::Connected), ModelState::Loading) => "loading",
        (Some(Contact::Connected), ModelState::Failed) => "failed",
        (Some(Contact::Connected), ModelState::Unloaded | ModelState::Unspecified) => "unloaded",
    }
}

/// An answer of a known form.
pub(super) fn json(body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => chat::json(body.into()),
        Err(_) => ApiError::internal().into_response(),
    }
}
