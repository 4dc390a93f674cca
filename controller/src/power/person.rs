//! What people ask for: wake, sleep, hold, and a report.

use homelab_domain::{
    ids::HostName,
    power::{
        HOLD_MAX, HeldState, Hold,
        boot::Boot,
        sleep::{Unproved, Veto},
    },
    reason::Because,
};
use homelab_store::{EnergyDay, Kept, StoreError};
use jiff::Timestamp;

use super::{
    Powers,
    board::{PowerState, Standing},
    picture::{Picture, on_demand},
    rest::{Rest, Wish},
    round::Round,
    ward::Ward,
};
use crate::audit;

/// Boots of each host in a report.
const BOOTS_MAX: u32 = 50;

/// Days that a report may look back.
pub const DAYS_MAX: u32 = 366;

/// Why a person does not get what they ask for.
#[derive(Debug, thiserror::Error)]
pub enum PersonError {
    /// There is no such host.
    #[error("there is no host `{0}` in the site file; see `labctl host list`")]
    NotFound(String),
    /// It is always on.
    #[error(
        "`{0}` is always on: only a host with expected-power = \"on-demand\" in the site file is \
         woken and put to sleep"
    )]
    NotOnDemand(HostName),
    /// Somebody holds it asleep.
    #[error("{by} holds {host} asleep until {until}; `labctl host release {host}` lets it go")]
    HeldAsleep {
        /// Host.
        host: HostName,
        /// Who.
        by: String,
        /// Until when.
        until: Timestamp,
    },
    /// It is being woken.
    #[error("{0} is being woken; wait until it is up")]
    Waking(HostName),
    /// Something speaks against it.
    #[error("{host} stays awake: {}", list(.vetoes))]
    Vetoed {
        /// Host.
        host: HostName,
        /// What.
        vetoes: Vec<Because>,
    },
    /// A hold would last too long, or has ended already.
    #[error("a hold ends within 7 days from now; {0} does not")]
    Until(Timestamp),
    /// The store failed.
    #[error("what is known of its power could not be read or kept")]
    Store(#[from] StoreError),
}

fn list(vetoes: &[Because]) -> String {
    vetoes.iter().map(|veto| veto.message.as_str()).collect::<Vec<_>>().join("; ")
}

/// Whether a wish is carried out, or only looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Go {
    /// It is carried out.
    Ahead,
    /// It is only looked at.
    Look,
}

/// What happened in some days.
#[derive(Clone, Debug)]
pub struct Report {
    /// What kept hosts awake.
    pub kept: Vec<Kept>,
    /// What they used.
    pub energy: Vec<EnergyDay>,
    /// How they woke.
    pub boots: Vec<Boot>,
}

impl Powers {
    /// The host of that name, if it is one that is woken and put to sleep.
    ///
    /// # Errors
    /// There is none, or it is always on.
    pub fn find(&self, name: &str) -> Result<HostName, PersonError> {
        let site = self.site();
        let known = HostName::try_new(name).ok().and_then(|name| site.host(&name).cloned());
        let host = known.ok_or_else(|| PersonError::NotFound(name.chars().take(80).collect()))?;
        let is_on_demand = on_demand(&site).any(|it| it.name == host.name);
        if is_on_demand { Ok(host.name) } else { Err(PersonError::NotOnDemand(host.name)) }
    }

    /// Has a host woken soon, whatever the plan says of it. Whoever wants to see that follows the
    /// [`board`](Powers::board).
    ///
    /// # Errors
    /// Somebody holds it asleep.
    pub async fn wake(&self, host: &HostName, by: &str) -> Result<(), PersonError> {
        let mut tx = self.0.parts.store.read().await?;
        let holds = tx.power().holds().await?;
        let now = self.now();
        let held = holds.into_iter().find(|(name, hold)| name == host && hold.lasts(now));
        if let Some((host, Hold { state: HeldState::Asleep, until, by })) = held {
            return Err(PersonError::HeldAsleep { host, by, until });
        }
        self.asked().insert(host.clone(), by.to_owned());
        self.0.nudge.nudge();
        Ok(())
    }

