//! The pages, over HTTP.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Form, Router,
    body::Body,
    extract::{DefaultBodyLimit, Path, State},
    response::{Html, IntoResponse, Redirect, Response},
    routing::{get, post},
};
use bytes::Bytes;
use futures_util::stream;
use homelab_common::{clock::Clock, error_chain::Chain, lifecycle::Tasks};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Deserialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{
    assets,
    backups::{self, BackupsObserved, source::OneSource},
    board::{Board, Live, Tab},
    chat::ChatObserved,
    jobs::{self, JobsObserved, source::OneJobSource},
    page::{self, Viewer},
    view::Observed,
    workers::{self, WorkersObserved},
};
use crate::http::{
    gateway::{Gateway, frame},
    session::{LoggedIn, Sessions, is_same, is_same_origin},
};

/// Pages that may be open at once.
const PAGES_MAX: usize = 512;

/// Largest form.
const FORM_BYTES_MAX: usize = 16 * 1024;

/// Silence after which an open page is sent a comment and its session is looked at again.
const PING: Duration = Duration::from_secs(15);

/// The dashboard.
#[derive(Clone, Debug)]
pub struct Dashboard {
    /// What the first page shows.
    pub board: Arc<Board<Observed>>,
    /// What the page of all backups shows.
    pub backups: Arc<Board<BackupsObserved>>,
    /// What the page of one backup shows.
    pub backup: Arc<dyn OneSource>,
    /// What the page of all jobs shows.
    pub jobs: Arc<Board<JobsObserved>>,
    /// What the page of one job shows.
    pub job: Arc<dyn OneJobSource>,
    /// What the page of workers shows.
    pub workers: Arc<Board<WorkersObserved>>,
    /// What the page to talk to models shows.
    pub chat: Arc<Board<ChatObserved>>,
    /// Answers what is asked there.
    pub gateway: Gateway,
    /// Who is logged in.
    pub sessions: Sessions,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Open pages end with them.
    pub tasks: Tasks,
}

impl Dashboard {
    /// Its routes.
    pub fn routes(self) -> Router {
        Router::new()
            .route("/", get(overview))
            .route("/events", get(overview_events))
            .route("/events/backups", get(backup_events))
            .route("/backups", get(all_backups))
            .route("/backups/{name}", get(one_backup))
            .route("/events/jobs", get(job_events))
            .route("/jobs", get(all_jobs))
            .route("/jobs/{id}", get(one_job))
            .route("/events/workers", get(worker_events))
            .route("/workers", get(all_workers))
            .merge(Self::chat_routes())
            .route("/login", post(redeem))
            .route("/login/{secret}", get(enter))
            .route("/logout", post(logout))
            .route("/assets/{name}", get(assets::get))
            .layer(DefaultBodyLimit::max(FORM_BYTES_MAX))
            .with_state(self)
    }

    pub(super) async fn who(&self, headers: &HeaderMap) -> Result<Option<LoggedIn>, Response> {
        self.sessions.who(headers).await.map_err(|error| failed(&error))
    }

    /// Who looks at a page; anybody else gets the answer that says how to log in.
    pub(super) async fn viewer(&self, headers: &HeaderMap) -> Result<Viewer, Response> {
        let logged_in = self.who(headers).await?.ok_or_else(|| {
            gate(
                "Not logged in",
                "This page shows the state of the homelab to those who belong to it.",
            )
        })?;
        Ok(Viewer {
            person: logged_in.session.user.to_string(),
            role: logged_in.role(),
            csrf: logged_in.csrf,
        })
    }

    fn watchers(&self) -> usize {
        self.board.watchers()
            + self.backups.watchers()
            + self.jobs.watchers()
            + self.workers.watchers()
            + self.chat.watchers()
    }
}

