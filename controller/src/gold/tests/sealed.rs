//! The same within a network that leads nowhere: a namespace of its own without an interface or a
//! route, where the kernel counts what is sent.

use std::{fs, io::Write as _, sync::Arc, time::Duration};

use homelab_common::exec::{Exec as _, ExecError, Program, SystemExec};
use homelab_domain::job::JobStateKind as Kind;

use super::{
    far::Far,
    rig::{House, Rig, asks, usual},
};
use crate::gold::wire::TlsConnector;

/// Set for the run within the namespace.
const INSIDE: &str = "HOMELAB_TEST_SEALED";

/// Jobs of the house and one that may leave, over the real way out to an address of nobody (RFC 5737).
async fn jobs_of_all_tiers() -> (Vec<Kind>, Kind) {
    let (far, tasks) = (Arc::new(Far::default()), homelab_common::lifecycle::Tasks::default());
    let url = "https://192.0.2.1:443/v1";
    let rig = Rig::on(&usual(), "1.00", House::Up, far, tasks, url, None, |clock| {
        Arc::new(TlsConnector::new(clock))
    })
    .await;
    let mut ends = Vec::new();
    for (number, text) in
        ["hello", "fail:late", "fail:silent", "password: geheim"].iter().enumerate()
    {
        let number = u128::try_from(number).expect("small") + 1;
        let (job, _) = rig.run(asks(number, "small", text)).await;
        ends.push(job.state().kind());
    }
    let (leaves, _) = rig.run(asks(99, "far-small", "hello")).await;
    (ends, leaves.state().kind())
}

/// Bytes that every interface of this network has sent.
fn bytes_sent() -> u64 {
    let text = fs::read_to_string("/proc/self/net/dev").expect("readable");
    let lines = text.lines().skip(2).filter_map(|line| line.split_once(':'));
    lines.filter_map(|(_, counts)| counts.split_whitespace().nth(8)?.parse::<u64>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_without_a_way_out_sends_no_byte() {
    if std::env::var_os(INSIDE).is_some() {
        let routes = fs::read_to_string("/proc/self/net/route").expect("readable");
        // One line is the head of the table.
        assert!(routes.lines().count() <= 1, "there is a route: {routes}");
        let (ends, leaves) = jobs_of_all_tiers().await;
        assert_eq!(ends, [Kind::Succeeded, Kind::Failed, Kind::Failed, Kind::Succeeded]);
        assert_eq!(leaves, Kind::Failed, "there is nobody to answer");
        assert_eq!(bytes_sent(), 0);
        return;
    }
    let own = std::env::current_exe().expect("a test binary");
    let name = concat!(module_path!(), "::a_run_without_a_way_out_sends_no_byte");
    let name = name.split_once("::").map_or(name, |(_crate, path)| path);
    let program = Program::new("/usr/bin/unshare")
        .args(["--net", "--map-root-user", "--"])
        .arg(own.display().to_string())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .deadline(Duration::from_secs(120));
    match SystemExec.run(program).await {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(text.contains("1 passed"), "nothing ran inside: {text}");
        }
        Err(ExecError::NotFound { .. }) => panic!("`unshare` is missing: apt install util-linux"),
        // A machine that gives no namespace to anybody but root.
        Err(ExecError::Exit { stderr_tail, .. }) if stderr_tail.contains("not permitted") => {
            let note = format!("left out: no network namespace here ({})\n", stderr_tail.trim());
            std::io::stderr().write_all(note.as_bytes()).expect("standard error");
        }
        Err(error) => panic!("{error:?}"),
    }
}
