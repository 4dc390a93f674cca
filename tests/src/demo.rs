//! `make demo` and `make demo-check`: the main job from an empty folder to a proved backup and an
//! answered question.

use std::{
    io::{self, Write},
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use crate::{
    lab::{BACKUP, Daemon, HOSTS, Lab, MODEL, Ports},
    process::{command, output},
    wait::{Look, wait_for},
};

/// Hosts as they stand once all have joined.
const AWAKE: [(&str, &str); 4] = [
    ("qotom", "ANSWERING"),
    ("hx310-db", "ANSWERING"),
    ("cw-nas", "ANSWERING"),
    ("x99", "ANSWERING"),
];
/// Hosts as they stand while x99 sleeps.
const ASLEEP: [(&str, &str); 4] =
    [("qotom", "ANSWERING"), ("hx310-db", "ANSWERING"), ("cw-nas", "ANSWERING"), ("x99", "ASLEEP")];

/// A restore of the demo's small database, and its comparison.
const DRILL_WITHIN: Duration = Duration::from_secs(120);

/// Prints what is done, and how long it took.
#[derive(Debug)]
pub struct Story {
    began: Instant,
}

impl Story {
    /// Begins to tell.
    #[must_use]
    pub fn begin() -> Self {
        Self { began: Instant::now() }
    }

    /// Does one step and tells how it went.
    ///
    /// # Errors
    /// As the step, with its title.
    pub fn step<T>(
        &self,
        title: &str,
        step: impl FnOnce() -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let began = Instant::now();
        self.tell(&format!("[{:>4} s] {title} ", self.began.elapsed().as_secs()))?;
        let done = step().with_context(|| title.to_owned())?;
        self.tell(&format!("({:.1} s)\n", began.elapsed().as_secs_f32()))?;
        Ok(done)
    }

    /// Tells something.
    ///
    /// # Errors
    /// When standard output is closed.
    pub fn tell(&self, words: &str) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(words.as_bytes())
            .and_then(|()| out.flush())
            .context("write to standard output")
    }
}

/// Brings everything up, up to the first answer.
///
/// # Errors
/// Names the step that failed.
pub fn bring_up(story: &Story, ports: Ports) -> anyhow::Result<Lab> {
    let mut lab =
        story.step("two PostgreSQL servers, one with a wiki in it", || Lab::prepare(ports))?;
    story.step("certificate authority, controller, login", || lab.start_controller())?;
    story.step("a repository on \"the NAS\"", || lab.init_repository())?;
    for host in &HOSTS {
        story.step(&format!("{} joins by tokens", host.name), || {
            host.daemons.iter().try_for_each(|daemon| lab.join(host, *daemon))
        })?;
    }
    story.step("the controller sees every host", || lab.wait_for_hosts(&AWAKE))?;
    for host in HOSTS.iter().filter(|host| host.on_demand) {
        story.step(&format!("{} is switched off until needed", host.name), || {
            lab.switch_off(host)
        })?;
    }
    story.step("the controller knows that x99 sleeps", || lab.wait_for_hosts(&ASLEEP))?;
    Ok(lab)
}

/// The first backup, and the proof that it can be restored.
///
/// # Errors
/// When either fails.
pub fn back_up_and_drill(story: &Story, lab: &Lab) -> anyhow::Result<()> {
    story.step("first backup, proved complete", || {
        lab.labctl(&["backup", "run", BACKUP, "--wait"])
    })?;
    // A backup that was never drilled is drilled as soon as there is something to restore.
    story.step("first drill into the second PostgreSQL, by itself", || {
        wait_for("the first drill", DRILL_WITHIN, || {
            let listed = lab.labctl_json(&["backup", "list"])?;
            let drilled = listed["backups"][0]["lastDrillAt"].is_string();
            Ok(if drilled {
                Look::Ready(())
            } else {
                Look::NotYet(lab.labctl(&["backup", "runs"])?)
            })
        })
    })?;
    let drill = lab.labctl(&["backup", "runs"])?;
    story.tell(&indent(&drill))
}

/// A question to the real model, over gRPC and over the gateway.
///
/// # Errors
/// When the model does not answer.
pub fn ask(story: &Story, lab: &Lab) -> anyhow::Result<()> {
    story.step("a real language model is loaded on cw-nas (bronze)", || {
        lab.wait_for_model("bronze")
    })?;
    let answer = story.step("labctl ask", || {
        lab.labctl(&["ask", "--tokens-max", "40", "Name three things that a backup must be."])
    })?;
    story.tell(&indent(&answer))?;
    let answer =
        story.step("the same through the OpenAI gateway", || chat(lab, MODEL, "Say hello."))?;
    story.tell(&indent(&answer))
}

