//! What people are told to type.

use std::fs;

use clap::{CommandFactory as _, error::ErrorKind};
use labctl::args::Cli;

use super::{root, sources};

/// What stands before a command that is quoted: code in documents, strings, pages, lines of examples.
const OPENERS: [char; 5] = ['`', '"', '>', '\n', '$'];

/// What ends a command: a remark, a pipe, an ellipsis, the lines of a drawing.
const ENDS: [&str; 11] = ["…", "...", "|", ">", "&&", "#", "[", "(", "<<<", "──", "then"];

#[test]
fn every_labctl_command_that_anybody_is_told_to_type_exists() {
    // Tests talk about commands that they make up.
    let mut files = sources();
    files.retain(|path| !path.starts_with(root().join("tests")));
    for folder in ["docs", "packaging", "proto", "controller/templates"] {
        files.extend(below(&root().join(folder)));
    }
    files.push(root().join("README.md"));
    files.push(root().join("ARCHITECTURE.md"));
    let (mut found, mut wrong) = (0, Vec::new());
    for path in files {
        // A picture, or anything else that nobody reads as text.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        for command in quoted(&text) {
            found += 1;
            if let Err(why) = parses(&command) {
                wrong.push(format!("{}: {command}: {why}", path.display()));
            }
        }
    }
    assert!(found > 60, "only {found} commands found");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn below(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("folder") {
            let path = entry.expect("entry").path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found
}

/// The words after `labctl` of each quoted command, up to where the quotation ends.
fn quoted(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut pieces = text.split("labctl ");
    let mut before = pieces.next().unwrap_or_default();
    for rest in pieces {
        let ends_in = std::mem::replace(&mut before, rest).trim_end_matches([' ', '\t']);
        let Some(opener) = ends_in.chars().next_back().filter(|c| OPENERS.contains(c)) else {
            continue;
        };
        let closers: &[char] = match opener {
            '`' => &['`'],
            '"' => &['"', '`'],
            '>' => &['<'],
            _ => &['\n', '`', '#', '"'],
        };
        let command = unwrapped(rest.split(closers).next().unwrap_or_default());
        // What a template fills in is one word.
        found.push(command.replace("{{ ", "{{").replace(" }}", "}}"));
    }
    found
}

/// A quotation over several lines of source or of comments, as one.
fn unwrapped(text: &str) -> String {
    let lines = text.lines().map(|line| {
        line.trim()
            .trim_start_matches("//!")
            .trim_start_matches("///")
            .trim_end_matches('\\')
            .trim()
    });
    lines.collect::<Vec<_>>().join(" ")
}

/// Whether the real command line takes it. Words in capitals, in braces or left out (`…`) stand for
/// something; what is missing is no fault, for verbs are named without what belongs to them.
fn parses(command: &str) -> Result<(), String> {
    let mut words = vec!["labctl".to_owned()];
    for word in shell_words(command) {
        if ENDS.iter().any(|end| word.starts_with(end)) {
            break;
        }
        words.push(word.trim_end_matches([',', '.', ';', ':', ')']).to_owned());
    }
    let Err(error) = Cli::command().try_get_matches_from(&words) else { return Ok(()) };
    let is_made_up = words.iter().any(|word| is_placeholder(word));
    match error.kind() {
        ErrorKind::UnknownArgument => Err(error.to_string()),
        ErrorKind::InvalidSubcommand | ErrorKind::ValueValidation if !is_made_up => {
            Err(error.to_string())
        }
        // An option at the very end was named without its value.
        ErrorKind::InvalidValue
            if !is_made_up && !words.last().is_some_and(|word| word.starts_with("--")) =>
        {
            Err(error.to_string())
        }
        _ => Ok(()),
    }
}

fn is_placeholder(word: &str) -> bool {
    let capitals = word.chars().all(|c| c.is_ascii_uppercase() || "-_/".contains(c));
    capitals || word.contains(['{', '<'])
}

/// Splits at spaces outside of quotes; ends where two spaces set a remark apart.
fn shell_words(command: &str) -> Vec<String> {
    let command = command.split_once("  ").map_or(command, |(command, _)| command);
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in command.chars() {
        match quote {
            Some(end) if c == end => quote = None,
            None if c == '\'' || c == '"' => quote = Some(c),
            None if c == ' ' => {
                words.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty()));
            }
            _ => word.push(c),
        }
    }
    words.extend(Some(word).filter(|word| !word.is_empty()));
    words
}
