//! Documents, cut into passages.

use std::ops::Range;

/// Longest passage, in bytes: room for a handful beside a question in a small model.
pub const PASSAGE_BYTES_MAX: usize = 1_600;

/// What a passage repeats of the one before, at most, in bytes: a sentence that was cut in two is
/// whole in one of them.
const OVERLAP_BYTES: usize = 200;

/// Passages of one document at most.
const PASSAGES_MAX: usize = 1_000;

/// Longest heading that is shown, in characters.
const HEADING_CHARS_MAX: usize = 200;

/// Digest over the parts that make a passage what it is. SHA-256, which this crate does not know.
pub type Digest<'d> = &'d dyn Fn(&[&[u8]]) -> [u8; 32];

/// One document of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Where it is within its source: a path.
    pub path: String,
    /// What it is called, where that is not in its text.
    pub title: String,
    /// Where people find it; empty where there is no such place.
    pub url: String,
    /// Which state of it this is: a commit, a page's time of change, a digest.
    pub version: String,
    /// Its text.
    pub text: String,
}

/// A part of a document that can be put before a job by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passage {
    /// The same for the same text under the same heading of the same document, whenever it is read.
    pub id: [u8; 16],
    /// Path of its document.
    pub document: String,
    /// Headings above it, outermost first: `Backups > Restore`. Empty before the first.
    pub heading: String,
    /// Where people find the document; may be empty.
    pub url: String,
    /// Which state of the document it is from.
    pub version: String,
    /// Its text.
    pub text: String,
}

/// The passages of a document, and what is not among them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cut {
    /// In the order of the document.
    pub passages: Vec<Passage>,
    /// Headings above passages that hold a secret, one for each: such a passage is not kept.
    pub withheld: Vec<String>,
    /// Whether the document has more passages than are taken.
    pub is_cut_off: bool,
}

/// Cuts a document by its Markdown headings, and what is long under one by lines. `secrets` are
/// where secrets were found in the whole text, since half of one may not be found by itself.
#[must_use]
pub fn passages(document: &Document, secrets: &[Range<usize>], digest: Digest<'_>) -> Cut {
    let mut cut = Cut::default();
    for section in sections(&document.text, &document.title) {
        for span in pieces(&document.text, section.span.clone()) {
            let text = document.text.get(span.clone()).unwrap_or_default().trim();
            if text.is_empty() {
                continue;
            }
            let hides = |secret: &&Range<usize>| secret.start < span.end && span.start < secret.end;
            if secrets.iter().find(hides).is_some() {
                cut.withheld.push(section.heading.clone());
                continue;
            }
            if cut.passages.len() >= PASSAGES_MAX {
                cut.is_cut_off = true;
                return cut;
            }
            let parts = [&document.path, &section.heading, text].map(str::as_bytes);
            let mut id = [0; 16];
            id.iter_mut().zip(digest(&parts)).for_each(|(to, from)| *to = from);
            cut.passages.push(Passage {
                id,
                document: document.path.clone(),
                heading: section.heading.clone(),
                url: document.url.clone(),
                version: document.version.clone(),
                text: text.to_owned(),
            });
        }
    }
    cut
}

struct Section {
    heading: String,
    span: Range<usize>,
}

/// What stands under each heading. A `#` within a fence is no heading.
fn sections(text: &str, title: &str) -> Vec<Section> {
    let mut above: Vec<(usize, String)> = Vec::new();
    let mut sections = vec![Section { heading: shown(title, &above), span: 0..0 }];
    let mut fence: Option<&str> = None;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let next = at + line.len();
        let bare = line.trim();
        let mark = ["```", "~~~"].into_iter().find(|mark| bare.starts_with(mark));
        match (fence, mark) {
            (None, Some(mark)) => fence = Some(mark),
            (Some(open), Some(mark)) if open == mark => fence = None,
            _ => {}
        }
        if let Some((level, words)) = heading(line).filter(|_| fence.is_none()) {
            above.retain(|(outer, _)| *outer < level);
            above.push((level, words.to_owned()));
            sections.push(Section { heading: shown(title, &above), span: next..next });
        } else if let Some(section) = sections.last_mut() {
            section.span.end = next;
        }
        at = next;
    }
    sections
}

/// An ATX heading of Markdown: its level and its words.
fn heading(line: &str) -> Option<(usize, &str)> {
    let rest = line.trim_start_matches('#');
    let level = line.len() - rest.len();
    let words = rest.strip_prefix([' ', '\t'])?.trim().trim_end_matches('#').trim();
    ((1..=6).contains(&level) && !words.is_empty()).then_some((level, words))
}

fn shown(title: &str, above: &[(usize, String)]) -> String {
    let title = Some(title).filter(|title| !title.is_empty());
    let words: Vec<&str> =
        title.into_iter().chain(above.iter().map(|(_, words)| words.as_str())).collect();
    let line = words.join(" > ").replace(char::is_control, " ");
    line.chars().take(HEADING_CHARS_MAX).collect()
}

