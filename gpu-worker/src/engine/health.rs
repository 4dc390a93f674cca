//! Whether an engine is ready, and whether it moves.
//!
//! `/health` is believed only about readiness. An engine whose graphics card was
//! reset answers it happily while no token ever comes again, so a busy engine must
//! show progress: prompt tokens read, tokens written, or pieces of answers sent.

use std::time::Duration;

use http::StatusCode;
use serde::Deserialize;
use tokio::time::Instant;

use crate::engine::http::{Answer, HttpError};

/// What an engine says about being ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Nobody listens yet.
    Silent,
    /// It listens and loads its model.
    Loading,
    /// It answers requests.
    Ready,
}

/// Reads the answer to the readiness question.
///
/// A status that is neither success nor 503 counts as loading: the start deadline
/// ends an engine that never gets further.
pub fn readiness(answer: &Result<Answer, HttpError>) -> Readiness {
    match answer {
        Ok(answer) if answer.status.is_success() => Readiness::Ready,
        Ok(_) => Readiness::Loading,
        Err(_) => Readiness::Silent,
    }
}

/// How far one slot of the engine has come with its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotMark {
    /// Whether it works.
    pub is_processing: bool,
    task: i64,
    prompt_tokens: u64,
    decoded_tokens: u64,
}

/// Reads the answer to `GET /slots`; `None` when the engine has no such page or
/// it cannot be read.
pub fn slot_marks(answer: &Answer) -> Option<Vec<SlotMark>> {
    if answer.status != StatusCode::OK {
        return None;
    }
    let slots: Vec<WireSlot> = serde_json::from_slice(&answer.body).ok()?;
    Some(slots.into_iter().map(WireSlot::mark).collect())
}

#[derive(Deserialize)]
struct WireSlot {
    is_processing: bool,
    #[serde(default = "no_task")]
    id_task: i64,
    #[serde(default)]
    n_prompt_tokens_processed: u64,
    #[serde(default)]
    next_token: NextToken,
}

/// An object in older builds, a list of one in newer ones.
#[derive(Deserialize)]
#[serde(untagged)]
enum NextToken {
    One(Decoded),
    Many(Vec<Decoded>),
}

impl Default for NextToken {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

#[derive(Deserialize)]
struct Decoded {
    #[serde(default)]
    n_decoded: u64,
}

impl WireSlot {
    fn mark(self) -> SlotMark {
        let decoded_tokens = match self.next_token {
            NextToken::One(token) => token.n_decoded,
            NextToken::Many(tokens) => tokens.iter().map(|token| token.n_decoded).sum(),
        };
        SlotMark {
            is_processing: self.is_processing,
            task: self.id_task,
            prompt_tokens: self.n_prompt_tokens_processed,
            decoded_tokens,
        }
    }
}

fn no_task() -> i64 {
    -1
}

/// Everything that changes when an engine works.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Progress {
    /// Pieces of answers that came so far.
    pub chunks: u64,
    /// What `/slots` shows, where it could be had.
    pub slots: Option<Vec<SlotMark>>,
}

/// What the watchdog thinks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody waits for the engine.
    Idle,
    /// It moves, or has not stood still for long enough to say.
    Moving,
    /// Somebody waits and nothing has moved since the limit.
    Stalled {
        /// How long nothing has moved.
        elapsed: Duration,
    },
}

/// Who waits for an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Readers {
    /// Those to whom it has not said anything yet: their prompts are being read.
    pub prompt: u32,
    /// Those in the middle of their answers.
    pub tokens: u32,
}

impl Readers {
    /// Whether there is anybody.
    pub fn any(self) -> bool {
        self.prompt > 0 || self.tokens > 0
    }
}

/// How long a busy engine may show no progress.
///
/// A batch of a prompt takes a slow processor far longer than a token does, and an
/// engine shows nothing in the middle of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// While somebody is in the middle of an answer.
    pub tokens: Duration,
    /// While all who wait have had nothing yet.
    pub prompt: Duration,
}

/// Decides from a series of observations whether a busy engine stands still.
///
/// Instants are those of a clock that never jumps; whoever observes passes them in.
#[derive(Debug)]
pub struct Watchdog {
    limits: Limits,
    last: Option<(Instant, Progress)>,
}

impl Watchdog {
    /// A watchdog that allows no progress for so long while somebody waits.
    pub fn new(limits: Limits) -> Self {
        Self { limits, last: None }
    }

