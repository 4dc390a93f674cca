//! `POST /v1/responses`, mapped onto chat.
//!
//! What can be said as a chat is: texts, images by address, tools that are functions and their results.
//! What would need a memory of earlier responses or tools of OpenAI's own is refused by name, so that
//! nobody takes silence for success. Nothing is kept under the id of a response.

mod shape;
mod speech;
mod wire;

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    response::{IntoResponse, Response},
};

use self::{shape::Shape, speech::Speech};
use super::{
    Gateway, ask, body,
    chat::json,
    error::ApiError,
    request::{self, Delivery},
    tale::{self, Tale},
    whole,
};

/// Answers.
pub(super) async fn create(State(gateway): State<Gateway>, request: Request) -> Response {
    let metrics = Arc::clone(&gateway.metrics);
    let response = match answer(gateway, request).await {
        Ok(response) => response,
        Err(error) => error.into_response(),
    };
    metrics.answered("responses", response.status());
    response
}

async fn answer(gateway: Gateway, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    gateway.keys.find(&parts.headers)?;
    let wish = wire::read(&body::read(body).await?)?;
    let chat = request::read(&wish.chat)?;
    let asked = ask::ask(&gateway, &parts.headers, &chat, &wish.chat).await?;
    let headers = ask::headers_of(&asked);
    let job = &asked.accepted.job;
    let shape = Shape {
        id: job.id(),
        model: job.spec().model.to_string(),
        created_at: job.spec().submitted_at.as_second(),
        echoed: wish.echoed,
    };
    let mut response = match chat.delivery {
        Delivery::Whole => json(shape.whole(&whole::whole(asked).await?.into_value())),
        Delivery::Stream { .. } => {
            tale::streamed(Tale::new(asked, Box::new(Speech::new(shape)), &chat.model))
        }
    };
    response.headers_mut().extend(headers);
    Ok(response)
}
