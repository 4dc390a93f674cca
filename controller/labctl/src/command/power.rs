//! `labctl power …`, and the verbs of `labctl host` that are about power.

use std::time::Duration;

use homelab_common::exit::Exit;
use homelab_proto::controller::v1::{
    GetPowerReportRequest, GetPowerReportResponse, HoldPowerRequest, HoldPowerResponse, HostBoot,
    HostPower, ListPowerRequest, ListPowerResponse, PowerState, SleepHostRequest,
    SleepHostResponse, WakeHostRequest, WakeHostResponse,
};
use jiff::Timestamp;

use crate::{
    args::{HeldWord, HoldArgs, Output, PowerCommand, ReportArgs, SleepArgs},
    call,
    failure::Failure,
    lab::Lab,
    output::{self, Rows, distance, span, word},
};

/// Runs one verb on power.
///
/// # Errors
/// As the call behind it.
pub async fn run(lab: &Lab, command: PowerCommand) -> Result<Exit, Failure> {
    match command {
        PowerCommand::List => list(lab).await,
        PowerCommand::Report(args) => report(lab, args).await,
    }
}

async fn list(lab: &Lab) -> Result<Exit, Failure> {
    let answer: ListPowerResponse =
        lab.call("list the power of hosts", call::LIST_POWER, ListPowerRequest {}).await?;
    let wide = lab.global.output == Output::Wide;
    lab.print(call::LIST_POWER, &answer, || rows(lab.now(), &answer.hosts, wide))?;
    Ok(Exit::Ok)
}

/// Wakes a host and follows it until it is up.
///
/// # Errors
/// It is not woken, or the call behind it fails.
pub async fn wake(lab: &Lab, host: String) -> Result<Exit, Failure> {
    let action = format!("wake {host}");
    if lab.global.dry_run {
        let power = find(lab, &action, &host).await?;
        return shown(lab, call::LIST_POWER, power);
    }
    let request = WakeHostRequest { host };
    let mut stream = lab.stream::<_, WakeHostResponse>(&action, call::WAKE_HOST, request).await?;
    let mut last = None;
    loop {
        let message = stream.message().await;
        let answer = message.map_err(|status| Failure::from_status(&action, &status, true))?;
        let Some(answer) = answer else { break };
        let rest = answer.power.as_ref().and_then(|power| power.awake_in);
        let rest =
            rest.map(|rest| format!("; about {} more", span(Some(rest)))).unwrap_or_default();
        output::say(&format!("  {}{rest}", answer.message));
        last = Some(answer);
    }
    match last {
        Some(answer) => {
            let power = answer.power.clone();
            lab.print(call::WAKE_HOST, &answer, || rows(lab.now(), power.as_slice(), false))?;
            Ok(Exit::Ok)
        }
        None => Err(Failure::new(Exit::Unknown, format!("{action}: the answer broke off"))
            .next("labctl power list")),
    }
}

/// Puts a host to sleep.
///
/// # Errors
/// Something speaks against it, or the call behind it fails.
pub async fn sleep(lab: &Lab, args: SleepArgs) -> Result<Exit, Failure> {
    let action = format!("put {} to sleep", args.name);
    let request = SleepHostRequest {
        validate_only: lab.global.dry_run,
        host: args.name,
        accept_unproved: args.unproved,
    };
    let answer: SleepHostResponse = lab.call(&action, call::SLEEP_HOST, request).await?;
    lab.print(call::SLEEP_HOST, &answer, || rows(lab.now(), answer.power.as_slice(), true))?;
    Ok(Exit::Ok)
}

/// Holds a host awake or asleep.
///
/// # Errors
/// As the call behind it.
pub async fn hold(lab: &Lab, args: HoldArgs) -> Result<Exit, Failure> {
    let (state, held) = match args.state {
        HeldWord::Awake => (PowerState::Awake, "awake"),
        HeldWord::Asleep => (PowerState::Asleep, "asleep"),
    };
    let action = format!("hold {} {held}", args.name);
    let until = moment(lab.now(), args.lasting);
    set_hold(lab, &action, HoldPowerRequest { host: args.name, state: state.into(), until }).await
}

/// Lets a host go that is held.
///
/// # Errors
/// As the call behind it.
pub async fn release(lab: &Lab, host: String) -> Result<Exit, Failure> {
    let action = format!("release {host}");
    set_hold(lab, &action, HoldPowerRequest { host, ..HoldPowerRequest::default() }).await
}

