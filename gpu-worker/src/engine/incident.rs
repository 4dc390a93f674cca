//! What is kept of an engine that ended by itself: in memory, and as a bundle on disk.
//!
//! A bundle is one JSON file for whoever looks into it later. There is no text of
//! prompts or answers in it, and no value of an environment.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use homelab_common::ledger;
use jiff::Timestamp;
use serde::Serialize;

use crate::{
    device::Device,
    engine::{build::Variant, recent::Request},
    model::Model,
};

/// Bundles that are kept; the oldest go first.
const BUNDLES_MAX: usize = 32;

/// The largest bundle: lines of the engine are left out beyond.
const BUNDLE_BYTES_MAX: usize = 256 * 1024;

/// What is kept of an engine that ended by itself.
#[derive(Debug)]
pub struct Incident {
    /// When.
    pub at: Timestamp,
    /// Why, for people.
    pub because: String,
    /// The model that it had.
    pub model: Arc<Model>,
    /// Its process, if one came up.
    pub pid: Option<u32>,
    /// How long it had been ready; `None` when it never was.
    pub ready_for: Option<Duration>,
    /// The last lines that it wrote.
    pub last_lines: Vec<String>,
    /// What was started, if it was.
    pub variant: Option<Arc<Variant>>,
    /// What may help.
    pub remedy: Remedy,
    /// Name of its bundle in the folder of incidents, if one could be written.
    pub bundle: Option<String>,
}

/// What may help after an engine has ended by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// To start the same once more.
    Again,
    /// Only another build, or a person.
    Another,
}

/// The bundle of one incident.
#[derive(Debug, Serialize)]
pub struct Bundle {
    /// When.
    pub at: Timestamp,
    /// Name of the engine.
    pub engine: String,
    /// Its devices.
    pub devices: Vec<String>,
    /// Why it ended.
    pub because: String,
    /// What was done then.
    pub followed_by: String,
    /// Its model.
    pub model: String,
    /// Tokens of context of each slot.
    pub context_tokens: u32,
    /// Slots.
    pub slots: u32,
    /// What it computed with.
    pub backend: Option<String>,
    /// Its command line, placeholders not filled in.
    pub command: Vec<String>,
    /// Its process.
    pub pid: Option<u32>,
    /// How often a process had been started.
    pub starts: u32,
    /// Seconds that it had been ready.
    pub ready_seconds: Option<u64>,
    /// How the devices were just after.
    pub readings: Vec<Row>,
    /// Its last requests.
    pub requests: Vec<Request>,
    /// Its last lines.
    pub last_lines: Vec<String>,
}

/// How one device was.
#[derive(Debug, Serialize)]
pub struct Row {
    id: String,
    name: String,
    driver: Option<String>,
    memory_bytes: Option<u64>,
    memory_used_bytes: Option<u64>,
    temperature_celsius: Option<f32>,
    missing: Vec<String>,
}

impl From<Device> for Row {
    fn from(device: Device) -> Self {
        let missing = device.missing.into_iter();
        Self {
            id: device.id.to_string(),
            name: device.name,
            driver: device.driver,
            memory_bytes: device.memory_bytes,
            memory_used_bytes: device.memory_used_bytes,
            temperature_celsius: device.temperature_celsius,
            missing: missing
                .map(|missing| format!("{}: {}", missing.field, missing.reason))
                .collect(),
        }
    }
}

/// Writes a bundle into `folder` and gives its name. Blocks.
///
/// # Errors
/// The folder or the file cannot be written.
pub fn store(folder: &Path, mut bundle: Bundle) -> io::Result<String> {
    fs::create_dir_all(folder)?;
    let mut text = serde_json::to_vec_pretty(&bundle)?;
    while text.len() > BUNDLE_BYTES_MAX && !bundle.last_lines.is_empty() {
        let half = bundle.last_lines.len().div_ceil(2);
        bundle.last_lines.drain(..half);
        text = serde_json::to_vec_pretty(&bundle)?;
    }
    if text.len() > BUNDLE_BYTES_MAX {
        return Err(io::Error::other(format!("its bundle has {} bytes", text.len())));
    }
    let at = bundle.at.strftime("%Y%m%dT%H%M%S%.3fZ");
    let name = format!("{at}-{}.json", bundle.engine);
    make_room(folder)?;
    ledger::replace(&folder.join(&name), &text)?;
    Ok(name)
}

/// Removes the oldest, which sort first, so that one more finds room.
fn make_room(folder: &Path) -> io::Result<()> {
    let is_bundle = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "json");
    let entries = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
    let mut bundles: Vec<PathBuf> = entries.filter(is_bundle).collect();
    bundles.sort();
    let surplus = (bundles.len() + 1).saturating_sub(BUNDLES_MAX);
    bundles.iter().take(surplus).try_for_each(fs::remove_file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(second: i64) -> Bundle {
        Bundle {
            at: Timestamp::from_second(1_800_000_000 + second).unwrap(),
            engine: "left".to_owned(),
            devices: vec!["0000:03:00.0".to_owned()],
            because: "it made no progress".to_owned(),
            followed_by: "restart".to_owned(),
            model: "small".to_owned(),
            context_tokens: 4096,
            slots: 1,
            backend: Some("vulkan".to_owned()),
            command: vec!["/opt/llama-server".to_owned()],
            pid: Some(7),
            starts: 1,
            ready_seconds: None,
            readings: Vec::new(),
            requests: Vec::new(),
            last_lines: Vec::new(),
        }
    }

    #[test]
    fn bundles_are_kept_up_to_a_number_and_the_oldest_go_first() {
        let folder = tempfile::tempdir().unwrap();
        let names: Vec<String> =
            (0..40).map(|second| store(folder.path(), bundle(second)).unwrap()).collect();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), BUNDLES_MAX);
        assert!(!folder.path().join(&names[0]).exists());
        let last = fs::read_to_string(folder.path().join(&names[39])).unwrap();
        assert!(last.contains("it made no progress") && last.contains("vulkan"), "{last}");
    }

    #[test]
    fn an_engine_that_talks_much_does_not_fill_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let last_lines = (0..400).map(|_| "x".repeat(4096)).collect();
        let name = store(folder.path(), Bundle { last_lines, ..bundle(0) }).unwrap();
        let size = fs::metadata(folder.path().join(name)).unwrap().len();
        assert!((50_000..=BUNDLE_BYTES_MAX as u64).contains(&size), "{size}");
    }
}
