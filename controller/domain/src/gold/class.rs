//! What a text gives away.
//!
//! Found by form and by the site's own names, never by meaning: a classifier
//! that guesses can be talked out of it. Where a form is ambiguous it counts as
//! found, since a false alarm costs a rule and a miss cannot be taken back.

mod address;
mod fold;
mod name;
mod secret;

use std::{net::IpAddr, ops::Range};

use crate::site::{Cidr, Site};

crate::words! {
    /// Kinds of text, the most delicate last.
    DataClass {
        /// Text in which nothing was found.
        Plain = "plain",
        /// An e-mail address.
        Person = "person",
        /// A word that the site file lists.
        ListedWord = "listed-word",
        /// A host of the site, or a name that only a home network resolves.
        HostName = "host-name",
        /// An address of a private network or of a network card.
        PrivateAddress = "private-address",
        /// A passage of the house's documents that was put before the job.
        Document = "document",
        /// A picture, a recording or a file, which nobody reads here.
        Attachment = "attachment",
        /// A key, a token, a password, or what looks as random as one.
        Secret = "secret",
    }
}

/// A part of a text that was found to be of some class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where, in bytes; always between two characters.
    pub span: Range<usize>,
    /// What it is: one or more, the most delicate last.
    pub classes: Vec<DataClass>,
}

impl Finding {
    /// The most delicate of its classes.
    #[must_use]
    pub fn class(&self) -> DataClass {
        self.classes.last().copied().unwrap_or(DataClass::Secret)
    }
}

/// Finds what a text gives away, knowing the names and networks of one site.
#[derive(Clone, Debug)]
pub struct Classifier {
    names: name::Names,
    addresses: address::Known,
}

impl Classifier {
    /// One that knows the hosts, networks, domain and listed words of `site`.
    #[must_use]
    pub fn of(site: &Site) -> Self {
        let hosts = site.hosts().iter().map(|host| host.name.as_str());
        let addresses: Vec<IpAddr> = site.hosts().iter().map(|host| host.address).collect();
        let networks: Vec<Cidr> = site.networks().iter().map(|network| network.cidr).collect();
        Self {
            names: name::Names::new(hosts, site.domain(), &site.gold().words),
            addresses: address::Known { addresses, networks },
        }
    }

    /// Everything that was found, in order and without overlaps: parts that
    /// overlap are one finding of all their classes.
    #[must_use]
    pub fn find(&self, text: &str) -> Vec<Finding> {
        let folded = fold::Folded::of(text);
        let mut found = Vec::new();
        let plain = folded.text();
        secret::find(plain, &mut |span| found.push((span, DataClass::Secret)));
        self.addresses.find(plain, &mut |span| found.push((span, DataClass::PrivateAddress)));
        self.names.find(plain, &mut |span, class| found.push((span, class)));
        name::find_mail(plain, &mut |span| found.push((span, DataClass::Person)));
        joined(found.into_iter().map(|(span, class)| (folded.original(span), class)).collect())
    }
}

fn joined(mut found: Vec<(Range<usize>, DataClass)>) -> Vec<Finding> {
    found.sort_by_key(|(span, _)| (span.start, span.end));
    let mut findings: Vec<Finding> = Vec::new();
    for (span, class) in found.into_iter().filter(|(span, _)| !span.is_empty()) {
        match findings.last_mut().filter(|last| span.start < last.span.end) {
            Some(last) => {
                last.span.end = last.span.end.max(span.end);
                if !last.classes.contains(&class) {
                    last.classes.push(class);
                    last.classes.sort_unstable();
                }
            }
            None => findings.push(Finding { span, classes: vec![class] }),
        }
    }
    findings
}

/// The longest runs of bytes that `fits` accepts. Only ASCII may fit, so that a
/// run ends between two characters.
fn runs(text: &str, fits: impl Fn(u8) -> bool) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    let mut begun = None;
    for (index, byte) in text.bytes().enumerate() {
        match (byte.is_ascii() && fits(byte), begun) {
            (true, None) => begun = Some(index),
            (false, Some(start)) => {
                runs.push(start..index);
                begun = None;
            }
            _ => {}
        }
    }
    runs.extend(begun.map(|start| start..text.len()));
    runs
}

/// The character before a place, if any.
fn before(text: &str, at: usize) -> Option<char> {
    text.get(..at)?.chars().next_back()
}

/// The character at a place, if any.
fn after(text: &str, at: usize) -> Option<char> {
    text.get(at..)?.chars().next()
}

#[cfg(test)]
mod tests;
