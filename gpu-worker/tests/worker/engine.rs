//! An engine that fails in every way that a real one does.

use std::{fs, os::unix::fs::PermissionsExt, sync::Arc, time::Duration};

use homelab_common::{exec::Ended, lifecycle::Tasks};
use homelab_gpu_worker::{
    engine::{
        Engine, State,
        session::{Chat, NotAdmitted, Session},
        stream::AnswerError,
    },
    fake_engine::{FakeEngine, Start, Step},
    slot::Permit,
};
use tokio::time;

use crate::bench::{self, Bench, CEILING, STALL, config, model, until, world};

async fn ask(session: &Arc<Session>) -> Result<Chat, AnswerError> {
    session.stream(session.admit().unwrap(), bench::ask("job-1")).await
}

/// Reads an answer to its end.
async fn read(session: &Arc<Session>) -> Result<String, AnswerError> {
    let mut chat = ask(session).await?;
    let mut text = String::new();
    while let Some(chunk) = chat.next().await? {
        text.push_str(&chunk.content);
    }
    Ok(text)
}

#[tokio::test]
async fn an_engine_is_ready_after_it_has_loaded_its_model() {
    let bench = Bench::new(|fake| fake.starting([Start::Loading(3)]));
    let mut statuses = bench.engine.watch();
    bench.engine.load(model());
    let mut seen = Vec::new();
    while seen.last().is_none_or(|state| state != "ready") {
        time::timeout(CEILING, statuses.changed()).await.expect("a change").unwrap();
        seen.push(statuses.borrow_and_update().state.to_string());
    }
    seen.dedup();
    assert_eq!(seen, ["starting", "loading its model", "ready"]);
}

#[tokio::test]
async fn an_answer_comes_with_the_engines_own_bytes_and_its_cost() {
    const ODD: &str =
        "data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}],\"new\":[1.50]}\r\n\r\n";
    let (_bench, session) =
        Bench::loaded(|fake| fake.answering([Step::Raw(ODD), Step::Text("y"), Step::Finish])).await;
    let mut chat = ask(&session).await.unwrap();
    let chunk = chat.next().await.unwrap().unwrap();
    assert_eq!(chunk.content, "x");
    assert_eq!(chunk.raw, br#"{"choices":[{"delta":{"content":"x"}}],"new":[1.50]}"#.as_slice());
    while chat.next().await.unwrap().is_some() {}
    let ending = chat.ending();
    assert_eq!(ending.finish_reason, "stop");
    assert_eq!(ending.usage.prompt_tokens, Some(7));
    assert_eq!(ending.usage.completion_elapsed, Some(Duration::from_millis(40)));
    drop(chat);
    assert_eq!((session.slots().busy(), session.completion_tokens()), (0, 1));
}

#[tokio::test]
async fn the_engine_never_gets_more_requests_than_it_has_slots() {
    let (bench, session) =
        Bench::loaded(|fake| fake.answering([Step::Text("a"), Step::Hang])).await;
    let mut first = ask(&session).await.unwrap();
    first.next().await.unwrap();
    let second: Permit = session.admit().unwrap();
    assert!(matches!(session.admit(), Err(NotAdmitted::Busy(_))));
    assert_eq!(bench.fake.requests().len(), 1, "a permit alone sends nothing");
    drop(second);
    assert_eq!(read(&session).await.unwrap(), "Hello there");
}

#[tokio::test]
async fn a_dropped_answer_is_dropped_by_the_engine_too() {
    let (bench, session) =
        Bench::loaded(|fake| fake.answering([Step::Text("a"), Step::Hang])).await;
    let mut chat = ask(&session).await.unwrap();
    chat.next().await.unwrap();
    assert_eq!((bench.fake.open_answers(), session.slots().busy()), (1, 1));
    drop(chat);
    until("the engine stops writing", || bench.fake.open_answers() == 0).await;
    until("the slot is free", || session.slots().busy() == 0).await;
    assert_eq!(session.completion_tokens(), 1);
}

#[tokio::test]
async fn a_request_that_is_taken_back_before_its_first_byte_frees_its_slot() {
    let (bench, session) = Bench::loaded(|fake| fake.answering([Step::Hang])).await;
    {
        let asking = ask(&session);
        assert!(time::timeout(Duration::from_millis(100), asking).await.is_err());
    }
    until("the engine lets go", || bench.fake.open_answers() == 0).await;
    until("the slot is free", || session.slots().busy() == 0).await;
}

#[tokio::test]
async fn an_engine_that_dies_in_an_answer_says_why_and_comes_back() {
    let (bench, session) =
        Bench::loaded(|fake| fake.answering([Step::Text("a"), Step::Hang])).await;
    let mut chat = ask(&session).await.unwrap();
    chat.next().await.unwrap();
    bench.fake.crash();
    let error = chat.next().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the engine ended in the middle of the answer: its process was ended by SIGKILL"
    );
    let again = bench.ready(2).await;
    assert_eq!(read(&again).await.unwrap(), "Hello there");
    let incident = bench.engine.status().last_incident.unwrap();
    assert_eq!(incident.because, "its process was ended by SIGKILL");
    assert_eq!(incident.last_lines, ["loading the tensors"]);
    assert!(matches!(session.admit(), Err(NotAdmitted::Closing)), "the old run is over");
}

