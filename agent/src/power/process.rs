//! Guests, backups and other work that must not be cut off, as seen from the list of processes.
//!
//! No privilege is needed for that, and a guest that Proxmox does not know of is seen too.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use jiff::Timestamp;

use super::fact::{Fact, Word};

/// A process that is read in part is still known by its first words.
const COMMAND_BYTES_MAX: usize = 16 * 1024;

/// Interpreters, behind which the name of the program comes.
const INTERPRETERS: [&str; 6] = ["perl", "python3", "python", "bash", "sh", "ruby"];

/// Programs that must not be cut off.
const WORK: [&str; 16] = [
    "vzdump",
    "pvesr",
    "pve-zsync",
    "restic",
    "rustic",
    "borg",
    "proxmox-backup-client",
    "rsync",
    "rclone",
    "pg_dump",
    "pg_dumpall",
    "pg_restore",
    "apt-get",
    "dpkg",
    "unattended-upgrade",
    "fwupdmgr",
];

/// All work that is seen.
pub(super) fn at_work(proc: &Path) -> Vec<Fact> {
    match commands(proc) {
        Ok(commands) => {
            let facts: BTreeSet<(u8, String)> =
                commands.iter().filter_map(|words| work(words)).collect();
            let fact = |(guest, message): (u8, String)| {
                let word = if guest == 0 { Word::GuestsRunning } else { Word::TasksRunning };
                Fact::new(word, message)
            };
            facts.into_iter().map(fact).collect()
        }
        Err(why) => vec![Fact::unknown("which processes run", why)],
    }
}

/// When the system booted.
pub(super) fn booted_at(proc: &Path) -> Option<Timestamp> {
    let text = fs::read_to_string(proc.join("stat")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("btime "))?;
    Timestamp::from_second(line.trim().parse().ok()?).ok()
}

/// The words of every command.
fn commands(proc: &Path) -> Result<Vec<Vec<String>>, String> {
    let refused = |error: &dyn std::fmt::Display| format!("{}: {error}", proc.display());
    // With `hidepid`, or seen from a unit with ProtectProc, those of others are not there at all.
    fs::read(proc.join("1/cmdline"))
        .map_err(|error| refused(&format_args!("processes of others cannot be seen ({error})")))?;
    let mut commands = Vec::new();
    for entry in fs::read_dir(proc).map_err(|error| refused(&error))? {
        let entry = entry.map_err(|error| refused(&error))?;
        if !entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        match fs::read(entry.path().join("cmdline")) {
            Ok(text) => commands.push(words(&text)),
            // It has ended meanwhile.
            Err(error) if gone(&error) => {}
            Err(error) => return Err(refused(&error)),
        }
    }
    Ok(commands)
}

fn gone(error: &std::io::Error) -> bool {
    const ESRCH: i32 = 3;
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(ESRCH)
}

fn words(text: &[u8]) -> Vec<String> {
    let text = text.get(..COMMAND_BYTES_MAX).unwrap_or(text);
    let text = String::from_utf8_lossy(text);
    text.split('\0').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// What a command is, if it must not be cut off: guests first.
fn work(words: &[String]) -> Option<(u8, String)> {
    let first = words.first()?;
    // A worker of Proxmox shows the id of its task instead of its command.
    if let Some(task) = first.strip_prefix("task UPID:") {
        let parts: Vec<&str> = task.split(':').collect();
        let (kind, id) = (parts.get(4).unwrap_or(&"task"), parts.get(5).unwrap_or(&""));
        return Some((1, format!("Proxmox runs {kind} {id}").trim_end().to_owned()));
    }
    if let Some(monitor) = first.strip_prefix("[lxc monitor] ") {
        let id = monitor.split(' ').next_back().unwrap_or(monitor);
        return Some((0, format!("container {id} runs")));
    }
    let name = program(words)?;
    let after = |flag: &str| {
        let at = words.iter().position(|word| word == flag)?;
        words.get(at + 1).map(String::as_str)
    };
    if name == "kvm" || name.starts_with("qemu-system-") {
        let id = after("-id").unwrap_or("without a number");
        let called = after("-name").map(|it| it.split(',').next().unwrap_or(it));
        let called = called.map(|it| format!(" ({it})")).unwrap_or_default();
        return Some((0, format!("guest {id}{called} runs")));
    }
    if name == "lxc-start" {
        return Some((0, format!("container {} runs", after("-n").unwrap_or("without a number"))));
    }
    if name.starts_with("containerd-shim") {
        return Some((0, "a container of Docker runs".to_owned()));
    }
    let moves_data = name == "zfs"
        && words.iter().any(|word| matches!(word.as_str(), "send" | "receive" | "recv"));
    if moves_data {
        return Some((1, "zfs sends or receives".to_owned()));
    }
    WORK.contains(&name).then(|| (1, format!("{name} runs")))
}

/// The name of the program, behind its interpreter.
fn program(words: &[String]) -> Option<&str> {
    let base = |word: &str| word.rsplit('/').next().map(str::len);
    let name = |word| -> Option<&str> {
        let word: &String = word;
        let length = base(word)?;
        word.get(word.len() - length..)
    };
    let first = name(words.first()?)?;
    if !INTERPRETERS.contains(&first) {
        return Some(first);
    }
    words.iter().skip(1).find(|word| !word.starts_with('-')).and_then(name)
}
