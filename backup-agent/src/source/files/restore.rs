//! A restored tree: looked at in a drill, put back by a person.

use std::{fs::File, io::BufReader, path::Path, time::Instant};

use super::{ARCHIVE_FILE, FilesError, manifest::FilesContents};
use crate::{
    drill::{Compared, DrillError, Shown, Verdict, folder::Examination},
    shell::{comment, quoted},
    tree::{CompareError, Entry, ExtractError, Strictness, What, compare, differences, extract},
};

/// Extracts the archive and compares every file by its hash, read back from the disk.
pub(crate) fn examine(
    folder: &Path,
    contents: &FilesContents,
    examination: &Examination<'_>,
) -> Result<Shown, DrillError> {
    let began = Instant::now();
    let into = examination.work.join("tree");
    let archive = folder.join(ARCHIVE_FILE);
    let unpacked = unpack(&archive, &into, &contents.entries, examination, FilesError::from)?;
    let restore_elapsed = began.elapsed();
    let mut found = unpacked;
    found.extend(read_back(&into, &contents.entries, examination, FilesError::from)?);
    let is_file = |entry: &&Entry| matches!(entry.what, What::File { .. });
    let files = contents.entries.iter().filter(is_file).count() as u64;
    let compared = vec![
        Compared { what: "entries", count: contents.count() },
        Compared { what: "files", count: files },
        Compared { what: "bytes", count: contents.bytes() },
    ];
    Ok(Shown { verdict: Verdict::of(found), restore_elapsed, compared })
}

/// Extracts an archive; gives how its headers differ from the manifest.
pub(crate) fn unpack<E: Into<crate::source::SourceError>>(
    archive: &Path,
    into: &Path,
    expected: &[Entry],
    examination: &Examination<'_>,
    error: impl Fn(ExtractError) -> E,
) -> Result<Vec<String>, DrillError> {
    let file = File::open(archive).map_err(|source| examination.refused(archive, source))?;
    match extract(BufReader::with_capacity(1 << 20, file), into, examination.cancel) {
        Ok(extracted) => {
            let found = differences(expected, &extracted.entries, Strictness::Everything);
            Ok(found.into_texts())
        }
        Err(ExtractError::Cancelled) => Err(DrillError::Cancelled),
        Err(trouble @ ExtractError::Write { .. }) => Err(examination.trouble(error(trouble))),
        Err(wrong) => Ok(vec![homelab_common::error_chain::Chain(&wrong).to_string()]),
    }
}

/// Reads an extracted tree back; gives how it differs from the manifest.
pub(crate) fn read_back<E: Into<crate::source::SourceError>>(
    into: &Path,
    expected: &[Entry],
    examination: &Examination<'_>,
    error: impl Fn(CompareError) -> E,
) -> Result<Vec<String>, DrillError> {
    match compare(expected, into, examination.cancel) {
        Ok(found) => Ok(found.into_texts()),
        Err(CompareError::Cancelled) => Err(DrillError::Cancelled),
        Err(trouble) => Err(examination.trouble(error(trouble))),
    }
}

/// Commands for a person with tar and nothing of ours.
pub(crate) fn next_steps(folder: &Path, contents: &FilesContents) -> Vec<String> {
    let archive = quoted(&folder.join(ARCHIVE_FILE).display().to_string());
    let beside = quoted(&folder.join("tree").display().to_string());
    let mut steps = vec![
        comment("look at it beside what is there (owners need root):"),
        format!("mkdir -- {beside} && tar -C {beside} --numeric-owner -xpf {archive}"),
    ];
    for root in &contents.roots {
        let inside = root.trim_start_matches('/');
        steps.push(comment(&format!(
            "to compare: diff -r {}/{inside} {root}",
            folder.join("tree").display()
        )));
    }
    steps.push(comment("or put it back where it was, over what is there:"));
    steps.push(format!("tar -C / --numeric-owner -xpf {archive}"));
    steps.push(comment("access control lists and extended attributes are not in the backup"));
    steps
}