async fn set_hold(lab: &Lab, action: &str, request: HoldPowerRequest) -> Result<Exit, Failure> {
    if lab.global.dry_run {
        let power = find(lab, action, &request.host).await?;
        return shown(lab, call::LIST_POWER, power);
    }
    let answer: HoldPowerResponse = lab.call(action, call::HOLD_POWER, request).await?;
    lab.print(call::HOLD_POWER, &answer, || rows(lab.now(), answer.power.as_slice(), false))?;
    Ok(Exit::Ok)
}

/// How a host stands, for verbs that change nothing this time.
async fn find(lab: &Lab, action: &str, host: &str) -> Result<HostPower, Failure> {
    let answer: ListPowerResponse = lab.call(action, call::LIST_POWER, ListPowerRequest {}).await?;
    let found = answer.hosts.into_iter().find(|power| power.host == host);
    found.ok_or_else(|| {
        let what = format!("{action}: `{host}` is no host that is off until needed");
        Failure::new(Exit::Failed, what).next("labctl power list")
    })
}

fn shown(lab: &Lab, path: &str, power: HostPower) -> Result<Exit, Failure> {
    let answer = ListPowerResponse { hosts: vec![power] };
    lab.print(path, &answer, || rows(lab.now(), &answer.hosts, true))?;
    Ok(Exit::Ok)
}

async fn report(lab: &Lab, args: ReportArgs) -> Result<Exit, Failure> {
    let request = GetPowerReportRequest { days: args.days };
    let answer: GetPowerReportResponse =
        lab.call("report on power", call::GET_POWER_REPORT, request).await?;
    let text = || {
        format!("Kept awake by\n{}\nUsed\n{}\nBoots\n{}", kept(&answer), used(&answer), {
            boots(lab.now(), &answer.boots)
        })
    };
    lab.tell(call::GET_POWER_REPORT, &answer, || keepers(&answer), text)?;
    Ok(Exit::Ok)
}

fn rows(now: Timestamp, hosts: &[HostPower], wide: bool) -> Rows {
    let mut head = vec!["host", "state", "since", "wakes in", "held", "why"];
    if wide {
        head.extend(["proved", "watts", "against sleeping"]);
    }
    let mut rows = Rows::new(
        &head,
        "No host is off until needed. One is, with expected-power = \"on-demand\" in the site file.",
    );
    for power in hosts {
        let mut cells = vec![
            power.host.clone(),
            word(power.state().as_str_name(), "POWER_STATE"),
            distance(now, power.since),
            wakes_in(power),
            held(now, power),
            power.reasons.first().cloned().unwrap_or_default(),
        ];
        if wide {
            cells.push(distance(now, power.proved_at));
            cells.push(power.power_watts.map_or_else(|| "-".to_owned(), |it| format!("{it:.0}")));
            let vetoes = power.vetoes.iter().map(|veto| veto.message.as_str());
            cells.push(vetoes.collect::<Vec<_>>().join("; "));
        }
        rows.push(&power.host, cells);
    }
    rows
}

/// How long it still takes while it wakes, and would take while it sleeps.
fn wakes_in(power: &HostPower) -> String {
    match power.state() {
        PowerState::Waking => span(power.awake_in),
        PowerState::Asleep => span(power.expected_wake),
        _ => "-".to_owned(),
    }
}

fn held(now: Timestamp, power: &HostPower) -> String {
    match power.held_until {
        None => "-".to_owned(),
        Some(until) => {
            let state = word(power.held_as().as_str_name(), "POWER_STATE");
            format!("{state}, ends {}", distance(now, Some(until)))
        }
    }
}

fn keepers(answer: &GetPowerReportResponse) -> Rows {
    let mut rows = Rows::new(&["day", "host", "lasted", "why"], "  Nothing was awake.");
    for kept in &answer.kept_awake {
        let why = kept.reason.as_ref().map(|reason| reason.message.clone()).unwrap_or_default();
        rows.push(&kept.host, [kept.day.clone(), kept.host.clone(), span(kept.lasted), why]);
    }
    rows
}

fn kept(answer: &GetPowerReportResponse) -> String {
    output::indented(&keepers(answer).text(), 2)
}

fn used(answer: &GetPowerReportResponse) -> String {
    let mut rows =
        Rows::new(&["day", "host", "for", "jobs", "kWh", "cost"], "  Nothing was measured.");
    for day in &answer.energy {
        let (purpose, jobs) = match day.tier.as_str() {
            "" => ("nobody".to_owned(), "-".to_owned()),
            tier => (tier.to_owned(), day.jobs.to_string()),
        };
        let cost = day.cost.map_or_else(|| "-".to_owned(), |cost| format!("{cost:.2}"));
        let energy = format!("{:.3}", day.energy_joules / 3_600_000.0);
        rows.push(&day.host, [day.day.clone(), day.host.clone(), purpose, jobs, energy, cost]);
    }
    output::indented(&rows.text(), 2)
}

