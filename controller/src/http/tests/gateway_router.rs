//! The paths by which Open WebUI loads and unloads models.

use super::*;

const KEEPER: (&str, &str) = ("authorization", "Bearer sk-keeper");

impl Lab {
    async fn change(&self, path: &str, model: &str, key: (&str, &str)) -> Response<Body> {
        let body = Body::from(json!({"model": model}).to_string());
        self.call(request(Method::POST, path, &[key], body)).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn models_are_listed_in_the_routers_words() {
    let lab = Lab::new().await;
    let list = body_json(lab.get("/models", &[KEEPER]).await).await;
    let rows: Vec<_> = list["data"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|row| (row["id"].as_str(), row["status"]["value"].as_str()))
        .collect();
    assert_eq!(rows, [(Some("small"), Some("loaded")), (Some("large"), Some("unloaded"))]);
    assert_eq!(lab.get("/models", &[]).await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_may_manage_models_loads_and_unloads_them() {
    let lab = Lab::new().await;
    let unloaded = lab.change("/models/unload", "small", KEEPER).await;
    assert_eq!(body_json(unloaded).await, json!({"success": true}));
    let loaded = lab.change("/models/load", "small", KEEPER).await;
    assert_eq!(loaded.status(), StatusCode::OK, "it is loaded already");
    lab.rig.engines.contact("x99", Contact::Connected);
    assert_eq!(lab.change("/models/unload", "large", KEEPER).await.status(), StatusCode::OK);
    assert_eq!(lab.rig.engines.changes(), ["unload small on cw-nas", "unload large on x99"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_woken_or_let_in_to_load_a_model() {
    let lab = Lab::new().await;
    let asleep = lab.change("/models/load", "large", KEEPER).await;
    assert_eq!(asleep.status(), StatusCode::SERVICE_UNAVAILABLE);
    let body = body_json(asleep).await;
    assert!(body["error"]["message"].as_str().expect("text").contains("sleeps"), "{body}");
    let user = ("authorization", "Bearer sk-webui");
    assert_eq!(lab.change("/models/unload", "small", user).await.status(), StatusCode::FORBIDDEN);
    assert_eq!(lab.change("/models/load", "nowhere", KEEPER).await.status(), 404);
    assert_eq!(
        lab.call(request(Method::DELETE, "/models?model=small", &[KEEPER], Body::empty()))
            .await
            .status(),
        StatusCode::FORBIDDEN
    );
    assert_eq!(lab.rig.engines.changes(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_the_models_hears_of_each_change() {
    let lab = Lab::new().await;
    lab.rig.engines.contact("x99", Contact::Connected);
    let mut body = lab.get("/models/sse", &[KEEPER]).await.into_body();
    let mut states = std::collections::BTreeMap::new();
    for _ in 0..2 {
        let (model, state) = next_state(&mut body).await;
        states.insert(model, state);
    }
    assert_eq!(states["small"], "loaded");
    assert_eq!(states["large"], "loaded");
    lab.rig.engines.contact("x99", Contact::Asleep);
    assert_eq!(next_state(&mut body).await, ("large".to_owned(), "unloaded".to_owned()));
}

async fn next_state(body: &mut Body) -> (String, String) {
    let frame = body.frame().await.expect("a frame").expect("fine").into_data().expect("data");
    let text = std::str::from_utf8(&frame).expect("text").trim_end();
    let event: Value =
        serde_json::from_str(text.strip_prefix("data: ").expect("an event")).expect("JSON");
    assert_eq!(event["event"], "status_change");
    let word = |value: &Value| value.as_str().expect("text").to_owned();
    (word(&event["model"]), word(&event["data"]["status"]))
}