/// Parts of a section that each fit into a passage, each of which repeats the end of the one before.
fn pieces(text: &str, section: Range<usize>) -> Vec<Range<usize>> {
    let mut pieces = Vec::new();
    let mut start = section.start;
    while section.end - start > PASSAGE_BYTES_MAX {
        let end = cut_before(text, start, start + PASSAGE_BYTES_MAX);
        pieces.push(start..end);
        let again = line_after(text, floor(text, end - OVERLAP_BYTES), end);
        start = if again > start { again } else { end };
    }
    pieces.push(start..section.end);
    pieces
}

/// Where a piece that may go up to `limit` ends: after a paragraph, else after a line, else between
/// two characters; never in the first half, so that pieces do not get small.
fn cut_before(text: &str, start: usize, limit: usize) -> usize {
    let limit = floor(text, limit);
    let half = floor(text, start + (limit - start) / 2);
    let late = text.get(half..limit).unwrap_or_default();
    let after = |found: &str| late.rfind(found).map(|at| half + at + found.len());
    after("\n\n").or_else(|| after("\n")).or_else(|| after(" ")).unwrap_or(limit)
}

/// The first beginning of a line from `from` on; `end` when there is none before it.
fn line_after(text: &str, from: usize, end: usize) -> usize {
    let rest = text.get(from..end).unwrap_or_default();
    rest.find('\n').map_or(from, |at| from + at + 1)
}

/// The next place at or before `at` that is between two characters.
fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Enough to tell texts apart.
    fn digest(parts: &[&[u8]]) -> [u8; 32] {
        let bytes = parts.iter().flat_map(|part| part.iter().chain(&[0]));
        let sum =
            bytes.fold(7_u64, |sum, byte| sum.wrapping_mul(1_099_511_628_211) ^ u64::from(*byte));
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&sum.to_be_bytes());
        digest
    }

    fn document(text: &str) -> Document {
        Document {
            path: "docs/restore.md".to_owned(),
            title: String::new(),
            url: String::new(),
            version: "c0ffee".to_owned(),
            text: text.to_owned(),
        }
    }

    fn cut(text: &str) -> Vec<(String, String)> {
        let cut = passages(&document(text), &[], &digest);
        cut.passages.into_iter().map(|passage| (passage.heading, passage.text)).collect()
    }

    #[test]
    fn a_document_is_cut_at_its_headings_and_each_knows_those_above() {
        let text = "Before.\n# Backups\nAll of it.\n## Restore\nHow.\n# Power\nOn.\n";
        let expected = [
            ("", "Before."),
            ("Backups", "All of it."),
            ("Backups > Restore", "How."),
            ("Power", "On."),
        ];
        assert_eq!(cut(text), expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    }

    #[test]
    fn a_comment_in_a_fence_is_no_heading() {
        let text = "# Real\n```sh\n# not one\necho\n```\nafter\n";
        assert_eq!(
            cut(text),
            [("Real".to_owned(), "```sh\n# not one\necho\n```\nafter".to_owned())]
        );
    }

    #[test]
    fn a_passage_keeps_its_name_while_other_parts_of_the_document_change() {
        let ids = |text: &str| -> Vec<[u8; 16]> {
            let cut = passages(&document(text), &[], &digest);
            cut.passages.iter().map(|passage| passage.id).collect()
        };
        let before = ids("# A\none\n# B\ntwo\n");
        let after = ids("# New\nzero\n# A\none, changed\n# B\ntwo\n");
        assert_eq!(before[1], after[2]);
        assert_ne!(before[0], after[1]);
    }

    #[test]
    fn what_overlaps_a_secret_is_withheld_wherever_the_cut_falls() {
        let text =
            format!("# Keys\n{}SECRET{}\n# Rest\nfine\n", "a ".repeat(790), " b".repeat(200));
        let at = text.find("SECRET").unwrap();
        let secret = at..at + 6;
        let cut = passages(&document(&text), std::slice::from_ref(&secret), &digest);
        assert!(!cut.withheld.is_empty());
        assert!(cut.passages.iter().all(|passage| !passage.text.contains("SEC")));
        assert!(cut.passages.iter().any(|passage| passage.text == "fine"));
    }

    proptest! {
        #[test]
        fn every_word_of_a_document_is_in_a_passage_and_none_is_too_long(
            words in proptest::collection::vec("[a-zé]{1,12}[ \n]{1,2}", 0..900),
        ) {
            let text: String = words.concat();
            let cut = passages(&document(&text), &[], &digest);
            for passage in &cut.passages {
                prop_assert!(passage.text.len() <= PASSAGE_BYTES_MAX);
            }
            let kept: std::collections::HashSet<&str> =
                cut.passages.iter().flat_map(|passage| passage.text.split_whitespace()).collect();
            prop_assert!(text.split_whitespace().all(|word| kept.contains(word)));
        }
    }
}
