//! The events of one streamed answer, in order.

use std::{collections::VecDeque, convert::Infallible, fmt, sync::Arc, time::Duration};

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use homelab_common::error_chain::Chain;
use homelab_domain::{
    job::{Job, JobEvent, JobParts, JobState},
    text,
};
use homelab_store::Piece;
use http::{HeaderName, HeaderValue, header};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::{
    ask::Asked,
    client::Client,
    error::ApiError,
    frame::{self, Progress},
    outcome,
};
use crate::job::follow::{Follower, Told};

/// Silence after which a comment is sent. Proxies and clients commonly give up after 30 s or more.
const PING: Duration = Duration::from_secs(10);

const BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// How an answer is told in one dialect of the API.
pub(super) trait Voice: fmt::Debug + Send {
    /// What is said before anything has happened.
    fn opening(&mut self) -> Vec<Bytes> {
        Vec::new()
    }

    /// The next piece, as it is shown; nothing when it is not.
    fn piece(&mut self, piece: &Piece) -> Vec<Bytes>;

    /// What is said when the answer is complete.
    fn ending(&mut self) -> Vec<Bytes>;

    /// What is said when there is none, or no more.
    fn failure(&mut self, error: &ApiError) -> Vec<Bytes>;
}

/// A streamed answer that is told event by event.
#[derive(Debug)]
pub(super) struct Tale {
    follower: Follower,
    client: Client,
    voice: Box<dyn Voice>,
    is_open_webui: bool,
    /// The job without its text, to ask how it stands.
    job: Box<Job>,
    /// Another model than the one that was asked for, until it has been said.
    other_model: Option<String>,
    worker: Option<String>,
    stopping: CancellationToken,
    ping_due: Instant,
    frames: VecDeque<Bytes>,
    status_shown: bool,
    text_shown: bool,
    is_over: bool,
}

/// The answer whose body is a tale.
pub(super) fn streamed(tale: Tale) -> Response {
    let frames = stream::unfold(tale, |mut tale| async {
        let frame = tale.next().await?;
        Some((Ok::<_, Infallible>(frame), tale))
    });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // A proxy that collects events before it passes them on would hold back every word.
        (BUFFERING, HeaderValue::from_static("no")),
    ];
    (headers, Body::from_stream(frames)).into_response()
}

impl Tale {
    pub(super) fn new(asked: Asked, voice: Box<dyn Voice>, model: &str) -> Self {
        let Asked { accepted, client, caller } = asked;
        let model_of_job = accepted.job.spec().model.as_str();
        let other_model = (model_of_job != model).then(|| model_of_job.to_owned());
        let mut tale = Self {
            job: Box::new(without_text(&accepted.job)),
            other_model,
            worker: None,
            follower: accepted.follower,
            stopping: client.jobs().parts().tasks.stopping(),
            client,
            voice,
            is_open_webui: caller.is_open_webui,
            ping_due: Instant::now() + PING,
            frames: VecDeque::new(),
            status_shown: false,
            text_shown: false,
            is_over: false,
        };
        tale.frames.extend(tale.voice.opening());
        if accepted.job.state().kind().is_pending() {
            let because = accepted.job.state().because();
            tale.waiting(&because.message, because.reason.as_str());
        } else {
            tale.worker = accepted.job.state().lease().map(|lease| lease.worker.to_string());
        }
        tale
    }

