//! What a person does not want in the archive.

use std::path::Path;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

/// Patterns for paths that are left out, folders with all that is in them.
///
/// A pattern without a slash stands for a name anywhere (`*.log`, `node_modules`);
/// one with a slash for a path from the top of the archive (`srv/data/cache/**`).
/// `*` and `?` never match a slash, `**` does.
#[derive(Clone, Debug)]
pub struct Exclude {
    patterns: Vec<String>,
    names: GlobSet,
    paths: GlobSet,
}

/// A pattern that cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("`{pattern}` is no pattern")]
pub struct InvalidPattern {
    /// What was given.
    pub pattern: String,
    /// What is wrong with it.
    #[source]
    pub source: globset::Error,
}

impl Exclude {
    /// Nothing is left out.
    #[must_use]
    pub fn nothing() -> Self {
        Self { patterns: Vec::new(), names: GlobSet::empty(), paths: GlobSet::empty() }
    }

    /// Reads patterns.
    ///
    /// # Errors
    ///
    /// The first that is none.
    pub fn new(patterns: &[String]) -> Result<Self, InvalidPattern> {
        let (mut names, mut paths) = (GlobSetBuilder::new(), GlobSetBuilder::new());
        for pattern in patterns {
            let invalid = |source| InvalidPattern { pattern: pattern.clone(), source };
            let text = pattern.trim_matches('/');
            let glob = GlobBuilder::new(text).literal_separator(true).build().map_err(invalid)?;
            if pattern.trim_end_matches('/').contains('/') {
                paths.add(glob);
            } else {
                names.add(glob);
            }
        }
        let built = |set: GlobSetBuilder| {
            set.build().map_err(|source| InvalidPattern { pattern: patterns.join(", "), source })
        };
        Ok(Self { patterns: patterns.to_vec(), names: built(names)?, paths: built(paths)? })
    }

    /// As they were given.
    #[must_use]
    pub fn patterns(&self) -> &[String] {
        &self.patterns
    }

    /// Whether this path of the archive is left out.
    #[must_use]
    pub fn matches(&self, path: &Path) -> bool {
        path.file_name().is_some_and(|name| self.names.is_match(name)) || self.paths.is_match(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excluded(pattern: &str, path: &str) -> bool {
        Exclude::new(&[pattern.to_owned()]).expect("a pattern").matches(Path::new(path))
    }

    #[test]
    fn a_pattern_without_a_slash_stands_for_a_name_anywhere() {
        assert!(excluded("*.log", "srv/app/a.log"));
        assert!(excluded("cache/", "srv/app/cache"));
        assert!(!excluded("*.log", "srv/a.log/b"));
    }

    #[test]
    fn a_pattern_with_a_slash_stands_for_a_path_from_the_top() {
        assert!(excluded("/cache", "cache"));
        assert!(!excluded("/cache", "srv/cache"));
        assert!(excluded("srv/*/cache", "srv/app/cache"));
        assert!(!excluded("srv/*/cache", "srv/a/b/cache"));
        assert!(excluded("srv/**/cache", "srv/a/b/cache"));
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
        assert!(Exclude::new(&["[a".to_owned()]).is_err());
    }
}
