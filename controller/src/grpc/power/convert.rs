//! How a host stands, on the wire.

use homelab_domain::{
    ids::HostName,
    power::{
        HeldState,
        boot::{Boot, BootPhase},
        energy::cost,
    },
    reason::Because,
    site::Price,
};
use homelab_proto::controller::v1 as pb;
use homelab_rpc::node::to_proto;
use homelab_store::{EnergyDay, Kept};
use jiff::Timestamp;

use super::super::wire::duration;
use crate::power::{
    board::{PowerState, Standing},
    person::Report,
};

/// One host.
pub(super) fn host(standing: &Standing, now: Timestamp) -> pb::HostPower {
    let hold = standing.hold.as_ref();
    let boot = standing.boot.as_ref().filter(|boot| boot.end.is_none());
    let up_in = standing.up_at.map(|at| at.duration_since(now));
    let up_in = up_in.filter(|span| !span.is_negative()).map(|span| span.unsigned_abs());
    let mut shown = pb::HostPower {
        host: standing.host.to_string(),
        since: Some(to_proto(standing.since)),
        reasons: standing.because.iter().map(|why| why.message.clone()).collect(),
        expected_wake: Some(duration(standing.usual)),
        held_until: hold.map(|hold| to_proto(hold.until)),
        held_by: hold.map(|hold| hold.by.clone()).unwrap_or_default(),
        woken_at: boot.map(|boot| to_proto(boot.started_at)),
        awake_in: up_in.map(duration),
        next_wake_at: standing.next_wake_at.map(to_proto),
        proved_at: standing.proved_at.map(to_proto),
        vetoes: standing.vetoes.iter().map(|veto| reason(&veto.because)).collect(),
        boots_learnt: u32::try_from(standing.boots_learnt).unwrap_or(u32::MAX),
        power_watts: standing.watts,
        ..pb::HostPower::default()
    };
    shown.set_state(state(standing.state));
    shown.set_held_as(hold.map_or(pb::PowerState::Unspecified, |hold| match hold.state {
        HeldState::Awake => pb::PowerState::Awake,
        HeldState::Asleep => pb::PowerState::Asleep,
    }));
    shown.set_phase(boot.map_or(pb::BootPhase::Unspecified, |boot| phase(boot.phase())));
    shown
}

/// What is new about a host, in one sentence.
pub(super) fn news(standing: &Standing) -> String {
    let host = &standing.host;
    match (standing.state, &standing.boot) {
        (PowerState::Waking, Some(boot)) => format!(
            "{host}: {} (signal {})",
            homelab_domain::power::boot::words(boot.phase()),
            boot.signals
        ),
        (PowerState::Awake, _) => format!("{host} is awake"),
        (state, _) => format!("{host} is {state}"),
    }
}

/// What happened in some days.
pub(super) fn report(
    report: &Report,
    price: impl Fn(&HostName) -> Option<Price>,
) -> pb::GetPowerReportResponse {
    pb::GetPowerReportResponse {
        kept_awake: report.kept.iter().map(kept).collect(),
        energy: report.energy.iter().map(|day| energy(day, price(&day.host))).collect(),
        boots: report.boots.iter().map(boot).collect(),
    }
}

fn kept(kept: &Kept) -> pb::KeptAwake {
    pb::KeptAwake {
        host: kept.host.to_string(),
        day: kept.day.to_string(),
        reason: Some(reason(&kept.because)),
        lasted: Some(duration(kept.lasted)),
    }
}

fn energy(day: &EnergyDay, price: Option<Price>) -> pb::EnergyDay {
    pb::EnergyDay {
        host: day.host.to_string(),
        day: day.day.to_string(),
        tier: day.tier.map(|tier| tier.to_string()).unwrap_or_default(),
        jobs: day.jobs,
        energy_joules: whole(day.millijoules) / 1_000.0,
        cost: price.map(|price| whole(cost(day.millijoules, price)) / 10_000.0),
    }
}

fn boot(boot: &Boot) -> pb::HostBoot {
    let phases = boot.reached.iter().filter_map(|reached| {
        let mut passed = pb::PassedPhase { phase: 0, after: Some(duration(reached.after())) };
        passed.set_phase(phase(BootPhase::from_word(&reached.phase)?));
        Some(passed)
    });
    pb::HostBoot {
        host: boot.host.to_string(),
        started_at: Some(to_proto(boot.started_at)),
        because: Some(reason(&boot.because)),
        by: boot.by.clone(),
        signals: boot.signals,
        phases: phases.collect(),
        ended_at: boot.end.as_ref().map(|end| to_proto(end.at)),
        failure: boot.end.as_ref().and_then(|end| end.failure.as_ref()).map(reason),
    }
}

fn reason(because: &Because) -> pb::PowerReason {
    pb::PowerReason { reason: because.reason.to_string(), message: because.message.clone() }
}

const fn state(state: PowerState) -> pb::PowerState {
    match state {
        PowerState::Asleep => pb::PowerState::Asleep,
        PowerState::Waking => pb::PowerState::Waking,
        PowerState::Awake => pb::PowerState::Awake,
        PowerState::Draining => pb::PowerState::Draining,
        PowerState::Unknown => pb::PowerState::Unknown,
    }
}

const fn phase(phase: BootPhase) -> pb::BootPhase {
    match phase {
        BootPhase::Signalled => pb::BootPhase::Signalled,
        BootPhase::NetworkAnswers => pb::BootPhase::NetworkAnswers,
        BootPhase::AgentAnswers => pb::BootPhase::AgentAnswers,
        BootPhase::WorkerAnswers => pb::BootPhase::WorkerAnswers,
        BootPhase::ModelLoaded => pb::BootPhase::ModelLoaded,
    }
}

/// A count as a number with a fraction; exact up to 9 petajoules.
fn whole(number: u64) -> f64 {
    let (high, low) = (number >> 32, number & 0xffff_ffff);
    let half = |part: u64| f64::from(u32::try_from(part).unwrap_or(u32::MAX));
    half(high) * 4_294_967_296.0 + half(low)
}
