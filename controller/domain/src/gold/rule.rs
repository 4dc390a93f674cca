//! Rules: who may let what leave the house.

use std::{fmt, str::FromStr};

use super::DataClass;
use crate::ids::{RuleName, UserName};

crate::words! {
    /// What is done with text of a class.
    Action {
        /// It leaves as it is.
        Allow = "allow",
        /// It leaves as a pseudonym, which the answer is freed of again.
        Pseudonymise = "pseudonymise",
        /// The job stays in the house.
        Refuse = "refuse",
    }
}

/// Who asks, as rules and budgets name them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Asker {
    /// A key of the gateway: `key/<name>`.
    Key(Box<str>),
    /// A person: `user/<name>`.
    User(UserName),
}

/// The text names nobody who could ask.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is neither a key of the gateway such as \"key/open-webui\" nor a person such as \"user/ann\""
)]
pub struct InvalidAsker(String);

impl Asker {
    /// Who submitted a job: `key/<name>`, or the SPIFFE id of a person. A daemon
    /// asks for nothing outside.
    pub fn of_submitter(submitted_by: &str) -> Result<Self, InvalidAsker> {
        let path = submitted_by.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/'));
        let Some((_site, path)) = path else { return submitted_by.parse() };
        let mut parts = path.split('/');
        match (parts.next(), parts.next()) {
            (Some("user"), Some(name)) => format!("user/{name}").parse(),
            _ => Err(InvalidAsker(submitted_by.chars().take(80).collect())),
        }
    }
}

impl FromStr for Asker {
    type Err = InvalidAsker;

    fn from_str(text: &str) -> Result<Self, InvalidAsker> {
        let refused = || InvalidAsker(text.chars().take(80).collect());
        match text.split_once('/') {
            Some(("key", name)) => {
                let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
                let is_name = (1..=64).contains(&name.len()) && name.chars().all(fits);
                is_name.then(|| Self::Key(name.into())).ok_or_else(refused)
            }
            Some(("user", name)) => UserName::try_new(name).map(Self::User).map_err(|_| refused()),
            _ => Err(refused()),
        }
    }
}

impl fmt::Display for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key(name) => f.pad(&format!("key/{name}")),
            Self::User(name) => f.pad(&format!("user/{name}")),
        }
    }
}

impl fmt::Debug for Asker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Asker({self})")
    }
}

/// A label that callers put on a job: 1 to 40 of a-z, 0-9 and hyphens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(Box<str>);

impl Tag {
    /// The tag as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let is_tag = (1..=40).contains(&text.len()) && text.chars().all(fits);
        is_tag.then(|| Self(text.into())).ok_or("a tag is 1 to 40 of a-z, 0-9 and hyphens")
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// One rule of the site. The first that fits a class decides about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Name.
    pub name: RuleName,
    /// Whose jobs it is for; empty means everybody's.
    pub keys: Vec<Asker>,
    /// Tags of which the job must carry one; empty means that none is needed.
    pub tags: Vec<Tag>,
    /// Classes that it is for.
    pub classes: Vec<DataClass>,
    /// What it says.
    pub action: Action,
}

impl Rule {
    fn fits(&self, asker: &Asker, tags: &[Tag], class: DataClass) -> bool {
        self.classes.contains(&class)
            && (self.keys.is_empty() || self.keys.contains(asker))
            && (self.tags.is_empty() || self.tags.iter().any(|tag| tags.contains(tag)))
    }
}

/// What was decided about one class, and by which rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    /// The class.
    pub class: DataClass,
    /// What is done with it.
    pub action: Action,
    /// The rule that decided; none when no rule speaks of it, which refuses.
    pub rule: Option<RuleName>,
}

/// Decides about one class: the first rule that fits, and no without one.
#[must_use]
pub fn decide(rules: &[Rule], asker: &Asker, tags: &[Tag], class: DataClass) -> Ruling {
    match rules.iter().find(|rule| rule.fits(asker, tags, class)) {
        Some(rule) => {
            let action = if class.may(rule.action) { rule.action } else { Action::Refuse };
            Ruling { class, action, rule: Some(rule.name.clone()) }
        }
        None => Ruling { class, action: Action::Refuse, rule: None },
    }
}

impl DataClass {
    /// Whether a rule may say that of the class: a secret never leaves as it is,
    /// an attachment cannot be replaced, and plain text has nothing to replace.
    #[must_use]
    pub const fn may(self, action: Action) -> bool {
        !matches!(
            (self, action),
            (Self::Secret, Action::Allow)
                | (Self::Attachment | Self::Document | Self::Plain, Action::Pseudonymise)
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rule(name: &str, keys: &[&str], tags: &[&str], action: Action) -> Rule {
        Rule {
            name: RuleName::try_new(name).unwrap(),
            keys: keys.iter().map(|key| key.parse().unwrap()).collect(),
            tags: tags.iter().map(|tag| tag.parse().unwrap()).collect(),
            classes: vec![DataClass::Plain],
            action,
        }
    }

    fn ruled(rules: &[Rule], key: &str, tags: &[&str]) -> (Action, Option<String>) {
        let tags: Vec<Tag> = tags.iter().map(|tag| tag.parse().unwrap()).collect();
        let ruling = decide(rules, &key.parse().unwrap(), &tags, DataClass::Plain);
        (ruling.action, ruling.rule.map(|name| name.to_string()))
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let rules = [
            rule("not-drafts", &[], &["draft"], Action::Refuse),
            rule("ann", &["key/ann", "user/ann"], &[], Action::Allow),
            rule("rest", &[], &[], Action::Allow),
        ];
        let named = |name: &str| Some(name.to_owned());
        assert_eq!(ruled(&rules, "key/ann", &[]), (Action::Allow, named("ann")));
        assert_eq!(ruled(&rules, "key/ann", &["draft"]), (Action::Refuse, named("not-drafts")));
        assert_eq!(ruled(&rules, "key/bob", &["x"]), (Action::Allow, named("rest")));
    }

    #[test]
    fn without_a_rule_the_answer_is_no() {
        assert_eq!(ruled(&[], "key/ann", &[]), (Action::Refuse, None));
    }

    #[test]
    fn a_submitter_is_a_key_or_a_person_and_never_a_daemon() {
        let of = |text| Asker::of_submitter(text).map(|asker| asker.to_string());
        assert_eq!(of("key/open-webui").unwrap(), "key/open-webui");
        assert_eq!(of("spiffe://home/user/ann/operator+approver").unwrap(), "user/ann");
        for wrong in ["", "ann", "spiffe://home/agent/x99", "spiffe://home", "host/x"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn only_a_rule_that_names_the_class_lets_it_leave(
            classes in proptest::sample::subsequence(DataClass::ALL.to_vec(), 0..=DataClass::ALL.len()),
        ) {
            let rules = [Rule { classes: classes.clone(), ..rule("one", &[], &[], Action::Allow) }];
            for class in DataClass::ALL {
                let ruling = decide(&rules, &"key/a".parse().unwrap(), &[], *class);
                let leaves = classes.contains(class) && *class != DataClass::Secret;
                prop_assert_eq!(ruling.action == Action::Allow, leaves);
            }
        }
    }
}
