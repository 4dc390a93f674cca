//! A copy of `config.xml` that may be shown: fail-closed.
//!
//! The schema has no reliable mark for secrets, so that four nets are laid one
//! behind the other: where a value stands ([`paths`]), what it is called, what it
//! looks like ([`look`]), and whether a value that was masked in one place turns
//! up in another. What may be a secret and is in none of the lists refuses the
//! whole copy, until its owner says what it is. Values are replaced by marks keyed
//! with a secret of the backup: the same value gives the same mark, so that a
//! change shows in the difference, and nobody can guess from it.

pub mod look;
pub mod paths;

use ring::hmac;

use super::{manifest::Revision, xml::Element};
use crate::stream::hex;
use look::{Look, is_private_key, is_secret_name, is_switch};
use paths::{Paths, Place};

/// Before the digits of a mark.
const MARK: &str = "REDACTED-hmac:";

/// Bytes of the digest in a mark.
const MARK_BYTES: usize = 4;

/// Shorter secrets are not looked for elsewhere: `lan` is no leak.
const ECHO_CHARS_MIN: usize = 8;

/// Suspects that are named; the rest is counted by fixing these.
const SUSPECTS_MAX: usize = 50;

/// What changes with every look at the firewall and means nothing.
const VOLATILE: [&[&str]; 2] = [&["opnsense", "revision"], &["opnsense", "system", "lastchange"]];

/// A copy without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redacted {
    /// The document.
    pub document: String,
    /// Values that were masked.
    pub masked: u64,
}

/// A value that may be a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspect {
    /// Where it stands, never what it is.
    pub path: String,
    /// Why it is suspected.
    pub why: &'static str,
}

/// There is no copy, because something in it may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the redacted copy was not made: {}; say what each is: its path into `secret-paths` or \
     `public-paths` of the backup",
    named(suspects)
)]
pub struct Refused {
    /// At least one.
    pub suspects: Vec<Suspect>,
}

fn named(suspects: &[Suspect]) -> String {
    let texts: Vec<String> =
        suspects.iter().map(|Suspect { path, why }| format!("{path} {why}")).collect();
    texts.join("; ")
}

/// Masks every secret of a configuration.
///
/// # Errors
///
/// Something may be a secret, and neither list says so.
pub fn redact(root: &Element, paths: &Paths, key: &str) -> Result<Redacted, Refused> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
    let mut redactor =
        Redactor { paths, key, secrets: Vec::new(), suspects: Vec::new(), masked: 0 };
    // Twice: secrets that are found late are looked for in what comes early.
    redactor.collect(root, &mut Vec::new());
    redactor.secrets.sort_unstable();
    redactor.secrets.dedup();
    let copy = redactor.copy(root, &mut Vec::new());
    let document = copy.to_document();
    redactor.last_look(&document);
    if redactor.suspects.is_empty() {
        return Ok(Redacted { document, masked: redactor.masked });
    }
    redactor.suspects.truncate(SUSPECTS_MAX);
    Err(Refused { suspects: redactor.suspects })
}

/// What may be said of a change outside of the file: user and description, unless
/// they hold a secret or look like one.
#[must_use]
pub fn revision(root: &Element, paths: &Paths, revision: &Revision) -> Revision {
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"");
    let mut redactor =
        Redactor { paths, key, secrets: Vec::new(), suspects: Vec::new(), masked: 0 };
    redactor.collect(root, &mut Vec::new());
    let harmless = |text: &String| {
        look::look(text) == Look::Plain
            && !redactor.secrets.iter().any(|secret| text.contains(secret.as_str()))
    };
    Revision {
        time: revision.time.clone(),
        user: revision.user.clone().filter(harmless),
        description: revision.description.clone().filter(harmless),
    }
}

/// What becomes of a value.
enum Fate {
    Keep,
    Mask,
    Refuse(&'static str),
}

struct Redactor<'a> {
    paths: &'a Paths,
    key: hmac::Key,
    secrets: Vec<String>,
    suspects: Vec<Suspect>,
    masked: u64,
}

type Path<'e> = Vec<&'e str>;

