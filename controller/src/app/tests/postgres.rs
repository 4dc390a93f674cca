//! A controller whose store is a PostgreSQL server, over TLS.

#[path = "../../../../tests/src/postgres.rs"]
#[expect(unreachable_pub, reason = "shared with a crate where it is public")]
mod cluster;

use homelab_domain::{ids::RequestId, job::JobStateKind};
use homelab_rpc::testing::TestSite;
use homelab_store::StoreUrl;

use self::cluster::{Cluster, PASSWORD, USER};
use super::*;
use crate::job::rig::{Rig, Step, wish};

/// A server with a certificate, and an empty database in it.
fn server(cache: &Path, pki: &TestSite) -> Cluster {
    let server = Cluster::start("controller", cache);
    let leaf = pki.leaf(&pki.daemon(Kind::Agent, "db"));
    server.speak_tls(&leaf.chain_pem, leaf.key_pem.expose());
    server.sql("postgres", "CREATE DATABASE homelab");
    server
}

fn address(server: &Cluster, roots: &Path) -> String {
    let (port, roots) = (server.port(), roots.display());
    format!("127.0.0.1:{port}/homelab?sslmode=verify-full&sslrootcert={roots}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_on_postgres_enrols_over_tls_and_starts_again_on_what_it_knew() {
    let (folder, pki) = (tempfile::tempdir().expect("a folder"), TestSite::new("home"));
    let server = server(folder.path(), &pki);
    let (roots, password) = (folder.path().join("roots.pem"), folder.path().join("password"));
    std::fs::write(&roots, pki.root_pem()).expect("writable");
    write_secret(&password, PASSWORD);
    let store = format!(
        "url = \"postgres://{USER}@{}\"\npassword = \"{}\"",
        address(&server, &roots),
        password.display()
    );
    let port = free_port();
    std::fs::write(folder.path().join("homelab.toml"), site_file(port)).expect("writable");
    let config = config_on(folder.path(), "state", &store);
    let lab = Lab::found(folder, config.clone(), Arc::new(SystemClock)).await;

    let pki = lab.folder.path().join("agent-pki");
    lab.enrol(lab.token().await, &pki).await.expect("enrolled");
    let sessions = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) \
                    WHERE application_name = 'homelab-controller'";
    assert_eq!(server.sql("homelab", sessions), "t", "every connection is encrypted");

    let Lab { folder, app, tasks } = lab;
    assert!(tasks.shutdown(GRACE).await, "a graceful stop");
    app.finish().await;
    drop(app);
    let (app, tasks) = start(config).await;
    let lab = Lab { folder, app, tasks };
    let issued = EnrolmentServiceClient::new(lab.admin())
        .list_certificates(pb::ListCertificatesRequest { name: "x99".into(), ..Default::default() })
        .await
        .expect("certificates")
        .into_inner()
        .certificates;
    assert_eq!(issued.len(), 1, "{issued:?}");
    let verified = AuditServiceClient::new(lab.admin())
        .verify_audit(pb::VerifyAuditRequest {})
        .await
        .expect("verified")
        .into_inner();
    assert!(verified.intact && verified.entries >= 2, "{verified:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_on_postgres_is_answered_retried_and_found_again_after_a_kill() {
    let (folder, pki) = (tempfile::tempdir().expect("a folder"), TestSite::new("home"));
    let server = server(folder.path(), &pki);
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, pki.root_pem()).expect("writable");
    let url = |roots: &Path| {
        let password = PASSWORD.replace(':', "%3A").replace('\\', "%5C");
        StoreUrl::Postgres(format!("postgres://{USER}:{password}@{}", address(&server, roots)))
    };
    // A server that another CA vouches for is told nothing.
    let other = folder.path().join("other.pem");
    std::fs::write(&other, TestSite::new("away").root_pem()).expect("writable");
    homelab_store::open(&url(&other)).await.map(drop).expect_err("not the right server");

    let rig = Rig::over(url(&roots), folder).await;
    rig.engines.script(vec![Step::Say("Hel", "{}"), Step::Say("lo", "{}"), Step::Done]);
    let accepted = rig.jobs.submit(wish(1, "small")).await.expect("taken");
    let id = accepted.job.id();
    let is_over = async |rig: &Rig| {
        let (job, _) = rig.jobs.get(id).await.expect("readable").expect("is there");
        job.state().kind() == JobStateKind::Succeeded
    };
    eventually("the job is answered", || is_over(&rig)).await;
    let rig = rig.restart().await;
    assert!(is_over(&rig).await);
    assert_eq!(rig.jobs.answer(id).await.expect("readable"), "Hello");
    let call = RequestId::from(uuid::Uuid::from_u128(9));
    rig.jobs.retry(id, call, "ada").await.expect_err("it has succeeded");
}

fn write_secret(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).expect("writable");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
}
