//! One whole answer, for clients that do not stream.

use std::time::Duration;

use homelab_common::error_chain::Chain;
use tokio::time::Instant;
use tracing::error;

use super::{answer::Answer, ask::Asked, error::ApiError, outcome};
use crate::job::follow::{FollowError, Told};

/// How long a request that does not stream may wait for its turn. The SDKs give up after 600 s and
/// would send it again.
const QUEUED_MAX: Duration = Duration::from_secs(580);

/// Waits for all pieces.
///
/// # Errors
/// Why there is no answer.
pub(super) async fn whole(asked: Asked) -> Result<Answer, ApiError> {
    let Asked { accepted, mut client, .. } = asked;
    let mut follower = accepted.follower;
    let mut answer = Answer::default();
    let mut has_started = false;
    let turn_due = Instant::now() + QUEUED_MAX;
    let stopping = client.jobs().parts().tasks.stopping();
    loop {
        let told = tokio::select! {
            told = follower.next() => told,
            () = stopping.cancelled(), if !has_started => return Err(outcome::stopping()),
            () = tokio::time::sleep_until(turn_due), if !has_started => {
                client.will_not_come_back();
                return Err(ApiError::waited_too_long(
                    "The request has waited 580 s for its turn and was taken out of the queue. Stream, or submit a job with `labctl job submit`.",
                ));
            }
        };
        match told {
            Ok(Some(Told::Piece(piece))) => {
                has_started = true;
                client.is_shown_a_piece();
                answer.add(&piece.openai_chunk).map_err(|error| {
                    ApiError::engine(
                        "engine_garbage",
                        format!("The engine's answer cannot be read: {error}."),
                    )
                })?;
            }
            Ok(Some(Told::State(event))) => has_started |= event.state.is_owned(),
            Ok(Some(Told::Restarted(_))) => answer = Answer::default(),
            Ok(Some(Told::Ended(job))) => {
                client.is_served_by(&job);
                outcome::of_end(&job)?;
                return Ok(answer);
            }
            Ok(None) => return Err(ApiError::internal()),
            Err(error) => return Err(lost(&error)),
        }
    }
}

fn lost(error: &FollowError) -> ApiError {
    error!(error = %Chain(error), "could not follow a job of the gateway");
    ApiError::internal()
}
