//! Identifiers and names, checked where they enter.
//!
//! An identifier is a UUID that its maker chose; the time-ordered version 7 is
//! expected, so that later ones sort later. A name is what a person wrote in
//! the site file.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The text is not a UUID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {noun} id: a UUID such as 0190a5de-9a2b-7c3d-8e4f-5a6b7c8d9e0f is wanted")]
pub struct InvalidId {
    /// What kind of identifier was expected.
    pub noun: &'static str,
    /// What was given.
    pub text: String,
}

macro_rules! typed_ids {
    ($($(#[$doc:meta])* $name:ident, $noun:literal;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// The identifier as a UUID.
            #[must_use]
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self(uuid)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Uuid::try_parse(text)
                    .map(Self)
                    .map_err(|_| InvalidId { noun: $noun, text: text.chars().take(80).collect() })
            }
        }
    )+};
}

typed_ids! {
    /// One AI job.
    JobId, "job";
    /// One execution of a backup or drill.
    RunId, "run";
    /// One enrolment token; not secret.
    TokenId, "token";
    /// One session of a browser; not secret.
    SessionId, "session";
    /// One mutating call, chosen by its caller.
    RequestId, "request";
    /// Many chats that came in one file.
    BatchId, "batch";
    /// One file that was given to the gateway.
    FileId, "file";
    /// One runbook.
    RunbookId, "runbook";
}

/// A name breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no {noun} name: {rule}")]
pub struct InvalidName {
    /// What kind of name was expected.
    pub noun: &'static str,
    /// What was given, cut to 80 characters.
    pub text: String,
    /// The rule that it breaks, for people.
    pub rule: &'static str,
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident, $noun:literal, $check:path;)+) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// Checks a name; the error names the rule that it breaks.
            pub fn try_new(text: impl AsRef<str>) -> Result<Self, InvalidName> {
                let text = text.as_ref();
                match $check(text) {
                    Ok(()) => Ok(Self(text.into())),
                    Err(rule) => Err(InvalidName {
                        noun: $noun,
                        text: text.chars().take(80).collect(),
                        rule,
                    }),
                }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;

            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::try_new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidName;

            fn try_from(text: String) -> Result<Self, InvalidName> {
                Self::try_new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.into()
            }
        }
    )+};
}

names! {
    /// A host, as the site file calls it; also the first label of its DNS name.
    HostName, "host", label;
    /// A declared backup.
    BackupName, "backup", label;
    /// A repository.
    RepositoryName, "repository", label;
    /// A service that the site declares.
    ServiceName, "service", label;
    /// A secret, by what it is called and never what it is.
    SecretName, "secret", label;
    /// A maintenance window.
    WindowName, "window", label;
    /// A network segment.
    NetworkName, "network", label;
    /// A place that a drill may restore into.
    DrillTargetName, "drill target", label;
    /// A provider of models outside the house.
    ProviderName, "provider", label;
    /// A source of documents.
    SourceName, "source", label;
    /// A rule about what may leave the house.
    RuleName, "rule", label;
    /// A budget of what may be spent outside.
    BudgetName, "budget", label;
    /// The site; part of every identity.
    SiteName, "site", label;
    /// A person.
    UserName, "user", label;
    /// A model, as requests call it: `qwen2.5-7b`, `org/model:q4_k_m`.
    ModelName, "model", model;
}

/// A DNS label of at most 40 characters: what every name of the site must be,
/// since names become host names, SPIFFE paths, file names and tags.
fn label(text: &str) -> Result<(), &'static str> {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.len() > 40 {
        return Err("it is longer than 40 characters");
    }
    if !text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') {
        return Err("only a-z, 0-9 and - are allowed");
    }
    if !edge(text.chars().next()) || !edge(text.chars().next_back()) {
        return Err("it must begin and end with a letter or digit");
    }
    Ok(())
}

/// Models are named by others; only what would break a log line, a URL path or
/// a command line is refused.
fn model(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    if text.len() > 200 {
        return Err("it is longer than 200 characters");
    }
    if !text.chars().all(|c| c.is_ascii_alphanumeric() || "._:/@+-".contains(c)) {
        return Err("only letters, digits and . _ : / @ + - are allowed");
    }
    if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err("it must begin with a letter or digit");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_name_says_which_rule_it_breaks() {
        let rule = |text: &str| HostName::try_new(text).unwrap_err().rule;
        assert_eq!(rule(""), "it is empty");
        assert_eq!(rule("X99"), "only a-z, 0-9 and - are allowed");
        assert_eq!(rule("-x99"), "it must begin and end with a letter or digit");
        assert_eq!(rule(&"x".repeat(41)), "it is longer than 40 characters");
        assert_eq!(HostName::try_new("hx310-db").unwrap().as_str(), "hx310-db");
    }

    #[test]
    fn a_long_wrong_name_is_cut_in_the_message() {
        let error = BackupName::try_new("X".repeat(5000)).unwrap_err();
        assert_eq!(error.text.len(), 80);
    }

    #[test]
    fn a_model_may_be_named_as_registries_do() {
        for name in ["qwen2.5-7b", "org/model:q4_k_m", "SmolLM2-135M-Instruct"] {
            assert_eq!(ModelName::try_new(name).unwrap().as_str(), name);
        }
        assert!(ModelName::try_new("a b").is_err());
        assert!(ModelName::try_new("--flag").is_err());
    }

    #[test]
    fn an_id_survives_its_text_form() {
        let id: JobId = "0190a5de-9a2b-7c3d-8e4f-5a6b7c8d9e0f".parse().unwrap();
        assert_eq!(id.to_string().parse::<JobId>().unwrap(), id);
        assert_eq!("nope".parse::<RunId>().unwrap_err().noun, "run");
    }
}
