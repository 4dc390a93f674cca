//! How a host that is off until needed is woken, when that pays, and when it may sleep again.

use std::{fmt, time::Duration};

use jiff::Timestamp;

use crate::{ids::HostName, schedule::Schedule};

/// How a host is woken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WakeMethod {
    /// A magic packet for its `mac`.
    Packet {
        /// Host whose agent sends it; none takes those that are on and in the same network.
        from: Option<HostName>,
        /// Interface to send from; none sends from every one that can broadcast.
        interface: Option<String>,
    },
    /// A plug that is switched on by asking this address once; the host's firmware starts it
    /// when power comes back.
    Plug {
        /// `http://` with an IP address: nothing that could lead elsewhere.
        url: String,
    },
    /// A program on the controller, with its arguments; no shell.
    Command {
        /// Absolute path and arguments.
        argv: Vec<String>,
    },
}

crate::words! {
    /// What a host does when it is not needed.
    SleepMethod {
        /// It is switched off.
        PowerOff = "power-off",
        /// It is suspended to memory.
        Suspend = "suspend",
        /// It stays on until a person switches it off.
        Never = "never",
    }
}

/// A price of energy, in ten-thousandths of the currency unit a kWh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Price(pub u32);

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:04}/kWh", self.0 / 10_000, self.0 % 10_000)
    }
}

/// A time that comes again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Period {
    /// When it begins.
    pub begins: Schedule,
    /// How long it lasts.
    pub length: Duration,
}

impl Period {
    /// When the one that is open at `now` ends; none while none is.
    #[must_use]
    pub fn open_until(&self, now: Timestamp) -> Option<Timestamp> {
        let begun = self.begins.newest_in(now.checked_sub(self.length).ok()?, now)?;
        begun.checked_add(self.length).ok().filter(|end| now < *end)
    }
}

/// A time in which energy has another price.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tariff {
    /// When.
    pub period: Period,
    /// What it costs then.
    pub price: Price,
}

/// When waking pays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WakeRules {
    /// Somebody who waits for an answer is reason enough.
    pub interactive: bool,
    /// So many queued jobs are.
    pub jobs_min: u64,
    /// Queued work that may write so many tokens is.
    pub tokens_min: u64,
    /// No queued job waits longer, whatever energy costs.
    pub wait_max: Duration,
    /// Dearer energy than this is not used for work that can wait.
    pub price_max: Option<Price>,
}

impl Default for WakeRules {
    fn default() -> Self {
        Self {
            interactive: true,
            jobs_min: 10,
            tokens_min: 40_000,
            wait_max: Duration::from_hours(6),
            price_max: None,
        }
    }
}

/// Everything that the site file says of the power of a host that is off until needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Power {
    /// How it is woken.
    pub wake: WakeMethod,
    /// What it does when it is not needed.
    pub sleep: SleepMethod,
    /// How long it must have had nothing to do.
    pub idle: Duration,
    /// How long it is expected to take to come up, until its boots have taught better.
    pub boot: Duration,
    /// How long it may take before the attempt has failed.
    pub boot_max: Duration,
    /// How many times one attempt sends its packet, asks its plug or runs its command.
    pub signals: u32,
    /// How old the newest proof that it can be woken may be.
    pub proof_age_max: Duration,
    /// A sleep that would be shorter than this is not worth it.
    pub off_min: Duration,
    /// When waking pays.
    pub rules: WakeRules,
    /// Times in which any queued work wakes it.
    pub windows: Vec<Period>,
    /// What energy costs outside of all tariffs.
    pub price: Option<Price>,
    /// Times with another price; the first that is open counts.
    pub tariffs: Vec<Tariff>,
}

impl Default for Power {
    fn default() -> Self {
        Self {
            wake: WakeMethod::Packet { from: None, interface: None },
            sleep: SleepMethod::PowerOff,
            idle: Duration::from_mins(20),
            boot: Duration::from_mins(3),
            boot_max: Duration::from_mins(15),
            signals: 3,
            proof_age_max: Duration::from_hours(30 * 24),
            off_min: Duration::from_mins(30),
            rules: WakeRules::default(),
            windows: Vec::new(),
            price: None,
            tariffs: Vec::new(),
        }
    }
}

impl Power {
    /// What energy costs at `now`, and until when at least that holds; none when nobody said.
    #[must_use]
    pub fn price_at(&self, now: Timestamp) -> Option<(Price, Option<Timestamp>)> {
        let open = |tariff: &Tariff| Some((tariff.price, tariff.period.open_until(now)));
        let tariff = self.tariffs.iter().find(|tariff| tariff.period.open_until(now).is_some());
        let next = || {
            let begins = self.tariffs.iter().filter_map(|it| it.period.begins.next_after(now));
            begins.min()
        };
        tariff.and_then(open).or_else(|| Some((self.price?, next())))
    }

    /// When the window that is open at `now` ends; none while none is.
    #[must_use]
    pub fn window_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.windows.iter().filter_map(|window| window.open_until(now)).max()
    }

    /// When the next window begins.
    #[must_use]
    pub fn next_window(&self, now: Timestamp) -> Option<Timestamp> {
        self.windows.iter().filter_map(|window| window.begins.next_after(now)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::Zone;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn period(cron: &str, hours: u64) -> Period {
        let begins = Schedule::try_new(cron, Zone::UTC).unwrap();
        Period { begins, length: Duration::from_hours(hours) }
    }

    #[test]
    fn the_price_is_that_of_the_open_tariff_or_the_usual_one() {
        let power = Power {
            price: Some(Price(2_900)),
            tariffs: vec![Tariff { period: period("0 1 * * *", 4), price: Price(1_850) }],
            ..Power::default()
        };
        let night = at("2026-11-23T02:00:00Z");
        assert_eq!(power.price_at(night), Some((Price(1_850), Some(at("2026-11-23T05:00:00Z")))));
        let day = at("2026-11-23T12:00:00Z");
        assert_eq!(power.price_at(day), Some((Price(2_900), Some(at("2026-11-24T01:00:00Z")))));
        assert_eq!(Power::default().price_at(day), None);
        assert_eq!(Price(2_900).to_string(), "0.2900/kWh");
    }

    #[test]
    fn a_window_is_open_for_its_length() {
        let power = Power { windows: vec![period("0 22 * * *", 8)], ..Power::default() };
        let night = at("2026-11-23T02:00:00Z");
        assert_eq!(power.window_until(night), Some(at("2026-11-23T06:00:00Z")));
        let day = at("2026-11-23T12:00:00Z");
        assert_eq!(power.window_until(day), None);
        assert_eq!(power.next_window(day), Some(at("2026-11-23T22:00:00Z")));
    }
}
