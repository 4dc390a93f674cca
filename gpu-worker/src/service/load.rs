//! Tells one caller how a model is loaded.

use homelab_proto::{
    common::v1::{Failure, Progress},
    inference::v1::{LoadModelResponse, load_model_response::Event},
};

use super::Sender;
use crate::{
    convert::reason,
    worker::{LoadEvent, LoadFailure, LoadStep, Loading},
};

/// Tells what happens until the model answers or cannot; loading goes on when the
/// caller leaves.
pub(super) async fn run(mut loading: Loading, model: String, sender: Sender<LoadModelResponse>) {
    loop {
        let event = tokio::select! {
            event = loading.next() => event,
            () = sender.closed() => return,
        };
        let Some(event) = event else { return };
        let (event, is_last) = match event {
            LoadEvent::Step(step) => (Event::Progress(progress(step)), false),
            LoadEvent::Loaded(model) => (Event::Model(model.into()), true),
            LoadEvent::Failed(failed) => (Event::Failure(failure(&model, failed)), true),
        };
        if sender.send(Ok(message(event))).await.is_err() || is_last {
            return;
        }
    }
}

fn message(event: Event) -> LoadModelResponse {
    LoadModelResponse { event: Some(event) }
}

fn progress(step: LoadStep) -> Progress {
    let LoadStep { text, done_bytes, total_bytes } = step;
    Progress { step: text, done_bytes, total_bytes, ..Progress::default() }
}

fn failure(model: &str, failed: LoadFailure) -> Failure {
    let reason = if failed.is_busy { reason::ENGINE_BUSY } else { reason::MODEL_NOT_LOADED };
    Failure {
        reason: reason.to_owned(),
        message: format!("`{model}` could not be loaded: {}", failed.because),
        retryable: failed.is_retryable,
    }
}