/// A job for silver waits while x99 sleeps, and is answered once it is up.
///
/// # Errors
/// When it does not wait, or is not answered.
pub fn wake_silver(story: &Story, lab: &mut Lab) -> anyhow::Result<()> {
    let job = story.step("a job for silver waits, because x99 sleeps", || {
        let made = lab.labctl_json(&[
            "job",
            "submit",
            "--tier",
            "silver",
            "--tokens-max",
            "16",
            "Say hello.",
        ])?;
        let id = made["job"]["jobId"].as_str().context("no job was made")?.to_owned();
        wait_for("the job to wait for x99", Duration::from_secs(20), || {
            let shown = lab.labctl_json(&["job", "show", &id])?;
            let (state, reason) = (&shown["job"]["state"], &shown["job"]["reason"]);
            Ok(if state == "JOB_STATE_WAITING" {
                Look::Ready(())
            } else {
                Look::NotYet(format!("{state} {reason}"))
            })
        })?;
        Ok(id)
    })?;
    story.tell(&indent(&lab.labctl(&["job", "explain", &job])?))?;
    story.step("x99 wakes up", || wake(lab))?;
    story.step("the job is answered by silver", || {
        wait_for("the job", Duration::from_secs(120), || {
            let shown = lab.labctl_json(&["job", "show", &job])?;
            let state = shown["job"]["state"].as_str().unwrap_or_default().to_owned();
            Ok(if state == "JOB_STATE_SUCCEEDED" { Look::Ready(()) } else { Look::NotYet(state) })
        })
    })
}

/// Starts the daemons of x99, as power would.
///
/// # Errors
/// When they cannot be started.
pub fn wake(lab: &mut Lab) -> anyhow::Result<()> {
    for host in HOSTS.iter().filter(|host| host.on_demand) {
        lab.switch_on(host)?;
    }
    lab.wait_for_hosts(&[("x99", "ANSWERING")])?;
    lab.wait_for_model("silver")
}

/// Asserts the whole through public interfaces only, and tears it down.
///
/// # Errors
/// Names the point that does not hold.
pub fn check(story: &Story) -> anyhow::Result<()> {
    let mut lab = bring_up(story, Ports::free()?)?;
    back_up_and_drill(story, &lab)?;
    ask(story, &lab)?;
    wake_silver(story, &mut lab)?;
    story.step("the snapshot is verified and drilled", || snapshot_is_proved(&lab))?;
    story.step("the gateway streams, and refuses a wrong key", || gateway_streams(&lab))?;
    story.step("the dashboard opens by a one-time link", || dashboard_opens(&lab))?;
    story.step("the audit chain is intact", || lab.labctl(&["audit", "verify"]).map(drop))?;
    story.step("labctl doctor finds nothing broken", || {
        let findings = lab.labctl_command(&["doctor"]).output().context("labctl doctor")?;
        let text = String::from_utf8_lossy(&findings.stdout).into_owned();
        ensure!(!text.contains("FAIL"), "{text}");
        Ok(())
    })?;
    let folder = lab.folder().to_path_buf();
    story.step("every daemon ends gracefully", || lab.stop())?;
    drop(lab);
    story.step("nothing is left behind", || {
        ensure!(!folder.exists(), "{} is still there", folder.display());
        Ok(())
    })
}

/// One question through the gateway; the answer's text.
///
/// # Errors
/// When the gateway does not answer in OpenAI's form.
pub fn chat(lab: &Lab, model: &str, question: &str) -> anyhow::Result<String> {
    let body = serde_json::json!({
        "model": model,
        "max_tokens": 24,
        "messages": [{ "role": "user", "content": question }],
    });
    let text = output(
        lab.curl("/v1/chat/completions")
            .args(["--header", "content-type: application/json", "--data"])
            .arg(body.to_string()),
    )?;
    let answer: Value = serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))?;
    let content = answer["choices"][0]["message"]["content"].as_str();
    Ok(content.with_context(|| format!("no answer in {text}"))?.to_owned())
}

fn snapshot_is_proved(lab: &Lab) -> anyhow::Result<()> {
    let snapshots = lab.labctl_json(&["backup", "snapshots", BACKUP])?;
    let newest = &snapshots["snapshots"][0];
    ensure!(newest["verifiedAt"].is_string(), "not verified: {snapshots}");
    let status = lab.labctl_json(&["backup", "list"])?;
    ensure!(status["backups"][0]["lastDrillAt"].is_string(), "not drilled: {status}");
    let verified = lab.labctl_json(&["backup", "verify", BACKUP, "--read-data"])?;
    ensure!(verified["response"]["report"]["sound"] == true, "not sound: {verified}");
    Ok(())
}

