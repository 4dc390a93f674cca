//! Writes one answer to one caller.

use std::time::Duration;

use bytes::Bytes;
use homelab_proto::{
    common::v1::Failure,
    inference::v1::{ChatCompleteResponse, chat_complete_response::Event},
};
use tokio::time::Instant;
use tracing::{info, warn};

use super::Sender;
use crate::{
    convert::{self, ChatRequest, reason},
    energy::Energy,
    engine::{
        session::Ask,
        stream::{AnswerError, Ending},
    },
    worker::{Admission, NotWoken},
};

/// How long a caller may leave a full queue unread, which holds a slot meanwhile.
const READER_DEADLINE: Duration = Duration::from_secs(60);

/// Answers until the end, or until the caller has gone.
pub(super) async fn run(
    admission: Admission,
    energy: Energy,
    chat: ChatRequest,
    sender: Sender<ChatCompleteResponse>,
) {
    // Its place is taken first, so that the last message always finds room.
    let Ok(last) = sender.clone().reserve_owned().await else { return };
    let began = Instant::now();
    let ChatRequest { model, form, ask, .. } = &chat;
    let Ask { job, attempt, .. } = ask;
    let end = tokio::select! {
        biased;
        () = sender.closed() => {
            info!(%model, %job, attempt, elapsed_ms = millis(began), "a caller left");
            return;
        }
        end = write(admission, &energy, &chat, &sender) => end,
    };
    match &end {
        Ok((ending, energy_joules)) => info!(
            %model,
            %job,
            attempt,
            finish_reason = %ending.finish_reason,
            completion_tokens = ending.usage.completion_tokens,
            energy_joules,
            elapsed_ms = millis(began),
            "answered"
        ),
        Err(broken) => warn!(
            %model,
            %job,
            attempt,
            reason = broken.reason(),
            elapsed_ms = millis(began),
            "an answer broke off"
        ),
    }
    last.send(Ok(match end {
        Ok((ending, energy_joules)) => convert::done(ending, energy_joules),
        Err(Broken::Answer(error)) => convert::failed(model, &error, *form),
        Err(Broken::NotWoken(error)) => convert::not_woken(&error),
        Err(Broken::TooSlow) => too_slow(),
    }));
}

/// Why an answer did not come to its end.
enum Broken {
    Answer(AnswerError),
    NotWoken(NotWoken),
    TooSlow,
}

impl Broken {
    /// For the log, which must not hold what people and models say to each other.
    fn reason(&self) -> &'static str {
        match self {
            Self::Answer(error) => convert::classify(error).0,
            Self::NotWoken(error) => convert::classify_not_woken(error).0,
            Self::TooSlow => reason::CALLER_TOO_SLOW,
        }
    }
}

impl From<AnswerError> for Broken {
    fn from(error: AnswerError) -> Self {
        Self::Answer(error)
    }
}

impl From<NotWoken> for Broken {
    fn from(error: NotWoken) -> Self {
        Self::NotWoken(error)
    }
}

async fn write(
    admission: Admission,
    energy: &Energy,
    chat: &ChatRequest,
    sender: &Sender<ChatCompleteResponse>,
) -> Result<(Ending, Option<f64>), Broken> {
    let (session, permit) = match admission {
        Admission::Ready(session, permit) => (session, permit),
        Admission::AfterLoad(waiting) => waiting.admitted().await?,
    };
    let used = energy.begin(session.devices()).await;
    let mut answer = session.stream(permit, chat.ask.clone()).await?;
    let mut index = 0;
    while let Some(chunk) = answer.next().await? {
        let Some(message) = convert::delta(chunk, index, chat.form) else { continue };
        index += 1;
        if sender.send_timeout(Ok(message), READER_DEADLINE).await.is_err() {
            return Err(Broken::TooSlow);
        }
    }
    Ok((answer.ending(), used.joules().await))
}

fn too_slow() -> ChatCompleteResponse {
    let failure = Failure {
        reason: reason::CALLER_TOO_SLOW.to_owned(),
        message: format!(
            "the answer was ended because nobody has read it for {} s; read faster, or ask for less",
            READER_DEADLINE.as_secs()
        ),
        retryable: true,
    };
    ChatCompleteResponse { event: Some(Event::Failure(failure)), openai_chunk: Bytes::new() }
}

fn millis(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
}