async fn overview(
    State(dashboard): State<Dashboard>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    let viewer = dashboard.viewer(&headers).await?;
    let snapshot = dashboard.board.snapshot().await;
    let (seq, observed) = snapshot.map_err(|error| failed(error.as_ref()))?;
    Ok(html(StatusCode::OK, page::overview(&observed, &viewer, seq, dashboard.clock.now())))
}

async fn all_backups(
    State(dashboard): State<Dashboard>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    let viewer = dashboard.viewer(&headers).await?;
    let snapshot = dashboard.backups.snapshot().await;
    let (seq, observed) = snapshot.map_err(|error| failed(error.as_ref()))?;
    Ok(html(StatusCode::OK, backups::page(&observed, &viewer, seq, dashboard.clock.now())))
}

async fn one_backup(
    State(dashboard): State<Dashboard>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    let viewer = dashboard.viewer(&headers).await?;
    let observed = dashboard.backup.observe_one(&name).await;
    let observed = observed.map_err(|error| failed(error.as_ref()))?;
    let Some(observed) = observed else {
        let words = "The site file declares no such backup; `labctl backup list` shows them all.\n";
        return Ok((StatusCode::NOT_FOUND, words).into_response());
    };
    Ok(html(StatusCode::OK, backups::one::page(&observed, &viewer, dashboard.clock.now())))
}

async fn all_jobs(
    State(dashboard): State<Dashboard>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    let viewer = dashboard.viewer(&headers).await?;
    let snapshot = dashboard.jobs.snapshot().await;
    let (seq, observed) = snapshot.map_err(|error| failed(error.as_ref()))?;
    Ok(html(StatusCode::OK, jobs::page(&observed, &viewer, seq, dashboard.clock.now())))
}

async fn one_job(
    State(dashboard): State<Dashboard>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    let viewer = dashboard.viewer(&headers).await?;
    let observed = dashboard.job.observe_job(&id).await;
    let observed = observed.map_err(|error| failed(error.as_ref()))?;
    let Some(observed) = observed else {
        let words = "There is no such job; `labctl job list` shows those that there are.\n";
        return Ok((StatusCode::NOT_FOUND, words).into_response());
    };
    Ok(html(StatusCode::OK, jobs::one::page(&observed, &viewer, dashboard.clock.now())))
}

async fn all_workers(
    State(dashboard): State<Dashboard>,
    headers: HeaderMap,
) -> Result<Response, Response> {
    let viewer = dashboard.viewer(&headers).await?;
    let snapshot = dashboard.workers.snapshot().await;
    let (seq, observed) = snapshot.map_err(|error| failed(error.as_ref()))?;
    Ok(html(StatusCode::OK, workers::page(&observed, &viewer, seq, dashboard.clock.now())))
}

/// What a login link leads to: a button, so that a program that only looks at links does not use
/// this one up.
async fn enter(Path(secret): Path<String>) -> Response {
    html(StatusCode::OK, page::enter(&secret))
}

#[derive(Deserialize)]
struct Entry {
    token: String,
}

async fn redeem(
    State(dashboard): State<Dashboard>,
    headers: HeaderMap,
    Form(entry): Form<Entry>,
) -> Response {
    if !is_same_origin(&headers) {
        return foreign();
    }
    match dashboard.sessions.redeem(&entry.token).await {
        Ok(Some(cookie)) => {
            info!("a browser logged in with a link");
            ([(header::SET_COOKIE, cookie)], Redirect::to("/")).into_response()
        }
        Ok(None) => gate(
            "This link does not work",
            "It was used before, or its five minutes are over. Make a new one.",
        ),
        Err(error) => failed(&error),
    }
}

#[derive(Deserialize)]
struct Leave {
    csrf: String,
}

