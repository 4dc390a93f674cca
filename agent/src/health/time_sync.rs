//! Whether the clock is kept in step with the world.
//!
//! Backups, certificates and leases all rest on it, so "nobody could tell" is never taken for
//! "yes". The kernel knows (`adjtimex(2)`), but no safe wrapper of that call exists, so the
//! daemon that disciplines the clock is asked instead.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use homelab_common::error_chain::Chain;
use homelab_common::exec::{Exec, Program};

use crate::reading::{Missing, Reading};

const PATIENCE: Duration = Duration::from_secs(10);
const OUTPUT_BYTES_MAX: u64 = 16 * 1024;

/// What the time daemon says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeSync {
    /// True when the clock follows a time source now.
    pub is_synchronized: bool,
    /// Who says so: `chrony` or `timedatectl`.
    pub source: &'static str,
}

/// Asks chrony where it runs, which is what Proxmox installs, and systemd otherwise. `run` is `/run`.
///
/// # Errors
/// [`Missing::Absent`] with neither, [`Missing::Program`] when the one found gives no answer.
pub(super) async fn read(run: &Path, exec: &dyn Exec) -> Reading<TimeSync> {
    if run.join("chrony").is_dir() {
        let text = ask(exec, "chronyc", &["-c", "-n", "tracking"]).await?;
        return parse_chrony(&text);
    }
    if run.join("systemd/system").is_dir() {
        let text = ask(exec, "timedatectl", &["show", "--property=NTPSynchronized"]).await?;
        return parse_timedatectl(&text);
    }
    Err(Missing::Absent(Arc::from("time daemon that can be asked (chrony or systemd)")))
}

async fn ask(exec: &dyn Exec, program: &'static str, args: &[&str]) -> Reading<String> {
    let command = Program::new(program)
        .args(args.iter().copied())
        .deadline(PATIENCE)
        .output_bytes_max(OUTPUT_BYTES_MAX);
    match exec.run(command).await {
        Ok(output) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        Err(error) => Err(Missing::Program { program, why: Chain(&error).to_string().into() }),
    }
}

/// Fourteen fields with commas between; the last is the leap status, in words
/// (`client.c` of chrony, `process_cmd_tracking`).
fn parse_chrony(text: &str) -> Reading<TimeSync> {
    let fields: Vec<&str> = text.trim().split(',').collect();
    let is_synchronized = match fields.as_slice() {
        [_, _, _, _, _, _, _, _, _, _, _, _, _, leap] => match *leap {
            "Normal" | "Insert second" | "Delete second" => true,
            "Not synchronised" => false,
            _ => return Err(Missing::Malformed("the leap status of chronyc tracking")),
        },
        _ => return Err(Missing::Malformed("chronyc tracking")),
    };
    Ok(TimeSync { is_synchronized, source: "chrony" })
}

fn parse_timedatectl(text: &str) -> Reading<TimeSync> {
    let value = text.lines().find_map(|line| line.trim().strip_prefix("NTPSynchronized="));
    let is_synchronized = match value {
        Some("yes") => true,
        Some("no") => false,
        _ => return Err(Missing::Malformed("timedatectl show")),
    };
    Ok(TimeSync { is_synchronized, source: "timedatectl" })
}

#[cfg(test)]
mod tests {
    use homelab_common::exec::fake::{Answer, FakeExec};
    use proptest::prelude::*;

    use super::*;

    async fn asked(daemons: &[&str], exec: &FakeExec) -> Reading<TimeSync> {
        let run = tempfile::tempdir().unwrap();
        for daemon in daemons {
            std::fs::create_dir_all(run.path().join(daemon)).unwrap();
        }
        read(run.path(), exec).await
    }

    #[tokio::test]
    async fn chrony_is_asked_before_systemd() {
        let exec = FakeExec::default()
            .on("chronyc", Answer::stdout(TRACKING))
            .on("timedatectl", Answer::stdout("NTPSynchronized=no\n"));
        let both = asked(&["chrony", "systemd/system"], &exec).await;
        assert_eq!(both, Ok(TimeSync { is_synchronized: true, source: "chrony" }));
        let systemd = asked(&["systemd/system"], &exec).await;
        assert_eq!(systemd, Ok(TimeSync { is_synchronized: false, source: "timedatectl" }));
    }

    #[tokio::test]
    async fn a_daemon_that_gives_no_answer_leaves_the_clock_unknown() {
        let exec = FakeExec::default().on("chronyc", Answer::exit(1, "506 Cannot talk to daemon"));
        let clock = asked(&["chrony"], &exec).await;
        assert!(matches!(clock, Err(Missing::Program { .. })), "{clock:?}");
    }

    const TRACKING: &str = "C0A8C801,192.168.200.1,3,1763870000.123,-0.000012,0.000004,0.00002,\
        -11.2,0.001,0.02,0.0012,0.0005,64.5,Normal\n";

    #[test]
    fn chrony_is_believed_only_about_words_that_we_know() {
        let say = |leap: &str| parse_chrony(&TRACKING.replace("Normal", leap));
        assert!(say("Normal").unwrap().is_synchronized);
        assert!(say("Insert second").unwrap().is_synchronized);
        assert!(!say("Not synchronised").unwrap().is_synchronized);
        assert!(say("Perhaps").is_err());
        assert!(parse_chrony("506 Cannot talk to daemon\n").is_err());
    }

    #[test]
    fn timedatectl_says_yes_or_no() {
        assert!(parse_timedatectl("NTPSynchronized=yes\n").unwrap().is_synchronized);
        assert!(!parse_timedatectl("NTPSynchronized=no\n").unwrap().is_synchronized);
        assert!(parse_timedatectl("").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text: String) {
            let _survived = (parse_chrony(&text), parse_timedatectl(&text));
        }
    }
}
