//! What the gateway says of itself: its models, and what it refuses.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_openais_shape_and_status() {
    let lab = Lab::new().await;
    let key = ("authorization", "Bearer sk-webui");
    let bronze = ("authorization", "Bearer sk-bronze");
    let chat = "/v1/chat/completions";
    let post = |path: &str, header: Option<(&str, &str)>, body: String| {
        request(Method::POST, path, header.as_slice(), Body::from(body))
    };
    let page = |path: &str| request(Method::GET, path, &[key], Body::empty());
    for (request, status, code) in [
        (post(chat, None, wish("small", true).to_string()), 401, "invalid_api_key"),
        (
            post(chat, Some(("authorization", "Bearer nope")), "{}".to_owned()),
            401,
            "invalid_api_key",
        ),
        (post(&format!("{chat}?api_key=sk-webui"), None, "{}".to_owned()), 401, "invalid_api_key"),
        (post(chat, Some(key), "{".to_owned()), 400, "invalid_request"),
        (post(chat, Some(key), wish("nowhere", true).to_string()), 404, "model_not_found"),
        (post(chat, Some(bronze), wish("large", true).to_string()), 403, "tier_not_allowed"),
        (post("/v1/embeddings", Some(key), "{}".to_owned()), 400, "invalid_request"),
        (post("/v1/responses", Some(key), "{}".to_owned()), 400, "invalid_request"),
        (post("/v1/responses/r1/cancel", Some(key), "{}".to_owned()), 501, "not_built_yet"),
        (post("/v1/completions", Some(key), "{}".to_owned()), 400, "invalid_request"),
        (page("/v1/files?limit=many"), 400, "invalid_request"),
        (page("/v1/batches?limit=1&limit=2"), 400, "invalid_request"),
        (page("/v1/models/nowhere"), 404, "model_not_found"),
        (page("/v1/files/%ff"), 404, "unknown_url"),
        (post("/v1/batches/b1/cancel", Some(key), "{}".to_owned()), 404, "not_found"),
        (post("/v1/nonsense", Some(key), "{}".to_owned()), 404, "unknown_url"),
        (post("/v1/models", Some(key), "{}".to_owned()), 405, "method_not_allowed"),
        (post(chat, Some(key), "x".repeat(17 * 1024 * 1024)), 413, "request_too_large"),
    ] {
        let path = request.uri().to_string();
        let response = lab.call(request).await;
        assert_eq!(response.status(), status, "{path}");
        assert!(!response.headers().contains_key("access-control-allow-origin"));
        let body = body_json(response).await;
        assert_eq!(body["error"]["code"], code, "{path}");
        for part in ["message", "type", "param"] {
            assert!(body["error"].get(part).is_some(), "{path} has no {part}");
        }
    }
    assert_eq!(lab.rig.engines.requests().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_listed_from_memory_with_those_that_sleep() {
    let lab = Lab::new().await;
    let list =
        body_json(lab.get("/v1/models", &[("authorization", "Bearer sk-webui")]).await).await;
    let rows: Vec<_> = list["data"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| (&row["id"], &row["status"]["value"]))
        .collect();
    assert_eq!(rows, [(&json!("small"), &json!("loaded")), (&json!("large"), &json!("asleep"))]);
    let list =
        body_json(lab.get("/v1/models", &[("authorization", "Bearer sk-bronze")]).await).await;
    assert_eq!(list["data"].as_array().expect("a list").len(), 1, "a key sees what it may use");
}
