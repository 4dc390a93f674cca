//! The life of a job as a time line: its states in order, and how its time was spent.

use homelab_proto::controller::v1::{JobEvent, JobState};
use jiff::{SignedDuration, Timestamp};

use super::one::OneJob;
use crate::http::dashboard::{
    moment::{Ages, Moment},
    view::{Tone, job_words, moment, rto},
};

/// States that are shown from its beginning, and from its end when there are more.
const FIRST_MAX: usize = 20;
const LAST_MAX: usize = 100;

/// Width of the bar, in units of its own.
const WIDTH: f64 = 1000.0;

/// Everything that happened to a job.
pub(super) struct Life {
    pub(super) steps: Vec<Step>,
    /// How many states are not shown, and after how many they would stand.
    pub(super) left_out: usize,
    pub(super) first: usize,
    pub(super) shares: Vec<Share>,
}

/// One change of its state.
pub(super) struct Step {
    pub(super) tone: Tone,
    pub(super) state: &'static str,
    pub(super) message: String,
    /// The attempt that it belongs to; 0 before the first.
    pub(super) attempt: u32,
    /// How long it stood there; empty in a state that it cannot leave.
    pub(super) stayed: String,
    /// Whether it still stands there.
    pub(super) is_now: bool,
    pub(super) at: Moment,
}

/// How long it was in one kind of state, all in all.
pub(super) struct Share {
    /// Class in the style sheet, and what it is called.
    pub(super) kind: &'static str,
    pub(super) words: &'static str,
    pub(super) time: String,
    pub(super) x: f64,
    pub(super) width: f64,
}

/// What a state means for the time that is spent in it.
const KINDS: [(&str, &str); 3] =
    [("waits", "waited"), ("begins", "until the first word"), ("writes", "wrote")];

fn kind(state: JobState) -> Option<usize> {
    match state {
        JobState::Queued | JobState::Waiting => Some(0),
        JobState::Assigned => Some(1),
        JobState::Running => Some(2),
        _ => None,
    }
}

/// The life as it is known at `now`.
pub(super) fn life(observed: &OneJob, now: Timestamp) -> Life {
    let events = &observed.events;
    let mut spent = [SignedDuration::ZERO; KINDS.len()];
    let steps: Vec<Step> = events
        .iter()
        .enumerate()
        .map(|(index, event)| {
            let next = events.get(index + 1);
            let time = stayed(event, next, now);
            if let Some((kind, time)) = kind(event.state()).zip(time) {
                spent[kind] += time;
            }
            step(event, next.is_none(), time, now)
        })
        .collect();
    let (first, left_out) = match steps.len() {
        count if count > FIRST_MAX + LAST_MAX => (FIRST_MAX, count - FIRST_MAX - LAST_MAX),
        count => (count, 0),
    };
    let shown = steps.into_iter().enumerate();
    let shown = shown.filter(|(index, _)| *index < first || *index >= first + left_out);
    Life { steps: shown.map(|(_, step)| step).collect(), left_out, first, shares: shares(&spent) }
}

fn stayed(event: &JobEvent, next: Option<&JobEvent>, now: Timestamp) -> Option<SignedDuration> {
    kind(event.state())?;
    let until = next.map_or(Some(now), |next| moment(next.at))?;
    Some(until.duration_since(moment(event.at)?).max(SignedDuration::ZERO))
}

fn step(event: &JobEvent, is_last: bool, stayed: Option<SignedDuration>, now: Timestamp) -> Step {
    let (tone, state) = job_words(event.state());
    Step {
        tone,
        state,
        message: event.message.clone(),
        attempt: event.attempt,
        stayed: stayed.map(rto).unwrap_or_default(),
        is_now: is_last && stayed.is_some(),
        at: Moment::new(moment(event.at), Ages::Written(now)),
    }
}

fn shares(spent: &[SignedDuration; KINDS.len()]) -> Vec<Share> {
    let whole: f64 = spent.iter().map(SignedDuration::as_secs_f64).sum();
    let mut x = 0.0;
    let mut shares = Vec::new();
    for ((kind, words), time) in KINDS.into_iter().zip(spent) {
        if time.is_zero() {
            continue;
        }
        let width = (time.as_secs_f64() / whole * WIDTH).round();
        shares.push(Share { kind, words, time: rto(*time), x, width });
        x += width;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(state: JobState, secs: i64) -> JobEvent {
        let at = prost_types::Timestamp { seconds: 1_790_000_000 + secs, nanos: 0 };
        JobEvent { at: Some(at), state: state.into(), ..JobEvent::default() }
    }

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + secs).expect("a time")
    }

    fn of(events: Vec<JobEvent>, now: i64) -> Life {
        life(&OneJob { events, ..OneJob::default() }, at(now))
    }

    #[test]
    fn the_time_of_a_job_is_shared_out_over_what_it_did() {
        let life = of(
            vec![
                event(JobState::Queued, 0),
                event(JobState::Assigned, 60),
                event(JobState::Queued, 62),
                event(JobState::Assigned, 72),
                event(JobState::Running, 80),
                event(JobState::Succeeded, 100),
            ],
            500,
        );
        let shares: Vec<_> =
            life.shares.iter().map(|share| (share.kind, share.time.as_str())).collect();
        assert_eq!(shares, [("waits", "70 s"), ("begins", "10 s"), ("writes", "20 s")]);
        let end: f64 = life.shares.iter().map(|share| share.width).sum();
        assert!((end - WIDTH).abs() <= 2.0, "{end}");
        assert!(life.steps.iter().all(|step| !step.is_now), "it has ended");
    }

    #[test]
    fn what_a_job_is_doing_now_counts_up_to_now() {
        let life = of(vec![event(JobState::Queued, 0), event(JobState::Waiting, 10)], 95);
        assert_eq!((life.shares.len(), life.shares[0].time.as_str()), (1, "95 s"));
        let last = life.steps.last().expect("a step");
        assert_eq!((last.is_now, last.stayed.as_str()), (true, "85 s"));
    }

    #[test]
    fn of_a_long_life_the_beginning_and_the_end_are_shown() {
        let events = (0..500).map(|secs| event(JobState::Waiting, secs)).collect();
        let life = of(events, 600);
        assert_eq!((life.steps.len(), life.left_out, life.first), (120, 380, 20));
    }
}
