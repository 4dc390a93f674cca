//! Chats: streamed, whole, waiting, left alone.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_the_engines_own_bytes() {
    let lab = Lab::new().await;
    lab.rig.engines.script(answer());
    let response = lab.chat(&wish("small", true), &[]).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(text(response).await, data(&[FIRST, HELLO, LAST, "[DONE]"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_usage_chunk_comes_when_it_is_asked_for() {
    let lab = Lab::new().await;
    lab.rig.engines.script(answer());
    let mut wish = wish("small", true);
    wish["stream_options"] = json!({"include_usage": true});
    assert_eq!(
        text(lab.chat(&wish, &[]).await).await,
        data(&[FIRST, HELLO, LAST, USAGE, "[DONE]"])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_answer_is_put_together_from_the_pieces() {
    let lab = Lab::new().await;
    lab.rig.engines.script(answer());
    let response = lab.chat(&wish("small", false), &[]).await;
    assert_eq!(response.headers()["content-type"], "application/json");
    let answer = body_json(response).await;
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["choices"][0]["message"]["content"], "Hello");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!((&answer["x_unknown"], &answer["usage"]["total_tokens"]), (&json!(1.0), &json!(3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_request_reaches_the_engine_byte_for_byte() {
    let lab = Lab::new().await;
    let body = r#"{ "model":"small", "x_future":[1e3,{"deep":null}], "messages":[{"role":"user","content":"é"}] }"#;
    let headers = [("authorization", "Bearer sk-webui")];
    lab.call(request(Method::POST, "/v1/chat/completions", &headers, Body::from(body))).await;
    let requests = lab.rig.engines.requests();
    assert_eq!(requests[0].openai_request, body.as_bytes());
    assert_eq!(requests[0].model, "small");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_gets_headers_and_a_comment_at_once() {
    let lab = Lab::new().await;
    let response = lab.chat(&wish("large", true), &[]).await;
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body();
    let first = body.frame().await.expect("a frame").expect("fine").into_data().expect("data");
    assert_eq!(first, ": queued position=1 tier=silver reason=WORKER_ASLEEP\n\n");
    lab.rig.engines.contact("x99", Contact::Connected);
    lab.rig.engines.script(answer());
    lab.rig.round().await;
    let rest = body.collect().await.expect("a body").to_bytes();
    assert_eq!(rest, data(&[FIRST, HELLO, LAST, "[DONE]"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_open_webui_is_sent_status_events() {
    let lab = Lab::new().await;
    let response = lab.chat(&wish("large", true), &[("x-openwebui-chat-id", "c1")]).await;
    lab.rig.engines.contact("x99", Contact::Connected);
    lab.rig.engines.script(answer());
    lab.rig.round().await;
    let text = text(response).await;
    let events: Vec<Value> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok())
        .filter(|event: &Value| event.get("event").is_some())
        .collect();
    assert_eq!(events.len(), 2, "{text}");
    assert_eq!(events[0]["event"]["data"]["done"], false);
    assert!(events[0]["event"]["data"]["description"].as_str().expect("text").contains("silver"));
    assert_eq!(events[1]["event"]["data"]["done"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_frees_the_engine() {
    for stream in [true, false] {
        let lab = Lab::new().await;
        lab.rig.engines.script(vec![Step::Say("", FIRST), Step::Hang]);
        let router = lab.router.clone();
        let body = Body::from(wish("small", stream).to_string());
        let headers = [("authorization", "Bearer sk-webui")];
        let call = router.oneshot(request(Method::POST, "/v1/chat/completions", &headers, body));
        let mut call = Box::pin(async move {
            let response = call.await.expect("infallible");
            response.into_body().collect().await
        });
        let left = tokio::select! {
            _ended = call.as_mut() => panic!("it hangs"),
            () = lab.rig.wait_for("it runs", || lab.rig.engines.busy() == 1) => std::time::Instant::now(),
        };
        drop(call);
        lab.rig.wait_for("the engine is free", || lab.rig.engines.busy() == 0).await;
        assert!(left.elapsed() < Duration::from_millis(500), "{:?}", left.elapsed());
        lab.rig.until(lab.only_job().await, Kind::Cancelled).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_does_not_hold_up_a_stop() {
    let lab = Lab::new().await;
    let waiting = lab.chat(&wish("large", true), &[]).await;
    lab.rig.tasks.stop();
    let events = text(waiting).await;
    assert!(events.contains("\"code\":\"stopping\""), "{events}");
    let whole = lab.chat(&wish("large", false), &[]).await;
    assert_eq!(whole.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(whole.headers().contains_key("retry-after"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_in_the_middle_is_the_last_event() {
    let lab = Lab::new().await;
    lab.rig.engines.script(vec![Step::Say("", FIRST), Step::Break("ENGINE_CRASHED", true)]);
    let text = text(lab.chat(&wish("small", true), &[]).await).await;
    let last: Value = text
        .trim_end()
        .rsplit("data: ")
        .next()
        .and_then(|last| serde_json::from_str(last).ok())
        .expect("JSON");
    assert_eq!(last["error"]["code"], "output_already_shown");
    assert!(!text.contains("[DONE]"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_does_not_like_the_request_is_a_client_error() {
    let lab = Lab::new().await;
    lab.rig.engines.script(vec![Step::Break("ENGINE_REFUSED", false)]);
    let response = lab.chat(&wish("small", false), &[]).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_idempotency_key_is_one_job() {
    let lab = Lab::new().await;
    lab.rig.engines.script(answer());
    let key = [("idempotency-key", "k-1")];
    let first = body_json(lab.chat(&wish("small", false), &key).await).await;
    let second = body_json(lab.chat(&wish("small", false), &key).await).await;
    assert_eq!(first, second);
    assert_eq!(lab.rig.engines.requests().len(), 1);
    let other = lab.chat(&wish("", false), &key).await;
    assert_eq!(other.status(), StatusCode::CONFLICT);
    assert_eq!(other.headers()["x-should-retry"], "false");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_may_leave_no_text_behind() {
    let lab = Lab::new().await;
    lab.rig.engines.script(answer());
    let headers = [("x-homelab-record", "metadata")];
    assert_eq!(
        text(lab.chat(&wish("small", true), &headers).await).await,
        data(&[FIRST, HELLO, LAST, "[DONE]"])
    );
    let job = lab.rig.until(lab.only_job().await, Kind::Succeeded).await;
    assert_eq!((job.spec().record, job.spec().title.as_str()), (Record::Metadata, ""));
    assert!(job.spec().request.bytes.is_empty());
    assert_eq!(lab.rig.jobs.answer(job.id()).await.expect("readable"), "");
}
