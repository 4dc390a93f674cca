//! The short verbs: `labctl model list`, `labctl task list`, `labctl dashboard`.

use homelab_common::exit::Exit;
use homelab_proto::controller::v1::{
    CreateLoginLinkRequest, CreateLoginLinkResponse, ListTasksRequest, ListTasksResponse,
    ListTierModelsRequest, ListTierModelsResponse,
};

use crate::{
    call,
    failure::Failure,
    lab::Lab,
    output::{self, Rows, distance, span, word},
};

/// Lists the models of all tiers.
///
/// # Errors
/// As the call behind it.
pub async fn models(lab: &Lab) -> Result<Exit, Failure> {
    let answer: ListTierModelsResponse =
        lab.call("list models", call::LIST_TIER_MODELS, ListTierModelsRequest::default()).await?;
    lab.print(call::LIST_TIER_MODELS, &answer, || {
        let head = ["model", "tier", "worker", "state", "context", "default"];
        let mut rows = Rows::new(&head, "No worker has shown a model yet: labctl host list");
        for model in &answer.models {
            let state = if model.asleep {
                "asleep".to_owned()
            } else {
                word(model.state().as_str_name(), "MODEL_STATE")
            };
            rows.push(
                &model.name,
                [
                    model.name.clone(),
                    word(model.tier().as_str_name(), "TIER"),
                    model.worker.clone(),
                    state,
                    model
                        .context_tokens
                        .map_or_else(|| "-".to_owned(), |tokens| tokens.to_string()),
                    if model.default_of_tier { "yes" } else { "-" }.to_owned(),
                ],
            );
        }
        rows
    })?;
    Ok(Exit::Ok)
}

/// Lists the controller's background tasks.
///
/// # Errors
/// As the call behind it.
pub async fn tasks(lab: &Lab) -> Result<Exit, Failure> {
    let answer: ListTasksResponse =
        lab.call("list tasks", call::LIST_TASKS, ListTasksRequest::default()).await?;
    lab.print(call::LIST_TASKS, &answer, || {
        let head = ["task", "every", "last", "took", "runs", "result"];
        let mut rows = Rows::new(&head, "The controller has no background tasks.");
        for task in &answer.tasks {
            let failed = if task.last_failed { "FAILED: " } else { "" };
            rows.push(
                &task.name,
                [
                    task.name.clone(),
                    span(task.period),
                    distance(lab.now(), task.last_started_at),
                    span(task.last_elapsed),
                    task.runs.to_string(),
                    format!("{failed}{}", task.last_result),
                ],
            );
        }
        rows
    })?;
    Ok(Exit::Ok)
}

/// Prints a link that logs a browser in once.
///
/// # Errors
/// As the call behind it.
pub async fn dashboard(lab: &Lab) -> Result<Exit, Failure> {
    let answer: CreateLoginLinkResponse = lab
        .call("make a login link", call::CREATE_LOGIN_LINK, CreateLoginLinkRequest::default())
        .await?;
    if lab.for_programs() {
        lab.print(call::CREATE_LOGIN_LINK, &answer, || {
            let mut rows = Rows::new(&["url"], "");
            rows.push(&answer.url, [answer.url.clone()]);
            rows
        })?;
    } else {
        output::write(&format!("{}\n", answer.url))?;
        output::say(&format!("works once, until {}", distance(lab.now(), answer.expires_at)));
    }
    Ok(Exit::Ok)
}
