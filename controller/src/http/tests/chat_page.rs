//! The page to talk to models: who may ask, and that it is the gateway's own way.

use homelab_domain::identity::Role;
use homelab_domain::job::JobStateKind;

use super::*;

/// Headers of a question that the page itself sends.
struct Page {
    cookie: String,
    csrf: String,
}

impl Page {
    async fn open(lab: &Lab, role: Role) -> Self {
        let cookie = lab.log_in_as(role).await;
        let page = text(lab.get("/chat", &[("cookie", cookie.as_str())]).await).await;
        let csrf = page.split("name=\"csrf\" value=\"").nth(1).expect("a token");
        let csrf = csrf.split('"').next().expect("a token").to_owned();
        Self { cookie, csrf }
    }

    async fn say(&self, lab: &Lab, body: &Value, more: &[(&str, &str)]) -> Response<Body> {
        let mut headers = vec![
            ("cookie", self.cookie.as_str()),
            ("x-homelab-csrf", self.csrf.as_str()),
            ("sec-fetch-site", "same-origin"),
            ("x-lab-chat", "c-1"),
        ];
        headers.retain(|(name, _)| !more.iter().any(|(other, _)| other == name));
        headers.extend(more);
        let body = Body::from(body.to_string());
        lab.call(request(Method::POST, "/chat/say", &headers, body)).await
    }
}

async fn jobs_of(lab: &Lab) -> usize {
    let page = lab.rig.jobs.list(&JobFilter::default(), &PageRequest::first(100)).await;
    page.expect("readable").items.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_names_every_model_with_its_tier_and_says_which_sleep() {
    let lab = Lab::new().await;
    assert_eq!(lab.get("/chat", &[]).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(lab.get("/events/chat", &[]).await.status(), StatusCode::UNAUTHORIZED);
    let cookie = lab.log_in().await;
    let page = text(lab.get("/chat", &[("cookie", cookie.as_str())]).await).await;
    for words in [
        "value=\"small\" data-tier=\"bronze\" checked",
        "value=\"large\" data-tier=\"silver\"",
        "x99 is off",
        "labctl model list",
    ] {
        assert!(page.contains(words), "{words}: {page}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_page_of_ours_asks_and_only_for_those_who_may_act() {
    let lab = Lab::new().await;
    let page = Page::open(&lab, Role::Operator).await;
    let wish = wish("small", true);
    for (more, status) in [
        (vec![("cookie", "__Host-homelab=no")], StatusCode::UNAUTHORIZED),
        (vec![("x-homelab-csrf", "no")], StatusCode::FORBIDDEN),
        (vec![("x-homelab-csrf", "")], StatusCode::FORBIDDEN),
        (vec![("sec-fetch-site", "cross-site")], StatusCode::FORBIDDEN),
        (vec![("origin", "https://evil.example")], StatusCode::FORBIDDEN),
        // A key of the gateway opens nothing here.
        (vec![("cookie", "a=b"), ("authorization", "Bearer sk-webui")], StatusCode::UNAUTHORIZED),
    ] {
        let response = page.say(&lab, &wish, &more).await;
        assert_eq!(response.status(), status, "{more:?}");
        let error = body_json(response).await;
        assert!(error["error"]["message"].is_string(), "{error}");
    }
    assert_eq!(jobs_of(&lab).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_viewer_asks_nothing() {
    let lab = Lab::new().await;
    let page = Page::open(&lab, Role::Viewer).await;
    let response = page.say(&lab, &wish("small", true), &[]).await;
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    assert_eq!(body_json(response).await["error"]["code"], "role_too_low");
    assert_eq!(jobs_of(&lab).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_streams_under_the_name_of_who_asks() {
    let lab = Lab::new().await;
    let page = Page::open(&lab, Role::Operator).await;
    lab.rig.engines.script(answer());
    let response = page.say(&lab, &wish("small", true), &[]).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["x-homelab-tier"], "bronze");
    let id = response.headers()["x-homelab-job"].to_str().expect("text").to_owned();
    assert_eq!(text(response).await, data(&[FIRST, HELLO, LAST, "[DONE]"]));
    let (job, _) =
        lab.rig.jobs.get(id.parse().expect("an id")).await.expect("readable").expect("is there");
    assert_eq!(job.spec().submitted_by, "user/jan");
    assert_eq!(job.spec().terms.chat.as_deref(), Some("c-1"));
    assert_eq!(job.spec().record, Record::Full);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_to_leave_no_text_behind_does_not() {
    let lab = Lab::new().await;
    let page = Page::open(&lab, Role::Operator).await;
    lab.rig.engines.script(answer());
    let response = page.say(&lab, &wish("small", true), &[("x-homelab-record", "metadata")]).await;
    assert!(text(response).await.contains("Hello"));
    let (job, _) =
        lab.rig.jobs.get(lab.only_job().await).await.expect("readable").expect("is there");
    assert_eq!(job.spec().record, Record::Metadata);
    assert_eq!(lab.rig.jobs.answer(job.id()).await.expect("readable"), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_at_the_page_is_told_place_and_reason() {
    let lab = Lab::new().await;
    let page = Page::open(&lab, Role::Operator).await;
    let mut body = page.say(&lab, &wish("large", true), &[]).await.into_body();
    let mut told = String::new();
    for _ in 0..2 {
        let frame = body.frame().await.expect("a frame").expect("fine").into_data().expect("data");
        told.push_str(std::str::from_utf8(&frame).expect("text"));
    }
    assert!(told.contains("\"type\":\"status\""), "{told}");
    assert!(told.contains("Waiting for silver, place 1: x99 is asleep"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stops_reading_frees_the_engine() {
    let lab = Lab::new().await;
    let page = Page::open(&lab, Role::Operator).await;
    lab.rig.engines.script(vec![Step::Say("", FIRST), Step::Hang]);
    let response = page.say(&lab, &wish("small", true), &[]).await;
    lab.rig.wait_for("it runs", || lab.rig.engines.busy() == 1).await;
    let left = std::time::Instant::now();
    drop(response);
    lab.rig.wait_for("the engine is free", || lab.rig.engines.busy() == 0).await;
    assert!(left.elapsed() < Duration::from_millis(500), "{:?}", left.elapsed());
    let job = lab.rig.until(lab.only_job().await, JobStateKind::Cancelled).await;
    assert!(job.state().because().message.contains("user/jan"), "{job:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_person_fills_no_queue_from_a_page() {
    let lab = Lab::new().await;
    let page = Page::open(&lab, Role::Operator).await;
    let mut open = Vec::new();
    for _ in 0..4 {
        let response = page.say(&lab, &wish("large", true), &[]).await;
        assert_eq!(response.status(), StatusCode::OK);
        open.push(response);
    }
    let fifth = page.say(&lab, &wish("large", true), &[]).await;
    assert_eq!(fifth.status(), StatusCode::TOO_MANY_REQUESTS);
    open.pop();
    assert_eq!(page.say(&lab, &wish("large", true), &[]).await.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_conversation_is_larger_than_any_form_and_gets_through() {
    let lab = Lab::new().await;
    let page = Page::open(&lab, Role::Operator).await;
    lab.rig.engines.script(answer());
    let mut wish = wish("small", true);
    wish["messages"][0]["content"] = json!("word ".repeat(100_000));
    let response = page.say(&lab, &wish, &[]).await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(text(response).await.contains("Hello"));
}
