//! Splits a secret into three shares of which any two give it back, and any one says nothing.
//!
//! Shamir's scheme (A. Shamir, "How to share a secret", Communications of the ACM 22, 1979) for the
//! one case that a recovery kit needs: a line through the secret for every byte, over the field of 256
//! elements that AES uses (FIPS 197, section 4.2). With two of three there is one coefficient per byte,
//! uniform over the whole field, zero included; a scheme that leaves values out gives hints away.
//!
//! What is split is the secret with four bytes of its digest behind it, so that shares of two secrets,
//! or one that was copied wrong, do not give a wrong secret without a word.

use std::{fmt, str::FromStr};

use ring::digest::{SHA256, digest};

use crate::{chance::Chance, secret::Secret};

/// Shares that a secret is split into.
pub const SHARES: u8 = 3;

/// The longest secret, in bytes: what fits into a QR code that a telephone reads from paper.
pub const SECRET_BYTES_MAX: usize = 512;

/// What the text of a share begins with.
const MARK: &str = "share-2-of-3";

/// Bytes of digests: inside of what is split, and behind a share's text.
const CHECK_BYTES: usize = 4;

/// One of three shares. Its text is not secret by itself; two of them are.
#[derive(Clone, PartialEq, Eq)]
pub struct Share {
    name: String,
    /// 1 to 3: where on the line it lies. The secret lies at 0.
    place: u8,
    bytes: Vec<u8>,
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Share").field("name", &self.name).field("place", &self.place).finish()
    }
}

/// Why shares do not give a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SplitError {
    /// The secret cannot be split.
    #[error("a secret of 1 to {SECRET_BYTES_MAX} bytes can be split, not one of {0}")]
    Length(usize),
    /// A name cannot stand in the text of a share.
    #[error("`{0}` cannot name a share: letters, digits and `-` can")]
    Name(String),
    /// The text is no share.
    #[error("the text is no share: {0}")]
    Text(&'static str),
    /// The shares are not two of one secret.
    #[error("these are not two shares of one secret: {0}")]
    Mismatch(&'static str),
}

/// Splits a secret under a name.
///
/// # Errors
/// It is empty or too long, or its name cannot stand in a share.
pub fn split(name: &str, secret: &[u8], chance: &dyn Chance) -> Result<[Share; 3], SplitError> {
    if secret.is_empty() || secret.len() > SECRET_BYTES_MAX {
        return Err(SplitError::Length(secret.len()));
    }
    if name.is_empty() || !name.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'-') {
        return Err(SplitError::Name(name.to_owned()));
    }
    let whole = [secret, &check(secret)].concat();
    let mut slopes = vec![0; whole.len()];
    chance.fill(&mut slopes);
    Ok([1, 2, 3].map(|place| {
        let points = whole.iter().zip(&slopes);
        let bytes = points.map(|(byte, slope)| byte ^ times(*slope, place)).collect();
        Share { name: name.to_owned(), place, bytes }
    }))
}

/// The secret of two shares.
///
/// # Errors
/// They are the same one, or of different secrets.
pub fn join(one: &Share, other: &Share) -> Result<Secret<Vec<u8>>, SplitError> {
    if one.name != other.name {
        return Err(SplitError::Mismatch("they have different names"));
    }
    if one.place == other.place {
        return Err(SplitError::Mismatch("it is the same share twice"));
    }
    if one.bytes.len() != other.bytes.len() {
        return Err(SplitError::Mismatch("they differ in length"));
    }
    // The line through (x, p) and (y, q) meets 0 at (p·y + q·x) / (x + y); adding is taking away.
    let scale = inverse(one.place ^ other.place);
    let (of_one, of_other) = (times(other.place, scale), times(one.place, scale));
    let points = one.bytes.iter().zip(&other.bytes);
    let mut whole: Vec<u8> = points.map(|(p, q)| times(*p, of_one) ^ times(*q, of_other)).collect();
    let told = whole.split_off(whole.len().saturating_sub(CHECK_BYTES));
    if told != check(&whole) {
        return Err(SplitError::Mismatch("they do not fit each other"));
    }
    Ok(Secret::new(whole))
}

impl Share {
    /// Name of the secret.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which of the three, counted from 1.
    #[must_use]
    pub const fn place(&self) -> u8 {
        self.place
    }
}

/// `share-2-of-3:NAME:PLACE:HEX:CHECK`: what is printed, and typed back after a fire.
impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{MARK}:{}:{}:{}", self.name, self.place, hex(&self.bytes));
        write!(f, "{text}:{}", hex(&check(text.as_bytes())))
    }
}

impl FromStr for Share {
    type Err = SplitError;

    /// Spaces and line breaks, as they come from paper, do not matter.
    fn from_str(text: &str) -> Result<Self, SplitError> {
        let text: String = text.split_whitespace().collect();
        let (rest, told) = text.rsplit_once(':').ok_or(SplitError::Text("it has no parts"))?;
        if told != hex(&check(rest.as_bytes())) {
            return Err(SplitError::Text("a letter of it is wrong or missing"));
        }
        let mut parts = rest.split(':');
        let mut part = || parts.next().unwrap_or_default();
        let (mark, name, place, bytes) = (part(), part(), part(), part());
        let place = place.parse().ok().filter(|place| (1..=SHARES).contains(place));
        let (Some(place), true) = (place, mark == MARK) else {
            return Err(SplitError::Text("it is of another kind"));
        };
        let bytes = unhex(bytes).filter(|bytes| bytes.len() > CHECK_BYTES);
        let bytes = bytes.ok_or(SplitError::Text("its digits are not hexadecimal"))?;
        Ok(Self { name: name.to_owned(), place, bytes })
    }
}

