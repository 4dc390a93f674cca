//! How a host of the site file is woken, and when it sleeps.

use std::{net::IpAddr, ops::RangeInclusive, time::Duration};

use homelab_common::config::{Allowed, Section, Value, parse};
use homelab_domain::{
    ids::HostName,
    schedule::Zone,
    site::{Period, Power, Price, SleepMethod, Tariff, WakeMethod, WakeRules},
};

use super::{backup::cron, each};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// Arguments of a command that is run to wake a host.
const ARGUMENTS_MAX: usize = 32;

/// `[host.power]`; without it every value has its default.
pub(super) fn power(section: &Section<'_>, zone: &Zone) -> Option<Power> {
    let usual = Power::default();
    let span = |key, default, allowed: RangeInclusive<Duration>| {
        section.or(key, default, parse::duration_in(allowed))
    };
    let wake = wake(section);
    let words: Vec<_> = SleepMethod::ALL.iter().map(|word| (word.as_str(), *word)).collect();
    let sleep = section.or("sleep", usual.sleep, parse::word(&words));
    let idle = span("idle", usual.idle, SECOND..=7 * DAY);
    let boot = span("boot", usual.boot, SECOND..=HOUR);
    let boot_max = span("boot-max", usual.boot_max.max(boot.saturating_mul(3)), SECOND..=6 * HOUR);
    let signals = section.or("signals", usual.signals, parse::integer(1..=10_u32));
    let proof_age_max = span("proof-age-max", usual.proof_age_max, DAY..=366 * DAY);
    let off_min = span("off-min", usual.off_min, SECOND..=7 * DAY);
    let rules = WakeRules {
        interactive: section.or("interactive", usual.rules.interactive, parse::bool),
        jobs_min: section.or("jobs-min", usual.rules.jobs_min, parse::integer(1..=100_000_u64)),
        tokens_min: section.or(
            "tokens-min",
            usual.rules.tokens_min,
            parse::integer(1..=1_000_000_000_u64),
        ),
        wait_max: span("wait-max", usual.rules.wait_max, SECOND..=31 * DAY),
        price_max: section.optional("price-max", price),
    };
    let windows = each(section, "windows", |window| period(window, zone));
    let usual_price = section.optional("price", price);
    let tariffs = each(section, "tariffs", |tariff| {
        let (period, price) = (period(tariff, zone), tariff.required("price", price));
        Some(Tariff { period: period?, price: price? })
    });
    Some(Power {
        wake: wake?,
        sleep,
        idle,
        boot,
        boot_max,
        signals,
        proof_age_max,
        off_min,
        rules,
        windows: windows?,
        price: usual_price,
        tariffs: tariffs?,
    })
}

fn wake(section: &Section<'_>) -> Option<WakeMethod> {
    let words = [("packet", "packet"), ("plug", "plug"), ("command", "command")];
    let method = section.or("wake", "packet", parse::word(&words));
    // Read whatever the method is, so that a key of another one is not called unknown.
    let from = section.optional("from", parse::text(|text| text.parse::<HostName>()));
    let interface = section.optional("interface", parse::text(interface));
    let url = section.optional("plug-url", parse::text(plug));
    let argv = section.list("command", parse::string);
    for (key, of) in
        [("from", "packet"), ("interface", "packet"), ("plug-url", "plug"), ("command", "command")]
    {
        if section.has(key) && method != of {
            section.problem(key, format!("only with wake = \"{of}\""));
        }
    }
    match method {
        "plug" => {
            if !section.has("plug-url") {
                section.problem("plug-url", "missing; the plug is switched on by asking it");
            }
            Some(WakeMethod::Plug { url: url? })
        }
        "command" => {
            let absolute = argv.first().is_some_and(|program| program.starts_with('/'));
            if !absolute || argv.len() > ARGUMENTS_MAX {
                let rule = format!(
                    "a list: the absolute path of a program and up to {} arguments",
                    ARGUMENTS_MAX - 1
                );
                section.problem("command", rule);
            }
            Some(WakeMethod::Command { argv })
        }
        _ => Some(WakeMethod::Packet { from, interface }),
    }
}

fn period(section: &Section<'_>, zone: &Zone) -> Option<Period> {
    let begins = section.required("begins", cron(zone));
    let length = section.required("length", parse::duration_in(60 * SECOND..=7 * DAY));
    Some(Period { begins: begins?, length: length? })
}

fn price(value: &Value<'_>) -> Result<Price, Allowed> {
    let number = parse::float(0.0..=100.0)(value)?;
    // Within 0 to 1,000,000, so that the text of the rounded number is one of an integer.
    let rounded = format!("{:.0}", number * 10_000.0);
    rounded.parse().map(Price).map_err(|_| Allowed::new("a price a kWh, such as 0.29"))
}

/// The longest name that the kernel gives an interface.
const INTERFACE_CHARS_MAX: usize = 15;

