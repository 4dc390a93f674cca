//! Starts, stops, and one controller at a time.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_second_controller_on_the_same_store_says_who_acts() {
    let lab = Lab::start(free_port()).await;
    let other = config(lab.folder.path(), "other-state");
    let error = App::build(other, Deps::system(None)).await.expect_err("refused");
    assert!(matches!(error, BuildError::Lease(_)), "{error}");
    assert!(error.to_string().contains("hx310-db/"), "{error}");
    let same = config(lab.folder.path(), "state");
    let error = App::build(same, Deps::system(None)).await.expect_err("refused");
    assert!(matches!(error, BuildError::Instance(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_starts_again_at_once_on_its_own_state() {
    let lab = Lab::start(free_port()).await;
    let Lab { folder, app, tasks } = lab;
    let token = app.context().lease.token();
    assert!(tasks.shutdown(GRACE).await, "a graceful stop");
    // Killed: nothing is given back.
    drop(app);
    let (app, tasks) = start(config(folder.path(), "state")).await;
    assert!(app.context().lease.token() > token);
    assert!(tasks.shutdown(GRACE).await, "a graceful stop");
    app.finish().await;
    drop(app);
    // The lease was given back, so that another installation need not wait for it to run out.
    let (_app, _tasks) = start(config(folder.path(), "other-state")).await;
}
