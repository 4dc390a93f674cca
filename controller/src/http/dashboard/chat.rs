//! The page to talk to the models of all tiers. It asks through the gateway, under the name of who is
//! logged in; what is said is kept in the page, and on the controller as the job's own record says.

use std::{error::Error, sync::Arc};

use askama::Template;
use async_trait::async_trait;
use axum::{
    Router,
    extract::{Request, State},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use homelab_domain::{identity::Role, ids::UserName, site::Tier};
use homelab_proto::inference::v1::ModelState;
use http::{HeaderMap, StatusCode};
use jiff::{SignedDuration, Timestamp};

use super::{
    board::{Live, Source},
    handler::{self, Dashboard},
    moment::{Ages, Moment, span},
    page::{Top, Viewer},
    view::Tone,
};
use crate::{
    http::{
        gateway::error::ApiError,
        session::{is_same, is_same_origin},
    },
    job::{Jobs, engines::Contact, models::TierModel},
};

/// What the script sends beside a question: the token of the page.
const CSRF: &str = "x-homelab-csrf";

/// The models that can be asked.
#[derive(Clone, Debug, Default)]
pub struct ChatObserved {
    /// Name of the site.
    pub site: String,
    /// The models, by tier, then name.
    pub models: Vec<ModelObserved>,
}

/// A model, and how long its host usually takes to wake.
#[derive(Clone, Debug)]
pub struct ModelObserved {
    /// The model.
    pub model: TierModel,
    /// Time from the wake to the first answer, while it sleeps; none when none was seen yet.
    pub wakes_in: Option<SignedDuration>,
}

/// The models of the queue.
#[derive(Clone, Debug)]
pub struct ChatSource {
    jobs: Jobs,
}

impl ChatSource {
    /// Reads from `jobs`.
    #[must_use]
    pub fn new(jobs: Jobs) -> Arc<Self> {
        Arc::new(Self { jobs })
    }

    fn wakes_in(&self, model: &TierModel) -> Option<SignedDuration> {
        let standing = self.jobs.wakes().get(model.worker.as_ref()?)?;
        let usual = (standing.boots_learnt > 0).then_some(standing.usual)?;
        SignedDuration::try_from(usual).ok()
    }
}

#[async_trait]
impl Source<ChatObserved> for ChatSource {
    async fn observe(&self) -> Result<ChatObserved, Box<dyn Error + Send + Sync>> {
        let models = self.jobs.models().into_iter();
        let models = models.map(|model| ModelObserved { wakes_in: self.wakes_in(&model), model });
        let site = self.jobs.site().name().to_string();
        Ok(ChatObserved { site, models: models.collect() })
    }
}

impl Live for ChatObserved {
    const SECTIONS: &'static [&'static str] = &["models"];

    fn sections(&self, _ages: Ages) -> askama::Result<Vec<String>> {
        let models = self.models.iter().map(model_row).collect();
        Ok(vec![ModelsSection { models }.render()?])
    }
}

impl Dashboard {
    pub(super) fn chat_routes() -> Router<Self> {
        Router::new()
            .route("/chat", get(page))
            .route("/chat/say", post(say))
            .route("/events/chat", get(events))
    }
}

async fn page(
    State(dashboard): State<Dashboard>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    let viewer = dashboard.viewer(&headers).await?;
    let snapshot = dashboard.chat.snapshot().await;
    let (seq, observed) = snapshot.map_err(|error| handler::failed(error.as_ref()))?;
    let page = rendered(&observed, &viewer, seq, dashboard.clock.now());
    Ok(handler::html(StatusCode::OK, page))
}

async fn events(State(dashboard): State<Dashboard>, headers: HeaderMap) -> Response {
    let board = Arc::clone(&dashboard.chat);
    handler::events(dashboard, &board, &headers).await
}

/// A question. Its connection is the job's life line: who stops reading has it cancelled.
async fn say(State(dashboard): State<Dashboard>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    match asker(&dashboard, &parts.headers).await {
        Ok(person) => dashboard.gateway.chat_of(&person, &parts.headers, body).await,
        Err(refused) => refused,
    }
}

/// Who asks: somebody with a session, from a page of ours, whose role lets them act.
async fn asker(dashboard: &Dashboard, headers: &HeaderMap) -> Result<UserName, Response> {
    let refused = |code, words: &str| ApiError::not_allowed(code, words).into_response();
    let logged_in = dashboard.who(headers).await?.ok_or_else(|| {
        ApiError::unauthorized("Nobody is logged in here any more. Reload the page.")
            .into_response()
    })?;
    let token = headers.get(CSRF).and_then(|token| token.to_str().ok()).unwrap_or_default();
    if !is_same_origin(headers) || !is_same(token, &logged_in.csrf) {
        let words = "This was not sent by a page of the controller. Reload the page and try again.";
        return Err(refused("foreign_page", words));
    }
    match logged_in.session.role {
        Role::Operator | Role::Admin => Ok(logged_in.session.user),
        Role::Viewer => {
            let words = "To ask needs the role operator, and this login is a viewer's.";
            Err(refused("role_too_low", words))
        }
    }
}

