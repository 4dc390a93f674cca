//! Reading old data before it is needed.
//!
//! Disks lose bits silently. Each scrub reads a part of the packs, in turn, so that
//! after a whole round every byte was read; and each time all that is small: keys,
//! configuration, index, snapshots, and the size of every pack. Whatever is found is
//! written down beside the repository.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    num::NonZeroUsize,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{
    Opened,
    index::{Index, damaged, pack_path, packs_there},
    pack, quarantine,
    vault::{Broken, Id},
};
use crate::{
    progress::{Progress, Stage},
    repository::{
        Part, RepositoryError, Scrubbed,
        storage::{read_if_there, write_proved},
    },
    stream::StreamError,
};

const STATE: &str = "homelab-scrub.json";

/// Findings that are kept; a repository with more needs no longer list.
const FINDINGS_MAX: usize = 100;

/// What was read when.
#[derive(Debug, Default, Deserialize, Serialize)]
struct State {
    /// Into how many parts the packs are divided.
    of: u32,
    /// When each part was last read.
    parts: BTreeMap<u32, Timestamp>,
    /// What the last scrub found.
    problems: Vec<String>,
}

impl State {
    /// The part that was never read, or longest ago.
    fn next(&self, of: u32) -> u32 {
        if self.of != of {
            return 0;
        }
        (0..of).min_by_key(|part| self.parts.get(part).copied()).unwrap_or(0)
    }

    fn done(&mut self, (part, of): (u32, u32), now: Timestamp, problems: &[String]) {
        if self.of != of {
            *self = Self { of, ..Self::default() };
        }
        self.parts.insert(part, now);
        self.problems = problems.to_vec();
    }

    /// Since when every byte was read at least once.
    fn complete_since(&self) -> Option<Timestamp> {
        let all = u32::try_from(self.parts.len()).ok() == Some(self.of);
        self.parts.values().min().copied().filter(|_| all)
    }
}

