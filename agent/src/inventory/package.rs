//! Versions of installed Debian packages, from the database of `dpkg`: no program has to be run.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::Path;
use std::sync::Arc;

use crate::health::label;
use crate::reading::{Missing, Reading};

/// The version of `name`, when it is installed and not merely configured once.
///
/// # Errors
/// [`Missing::Absent`] when it is not installed, or when this is no Debian.
pub(super) fn installed_version(database: &Path, name: &str) -> Reading<String> {
    let what = Arc::from(database.to_string_lossy());
    let file = File::open(database).map_err(|error| Missing::from_io(&what, &error))?;
    let version = find(BufReader::new(file), name);
    version
        .map_err(|error| Missing::from_io(&what, &error))?
        .ok_or_else(|| Missing::Absent(Arc::from(name)))
}

/// Stanzas with an empty line between; `Package` comes first in each.
fn find(mut database: impl io::BufRead, name: &str) -> io::Result<Option<String>> {
    let (mut is_wanted, mut is_installed, mut version) = (false, false, None);
    let mut line = Vec::new();
    loop {
        line.clear();
        if database.read_until(b'\n', &mut line)? == 0 {
            return Ok(version.filter(|_| is_installed));
        }
        let field = line.trim_ascii_end();
        if field.is_empty() {
            if is_wanted {
                return Ok(version.filter(|_| is_installed));
            }
        } else if let Some(package) = field.strip_prefix(b"Package: ") {
            is_wanted = package == name.as_bytes();
        } else if is_wanted && let Some(status) = field.strip_prefix(b"Status: ") {
            is_installed = status.ends_with(b" installed");
        } else if is_wanted && let Some(found) = field.strip_prefix(b"Version: ") {
            version = Some(label(found, 100));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DATABASE: &[u8] =
        b"Package: pve-kernel-helper\nStatus: install ok installed\nVersion: 9.0\n\n\
        Package: pve-manager\nStatus: install ok installed\nPriority: optional\n\
        Description: the manager\n with a second line\nVersion: 9.1.1\n\n\
        Package: gone\nStatus: deinstall ok config-files\nVersion: 1.0\n";

    #[test]
    fn only_what_is_installed_has_a_version() {
        for (name, expected) in
            [("pve-manager", Some("9.1.1")), ("gone", None), ("pve", None), ("none", None)]
        {
            assert_eq!(find(DATABASE, name).unwrap().as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn a_system_without_dpkg_has_no_packages() {
        let missing = installed_version(Path::new("/nonexistent/status"), "pve-manager");
        assert!(matches!(missing, Err(Missing::Absent(_))), "{missing:?}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>) {
            let _found = find(bytes.as_slice(), "pve-manager");
        }
    }
}
