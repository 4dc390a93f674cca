//! `labctl completions` and `labctl man`: both made from the same definition as the help.

use std::{fs, path::Path};

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_mangen::Man;
use homelab_common::exit::Exit;

use crate::{
    args::{Cli, CompletionsArgs, ManArgs},
    failure::Failure,
    output,
};

/// Prints a completion script.
///
/// # Errors
/// When standard output is full or broken.
pub fn completions(args: &CompletionsArgs) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "labctl", &mut script);
    output::write(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok)
}

/// Writes one man page a verb into a folder, or the main page to standard output.
///
/// # Errors
/// When the folder or standard output cannot be written to.
pub fn man(args: &ManArgs) -> Result<Exit, Failure> {
    let mut command = Cli::command();
    command.build();
    match &args.dir {
        Some(dir) => pages(&command, "labctl", dir)?,
        None => output::write(&page(command)?)?,
    }
    Ok(Exit::Ok)
}

fn pages(command: &clap::Command, name: &str, dir: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("make folder {}", dir.display()))?;
    let path = dir.join(format!("{name}.1"));
    fs::write(&path, page(command.clone())?)
        .with_context(|| format!("write {}", path.display()))?;
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        pages(verb, &format!("{name}-{}", verb.get_name()), dir)?;
    }
    Ok(())
}

fn page(command: clap::Command) -> anyhow::Result<String> {
    let mut text = Vec::new();
    Man::new(command).render(&mut text).context("render the man page")?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_has_a_man_page() {
        let folder = tempfile::tempdir().expect("folder");
        man(&ManArgs { dir: Some(folder.path().to_path_buf()) }).expect("pages");
        for page in
            ["labctl", "labctl-status", "labctl-backup-drill", "labctl-backup-schedule-pause"]
        {
            let text = fs::read_to_string(folder.path().join(format!("{page}.1"))).expect(page);
            assert!(text.contains(".TH"), "{page}");
        }
    }
}
