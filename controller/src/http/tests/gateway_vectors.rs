//! Vectors and the order of texts.

use super::*;

impl Lab {
    async fn short(&self, path: &str, body: &Value, key: &str) -> Response<Body> {
        let key = [("authorization", key)];
        self.call(request(Method::POST, path, &key, Body::from(body.to_string()))).await
    }
}

const WEBUI: &str = "Bearer sk-webui";

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_vectors_goes_there_and_back_unchanged() {
    let lab = Lab::new().await;
    let body = r#"{ "model":"small", "input":[[1,2],[3]], "encoding_format":"base64", "x":1.50 }"#;
    let headers = [("authorization", WEBUI)];
    let asked = request(Method::POST, "/v1/embeddings", &headers, Body::from(body));
    let answer = lab.call(asked).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(bytes(answer).await, body, "the script sends back what it was sent");
    assert_eq!(lab.rig.engines.changes(), ["embed with small on cw-nas"]);
    assert!(lab.rig.jobs.lives().is_empty(), "no job was made of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_are_charged_and_limited_like_everything_else() {
    let lab = Lab::new().await;
    let wish = json!({"model": "small", "input": "a"});
    let thrifty = "Bearer sk-thrifty";
    for _ in 0..3 {
        assert_eq!(lab.short("/v1/embeddings", &wish, thrifty).await.status(), StatusCode::OK);
    }
    assert_eq!(lab.short("/v1/embeddings", &wish, thrifty).await.status(), 429);
    let bronze = "Bearer sk-bronze";
    let large = json!({"model": "large", "input": "a"});
    assert_eq!(lab.short("/v1/embeddings", &large, bronze).await.status(), StatusCode::FORBIDDEN);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_woken_for_vectors() {
    let lab = Lab::new().await;
    let answer = lab.short("/v1/embeddings", &json!({"model": "large", "input": "a"}), WEBUI).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.headers().contains_key("retry-after"));
    assert_eq!(body_json(answer).await["error"]["code"], "worker_asleep");
}

#[tokio::test(flavor = "multi_thread")]
async fn vectors_wait_for_a_slot_and_take_it_when_it_is_free() {
    let lab = Lab::new().await;
    let mut running = Vec::new();
    for _ in 0..2 {
        lab.rig.engines.script(vec![Step::Say("", FIRST), Step::Hang]);
        running.push(lab.chat(&wish("small", true), &[]).await);
    }
    lab.rig.wait_for("both run", || lab.rig.engines.busy() == 2).await;
    let wish = json!({"model": "small", "input": "a"});
    let mut waiting = Box::pin(lab.short("/v1/embeddings", &wish, WEBUI));
    let early = tokio::time::timeout(Duration::from_millis(200), waiting.as_mut()).await;
    assert!(early.is_err(), "every slot is in use");
    drop(running);
    assert_eq!(waiting.await.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_model_does_not_do_is_the_callers_mistake() {
    let lab = Lab::new().await;
    let wish = json!({"model": "small", "query": "q", "documents": ["a"]});
    let answer = lab.short("/v1/rerank", &wish, WEBUI).await;
    assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
    let said = body_json(answer).await;
    assert_eq!(said["error"]["message"], "This model orders no texts.");
}
