//! The queue.

use std::time::Duration;

use homelab_domain::{
    ids::{HostName, JobId, ModelName},
    job::{Job, JobClass, JobStateKind, Outcome, Priority, Record, Terms, Usage},
    reason::{Because, Failure, Reason},
    site::Tier,
};
use homelab_store::{JobCounts, JobError, JobFilter, PageRequest, Piece, Submitted, UnmetNeed};

use crate::bench::{Bench, at, claim, job, uuid};

fn piece(index: u32, content: &str) -> Piece {
    let openai_chunk = format!("{{\"n\":{index}}}").into_bytes();
    Piece { index, content: content.to_owned(), reasoning: String::new(), openai_chunk }
}

fn ids(jobs: &[Job]) -> Vec<JobId> {
    jobs.iter().map(Job::id).collect()
}

fn failure() -> Outcome {
    Outcome::Failed {
        failure: Failure {
            reason: Reason::WORKER_UNREACHABLE,
            message: "the engine died".to_owned(),
            retryable: true,
        },
        usage: Usage::default(),
    }
}

fn done() -> Outcome {
    Outcome::Succeeded { usage: Usage { completion_tokens: Some(7), ..Usage::default() } }
}

async fn finish(bench: &Bench, id: JobId, attempt: u32, outcome: Outcome) -> Job {
    let mut tx = bench.store.begin().await.unwrap();
    let job = tx.jobs().finish(id, attempt, outcome, at(9)).await.unwrap();
    tx.commit().await.unwrap();
    job
}

async fn get(bench: &Bench, id: JobId) -> Job {
    let mut tx = bench.store.read().await.unwrap();
    tx.jobs().get(id).await.unwrap().unwrap()
}

pub(crate) async fn a_job_is_submitted_once_however_often_it_is_sent(bench: &Bench) {
    let first = bench.submit(job(1)).await;
    let mut tx = bench.store.begin().await.unwrap();
    let again = tx.jobs().submit(&job(1)).await.unwrap();
    assert_eq!(again, Submitted::Existing(first));
    assert_eq!(tx.jobs().pending(10).await.unwrap().len(), 1);
}

pub(crate) async fn what_waits_is_listed_to_be_counted(bench: &Bench) {
    bench.submit(job(1)).await;
    let mut other = job(2);
    other.submitted_by = "jan".to_owned();
    bench.submit(other).await;
    // What runs or is over is not waiting.
    bench.submit(job(3)).await;
    bench.submit(job(4)).await;
    let mut tx = bench.store.begin().await.unwrap();
    tx.jobs().cancel(uuid(3).into(), "ann", at(1)).await.unwrap();
    let worker = HostName::try_new("cw-nas").unwrap();
    tx.jobs().assign(uuid(4).into(), &worker, at(1), at(30)).await.unwrap();
    let mut pending = tx.jobs().pending_all().await.unwrap();
    pending.sort_by_key(|one| one.id);
    let bytes = job(1).request.bytes.len() as u64;
    let callers: Vec<_> = pending.iter().map(|one| (one.caller.as_str(), one.bytes)).collect();
    assert_eq!(callers, [(job(1).submitted_by.as_str(), bytes), ("jan", bytes)]);
    assert_eq!((pending[0].tier, pending[0].model.as_str()), (Tier::Bronze, "tiny"));
}

pub(crate) async fn a_long_queue_hides_no_other(bench: &Bench) {
    for id in 1..=4 {
        bench.submit(job(id)).await;
    }
    let mut silver = job(5);
    silver.tier = Tier::Silver;
    silver.submitted_at = at(600);
    bench.submit(silver).await;
    let mut tx = bench.store.read().await.unwrap();
    let pending = ids(&tx.jobs().pending(2).await.unwrap());
    assert_eq!(pending, [uuid(1).into(), uuid(2).into(), uuid(5).into()]);
    drop(tx);
    // Nor do jobs that wait for others, or that nothing is loaded for, hide those that could run.
    for (id, class, after) in
        [(6, JobClass::Background, vec![]), (7, JobClass::Interactive, vec![uuid(5).into()])]
    {
        let mut spec = job(id);
        (spec.terms.class, spec.terms.after) = (class, after);
        bench.submit(spec).await;
    }
    let mut tx = bench.store.read().await.unwrap();
    let mut pending = ids(&tx.jobs().pending(1).await.unwrap());
    pending.sort();
    assert_eq!(pending, [1, 5, 6, 7].map(|id| uuid(id).into()));
}