fn boots(now: Timestamp, boots: &[HostBoot]) -> String {
    let mut rows =
        Rows::new(&["host", "woken", "by", "took", "why", "result"], "  Nothing was woken.");
    for boot in boots {
        let why = boot.because.as_ref().map(|why| why.message.clone()).unwrap_or_default();
        let result = match (&boot.failure, boot.ended_at) {
            (Some(failure), _) => failure.message.clone(),
            (None, Some(_)) => "up".to_owned(),
            (None, None) => "on its way".to_owned(),
        };
        let took = boot.phases.iter().rfind(|phase| phase.phase() <= UP).and_then(|it| it.after);
        let woken = distance(now, boot.started_at);
        rows.push(&boot.host, [boot.host.clone(), woken, boot.by.clone(), span(took), why, result]);
    }
    output::indented(&rows.text(), 2)
}

/// The phase at which a host is up; loading a model comes after.
const UP: homelab_proto::controller::v1::BootPhase =
    homelab_proto::controller::v1::BootPhase::WorkerAnswers;

fn moment(now: Timestamp, lasting: Duration) -> Option<prost_types::Timestamp> {
    let until = now.checked_add(lasting).ok()?;
    Some(prost_types::Timestamp { seconds: until.as_second(), nanos: until.subsec_nanosecond() })
}

#[cfg(test)]
mod tests {
    use homelab_proto::controller::v1::{
        BootPhase, EnergyDay, KeptAwake, PassedPhase, PowerReason,
    };

    use super::*;

    fn after(seconds: i64) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds, nanos: 0 })
    }

    fn reason(message: &str) -> Option<PowerReason> {
        Some(PowerReason { reason: "JOBS_RUNNING".to_owned(), message: message.to_owned() })
    }

    #[test]
    fn a_host_shows_what_keeps_it_so_and_how_long_it_takes() {
        let mut asleep = HostPower {
            host: "x99".to_owned(),
            reasons: vec!["nothing waits for x99".to_owned()],
            expected_wake: after(95),
            ..HostPower::default()
        };
        asleep.set_state(PowerState::Asleep);
        let text = rows(Timestamp::UNIX_EPOCH, std::slice::from_ref(&asleep), false).text();
        for part in ["x99", "asleep", "nothing waits for x99"] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        asleep.set_state(PowerState::Awake);
        asleep.vetoes =
            vec![PowerReason { message: "1 job runs on x99".to_owned(), ..Default::default() }];
        let text = rows(Timestamp::UNIX_EPOCH, &[asleep], true).text();
        assert!(text.contains("1 job runs on x99"), "{text}");
    }

    #[test]
    fn without_such_a_host_it_says_how_to_have_one() {
        assert!(rows(Timestamp::UNIX_EPOCH, &[], false).text().contains("on-demand"));
    }

    #[test]
    fn a_report_says_who_kept_it_awake_what_that_cost_and_how_it_woke() {
        let answer = GetPowerReportResponse {
            kept_awake: vec![KeptAwake {
                host: "x99".to_owned(),
                day: "2026-11-23".to_owned(),
                reason: reason("root is logged in"),
                lasted: after(3_600),
            }],
            energy: vec![EnergyDay {
                host: "x99".to_owned(),
                day: "2026-11-23".to_owned(),
                tier: "silver".to_owned(),
                jobs: 3,
                energy_joules: 1_800_000.0,
                cost: Some(0.155),
            }],
            boots: vec![HostBoot {
                host: "x99".to_owned(),
                because: reason("somebody waits"),
                by: "plan".to_owned(),
                phases: vec![
                    PassedPhase { phase: BootPhase::WorkerAnswers.into(), after: after(112) },
                    PassedPhase { phase: BootPhase::ModelLoaded.into(), after: after(400) },
                ],
                ended_at: Some(prost_types::Timestamp::default()),
                ..HostBoot::default()
            }],
        };
        assert!(kept(&answer).contains("root is logged in"), "{}", kept(&answer));
        let used = used(&answer);
        assert!(used.contains("0.500") && used.contains("silver"), "{used}");
        let boots = boots(Timestamp::UNIX_EPOCH, &answer.boots);
        assert!(boots.contains("somebody waits") && boots.contains("up"), "{boots}");
    }
}
