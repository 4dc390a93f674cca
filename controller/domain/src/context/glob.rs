//! Which files of a repository are meant.

use std::{fmt, str::FromStr};

/// Longest pattern, in bytes.
const BYTES_MAX: usize = 200;

/// A pattern over paths: `*` and `?` stand for characters of one folder's or file's name,
/// `**` for any folders. Without a slash it is held against the file's name alone.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Glob(Box<str>);

/// The text is no such pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a pattern such as \"*.md\" or \"docs/**\": {0}")]
pub struct InvalidGlob(&'static str);

impl Glob {
    /// Whether a path is meant.
    #[must_use]
    pub fn fits(&self, path: &str) -> bool {
        if self.0.contains('/') {
            let pattern: Vec<&str> = self.0.split('/').collect();
            let path: Vec<&str> = path.split('/').collect();
            return folders_fit(&pattern, &path);
        }
        name_fits(&self.0, path.rsplit('/').next().unwrap_or(path))
    }
}

/// Row by row, as edit distances are found: work is the product of both lengths, whatever
/// the pattern.
fn folders_fit(pattern: &[&str], path: &[&str]) -> bool {
    let mut fits: Vec<bool> = (0..=path.len()).map(|rest| rest == path.len()).collect();
    for part in pattern.iter().rev() {
        let mut next = vec![false; path.len() + 1];
        for at in (0..=path.len()).rev() {
            let later = |at: usize, row: &[bool]| row.get(at).copied().unwrap_or_default();
            let fit = match *part {
                "**" => later(at, &fits) || (at < path.len() && later(at + 1, &next)),
                part => {
                    path.get(at).is_some_and(|name| name_fits(part, name)) && later(at + 1, &fits)
                }
            };
            if let Some(cell) = next.get_mut(at) {
                *cell = fit;
            }
        }
        fits = next;
    }
    fits.first().copied().unwrap_or_default()
}

fn name_fits(pattern: &str, name: &str) -> bool {
    let name: Vec<char> = name.chars().collect();
    // Which beginnings of the name the beginning of the pattern stands for.
    let mut fits = vec![false; name.len() + 1];
    if let Some(first) = fits.first_mut() {
        *first = true;
    }
    for sign in pattern.chars() {
        let mut next = vec![false; name.len() + 1];
        let mut any_before = false;
        for at in 0..=name.len() {
            let here = fits.get(at).copied().unwrap_or_default();
            any_before |= here;
            let before = at.checked_sub(1);
            let fit = match sign {
                '*' => any_before,
                sign => before.is_some_and(|before| {
                    let same = name.get(before).is_some_and(|c| sign == '?' || *c == sign);
                    same && fits.get(before).copied().unwrap_or_default()
                }),
            };
            if let Some(cell) = next.get_mut(at) {
                *cell = fit;
            }
        }
        fits = next;
    }
    fits.last().copied().unwrap_or_default()
}

impl FromStr for Glob {
    type Err = InvalidGlob;

    fn from_str(text: &str) -> Result<Self, InvalidGlob> {
        if text.is_empty() || text.len() > BYTES_MAX {
            return Err(InvalidGlob("1 to 200 bytes"));
        }
        if text.starts_with('/') || text.split('/').any(|part| part.is_empty() || part == "..") {
            return Err(InvalidGlob("it is held against paths within the repository"));
        }
        if text.chars().any(char::is_control) {
            return Err(InvalidGlob("no control characters"));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Glob({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_means_names_folders_or_all_below() {
        let fits = |pattern: &str, path: &str| pattern.parse::<Glob>().unwrap().fits(path);
        assert!(fits("*.md", "README.md"));
        assert!(fits("*.md", "docs/deep/a.md"));
        assert!(!fits("*.md", "docs/a.mdx"));
        assert!(fits("docs/**", "docs/deep/a.txt"));
        assert!(fits("**/*.toml", "site.toml"));
        assert!(fits("**/*.toml", "a/b/site.toml"));
        assert!(!fits("docs/*.md", "docs/deep/a.md"));
        assert!(fits("docs/**/run-?.md", "docs/a/b/run-7.md"));
        assert!(!fits("docs/**/run-?.md", "docs/run-17.md"));
    }

    #[test]
    fn a_pattern_that_leaves_the_repository_is_refused() {
        for wrong in ["", "/etc/*", "../*", "a//b", "a\nb"] {
            assert!(wrong.parse::<Glob>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_pattern_of_many_stars_costs_no_more_than_its_length() {
        let stars = "a*".repeat(90).parse::<Glob>().unwrap();
        assert!(!stars.fits(&("a".repeat(4_000) + "b/c")));
        let folders = ["**"; 60].join("/").parse::<Glob>().unwrap();
        assert!(folders.fits(&vec!["x"; 1_000].join("/")));
    }
}
