//! A person at the dashboard as a caller of the gateway: the same way in as with a key, under the
//! person's own name, and without a key that a page could lose.

use std::sync::Arc;

use axum::{
    body::Body,
    response::{IntoResponse as _, Response},
};
use homelab_domain::{allowance::Limits, ids::UserName, site::Tier};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{
    Gateway,
    answer::Answer,
    ask, body, chat,
    error::ApiError,
    key::{Holder, Key, Models, Reads},
    request,
};

/// Questions of one person that wait or run at once: more than anybody reads.
const AT_ONCE: u32 = 4;

/// Questions of one person within a minute.
const REQUESTS_PER_MINUTE: u32 = 60;

/// Tells which tier answers.
const TIER: HeaderName = HeaderName::from_static("x-homelab-tier");

impl Gateway {
    /// Answers a chat of a person who is logged in. What it costs and where it goes is for limits,
    /// budgets and rules to say, as for every other caller.
    pub async fn chat_of(&self, person: &UserName, headers: &HeaderMap, body: Body) -> Response {
        let response = match self.try_chat_of(person, headers, body).await {
            Ok(response) => response,
            Err(error) => error.into_response(),
        };
        self.metrics.answered("dashboard/chat", response.status());
        response
    }

    async fn try_chat_of(
        &self,
        person: &UserName,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Response, ApiError> {
        let body = body::read(body).await?;
        let question = request::read(&body)?;
        let asked = ask::ask(self, &key_of(person), headers, &question, &body).await?;
        let tier = HeaderValue::from_static(asked.accepted.job.spec().tier.as_str());
        let mut response = chat::answer(asked, &question, Answer::finish).await?;
        response.headers_mut().insert(TIER, tier);
        Ok(response)
    }
}

/// What a person may use: every tier that the site has, within limits of their own.
fn key_of(person: &UserName) -> Arc<Key> {
    let limits = Limits {
        requests_per_minute: Some(REQUESTS_PER_MINUTE),
        at_once: Some(AT_ONCE),
        ..Limits::default()
    };
    Arc::new(Key {
        holder: Holder::Person,
        // No key of a file has such a name.
        name: format!("user/{person}"),
        tiers: vec![Tier::Bronze, Tier::Silver, Tier::Gold],
        limits,
        models: Models::Use,
        // Whoever is logged in may search them as well.
        reads: Reads::All,
    })
}