pub(crate) async fn a_job_comes_after_others_until_they_have_succeeded(bench: &Bench) {
    let after = |id, needs: &[u128]| {
        let mut spec = job(id);
        spec.terms.after = needs.iter().map(|id| uuid(*id).into()).collect();
        spec
    };
    bench.submit(job(1)).await;
    bench.submit(job(2)).await;
    let mut tx = bench.store.begin().await.unwrap();
    let unknown = tx.jobs().submit(&after(3, &[1, 9])).await.unwrap();
    assert_eq!(unknown, Submitted::NeedMissing(uuid(9).into()));
    assert_eq!(tx.jobs().get(uuid(3).into()).await.unwrap(), None);
    tx.rollback().await.unwrap();
    bench.submit(after(3, &[1, 2])).await;
    // Whoever claims by model alone does not know of it.
    assert_eq!(ids(&bench.claim(&claim(1)).await), [uuid(1).into()]);
    let unmet = async || bench.store.read().await.unwrap().jobs().unmet_needs().await.unwrap();
    let need = |id, state| UnmetNeed { job: uuid(3).into(), needs: uuid(id).into(), state };
    let (queued, assigned) = (Some(JobStateKind::Queued), Some(JobStateKind::Assigned));
    assert_eq!(unmet().await, [need(1, assigned), need(2, queued)]);
    finish(bench, uuid(1).into(), 1, done()).await;
    assert_eq!(unmet().await, [need(2, queued)]);
    let mut tx = bench.store.begin().await.unwrap();
    let because = Because::new(Reason::DEPENDENCY_FAILED, "job 2 is cancelled");
    let given_up = tx.jobs().give_up(uuid(3).into(), because, at(9)).await.unwrap();
    assert_eq!(given_up.state().kind(), JobStateKind::Failed);
    tx.commit().await.unwrap();
    assert_eq!(unmet().await, []);
}

pub(crate) async fn the_most_urgent_job_goes_first_and_age_counts(bench: &Bench) {
    let spec = |id, points, secs| {
        let mut spec = job(id);
        spec.priority = Priority::try_new(points).unwrap();
        spec.submitted_at = at(secs);
        spec
    };
    let old = bench.submit(spec(1, 10, 0)).await.id();
    let urgent = bench.submit(spec(2, 90, 600)).await.id();
    let late = bench.submit(spec(3, 90, 3000)).await.id();
    let mut tx = bench.store.read().await.unwrap();
    let pending = ids(&tx.jobs().pending(10).await.unwrap());
    // Eighty points are worth forty minutes.
    assert_eq!(pending, [urgent, old, late]);
    drop(tx);
    assert_eq!(ids(&bench.claim(&claim(2)).await), [urgent, old]);
}

pub(crate) async fn a_worker_gets_what_it_can_run_and_no_more_than_its_slots(bench: &Bench) {
    let mut other = job(1);
    other.model = ModelName::try_new("huge").unwrap();
    bench.submit(other).await;
    let mut silver = job(2);
    silver.tier = Tier::Silver;
    bench.submit(silver).await;
    let mut expired = job(3);
    expired.deadline = Some(at(0));
    bench.submit(expired).await;
    for id in 4..8 {
        bench.submit(job(id)).await;
    }
    assert_eq!(bench.claim(&claim(0)).await, []);
    let given = bench.claim(&claim(3)).await;
    assert_eq!(ids(&given), [uuid(4).into(), uuid(5).into(), uuid(6).into()]);
    let lease = given[0].state().lease().unwrap();
    assert_eq!((lease.worker.as_str(), lease.attempt, lease.until), ("cw-nas", 1, at(30)));
    assert!(!given[0].spec().request.bytes.is_empty());
    assert_eq!(ids(&bench.claim(&claim(3)).await), [uuid(7).into()]);
}

