//! The whole lab with real daemons, looked at from outside only.

#![expect(clippy::expect_used, reason = "a test may stop at the first surprise")]

#[path = "lab/kill.rs"]
mod kill;
#[path = "lab/labctl_backup.rs"]
mod labctl_backup;
#[path = "lab/power.rs"]
mod power;

use std::net::SocketAddr;

use anyhow::Context as _;
use homelab_tests::{
    demo::{self, Story},
    lab::{BACKUP, Daemon, Lab, MODEL, Ports},
    process::{command, output},
};

/// A daemon, its address, and one of its own services.
fn daemons(lab: &Lab) -> [(&'static str, SocketAddr, &'static str); 4] {
    let port = |host, daemon| lab.ports().of(host, daemon).expect("is in the lab");
    [
        ("agent", port("hx310-db", Daemon::Agent), "homelab.agent.v1.HostService"),
        ("backup-agent", port("hx310-db", Daemon::BackupAgent), "homelab.backup.v1.BackupService"),
        ("gpu-worker", port("cw-nas", Daemon::GpuWorker), "homelab.inference.v1.InferenceService"),
        ("controller", lab.ports().grpc(), "homelab.controller.v1.FleetService"),
    ]
}

#[test]
fn the_main_job_runs_from_an_empty_folder_to_an_answer() {
    demo::check(&Story::begin()).expect("every point of the demo holds");
}

#[test]
fn grpcurl_can_do_by_hand_what_the_controller_does() {
    let story = Story::begin();
    let mut lab = demo::bring_up(&story, Ports::free().expect("ports")).expect("the lab comes up");
    lab.wait_for_model("bronze").expect("a model");
    for (name, address, service) in daemons(&lab) {
        let address = address.to_string();
        let services = lab.grpcurl(&address, &[], &["list"]).expect(name);
        for wanted in [service, "homelab.common.v1.NodeService", "grpc.health.v1.Health"] {
            assert!(services.lines().any(|line| line == wanted), "{name} lists {services}");
        }
        let manual = lab.grpcurl(&address, &[], &["describe", service]).expect(name);
        assert!(manual.contains("Role: viewer"), "{name}: the comments are the manual: {manual}");
        let body = format!("{{\"service\": \"{service}\"}}");
        let health =
            lab.grpcurl(&address, &["-d", &body], &["grpc.health.v1.Health/Check"]).expect(name);
        assert!(health.contains("SERVING"), "{name}: {health}");
        refused_without_a_certificate(&lab, name, &address).expect("is refused");
    }
    call_each_purpose(&lab).expect("each daemon does its one thing");
    lab.stop().expect("a graceful end");
}

fn refused_without_a_certificate(lab: &Lab, name: &str, address: &str) -> anyhow::Result<()> {
    let mut stranger = command(lab.grpcurl_program());
    stranger.arg("-cacert").arg(lab.identity().join("ca.pem")).args([
        "-max-time",
        "10",
        address,
        "list",
    ]);
    let refused = output(&mut stranger);
    anyhow::ensure!(refused.is_err(), "{name} let a stranger in");
    Ok(())
}

fn call_each_purpose(lab: &Lab) -> anyhow::Result<()> {
    let [agent, backup, worker, _] = daemons(lab).map(|(_, address, _)| address.to_string());
    let health = lab.grpcurl(&agent, &[], &["homelab.agent.v1.HostService/GetHealth"])?;
    anyhow::ensure!(health.contains("availableBytes"), "{health}");
    let run = lab.grpcurl(
        &backup,
        &["-d", &format!("{{\"backup\": \"{BACKUP}\"}}")],
        &["homelab.backup.v1.BackupService/RunBackup"],
    )?;
    anyhow::ensure!(run.contains("verifiedAt"), "{run}");
    let question = format!(
        "{{\"model\": \"{MODEL}\", \"tokensMax\": 8, \
         \"messages\": [{{\"role\": \"CHAT_ROLE_USER\", \"content\": \"Hello\"}}]}}"
    );
    let answer = lab.grpcurl(
        &worker,
        &["-d", &question],
        &["homelab.inference.v1.InferenceService/ChatComplete"],
    )?;
    anyhow::ensure!(answer.contains("\"delta\"") && answer.contains("\"done\""), "{answer}");
    Ok(())
}

#[test]
fn what_labctl_prints_for_grpcurl_does_the_same() {
    let story = Story::begin();
    let mut lab = demo::bring_up(&story, Ports::free().expect("ports")).expect("the lab comes up");
    let printed = lab.labctl(&["host", "show", "qotom", "--grpcurl"]).expect("a command");
    let pasted = printed.replacen("grpcurl", &lab.grpcurl_program().display().to_string(), 1);
    let answer = output(command("sh").args(["-c", &pasted])).expect("can be pasted");
    assert!(answer.contains("\"name\": \"qotom\""), "{answer}");
    lab.stop().expect("a graceful end");
}

#[test]
fn a_revoked_host_is_cut_off_and_says_why() {
    let story = Story::begin();
    let mut lab = demo::bring_up(&story, Ports::free().expect("ports")).expect("the lab comes up");
    lab.labctl(&["ca", "revoke", "qotom", "--reason", "stolen"]).expect("revoked");
    lab.wait_for_hosts(&[("qotom", "UNREACHABLE"), ("cw-nas", "ANSWERING")]).expect("cut off");
    let hosts = lab.labctl_json(&["host", "list"]).expect("hosts");
    let message =
        hosts["hosts"].as_array().into_iter().flatten().find(|host| host["name"] == "qotom");
    let message = message.and_then(|host| host["message"].as_str()).unwrap_or_default();
    assert!(message.contains("revoked"), "{message}");
    lab.stop().expect("a graceful end");
}

#[test]
fn whatever_is_killed_at_whatever_moment_nothing_acknowledged_is_lost() {
    let seed = std::env::var("HOMELAB_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| u64::from(std::process::id()) ^ 0x5eed);
    let story = Story::begin();
    story.tell(&format!("seed {seed}: repeat with HOMELAB_SEED={seed}\n")).expect("printed");
    homelab_tests::chaos::run(&story, seed, 20)
        .with_context(|| format!("HOMELAB_SEED={seed}"))
        .expect("nothing is lost");
}
