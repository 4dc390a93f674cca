//! Boots and what they teach; energy.

use super::*;
use crate::{
    ids::JobId,
    power::{
        boot::{Boot, BootCurve, BootEnd, BootPhase, BootStep, Eta, judge},
        energy::{Reading, Used, cost, split},
    },
    reason::{Because, Reason},
    site::Price,
};

fn boot() -> Boot {
    let because = Because::new(Reason::INTERACTIVE_WAITS, "somebody waits");
    Boot::begin(X99.clone(), noon(), because, "plan")
}

/// A boot that came up, with the seconds at which network, agent and worker answered.
fn came_up(network: u32, agent: u32, worker: u32) -> Boot {
    let mut boot = boot();
    for (phase, secs) in [
        (BootPhase::NetworkAnswers, network),
        (BootPhase::AgentAnswers, agent),
        (BootPhase::WorkerAnswers, worker),
    ] {
        boot.reach(phase, secs_later(secs));
    }
    boot.end = Some(BootEnd { at: secs_later(worker), failure: None });
    boot
}

fn secs_later(secs: u32) -> Timestamp {
    later(Duration::from_secs(secs.into()))
}

fn learnt() -> BootCurve {
    let boots: Vec<_> = (0..10).map(|i| came_up(40 + i, 68 + 2 * i, 100 + 4 * i)).collect();
    BootCurve::learn(&boots)
}

#[test]
fn phases_are_only_ever_passed_and_those_between_are_passed_with_them() {
    let mut boot = boot();
    assert_eq!(boot.phase(), BootPhase::Signalled);
    assert!(boot.reach(BootPhase::AgentAnswers, secs_later(70)));
    assert!(!boot.reach(BootPhase::NetworkAnswers, secs_later(80)));
    let seventy = Some(Duration::from_secs(70));
    assert_eq!(boot.reached(BootPhase::NetworkAnswers), seventy);
    assert_eq!(boot.reached(BootPhase::AgentAnswers), seventy);
    assert_eq!(boot.phase(), BootPhase::AgentAnswers);
}

#[test]
fn the_curve_knows_how_long_each_phase_takes() {
    let curve = learnt();
    assert_eq!(curve.learnt_from(), 10);
    let secs = |phase, percent| curve.percentile(phase, percent).map(|it| it.as_secs());
    assert_eq!(secs(BootPhase::NetworkAnswers, 50), Some(44));
    assert_eq!(secs(BootPhase::WorkerAnswers, 50), Some(116));
    assert_eq!(secs(BootPhase::WorkerAnswers, 90), Some(132));
    assert_eq!(secs(BootPhase::ModelLoaded, 50), None);
    assert_eq!(curve.whole(&Power::default()), Duration::from_secs(132));
}

#[test]
fn boots_that_failed_or_still_run_teach_nothing() {
    let mut failed = came_up(40, 70, 100);
    let why = Because::new(Reason::DIED_BOOTING, "it died");
    failed.end = Some(BootEnd { at: noon(), failure: Some(why) });
    let curve = BootCurve::learn(&[failed, boot()]);
    assert_eq!(curve.learnt_from(), 0);
    assert_eq!(curve.whole(&Power::default()), 3 * MINUTE);
}

#[test]
fn the_rest_of_a_boot_is_told_from_the_phase_that_it_has_reached() {
    let (curve, power) = (learnt(), Power::default());
    let secs = Duration::from_secs;
    let eta = |phase, reached, elapsed| curve.eta(phase, secs(reached), secs(elapsed), &power);
    let at_once = eta(BootPhase::Signalled, 0, 0);
    assert_eq!(at_once, Some(Eta { likely: secs(116), at_most: secs(132) }));
    // After its agent a boot takes 32 to 50 seconds more, whatever it took before.
    let agent = eta(BootPhase::AgentAnswers, 200, 200);
    assert_eq!(agent, Some(Eta { likely: secs(40), at_most: secs(48) }));
    assert_eq!(eta(BootPhase::AgentAnswers, 200, 251), None);
}

