//! The pages of jobs and workers, over HTTP.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_of_jobs_are_for_those_who_are_logged_in() {
    let lab = Lab::new().await;
    let submitted = lab.rig.jobs.submit(crate::job::rig::wish(7, "large")).await.expect("waits");
    let one = format!("/jobs/{}", submitted.job.id());
    for path in ["/jobs", one.as_str(), "/workers", "/events/jobs", "/events/workers"] {
        let response = lab.get(path, &[]).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{path}");
        assert!(!text(response).await.contains("a title"), "{path}");
    }
    let cookie = lab.log_in().await;
    let cookie = [("cookie", cookie.as_str())];
    let page = text(lab.get("/jobs", &cookie).await).await;
    assert!(page.contains("they wait for x99 to wake"), "{page}");
    assert!(page.contains(&format!("href=\"{one}\"")), "{page}");
    let page = text(lab.get(&one, &cookie).await).await;
    assert!(page.contains("x99 is asleep") && page.contains("off until needed"), "{page}");
    let page = text(lab.get("/workers", &cookie).await).await;
    assert!(page.contains("cw-nas") && page.contains("0 of 2"), "{page}");
    for missing in ["/jobs/nonsense", "/jobs/00000000-0000-0000-0000-000000000009"] {
        assert_eq!(lab.get(missing, &cookie).await.status(), StatusCode::NOT_FOUND, "{missing}");
    }
}
