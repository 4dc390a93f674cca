//! Pseudonyms: out with the text, and back again in the answer.
//!
//! A pseudonym has a beginning of its own that does not occur in the request,
//! tells the model what kind of thing it stands for, and is always equally long.
//! So it can be found in an answer without ambiguity, and a stream has to hold
//! back no more than one of them to be sure that none is cut in two.

use std::{collections::HashMap, fmt, sync::Arc};

use super::DataClass;

/// Characters that follow the beginning: kind, number and what is between.
const TAIL_CHARS: usize = 10;

/// Pseudonyms in one request: as many as four digits can tell apart.
pub(super) const PSEUDONYMS_MAX: usize = 9_999;

/// Letters that a name begins with; without those that digits are mistaken for.
const LETTERS: &[u8; 24] = b"ABCDEFGHJKLMNPQRSTUVWXYZ";

/// Which pseudonym stands for what, within one job.
#[derive(Clone, PartialEq, Eq)]
pub struct Pseudonyms {
    start: String,
    by_original: HashMap<(DataClass, String), String>,
    originals: HashMap<String, String>,
}

impl Pseudonyms {
    /// None yet. Their common beginning is drawn from `seed`, the same for the
    /// same job, and again until `occurs` says that it is nowhere in the request.
    #[must_use]
    pub fn new(seed: u64, occurs: impl Fn(&str) -> bool) -> Self {
        let mut draw = seed;
        let start = loop {
            let start = beginning(draw);
            if !occurs(&start) {
                break start;
            }
            // Any step will do that visits every remainder: it is odd.
            draw = draw.wrapping_add(0x9e37_79b9_7f4a_7c15);
        };
        Self { start, by_original: HashMap::new(), originals: HashMap::new() }
    }

    /// The pseudonym of a text, the same each time; none once there are too many.
    pub fn of(&mut self, class: DataClass, original: &str) -> Option<String> {
        let key = (class, original.to_owned());
        if let Some(known) = self.by_original.get(&key) {
            return Some(known.clone());
        }
        let number = self.originals.len() + 1;
        if number > PSEUDONYMS_MAX {
            return None;
        }
        let pseudonym = format!("{}_{}_{number:04}", self.start, kind(class));
        self.originals.insert(pseudonym.clone(), original.to_owned());
        self.by_original.insert(key, pseudonym.clone());
        Some(pseudonym)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.originals.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.originals.is_empty()
    }

    fn chars(&self) -> usize {
        self.start.len() + TAIL_CHARS
    }
}

/// What they stand for is what must not be shown.
impl fmt::Debug for Pseudonyms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pseudonyms({}: {})", self.start, self.len())
    }
}

fn beginning(draw: u64) -> String {
    let mut rest = draw;
    let letters = (0..4).map(|_| {
        let place = usize::try_from(rest % 24).unwrap_or(0);
        rest /= 24;
        LETTERS.get(place).copied().map_or('X', char::from)
    });
    "PH".chars().chain(letters).collect()
}

const fn kind(class: DataClass) -> &'static str {
    match class {
        DataClass::Secret => "CRED",
        DataClass::PrivateAddress => "ADDR",
        DataClass::HostName => "HOST",
        DataClass::ListedWord => "WORD",
        DataClass::Person => "MAIL",
        DataClass::Attachment | DataClass::Document | DataClass::Plain => "TEXT",
    }
}

/// How an original is written where its pseudonym stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// As it is.
    Plain,
    /// As part of a string within JSON.
    Json,
}

/// Puts originals back into text that comes in pieces.
#[derive(Clone, Debug)]
pub struct Restorer {
    pseudonyms: Arc<Pseudonyms>,
    written: Written,
    held: String,
}

impl Restorer {
    /// At the start of a text.
    #[must_use]
    pub const fn new(pseudonyms: Arc<Pseudonyms>, written: Written) -> Self {
        Self { pseudonyms, written, held: String::new() }
    }

    /// Takes the next piece and gives what is sure by now. Less than one pseudonym
    /// is held back.
    pub fn push(&mut self, piece: &str) -> String {
        if self.pseudonyms.is_empty() {
            return piece.to_owned();
        }
        let mut text = std::mem::take(&mut self.held);
        text.push_str(piece);
        let start = self.pseudonyms.start.as_str();
        let mut sure = String::with_capacity(text.len());
        let mut rest = text.as_str();
        while let Some(at) = rest.find(start) {
            let (before, candidate) = rest.split_at(at);
            sure.push_str(before);
            if candidate.len() < self.pseudonyms.chars() {
                self.held = candidate.to_owned();
                return sure;
            }
            rest = self.replaced(candidate, &mut sure);
        }
        let open = (1..start.len().min(rest.len() + 1)).rev();
        let open = open.filter_map(|length| start.get(..length)).find(|open| rest.ends_with(open));
        let kept = rest.len() - open.map_or(0, str::len);
        sure.push_str(rest.get(..kept).unwrap_or(rest));
        self.held = rest.get(kept..).unwrap_or_default().to_owned();
        sure
    }

