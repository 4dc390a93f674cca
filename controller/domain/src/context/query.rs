//! What is looked for: words, and nothing that any search engine takes for syntax.

use std::collections::HashSet;

/// Words of a query at most.
pub const QUERY_WORDS_MAX: usize = 32;

/// Longest text that a query is made of, in bytes; what comes after is not read.
const TEXT_BYTES_MAX: usize = 16 * 1024;

/// Longest word, in characters: what is longer is a digest or an address, and cut.
const WORD_CHARS_MAX: usize = 40;

/// Words that stand in every other sentence, of the languages that are written here.
const COMMON: &[&str] = &[
    "about", "an", "and", "any", "are", "as", "at", "be", "but", "by", "can", "could", "did", "do",
    "does", "for", "from", "get", "has", "have", "how", "if", "in", "is", "it", "its", "me", "my",
    "no", "not", "of", "on", "or", "our", "please", "should", "so", "tell", "that", "the", "their",
    "them", "then", "there", "these", "they", "this", "to", "us", "was", "we", "were", "what",
    "when", "where", "which", "who", "why", "will", "with", "would", "you", "your", //
    "aber", "als", "am", "auch", "auf", "aus", "bei", "bin", "bitte", "das", "dass", "dem", "den",
    "der", "des", "die", "du", "ein", "eine", "einem", "einen", "einer", "er", "es", "für", "habe",
    "hat", "ich", "im", "ist", "kann", "mein", "mit", "nach", "nicht", "noch", "oder", "sich",
    "sie", "sind", "soll", "um", "und", "uns", "von", "vor", "war", "warum", "was", "welche",
    "wenn", "wer", "werden", "wie", "wir", "wird", "wo", "zu", "zum", "zur",
];

/// Words to look for, each once, in lower case. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query(Vec<String>);

impl Query {
    /// The words of a text that say what it is about; none when there are none.
    #[must_use]
    pub fn of(text: &str) -> Option<Self> {
        let mut end = text.len().min(TEXT_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let mut seen = HashSet::new();
        let words: Vec<String> = words(text.get(..end).unwrap_or_default())
            .filter(|word| word.chars().nth(1).is_some() && !COMMON.contains(&word.as_str()))
            .filter(|word| seen.insert(word.clone()))
            .take(QUERY_WORDS_MAX)
            .collect();
        (!words.is_empty()).then_some(Self(words))
    }

    /// The words.
    #[must_use]
    pub fn words(&self) -> &[String] {
        &self.0
    }
}

/// The words of a text in lower case: runs of letters and digits, as they are kept and looked for.
pub fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(|word| word.chars().flat_map(char::to_lowercase).take(WORD_CHARS_MAX).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_query_is_what_a_question_is_about() {
        let query = Query::of("How do I restore the Wiki of hx310-db? Restore it!").unwrap();
        assert_eq!(query.words(), ["restore", "wiki", "hx310", "db"]);
        assert_eq!(Query::of("how is it?"), None);
        assert_eq!(Query::of(""), None);
    }

    proptest! {
        #[test]
        fn nothing_but_letters_and_digits_reaches_a_search_engine(text in ".{0,400}") {
            let query = Query::of(&text);
            let words = query.as_ref().map(Query::words).unwrap_or_default();
            prop_assert!(words.len() <= QUERY_WORDS_MAX);
            for word in words {
                // What has no lower case of one letter may bring a combining mark with it.
                prop_assert!(word.chars().all(|c| c.is_alphanumeric() || !c.is_ascii()), "{word:?}");
                prop_assert!(word.chars().count() <= WORD_CHARS_MAX);
            }
        }
    }
}
