//! The X99 from outside: woken by a packet for work that waits, and asleep again when nothing needs it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use homelab_tests::{
    wait::{Look, wait_for},
    x99::{CARDS, Rules, X99},
};
use serde_json::Value;

/// Long enough for whatever comes within a few seconds, on a machine that is busy.
const SOON: Duration = Duration::from_secs(60);

#[test]
fn a_job_wakes_the_x99_by_a_packet_and_it_sleeps_again_when_nothing_needs_it() {
    let rules = Rules { boot_max: 120, jobs_min: 2 };
    let Some(x99) = X99::asleep(rules).expect("a host that is off") else {
        return left_out();
    };
    let jobs = two_jobs_wait_and_wake_it(&x99).expect("two jobs are worth waking it");
    each_card_works_and_nothing_puts_it_to_sleep(&x99, &jobs).expect("both run at once");
    the_killed_engine_comes_back_and_each_job_is_done_once(&x99, &jobs).expect("done once");
    a_login_keeps_it_awake(&x99).expect("nobody is cut off");
    it_sleeps_and_all_of_it_was_written_down(&x99, &jobs).expect("nothing needs it any more");
    assert_eq!(x99.take_down().expect("it is gone"), Vec::<String>::new());
}

fn two_jobs_wait_and_wake_it(x99: &X99) -> anyhow::Result<[String; 2]> {
    let first = x99.submit(&long_question("lighthouse"), 40)?;
    // The first look at the queue comes within seconds, and says how little waits.
    let explained = until_explained(x99, &first, "at the latest")?;
    ensure!(explained.contains("1 job") && explained.contains("x99 sleeps until"), "{explained}");
    let waits = x99.job(&first)?["job"].clone();
    ensure!(waits["state"] == "JOB_STATE_WAITING", "{waits}");
    ensure!(x99.page("/jobs")?.contains("lighthouse"), "the page of jobs shows what waits");
    let page = x99.page(&format!("/jobs/{first}"))?;
    ensure!(page.contains("x99 sleeps"), "its own page says why: {page}");
    ensure!(x99.packets() == 0, "one job is not worth it");

    let second = x99.submit(&long_question("harbour"), 40)?;
    x99.until("waking")?;
    until_explained(x99, &second, "x99 was woken")?;
    let power = x99.until("awake")?;
    ensure!(power["provedAt"].is_string(), "that it woke is a proof: {power}");
    ensure!(x99.packets() >= 1, "it came up by the packet alone");
    Ok([first, second])
}

fn each_card_works_and_nothing_puts_it_to_sleep(
    x99: &X99,
    jobs: &[String; 2],
) -> anyhow::Result<()> {
    let engines = x99.until_engines("each card has a job", |engines| {
        let works = |engine: &Value| engine["jobs"].as_array().is_some_and(|it| it.len() == 1);
        engines.len() == 2 && engines.iter().all(works)
    })?;
    let asked = x99.lab.labctl(&["host", "sleep", "x99"]);
    let said = asked.err().context("it was put to sleep under load")?;
    ensure!(format!("{said:#}").contains("stays awake"), "{said:#}");
    for (engine, card) in engines.iter().zip(CARDS) {
        ensure!(engine["device"] == card, "{engine}");
    }
    let mut at_work: Vec<_> = engines.iter().map(|engine| engine["jobs"][0].as_str()).collect();
    let mut given: Vec<_> = jobs.iter().map(|job| Some(job.as_str())).collect();
    at_work.sort_unstable();
    given.sort_unstable();
    ensure!(at_work == given, "{at_work:?}");
    let page = x99.page("/workers")?;
    ensure!(CARDS.iter().all(|card| page.contains(card)), "both cards are shown: {page}");
    ensure!(x99.orders() == 0, "it was told to go off while it worked");
    Ok(())
}