    /// What was held back, at the end of the text.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Whether something is held back.
    #[must_use]
    pub fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// A text that is complete.
    #[must_use]
    pub fn whole(pseudonyms: &Arc<Pseudonyms>, written: Written, text: &str) -> String {
        let mut restorer = Self::new(Arc::clone(pseudonyms), written);
        let mut whole = restorer.push(text);
        whole.push_str(&restorer.finish());
        whole
    }

    /// Takes one pseudonym, or one character that begins none, off the text.
    fn replaced<'t>(&self, text: &'t str, sure: &mut String) -> &'t str {
        let length = self.pseudonyms.chars();
        let original = text.get(..length).and_then(|name| self.pseudonyms.originals.get(name));
        if let Some(original) = original {
            match self.written {
                Written::Plain => sure.push_str(original),
                Written::Json => sure.push_str(&within_json(original)),
            }
            return text.get(length..).unwrap_or_default();
        }
        let mut chars = text.chars();
        sure.extend(chars.next());
        chars.as_str()
    }
}

/// A text as it stands between the quotes of a JSON string.
fn within_json(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn three() -> (Arc<Pseudonyms>, [String; 3]) {
        let mut pseudonyms = Pseudonyms::new(7, |_| false);
        let names = [
            pseudonyms.of(DataClass::PrivateAddress, "10.20.3.4").unwrap(),
            pseudonyms.of(DataClass::HostName, "x99").unwrap(),
            pseudonyms.of(DataClass::Secret, "a\"b\nc").unwrap(),
        ];
        (Arc::new(pseudonyms), names)
    }

    #[test]
    fn a_text_has_one_pseudonym_that_says_what_it_is() {
        let mut pseudonyms = Pseudonyms::new(7, |_| false);
        let first = pseudonyms.of(DataClass::HostName, "x99").unwrap();
        assert!(first.contains("_HOST_0001"), "{first}");
        assert_eq!(pseudonyms.of(DataClass::HostName, "x99").unwrap(), first);
        assert_ne!(pseudonyms.of(DataClass::HostName, "x98").unwrap(), first);
        assert_eq!(pseudonyms.len(), 2);
    }

    #[test]
    fn the_beginning_is_one_that_the_request_does_not_hold() {
        let taken = Pseudonyms::new(7, |_| false).start;
        let text = format!("a trap: {taken}_HOST_0001");
        let other = Pseudonyms::new(7, |start| text.contains(start));
        assert_ne!(other.start, taken);
        assert!(!text.contains(&other.start));
    }

    #[test]
    fn what_only_looks_like_a_pseudonym_stays() {
        let (pseudonyms, [address, ..]) = three();
        let unknown = address.replace("0001", "0042");
        let text = format!("PH PHPH {unknown} é{} end PH", pseudonyms.start);
        assert_eq!(Restorer::whole(&pseudonyms, Written::Plain, &text), text);
    }

    #[test]
    fn an_original_within_json_is_escaped() {
        let (pseudonyms, [_, _, secret]) = three();
        let arguments = format!("{{\"key\":\"{secret}\"}}");
        let restored = Restorer::whole(&pseudonyms, Written::Json, &arguments);
        let value: serde_json::Value = serde_json::from_str(&restored).unwrap();
        assert_eq!(value["key"], "a\"b\nc");
    }

    #[test]
    fn debug_output_shows_no_original() {
        let (pseudonyms, _) = three();
        assert!(!format!("{pseudonyms:?}").contains("10.20"));
    }

    proptest! {
        #[test]
        fn an_answer_cut_anywhere_is_restored_whole(
            parts in proptest::collection::vec(prop_oneof![
                Just(0_usize), Just(1), Just(2), Just(3), Just(4),
            ], 0..12),
            words in proptest::collection::vec("[PHA-Z_0-9é ]{0,9}", 12),
            cuts in proptest::collection::vec(0_usize..400, 0..20),
        ) {
            let (pseudonyms, names) = three();
            let originals = ["10.20.3.4", "x99", "a\"b\nc"];
            let (mut sent, mut meant) = (String::new(), String::new());
            for (part, word) in parts.iter().zip(&words) {
                // A word that happens to end as pseudonyms begin is fine; one that holds a
                // whole beginning cannot occur.
                prop_assume!(!word.contains(&pseudonyms.start));
                sent.push_str(word);
                meant.push_str(word);
                sent.push_str(names.get(*part).map_or(" ", String::as_str));
                meant.push_str(originals.get(*part).copied().unwrap_or(" "));
            }
            let mut restorer = Restorer::new(Arc::clone(&pseudonyms), Written::Plain);
            let mut restored = String::new();
            let mut cuts: Vec<usize> = cuts.into_iter().filter(|cut| sent.is_char_boundary(*cut)).collect();
            cuts.sort_unstable();
            let mut from = 0;
            for cut in cuts.into_iter().chain([sent.len()]) {
                restored.push_str(&restorer.push(sent.get(from..cut).unwrap_or_default()));
                prop_assert!(restorer.held.len() < pseudonyms.chars());
                from = cut;
            }
            restored.push_str(&restorer.finish());
            prop_assert_eq!(restored, meant);
        }
    }
}
