//! Denials of callers that nobody knows: a flood of them must not fill a log that is kept for ever.
//!
//! The first of an address is told at once. Those of the minute after it are counted, and the count
//! is told at the end of that minute: so each address has one entry a minute at most.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use homelab_common::rate::party;
use homelab_rpc::connection::Remote;
use homelab_store::{AuditOutcome, NewAuditEntry};
use jiff::Timestamp;

/// How long an address is counted before the count is told.
const WINDOW: Duration = Duration::from_secs(60);

/// Addresses that are counted apart; the denials of more are counted together.
const ADDRESSES_MAX: usize = 1_024;

/// The actor of the count of all addresses that are not counted apart.
const OTHERS: &str = "stranger/others";

/// Counts denials by address.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    windows: HashMap<Source, Window>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Source {
    Network(IpAddr),
    Unix(Option<u32>),
    Others,
}

#[derive(Debug)]
struct Window {
    until: Timestamp,
    more: u64,
    last: NewAuditEntry,
}

impl Strangers {
    /// Takes a denial: gives it back to be told at once, or counts it.
    pub(super) fn denied(&mut self, from: &Remote, entry: NewAuditEntry) -> Option<NewAuditEntry> {
        let own = match from {
            Remote::Tcp(address) => Source::Network(party(address.ip())),
            Remote::Unix { uid } => Source::Unix(*uid),
        };
        let is_room = self.windows.len() < ADDRESSES_MAX || self.windows.contains_key(&own);
        let source = if is_room { own } else { Source::Others };
        if let Some(window) = self.windows.get_mut(&source) {
            (window.more, window.last) = (window.more + 1, entry);
            return None;
        }
        let until = entry.at.checked_add(WINDOW).unwrap_or(entry.at);
        self.windows.insert(source, Window { until, more: 0, last: entry.clone() });
        Some(entry)
    }

    /// The counts whose minute is over at `now`, one entry each. Whoever was counted is counted on.
    pub(super) fn due(&mut self, now: Timestamp) -> Vec<NewAuditEntry> {
        let mut due = Vec::new();
        self.windows.retain(|source, window| {
            if window.until > now {
                return true;
            }
            let told = window.count(*source);
            window.until = now.checked_add(WINDOW).unwrap_or(now);
            window.more = 0;
            let goes_on = told.is_some();
            due.extend(told);
            goes_on
        });
        due
    }

    /// All counts, for the end.
    pub(super) fn all(&mut self) -> Vec<NewAuditEntry> {
        let windows = std::mem::take(&mut self.windows);
        windows.into_iter().filter_map(|(source, window)| window.count(source)).collect()
    }
}

impl Window {
    fn count(&self, source: Source) -> Option<NewAuditEntry> {
        let Self { more, last, .. } = self;
        if *more == 0 {
            return None;
        }
        Some(NewAuditEntry {
            actor: if source == Source::Others { OTHERS.to_owned() } else { last.actor.clone() },
            outcome: AuditOutcome::Denied,
            detail: format!("{more} more were denied within a minute; the last: {}", last.detail),
            ..last.clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(network: u32) -> Remote {
        Remote::Tcp((std::net::Ipv4Addr::from_bits(network), 4711).into())
    }

    fn entry(second: i64) -> NewAuditEntry {
        NewAuditEntry {
            at: Timestamp::from_second(second).expect("a time"),
            actor: "stranger/192.0.2.1:4711".into(),
            action: "/x.Y/Z".into(),
            subject: String::new(),
            outcome: AuditOutcome::Denied,
            detail: format!("no certificate; request {second}"),
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn the_first_is_told_at_once_and_the_rest_of_the_minute_as_one_count() {
        let mut strangers = Strangers::default();
        assert_eq!(strangers.denied(&remote(1), entry(0)), Some(entry(0)));
        for second in 1..50 {
            assert_eq!(strangers.denied(&remote(1), entry(second)), None);
        }
        assert_eq!(strangers.due(at(59)), []);
        let told = strangers.due(at(60));
        assert_eq!(told.len(), 1);
        assert_eq!(
            told[0].detail,
            "49 more were denied within a minute; the last: no certificate; request 49"
        );
        assert_eq!(strangers.denied(&remote(1), entry(61)), None, "the next minute is counted on");
        assert_eq!(strangers.due(at(120)).len(), 1);
        assert_eq!(strangers.due(at(180)), [], "and after a quiet minute it is forgotten");
        assert!(strangers.denied(&remote(1), entry(200)).is_some());
    }

    #[test]
    fn each_address_is_told_of_until_there_are_too_many() {
        let mut strangers = Strangers::default();
        let at_once = (0..10_000).filter(|n| strangers.denied(&remote(*n), entry(0)).is_some());
        assert_eq!(at_once.count(), ADDRESSES_MAX + 1);
        let told = strangers.all();
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].actor, OTHERS);
        assert!(told[0].detail.starts_with("8975 more"), "{}", told[0].detail);
    }
}