#[tokio::test]
async fn every_way_to_break_off_is_an_error() {
    type IsRight = fn(&AnswerError) -> bool;
    let table: [(Vec<Step>, IsRight); 9] = [
        (vec![Step::Text("a"), Step::Cut], |error| matches!(error, AnswerError::Cut(_))),
        (vec![Step::Raw("data: {\"cho"), Step::Cut], |error| matches!(error, AnswerError::Cut(_))),
        (vec![Step::Text("a"), Step::End], |error| matches!(error, AnswerError::Unfinished)),
        (vec![Step::Raw("data: {\"cho"), Step::End], |error| {
            matches!(error, AnswerError::Unfinished)
        }),
        (vec![Step::Raw("data: <html>\n\n")], |error| matches!(error, AnswerError::Garbage(_))),
        (
            vec![Step::Text("a"), Step::Raw("data: {\"error\":{\"message\":\"slot died\"}}\n\n")],
            |error| matches!(error, AnswerError::Engine(said) if said.message == "slot died"),
        ),
        (
            vec![Step::Json("{}")],
            |error| matches!(error, AnswerError::NotAStream { content_type } if content_type == "application/json"),
        ),
        (vec![Step::Refuse(400, r#"{"error":{"code":400,"message":"too long"}}"#)], |error| {
            std::error::Error::source(error)
                .is_some_and(|source| source.to_string().contains("400"))
        }),
        (vec![Step::Cut], |error| matches!(error, AnswerError::Start(_) | AnswerError::Cut(_))),
    ];
    let script = |fake: FakeEngine| {
        table.iter().fold(fake, |fake, (steps, _)| fake.answering(steps.clone()))
    };
    let (bench, session) = Bench::loaded(script).await;
    for (steps, is_right) in &table {
        let error = read(&session).await.expect_err("a broken answer");
        assert!(is_right(&error), "{steps:?} gave {error:?}");
        until("the slot is free", || session.slots().busy() == 0).await;
    }
    assert_eq!(bench.engine.status().starts, 1, "none of this needs a new process");
}

#[tokio::test]
async fn an_engine_that_closes_in_place_of_done_has_finished() {
    const LAST: &str = "data: {\"choices\":[{\"finish_reason\":\"stop\",\"delta\":{}}]}\n\n";
    let (_bench, session) =
        Bench::loaded(|fake| fake.answering([Step::Text("a"), Step::Raw(LAST), Step::End])).await;
    assert_eq!(read(&session).await.unwrap(), "a");
}

#[tokio::test]
async fn an_engine_that_hangs_is_killed_and_comes_back() {
    for has_slots_page in [true, false] {
        let (bench, session) = Bench::loaded(|fake| {
            let fake = fake.answering([Step::Text("a"), Step::Hang]);
            if has_slots_page { fake } else { fake.without_slots_page() }
        })
        .await;
        let mut chat = ask(&session).await.unwrap();
        chat.next().await.unwrap();
        let error = chat.next().await.unwrap_err();
        assert!(error.to_string().contains("it made no progress for"), "{error}");
        let again = bench.ready(2).await;
        assert_eq!(read(&again).await.unwrap(), "Hello there");
    }
}

#[tokio::test]
async fn a_caller_that_reads_slowly_is_no_reason_to_kill_an_engine() {
    let (bench, session) = Bench::loaded(|fake| fake).await;
    let mut chat = ask(&session).await.unwrap();
    chat.next().await.unwrap();
    // Doing nothing for a while is the very thing that is tried.
    time::sleep(3 * STALL).await;
    while chat.next().await.unwrap().is_some() {}
    assert_eq!(bench.engine.status().starts, 1);
}

#[tokio::test]
async fn an_engine_that_is_slow_but_moves_is_let_be() {
    let steps = || (0..8).flat_map(|_| [Step::Text("a"), Step::Wait(STALL / 3)]);
    let (bench, session) =
        Bench::loaded(|fake| fake.answering(steps().chain([Step::Finish]))).await;
    assert_eq!(read(&session).await.unwrap(), "aaaaaaaa");
    assert_eq!(bench.engine.status().starts, 1);
}

#[tokio::test]
async fn an_engine_that_keeps_ending_is_left_alone_until_it_is_asked_for_again() {
    let ends = Start::Ends(Ended { code: Some(1), signal: None });
    let bench = Bench::new(|fake| fake.starting([ends; 3]));
    bench.engine.load(model());
    let status = bench.until(|status| matches!(status.state, State::Quarantined)).await;
    assert_eq!(status.starts, 3);
    assert_eq!(status.last_incident.unwrap().because, "its process ended with exit code 1");
    bench.engine.load(model());
    bench.ready(4).await;
}

#[tokio::test]
async fn an_engine_that_never_listens_is_given_up_at_its_deadline() {
    let tasks = Tasks::default();
    let fake = FakeEngine::new(tasks.clone()).starting([Start::Deaf]);
    let runtime = tempfile::tempdir().unwrap();
    let world = world(&fake, &tasks, runtime.path().into());
    let mut config = config();
    config.timing.start = Duration::from_millis(200);
    let engine = Engine::start(config, world);
    engine.load(model());
    let mut statuses = engine.watch();
    let failed = statuses.wait_for(|status| status.last_incident.is_some());
    let status = time::timeout(CEILING, failed).await.expect("an incident").unwrap().clone();
    let because = &status.last_incident.unwrap().because;
    assert!(because.starts_with("it was not ready within 200ms"), "{because}");
}

#[tokio::test]
async fn unloading_lets_running_answers_finish() {
    let steps =
        [Step::Text("a"), Step::Wait(Duration::from_millis(200)), Step::Text("b"), Step::Finish];
    let (bench, session) = Bench::loaded(|fake| fake.answering(steps)).await;
    let mut chat = ask(&session).await.unwrap();
    chat.next().await.unwrap();
    bench.engine.unload();
    until("no new request is taken", || matches!(session.admit(), Err(NotAdmitted::Closing))).await;
    assert_eq!(chat.next().await.unwrap().unwrap().content, "b");
    while chat.next().await.unwrap().is_some() {}
    drop(chat);
    bench.until(|status| matches!(status.state, State::Stopped) && status.model.is_none()).await;
}

#[tokio::test]
async fn the_key_of_an_engine_is_private_and_does_not_outlive_it() {
    let (bench, _session) = Bench::loaded(|fake| fake).await;
    let mode = fs::metadata(bench.key_file()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    bench.engine.unload();
    bench.until(|status| matches!(status.state, State::Stopped) && status.model.is_none()).await;
    assert!(!bench.key_file().exists());
}

#[tokio::test]
async fn a_daemon_that_stops_takes_its_engine_along() {
    let (bench, _session) = Bench::loaded(|fake| fake).await;
    // The scripted engine's own sockets are tasks too and know no soft stop.
    bench.tasks.stop();
    bench.until(|status| matches!(status.state, State::Stopped)).await;
    assert!(!bench.key_file().exists());
}

#[tokio::test]
async fn an_incident_leaves_a_bundle_that_tells_all_but_what_was_said() {
    let (bench, session) =
        Bench::loaded(|fake| fake.answering([Step::Text("a secret of two people"), Step::Hang]))
            .await;
    let mut chat = ask(&session).await.unwrap();
    chat.next().await.unwrap();
    bench.fake.crash();
    chat.next().await.unwrap_err();
    drop(chat);
    bench.ready(2).await;
    let incident = bench.engine.status().last_incident.unwrap();
    let path = bench.incidents().join(incident.bundle.as_ref().unwrap());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(path).unwrap();
    for told in ["SIGKILL", "job-1", "loading the tensors", "/v1/chat/completions", "restart after"]
    {
        assert!(text.contains(told), "{told} is not in {text}");
    }
    assert!(!text.contains("secret"), "{text}");
}

#[tokio::test]
async fn an_engine_whose_page_says_all_is_well_and_that_never_begins_to_answer_is_killed() {
    let (bench, session) = Bench::loaded(|fake| fake.answering([Step::Hang])).await;
    let error = ask(&session).await.unwrap_err();
    assert!(error.to_string().contains("it made no progress for"), "{error}");
    bench.ready(2).await;
}
