//! `[[backup]]` with `source = "files"`.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use homelab_common::config::{Section, parse};

use crate::tree::{Changing, Exclude, Filesystems};

/// Trees to back up.
#[derive(Clone, Debug)]
pub struct FilesConfig {
    /// Folders and files, sorted; none lies in another.
    pub roots: Vec<PathBuf>,
    /// What is left out.
    pub exclude: Exclude,
    /// Whether mount points are entered.
    pub filesystems: Filesystems,
    /// What a file means that changes whenever it is read.
    pub changing: Changing,
}

impl FilesConfig {
    /// Reads the keys of a `[[backup]]`; problems go into the report.
    #[must_use]
    pub fn read(section: &Section<'_>) -> Option<Self> {
        let mut roots = section.list("roots", parse::path);
        let exclude = read_exclude(section);
        let all = section.or("other-filesystems", false, parse::bool);
        let changing = read_changing(section);
        roots.sort();
        if roots.is_empty() {
            section.problem("roots", "at least one folder or file, such as [\"/etc\"]");
            return None;
        }
        if let Some((outer, inner)) = nested(&roots) {
            let text = format!(
                "trees beside each other; `{}` is in `{}`",
                inner.display(),
                outer.display()
            );
            section.problem("roots", text);
        }
        let filesystems = if all { Filesystems::All } else { Filesystems::One };
        Some(Self { roots, exclude: exclude?, filesystems, changing })
    }
}

/// The first root that lies in another one. In the order of paths, what is in a folder
/// comes right behind it.
fn nested(roots: &[PathBuf]) -> Option<(&Path, &Path)> {
    roots.windows(2).find_map(|pair| {
        let [outer, inner] = pair else { return None };
        inner.starts_with(outer).then_some((outer.as_path(), inner.as_path()))
    })
}

/// `exclude`, wherever a tree is read.
pub(crate) fn read_exclude(section: &Section<'_>) -> Option<Exclude> {
    let patterns = section.list("exclude", parse::string);
    Exclude::new(&patterns)
        .map_err(|error| {
            section.problem("exclude", format!("patterns such as \"*.log\"; {error}"));
        })
        .ok()
}

/// `changing`, wherever a tree is read.
pub(crate) fn read_changing(section: &Section<'_>) -> Changing {
    let words = [("fail", Changing::Fail), ("warn", Changing::Warn)];
    section.or("changing", Changing::Fail, parse::word(&words))
}

impl fmt::Display for FilesConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "roots = {:?}", self.roots)?;
        write_rules(f, &self.exclude, self.changing)?;
        writeln!(f, "other-filesystems = {}", self.filesystems == Filesystems::All)
    }
}

/// What [`read_exclude`] and [`read_changing`] read.
pub(crate) fn write_rules(
    f: &mut fmt::Formatter<'_>,
    exclude: &Exclude,
    changing: Changing,
) -> fmt::Result {
    if !exclude.patterns().is_empty() {
        writeln!(f, "exclude = {:?}", exclude.patterns())?;
    }
    let changing = if changing == Changing::Fail { "fail" } else { "warn" };
    writeln!(f, "changing = \"{changing}\"")
}
