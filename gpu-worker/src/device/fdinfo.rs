//! Video memory that our own engines hold, summed over their open files.
//!
//! i915 and xe show no total for a card, only what each client of the driver holds
//! (Documentation/gpu/drm-usage-stats.rst of the kernel). One client is seen once for
//! each file descriptor that refers to it, so clients are told apart by their number.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    path::Path,
};

use super::PciSlot;

/// An engine is one process, or a wrapper with a few below it.
const PROCESSES_MAX: usize = 64;

/// More files than an engine may have open.
const FILES_MAX: usize = 8192;

/// What the engines hold.
#[derive(Debug, Default)]
pub(super) struct Held {
    bytes: BTreeMap<PciSlot, u64>,
    problem: Option<String>,
}

impl Held {
    /// Bytes on one card.
    pub(super) fn on(&self, slot: &PciSlot) -> Result<u64, String> {
        match &self.problem {
            Some(problem) => Err(problem.clone()),
            None => Ok(self.bytes.get(slot).copied().unwrap_or(0)),
        }
    }
}

/// Looks at the processes `engines` and all below them.
pub(super) fn held(proc: &Path, engines: &[u32]) -> Held {
    let mut clients: HashMap<(PciSlot, u64), u64> = HashMap::new();
    let mut problem = None;
    for pid in family(proc, engines) {
        let folder = proc.join(pid.to_string()).join("fdinfo");
        match fs::read_dir(&folder) {
            Ok(entries) => {
                for entry in entries.take(FILES_MAX).flatten() {
                    // A file that was closed meanwhile holds nothing.
                    let Ok(text) = fs::read_to_string(entry.path()) else { continue };
                    if let Some(client) = client(&text) {
                        clients.insert((client.slot, client.number), client.bytes);
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => problem = Some(format!("{}: {error}", folder.display())),
        }
    }
    let mut bytes = BTreeMap::new();
    for ((slot, _), held) in clients {
        let sum: &mut u64 = bytes.entry(slot).or_default();
        *sum = sum.saturating_add(held);
    }
    Held { bytes, problem }
}

/// The processes with all that they have started.
fn family(proc: &Path, engines: &[u32]) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    let mut open = engines.to_vec();
    while let Some(pid) = open.pop() {
        if found.len() >= PROCESSES_MAX || !found.insert(pid) {
            continue;
        }
        let tasks = proc.join(pid.to_string()).join("task");
        for task in fs::read_dir(tasks).into_iter().flatten().take(FILES_MAX).flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            open.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    found
}

#[derive(Debug, PartialEq, Eq)]
struct Client {
    slot: PciSlot,
    number: u64,
    bytes: u64,
}

/// Reads one file; `None` when it is not open on a card.
fn client(text: &str) -> Option<Client> {
    let value = |key: &str| {
        text.lines().find_map(|line| Some(line.strip_prefix(key)?.strip_prefix(':')?.trim()))
    };
    let slot = value("drm-pdev")?.parse().ok()?;
    let number = value("drm-client-id")?.parse().ok()?;
    let sum = |kind: &str| {
        let regions = text.lines().filter_map(|line| {
            let (key, value) = line.strip_prefix(kind)?.split_once(':')?;
            // `local0` is i915's word and `vram0` that of xe.
            let is_video = ["local", "vram"].iter().any(|region| key.starts_with(region));
            if is_video { size(value) } else { None }
        });
        regions.reduce(u64::saturating_add)
    };
    let bytes = ["drm-resident-", "drm-memory-", "drm-total-"].iter().find_map(|kind| sum(kind));
    Some(Client { slot, number, bytes: bytes.unwrap_or(0) })
}

/// A number with an optional binary unit, as the kernel writes sizes.
fn size(text: &str) -> Option<u64> {
    let mut words = text.split_whitespace();
    let number: u64 = words.next()?.parse().ok()?;
    let unit = match words.next() {
        None => 1,
        Some("KiB") => 1 << 10,
        Some("MiB") => 1 << 20,
        Some("GiB") => 1 << 30,
        Some(_) => return None,
    };
    number.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    const I915: &str = "pos:\t0\ndrm-driver:\ti915\ndrm-client-id:\t42\ndrm-pdev:\t0000:03:00.0\n\
        drm-total-system0:\t2100 KiB\ndrm-total-local0:\t10 GiB\ndrm-resident-local0:\t9216 MiB\n";
    const XE: &str = "drm-driver:\txe\ndrm-client-id:\t3\ndrm-pdev:\t0000:83:00.0\n\
        drm-resident-gtt:\t192 KiB\ndrm-resident-vram0:\t23992 KiB\n";

    /// A `/proc` with these files.
    fn proc(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    fn slot(text: &str) -> PciSlot {
        text.parse().unwrap()
    }

    #[test]
    fn a_client_counts_once_however_many_files_it_has_open() {
        let other = I915.replace("42", "43").replace("9216 MiB", "1 MiB");
        let proc = proc(&[
            ("7/fdinfo/3", "pos:\t0\nflags:\t02\n"),
            ("7/fdinfo/9", I915),
            ("7/fdinfo/10", I915),
            ("7/fdinfo/11", &other),
            ("8/fdinfo/9", I915),
        ]);
        let held = held(proc.path(), &[7]);
        assert_eq!(held.on(&slot("0000:03:00.0")), Ok(9217 << 20));
        assert_eq!(held.on(&slot("0000:83:00.0")), Ok(0));
    }

    #[test]
    fn what_an_engine_has_started_counts_and_strangers_do_not() {
        let proc = proc(&[
            ("7/task/7/children", "12 13 "),
            ("12/fdinfo/5", XE),
            ("13/task/13/children", "7"),
            ("99/fdinfo/5", I915),
        ]);
        let held = held(proc.path(), &[7]);
        assert_eq!(held.on(&slot("0000:83:00.0")), Ok(23_992 << 10));
        assert_eq!(held.on(&slot("0000:03:00.0")), Ok(0));
    }

    #[test]
    fn a_process_that_has_gone_holds_nothing_and_one_that_may_not_be_read_is_a_reason() {
        let proc = proc(&[("7/fdinfo", "a file where a folder should be")]);
        assert_eq!(held(proc.path(), &[8]).on(&slot("0000:03:00.0")), Ok(0));
        let reason = held(proc.path(), &[7]).on(&slot("0000:03:00.0")).unwrap_err();
        assert!(reason.contains("/7/fdinfo: "), "{reason}");
    }

    #[test]
    fn sizes_are_read_with_their_units() {
        let table =
            [("0", Some(0)), ("192 KiB", Some(192 << 10)), ("2 parsecs", None), ("x", None)];
        for (text, expected) in table {
            assert_eq!(size(text), expected, "{text}");
        }
    }
}