pub(crate) async fn a_job_is_stored_as_it_was_sent(bench: &Bench) {
    let mut spec = job(1);
    spec.deadline = Some(at(60));
    spec.own_ahead = 7;
    spec.terms = Terms {
        class: JobClass::Batch,
        chat: Some("c-1".to_owned()),
        tags: vec!["notes".to_owned(), "a \"b\"".to_owned()],
        latest_start: Some(at(50)),
        after: vec![],
        kept_for: Some(Duration::from_secs(90)),
    };
    spec.request.bytes = vec![0, 159, 146, 150, 255];
    spec.title = "ünï'code\"; DROP TABLE jobs; --".to_owned();
    let submitted = bench.submit(spec.clone()).await;
    let stored = get(bench, spec.id).await;
    assert_eq!(stored, submitted);
    assert_eq!(stored.spec(), &spec);
}

pub(crate) async fn a_report_of_an_old_attempt_is_refused(bench: &Bench) {
    let id = bench.running(1).await;
    finish(bench, id, 1, failure()).await;
    let given = bench.claim(&claim(1)).await;
    assert_eq!(given[0].state().lease().unwrap().attempt, 2);
    let mut tx = bench.store.begin().await.unwrap();
    let refused = |result| matches!(result, Err(JobError::Refused(_)));
    assert!(refused(tx.jobs().finish(id, 1, done(), at(9)).await));
    assert!(refused(tx.jobs().start(id, 1, at(9)).await));
    let late = tx.jobs().append(id, 1, &[piece(0, "late")], at(60)).await;
    assert!(matches!(late, Err(JobError::Refused(_))), "{late:?}");
    // Nor once the new attempt writes: the late one must not finish its sentence.
    tx.jobs().start(id, 2, at(9)).await.unwrap();
    let late = tx.jobs().append(id, 1, &[piece(0, "late")], at(60)).await;
    assert!(matches!(late, Err(JobError::Refused(_))), "{late:?}");
    assert!(refused(tx.jobs().finish(id, 1, done(), at(9)).await));
    assert_eq!(tx.jobs().renew(&[(id, 1)], at(60)).await.unwrap(), [id]);
    assert_eq!(tx.jobs().renew(&[(id, 2)], at(60)).await.unwrap(), []);
    tx.commit().await.unwrap();
    let job = get(bench, id).await;
    assert_eq!(job.state().lease().unwrap().until, at(60));
    let mut tx = bench.store.read().await.unwrap();
    assert_eq!(tx.jobs().pieces(id, 0, 10).await.unwrap(), []);
}

pub(crate) async fn text_is_stored_in_order_and_read_from_anywhere(bench: &Bench) {
    let id = bench.running(1).await;
    let pieces: Vec<Piece> = (0..5).map(|index| piece(index, &format!("w{index} "))).collect();
    let mut tx = bench.store.begin().await.unwrap();
    tx.jobs().append(id, 1, &pieces[..2], at(40)).await.unwrap();
    tx.jobs().append(id, 1, &pieces[2..], at(35)).await.unwrap();
    tx.jobs().append(id, 1, &[], at(35)).await.unwrap();
    for gap in [piece(4, "twice"), piece(6, "too far")] {
        let refused = tx.jobs().append(id, 1, &[gap], at(40)).await;
        assert!(matches!(refused, Err(JobError::Refused(_))), "{refused:?}");
    }
    let torn = tx.jobs().append(id, 1, &[piece(5, ""), piece(7, "")], at(40)).await;
    assert!(matches!(torn, Err(JobError::Refused(_))), "{torn:?}");
    tx.commit().await.unwrap();
    let mut tx = bench.store.read().await.unwrap();
    assert_eq!(tx.jobs().pieces(id, 0, 100).await.unwrap(), pieces);
    assert_eq!(tx.jobs().pieces(id, 3, 100).await.unwrap(), pieces[3..]);
    assert_eq!(tx.jobs().pieces(id, 1, 2).await.unwrap(), pieces[1..3]);
    drop(tx);
    assert_eq!(get(bench, id).await.state().lease().unwrap().until, at(40));
    let job = finish(bench, id, 1, done()).await;
    assert_eq!(job.state().end().unwrap().pieces, 5);
}