impl Redactor<'_> {
    fn fate(&self, path: &[&str], value: &str) -> Fate {
        if value.trim().is_empty() {
            return Fate::Keep;
        }
        if is_private_key(value) {
            return Fate::Mask;
        }
        match self.paths.place(path) {
            Place::Secret => return Fate::Mask,
            Place::Public => return Fate::Keep,
            Place::Unknown => {}
        }
        if is_secret_name(path) && !is_switch(value) {
            return Fate::Mask;
        }
        match look::look(&without_logins(value).0) {
            Look::Plain => Fate::Keep,
            Look::Secret => Fate::Mask,
            Look::Suspect(why) => Fate::Refuse(why),
        }
    }

    /// Gathers everything that will be masked.
    fn collect<'e>(&mut self, element: &'e Element, path: &mut Path<'e>) {
        path.push(&element.name);
        for (name, value) in &element.attributes {
            path.push(name);
            self.note(path, value);
            path.pop();
        }
        self.note(path, &element.text);
        for child in &element.children {
            self.collect(child, path);
        }
        path.pop();
    }

    fn note(&mut self, path: &[&str], value: &str) {
        let mut found = without_logins(value).1;
        if matches!(self.fate(path, value), Fate::Mask) {
            // Also line by line, and what stands on both sides of a `|`: API keys.
            found.extend(value.lines().flat_map(|line| line.split('|')).map(str::to_owned));
            found.extend(look::decoded(value));
            found.push(value.to_owned());
        }
        let long = |secret: &String| secret.chars().count() >= ECHO_CHARS_MIN;
        let trimmed = found.into_iter().map(|secret| secret.trim().to_owned());
        self.secrets.extend(trimmed.filter(long).filter(|secret| !is_armour(secret)));
    }

    fn copy<'e>(&mut self, element: &'e Element, path: &mut Path<'e>) -> Element {
        path.push(&element.name);
        let mut copy = Element { name: element.name.clone(), ..Element::default() };
        self.copy_attributes(element, path, &mut copy);
        copy.text = self.value(path, &element.text);
        for child in &element.children {
            if !is_volatile(path, &child.name) {
                copy.children.push(self.copy(child, path));
            }
        }
        path.pop();
        copy
    }

    fn copy_attributes<'e>(
        &mut self,
        element: &'e Element,
        path: &mut Path<'e>,
        copy: &mut Element,
    ) {
        for (name, value) in &element.attributes {
            path.push(name);
            copy.attributes.push((name.clone(), self.value(path, value)));
            path.pop();
        }
    }

    fn value(&mut self, path: &[&str], value: &str) -> String {
        let echoes = |value: &str| self.secrets.iter().any(|it| value.contains(it.as_str()));
        match self.fate(path, value) {
            Fate::Refuse(why) => {
                self.suspects.push(Suspect { path: shown(path), why });
                String::new()
            }
            Fate::Mask => self.mark(path, value),
            Fate::Keep => {
                let (kept, logins) = without_logins(value);
                if echoes(&kept) || look::decoded(&kept).is_some_and(|text| echoes(&text)) {
                    return self.mark(path, value);
                }
                // The places of logins are NUL, which no XML can hold.
                let marks: Vec<String> = logins.iter().map(|it| self.mark(path, it)).collect();
                marks.iter().fold(kept, |text, mark| text.replacen('\0', mark, 1))
            }
        }
    }

    fn mark(&mut self, path: &[&str], value: &str) -> String {
        self.masked += 1;
        let mut context = hmac::Context::with_key(&self.key);
        context.update(shown(path).as_bytes());
        context.update(b"\0");
        context.update(value.as_bytes());
        let tag = context.sign();
        format!("{MARK}{}", hex(tag.as_ref().get(..MARK_BYTES).unwrap_or_default()))
    }

    /// Names of elements are copied as they are; nothing secret may be in them.
    fn last_look(&mut self, document: &str) {
        if self.secrets.iter().any(|secret| document.contains(secret.as_str())) {
            let why = "of an element or attribute holds a masked value";
            self.suspects.push(Suspect { path: "the name".to_owned(), why });
        }
    }
}

/// A line that stands in every key of its kind.
fn is_armour(line: &str) -> bool {
    line.starts_with("-----") && line.ends_with("-----") && !line.contains('\n')
}

fn is_volatile(path: &[&str], name: &str) -> bool {
    VOLATILE.iter().any(|volatile| {
        volatile.split_last().is_some_and(|(leaf, above)| *leaf == name && path == above)
    })
}

fn shown(path: &[&str]) -> String {
    path.iter().fold(String::new(), |text, name| text + "/" + name)
}

/// Takes `user:password` out of every URL; a NUL takes its place.
fn without_logins(value: &str) -> (String, Vec<String>) {
    let mut kept = String::with_capacity(value.len());
    let mut logins = Vec::new();
    let mut rest = value;
    while let Some((before, after)) = rest.split_once("://") {
        kept.push_str(before);
        kept.push_str("://");
        let end = after.find(|c: char| c.is_whitespace() || "\"'<>".contains(c));
        let (word, behind) = after.split_at(end.unwrap_or(after.len()));
        // The last one: a password may hold others.
        match word.rsplit_once('@') {
            Some((login, _)) if !login.is_empty() => {
                logins.push(login.to_owned());
                kept.push('\0');
                rest = after.get(login.len()..).unwrap_or(behind);
            }
            _ => rest = after,
        }
    }
    kept.push_str(rest);
    (kept, logins)
}

#[cfg(test)]
mod tests;
