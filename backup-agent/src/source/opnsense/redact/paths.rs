//! Which elements hold secrets, by where they stand.

use std::{fmt, str::FromStr};

/// Our own list; see its head for the form.
const KNOWN: &str = include_str!("paths.txt");

/// A path of element names, such as `/opnsense/interfaces/*/wireless/wpa/passphrase`.
/// Letter case does not count: masking too much harms nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(Vec<String>);

impl Pattern {
    /// Whether the path is this one.
    #[must_use]
    pub fn is(&self, path: &[&str]) -> bool {
        fits(&self.0, path)
    }

    /// Whether the path is this one or lies below it.
    #[must_use]
    pub fn covers(&self, path: &[&str]) -> bool {
        (1..=path.len()).any(|length| fits(&self.0, &path[..length]))
    }
}

/// The text is no path of elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a path such as \"/opnsense/OPNsense/Plugin/general/leaf\"; `*` and `**` may stand in it")]
pub struct InvalidPattern;

impl FromStr for Pattern {
    type Err = InvalidPattern;

    fn from_str(text: &str) -> Result<Self, InvalidPattern> {
        let names = text.strip_prefix('/').ok_or(InvalidPattern)?.split('/');
        let names: Vec<String> = names.map(str::to_lowercase).collect();
        let plain = |c: char| c.is_alphanumeric() || "-_.:*@".contains(c);
        if names.iter().any(|name| name.is_empty() || !name.chars().all(plain)) {
            return Err(InvalidPattern);
        }
        Ok(Self(names))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|name| write!(f, "/{name}"))
    }
}

/// What is known of paths: our list, and what the configuration adds.
#[derive(Clone, Debug)]
pub struct Paths {
    secret: Vec<Pattern>,
    public: Vec<Pattern>,
    secret_here: Vec<Pattern>,
    public_here: Vec<Pattern>,
}

/// What a path says of its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// It is a secret.
    Secret,
    /// It is none.
    Public,
    /// Nothing.
    Unknown,
}

impl Paths {
    /// Our list, with the paths of one firewall's owner on top of it.
    #[must_use]
    pub fn with(secret_here: Vec<Pattern>, public_here: Vec<Pattern>) -> Self {
        let of = |word: &str| {
            let paths = KNOWN.lines().filter_map(|line| line.strip_prefix(word));
            paths.filter_map(|path| path.trim().parse().ok()).collect()
        };
        Self { secret: of("secret "), public: of("public "), secret_here, public_here }
    }

    /// What is known of this path. The owner's word counts more than ours, and
    /// "secret" more than "public".
    #[must_use]
    pub fn place(&self, path: &[&str]) -> Place {
        let covers = |patterns: &[Pattern]| patterns.iter().any(|it| it.covers(path));
        let is = |patterns: &[Pattern]| patterns.iter().any(|it| it.is(path));
        if covers(&self.secret_here) {
            Place::Secret
        } else if is(&self.public_here) || is(&self.public) {
            Place::Public
        } else if covers(&self.secret) {
            Place::Secret
        } else {
            Place::Unknown
        }
    }
}

fn fits(pattern: &[String], path: &[&str]) -> bool {
    match (pattern.split_first(), path.split_first()) {
        (None, None) => true,
        (Some((any, rest)), _) if any == "**" => {
            (0..=path.len()).any(|skipped| fits(rest, &path[skipped..]))
        }
        (Some((name, rest)), Some((found, below))) => {
            glob(name.as_bytes(), found.to_lowercase().as_bytes()) && fits(rest, below)
        }
        _ => false,
    }
}

fn glob(pattern: &[u8], name: &[u8]) -> bool {
    match pattern.split_first() {
        None => name.is_empty(),
        Some((b'*', rest)) => (0..=name.len()).any(|skipped| glob(rest, &name[skipped..])),
        Some((c, rest)) => name.split_first().is_some_and(|(d, name)| c == d && glob(rest, name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(path: &str) -> Place {
        let path: Vec<&str> = path.trim_start_matches('/').split('/').collect();
        Paths::with(Vec::new(), Vec::new()).place(&path)
    }

    #[test]
    fn every_line_of_the_list_is_read() {
        let lines = KNOWN.lines().filter(|line| !line.starts_with('#')).count();
        let paths = Paths::with(Vec::new(), Vec::new());
        assert_eq!(paths.secret.len() + paths.public.len(), lines);
    }

    #[test]
    fn both_layouts_of_api_keys_are_secret() {
        assert_eq!(place("/opnsense/system/user/apikeys"), Place::Secret);
        assert_eq!(place("/opnsense/system/user/apikeys/item/key"), Place::Secret);
    }

    #[test]
    fn names_stand_for_any_interface_and_any_case() {
        assert_eq!(place("/opnsense/interfaces/opt1/wireless/wpa/passphrase"), Place::Secret);
        assert_eq!(place("/opnsense/OPNsense/ipsec/preSharedKeys/preSharedKey/key"), Place::Secret);
        assert_eq!(place("/opnsense/interfaces/opt1/descr"), Place::Unknown);
    }

    #[test]
    fn one_field_of_a_family_can_be_public() {
        let validation = "/opnsense/OPNsense/AcmeClient/validations/validation";
        assert_eq!(place(&format!("{validation}/dns_service")), Place::Public);
        assert_eq!(place(&format!("{validation}/dns_of_tomorrow_secret")), Place::Secret);
    }

    #[test]
    fn the_owner_has_the_last_word() {
        let path = ["opnsense", "a", "b"];
        let pattern = |text: &str| text.parse::<Pattern>().expect("a path");
        let paths = Paths::with(vec![pattern("/opnsense/a")], vec![pattern("/opnsense/a/b")]);
        assert_eq!(paths.place(&path), Place::Secret);
        let paths = Paths::with(Vec::new(), vec![pattern("/opnsense/system/user/password")]);
        assert_eq!(paths.place(&["opnsense", "system", "user", "password"]), Place::Public);
        assert!("opnsense/a".parse::<Pattern>().is_err());
    }
}