pub(crate) async fn a_job_whose_worker_died_is_queued_again_unless_text_was_shown(bench: &Bench) {
    let silent = bench.running(1).await;
    let shown = bench.running(2).await;
    let mut tx = bench.store.begin().await.unwrap();
    tx.jobs().append(shown, 1, &[piece(0, "Once")], at(30)).await.unwrap();
    assert_eq!(tx.jobs().sweep(at(29), 10).await.unwrap().lost, []);
    let swept = tx.jobs().sweep(at(30), 10).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(swept.lost.len(), 2);
    assert_eq!(get(bench, silent).await.state().kind(), JobStateKind::Queued);
    let failed = get(bench, shown).await;
    assert_eq!(failed.state().kind(), JobStateKind::Failed);
    assert_eq!(failed.state().because().reason, Reason::OUTPUT_ALREADY_SHOWN);
}

pub(crate) async fn a_deadline_expires_what_waits(bench: &Bench) {
    let mut waiting = job(1);
    waiting.deadline = Some(at(10));
    let waiting = bench.submit(waiting).await.id();
    let mut running = job(2);
    running.deadline = Some(at(10));
    running.priority = Priority::try_new(100).unwrap();
    let running = bench.submit(running).await.id();
    bench.claim(&claim(1)).await;
    let mut tx = bench.store.begin().await.unwrap();
    let swept = tx.jobs().sweep(at(10), 10).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(ids(&swept.expired), [waiting]);
    assert_eq!(get(bench, waiting).await.state().kind(), JobStateKind::Expired);
    assert_eq!(get(bench, running).await.state().kind(), JobStateKind::Assigned);
}

pub(crate) async fn metadata_only_wipes_the_text_at_the_end(bench: &Bench) {
    let mut spec = job(1);
    spec.record = Record::Metadata;
    let id = bench.submit(spec).await.id();
    bench.claim(&claim(1)).await;
    let mut tx = bench.store.begin().await.unwrap();
    tx.jobs().start(id, 1, at(1)).await.unwrap();
    tx.jobs().append(id, 1, &[piece(0, "secret")], at(30)).await.unwrap();
    tx.commit().await.unwrap();
    assert!(!get(bench, id).await.spec().request.bytes.is_empty());
    finish(bench, id, 1, done()).await;
    let job = get(bench, id).await;
    assert_eq!((job.spec().request.bytes.len(), job.spec().title.as_str()), (0, ""));
    let mut tx = bench.store.begin().await.unwrap();
    assert_eq!(tx.jobs().pieces(id, 0, 10).await.unwrap(), []);
    assert!(matches!(tx.jobs().retry(id, "ann", at(9)).await, Err(JobError::Refused(_))));
}

pub(crate) async fn a_failed_job_can_be_retried_by_a_person(bench: &Bench) {
    let id = bench.submit(job(1)).await.id();
    for attempt in 1..=3 {
        bench.claim(&claim(1)).await;
        finish(bench, id, attempt, failure()).await;
    }
    assert_eq!(get(bench, id).await.state().because().reason, Reason::ATTEMPTS_EXHAUSTED);
    assert_eq!(bench.claim(&claim(1)).await, []);
    let mut tx = bench.store.begin().await.unwrap();
    tx.jobs().retry(id, "ann", at(500)).await.unwrap();
    tx.commit().await.unwrap();
    let given = bench.claim(&claim(1)).await;
    assert_eq!(given[0].state().lease().unwrap().attempt, 4);
    assert_eq!(given[0].enqueued_at(), at(500));
}

