//! Tells one caller how a model is loaded.

use homelab_common::error_chain::Chain;
use homelab_proto::{
    common::v1::{Failure, Progress},
    inference::v1::{LoadModelResponse, load_model_response::Event},
};

use super::Sender;
use crate::{
    convert::reason,
    worker::{LoadEvent, Worker},
};

/// Loads until the model answers or cannot; loading goes on when the caller leaves.
pub(super) async fn run(worker: Worker, model: String, sender: Sender<LoadModelResponse>) {
    let checking = Event::Progress(step(format!("checking the weights of `{model}`")));
    // The caller may leave; the model is loaded all the same.
    drop(sender.send(Ok(message(checking))).await);
    let mut loading = match worker.load(&model).await {
        Ok(loading) => loading,
        Err(error) => {
            let failed = Event::Failure(failure(&model, &Chain(&error).to_string()));
            drop(sender.send(Ok(message(failed))).await);
            return;
        }
    };
    loop {
        let event = tokio::select! {
            event = loading.next() => event,
            () = sender.closed() => return,
        };
        let (event, is_last) = match event {
            LoadEvent::Step(text) => (Event::Progress(step(text)), false),
            LoadEvent::Loaded(model) => (Event::Model(model.into()), true),
            LoadEvent::Failed(because) => (Event::Failure(failure(&model, &because)), true),
        };
        if sender.send(Ok(message(event))).await.is_err() || is_last {
            return;
        }
    }
}

fn message(event: Event) -> LoadModelResponse {
    LoadModelResponse { event: Some(event) }
}

fn step(step: String) -> Progress {
    Progress { step, ..Progress::default() }
}

fn failure(model: &str, because: &str) -> Failure {
    Failure {
        reason: reason::MODEL_NOT_LOADED.to_owned(),
        message: format!("`{model}` could not be loaded: {because}"),
        retryable: false,
    }
}
