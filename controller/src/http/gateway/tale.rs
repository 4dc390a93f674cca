//! The events of one streamed answer, in order.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use homelab_common::error_chain::Chain;
use homelab_domain::{ids::JobId, job::Job, site::Tier};
use serde::{Deserialize, de::IgnoredAny};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::{
    client::Client,
    error::ApiError,
    frame::{self, Progress},
    outcome,
    request::Usage,
};
use crate::job::{
    Accepted,
    follow::{Follower, Told},
};
use homelab_store::Piece;

/// Silence after which a comment is sent. Proxies and clients commonly give up after 30 s or more.
const PING: Duration = Duration::from_secs(10);

/// A streamed answer that is told event by event.
#[derive(Debug)]
pub(super) struct Tale {
    follower: Follower,
    client: Client,
    usage: Usage,
    is_open_webui: bool,
    id: JobId,
    tier: Tier,
    stopping: CancellationToken,
    ping_due: Instant,
    frames: VecDeque<Bytes>,
    status_shown: bool,
    text_shown: bool,
    is_over: bool,
}

impl Tale {
    pub(super) fn new(
        accepted: Accepted,
        client: Client,
        usage: Usage,
        is_open_webui: bool,
    ) -> Self {
        let Accepted { job, follower, .. } = accepted;
        let mut tale = Self {
            id: job.id(),
            tier: job.spec().tier,
            follower,
            stopping: client.jobs().parts().tasks.stopping(),
            client,
            usage,
            is_open_webui,
            ping_due: Instant::now() + PING,
            frames: VecDeque::new(),
            status_shown: false,
            text_shown: false,
            is_over: false,
        };
        if job.state().kind().is_pending() {
            tale.waiting(&job.state().because().message, job.state().because().reason.as_str());
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
                    self.frames.push_back(frame::data(&outcome::stopping().body()));
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
                    error!(job = %self.id, error = %Chain(&error), "could not follow a job of the gateway");
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
            Told::State(_) => {}
            Told::Piece(piece) => self.piece(&piece),
            Told::Restarted(_) if self.text_shown => {
                let words = "The worker was lost after text had been shown, and the answer begins again elsewhere.";
                self.fail(&ApiError::engine("output_already_shown", words));
            }
            Told::Restarted(_) => {}
            Told::Ended(job) => self.end(&job),
        }
    }

    fn piece(&mut self, piece: &Piece) {
        if piece.openai_chunk.is_empty() || (self.usage == Usage::Hidden && is_usage(piece)) {
            return;
        }
        self.end_status("It is your turn.");
        self.text_shown = true;
        self.frames.push_back(frame::data(&piece.openai_chunk));
    }

    fn end(&mut self, job: &Job) {
        match outcome::of_end(job) {
            Ok(()) => {
                self.end_status("Done.");
                self.client.is_served();
                self.is_over = true;
                self.frames.push_back(frame::DONE);
            }
            Err(error) => self.fail(&error),
        }
    }

    /// A stream that has begun cannot change its status: the error is its last event, and no
    /// `[DONE]` follows.
    fn fail(&mut self, error: &ApiError) {
        self.end_status("It failed.");
        self.client.is_served();
        self.is_over = true;
        self.frames.push_back(frame::data(&error.body()));
    }

    fn ping(&mut self) {
        let plan = self.client.jobs().plan();
        match plan.standing(self.id).and_then(|standing| standing.because.first()) {
            Some(because) if !self.text_shown => {
                self.waiting(&because.message, because.reason.as_str())
            }
            _ => self.frames.push_back(frame::comment("still there")),
        }
    }

    fn waiting(&mut self, message: &str, reason: &str) {
        let plan = self.client.jobs().plan();
        let position = plan.standing(self.id).map_or(1, |standing| standing.position);
        let tier = self.tier;
        let words = format!("queued position={position} tier={tier} reason={reason}");
        self.frames.push_back(frame::comment(&words));
        if self.is_open_webui {
            let description = format!("Waiting for {tier}, place {position}: {message}");
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

/// The chunk that the gateway asks for on its own account: usage, and no choice. Only a chunk
/// without text is looked into.
fn is_usage(piece: &Piece) -> bool {
    #[derive(Deserialize)]
    struct Chunk {
        #[serde(default)]
        choices: Vec<IgnoredAny>,
        usage: Option<IgnoredAny>,
    }
    piece.content.is_empty()
        && piece.reasoning.is_empty()
        && serde_json::from_slice::<Chunk>(&piece.openai_chunk)
            .is_ok_and(|chunk| chunk.choices.is_empty() && chunk.usage.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_usage_chunk_is_hidden() {
        let piece =
            |chunk: &str| Piece { openai_chunk: chunk.as_bytes().to_vec(), ..Default::default() };
        assert!(is_usage(&piece(r#"{"choices":[],"usage":{"total_tokens":3},"timings":{}}"#)));
        for other in [
            r#"{"choices":[{"index":0,"delta":{}}],"usage":{"total_tokens":3}}"#,
            r#"{"choices":[{"delta":{"tool_calls":[]}}]}"#,
            r#"{"choices":[],"usage":null}"#,
            r#"{"choices":[],"event":{}}"#,
        ] {
            assert!(!is_usage(&piece(other)), "{other}");
        }
    }
}
