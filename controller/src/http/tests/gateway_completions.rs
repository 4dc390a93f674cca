//! Texts to be continued.

use super::*;

const PIECE: &str = r#"{"choices":[{"text":"four,","index":0,"finish_reason":null}],"id":"cmpl-1","object":"text_completion"}"#;
const END: &str = r#"{"choices":[{"text":" five","index":0,"finish_reason":"length"}],"id":"cmpl-1","object":"text_completion","usage":{"total_tokens":9},  "x_unknown":1.0}"#;
const BODY: &str =
    r#"{ "model":"small", "prompt":"One, two,", "echo":true, "suffix":"!", "x_new":[1e3] }"#;

fn pieces() -> Vec<Step> {
    vec![Step::Say("four,", PIECE), Step::Say(" five", END), Step::Done]
}

impl Lab {
    async fn complete(&self, body: &str, headers: &[(&str, &str)]) -> Response<Body> {
        let headers = [&[("authorization", "Bearer sk-webui")], headers].concat();
        let body = Body::from(body.to_owned());
        self.call(request(Method::POST, "/v1/completions", &headers, body)).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_is_continued_as_a_job_and_every_field_reaches_the_engine() {
    let lab = Lab::new().await;
    lab.rig.engines.script(pieces());
    let response = lab.complete(BODY, &[]).await;
    let job = lab.rig.until(lab.only_job().await, Kind::Succeeded).await;
    assert_eq!(response.headers()["x-homelab-job"], job.id().to_string().as_str());
    assert_eq!(
        body_json(response).await,
        json!({"id": "cmpl-1", "object": "text_completion", "usage": {"total_tokens": 9},
            "x_unknown": 1.0,
            "choices": [{"text": "four, five", "index": 0, "finish_reason": "length"}]})
    );
    assert_eq!(lab.rig.engines.changes(), ["continue with small on cw-nas"]);
    assert_eq!(lab.rig.engines.requests()[0].openai_request, BODY.as_bytes());
    assert_eq!(job.spec().title, "One, two,");
    assert_eq!(lab.rig.jobs.answer(job.id()).await.expect("readable"), "four, five");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_continued_text_is_streamed_byte_for_byte() {
    let lab = Lab::new().await;
    lab.rig.engines.script(pieces());
    let body = r#"{"model":"small","prompt":[1,2],"stream":true}"#;
    let response = lab.complete(body, &[]).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(text(response).await, data(&[PIECE, END, "[DONE]"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_belongs_to_one_of_both_apis() {
    let lab = Lab::new().await;
    for _ in 0..2 {
        lab.rig.engines.script(pieces());
    }
    let key = [("idempotency-key", "k-1")];
    let both = r#"{"model":"small","prompt":"Hi","messages":[{"role":"user","content":"Hi"}]}"#;
    assert_eq!(lab.complete(both, &key).await.status(), StatusCode::OK);
    let chat: Value = serde_json::from_str(both).expect("JSON");
    let headers = [("authorization", "Bearer sk-webui"), key[0]];
    let other =
        lab.call(request(Method::POST, "/v1/chat/completions", &headers, Body::from(both))).await;
    assert_eq!(other.status(), StatusCode::CONFLICT, "{chat}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_text_there_is_nothing_to_continue() {
    let lab = Lab::new().await;
    for body in ["{}", r#"{"model":"small","prompt":[]}"#, "["] {
        let response = lab.complete(body, &[]).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{body}");
    }
    let missing = lab.complete(r#"{"model":"nowhere","prompt":"Hi"}"#, &[]).await;
    assert_eq!(missing.status(), StatusCode::NOT_FOUND);
    assert_eq!(lab.rig.engines.requests().len(), 0);
}
