//! Units of systemd that failed.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use homelab_common::exec::{Exec, Program};

use crate::health::text::{label, lines, words};
use crate::reading::{Missing, Reading};

/// More names than this do not help anybody.
const UNITS_MAX: usize = 100;
const PATIENCE: Duration = Duration::from_secs(10);
const OUTPUT_BYTES_MAX: u64 = 256 * 1024;

/// Names of failed units, at most 100.
pub type FailedUnits = Vec<String>;

/// Asks systemd which units failed. `run` is `/run`.
///
/// # Errors
/// [`Missing::Absent`] where systemd is not the init system, [`Missing::Program`] when it cannot
/// be asked.
pub(super) async fn read(run: &Path, exec: &dyn Exec) -> Reading<FailedUnits> {
    // What sd_booted(3) looks at.
    if !run.join("systemd/system").is_dir() {
        return Err(Missing::Absent(Arc::from("systemd")));
    }
    let program = Program::new("systemctl")
        .args(["list-units", "--failed", "--all", "--plain", "--full", "--no-legend", "--no-pager"])
        .deadline(PATIENCE)
        .output_bytes_max(OUTPUT_BYTES_MAX);
    match exec.run(program).await {
        Ok(output) => Ok(parse(&output.stdout)),
        Err(error) => Err(Missing::Program {
            program: "systemctl",
            why: Arc::from(homelab_common::error_chain::Chain(&error).to_string()),
        }),
    }
}

/// One unit each line, its name first. Older systemd puts a dot before it even when told not to.
fn parse(text: &[u8]) -> FailedUnits {
    let name = |line| words(line).find(|word: &&[u8]| word.contains(&b'.'));
    lines(text).filter_map(name).map(|name| label(name, 256)).take(UNITS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use homelab_common::exec::fake::{Answer, FakeExec};
    use proptest::prelude::*;

    use super::*;

    /// A `/run` as systemd makes it.
    fn run_of_systemd() -> tempfile::TempDir {
        let run = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(run.path().join("systemd/system")).unwrap();
        run
    }

    #[tokio::test]
    async fn systemd_is_asked_where_it_runs() {
        let exec = FakeExec::default().on("systemctl", Answer::stdout("a.service loaded failed\n"));
        let failed = read(run_of_systemd().path(), &exec).await;
        assert_eq!(failed, Ok(vec!["a.service".to_owned()]));
    }

    #[tokio::test]
    async fn systemd_that_gives_no_answer_is_unknown_and_not_all_well() {
        for answer in [Answer::exit(1, "Failed to connect to bus"), Answer::late()] {
            let exec = FakeExec::default().on("systemctl", answer);
            let failed = read(run_of_systemd().path(), &exec).await;
            assert!(matches!(failed, Err(Missing::Program { .. })), "{failed:?}");
        }
    }

    #[tokio::test]
    async fn without_systemd_it_is_not_asked() {
        let (run, exec) = (tempfile::tempdir().unwrap(), FakeExec::default());
        assert!(matches!(read(run.path(), &exec).await, Err(Missing::Absent(_))));
        assert!(exec.calls().is_empty());
    }

    #[test]
    fn the_first_word_of_each_line_is_the_unit() {
        let text = "pve-daily-update.service loaded failed failed Daily PVE download\n\
            \u{25cf} mnt-nas.mount loaded failed failed /mnt/nas\n";
        assert_eq!(parse(text.as_bytes()), ["pve-daily-update.service", "mnt-nas.mount"]);
    }

    #[test]
    fn nothing_failed_is_an_empty_list() {
        assert!(parse(b"").is_empty());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(text: Vec<u8>) {
            prop_assert!(parse(&text).len() <= UNITS_MAX);
        }
    }
}