/// Multiplies in the field, modulo x⁸ + x⁴ + x³ + x + 1, in the same time for all factors.
fn times(mut a: u8, b: u8) -> u8 {
    let mut product = 0;
    for bit in 0..8 {
        product ^= a & 0_u8.wrapping_sub(b >> bit & 1);
        a = (a << 1) ^ (0x1b & 0_u8.wrapping_sub(a >> 7));
    }
    product
}

/// What gives 1 when multiplied by `a`: a²⁵⁴, since every element but 0 has a²⁵⁵ = 1.
fn inverse(a: u8) -> u8 {
    (0..253).fold(a, |power, _| times(power, a))
}

fn check(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let sum = digest(&SHA256, bytes);
    std::array::from_fn(|index| sum.as_ref().get(index).copied().unwrap_or_default())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.is_ascii() || !text.len().is_multiple_of(2) {
        return None;
    }
    let pairs = (0..text.len()).step_by(2);
    pairs.map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::SeededChance;

    fn shares(secret: &[u8], seed: u64) -> [Share; 3] {
        split("nas-key", secret, &SeededChance::new(seed)).expect("splits")
    }

    #[test]
    fn any_two_of_three_give_the_secret_back() {
        for length in [1, 2, 31, 32, SECRET_BYTES_MAX] {
            let secret: Vec<u8> =
                (0..length).map(|at| u8::try_from(at % 256).expect("fits")).collect();
            let shares = shares(&secret, length as u64);
            for (one, other) in [(0, 1), (0, 2), (1, 2), (2, 0), (1, 0)] {
                let joined = join(&shares[one], &shares[other]).expect("fits");
                assert_eq!(*joined.expose(), secret);
            }
        }
    }

    #[test]
    fn one_share_says_nothing_of_the_secret() {
        // For a share of one byte, each secret is given by exactly one slope: none is likelier.
        for place in 1..=SHARES {
            for point in 0..=255 {
                let mut met = [0; 256];
                for slope in 0..=255 {
                    met[usize::from(point ^ times(slope, place))] += 1;
                }
                assert!(met.iter().all(|count| *count == 1), "place {place}, point {point}");
            }
        }
    }

    #[test]
    fn the_field_is_that_of_aes() {
        // FIPS 197, section 4.2: {57} • {83} = {c1}, {57} • {13} = {fe}.
        assert_eq!((times(0x57, 0x83), times(0x57, 0x13)), (0xc1, 0xfe));
        for a in 1..=255 {
            assert_eq!(times(a, inverse(a)), 1, "{a}");
        }
    }

    #[test]
    fn a_share_survives_paper_and_a_wrong_letter_shows() {
        let [share, ..] = shares(b"correct horse", 7);
        let text = share.to_string();
        assert!(text.starts_with("share-2-of-3:nas-key:1:"), "{text}");
        let (before, after) = text.split_at(30);
        let typed = format!(" {before}\n{after} ");
        assert_eq!(typed.parse::<Share>(), Ok(share));
        for at in 0..text.len() {
            let mut wrong = text.clone().into_bytes();
            wrong[at] = if wrong[at] == b'0' { b'1' } else { b'0' };
            let wrong = String::from_utf8(wrong).expect("text");
            assert!(wrong.parse::<Share>().is_err(), "{wrong}");
            assert!(text.split_at(at).0.parse::<Share>().is_err(), "cut after {at}");
        }
    }

    #[test]
    fn shares_that_do_not_belong_together_give_nothing() {
        let [first, second, _] = shares(b"correct horse", 1);
        let [_, strange, _] = shares(b"correct horse", 2);
        let [_, short, _] = shares(b"correct", 1);
        let other = split("other", b"correct horse", &SeededChance::new(1)).expect("splits");
        for wrong in [&first, &strange, &short, &other[1]] {
            assert!(matches!(join(&first, wrong), Err(SplitError::Mismatch(_))), "{wrong:?}");
        }
        assert!(join(&first, &second).is_ok());
    }

    #[test]
    fn what_cannot_be_split_is_refused() {
        let chance = SeededChance::new(1);
        assert_eq!(split("a", b"", &chance), Err(SplitError::Length(0)));
        let long = vec![0; SECRET_BYTES_MAX + 1];
        assert_eq!(split("a", &long, &chance), Err(SplitError::Length(SECRET_BYTES_MAX + 1)));
        assert_eq!(split("a:b", b"x", &chance), Err(SplitError::Name("a:b".to_owned())));
    }

    #[test]
    fn debug_shows_no_part_of_it() {
        let [share, ..] = shares(b"correct horse", 7);
        let shown = format!("{share:?}");
        assert_eq!(shown, "Share { name: \"nas-key\", place: 1 }");
    }
}
