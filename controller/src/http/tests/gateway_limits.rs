//! What keeps the gateway within bounds: keys that have used enough, clients that ask again, browsers
//! of other sites.

use super::*;

fn key(key: &'static str) -> (&'static str, &'static str) {
    ("authorization", key)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_asks_too_often_is_told_when_to_come_back() {
    let lab = Lab::new().await;
    let few = [key("Bearer sk-few")];
    for left in ["1", "0"] {
        lab.rig.engines.script(answer());
        let response = lab.chat(&wish("small", false), &few).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["x-ratelimit-limit-requests"], "2");
        assert_eq!(response.headers()["x-ratelimit-remaining-requests"], left);
    }
    let refused = lab.chat(&wish("small", true), &few).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()["retry-after"], "30");
    assert_eq!(refused.headers()["x-ratelimit-remaining-requests"], "0");
    let body = body_json(refused).await;
    assert_eq!(
        (&body["error"]["type"], &body["error"]["code"]),
        (&json!("requests"), &json!("rate_limit_exceeded"))
    );
    assert_eq!(lab.rig.engines.requests().len(), 2, "nothing was queued");
    lab.rig.engines.script(answer());
    let other = lab.chat(&wish("small", false), &[]).await;
    assert_eq!(other.status(), StatusCode::OK, "other keys are not held back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_budget_is_back_tomorrow_and_sdks_do_not_wait_for_it() {
    let lab = Lab::new().await;
    let thrifty = [key("Bearer sk-thrifty")];
    let mut cost = 0;
    while cost < 10 {
        lab.rig.engines.script(answer());
        let response = lab.chat(&wish("small", false), &thrifty).await;
        assert_eq!(response.status(), StatusCode::OK);
        cost += 2;
    }
    let refused = lab.chat(&wish("small", false), &thrifty).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()["x-should-retry"], "false");
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(body_json(refused).await["error"]["code"], "insufficient_quota");
    lab.rig.clock.advance(Duration::from_secs(24 * 3_600));
    lab.rig.engines.script(answer());
    assert_eq!(lab.chat(&wish("small", false), &thrifty).await.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_at_once_is_one_and_room_comes_back_when_the_client_leaves() {
    let lab = Lab::new().await;
    let thrifty = [key("Bearer sk-thrifty")];
    let waiting = lab.chat(&wish("large", true), &thrifty).await;
    assert_eq!(lab.chat(&wish("large", true), &thrifty).await.status(), 429);
    drop(waiting);
    lab.rig.engines.script(answer());
    assert_eq!(lab.chat(&wish("small", true), &thrifty).await.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_sdk_that_asks_again_finds_its_place_in_the_queue() {
    let lab = Lab::new().await;
    let ask = |count: &'static str| {
        let headers = [key("Bearer sk-webui"), ("x-stainless-retry-count", count)];
        let body = Body::from(wish("large", false).to_string());
        let request = request(Method::POST, "/v1/chat/completions", &headers, body);
        lab.router.clone().oneshot(request)
    };
    {
        let mut first = Box::pin(ask("0"));
        tokio::select! {
            _answered = first.as_mut() => panic!("x99 sleeps"),
            _id = lab.until_queued() => {}
        }
    }
    lab.rig.engines.script(answer());
    let mut second = Box::pin(ask("1"));
    let (answered, ()) = tokio::join!(second.as_mut(), async {
        lab.rig.engines.contact("x99", Contact::Connected);
        lab.rig.round().await;
    });
    let answered = body_json(answered.expect("infallible")).await;
    assert_eq!(answered["choices"][0]["message"]["content"], "Hello");
    let job = lab.rig.until(lab.only_job().await, Kind::Succeeded).await;
    assert_eq!(job.attempts().given, 1, "one job, one attempt, though it was asked for twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_the_same_twice_on_purpose_gets_two_answers() {
    let lab = Lab::new().await;
    for _ in 0..2 {
        lab.rig.engines.script(answer());
        let headers = [("x-stainless-retry-count", "0")];
        assert_eq!(lab.chat(&wish("small", false), &headers).await.status(), StatusCode::OK);
    }
    assert_eq!(lab.rig.engines.requests().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_listed_sites_may_call_from_a_browser() {
    let lab = Lab::new().await;
    let ask = |origin: &'static str| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization, x-stainless-os"),
        ];
        lab.call(request(Method::OPTIONS, "/v1/chat/completions", &headers, Body::empty()))
    };
    let allowed = ask("https://chat.home.arpa").await;
    assert_eq!(allowed.status(), StatusCode::NO_CONTENT);
    assert_eq!(allowed.headers()["access-control-allow-origin"], "https://chat.home.arpa");
    assert_eq!(allowed.headers()["vary"], "origin");
    let sent = allowed.headers()["access-control-allow-headers"].to_str().expect("text");
    assert!(sent.contains("authorization"), "{sent}");
    for stranger in ["https://evil.example", "https://chat.home.arpa.evil.example", "null"] {
        let refused = ask(stranger).await;
        assert_eq!(refused.status(), StatusCode::METHOD_NOT_ALLOWED, "{stranger}");
        assert!(!refused.headers().contains_key("access-control-allow-origin"), "{stranger}");
    }
    let read = [key("Bearer sk-webui"), ("origin", "https://chat.home.arpa")];
    let models = lab.get("/v1/models", &read).await;
    assert_eq!(models.headers()["access-control-allow-origin"], "https://chat.home.arpa");
    let exposed = models.headers()["access-control-expose-headers"].to_str().expect("text");
    assert!(exposed.contains("x-homelab-job"), "{exposed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn open_webuis_title_goes_behind_people_and_belongs_to_its_chat() {
    let lab = Lab::new().await;
    lab.rig.engines.script(answer());
    let headers = [("x-lab-task", "title_generation"), ("x-lab-chat", "c-1")];
    let response = lab.chat(&wish("small", false), &headers).await;
    assert_eq!(response.status(), StatusCode::OK);
    let job = lab.rig.until(lab.only_job().await, Kind::Succeeded).await;
    assert!(job.spec().priority < homelab_domain::job::Priority::DEFAULT);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_another_model_says_so_to_open_webui_only() {
    for (header, shown) in [(("x-openwebui-chat-id", "c1"), true), (("accept", "*/*"), false)] {
        let lab = Lab::new().await;
        lab.rig.engines.script(answer());
        let text = text(lab.chat(&wish("", true), &[header]).await).await;
        let said = text.contains("{\"selected_model_id\":\"small\"}");
        assert_eq!(said, shown, "{text}");
        assert!(text.ends_with("data: [DONE]\n\n"));
    }
}

impl Lab {
    /// The id of the only job, once it is in the queue.
    async fn until_queued(&self) -> JobId {
        for _ in 0..500 {
            let page = self
                .rig
                .jobs
                .list(&JobFilter::default(), &PageRequest::first(10))
                .await
                .expect("readable");
            if let Some(job) = page.items.first() {
                return job.id();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("no job came");
    }
}
