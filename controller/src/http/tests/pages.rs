//! The pages: who may see them, and what browsers are bound to.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_shown_how_to_log_in_and_nothing_else() {
    let lab = Lab::new().await;
    let response = lab.get("/", &[("cookie", "__Host-homelab=guess")]).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    let page = text(response).await;
    assert!(page.contains("labctl dashboard"));
    assert!(!page.contains("onerror"));
    assert_eq!(lab.get("/events", &[]).await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_logs_in_once() {
    let lab = Lab::new().await;
    let looked = lab.get("/login/link", &[]).await;
    assert!(
        text(looked).await.contains("<form method=\"post\" action=\"/login\">"),
        "looking uses nothing up"
    );
    let cookie = lab.log_in().await;
    let page = lab.get("/", &[("cookie", &cookie)]).await;
    assert_eq!(
        (page.status(), &page.headers()["cache-control"]),
        (StatusCode::OK, &"no-store".parse().expect("a header"))
    );
    let page = text(page).await;
    assert!(page.contains("&#60;img src=x onerror"), "what others wrote is text");
    assert!(!page.contains("<img src=x"));
    assert_eq!(
        lab.call(form("/login", "token=link", &[])).await.status(),
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn logging_out_needs_the_forms_own_token() {
    let lab = Lab::new().await;
    let cookie = lab.log_in().await;
    let page = text(lab.get("/", &[("cookie", &cookie)]).await).await;
    let csrf = page
        .split("name=\"csrf\" value=\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .expect("a token");
    for (body, headers) in [
        ("csrf=wrong".to_owned(), vec![("cookie", cookie.as_str())]),
        (
            format!("csrf={csrf}"),
            vec![("cookie", cookie.as_str()), ("origin", "https://evil.example")],
        ),
        (
            format!("csrf={csrf}"),
            vec![("cookie", cookie.as_str()), ("sec-fetch-site", "cross-site")],
        ),
    ] {
        assert_eq!(
            lab.call(form("/logout", &body, &headers)).await.status(),
            StatusCode::FORBIDDEN,
            "{body}"
        );
    }
    let left = lab.call(form("/logout", &format!("csrf={csrf}"), &[("cookie", &cookie)])).await;
    assert_eq!(left.status(), StatusCode::OK);
    assert_eq!(lab.get("/", &[("cookie", &cookie)]).await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_lies_unused_ends() {
    let lab = Lab::new().await;
    let cookie = lab.log_in().await;
    lab.rig.clock.advance(Duration::from_secs(13 * 3_600));
    assert_eq!(lab.get("/", &[("cookie", &cookie)]).await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_is_kept_alive_by_counted_events() {
    let lab = Lab::new().await;
    let cookie = lab.log_in().await;
    let mut body = lab.get("/events", &[("cookie", &cookie)]).await.into_body();
    for expected in [
        "{\"seq\":0,\"kind\":\"hello\"",
        "{\"seq\":1,\"kind\":\"verdict\"",
        "{\"seq\":2,\"kind\":\"hosts\"",
    ] {
        let frame = body.frame().await.expect("a frame").expect("fine").into_data().expect("data");
        assert!(frame.starts_with(format!("data: {expected}").as_bytes()), "{frame:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_of_backups_are_for_those_who_are_logged_in() {
    let lab = Lab::new().await;
    for path in ["/backups", "/backups/wiki", "/events/backups"] {
        let response = lab.get(path, &[]).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{path}");
        assert!(!text(response).await.contains("wiki"), "{path}");
    }
    let cookie = lab.log_in().await;
    let cookie = [("cookie", cookie.as_str())];
    let page = lab.get("/backups", &cookie).await;
    assert_eq!(page.status(), StatusCode::OK);
    assert_eq!(page.headers()["cache-control"], "no-store");
    assert!(page.headers().contains_key("content-security-policy"));
    let page = text(page).await;
    assert!(page.contains("<a class=\"name\" href=\"/backups/wiki\">wiki</a>"), "{page}");
    assert!(page.contains("One backup"), "what nobody knows is not healthy: {page}");
    let one = lab.get("/backups/wiki", &cookie).await;
    assert_eq!(one.status(), StatusCode::OK);
    assert!(text(one).await.contains("<h1 id=\"one-title\">wiki</h1>"));
    assert_eq!(lab.get("/backups/other", &cookie).await.status(), StatusCode::NOT_FOUND);
    let mut body = lab.get("/events/backups", &cookie).await.into_body();
    for expected in ["{\"seq\":0,\"kind\":\"hello\"", "{\"seq\":1,\"kind\":\"verdict\""] {
        let frame = body.frame().await.expect("a frame").expect("fine").into_data().expect("data");
        assert!(frame.starts_with(format!("data: {expected}").as_bytes()), "{frame:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_binds_the_browser() {
    let lab = Lab::new().await;
    for path in ["/", "/backups", "/assets/live.js", "/v1/models", "/healthz", "/nothing"] {
        let response = lab.get(path, &[]).await;
        let header = |name: &str| {
            response
                .headers()
                .get(name)
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
                .to_owned()
        };
        let policy = header("content-security-policy");
        for part in ["default-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{path}");
        assert_eq!(header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(header("referrer-policy"), "no-referrer", "{path}");
        assert_eq!(header("x-request-id").len(), 36, "{path}");
    }
}
