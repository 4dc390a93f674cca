//! Which passages are put before a job.

use std::collections::{HashMap, HashSet};

use super::{Passage, Query, words};
use crate::ids::SourceName;

/// Bytes of passages unless a job says otherwise: some 1,500 tokens.
pub const BYTES_DEFAULT: u32 = 6_000;

/// Most bytes of passages that a job may ask for.
pub const BYTES_MAX: u32 = 32_000;

/// Passages of one document at most, so that one long page does not crowd out all others.
const OF_DOCUMENT_MAX: usize = 3;

/// Passages before one job at most.
const PASSAGES_MAX: usize = 12;

/// How much more a word counts that stands in a heading or a path.
const HEADING_WEIGHT: f64 = 2.0;

/// A passage that a search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its source.
    pub source: SourceName,
    /// The passage.
    pub passage: Passage,
}

/// How much is put before a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Bytes of text over all passages.
    pub bytes: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { bytes: BYTES_DEFAULT as usize }
    }
}

/// Ranks what a search found and takes the best that fit. Both back ends find the same words but
/// rank in their own ways, so the ranking that counts is this one: rare words count more than
/// common ones, words of headings twice, and a question of several words is not answered by a
/// passage that has only one of them.
#[must_use]
pub fn select(query: &Query, found: Vec<Candidate>, budget: Budget) -> Vec<Candidate> {
    let read: Vec<Read> = found.iter().map(Read::of).collect();
    let rarity = rarity(query, &read);
    let needed = if query.words().len() >= 3 { 2 } else { 1 };
    let mut ranked: Vec<(f64, Candidate)> = found
        .into_iter()
        .zip(&read)
        .filter(|(_, read)| query.words().iter().filter(|word| read.has(word)).count() >= needed)
        .map(|(candidate, read)| (read.score(query, &rarity), candidate))
        .collect();
    // Stable: what is as good stays in the order of the search.
    ranked.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    let mut left = budget.bytes;
    let mut of_document: HashMap<(SourceName, String), usize> = HashMap::new();
    let mut texts = HashSet::new();
    let mut taken = Vec::new();
    for (_, candidate) in ranked {
        let bytes = candidate.passage.text.len();
        let document = (candidate.source.clone(), candidate.passage.document.clone());
        let taken_of_it = of_document.entry(document).or_default();
        if bytes > left || *taken_of_it >= OF_DOCUMENT_MAX || taken.len() >= PASSAGES_MAX {
            continue;
        }
        if !texts.insert(candidate.passage.text.clone()) {
            continue;
        }
        *taken_of_it += 1;
        left -= bytes;
        taken.push(candidate);
    }
    taken
}

struct Read {
    heading: HashSet<String>,
    text: HashSet<String>,
}

impl Read {
    fn of(candidate: &Candidate) -> Self {
        let passage = &candidate.passage;
        let heading = words(&passage.heading).chain(words(&passage.document)).collect();
        Self { heading, text: words(&passage.text).collect() }
    }

    fn has(&self, word: &str) -> bool {
        self.heading.contains(word) || self.text.contains(word)
    }

    fn score(&self, query: &Query, rarity: &HashMap<&str, f64>) -> f64 {
        let score = |word: &String| {
            let heading = if self.heading.contains(word) { HEADING_WEIGHT } else { 0.0 };
            let text = if self.text.contains(word) { 1.0 } else { 0.0 };
            (heading + text) * rarity.get(word.as_str()).copied().unwrap_or_default()
        };
        query.words().iter().map(score).sum()
    }
}

/// How much each word tells, by how few of the candidates have it.
fn rarity<'q>(query: &'q Query, read: &[Read]) -> HashMap<&'q str, f64> {
    let number = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    let of = |word: &'q String| {
        let having = read.iter().filter(|read| read.has(word)).count();
        (word.as_str(), ((number(read.len()) + 1.0) / (number(having) + 0.5)).ln().max(0.05))
    };
    query.words().iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(document: &str, heading: &str, text: &str) -> Candidate {
        Candidate {
            source: SourceName::try_new("homelab").unwrap(),
            passage: Passage {
                id: [0; 16],
                document: document.to_owned(),
                heading: heading.to_owned(),
                url: String::new(),
                version: String::new(),
                text: text.to_owned(),
            },
        }
    }

    fn chosen(question: &str, found: Vec<Candidate>, bytes: usize) -> Vec<String> {
        let query = Query::of(question).unwrap();
        let taken = select(&query, found, Budget { bytes });
        taken.into_iter().map(|candidate| candidate.passage.text).collect()
    }

    #[test]
    fn rare_words_and_headings_go_before_common_words() {
        let found = vec![
            candidate("a.md", "", "the backup of the backup host"),
            candidate("b.md", "", "the backup is on the host"),
            candidate("c.md", "", "restore the vaultwarden backup"),
            candidate("d.md", "Vaultwarden", "restore its backup so"),
        ];
        let texts = chosen("restore vaultwarden backup host", found, 1_000);
        assert_eq!(texts[0], "restore its backup so");
        assert_eq!(texts[1], "restore the vaultwarden backup");
    }

    #[test]
    fn a_passage_with_one_word_of_many_is_not_taken() {
        let found =
            vec![candidate("a.md", "", "a backup"), candidate("b.md", "", "wake x99 backup")];
        assert_eq!(chosen("wake x99 tonight", found, 1_000), ["wake x99 backup"]);
    }

    #[test]
    fn a_budget_holds_and_a_smaller_passage_takes_the_room() {
        let long = format!("wake x99 {}", "x".repeat(500));
        let found =
            vec![candidate("wake/x99.md", "wake x99", &long), candidate("b.md", "", "wake x99")];
        assert_eq!(chosen("wake x99", found, 100), ["wake x99"]);
    }

    #[test]
    fn one_document_and_one_text_do_not_crowd_out_the_others() {
        let mut found: Vec<Candidate> =
            (0..9).map(|at| candidate("long.md", "x99", &format!("wake x99 {at}"))).collect();
        found.push(candidate("other.md", "", "wake x99 otherwise"));
        found.push(candidate("copy.md", "", "wake x99 otherwise"));
        let texts = chosen("wake x99", found, 10_000);
        assert_eq!(texts.len(), 4);
        assert_eq!(texts[3], "wake x99 otherwise");
    }
}
