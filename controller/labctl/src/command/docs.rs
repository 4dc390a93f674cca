//! `labctl docs render`: documents that are made from what is so, and never by hand.

mod runbook;
mod strategy;

use std::{fs, io, path::Path};

use homelab_common::exit::Exit;
use homelab_proto::controller::v1::{GetStrategyRequest, GetStrategyResponse};

use crate::{
    args::RenderArgs,
    call,
    failure::Failure,
    lab::Lab,
    output::{self, Rows},
};

/// How backups are made, proved and restored.
const STRATEGY: &str = "70-backup-and-restore-strategy.md";
/// In which order everything comes back.
const RUNBOOK: &str = "71-cold-start-runbook.md";
/// The first line of a document that this verb may write over.
const MARK: &str = "<!-- Made by `labctl docs render` from what the controller knows. Do not edit: the next \
                    rendering writes over it. -->\n\n";

/// Writes the documents.
///
/// # Errors
/// As the call behind it; failed when a file of that name was not made by this verb, or cannot be written.
pub async fn render(lab: &Lab, args: &RenderArgs) -> Result<Exit, Failure> {
    let action = "get the facts of the strategy";
    let facts: GetStrategyResponse =
        lab.call(action, call::GET_STRATEGY, GetStrategyRequest::default()).await?;
    let documents = [
        (STRATEGY, format!("{MARK}{}", strategy::document(&facts))),
        (RUNBOOK, format!("{MARK}{}", runbook::document(&facts))),
    ];
    if lab.global.dry_run {
        for (_, text) in &documents {
            output::write(text)?;
        }
        return Ok(Exit::Ok);
    }
    for (name, _) in &documents {
        ours_or_nothing(&args.out.join(name))?;
    }
    let mut rows = Rows::new(&["document"], "");
    for (name, text) in &documents {
        let path = args.out.join(name);
        write(&path, text)?;
        rows.push(path.display().to_string(), [path.display().to_string()]);
    }
    lab.print(call::GET_STRATEGY, &facts, || rows)?;
    Ok(Exit::Ok)
}

/// Refuses what a person wrote.
fn ours_or_nothing(path: &Path) -> Result<(), Failure> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(text) if text.starts_with(MARK.trim_end()) => Ok(()),
        Ok(_) => {
            let words = format!("{} was not made by `labctl docs render`", path.display());
            Err(Failure::new(Exit::Failed, words)
                .next("move it away, or give another --out FOLDER"))
        }
        Err(error) => Err(Failure::new(Exit::Failed, format!("read {}: {error}", path.display()))),
    }
}

/// Puts a whole document in place at once, so that nobody reads half of one.
fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let failed = |path: &Path, error: &io::Error| {
        Failure::new(Exit::Failed, format!("write {}: {error}", path.display()))
            .next("--out FOLDER must exist and be yours to write to")
    };
    let half = path.with_extension("md.new");
    fs::write(&half, text).map_err(|error| failed(&half, &error))?;
    fs::rename(&half, path).map_err(|error| failed(path, &error))
}

#[cfg(test)]
mod tests;
