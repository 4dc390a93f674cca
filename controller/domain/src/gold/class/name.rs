//! Names: hosts, words that the site lists, and people's addresses.

use std::{collections::HashMap, ops::Range};

use super::{DataClass, after, before, runs};

/// Ends of names that only a home network resolves: multicast DNS (RFC 6762), the
/// home domain (RFC 8375), the domain for private use (ICANN, 2024), and those that
/// routers have handed out for decades.
const HOME_SUFFIXES: [&str; 8] =
    ["local", "lan", "home.arpa", "internal", "home", "localdomain", "intranet", "corp"];

/// A phrase in lower case, and what it is.
type Phrase = (Box<[char]>, DataClass);

/// Phrases to look for, by their first character in lower case.
#[derive(Clone, Debug)]
pub(super) struct Names {
    phrases: HashMap<char, Vec<Phrase>>,
    suffixes: Vec<Box<str>>,
}

impl Names {
    pub(super) fn new<'a>(
        hosts: impl Iterator<Item = &'a str>,
        domain: &str,
        words: &[String],
    ) -> Self {
        let mut phrases: HashMap<char, Vec<Phrase>> = HashMap::new();
        let hosts = hosts.map(|host| (host, DataClass::HostName));
        let words = words.iter().map(|word| (word.as_str(), DataClass::ListedWord));
        for (phrase, class) in hosts.chain(words) {
            let lower: Box<[char]> = phrase.trim().chars().flat_map(char::to_lowercase).collect();
            if let Some(first) = lower.first() {
                phrases.entry(*first).or_default().push((lower, class));
            }
        }
        let own = (!domain.is_empty()).then(|| domain.to_lowercase());
        let suffixes = HOME_SUFFIXES.into_iter().map(str::to_owned).chain(own);
        Self { phrases, suffixes: suffixes.map(String::into_boxed_str).collect() }
    }

    pub(super) fn find(&self, text: &str, found: &mut impl FnMut(Range<usize>, DataClass)) {
        self.find_phrases(text, found);
        let in_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        for run in runs(text, in_name) {
            let name = text.get(run.clone()).unwrap_or_default();
            let inner = name.trim_matches(['.', '-']);
            if self.is_of_home(&inner.to_ascii_lowercase()) {
                let start = run.start + name.len() - name.trim_start_matches(['.', '-']).len();
                found(start..start + inner.len(), DataClass::HostName);
            }
        }
    }

    fn is_of_home(&self, name: &str) -> bool {
        self.suffixes.iter().any(|suffix| {
            let rest = name.strip_suffix(&**suffix);
            rest.is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
        })
    }

    /// Whole words only, whatever their case.
    fn find_phrases(&self, text: &str, found: &mut impl FnMut(Range<usize>, DataClass)) {
        let mut previous: Option<char> = None;
        for (start, c) in text.char_indices() {
            let begins = !previous.is_some_and(char::is_alphanumeric);
            previous = Some(c);
            let Some(first) = c.to_lowercase().next().filter(|_| begins) else { continue };
            for (phrase, class) in self.phrases.get(&first).into_iter().flatten() {
                let rest = text.get(start..).unwrap_or_default();
                let Some(length) = begins_with(rest, phrase) else { continue };
                if !after(text, start + length).is_some_and(char::is_alphanumeric) {
                    found(start..start + length, *class);
                }
            }
        }
    }
}

/// How many bytes of `text` are the phrase; none when it begins with something else.
fn begins_with(text: &str, phrase: &[char]) -> Option<usize> {
    let mut wanted = phrase.iter();
    for (at, c) in text.char_indices() {
        if wanted.as_slice().is_empty() {
            return Some(at);
        }
        if !c.to_lowercase().all(|lower| wanted.next() == Some(&lower)) {
            return None;
        }
    }
    wanted.as_slice().is_empty().then_some(text.len())
}

/// Finds e-mail addresses.
pub(super) fn find_mail(text: &str, found: &mut impl FnMut(Range<usize>)) {
    let in_user = |c: char| c.is_alphanumeric() || "._%+-".contains(c);
    let in_domain = |c: char| c.is_alphanumeric() || ".-".contains(c);
    for (at, _) in text.match_indices('@') {
        let user = text.get(..at).unwrap_or_default();
        let start = user.trim_end_matches(in_user).len();
        let rest = text.get(at + 1..).unwrap_or_default();
        let domain = &rest.trim_start_matches(in_domain);
        let domain = rest.get(..rest.len() - domain.len()).unwrap_or_default();
        let domain = domain.trim_end_matches(['.', '-']);
        let top = domain.rsplit_once('.').map_or("", |(_, top)| top);
        let is_top = top.chars().count() >= 2 && top.chars().all(char::is_alphabetic);
        if start < at && is_top && before(text, start) != Some('@') {
            found(start..at + 1 + domain.len());
        }
    }
}