fn interface(text: &str) -> Result<String, &'static str> {
    let fits = (1..=INTERFACE_CHARS_MAX).contains(&text.len())
        && text.chars().all(|c| c.is_ascii_graphic() && c != '/');
    if fits { Ok(text.to_owned()) } else { Err("the name of an interface, such as vmbr0") }
}

/// An address is no name, so that nobody who answers for names can point it elsewhere.
fn plug(text: &str) -> Result<String, &'static str> {
    let rule = "http:// with an IP address, such as http://192.0.2.9/relay/0?turn=on";
    let rest = text.strip_prefix("http://").ok_or(rule)?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let address = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or(v6),
        None => authority.split(':').next().unwrap_or(authority),
    };
    let plain = text.len() <= 500 && text.chars().all(|c| c.is_ascii_graphic());
    let fits = plain && address.parse::<IpAddr>().is_ok();
    if fits { Ok(text.to_owned()) } else { Err(rule) }
}

#[cfg(test)]
mod tests {
    use homelab_common::config::Document;
    use jiff::Timestamp;

    use super::*;
    use crate::site::SiteFile;

    fn read(text: &str) -> Result<Power, String> {
        let document = Document::parse("homelab.toml", text).map_err(|it| it.to_string())?;
        let power = power(&document.root(), &Zone::UTC);
        document.finish_with(|| power).map_err(|report| report.to_string())
    }

    #[test]
    fn without_a_word_everything_has_its_default() {
        assert_eq!(read(""), Ok(Power::default()));
    }

    #[test]
    fn every_value_can_be_said() {
        let power = read(
            "wake = \"packet\"\nfrom = \"cw-nas\"\ninterface = \"vmbr0\"\nsleep = \"suspend\"\n\
             idle = \"10m\"\nboot = \"2m\"\nboot-max = \"8m\"\nsignals = 5\nproof-age-max = \"7d\"\n\
             off-min = \"1h\"\ninteractive = false\njobs-min = 4\ntokens-min = 9000\n\
             wait-max = \"12h\"\nprice = 0.2931\nprice-max = 0.3\n\
             windows = [{ begins = \"0 1 * * *\", length = \"4h\" }]\n\
             tariffs = [{ begins = \"0 0 * * 6\", length = \"2d\", price = 0.18 }]\n",
        )
        .unwrap_or_else(|report| panic!("{report}"));
        let from = HostName::try_new("cw-nas").ok();
        assert_eq!(power.wake, WakeMethod::Packet { from, interface: Some("vmbr0".to_owned()) });
        assert_eq!((power.sleep, power.signals), (SleepMethod::Suspend, 5));
        assert_eq!(power.price, Some(Price(2_931)));
        assert_eq!(power.rules.price_max, Some(Price(3_000)));
        assert_eq!((power.windows.len(), power.tariffs.len()), (1, 1));
    }

    #[test]
    fn a_plug_is_asked_by_address_and_a_command_by_absolute_path() {
        let plug = read("wake = \"plug\"\nplug-url = \"http://192.0.2.9:80/cm?cmnd=Power%20On\"\n");
        assert!(matches!(plug.map(|it| it.wake), Ok(WakeMethod::Plug { .. })));
        let command = read("wake = \"command\"\ncommand = [\"/usr/bin/ipmitool\", \"power\"]\n");
        assert!(matches!(command.map(|it| it.wake), Ok(WakeMethod::Command { .. })));
    }

    #[test]
    fn all_problems_come_in_one_report() {
        let text = "[site]\nname = \"home\"\n[[host]]\nname = \"x99\"\naddress = \"192.0.2.1\"\n\
            [host.power]\nwake = \"plug\"\nplug-url = \"http://plug.example/on\"\nfrom = \"a\"\n\
            boot = \"0s\"\nprice = -1\nwindow = 3\nwindows = [{ begins = \"0 1 * * *\" }]\n";
        let report = SiteFile::parse("homelab.toml", text, Timestamp::UNIX_EPOCH)
            .expect_err("has problems")
            .to_string();
        for part in [
            "6 problems",
            "   8 | host[0].power.plug-url",
            "http:// with an IP address",
            "   9 | host[0].power.from = \"a\"",
            "only with wake = \"packet\"",
            "  10 | host[0].power.boot = \"0s\"",
            "  11 | host[0].power.price = -1",
            "did you mean `windows`?",
            "host[0].power.windows[0].length",
        ] {
            assert!(report.contains(part), "{part} is not in {report}");
        }
    }

    #[test]
    fn a_relative_program_or_none_is_refused() {
        for text in ["wake = \"command\"\n", "wake = \"command\"\ncommand = [\"wake\"]\n"] {
            assert!(read(text).is_err_and(|it| it.contains("absolute path")), "{text}");
        }
        assert!(read("wake = \"plug\"\n").is_err_and(|it| it.contains("plug-url")));
    }
}