#[test]
fn nothing_is_promised_once_a_boot_takes_longer_than_any_before() {
    let (curve, power) = (learnt(), Power::default());
    let step = judge(&boot_at(BootPhase::AgentAnswers, 80), &curve, &power, secs_later(400));
    let BootStep::Wait { eta: None, late: Some(late) } = step else { panic!("{step:?}") };
    assert_eq!(late.reason, Reason::WAKE_LATE);
    assert!(late.message.contains("6 min 40 s so far"), "{}", late.message);
}

#[test]
fn without_boots_to_learn_from_the_site_file_is_believed() {
    let (curve, power) = (BootCurve::default(), Power::default());
    let step = judge(&boot_at(BootPhase::AgentAnswers, 60), &curve, &power, secs_later(60));
    let rest = 2 * MINUTE;
    assert_eq!(step, BootStep::Wait { eta: Some(Eta { likely: rest, at_most: rest }), late: None });
}

fn boot_at(phase: BootPhase, secs: u32) -> Boot {
    let mut boot = boot();
    boot.reach(phase, secs_later(secs));
    boot
}

#[test]
fn the_signal_is_sent_again_while_nothing_answers_and_not_for_ever() {
    let (curve, power) = (BootCurve::default(), Power::default());
    let mut boot = boot();
    let step = |boot: &Boot, secs| judge(boot, &curve, &power, secs_later(secs));
    assert!(matches!(step(&boot, 59), BootStep::Wait { .. }));
    let BootStep::SignalAgain { because } = step(&boot, 60) else { panic!("a minute of silence") };
    assert!(because.message.ends_with("this is signal 2 of 3"), "{}", because.message);
    (boot.signals, boot.signalled_at) = (3, secs_later(120));
    assert!(matches!(step(&boot, 600), BootStep::Wait { .. }));
    // Once its network answers, it is on its way.
    let on_its_way = boot_at(BootPhase::NetworkAnswers, 30);
    assert!(matches!(step(&on_its_way, 200), BootStep::Wait { .. }));
}

#[test]
fn a_boot_that_takes_too_long_is_given_up_and_says_where_it_stopped() {
    let (curve, power) = (BootCurve::default(), Power::default());
    for (phase, reason, word) in [
        (BootPhase::Signalled, Reason::DID_NOT_WAKE, "wake-on-LAN"),
        (BootPhase::NetworkAnswers, Reason::DIED_BOOTING, "console"),
        (BootPhase::AgentAnswers, Reason::DIED_BOOTING, "homelab-gpu-worker"),
    ] {
        let step = judge(&boot_at(phase, 5), &curve, &power, later(15 * MINUTE));
        let BootStep::GiveUp { because } = step else { panic!("{step:?}") };
        assert_eq!(because.reason, reason);
        assert!(because.message.contains(word), "{}", because.message);
    }
}

#[test]
fn energy_is_split_among_those_who_ran_and_adds_up() {
    let jobs: Vec<JobId> = (1..=3_u128).map(|id| JobId::from(uuid::Uuid::from_u128(id))).collect();
    let before = Reading { at: noon(), watts: 180.0 };
    let now = Reading { at: secs_later(10), watts: 220.0 };
    let used = split(Some(before), now, &jobs);
    assert_eq!(used.millijoules(), 2_000_000);
    assert_eq!(used.jobs[1].1, 666_666);
    assert_eq!(used.idle_millijoules, 0);
    let idle = split(Some(before), now, &[]);
    assert_eq!(idle, Used { jobs: vec![], idle_millijoules: 2_000_000 });
    // 1 kWh at 0.29.
    assert_eq!(cost(3_600_000_000, Price(2_900)), 2_900);
}

#[test]
fn nothing_is_known_of_what_was_used_while_nobody_looked() {
    let before = Reading { at: noon(), watts: 200.0 };
    let at = |secs, watts| split(Some(before), Reading { at: secs_later(secs), watts }, &[]);
    assert_eq!(at(61, 200.0), Used::default());
    assert_eq!(at(10, f64::NAN), Used::default());
    assert_eq!(at(0, 200.0), Used::default());
    assert_eq!(split(None, before, &[]), Used::default());
}
