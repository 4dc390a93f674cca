//! OpenAI's SDKs and Open WebUI's own requests against the gateway: real daemons, a real engine, a real
//! model, over HTTPS.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use homelab_tests::{
    gateway_lab::{BRONZE_KEY, CALLING, FEW_KEY, GatewayLab, KEY, MODEL, SLEEPING, VECTORS},
    lab::workspace,
    process::{command, on_path, output},
    wait::{Look, wait_for},
};
use serde_json::Value;

/// What every prompt holds and no log may.
const CANARY: &str = "zebra-4711-quagga";

/// A job whose client left is cancelled at once; the rest is for a machine that also compiles.
const CANCELLED_WITHIN: Duration = Duration::from_secs(10);

/// Open WebUI's requests that are recorded.
const RECORDED_MIN: usize = 10;

#[test]
fn the_official_sdk_for_python_uses_the_gateway_unchanged() {
    the_sdk_is_content(&sdk().join("bin/python"), "gateway.py");
}

#[test]
fn the_official_sdk_for_node_uses_the_gateway_unchanged() {
    the_sdk_is_content(&on_path("node").expect("apt install nodejs"), "gateway.mjs");
}

#[test]
fn open_webuis_own_requests_are_answered_as_it_reads_them() {
    let mut lab = GatewayLab::start().unwrap();
    let mut paths: Vec<_> = fs::read_dir(workspace().join("tests/sdk/open-webui"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(paths.len() >= RECORDED_MIN, "only {} requests recorded", paths.len());
    for path in paths {
        let text = fs::read_to_string(&path).unwrap();
        let text = text
            .replace("VECTORS", VECTORS)
            .replace("SLEEPING", SLEEPING)
            .replace("CANARY", CANARY)
            .replace("MODEL", MODEL);
        let recorded: Value = serde_json::from_str(&text).unwrap();
        let answer = send(&lab, &recorded);
        for wanted in recorded["wants"].as_array().unwrap() {
            let wanted = wanted.as_str().unwrap();
            assert!(answer.contains(wanted), "{}: no {wanted} in {answer}", path.display());
        }
    }
    leaves_nothing_behind(&mut lab);
}

/// Runs a script to its end, and looks at what it leaves behind from the outside.
fn the_sdk_is_content(program: &Path, script: &str) {
    let mut lab = GatewayLab::start().unwrap();
    let engine = lab.engine().unwrap();
    let mut run = command(program);
    run.arg(workspace().join("tests/sdk").join(script))
        .env("SDK", sdk())
        .env("GATEWAY_URL", lab.url())
        .env("CA", lab.ca())
        .env("NODE_EXTRA_CA_CERTS", lab.ca())
        .env("ENGINE_URL", engine.url)
        .env("ENGINE_KEY", engine.key);
    for (name, value) in [
        ("KEY", KEY),
        ("FEW_KEY", FEW_KEY),
        ("BRONZE_KEY", BRONZE_KEY),
        ("MODEL", MODEL),
        ("VECTORS", VECTORS),
        ("CALLING", CALLING),
        ("SLEEPING", SLEEPING),
        ("CANARY", CANARY),
    ] {
        run.env(name, value);
    }
    let told = output(&mut run).unwrap();
    println!("{told}");
    let cancelled: Vec<_> =
        told.lines().filter_map(|line| line.strip_prefix("cancelled ")).collect();
    assert!(!cancelled.is_empty(), "{told}");
    for job in cancelled {
        wait_for("the job of a client that left", CANCELLED_WITHIN, || {
            let shown = lab.labctl_json(&["job", "show", job])?;
            let state = shown["job"]["state"].as_str().unwrap_or_default().to_owned();
            let ended = state == "JOB_STATE_CANCELLED";
            Ok(if ended { Look::Ready(()) } else { Look::NotYet(state) })
        })
        .unwrap();
    }
    leaves_nothing_behind(&mut lab);
}

/// Sends a recorded request as Open WebUI does; head and body of the answer.
fn send(lab: &GatewayLab, recorded: &Value) -> String {
    let mut curl = lab.curl(recorded["path"].as_str().unwrap());
    curl.args(["--include", "--max-time", if recorded["leaves"] == true { "3" } else { "60" }]);
    for (name, value) in recorded["headers"].as_object().unwrap() {
        // Curl sends an empty header only when it ends with a semicolon.
        let value = value.as_str().unwrap();
        let header = if value.is_empty() { format!("{name};") } else { format!("{name}: {value}") };
        curl.arg("--header").arg(header);
    }
    if let Some(body) = recorded.get("body") {
        curl.args(["--header", "Content-Type: application/json", "--data"]);
        curl.arg(body.to_string());
    }
    shown(&mut curl)
}

/// What a program wrote, however it ended: who leaves a stream ends with an error.
fn shown(program: &mut Command) -> String {
    String::from_utf8(program.output().unwrap().stdout).unwrap()
}

/// No slot is held for nobody, both daemons end gracefully, and no log or ledger has a prompt in it.
fn leaves_nothing_behind(lab: &mut GatewayLab) {
    assert_eq!(lab.busy().unwrap(), 0, "nothing runs for nobody");
    lab.stop().unwrap();
    for name in ["logs", "cw-nas"] {
        holds_no_prompt(&lab.path(name));
    }
}

fn holds_no_prompt(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            holds_no_prompt(&path);
        } else if let Ok(bytes) = fs::read(&path) {
            let text = String::from_utf8_lossy(&bytes);
            assert!(!text.contains(CANARY), "{} holds a prompt", path.display());
        }
    }
}

/// Where `packaging/setup.sh` puts the SDKs.
fn sdk() -> PathBuf {
    let folder = workspace().join(".dev/sdk");
    let (python, node) = (folder.join("bin/python"), folder.join("node_modules/openai"));
    let found = python.exists() && node.exists();
    assert!(found, "{} holds no SDKs: run packaging/setup.sh sdk", folder.display());
    folder
}
