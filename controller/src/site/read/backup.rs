//! Backups, repositories, windows and secrets of the site file.

use std::{ops::RangeInclusive, time::Duration};

use homelab_common::config::{Allowed, Section, Value, parse};
use homelab_domain::{
    ids::{DrillTargetName, HostName},
    retention::KeepPolicy,
    schedule::{Schedule, Zone},
    site::{
        Backup, GRACE, JITTER, KIT_PROOF_EVERY, Keeper, Repository, SCRUB_EVERY, Secret,
        SourceKind, Window,
    },
};

const MINUTE: Duration = Duration::from_mins(1);
const DAY: Duration = Duration::from_hours(24);

/// Targets that make sense: less than a minute cannot be met, more than a year is none.
const RPO: RangeInclusive<Duration> = MINUTE..=Duration::from_hours(366 * 24);

/// More than this of one kind is more than anybody looks through.
const KEPT_MAX: u32 = 1_000;

pub(super) fn repository(section: &Section<'_>, home: &str) -> Option<Repository> {
    let name = section.required("name", parse::text(|text| text.parse()));
    let description = section.or("description", String::new(), parse::string);
    let medium = section.optional("medium", parse::string);
    let place = section.or("place", home.to_owned(), parse::string);
    let host = section.optional("host", parse::text(|text| text.parse::<HostName>()));
    let secret = section.optional("secret", parse::text(|text| text.parse()));
    let keeper = section.optional("keeper", parse::text(|text| text.parse::<HostName>()));
    let scrub = DAY..=Duration::from_hours(366 * 24);
    let scrub_every = section.or("scrub-every", SCRUB_EVERY, parse::duration_in(scrub));
    let plain = Repository::new(name?, place);
    let medium = medium.unwrap_or_else(|| plain.medium.clone());
    Some(Repository { description, medium, host, secret, keeper, scrub_every, ..plain })
}

pub(super) fn backup(
    section: &Section<'_>,
    zone: &Zone,
    keep: Option<&KeepPolicy>,
) -> Option<Backup> {
    let words: Vec<_> = SourceKind::ALL.iter().map(|kind| (kind.as_str(), *kind)).collect();
    let name = section.required("name", parse::text(|text| text.parse()));
    let host = section.required("host", parse::text(|text| text.parse::<HostName>()));
    let repository = section.required("repository", parse::text(|text| text.parse()));
    let source = section.required("source", parse::word(&words));
    let schedule = section.required("schedule", cron(zone));
    let rpo = section.required("rpo", parse::duration_in(RPO));
    let copies = section.list("copies", parse::text(|text| text.parse()));
    let spool = section.optional("spool", parse::text(|text| text.parse()));
    let jitter = section.or("jitter", JITTER, parse::duration_in(Duration::ZERO..=60 * MINUTE));
    let grace = section.or("grace", GRACE, parse::duration_in(Duration::ZERO..=7 * DAY));
    let after = section.list("after", parse::text(|text| text.parse()));
    let rto = section.optional("rto", parse::duration_in(RPO));
    let drill = section.optional("drill-schedule", cron(zone));
    let drill_target =
        section.optional("drill-target", parse::text(|text| text.parse::<DrillTargetName>()));
    let drill_host = section.optional("drill-host", parse::text(|text| text.parse::<HostName>()));
    let drill_repository = section.optional("drill-repository", parse::text(|text| text.parse()));
    let keep = match section.optional_table("keep") {
        Some(own) => Some(policy(&own, zone)),
        None => keep.cloned(),
    };
    let services = section.list("services", parse::text(|text| text.parse()));
    let plain = Backup::new(name?, host?, repository?, source?, schedule?, rpo?);
    Some(Backup {
        copies,
        spool,
        jitter,
        grace,
        after,
        rto,
        drill,
        drill_target,
        drill_host,
        drill_repository,
        keep,
        services,
        ..plain
    })
}

/// What backups keep that say nothing of their own; none when the file has no such part, and then
/// nothing is ever given up.
pub(super) fn default_keep(root: &Section<'_>, zone: &Zone) -> Option<KeepPolicy> {
    root.optional_table("retention").map(|section| policy(&section, zone))
}

fn policy(section: &Section<'_>, zone: &Zone) -> KeepPolicy {
    let home = KeepPolicy::home(zone.clone());
    let count = |key, default| section.or(key, default, parse::integer(0..=KEPT_MAX));
    KeepPolicy {
        last: count("last", home.last),
        hourly: count("hourly", home.hourly),
        daily: count("daily", home.daily),
        weekly: count("weekly", home.weekly),
        monthly: count("monthly", home.monthly),
        yearly: count("yearly", home.yearly),
        floor: section.or("floor", home.floor, parse::integer(1..=KEPT_MAX)),
        floor_total: section.or("floor-total", home.floor_total, parse::integer(1..=KEPT_MAX)),
        quarantine: section.or("quarantine", home.quarantine, parse::duration_in(DAY..=90 * DAY)),
        zone: home.zone,
    }
}

pub(super) fn window(section: &Section<'_>, zone: &Zone) -> Option<Window> {
    let name = section.required("name", parse::text(|text| text.parse()));
    let begins = section.required("begins", cron(zone));
    let length = section.required("length", parse::duration_in(MINUTE..=7 * DAY));
    let backups = section.list("backups", parse::text(|text| text.parse()));
    let description = section.or("description", String::new(), parse::string);
    Some(Window { name: name?, begins: begins?, length: length?, backups, description })
}

pub(super) fn secret(section: &Section<'_>) -> Option<Secret> {
    let name = section.required("name", parse::text(|text| text.parse()));
    let description = section.or("description", String::new(), parse::string);
    let kept_in = section.list("kept-in", parse::text(|text| text.parse::<Keeper>()));
    let services = section.list("services", parse::text(|text| text.parse()));
    Some(Secret { name: name?, description, kept_in, services })
}

pub(super) fn kit_proof_every(root: &Section<'_>) -> Duration {
    let recovery = root.table("recovery");
    recovery.or("kit-proof-every", KIT_PROOF_EVERY, parse::duration_in(DAY..=366 * DAY))
}

pub(super) fn cron(zone: &Zone) -> impl Fn(&Value<'_>) -> Result<Schedule, Allowed> {
    move |value| {
        let text = value.as_str().ok_or_else(|| Allowed::new("a cron expression in quotes"))?;
        Schedule::try_new(text, zone.clone()).map_err(|error| {
            Allowed::new(format!("a cron expression such as \"30 2 * * *\": {}", error.why))
        })
    }
}
