//! What stands around both: host names, figures, probes.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn another_name_in_host_is_not_answered() {
    let lab = Lab::new().await;
    let mut request = request(Method::GET, "/healthz", &[], Body::empty());
    request.headers_mut().insert("host", "evil.example".parse().expect("a header"));
    assert_eq!(lab.call(request).await.status(), StatusCode::MISDIRECTED_REQUEST);
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_are_for_this_machine_and_for_those_with_a_key() {
    let lab = Lab::new().await;
    assert_eq!(lab.get("/metrics", &[]).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(
        lab.get("/metrics", &[("authorization", "Bearer sk-webui")]).await.status(),
        StatusCode::OK
    );
    let mut here = request(Method::GET, "/metrics", &[], Body::empty());
    here.extensions_mut().insert(server::Remote("127.0.0.1:9".parse().expect("an address")));
    let text = text(lab.call(here).await).await;
    assert!(text.contains("homelab_jobs{state=") && text.ends_with("# EOF\n"), "{text}");
    let mut proxied =
        request(Method::GET, "/metrics", &[("x-forwarded-for", "192.0.2.9")], Body::empty());
    proxied.extensions_mut().insert(server::Remote("127.0.0.1:9".parse().expect("an address")));
    assert_eq!(lab.call(proxied).await.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_follows_the_store() {
    let lab = Lab::new().await;
    assert_eq!(lab.get("/healthz", &[]).await.status(), StatusCode::OK);
    assert_eq!(lab.get("/readyz", &[]).await.status(), StatusCode::OK);
    lab.rig.store.close().await;
    assert_eq!(lab.get("/readyz", &[]).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(lab.get("/healthz", &[]).await.status(), StatusCode::OK, "alive, though not ready");
}
