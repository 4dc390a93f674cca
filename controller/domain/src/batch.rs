//! Many chats given in one file, and what is to be done next with them.
//!
//! A batch is a list of lines. Each line becomes a job of low priority when its turn comes; only a few
//! of a batch are in the queue at a time, so that a large one neither fills the queue nor keeps
//! everybody else waiting. The states are the words of the API that batches come in by.

use jiff::Timestamp;

use crate::{
    ids::{BatchId, FileId},
    site::Tier,
};

/// Lines of one batch that are in the queue at the same time.
pub const OPEN_MAX: u64 = 32;

/// The priority of a batch's jobs: behind people and behind what programs ask on their behalf.
pub const PRIORITY: u32 = 10;

crate::words! {
    /// Where a batch stands.
    BatchState {
        /// Its lines are worked on.
        InProgress = "in_progress",
        /// No more lines are begun; those that run are being cancelled.
        Cancelling = "cancelling",
        /// Every line has an answer or an error.
        Completed = "completed",
        /// Its time was over before all lines had their turn.
        Expired = "expired",
        /// It was cancelled.
        Cancelled = "cancelled",
    }
}

crate::words! {
    /// Where a line stands.
    LineState {
        /// Not begun.
        Waiting = "waiting",
        /// A job.
        Open = "open",
        /// Answered.
        Succeeded = "succeeded",
        /// Without an answer, for good.
        Failed = "failed",
    }
}

impl BatchState {
    /// Nothing happens any more.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Expired | Self::Cancelled)
    }
}

/// A batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Identifier.
    pub id: BatchId,
    /// Name of the key that made it; nobody else sees it.
    pub owner: String,
    /// Tiers that its jobs may use.
    pub tiers: Vec<Tier>,
    /// The path that each line asks for, as it came in.
    pub endpoint: String,
    /// The file that it was made from.
    pub input: FileId,
    /// Where it stands.
    pub state: BatchState,
    /// What the caller wants to find again, as JSON.
    pub metadata: String,
    /// When it came in.
    pub created_at: Timestamp,
    /// When no more lines are begun.
    pub expires_at: Timestamp,
    /// When it was cancelled.
    pub cancelling_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

/// How many of its lines stand where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Not begun.
    pub waiting: u64,
    /// Jobs.
    pub open: u64,
    /// Answered.
    pub succeeded: u64,
    /// Without an answer.
    pub failed: u64,
}

impl Tally {
    /// All lines.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.waiting + self.open + self.succeeded + self.failed
    }
}

/// What is to be done with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// So many more lines become jobs.
    Submit(u64),
    /// No line is begun any more, and the jobs of those that were are cancelled.
    DropRest,
    /// Every line has ended: so does the batch.
    End(BatchState),
    /// The jobs go on by themselves.
    Wait,
}

/// What is to be done next.
#[must_use]
pub fn next(batch: &Batch, tally: &Tally, now: Timestamp) -> Step {
    if batch.state.is_final() {
        return Step::Wait;
    }
    let is_late = now >= batch.expires_at;
    if tally.waiting == 0 && tally.open == 0 {
        return Step::End(match batch.state {
            BatchState::Cancelling => BatchState::Cancelled,
            // What was answered in time is complete, however late somebody looks.
            _ if is_late && tally.failed > 0 => BatchState::Expired,
            _ => BatchState::Completed,
        });
    }
    if is_late || batch.state == BatchState::Cancelling {
        return Step::DropRest;
    }
    match tally.waiting.min(OPEN_MAX.saturating_sub(tally.open)) {
        0 => Step::Wait,
        count => Step::Submit(count),
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn batch(state: BatchState) -> Batch {
        Batch {
            id: Uuid::from_u128(1).into(),
            owner: "webui".to_owned(),
            tiers: vec![Tier::Bronze],
            endpoint: "/v1/chat/completions".to_owned(),
            input: Uuid::from_u128(2).into(),
            state,
            metadata: "{}".to_owned(),
            created_at: at(0),
            expires_at: at(100),
            cancelling_at: None,
            ended_at: None,
        }
    }

    fn tally(waiting: u64, open: u64, succeeded: u64, failed: u64) -> Tally {
        Tally { waiting, open, succeeded, failed }
    }

    #[test]
    fn a_large_batch_is_begun_a_few_lines_at_a_time() {
        let batch = batch(BatchState::InProgress);
        for (lines, step) in [
            (tally(1_000, 0, 0, 0), Step::Submit(32)),
            (tally(968, 30, 2, 0), Step::Submit(2)),
            (tally(968, 32, 0, 0), Step::Wait),
            (tally(0, 3, 9, 0), Step::Wait),
            (tally(0, 0, 11, 1), Step::End(BatchState::Completed)),
        ] {
            assert_eq!(next(&batch, &lines, at(1)), step, "{lines:?}");
        }
    }

    #[test]
    fn what_is_cancelled_or_late_begins_nothing_more() {
        let cancelling = batch(BatchState::Cancelling);
        assert_eq!(next(&cancelling, &tally(5, 2, 0, 0), at(1)), Step::DropRest);
        let done = next(&cancelling, &tally(0, 0, 2, 5), at(1));
        assert_eq!(done, Step::End(BatchState::Cancelled));
        let late = batch(BatchState::InProgress);
        assert_eq!(next(&late, &tally(5, 2, 0, 0), at(100)), Step::DropRest);
        assert_eq!(next(&late, &tally(0, 0, 2, 5), at(100)), Step::End(BatchState::Expired));
        let in_time = next(&late, &tally(0, 0, 7, 0), at(100));
        assert_eq!(in_time, Step::End(BatchState::Completed));
    }

    #[test]
    fn what_has_ended_stays_ended() {
        for state in [BatchState::Completed, BatchState::Cancelled, BatchState::Expired] {
            assert_eq!(next(&batch(state), &tally(9, 0, 0, 0), at(1)), Step::Wait);
        }
    }
}
