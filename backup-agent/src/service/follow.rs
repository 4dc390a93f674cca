//! Streams that follow a run.

use std::{sync::Arc, time::Duration};

use homelab_common::lifecycle::Tasks;
use homelab_rpc::status::Reason;
use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

use crate::{
    backup::Backed,
    drill::Report,
    failure::Failure,
    ids::RunId,
    progress::Step,
    repository::Pruned,
    restore::Restored,
    runs::{Copied, End, Ended, Watched},
    source::git::PushedBack,
    verify::Verification,
};

/// Messages that wait for a slow caller; progress is taken newest first, so that few suffice.
const WAITING_MAX: usize = 4;

/// Between two messages of progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// A stream of answers.
pub(super) type Answers<T> = ReceiverStream<Result<T, Status>>;

/// One thing to say about a run.
#[derive(Debug)]
pub(super) enum Event<'e> {
    Progress(Step),
    Backup(&'e Backed),
    Verification(&'e Verification),
    Prune(&'e Pruned),
    Restore(&'e Restored),
    Drill(&'e Report),
    Copy(&'e Copied),
    PushBack(&'e [PushedBack], Duration),
    Failed(&'e Failure),
}

impl Event<'_> {
    /// The failure, or that this end belongs to another kind of run.
    pub(super) fn failure(&self) -> Failure {
        match self {
            Self::Failed(failure) => (*failure).clone(),
            _ => Failure {
                reason: Reason::INTERNAL,
                message: "the run ended as another kind of run would".to_owned(),
                retryable: false,
            },
        }
    }
}

impl<'e> From<&'e End> for Event<'e> {
    fn from(end: &'e End) -> Self {
        match end {
            End::Backup(backed) => Self::Backup(backed),
            End::Verification(found) => Self::Verification(found),
            End::Prune(pruned) => Self::Prune(pruned),
            End::Restore(restored) => Self::Restore(restored),
            End::Drill(report) => Self::Drill(report),
            End::Copy(copied) => Self::Copy(copied),
            End::PushBack(pushed, elapsed) => Self::PushBack(pushed, *elapsed),
            End::Failed(failure) => Self::Failed(failure),
        }
    }
}

/// An event, with its run and how long that has lasted.
#[derive(Debug)]
pub(super) struct Followed<'e> {
    pub(super) run: RunId,
    pub(super) event: Event<'e>,
    pub(super) ended_at: Timestamp,
    pub(super) elapsed: Duration,
}

/// A stream of one message.
pub(super) fn only<T>(message: T) -> Response<Answers<T>> {
    let (sender, receiver) = mpsc::channel(1);
    // A channel of one has room for one.
    drop(sender.try_send(Ok(message)));
    Response::new(ReceiverStream::new(receiver))
}

/// Says how a run comes along, and its end as the last message. The stream ends when
/// the caller leaves; the run does not.
pub(super) fn follow<T: Send + 'static>(
    tasks: &Tasks,
    watched: Watched,
    say: impl Fn(Followed<'_>) -> T + Send + 'static,
) -> Response<Answers<T>> {
    let (sender, receiver) = mpsc::channel(WAITING_MAX);
    tasks.spawn(async move {
        tokio::select! {
            () = write(watched, say, &sender) => {}
            () = sender.closed() => {}
        }
    });
    Response::new(ReceiverStream::new(receiver))
}

async fn end_of(watched: &mut Watched) -> Option<Arc<Ended>> {
    watched.end.wait_for(Option::is_some).await.ok().and_then(|end| end.clone())
}

async fn write<T>(
    mut watched: Watched,
    say: impl Fn(Followed<'_>) -> T,
    sender: &mpsc::Sender<Result<T, Status>>,
) {
    let run = watched.id;
    let at = |event, (ended_at, elapsed)| Followed { run, event, ended_at, elapsed };
    let mut ticks = tokio::time::interval(PROGRESS_EVERY);
    let mut said = None;
    loop {
        tokio::select! {
            biased;
            ended = end_of(&mut watched) => {
                // A run that was dropped with the daemon has no end to tell.
                let message = match ended {
                    Some(ended) => Ok(say(at(Event::from(&ended.end), (ended.at, ended.elapsed)))),
                    None => Err(Status::unavailable("the daemon is stopping")),
                };
                drop(sender.send(message).await);
                return;
            }
            _ = ticks.tick() => {
                let step = *watched.progress.borrow();
                if said == Some(step) {
                    continue;
                }
                said = Some(step);
                let message = say(at(Event::Progress(step), (Timestamp::UNIX_EPOCH, Duration::ZERO)));
                if sender.send(Ok(message)).await.is_err() {
                    return;
                }
            }
        }
    }
}
