//! What is known of a host only while the controller runs.

use homelab_domain::power::energy::Reading;
use jiff::Timestamp;

use super::{board::PowerState, hands::Look};

/// Why nobody knows whether an order to sleep is still on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// The answer to the order under this fence did not come.
    Unanswered(u64),
    /// An earlier life of this controller may have given one.
    Earlier,
    /// The host was told to sleep and is on all the same, or again.
    Over,
}

/// One host that is looked after.
#[derive(Clone, Debug, Default)]
pub(super) struct Ward {
    /// Where it stood when last looked at, and since when.
    pub(super) state: Option<(PowerState, Timestamp)>,
    /// When it last had something to do, or was first seen awake.
    pub(super) busy_at: Option<Timestamp>,
    /// When what keeps it awake was last written down.
    pub(super) counted_at: Option<Timestamp>,
    /// The last reading of its power.
    pub(super) reading: Option<Reading>,
    /// What its agent last said, and when.
    pub(super) look: Option<(Timestamp, Result<Look, String>)>,
    /// When it was told to sleep and has not gone yet.
    pub(super) falling_since: Option<Timestamp>,
    /// It was told to sleep and has gone: it is asleep, however long the fleet takes to be sure.
    pub(super) fell: bool,
    /// Its worker takes no work because we asked it to.
    pub(super) drained_by_us: bool,
    /// An order to sleep may still be on its way: it is made void before its worker takes work.
    pub(super) doubt: Option<Doubt>,
    /// It did not want to sleep; not asked again before.
    pub(super) refused_until: Option<(Timestamp, String)>,
    /// A boot that is late was told of.
    pub(super) late_told: bool,
    /// Whether this controller has looked at it before.
    pub(super) known: bool,
}

impl Ward {
    /// Since when it stands so; `now` when that is new.
    pub(super) fn stands(&mut self, state: PowerState, now: Timestamp) -> Timestamp {
        match self.state {
            Some((before, since)) if before == state => since,
            _ => {
                self.state = Some((state, now));
                now
            }
        }
    }

    /// Nothing that was seen while it was up holds any more.
    pub(super) fn gone(&mut self) {
        self.fell |= self.falling_since.is_some();
        self.busy_at = None;
        self.counted_at = None;
        self.reading = None;
        self.look = None;
        self.falling_since = None;
        self.drained_by_us = false;
        self.doubt = None;
        self.refused_until = None;
        // Whoever switches it on again may find its worker still told to take no work.
        self.known = false;
    }
}
