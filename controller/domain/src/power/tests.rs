mod boots;
mod economics;
mod safety;

use std::{sync::LazyLock, time::Duration};

use jiff::Timestamp;

use super::{
    Hold, after,
    sleep::{Fact, SleepInput},
    wake::{Demand, Failures, WakeInput},
};
use crate::{
    ids::HostName,
    job::JobClass,
    schedule::{Schedule, Zone},
    site::{Period, Power},
};

const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);

static X99: LazyLock<HostName> = LazyLock::new(|| HostName::try_new("x99").unwrap());

fn at(text: &str) -> Timestamp {
    format!("2026-11-23T{text}Z").parse().unwrap()
}

fn noon() -> Timestamp {
    at("12:00:00")
}

fn ago(span: Duration) -> Timestamp {
    noon().checked_sub(span).unwrap()
}

fn period(cron: &str, hours: u64) -> Period {
    let begins = Schedule::try_new(cron, Zone::UTC).unwrap();
    Period { begins, length: Duration::from_hours(hours) }
}

fn demand(class: JobClass) -> Demand {
    Demand { class, since: noon(), tokens: 500, latest_start: None }
}

fn queued(count: usize) -> Vec<Demand> {
    vec![demand(JobClass::Batch); count]
}

fn wake<'a>(power: &'a Power, demands: &'a [Demand], hold: Option<&'a Hold>) -> WakeInput<'a> {
    WakeInput {
        now: noon(),
        host: &X99,
        power,
        boot: 2 * MINUTE,
        demands,
        hold,
        failures: Failures::default(),
    }
}

/// Nothing speaks against sleeping.
fn sleepy(power: &Power) -> SleepInput<'_> {
    SleepInput {
        wake: wake(power, &[], None),
        jobs_running: 0,
        requests_running: Fact::Known(0),
        idle_since: Fact::Known(ago(HOUR)),
        local: Fact::Known(Vec::new()),
        wake_armed: Fact::Known(true),
        open_work: Fact::Known(Vec::new()),
        proved_at: Some(ago(24 * HOUR)),
    }
}

fn later(span: Duration) -> Timestamp {
    after(noon(), span)
}