    /// Takes one observation: `waiting` readers expect something of the engine,
    /// which has come as far as `progress`.
    pub fn observe(&mut self, now: Instant, waiting: Readers, mut progress: Progress) -> Verdict {
        if !waiting.any() {
            self.last = None;
            return Verdict::Idle;
        }
        if let (None, Some((_, last))) = (&progress.slots, &self.last) {
            // A question that the engine did not answer in time shows no movement.
            progress.slots.clone_from(&last.slots);
        }
        match &self.last {
            Some((since, last)) if *last == progress => {
                let elapsed = now.saturating_duration_since(*since);
                let limit =
                    if waiting.tokens > 0 { self.limits.tokens } else { self.limits.prompt };
                if elapsed >= limit { Verdict::Stalled { elapsed } } else { Verdict::Moving }
            }
            _ => {
                self.last = Some((now, progress));
                Verdict::Moving
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn answer(status: u16, body: &'static str) -> Answer {
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            body: Bytes::from_static(body.as_bytes()),
        }
    }

    #[test]
    fn readiness_is_read_from_the_status() {
        let table = [
            (Ok(answer(200, r#"{"status":"ok"}"#)), Readiness::Ready),
            (Ok(answer(503, r#"{"error":{"message":"Loading model"}}"#)), Readiness::Loading),
            (Ok(answer(404, "")), Readiness::Loading),
            (Err(HttpError::TooLarge { bytes_max: 1 }), Readiness::Silent),
        ];
        for (answer, expected) in table {
            assert_eq!(readiness(&answer), expected, "{answer:?}");
        }
    }

    #[test]
    fn slots_are_read_in_both_of_their_forms() {
        let idle = r#"[{"id":0,"n_ctx":2048,"speculative":false,"is_processing":false}]"#;
        let list = r#"[{"is_processing":true,"id_task":149,"n_prompt_tokens_processed":80,
                        "next_token":[{"n_remain":1954,"n_decoded":46}]}]"#;
        let object = r#"[{"is_processing":true,"id_task":149,"n_prompt_tokens_processed":80,
                          "next_token":{"n_decoded":46}}]"#;
        let idle = slot_marks(&answer(200, idle)).unwrap();
        assert!(!idle[0].is_processing);
        let list = slot_marks(&answer(200, list)).unwrap();
        assert_eq!(
            list,
            [SlotMark { is_processing: true, task: 149, prompt_tokens: 80, decoded_tokens: 46 }]
        );
        assert_eq!(slot_marks(&answer(200, object)).unwrap(), list);
    }

    #[test]
    fn an_engine_without_slots_is_no_error() {
        assert_eq!(slot_marks(&answer(501, r#"{"error":{"code":501}}"#)), None);
        assert_eq!(slot_marks(&answer(200, "<html>")), None);
    }

    struct Watch {
        watchdog: Watchdog,
        now: Instant,
    }

    impl Watch {
        fn new(limit_secs: u64) -> Self {
            let tokens = Duration::from_secs(limit_secs);
            let limits = Limits { tokens, prompt: 3 * tokens };
            Self { watchdog: Watchdog::new(limits), now: Instant::now() }
        }

        fn after(&mut self, secs: u64, waiting: u32, progress: Progress) -> Verdict {
            self.now += Duration::from_secs(secs);
            self.watchdog.observe(self.now, Readers { prompt: 0, tokens: waiting }, progress)
        }

        fn after_reading(&mut self, secs: u64, prompt: u32, progress: Progress) -> Verdict {
            self.now += Duration::from_secs(secs);
            self.watchdog.observe(self.now, Readers { prompt, tokens: 0 }, progress)
        }
    }

    fn chunks(chunks: u64) -> Progress {
        Progress { chunks, slots: None }
    }

    fn reading(prompt_tokens: u64) -> Progress {
        let mark = SlotMark { is_processing: true, task: 1, prompt_tokens, decoded_tokens: 0 };
        Progress { chunks: 0, slots: Some(vec![mark]) }
    }

    #[test]
    fn an_engine_that_nobody_waits_for_is_idle_for_ever() {
        let mut watch = Watch::new(60);
        for _ in 0..10 {
            assert_eq!(watch.after(600, 0, chunks(5)), Verdict::Idle);
        }
    }

    #[test]
    fn a_busy_engine_that_stands_still_is_stalled_at_the_limit() {
        let mut watch = Watch::new(60);
        assert_eq!(watch.after(0, 1, chunks(5)), Verdict::Moving);
        assert_eq!(watch.after(59, 1, chunks(5)), Verdict::Moving);
        assert_eq!(
            watch.after(1, 1, chunks(5)),
            Verdict::Stalled { elapsed: Duration::from_secs(60) }
        );
    }

    #[test]
    fn any_chunk_starts_the_time_anew() {
        let mut watch = Watch::new(60);
        for chunk in 0..20 {
            assert_eq!(watch.after(59, 2, chunks(chunk)), Verdict::Moving);
        }
    }

    #[test]
    fn a_long_prompt_that_is_being_read_is_progress() {
        let mut watch = Watch::new(60);
        for tokens in 0..20 {
            assert_eq!(watch.after(50, 1, reading(tokens * 512)), Verdict::Moving);
        }
        assert_eq!(
            watch.after(60, 1, reading(19 * 512)),
            Verdict::Stalled { elapsed: Duration::from_secs(60) }
        );
    }

    #[test]
    fn an_unanswered_question_about_slots_is_not_progress() {
        let mut watch = Watch::new(60);
        watch.after(0, 1, reading(512));
        for _ in 0..5 {
            assert_eq!(watch.after(5, 1, chunks(0)), Verdict::Moving);
            assert_eq!(watch.after(5, 1, reading(512)), Verdict::Moving);
        }
        assert!(matches!(watch.after(10, 1, chunks(0)), Verdict::Stalled { .. }));
    }

    #[test]
    fn time_without_a_waiting_reader_does_not_count() {
        let mut watch = Watch::new(60);
        watch.after(0, 1, chunks(5));
        watch.after(300, 0, chunks(5));
        assert_eq!(watch.after(1, 1, chunks(5)), Verdict::Moving);
        assert_eq!(watch.after(59, 1, chunks(5)), Verdict::Moving);
        assert!(matches!(watch.after(1, 1, chunks(5)), Verdict::Stalled { .. }));
    }

    #[test]
    fn a_prompt_may_take_longer_than_a_token() {
        let mut watch = Watch::new(60);
        assert_eq!(watch.after_reading(0, 1, chunks(5)), Verdict::Moving);
        assert_eq!(watch.after_reading(179, 1, chunks(5)), Verdict::Moving);
        assert_eq!(
            watch.after_reading(1, 1, chunks(5)),
            Verdict::Stalled { elapsed: Duration::from_secs(180) }
        );
    }

    #[test]
    fn one_who_has_begun_to_read_is_not_kept_waiting_by_anothers_prompt() {
        let mut watch = Watch::new(60);
        watch.after_reading(0, 2, chunks(5));
        assert!(matches!(watch.after(60, 1, chunks(5)), Verdict::Stalled { .. }));
    }
}
