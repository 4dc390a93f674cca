//! On which terms somebody wants an answer: how soon, after what, and for how long it is kept.

use std::time::Duration;

use jiff::Timestamp;

use crate::ids::JobId;

crate::words! {
    /// Who waits for a job, and so what may be done for it.
    JobClass {
        /// Somebody waits for the answer: a sleeping host is woken for it.
        Interactive = "interactive",
        /// Nobody waits: a host is woken once enough has gathered or its time has come.
        Batch = "batch",
        /// A program asks by the way, for titles or tags: nothing is woken, loaded or exchanged for it.
        Background = "background",
    }
}

/// Most jobs that one may come after.
pub const NEEDS_MAX: usize = 32;

/// Most tags of a job.
pub const TAGS_MAX: usize = 16;

/// Longest name of a conversation or a tag, in bytes.
pub const LABEL_BYTES_MAX: usize = 128;

/// The longest time that one job's result may be kept by wish: the upkeep of the controller may be
/// set to less.
pub const KEPT_MAX: Duration = Duration::from_secs(400 * 24 * 3_600);

/// On which terms an answer is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Who waits for it.
    pub class: JobClass,
    /// The conversation that it belongs to: the next turn is quickest where the one before ran.
    pub chat: Option<String>,
    /// Words of the caller, for rules.
    pub tags: Vec<String>,
    /// When it should begin at the latest: a sleeping host is woken in time.
    pub latest_start: Option<Timestamp>,
    /// Jobs that must have succeeded before; at most [`NEEDS_MAX`].
    pub after: Vec<JobId>,
    /// How long it is kept once it has ended; as long as others when absent.
    pub kept_for: Option<Duration>,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            class: JobClass::Interactive,
            chat: None,
            tags: Vec::new(),
            latest_start: None,
            after: Vec::new(),
            kept_for: None,
        }
    }
}

/// Why terms are not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{field}`: {rule}")]
pub struct BadTerms {
    /// Name in the protocol.
    pub field: &'static str,
    /// The rule.
    pub rule: String,
}

impl Terms {
    /// Checks every rule that needs nothing but the terms and the time.
    pub fn check(&self, id: JobId, now: Timestamp) -> Result<(), BadTerms> {
        let bad = |field, rule: String| Err(BadTerms { field, rule });
        if self.after.len() > NEEDS_MAX {
            return bad("after", format!("at most {NEEDS_MAX} jobs may be named"));
        }
        if self.after.contains(&id) {
            return bad("after", "a job cannot come after itself".to_owned());
        }
        if self.tags.len() > TAGS_MAX {
            return bad("tags", format!("at most {TAGS_MAX} are allowed"));
        }
        let is_label = |text: &String| {
            !text.is_empty() && text.len() <= LABEL_BYTES_MAX && !text.contains(char::is_control)
        };
        let rule =
            || format!("1 to {LABEL_BYTES_MAX} bytes without control characters are allowed");
        if !self.tags.iter().all(is_label) {
            return bad("tags", rule());
        }
        if !self.chat.iter().all(is_label) {
            return bad("chat", rule());
        }
        if self.latest_start.is_some_and(|at| at <= now) {
            return bad("latest_start", "it has passed".to_owned());
        }
        if self.kept_for.is_some_and(|time| time.is_zero() || time > KEPT_MAX) {
            return bad("kept_for", "more than nothing and at most 400 days is allowed".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(terms: &Terms) -> Option<&'static str> {
        let id = uuid::Uuid::from_u128(1).into();
        terms.check(id, Timestamp::UNIX_EPOCH).err().map(|bad| bad.field)
    }

    #[test]
    fn terms_that_cannot_be_kept_are_refused_by_name() {
        let plain = Terms::default;
        assert_eq!(refused(&plain()), None);
        let itself = Terms { after: vec![uuid::Uuid::from_u128(1).into()], ..plain() };
        assert_eq!(refused(&itself), Some("after"));
        let many = (2..35).map(|id| uuid::Uuid::from_u128(id).into()).collect();
        assert_eq!(refused(&Terms { after: many, ..plain() }), Some("after"));
        let tags = vec!["a".to_owned(), String::new()];
        assert_eq!(refused(&Terms { tags, ..plain() }), Some("tags"));
        let chat = Some("line\nbreak".to_owned());
        assert_eq!(refused(&Terms { chat, ..plain() }), Some("chat"));
        let past = Some(Timestamp::UNIX_EPOCH);
        assert_eq!(refused(&Terms { latest_start: past, ..plain() }), Some("latest_start"));
        let kept_for = Some(Duration::ZERO);
        assert_eq!(refused(&Terms { kept_for, ..plain() }), Some("kept_for"));
    }
}