/// Reads a part: the one that is named, or the one whose turn it is.
pub(super) fn scrub(
    opened: &Opened<'_>,
    part: Part,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<Scrubbed, RepositoryError> {
    let (repository, storage, of) = (opened.repository, opened.storage(), part.of.max(1));
    let failed = |error| repository.place("scrub", error);
    let state = read_if_there(storage, STATE).map_err(failed)?;
    let mut state: State =
        state.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    let part = part.part.filter(|part| *part < of).unwrap_or_else(|| state.next(of));
    let findings = Findings::default();
    small_files(opened, &findings).map_err(failed)?;
    let (index, broken) = Index::salvage(storage, &opened.vault).map_err(failed)?;
    findings.extend(broken);
    let packs: Vec<(Id, u64)> = index.packs().into_iter().collect();
    let sizes = packs_there(storage).map_err(failed)?;
    for (id, wanted) in &packs {
        match sizes.get(id) {
            Some(found) if found == wanted => {}
            Some(found) => {
                findings.note(format!("`{}` has {found} bytes instead of {wanted}", pack_path(id)))
            }
            None => findings.note(format!("`{}` is missing", pack_path(id))),
        }
    }
    let mine: Vec<Id> = packs
        .iter()
        .map(|(id, _)| *id)
        .filter(|id| id.spread() % of == part && sizes.contains_key(id))
        .collect();
    let bytes = read_packs(opened, &mine, &sizes, &findings, progress, cancel)?;
    let problems = findings.into_problems();
    state.done((part, of), repository.clock.now(), &problems);
    // An agent that may only add keeps no record; what it found it says all the same.
    if repository.access == crate::repository::storage::access::Access::Full {
        let text = serde_json::to_vec_pretty(&state)
            .map_err(|error| repository.failure("record the scrub", error.to_string()))?;
        write_proved(storage, STATE, text.into()).map_err(failed)?;
    }
    Ok(Scrubbed {
        part,
        of,
        packs: u32::try_from(mine.len()).unwrap_or(u32::MAX),
        bytes,
        complete_since: state.complete_since(),
        problems,
    })
}

/// Since when every byte was read at least once.
pub(super) fn complete_since(opened: &Opened<'_>) -> Result<Option<Timestamp>, RepositoryError> {
    let state = read_if_there(opened.storage(), STATE)
        .map_err(|error| opened.repository.place("read when it was scrubbed", error))?;
    let state: Option<State> = state.and_then(|text| serde_json::from_slice(&text).ok());
    Ok(state.and_then(|state| state.complete_since()))
}

/// Keys, configuration, snapshots and marks; the index is read anyway.
fn small_files(opened: &Opened<'_>, findings: &Findings) -> io::Result<()> {
    let (storage, vault) = (opened.storage(), &opened.vault);
    // The configuration has no hash for a name; its seal is enough.
    let sealed = storage.read_back("config")?;
    findings.check("config", vault.open_file(&sealed).map(drop));
    for folder in ["keys", "snapshots"] {
        for file in storage.list(folder)? {
            let path = format!("{folder}/{}", file.name);
            let Some(id) = Id::parse(&file.name) else { continue };
            let content = match storage.read_back(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                content => content?,
            };
            let hashed = if Id::of(&content) == id { Ok(()) } else { Err(Broken::Hash) };
            findings.check(&path, hashed);
        }
    }
    findings.extend(quarantine::broken(storage, vault)?);
    Ok(())
}

/// Reads and proves packs on all cores; gives the bytes read.
fn read_packs(
    opened: &Opened<'_>,
    packs: &[Id],
    sizes: &BTreeMap<Id, u64>,
    findings: &Findings,
    progress: &Progress,
    cancel: &CancellationToken,
) -> Result<u64, RepositoryError> {
    let total = packs.iter().filter_map(|id| sizes.get(id)).sum();
    progress.enter(Stage::Proving, Some(total));
    let (next, read) = (Mutex::new(packs.iter()), AtomicU64::new(0));
    let (storage, vault) = (opened.storage(), &opened.vault);
    let work = || -> io::Result<()> {
        loop {
            let id = next.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(id) = id.filter(|_| !cancel.is_cancelled()) else { return Ok(()) };
            let path = pack_path(id);
            match storage.read_back(&path) {
                Ok(content) => {
                    findings.check(&path, pack::prove(vault, id, &content).map(drop));
                    let bytes = content.len() as u64;
                    progress.done(read.fetch_add(bytes, Ordering::Relaxed) + bytes);
                }
                // A sector that cannot be read is a finding; a place that hangs is none.
                Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EIO as i32) => {
                    findings.note(format!("`{path}` cannot be read: {error}"));
                }
                Err(error) => return Err(error),
            }
        }
    };
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let outcomes: Vec<io::Result<()>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let ended = |thread: thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("a reading thread panicked")))
        };
        threads.into_iter().map(ended).collect()
    });
    if cancel.is_cancelled() {
        let (file, source) = ("the scrub".to_owned(), StreamError::Cancelled);
        return Err(RepositoryError::Incomplete { file, source });
    }
    for outcome in outcomes {
        outcome.map_err(|error| opened.repository.place("scrub", error))?;
    }
    Ok(read.into_inner())
}

#[derive(Default)]
struct Findings(Mutex<BTreeSet<String>>);

impl Findings {
    fn note(&self, problem: String) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < FINDINGS_MAX {
            all.insert(problem);
        }
    }

    fn check(&self, path: &str, outcome: Result<(), Broken>) {
        if let Err(broken) = outcome {
            self.note(damaged(path, broken).to_string());
        }
    }

    fn extend(&self, problems: Vec<String>) {
        problems.into_iter().for_each(|problem| self.note(problem));
    }

    fn into_problems(self) -> Vec<String> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: u32) -> Timestamp {
        format!("2026-11-{day:02}T03:00:00Z").parse().expect("a time")
    }

    #[test]
    fn parts_come_in_turn_and_a_round_is_whole_when_all_were_read() {
        let mut state = State::default();
        for day in 1..=7 {
            assert_eq!(state.complete_since(), None);
            let part = state.next(7);
            state.done((part, 7), at(day), &[]);
        }
        assert_eq!(state.parts.len(), 7);
        assert_eq!(state.complete_since(), Some(at(1)));
        assert_eq!(
            state.next(7),
            *state.parts.iter().min_by_key(|(_, at)| **at).expect("a part").0
        );
    }

    #[test]
    fn another_division_begins_anew() {
        let mut state = State::default();
        state.done((0, 2), at(1), &[]);
        state.done((1, 2), at(2), &[]);
        state.done((state.next(3), 3), at(3), &[]);
        assert_eq!((state.parts.len(), state.complete_since()), (1, None));
    }
}
