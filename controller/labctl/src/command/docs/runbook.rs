//! The runbook of a cold start.

use homelab_proto::controller::v1::{ColdStartStep, GetStrategyResponse};

use super::strategy::{fenced, secrets};
use crate::output::{date, span};

/// The whole document.
pub(super) fn document(facts: &GetStrategyResponse) -> String {
    let start = facts.cold_start.clone().unwrap_or_default();
    let mut text = format!(
        "# 71 Cold start\n\nEverything in {} is off, or gone, and you have the recovery kit in hand. The steps \
         are in order; those of one stage do not need each other. Nothing here needs the controller before its \
         own step.\n\nAs of {} ({}).\n",
        facts.site,
        date(facts.generated_at, &facts.time_zone),
        facts.time_zone
    );
    if !start.loops.is_empty() {
        text.push_str("\n## This cannot come back\n\nEach of these needs itself. Keep one of its secrets in the kit.\n\n");
        text.extend(start.loops.iter().map(|found| format!("- {found}\n")));
    }
    text.push_str(&total(&start.steps));
    let mut stage = 0;
    for step in &start.steps {
        if step.stage != stage {
            stage = step.stage;
            text.push_str(&format!("\n## Stage {stage}\n"));
        }
        text.push_str(&one(step));
    }
    text.push_str("\n## Secrets\n\n");
    text.push_str(&secrets(&facts.secrets));
    text
}

fn total(steps: &[ColdStartStep]) -> String {
    let measured: i64 =
        steps.iter().filter_map(|step| step.measured.as_ref()).map(|span| span.seconds).sum();
    let count = steps.iter().filter(|step| step.measured.is_some()).count();
    let sum = Some(prost_types::Duration { seconds: measured, nanos: 0 });
    format!(
        "\n{} steps, of which {count} were ever measured: together {}.\n",
        steps.len(),
        if count == 0 { "nobody knows how long".to_owned() } else { span(sum) }
    )
}

fn one(step: &ColdStartStep) -> String {
    let mut text = format!("\n{}. [ ] **{}** (`{}`)\n", step.number, step.title, step.subject);
    if !step.needs.is_empty() {
        let needs: Vec<_> = step.needs.iter().map(|need| format!("`{need}`")).collect();
        text.push_str(&format!("\n   After {}.\n", needs.join(", ")));
    }
    if !step.commands.is_empty() {
        text.push('\n');
        text.extend(fenced(&step.commands).lines().map(|line| format!("   {line}\n")));
    }
    text
}

#[cfg(test)]
mod tests {
    use homelab_proto::controller::v1::ColdStart;

    use super::*;

    #[test]
    fn steps_stand_in_order_with_what_they_need_and_what_to_type() {
        let step =
            |number, stage, subject: &str, needs: &[&str], seconds: Option<i64>| ColdStartStep {
                number,
                stage,
                subject: subject.to_owned(),
                title: format!("bring {subject} back"),
                needs: needs.iter().map(|need| (*need).to_owned()).collect(),
                commands: vec![format!("true {subject}")],
                measured: seconds.map(|seconds| prost_types::Duration { seconds, nanos: 0 }),
            };
        let facts = GetStrategyResponse {
            site: "home".to_owned(),
            time_zone: "UTC".to_owned(),
            cold_start: Some(ColdStart {
                steps: vec![
                    step(1, 1, "host/db", &[], None),
                    step(2, 2, "backup/wiki", &["host/db"], Some(300)),
                ],
                loops: vec!["secret/vault needs service/vault".to_owned()],
            }),
            ..GetStrategyResponse::default()
        };
        let text = document(&facts);
        for part in [
            "## This cannot come back",
            "- secret/vault needs service/vault\n",
            "2 steps, of which 1 were ever measured: together 5 min.",
            "## Stage 2\n\n2. [ ] **bring backup/wiki back** (`backup/wiki`)\n\n   After `host/db`.\n\n   ```sh\n   true backup/wiki\n   ```\n",
        ] {
            assert!(text.contains(part), "{part}\n---\n{text}");
        }
    }
}
