//! What this host knows about the repository's place.
//!
//! Each host keeps a note beside the repository: what was mounted there and what a
//! probe found. A place that is mounted from elsewhere the next time is the same
//! repository by its identity file, and perhaps a copy of it: people are told.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Opened;
use crate::repository::{
    Probed, RepositoryError,
    identity::GuardError,
    mount::Mount,
    probe::Grade,
    storage::{access::Access, read_if_there},
};

/// How long a good grade is believed.
const GRADE_AGE_MAX: Duration = Duration::from_secs(3600);

/// What this process found out last.
#[derive(Clone, Debug)]
pub(super) struct Known {
    at: Timestamp,
    pub(super) probed: Probed,
}

/// A host's note.
#[derive(Debug, Deserialize, Serialize)]
struct Note {
    probed_at: Timestamp,
    #[serde(flatten)]
    grade: Grade,
    mount: Option<Mount>,
}

impl Opened<'_> {
    /// Refuses a place that loses data; of one that is only weak, what people should know.
    pub(super) fn require_safe_place(&self) -> Result<Option<String>, RepositoryError> {
        let repository = self.repository;
        let known = super::lock(&repository.known).clone();
        let age = |known: &Known| {
            Duration::try_from(repository.clock.now().duration_since(known.at))
                .unwrap_or(Duration::MAX)
        };
        let probed = match known.filter(|known| age(known) < GRADE_AGE_MAX) {
            Some(known) => known.probed,
            None => self.probe()?,
        };
        match probed.grade {
            Grade::Unsafe(because) => {
                *super::lock(&repository.known) = None;
                let path = repository.site.location().into();
                Err(GuardError::Unsafe { path, because }.into())
            }
            Grade::Weak(because) => Ok(Some(format!(
                "the place is weak ({}): after a power cut there the newest snapshot may be missing",
                because.join("; ")
            ))),
            Grade::Durable => Ok(None),
        }
    }

    /// Writes a canary, compares the mount with this host's note, and renews the note.
    pub(super) fn probe(&self) -> Result<Probed, RepositoryError> {
        let (repository, storage) = (self.repository, self.storage());
        let failed = |error| repository.place("probe the place", error);
        let path = format!("homelab-hosts/{}.json", repository.host);
        let note = read_if_there(storage, &path).map_err(failed)?;
        let note: Option<Note> = note.and_then(|text| serde_json::from_slice(&text).ok());
        let mount = repository.site.mount().map_err(failed)?;
        let before = note.and_then(|note| note.mount);
        let moved_from = match (&mount, before) {
            (Some(now), Some(before)) if !now.is_same_as(&before) => Some(before),
            _ => None,
        };
        if let (Some(now), Some(before)) = (&mount, &moved_from) {
            tracing::warn!(
                repository = %repository.name, now = now.source, before = before.source,
                "the repository is mounted from elsewhere than last time; if this is a copy, \
                 unmount it"
            );
        }
        let probed = Probed { grade: storage.probe().map_err(failed)?, mount, moved_from };
        if let Grade::Weak(because) = &probed.grade {
            tracing::warn!(repository = %repository.name, ?because, "the place is weak");
        }
        let at = repository.clock.now();
        if repository.access == Access::Full && !matches!(probed.grade, Grade::Unsafe(_)) {
            let (grade, mount) = (probed.grade.clone(), probed.mount.clone());
            let text = serde_json::to_vec_pretty(&Note { probed_at: at, grade, mount })
                .map_err(|error| repository.failure("note the place", error.to_string()))?;
            storage.write(&path, text.into()).map_err(failed)?;
        }
        *super::lock(&repository.known) = Some(Known { at, probed: probed.clone() });
        Ok(probed)
    }
}
