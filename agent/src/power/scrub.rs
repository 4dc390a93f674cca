//! Scrubs and rebuilds of disks.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use homelab_common::error_chain::Chain;
use homelab_common::exec::{Exec, Program};

use super::fact::{Fact, Word};

const PATIENCE: Duration = Duration::from_secs(4);
const OUTPUT_BYTES_MAX: u64 = 256 * 1024;

/// Software arrays that check or rebuild themselves, from `/proc/mdstat`.
pub(super) fn arrays(proc: &Path) -> Vec<Fact> {
    match fs::read_to_string(proc.join("mdstat")) {
        Ok(text) => {
            let busy = ["check =", "resync =", "recovery =", "reshape ="];
            let works = text.lines().any(|line| busy.iter().any(|word| line.contains(word)));
            let fact = || Fact::new(Word::ScrubRunning, "a disk array checks or rebuilds itself");
            works.then(fact).into_iter().collect()
        }
        // Without the module there are no arrays.
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => vec![Fact::unknown("whether disk arrays rebuild", error)],
    }
}

/// Pools that are scrubbed or rebuilt, from `zpool status`; nothing is asked where there are none.
pub(super) async fn pools(proc: &Path, exec: &dyn Exec) -> Vec<Fact> {
    let kstat = proc.join("spl/kstat/zfs");
    let has_pools = fs::read_dir(kstat)
        .is_ok_and(|mut entries| entries.any(|entry| entry.is_ok_and(|it| it.path().is_dir())));
    if !has_pools {
        return Vec::new();
    }
    let program =
        Program::new("zpool").arg("status").deadline(PATIENCE).output_bytes_max(OUTPUT_BYTES_MAX);
    match exec.run(program).await {
        Ok(output) => scans(&String::from_utf8_lossy(&output.stdout)),
        Err(error) => vec![Fact::unknown("whether pools are scrubbed", Chain(&error))],
    }
}

/// One fact for each pool at work.
fn scans(text: &str) -> Vec<Fact> {
    let mut facts = Vec::new();
    let mut pool = "";
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("pool: ") {
            pool = name;
        }
        for work in ["scrub", "resilver"] {
            if line.starts_with(&format!("scan: {work} in progress")) {
                let message = format!("a {work} of pool {pool} runs");
                facts.push(Fact::new(Word::ScrubRunning, message));
            }
        }
    }
    facts
}