fn the_killed_engine_comes_back_and_each_job_is_done_once(
    x99: &X99,
    jobs: &[String; 2],
) -> anyhow::Result<()> {
    let [card, _] = CARDS;
    x99.kill_engine_on(card)?;
    let mut attempts = 0;
    for id in jobs {
        let shown = x99.until_job(id, "succeeded")?;
        let job = &shown["job"];
        let events = shown["events"].as_array().into_iter().flatten();
        let done = events.filter(|event| event["state"] == "JOB_STATE_SUCCEEDED").count();
        ensure!(done == 1 && job["worker"] == "x99", "{shown}");
        attempts += job["attempts"].as_u64().unwrap_or_default();
        let used = job["usage"]["energyJoules"].as_f64().unwrap_or_default();
        ensure!(used > 0.0, "its card has a meter: {job}");
        let told = x99.lab.labctl(&["job", "show", id])?;
        ensure!(told.contains(" J\n"), "{told}");
        let page = x99.page(&format!("/jobs/{id}"))?;
        ensure!(page.contains(" J<") || page.contains(" J\n"), "its page says so too: {page}");
    }
    ensure!(attempts == 3, "one was broken off and tried again: {attempts}");
    x99.until_engines("the killed engine answers again", |engines| {
        let up = |engine: &Value| engine["state"] == "ENGINE_STATE_READY";
        let again = engines.iter().any(|it| it["device"] == card && it["starts"] == 2);
        again && engines.iter().all(up)
    })?;
    Ok(())
}

fn a_login_keeps_it_awake(x99: &X99) -> anyhow::Result<()> {
    x99.log_in(true)?;
    let who = "ben is logged in (tty1)";
    wait_for("who kept it awake", SOON, || {
        let report = x99.lab.labctl(&["power", "report"])?;
        Ok(if report.contains(who) { Look::Ready(()) } else { Look::NotYet(report) })
    })?;
    let power = x99.lab.labctl(&["power", "list", "-o", "wide"])?;
    ensure!(power.contains(who), "{power}");
    let asked = x99.lab.labctl(&["host", "sleep", "x99"]);
    let said = asked.err().context("it was put to sleep under a login")?;
    ensure!(format!("{said:#}").contains(who), "{said:#}");
    ensure!(x99.orders() == 0, "it was told to go off while somebody was logged in");
    x99.log_in(false)
}

fn it_sleeps_and_all_of_it_was_written_down(x99: &X99, jobs: &[String; 2]) -> anyhow::Result<()> {
    x99.until("asleep")?;
    ensure!(x99.orders() == 1, "by one order of its own agent: {}", x99.orders());
    let [boot] = x99.boots()?.try_into().ok().context("one boot")?;
    ensure!(boot["failure"].is_null(), "{boot}");
    let phases = boot["phases"].as_array().map_or(0, Vec::len);
    ensure!(phases >= 3, "{boot}");
    let report = x99.lab.labctl_json(&["power", "report"])?;
    let days = report["energy"].as_array().into_iter().flatten();
    let used: f64 = days.filter_map(|day| day["energyJoules"].as_f64()).sum();
    ensure!(used > 0.0, "it used something: {report}");
    let audit = x99.lab.labctl_json(&["audit", "list"])?.to_string();
    let at = |action: &str| audit.find(&format!("\"{action}\"")).context(action.to_owned());
    // The newest comes first.
    let story = [at("power.sleep")?, at("power.awake")?, at("power.wake")?];
    ensure!(story.is_sorted(), "{audit}");
    x99.lab.labctl(&["audit", "verify"])?;
    let page = x99.page(&format!("/jobs/{}", jobs[0]))?;
    ensure!(page.contains("lighthouse"), "{page}");
    Ok(())
}

