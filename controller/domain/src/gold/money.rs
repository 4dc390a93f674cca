//! Amounts of money, and what tokens cost.

use std::{fmt, iter::Sum, ops::Add, str::FromStr};

const MICROS: u64 = 1_000_000;

/// An amount in millionths of the site's currency; never negative.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Money(u64);

/// The text is no amount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no amount such as \"2.50\": digits, and at most six of them after a point")]
pub struct InvalidMoney(String);

impl Money {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// An amount in millionths.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// The amount in millionths.
    #[must_use]
    pub const fn micros(self) -> u64 {
        self.0
    }

    /// What is left of this once `other` is taken away; nothing if that is more.
    #[must_use]
    pub const fn less(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Add for Money {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Sum for Money {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::ZERO, Add::add)
    }
}

impl FromStr for Money {
    type Err = InvalidMoney;

    fn from_str(text: &str) -> Result<Self, InvalidMoney> {
        let refused = || InvalidMoney(text.chars().take(40).collect());
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        let digits =
            |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(part) || part.len() > 6 {
            return Err(refused());
        }
        let whole: u64 = whole.parse().map_err(|_| refused())?;
        let part: u64 = format!("{part:0<6}").parse().map_err(|_| refused())?;
        let micros = whole.checked_mul(MICROS).and_then(|whole| whole.checked_add(part));
        micros.map(Self).ok_or_else(refused)
    }
}

/// With two digits after the point at least, and six at most.
impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / MICROS, format!("{:06}", self.0 % MICROS));
        let kept = part.trim_end_matches('0').len().max(2);
        f.pad(&format!("{whole}.{}", part.get(..kept).unwrap_or(&part)))
    }
}

impl fmt::Debug for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Money({self})")
    }
}

/// What a model costs, for a million tokens each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    /// For a million tokens that it reads.
    pub input: Money,
    /// For a million tokens that it writes.
    pub output: Money,
}

impl Price {
    /// What so many tokens cost, rounded up.
    #[must_use]
    pub fn of(self, read: u64, written: u64) -> Money {
        let part = |price: Money, tokens| u128::from(price.0) * u128::from(tokens);
        let exact = part(self.input, read).saturating_add(part(self.output, written));
        Money(u64::try_from(exact.div_ceil(u128::from(MICROS))).unwrap_or(u64::MAX))
    }
}

/// The most that a request can cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Worst {
    /// Tokens that the provider reads at most.
    pub read: u64,
    /// Tokens that it writes at most, over all its answers.
    pub written: u64,
    /// What they cost.
    pub cost: Money,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_amount_is_read_and_shown_to_the_millionth() {
        for (text, micros, shown) in [
            ("2.50", 2_500_000, "2.50"),
            ("2", 2_000_000, "2.00"),
            ("0.000001", 1, "0.000001"),
            ("0.0004", 400, "0.0004"),
        ] {
            let money: Money = text.parse().unwrap();
            assert_eq!((money.micros(), money.to_string().as_str()), (micros, shown));
        }
        for wrong in ["", ".5", "5.", "-1", "1,5", "1e3", "0.0000001", "99999999999999999999"] {
            assert!(wrong.parse::<Money>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn tokens_cost_what_the_table_says_rounded_up() {
        let price = Price { input: "0.15".parse().unwrap(), output: "0.60".parse().unwrap() };
        assert_eq!(price.of(1_000_000, 1_000_000).to_string(), "0.75");
        assert_eq!(price.of(1, 0).micros(), 1);
        assert_eq!(price.of(0, 0), Money::ZERO);
        let dear = Price { input: Money(u64::MAX), output: Money(u64::MAX) };
        assert_eq!(dear.of(u64::MAX, u64::MAX).micros(), u64::MAX);
    }

    proptest! {
        #[test]
        fn every_amount_survives_its_text(micros in any::<u64>()) {
            let money = Money::from_micros(micros);
            prop_assert_eq!(money.to_string().parse::<Money>().unwrap(), money);
        }

        #[test]
        fn more_tokens_never_cost_less(
            input in 0..1_000_000_000_u64, output in 0..1_000_000_000_u64,
            read in 0..10_000_000_u64, written in 0..10_000_000_u64, more in 0..1_000_000_u64,
        ) {
            let price = Price { input: Money(input), output: Money(output) };
            prop_assert!(price.of(read + more, written) >= price.of(read, written));
            prop_assert!(price.of(read, written + more) >= price.of(read, written));
        }
    }
}
