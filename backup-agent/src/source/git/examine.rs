//! Restored mirrors, looked at and put back into service.

use std::{path::Path, time::Instant};

use homelab_common::error_chain::Chain;

use super::{
    ARCHIVE_FILE, Git, GitError, GitTools, lfs,
    manifest::{GitContents, MirrorContents},
    mirror::{self, holdings},
};
use crate::{
    drill::{Compared, DrillError, Shown, Verdict, folder::Examination},
    shell::{comment, quoted},
    source::files::restore::{read_back, unpack},
};

/// Git, as every Debian has it.
const GIT: &str = "git";

/// Extracts the archive, compares every file, checks every repository, clones it and
/// compares every ref and every large file.
///
/// # Errors
///
/// The target's trouble, or a cancellation.
pub fn examine(
    folder: &Path,
    contents: &GitContents,
    examination: &Examination<'_>,
) -> Result<Shown, DrillError> {
    let began = Instant::now();
    let archive = folder.join(ARCHIVE_FILE);
    let into = examination.work.join("mirrors");
    let entries = &contents.entries;
    let mut differences = unpack(&archive, &into, entries, examination, GitError::Extract)?;
    let restore_elapsed = began.elapsed();
    differences.extend(read_back(&into, entries, examination, GitError::Compare)?);
    let (refs, large) = examination
        .wait(look(&into, contents, examination, &mut differences))?
        .map_err(|error| examination.trouble(error))?;
    let counts = [
        ("repositories", contents.repositories.len() as u64),
        ("refs", refs),
        ("large files", large),
        ("entries", entries.len() as u64),
    ];
    let compared = counts.map(|(what, count)| Compared { what, count }).to_vec();
    Ok(Shown { verdict: Verdict::of(differences), restore_elapsed, compared })
}

/// Looks at each mirror; gives how many refs and large files were compared. An error
/// is the target's; what is wrong with a mirror is a difference.
async fn look(
    mirrors: &Path,
    contents: &GitContents,
    examination: &Examination<'_>,
    differences: &mut Vec<String>,
) -> Result<(u64, u64), GitError> {
    let tools = GitTools {
        exec: examination.tools.exec.clone(),
        clock: examination.tools.clock.clone(),
        git: GIT.to_owned(),
        scratch: examination.work.to_owned(),
        deadline: examination.tools.run_max,
    };
    let git = Git::local(&tools, examination.run)?;
    // Told apart here from a mirror that git does not like.
    git.run(mirrors, ["version"]).await?;
    let (mut refs, mut large) = (0, 0);
    for (index, repository) in contents.repositories.iter().enumerate() {
        let path = mirrors.join(&repository.folder);
        let clone = examination.work.join(format!("clone-{index}"));
        match look_at(&git, &path, &clone, repository).await {
            Ok(found) => {
                refs += (repository.refs.len() + repository.kept.len()) as u64;
                large += repository.lfs_objects;
                differences.extend(found);
            }
            Err(error) => {
                let why = Chain(&error);
                differences.push(format!("{}: {why}", repository.name));
            }
        }
    }
    Ok((refs, large))
}

async fn look_at(
    git: &Git,
    path: &Path,
    clone: &Path,
    expected: &MirrorContents,
) -> Result<Vec<String>, GitError> {
    let name = &expected.name;
    mirror::fsck(git, path).await?;
    let parent = clone.parent().unwrap_or(clone);
    let (from, to) = (path.display().to_string(), clone.display().to_string());
    // By the transport, not by hard links: every object is read and written.
    git.run(parent, ["clone", "--mirror", "--no-local", "--quiet", "--", &from, &to]).await?;
    let (refs, kept) = holdings(git, clone).await?;
    let mut differences = expected.differences(&refs, &kept);
    let audit = lfs::audit(path, lfs::pointers(git, path).await?).await?;
    if audit.present.len() as u64 != expected.lfs_objects {
        differences.push(format!(
            "{name}: {} large files are there and right, stored were {}",
            audit.present.len(),
            expected.lfs_objects
        ));
    }
    Ok(differences)
}

/// Commands for a person with git and tar and nothing of ours.
#[must_use]
pub fn next_steps(folder: &Path, contents: &GitContents) -> Vec<String> {
    let mirrors = folder.join("mirrors");
    let archive = quoted(&folder.join(ARCHIVE_FILE).display().to_string());
    let into = quoted(&mirrors.display().to_string());
    let mut steps = vec![
        format!("mkdir {into} && tar -xpf {archive} -C {into}"),
        comment("set NEW to the address of an empty repository on the new server, then for each:"),
    ];
    for repository in &contents.repositories {
        let path = quoted(&mirrors.join(&repository.folder).display().to_string());
        steps.push(comment(&repository.name));
        steps.push(format!(
            "git -C {path} push \"$NEW\" 'refs/upstream/heads/*:refs/heads/*' \
             'refs/upstream/tags/*:refs/tags/*'"
        ));
        if repository.lfs_objects > 0 {
            steps.push(format!(
                "find {path}/lfs/objects -type f -printf '%f\\n' | xargs git -C {path} lfs push \
                 --object-id \"$NEW\""
            ));
        }
        if !repository.kept.is_empty() {
            let text = format!(
                "what upstream dropped is below refs/kept/ ({} refs): git -C {path} for-each-ref \
                 refs/kept",
                repository.kept.len()
            );
            steps.push(comment(&text));
        }
    }
    steps
}