#[test]
fn an_x99_that_does_not_hear_or_dies_on_the_way_is_given_up_and_its_job_waits() {
    let rules = Rules { boot_max: 16, jobs_min: 1 };
    let Some(x99) = X99::asleep(rules).expect("a host that is off") else {
        return left_out();
    };
    x99.set("OFF").expect("a fault");
    let job = x99.submit("Say hello.", 8).expect("a job");
    x99.until("waking").expect("it is woken for the job");
    let boot = x99.until_failed("DID_NOT_WAKE").expect("it is given up");
    assert_eq!((&boot["signals"], x99.packets()), (&Value::from(3), 3), "{boot}");
    until_explained(&x99, &job, "x99 did not come up").expect("the job says so");

    x99.clear("OFF").expect("it hears again");
    x99.set("DIES").expect("a fault");
    let asked = x99.lab.labctl(&["host", "wake", "x99"]);
    let boot = x99.until_failed("DIED_BOOTING").expect("it is given up");
    assert!(boot["phases"].to_string().contains("AGENT_ANSWERS"), "{boot} {asked:?}");
    let waits = x99.job(&job).expect("it is there")["job"].clone();
    assert_eq!(waits["state"], "JOB_STATE_WAITING", "{waits}");
    assert_eq!(waits["attempts"].as_u64().unwrap_or_default(), 0, "{waits}");
    let audit = x99.lab.labctl(&["audit", "list", "-o", "json"]).expect("the audit log");
    assert!(audit.matches("\"power.wake_failed\"").count() >= 2, "{audit}");
    assert_eq!(x99.take_down().expect("it is gone"), Vec::<String>::new());
}

#[test]
fn an_x99_that_wakes_late_is_waited_for_and_never_sleeps_under_load() {
    let rules = Rules { boot_max: 120, jobs_min: 1 };
    let Some(x99) = X99::asleep(rules).expect("a host that is off") else {
        return left_out();
    };
    x99.set("LATE").expect("a fault");
    let began = Instant::now();
    let jobs = ["dogs", "cats", "owls", "bees"].map(|animals| {
        x99.submit(&format!("Tell a very long story of {animals}."), 100).expect("a job")
    });
    until_explained(&x99, &jobs[0], "it takes longer than any boot before")
        .expect("nothing is promised any more");
    x99.until("awake").expect("it is waited for");
    assert!(began.elapsed() > Duration::from_secs(8), "that was not late");
    // However long it works, and that is longer than it may be idle.
    let mut asked = 0;
    wait_for("all jobs have ended", 3 * SOON, || {
        let state = |id: &String| Ok(x99.job(id)?["job"]["state"].to_string());
        let states = jobs.iter().map(state).collect::<anyhow::Result<Vec<_>>>()?;
        if states.iter().all(|state| state.contains("SUCCEEDED")) {
            return Ok(Look::Ready(()));
        }
        asked += u32::from(x99.lab.labctl(&["host", "sleep", "x99"]).is_err());
        Ok(Look::NotYet(states.join(", ")))
    })
    .expect("none is cut off");
    assert!(asked > 0, "nobody asked it to sleep under load");
    x99.until("asleep").expect("it sleeps when all is done");
    assert_eq!(x99.orders(), 1, "it was told to sleep under load");
    assert_eq!(x99.take_down().expect("it is gone"), Vec::<String>::new());
}

/// So long that an engine reads it for seconds before it answers: a job of which nothing was shown
/// yet is tried again when its engine dies.
fn long_question(of: &str) -> String {
    let words = "tide gull ferry lamp rope storm pier anchor ".repeat(200);
    format!("Tell a story of a {of} with all of these words: {words}")
}

/// Waits until `labctl job explain` says it.
fn until_explained(x99: &X99, job: &str, words: &str) -> anyhow::Result<String> {
    wait_for(words, SOON, || {
        let explained = x99.lab.labctl(&["job", "explain", job])?;
        let said = explained.contains(words);
        Ok(if said { Look::Ready(explained) } else { Look::NotYet(explained) })
    })
}

/// Says it where whoever runs the tests sees it.
#[expect(clippy::print_stderr, reason = "whoever runs the tests must know what they left out")]
fn left_out() {
    eprintln!("left out: the simulated X99 (needs root and network namespaces)");
}