/// The whole page. The models can be read without scripts; to talk needs them.
fn rendered(
    observed: &ChatObserved,
    viewer: &Viewer,
    seq: u64,
    now: Timestamp,
) -> askama::Result<String> {
    let ages = Ages::Written(now);
    let page = ChatPage {
        top: Top {
            site: &observed.site,
            viewer,
            here: "/chat",
            path: "/chat",
            events: "/events/chat",
            seq,
            made: Moment::new(Some(now), ages),
        },
        may_ask: viewer.role != "viewer",
        sections: observed.sections(ages)?,
    };
    page.render()
}

#[derive(Template)]
#[template(path = "chat/page.html")]
struct ChatPage<'a> {
    top: Top<'a>,
    may_ask: bool,
    sections: Vec<String>,
}

#[derive(Template)]
#[template(path = "chat/models.html")]
struct ModelsSection {
    models: Vec<ModelRow>,
}

struct ModelRow {
    tone: Tone,
    name: String,
    tier: Tier,
    state: &'static str,
    /// What asking it means.
    meaning: String,
    is_default: bool,
}

fn model_row(observed: &ModelObserved) -> ModelRow {
    let model = &observed.model;
    let host = model.worker.as_ref().map_or("its host", |host| host.as_str());
    let (tone, state, meaning) = match (model.contact, model.state) {
        (Some(Contact::Asleep), _) => {
            let usual = match observed.wakes_in {
                Some(usual) => format!(", usually {}", span(usual)),
                None => String::new(),
            };
            let words = format!(
                "{host} is off. A question may wake it, and waits here until it is up{usual}."
            );
            (Tone::Idle, "asleep", words)
        }
        (Some(Contact::Unreachable) | None, _) => (
            Tone::Critical,
            "out of reach",
            format!("{host} does not answer. A question waits until it does."),
        ),
        (_, ModelState::Loaded) => (Tone::Ok, "ready", format!("It answers on {host}.")),
        (_, ModelState::Loading) => {
            (Tone::Idle, "loading", "A question waits until it is loaded.".to_owned())
        }
        (_, ModelState::Failed) => {
            (Tone::Critical, "does not load", format!("`labctl model list` says why on {host}."))
        }
        (_, ModelState::Unloaded | ModelState::Unspecified) => {
            (Tone::Idle, "on disk", "A question has it loaded first.".to_owned())
        }
    };
    let meaning = match model.tier {
        Tier::Gold => {
            "What you write leaves the house, as far as rules and budgets let it, and costs money."
                .to_owned()
        }
        Tier::Bronze | Tier::Silver => meaning,
    };
    ModelRow {
        tone,
        name: model.name.to_string(),
        tier: model.tier,
        state,
        meaning,
        is_default: model.is_default && model.tier == Tier::Bronze,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(tier: Tier, contact: Contact, wakes_in: Option<SignedDuration>) -> ModelObserved {
        let model = TierModel {
            name: "large".parse().expect("a name"),
            tier,
            worker: Some("x99".parse().expect("a name")),
            state: ModelState::Loaded,
            contact: Some(contact),
            context_tokens: None,
            is_default: false,
        };
        ModelObserved { model, wakes_in }
    }

    #[test]
    fn a_model_says_what_asking_it_means() {
        let usual = Some(SignedDuration::from_secs(95));
        let row = model_row(&observed(Tier::Silver, Contact::Asleep, usual));
        assert_eq!(row.state, "asleep");
        assert!(
            row.meaning.contains("x99 is off") && row.meaning.contains("95 s"),
            "{}",
            row.meaning
        );
        let row = model_row(&observed(Tier::Gold, Contact::Connected, None));
        assert!(row.meaning.contains("leaves the house"), "{}", row.meaning);
        let row = model_row(&observed(Tier::Bronze, Contact::Unreachable, None));
        assert_eq!((row.tone, row.state), (Tone::Critical, "out of reach"));
    }

    #[test]
    fn a_viewer_sees_the_models_and_is_told_why_there_is_nothing_to_type_into() {
        let model = observed(Tier::Bronze, Contact::Connected, None);
        let observed = ChatObserved { models: vec![model], ..ChatObserved::default() };
        let page = |role| {
            let viewer = Viewer { person: "jan".to_owned(), role, csrf: "c".to_owned() };
            rendered(&observed, &viewer, 0, Timestamp::UNIX_EPOCH).expect("renders")
        };
        assert!(page("viewer").contains("role operator") && !page("viewer").contains("<textarea"));
        let page = page("operator");
        assert!(page.contains("<textarea") && page.contains("<noscript>"), "{page}");
        assert!(!page.contains(" style=") && !page.contains(" onclick="), "{page}");
    }
}
