//! One way out: whatever is asked, whatever the rules, whatever fails, what is for the house stays.

use futures_util::future::join_all;
use homelab_domain::{
    context::{Attached, Leaves},
    site::Tier,
};
use serde_json::json;

use super::rig::{House, Rig, of_body, rule};
use crate::job::submission::Submission;

/// Failures of workers, as their jobs ask for them.
const FAILURES: [&str; 5] = ["fail:none", "fail:refuse", "fail:break", "fail:late", "fail:silent"];

fn policies() -> Vec<(&'static str, String)> {
    let all = "\"plain\", \"person\", \"listed-word\", \"host-name\", \"private-address\", \"attachment\"";
    vec![
        ("no rules", String::new()),
        ("everything may leave", rule("all", all, "allow")),
        (
            "all but secrets",
            rule("plain", "\"plain\", \"attachment\"", "allow")
                + &rule("rest", "\"secret\", \"host-name\", \"private-address\"", "pseudonymise"),
        ),
        ("everything is refused", rule("none", all, "refuse") + &rule("all", all, "allow")),
    ]
}

fn attached() -> Attached {
    Attached { citations: Vec::new(), leaves: Leaves::Never, asked: [0; 32] }
}

/// Jobs that must not leave, with every label that says so. Each has a word that nothing outside may see.
fn local_only(base: u128) -> Vec<Submission> {
    let mut all = Vec::new();
    for failure in FAILURES {
        for label in 0..7_u128 {
            let number = base + u128::try_from(all.len()).expect("few") + 1;
            let text = format!("CANARY {failure}");
            let model = ["small", "large", "far-small", "far-small", "far-small", "", "far-small"];
            let model = model[usize::try_from(label).expect("small")];
            let mut body = json!({"model": model, "messages": [{"role": "user", "content": text}]});
            let mut submission = match label {
                2 => {
                    body["metadata"] = json!({"tags": "work,local-only"});
                    of_body(number, model, &body)
                }
                _ => of_body(number, model, &body),
            };
            match label {
                // The gold model by name, asked for in a tier of the house.
                3 => submission.tier = Some(Tier::Bronze),
                // A key that may not use gold.
                4 => submission.tiers_allowed = vec![Tier::Bronze, Tier::Silver],
                // Given a document of a source that never leaves.
                6 => submission.request.attached = Some(Box::new(attached())),
                _ => {}
            }
            all.push(submission);
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_for_the_house_reaches_a_socket_outside() {
    let mut worlds = Vec::new();
    for (policy, rules) in policies() {
        for house in [House::Up, House::Asleep, House::Unreachable] {
            worlds.push((policy, rules.clone(), house));
        }
    }
    let tried = join_all(worlds.iter().map(|(policy, rules, house)| async move {
        let rig = Rig::with(rules, "100.00", *house).await;
        let mut taken = Vec::new();
        for submission in local_only(0) {
            taken.extend(rig.jobs.submit(submission).await.ok().map(|accepted| accepted.job.id()));
        }
        assert!(taken.len() >= FAILURES.len() * 3, "{policy}: some are taken");
        for id in &taken {
            // Up: until it has ended, retries included. Else until it waits for its worker.
            let waits = *house != House::Up;
            rig.until(*id, |kind| kind.is_final() || (waits && kind.is_pending())).await;
        }
        assert_eq!(rig.far.connects(), 0, "{policy}, workers {house:?}");
        // That the way out is there at all is shown by a job that may take it.
        let mut control = of_body(
            900,
            "far-small",
            &json!({"model": "far-small", "messages": [{"role": "user", "content": "hello"}]}),
        );
        control.tier = Some(Tier::Gold);
        if let Ok(accepted) = rig.jobs.submit(control).await {
            rig.ended(accepted.job.id()).await;
        }
        let seen = rig.far.requests();
        assert!(
            seen.iter().all(|(head, body)| !head.contains("CANARY") && !body.contains("CANARY"))
        );
        (*policy, rig.far.connects())
    }))
    .await;
    for (policy, connects) in tried {
        let may = ["everything may leave", "all but secrets"].contains(&policy);
        assert_eq!(connects, u32::from(may), "{policy}");
    }
}
