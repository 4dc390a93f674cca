//! The few words of grammar that the files under `/proc` and `/sys` share.
//!
//! Everything works on bytes: the kernel writes ASCII, but names inside (mount points, device
//! labels) may be anything, and no input may make these functions panic.

/// The lines of `text`, without their line ends.
pub(crate) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty())
}

/// The words of `line`: what stands between spaces and tabs.
pub(crate) fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty())
}

/// A decimal number without sign; `None` for anything else, too large numbers included.
pub(crate) fn number(word: &[u8]) -> Option<u64> {
    if word.is_empty() {
        return None;
    }
    word.iter().try_fold(0_u64, |sum, byte| {
        let digit = byte.checked_sub(b'0').filter(|&digit| digit <= 9)?;
        sum.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// The next word of `words` as a number.
pub(crate) fn next_number<'a>(words: &mut impl Iterator<Item = &'a [u8]>) -> Option<u64> {
    words.next().and_then(number)
}

/// A finite decimal fraction, as in `0.12`.
pub(crate) fn decimal(word: &[u8]) -> Option<f64> {
    let word = std::str::from_utf8(word).ok()?;
    word.parse().ok().filter(|value: &f64| value.is_finite())
}

/// A signed whole number, as hwmon writes temperatures below zero.
pub(crate) fn signed(word: &[u8]) -> Option<i64> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// A printable name of at most `chars_max` characters; control characters and bytes that are
/// not UTF-8 become U+FFFD, so that a name can be shown anywhere.
pub(crate) fn label(word: &[u8], chars_max: usize) -> String {
    String::from_utf8_lossy(word.trim_ascii())
        .chars()
        .map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c })
        .take(chars_max)
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_number_is_digits_only() {
        for (word, expected) in [
            (&b"0"[..], Some(0)),
            (b"18446744073709551615", Some(u64::MAX)),
            (b"18446744073709551616", None),
            (b"-1", None),
            (b"+1", None),
            (b"1x", None),
            (b"", None),
        ] {
            assert_eq!(number(word), expected, "{}", String::from_utf8_lossy(word));
        }
    }

    #[test]
    fn not_a_number_is_no_decimal() {
        assert_eq!(decimal(b"nan"), None);
        assert_eq!(decimal(b"inf"), None);
        assert_eq!(decimal(b"0.25"), Some(0.25));
    }

    proptest! {
        #[test]
        fn every_number_that_can_be_written_is_read(value: u64) {
            prop_assert_eq!(number(value.to_string().as_bytes()), Some(value));
        }

        #[test]
        fn a_label_has_no_control_characters(bytes: Vec<u8>) {
            let label = label(&bytes, 32);
            prop_assert!(label.chars().count() <= 32);
            prop_assert!(!label.contains(char::is_control));
        }
    }
}
