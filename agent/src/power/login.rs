//! Who is logged in, and what asked the system not to sleep: what logind keeps below `/run/systemd`.
//!
//! The files are those that `sd_get_sessions(3)` and `sd_session_get_class(3)` read.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::fact::{Fact, Word};

/// One session of a person is one fact.
pub(super) fn sessions(run: &Path) -> Vec<Fact> {
    each(&run.join("systemd/sessions"), "who is logged in", Absent::Unknown, |session| {
        let is = |key: &str, value: &str| session.get(key).is_some_and(|it| it == value);
        // Services have sessions too: those of a person are of a class that begins with `user`.
        let person = session.get("CLASS").is_none_or(|class| class.starts_with("user"));
        if !person || is("STATE", "closing") {
            return None;
        }
        let user = session.get("USER").map_or("somebody", String::as_str);
        let place = match (session.get("TTY"), session.get("REMOTE_HOST")) {
            (Some(tty), Some(host)) => format!(" ({tty} from {host})"),
            (Some(place), None) | (None, Some(place)) => format!(" ({place})"),
            (None, None) => String::new(),
        };
        Some(Fact::new(Word::SessionsOpen, format!("{user} is logged in{place}")))
    })
}

/// One program that keeps the system from sleeping or shutting down is one fact.
pub(super) fn inhibitors(run: &Path) -> Vec<Fact> {
    each(&run.join("systemd/inhibit"), "what keeps it awake", Absent::Nothing, |inhibitor| {
        let what = inhibitor.get("WHAT").map_or("", String::as_str);
        let blocks = inhibitor.get("MODE").is_some_and(|mode| mode.starts_with("block"));
        if !blocks || !what.split(':').any(|it| it == "sleep" || it == "shutdown") {
            return None;
        }
        let word = |key: &str| inhibitor.get(key).map_or("nobody knows", String::as_str);
        let message = format!("{} keeps it awake: {}", word("WHO"), word("WHY"));
        Some(Fact::new(Word::Inhibited, message))
    })
}

/// What a folder means that is not there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Absent {
    /// There is nothing of the kind.
    Nothing,
    /// Nobody keeps account of it.
    Unknown,
}

fn each(
    folder: &Path,
    what: &str,
    absent: Absent,
    fact: impl Fn(&HashMap<String, String>) -> Option<Fact>,
) -> Vec<Fact> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound && absent == Absent::Nothing => {
            return Vec::new();
        }
        Err(error) => return vec![Fact::unknown(what, format!("{}: {error}", folder.display()))],
    };
    let mut facts = Vec::new();
    for entry in entries {
        let path = match entry {
            Ok(entry) => entry.path(),
            Err(error) => {
                facts.push(Fact::unknown(what, error));
                continue;
            }
        };
        // A pipe that tells logind when the session ends stands beside its file.
        if path.extension().is_some() || !path.is_file() {
            continue;
        }
        match fs::read_to_string(&path) {
            Ok(text) => facts.extend(fact(&fields(&text))),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => facts.push(Fact::unknown(what, format!("{}: {error}", path.display()))),
        }
    }
    facts.sort_by(|a, b| a.message.cmp(&b.message));
    facts
}

fn fields(text: &str) -> HashMap<String, String> {
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), unescape(value))).collect()
}

/// Values are in the form of environment files: `\x20` stands for a space.
fn unescape(value: &str) -> String {
    value.trim_matches('"').replace("\\x20", " ")
}