fn gateway_streams(lab: &Lab) -> anyhow::Result<()> {
    let body = serde_json::json!({
        "model": MODEL,
        "stream": true,
        "max_tokens": 8,
        "messages": [{ "role": "user", "content": "Count." }],
    });
    let text = output(
        lab.curl("/v1/chat/completions")
            .args(["--no-buffer", "--header", "content-type: application/json", "--data"])
            .arg(body.to_string()),
    )?;
    ensure!(text.matches("data: ").count() > 3, "not streamed: {text}");
    ensure!(text.trim_end().ends_with("data: [DONE]"), "no end: {text}");
    let mut wrong = lab.curl("/v1/models");
    let refused =
        wrong.args(["--oauth2-bearer", "sk-wrong"]).stdout(Stdio::null()).stderr(Stdio::null());
    ensure!(!refused.status().context("curl")?.success(), "a wrong key was let in");
    Ok(())
}

fn dashboard_opens(lab: &Lab) -> anyhow::Result<()> {
    let link = lab.labctl(&["dashboard"])?;
    let token = link.trim().rsplit_once('/').context("the link has no token")?.1.to_owned();
    let jar = lab.folder().join("cookies");
    let log_in = || {
        let mut post = lab.curl("/login");
        // What a browser adds when the form stands on the controller's own page.
        post.args(["--location", "--header", "sec-fetch-site: same-origin"]);
        post.arg("--cookie-jar").arg(&jar).arg("--cookie").arg(&jar);
        output(post.arg("--data").arg(format!("token={token}")))
    };
    let page = log_in()?;
    for word in ["hx310-db", "x99", BACKUP] {
        ensure!(page.contains(word), "the page does not name {word}: {page}");
    }
    std::fs::remove_file(&jar).context("forget the session")?;
    if log_in().is_ok_and(|page| page.contains("hx310-db")) {
        bail!("the link worked twice");
    }
    Ok(())
}

/// Has a real browser log in, draw the dashboard, and look for faults that a person would meet.
///
/// # Errors
/// When Chromium or Node is missing, or names the faults.
pub fn screenshots(story: &Story, lab: &Lab, folder: &Path) -> anyhow::Result<()> {
    let folder = std::path::absolute(folder).context("find the folder")?;
    let link = lab.labctl(&["dashboard"])?;
    story.step("a real browser draws the dashboard", || {
        let mut node = command(lab.program_on_path("node")?);
        node.arg(lab.root().join("tests/ui/dashboard.mjs")).arg(link.trim()).arg(&folder);
        output(node.env("HOME", lab.folder()))
    })?;
    Ok(())
}

fn indent(text: &str) -> String {
    text.trim().lines().map(|line| format!("         | {line}\n")).collect()
}

/// What a person can do now.
///
/// # Errors
/// When no login link can be made.
pub fn what_now(lab: &Lab) -> anyhow::Result<String> {
    let link = lab.labctl(&["dashboard"])?;
    let identity = lab.identity();
    let agent = lab.ports().of("hx310-db", Daemon::Agent).context("a port")?;
    Ok(format!(
        "\nEverything is up.\n\n\
         Dashboard (once):  {link}\
         CLI:               export HOMELAB_CONTEXT={context}\n\
         {blank}PATH={programs}:$PATH; labctl status\n\
         OpenAI gateway:    {web}/v1, key {key}, CA {ca}\n\
         grpcurl:           .dev/tools/bin/grpcurl -cacert {ca} -cert {cert} -key {private} \\\n\
         {blank}{agent} homelab.agent.v1.HostService/GetHealth\n\
         Wake x99:          touch {folder}/wake-x99\n\n\
         Ctrl-C ends and removes everything.\n",
        blank = " ".repeat(19),
        context = identity.parent().unwrap_or(&identity).display(),
        programs = lab.programs().display(),
        web = lab.web_url(),
        key = crate::lab::API_KEY,
        ca = identity.join("ca.pem").display(),
        cert = identity.join("cert.pem").display(),
        private = identity.join("key.pem").display(),
        folder = lab.folder().display(),
    ))
}

/// Keeps the lab up until `stop` says so; wakes x99 when a person touches the file for it.
///
/// # Errors
/// When x99 does not wake, or a daemon ended by itself.
pub fn stay_up(story: &Story, lab: &mut Lab, stop: impl Fn() -> bool) -> anyhow::Result<()> {
    let switch = lab.folder().join("wake-x99");
    while !stop() {
        if switch.exists() {
            std::fs::remove_file(&switch).context("take the switch back")?;
            story.step("x99 wakes up", || wake(lab))?;
        }
        for name in lab.running() {
            let process = lab.process(&name)?;
            ensure!(process.is_running(), "{name} ended by itself:\n{}", process.log_tail());
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    story.step("ending every daemon", || lab.stop())
}
