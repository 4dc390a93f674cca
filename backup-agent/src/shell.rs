//! Lines that a person pastes into a shell.
//!
//! What is printed holds names that others chose, in a database or a folder; pasted,
//! they must stay names.

/// A word as a POSIX shell takes it, whatever it holds: quoted, unless it is plain.
#[must_use]
pub fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,=".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// A remark on one line of its own: a line break in it would begin a command.
#[must_use]
pub fn comment(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("# {line}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_words_stay_as_they_are() {
        assert_eq!(quoted("/srv/restore-1/database.sql"), "/srv/restore-1/database.sql");
    }

    #[test]
    fn nothing_breaks_out_of_a_word() {
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("$(rm -rf ~)`x`;"), "'$(rm -rf ~)`x`;'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted("two\nlines"), "'two\nlines'");
    }

    #[test]
    fn a_remark_stays_on_its_line() {
        assert_eq!(comment("set x\nrm -rf ~\r"), "# set x rm -rf ~ ");
    }
}
