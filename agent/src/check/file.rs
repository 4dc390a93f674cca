//! Looks at a file: is it there, is it large enough, is it young enough. Its content is never read.

use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::check::{Finding, Runner};
use crate::reading::{Missing, Reading};

/// A file.
#[derive(Clone, Debug, PartialEq)]
pub struct FileProbe {
    /// Absolute path; symbolic links are followed.
    pub path: PathBuf,
    /// Least size.
    pub size_bytes_min: Option<u64>,
    /// Greatest age since it was last written.
    pub age_max: Option<Duration>,
}

/// What the filesystem says about a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Facts {
    is_file: bool,
    size_bytes: u64,
    modified_at: Timestamp,
    owner: u32,
    mode: u32,
}

pub(super) async fn run(probe: &FileProbe, runner: &Runner) -> Finding {
    let path = probe.path.clone();
    let shown = path.to_string_lossy().into_owned();
    let facts = runner.filesystem.run(&shown, move || look(&path)).await;
    match facts {
        Ok(facts) => judge(probe, &facts, runner.clock.now()),
        Err(Missing::Absent(_)) => Finding::failed("FILE_MISSING", format!("{shown} is not there")),
        Err(why @ Missing::Hung { .. }) => {
            Finding::unknown("FILESYSTEM_HANGS", format!("{shown}: {why}"))
        }
        Err(why) => Finding::unknown("NOT_READABLE", why.to_string()),
    }
}

fn look(path: &std::path::Path) -> Reading<Facts> {
    let what = || Arc::from(path.to_string_lossy());
    let metadata = std::fs::metadata(path).map_err(|error| Missing::from_io(&what(), &error))?;
    let modified_at = Timestamp::from_second(metadata.mtime());
    Ok(Facts {
        is_file: metadata.is_file(),
        size_bytes: metadata.len(),
        modified_at: modified_at.map_err(|_| Missing::Malformed("the time of the file"))?,
        owner: metadata.uid(),
        mode: metadata.mode() & 0o7777,
    })
}

fn judge(probe: &FileProbe, facts: &Facts, now: Timestamp) -> Finding {
    let path = probe.path.display();
    let Facts { size_bytes, modified_at, owner, mode, .. } = facts;
    let observed = format!(
        "{path}: {size_bytes} bytes, written {modified_at}, owner {owner}, mode {mode:04o}"
    );
    if !facts.is_file {
        return Finding::failed("NOT_A_FILE", format!("{path} is not a regular file"));
    }
    if probe.size_bytes_min.is_some_and(|least| *size_bytes < least) {
        return Finding::failed("FILE_TOO_SMALL", observed);
    }
    let age = Duration::try_from(now.duration_since(*modified_at));
    match (probe.age_max, age) {
        (Some(most), Ok(age)) if age > most => Finding::failed("FILE_TOO_OLD", observed),
        // Written in the future: one of the two clocks is wrong, and so is any age. A second is
        // what the two roundings may differ by.
        (Some(_), Err(_)) if now.duration_since(*modified_at).as_secs() < -1 => {
            Finding::unknown("WRITTEN_IN_THE_FUTURE", observed)
        }
        _ => Finding::passed(observed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::tests::run;
    use crate::check::{Outcome, Probe, Verdict};

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn probe(size_bytes_min: Option<u64>, age_max: Option<Duration>) -> FileProbe {
        FileProbe { path: PathBuf::from("/srv/dump"), size_bytes_min, age_max }
    }

    fn facts(size_bytes: u64, age: jiff::SignedDuration) -> Facts {
        let modified_at = NOW - age;
        Facts { is_file: true, size_bytes, modified_at, owner: 0, mode: 0o640 }
    }

    async fn check(path: PathBuf) -> Outcome {
        run(Probe::File(FileProbe { path, ..probe(None, None) })).await
    }

    #[test]
    fn size_and_age_are_judged() {
        let hour = Duration::from_secs(3600);
        let ago = jiff::SignedDuration::from_secs;
        for (probe, facts, expected) in [
            (probe(None, None), facts(0, ago(0)), "AS_EXPECTED"),
            (probe(Some(10), None), facts(9, ago(0)), "FILE_TOO_SMALL"),
            (probe(Some(10), None), facts(10, ago(0)), "AS_EXPECTED"),
            (probe(None, Some(hour)), facts(1, ago(3600)), "AS_EXPECTED"),
            (probe(None, Some(hour)), facts(1, ago(3601)), "FILE_TOO_OLD"),
            (probe(None, Some(hour)), facts(1, ago(-60)), "WRITTEN_IN_THE_FUTURE"),
        ] {
            assert_eq!(judge(&probe, &facts, NOW).reason, expected, "{facts:?}");
        }
    }

    #[tokio::test]
    async fn a_file_that_is_there_passes_and_its_facts_are_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dump");
        std::fs::write(&path, b"12345").unwrap();
        let outcome = check(path).await;
        assert_eq!(outcome.verdict, Verdict::Passed);
        assert!(outcome.observed.contains("5 bytes"), "{}", outcome.observed);
    }

    #[tokio::test]
    async fn a_missing_file_and_a_folder_fail() {
        let folder = tempfile::tempdir().unwrap();
        let missing = check(folder.path().join("none")).await;
        assert_eq!((missing.verdict, missing.reason), (Verdict::Failed, "FILE_MISSING"));
        assert_eq!(check(folder.path().to_owned()).await.reason, "NOT_A_FILE");
    }
}