async fn logout(
    State(dashboard): State<Dashboard>,
    headers: HeaderMap,
    Form(leave): Form<Leave>,
) -> Response {
    let logged_in = match dashboard.who(&headers).await {
        Ok(Some(logged_in)) => logged_in,
        Ok(None) => return Redirect::to("/").into_response(),
        Err(response) => return response,
    };
    if !is_same_origin(&headers) || !is_same(&leave.csrf, &logged_in.csrf) {
        return foreign();
    }
    match dashboard.sessions.end(&logged_in.session).await {
        Ok(cookie) => {
            let mut response =
                gate("Logged out", "The session has ended, here and on the controller.");
            *response.status_mut() = StatusCode::OK;
            if let Some(cookie) = cookie {
                response.headers_mut().insert(header::SET_COOKIE, cookie);
            }
            response
        }
        Err(error) => failed(&error),
    }
}

async fn overview_events(State(dashboard): State<Dashboard>, headers: HeaderMap) -> Response {
    let board = Arc::clone(&dashboard.board);
    events(dashboard, &board, &headers).await
}

async fn backup_events(State(dashboard): State<Dashboard>, headers: HeaderMap) -> Response {
    let board = Arc::clone(&dashboard.backups);
    events(dashboard, &board, &headers).await
}

async fn job_events(State(dashboard): State<Dashboard>, headers: HeaderMap) -> Response {
    let board = Arc::clone(&dashboard.jobs);
    events(dashboard, &board, &headers).await
}

async fn worker_events(State(dashboard): State<Dashboard>, headers: HeaderMap) -> Response {
    let board = Arc::clone(&dashboard.workers);
    events(dashboard, &board, &headers).await
}

/// The stream that keeps a page alive.
pub(super) async fn events<P: Live>(
    dashboard: Dashboard,
    board: &Arc<Board<P>>,
    headers: &HeaderMap,
) -> Response {
    let logged_in = match dashboard.who(headers).await {
        Ok(Some(logged_in)) => logged_in,
        Ok(None) => return StatusCode::UNAUTHORIZED.into_response(),
        Err(response) => return response,
    };
    if dashboard.watchers() >= PAGES_MAX {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many open pages\n").into_response();
    }
    let feed = Feed {
        tab: board.watch(),
        stopping: dashboard.tasks.stopping(),
        sessions: dashboard.sessions,
        logged_in,
    };
    let frames = stream::unfold(feed, |mut feed| async {
        let frame = feed.next().await?;
        Some((Ok::<_, Infallible>(frame), feed))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (headers, Body::from_stream(frames)).into_response()
}

struct Feed<P> {
    tab: Tab<P>,
    stopping: CancellationToken,
    sessions: Sessions,
    logged_in: LoggedIn,
}

impl<P: Live> Feed<P> {
    /// The next frame; `None` when the session has ended or the controller stops.
    async fn next(&mut self) -> Option<Bytes> {
        let due = Instant::now() + PING;
        tokio::select! {
            frame = self.tab.next() => frame,
            () = self.stopping.cancelled() => None,
            () = tokio::time::sleep_until(due) => {
                let is_good = self.sessions.is_good(&self.logged_in.session).await;
                is_good.unwrap_or(true).then(|| frame::comment("still there"))
            }
        }
    }
}

fn gate(heading: &str, words: &str) -> Response {
    html(StatusCode::UNAUTHORIZED, page::login(heading, words))
}

fn foreign() -> Response {
    let words =
        "This form was not sent by a page of the controller. Open the dashboard and try again.\n";
    (StatusCode::FORBIDDEN, words).into_response()
}

pub(super) fn html(status: StatusCode, rendered: askama::Result<String>) -> Response {
    match rendered {
        Ok(text) => (status, Html(text)).into_response(),
        Err(error) => failed(&error),
    }
}

pub(super) fn failed(error: &(dyn std::error::Error + 'static)) -> Response {
    error!(error = %Chain(error), "a page could not be made");
    let words = "The page could not be made. The log of homelab-controller says why, under the id in `x-request-id`.\n";
    (StatusCode::INTERNAL_SERVER_ERROR, words).into_response()
}
