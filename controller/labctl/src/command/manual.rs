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
    use clap_complete::Shell;

    use super::*;

    /// The names of all verbs, families of verbs included: `labctl-backup-retention-plan`.
    fn verbs(command: &clap::Command, name: &str, found: &mut Vec<String>) {
        found.push(name.to_owned());
        for verb in command.get_subcommands() {
            verbs(verb, &format!("{name}-{}", verb.get_name()), found);
        }
    }

    #[test]
    fn every_verb_has_a_man_page() {
        let folder = tempfile::tempdir().expect("folder");
        man(&ManArgs { dir: Some(folder.path().to_path_buf()) }).expect("pages");
        let mut names = Vec::new();
        verbs(&Cli::command(), "labctl", &mut names);
        for name in &names {
            let text = fs::read_to_string(folder.path().join(format!("{name}.1"))).expect(name);
            assert!(text.contains(&format!(".TH {name} 1")), "{name}: {text}");
        }
        let nested = "labctl-backup-retention-plan";
        assert!(names.iter().any(|name| name == nested));
        let text = fs::read_to_string(folder.path().join(format!("{nested}.1"))).expect(nested);
        assert!(text.contains("labctl backup retention plan wiki"), "the examples too: {text}");
    }

    #[test]
    fn completions_know_the_nested_verbs() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "labctl", &mut script);
            let script = String::from_utf8(script).expect("text");
            for word in ["push-back", "calendar", "acknowledge", "recovery-kit", "prove", "render"]
            {
                assert!(script.contains(word), "{shell} lacks {word}");
            }
        }
    }
}
