//! `POST /v1/responses`, mapped onto chat.
//!
//! What can be said as a chat is: texts, images by address, tools that are functions and their results.
//! What would need a memory of earlier responses or tools of OpenAI's own is refused by name, so that
//! nobody takes silence for success. Nothing is kept under the id of a response.

mod shape;
mod speech;
mod wire;

use axum::{body::Body, extract::State, response::Response};
use http::HeaderMap;

use self::{shape::Shape, speech::Speech};
use super::{
    Gateway, ask, body,
    chat::json,
    error::ApiError,
    head::Known,
    request::{self, Delivery},
    tale::{self, Tale},
    whole,
};

/// Answers.
pub(super) async fn create(
    State(gateway): State<Gateway>,
    Known(key): Known,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let wish = wire::read(&body::read(body).await?)?;
    let question = request::read(&wish.chat)?;
    let asked = ask::ask(&gateway, &key, &headers, &question, &wish.chat).await?;
    let headers = ask::headers_of(&asked);
    let job = &asked.accepted.job;
    let shape = Shape {
        id: job.id(),
        model: job.spec().model.to_string(),
        created_at: job.spec().submitted_at.as_second(),
        echoed: wish.echoed,
    };
    let mut response = match question.delivery {
        Delivery::Whole => json(shape.whole(&whole::whole(asked).await?.into_value())),
        Delivery::Stream { .. } => {
            tale::streamed(Tale::new(asked, Box::new(Speech::new(shape)), &question.model))
        }
    };
    response.headers_mut().extend(headers);
    Ok(response)
}