pub(crate) async fn every_change_of_state_leaves_an_event(bench: &Bench) {
    let id = bench.submit(job(1)).await.id();
    let asleep = Because::new(Reason::WORKER_ASLEEP, "x99 is asleep");
    let mut tx = bench.store.begin().await.unwrap();
    tx.jobs().wait(id, asleep.clone(), at(1)).await.unwrap();
    tx.jobs().wait(id, asleep, at(2)).await.unwrap();
    tx.jobs().ready(id, at(3)).await.unwrap();
    tx.commit().await.unwrap();
    bench.claim(&claim(1)).await;
    let mut tx = bench.store.begin().await.unwrap();
    tx.jobs().start(id, 1, at(4)).await.unwrap();
    tx.commit().await.unwrap();
    finish(bench, id, 1, done()).await;
    let mut tx = bench.store.read().await.unwrap();
    let events = tx.jobs().events(id).await.unwrap();
    let states: Vec<&str> = events.iter().map(|event| event.state.as_str()).collect();
    let expected = ["queued", "waiting", "queued", "assigned", "running", "succeeded"];
    assert_eq!(states, expected);
    assert_eq!(events[1].reason, Reason::WORKER_ASLEEP);
    assert_eq!(events[5].worker.as_ref().unwrap().as_str(), "cw-nas");
}

pub(crate) async fn cancelling_tells_whose_slot_is_to_be_freed(bench: &Bench) {
    let running = bench.running(1).await;
    let waiting = bench.submit(job(2)).await.id();
    let mut tx = bench.store.begin().await.unwrap();
    let (job, lease) = tx.jobs().cancel(running, "ann", at(5)).await.unwrap();
    assert_eq!(job.state().kind(), JobStateKind::Cancelled);
    assert_eq!(lease.unwrap().worker.as_str(), "cw-nas");
    assert_eq!(tx.jobs().cancel(waiting, "ann", at(5)).await.unwrap().1, None);
    let again = tx.jobs().cancel(waiting, "ann", at(5)).await;
    assert!(matches!(again, Err(JobError::Refused(_))));
    let nobody = tx.jobs().cancel(uuid(9).into(), "ann", at(5)).await;
    assert!(matches!(nobody, Err(JobError::NotFound(_))));
    // What the worker says afterwards is refused.
    let late = tx.jobs().finish(running, 1, done(), at(6)).await;
    assert!(matches!(late, Err(JobError::Refused(_))));
}

pub(crate) async fn jobs_are_listed_page_by_page(bench: &Bench) {
    for id in 1..=5 {
        let mut spec = job(id);
        // Two of each moment: the identifier decides between them.
        spec.submitted_at = at(i64::try_from(id / 2).unwrap());
        bench.submit(spec).await;
    }
    let mut tx = bench.store.read().await.unwrap();
    let mut seen = Vec::new();
    let mut token = String::new();
    loop {
        let page = PageRequest::try_new(2, &token).unwrap();
        let page = tx.jobs().list(&JobFilter::default(), &page).await.unwrap();
        seen.extend(ids(&page.items));
        token = page.next_token();
        if token.is_empty() {
            break;
        }
    }
    let expected: Vec<JobId> = [5, 4, 3, 2, 1].map(|id| uuid(id).into()).to_vec();
    assert_eq!(seen, expected);
    let filter = JobFilter { states: vec![JobStateKind::Running] };
    assert_eq!(tx.jobs().list(&filter, &PageRequest::first(10)).await.unwrap().items, []);
}

pub(crate) async fn jobs_are_counted_by_state(bench: &Bench) {
    let succeeded = bench.running(1).await;
    finish(bench, succeeded, 1, done()).await;
    bench.running(2).await;
    bench.submit(job(3)).await;
    let mut tx = bench.store.read().await.unwrap();
    let counts = tx.jobs().counts(at(9)).await.unwrap();
    assert_eq!(counts, JobCounts { pending: 1, running: 1, succeeded: 1, failed: 0 });
    assert_eq!(tx.jobs().counts(at(10)).await.unwrap().succeeded, 0);
    assert_eq!(ids(&tx.jobs().owned().await.unwrap()), [uuid(2).into()]);
}