    /// Puts a host to sleep, or only says whether it could be. What only would not pay is put aside.
    ///
    /// # Errors
    /// Something speaks against it, or it is being woken.
    pub async fn sleep(
        &self,
        host: &HostName,
        by: &str,
        unproved: Unproved,
        go: Go,
    ) -> Result<Standing, PersonError> {
        let mut wards = self.0.wards.lock().await;
        let picture = Picture::read(self).await?;
        let declared = picture.site.host(host).cloned();
        let (Some(declared), Some(known), Some(seen)) =
            (declared, picture.known(host), self.0.parts.hands.seen(host))
        else {
            return Err(PersonError::NotFound(host.to_string()));
        };
        if known.open_boot().is_some() {
            return Err(PersonError::Waking(host.clone()));
        }
        let ward = wards.entry(host.clone()).or_default();
        let round = Round { powers: self, picture: &picture, host: &declared, known, seen: &seen };
        if !round.is_on() {
            let standing = self.board().get(host);
            let asleep = || round.standing(ward, PowerState::Asleep, Vec::new());
            return Ok(standing.unwrap_or_else(asleep));
        }
        let wish = Wish::Person { by: by.to_owned(), unproved };
        let standing = lie_down(&round, ward, &wish, go).await?;
        if go == Go::Ahead {
            self.board().show_one(standing.clone());
        }
        Ok(standing)
    }

    /// Holds a host, or lets it go.
    ///
    /// # Errors
    /// The hold would last too long or has ended.
    pub async fn hold(
        &self,
        host: &HostName,
        hold: Option<(HeldState, Timestamp)>,
        by: &str,
    ) -> Result<Option<Standing>, PersonError> {
        let now = self.now();
        let hold = match hold {
            None => None,
            Some((state, until)) => {
                let latest = now.checked_add(HOLD_MAX).unwrap_or(Timestamp::MAX);
                if until <= now || until > latest {
                    return Err(PersonError::Until(until));
                }
                Some(Hold { state, until, by: by.to_owned() })
            }
        };
        let detail = hold.as_ref().map_or_else(
            || "let go".to_owned(),
            |hold| format!("{} until {}", hold.state, hold.until),
        );
        let parts = &self.0.parts;
        let mut tx = parts.store.begin().await?;
        tx.power().set_hold(host, hold.as_ref()).await?;
        let entry = audit::entry(parts.clock.as_ref(), by, "power.hold", host.to_string(), detail);
        tx.audit().append(&entry).await?;
        tx.commit().await?;
        self.round().await?;
        Ok(self.board().get(host))
    }

    /// What happened in the last `days`, today included.
    ///
    /// # Errors
    /// The store failed.
    pub async fn report(&self, days: u32) -> Result<Report, StoreError> {
        let site = self.site();
        let today = site.time_zone().local(self.now()).date();
        let back = jiff::Span::new().days(i64::from(days.clamp(1, DAYS_MAX)) - 1);
        let since = today.checked_sub(back).unwrap_or(today);
        let mut tx = self.0.parts.store.read().await?;
        let kept = tx.power().keepers(since).await?;
        let energy = tx.power().energy(since).await?;
        let mut boots = Vec::new();
        for host in on_demand(&site) {
            boots.extend(tx.power().boots(&host.name, BOOTS_MAX).await?);
        }
        boots.retain(|boot| site.time_zone().local(boot.started_at).date() >= since);
        Ok(Report { kept, energy, boots })
    }

    /// What the site file says that a kWh usually costs on a host, as a number.
    #[must_use]
    pub fn price(&self, host: &HostName) -> Option<homelab_domain::site::Price> {
        self.site().host(host)?.power.price
    }
}

async fn lie_down(
    round: &Round<'_>,
    ward: &mut Ward,
    wish: &Wish,
    go: Go,
) -> Result<Standing, PersonError> {
    let plan = round.plan(ward, std::time::Duration::ZERO).await;
    let vetoed = |vetoes| PersonError::Vetoed { host: round.host.name.clone(), vetoes };
    let against: Vec<Veto> = wish.vetoes(&plan);
    if !against.is_empty() {
        return Err(vetoed(against.into_iter().map(|veto| veto.because).collect()));
    }
    let because = || plan.vetoes.iter().map(|veto| veto.because.clone()).collect();
    if go == Go::Look {
        let mut standing = round.standing(ward, PowerState::Awake, because());
        standing.vetoes = plan.vetoes.clone();
        return Ok(standing);
    }
    match round.rest(ward, wish).await? {
        Rest::Falls => Ok(round.standing(ward, PowerState::Draining, because())),
        Rest::Stays(because) => Err(vetoed(because)),
    }
}