    /// The next event; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(frame) = self.frames.pop_front() {
                self.ping_due = Instant::now() + PING;
                return Some(frame);
            }
            if self.is_over {
                return None;
            }
            let told = tokio::select! {
                told = self.follower.next() => told,
                // Who has read nothing yet loses nothing by asking again elsewhere or later; its job
                // is cancelled with the connection.
                () = self.stopping.cancelled(), if !self.text_shown => {
                    self.is_over = true;
                    self.frames.extend(self.voice.failure(&outcome::stopping()));
                    continue;
                }
                () = tokio::time::sleep_until(self.ping_due) => {
                    self.ping();
                    continue;
                }
            };
            match told {
                Ok(Some(told)) => self.take(told),
                Ok(None) => self.is_over = true,
                Err(error) => {
                    error!(job = %self.job.id(), error = %Chain(&error), "could not follow a job of the gateway");
                    self.fail(&ApiError::internal());
                }
            }
        }
    }

    fn take(&mut self, told: Told) {
        match told {
            Told::State(event) if event.state.is_pending() => {
                self.waiting(&event.message, event.reason.as_str());
            }
            Told::State(event) => self.given_to(&event),
            Told::Piece(piece) => self.piece(&piece),
            Told::Restarted(_) if self.text_shown => {
                let words = "The worker was lost after text had been shown, and the answer begins again elsewhere.";
                self.fail(&ApiError::engine("output_already_shown", words));
            }
            Told::Restarted(_) => {}
            Told::Ended(job) => self.end(&job),
        }
    }

    fn given_to(&mut self, event: &JobEvent) {
        if let Some(worker) = &event.worker {
            self.worker = Some(worker.to_string());
        }
    }

    fn piece(&mut self, piece: &Arc<Piece>) {
        self.client.is_shown_a_piece();
        let shown = self.voice.piece(piece);
        if shown.is_empty() {
            return;
        }
        if !self.text_shown {
            self.begin();
        }
        self.frames.extend(shown);
    }

    /// Before the first text: who answers, for those who show it.
    fn begin(&mut self) {
        self.text_shown = true;
        let tier = self.job.spec().tier;
        let description = match &self.worker {
            Some(worker) => format!("{worker} ({tier}) answers."),
            None => format!("{tier} answers."),
        };
        self.end_status(&description);
        if let Some(model) = self.other_model.take().filter(|_| self.is_open_webui) {
            self.frames.push_back(frame::open_webui_model(&model));
        }
    }

    fn end(&mut self, job: &Job) {
        self.client.is_served_by(job);
        match outcome::of_end(job) {
            Ok(()) => {
                self.end_status("Done.");
                self.is_over = true;
                self.frames.extend(self.voice.ending());
            }
            Err(error) => self.fail(&error),
        }
    }

    fn fail(&mut self, error: &ApiError) {
        self.end_status("It failed.");
        self.client.is_served();
        self.is_over = true;
        self.frames.extend(self.voice.failure(error));
    }

    fn ping(&mut self) {
        let plan = self.client.jobs().plan();
        match plan.standing(self.job.id()).and_then(|standing| standing.hold.because.first()) {
            Some(because) if !self.text_shown => {
                self.waiting(&because.message, because.reason.as_str());
            }
            _ => self.frames.push_back(frame::comment("still there")),
        }
    }

    fn waiting(&mut self, message: &str, reason: &str) {
        let explained = self.client.jobs().explain_from_memory(&self.job);
        let position = explained.position.unwrap_or(1);
        let tier = self.job.spec().tier;
        let mut words = format!("queued position={position} tier={tier} reason={reason}");
        let mut description = format!("Waiting for {tier}, place {position}: {message}");
        if let Some(wait) = explained.expected_wait {
            let seconds = wait.as_secs();
            words.push_str(&format!(" eta_s={seconds}"));
            description.push_str(&format!(", about {}", text::span(wait)));
        }
        self.frames.push_back(frame::comment(&words));
        if self.is_open_webui {
            self.status_shown = true;
            self.frames.push_back(frame::open_webui_status(&description, Progress::Waiting));
        }
    }

    fn end_status(&mut self, description: &str) {
        if std::mem::take(&mut self.status_shown) {
            self.frames.push_back(frame::open_webui_status(description, Progress::Ended));
        }
    }
}

/// A request may be 16 MiB, and a tale may wait for hours.
fn without_text(job: &Job) -> Job {
    let parts = job.parts();
    let spec = parts.spec.without_text();
    let bare = Job::submit(spec.clone());
    let state = match &parts.state {
        JobState::Queued { .. } | JobState::Waiting { .. } => parts.state.clone(),
        // It has a worker now, and is asked about only when it is in the queue again.
        _ => bare.state().clone(),
    };
    let parts = JobParts { spec, enqueued_at: parts.enqueued_at, attempts: parts.attempts, state };
    Job::from_parts(parts).unwrap_or(bare)
}
