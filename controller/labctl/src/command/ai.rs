//! `labctl ai …`: what leaves the house for models outside, and what is left of the budgets.

pub(crate) mod context;

use homelab_common::exit::Exit;
use homelab_proto::controller::v1::{
    BudgetStanding, CheckTextRequest, CheckTextResponse, GetBudgetsRequest, GetBudgetsResponse,
    GoldAction, GoldCall,
};
use jiff::Timestamp;

use crate::{
    args::{AiCommand, CheckArgs},
    call,
    failure::Failure,
    lab::Lab,
    output::{self, Rows, distance, word},
};

/// Runs one verb on models outside.
///
/// # Errors
/// As the call behind it.
pub async fn run(lab: &Lab, command: AiCommand) -> Result<Exit, Failure> {
    match command {
        AiCommand::Plan => super::job::plan(lab).await,
        AiCommand::Budget(args) => budget(lab, args.calls.into()).await,
        AiCommand::Check(args) => check(lab, args).await,
        AiCommand::Context(command) => context::run(lab, command).await,
    }
}

async fn budget(lab: &Lab, calls_max: u32) -> Result<Exit, Failure> {
    let request = GetBudgetsRequest { calls_max };
    let answer: GetBudgetsResponse =
        lab.call("read the budgets", call::GET_BUDGETS, request).await?;
    lab.print(call::GET_BUDGETS, &answer, || standings(lab.now(), &answer))?;
    if calls_max > 0 && !lab.for_programs() {
        output::write(&format!("\n{}", calls(lab.now(), &answer.calls, &answer.currency).text()))?;
    }
    Ok(Exit::Ok)
}

async fn check(lab: &Lab, args: CheckArgs) -> Result<Exit, Failure> {
    let request =
        CheckTextRequest { text: super::job::from_stdin()?, asker: args.key, tags: args.tags };
    let answer: CheckTextResponse = lab.call("check the text", call::CHECK_TEXT, request).await?;
    if lab.for_programs() {
        lab.print(call::CHECK_TEXT, &answer, || rulings(&answer))?;
    } else {
        output::write(&verdict(&answer))?;
    }
    Ok(if answer.action() == GoldAction::Refuse { Exit::Denied } else { Exit::Ok })
}

fn standings(now: Timestamp, answer: &GetBudgetsResponse) -> Rows {
    let head = ["budget", "each", "limit", "spent", "left", "renews"];
    let mut rows = Rows::new(&head, "No budget: the site file lets nothing leave the house.");
    for standing in &answer.budgets {
        let BudgetStanding { budget, period, limit_micros, spent_micros, left_micros, .. } =
            standing;
        rows.push(
            budget,
            [
                budget.clone(),
                period.clone(),
                money(*limit_micros, &answer.currency),
                money(*spent_micros, &answer.currency),
                money(*left_micros, &answer.currency),
                distance(now, standing.renews_at),
            ],
        );
    }
    rows
}

fn calls(now: Timestamp, calls: &[GoldCall], currency: &str) -> Rows {
    let head = ["when", "who", "provider", "model", "bytes", "found", "rules", "cost", "job"];
    let mut rows = Rows::new(&head, "Nothing has left the house.");
    for call in calls {
        let cost = match call.cost_micros {
            Some(cost) => format!("{} ({})", money(cost, currency), call.outcome),
            None => format!("at most {}", money(call.reserved_micros, currency)),
        };
        rows.push(
            &call.job_id,
            [
                distance(now, call.at),
                call.asker.clone(),
                call.provider.clone(),
                call.model.clone(),
                call.bytes.to_string(),
                call.classes.clone(),
                call.rules.clone(),
                cost,
                call.job_id.clone(),
            ],
        );
    }
    rows
}

fn rulings(answer: &CheckTextResponse) -> Rows {
    let head = ["class", "count", "outcome", "rule"];
    let mut rows = Rows::new(&head, "Nothing was decided.");
    for ruling in &answer.rulings {
        let rule = if ruling.rule.is_empty() { "-" } else { &ruling.rule };
        let count = if ruling.count == 0 { "-".to_owned() } else { ruling.count.to_string() };
        let cells = [ruling.class.clone(), count, action(ruling.action()), rule.to_owned()];
        rows.push(&ruling.class, cells);
    }
    rows
}

fn verdict(answer: &CheckTextResponse) -> String {
    let outcome = match answer.action() {
        GoldAction::Allow => "It would leave as it is",
        GoldAction::Pseudonymise => "It would leave with pseudonyms",
        GoldAction::Refuse | GoldAction::Unspecified => "It would stay in the house",
    };
    let mut text = format!("{outcome}, asked by {}.\n\n{}", answer.asker, rulings(answer).text());
    if !answer.findings.is_empty() {
        text.push_str("\nFound:\n");
    }
    for finding in &answer.findings {
        let classes = finding.classes.join(" and ");
        text.push_str(&format!(
            "  line {} character {}: {classes}\n",
            finding.line, finding.column
        ));
    }
    text
}

fn action(action: GoldAction) -> String {
    word(action.as_str_name(), "GOLD_ACTION")
}

/// Millionths as an amount, with two digits after the point at least.
fn money(micros: u64, currency: &str) -> String {
    let (whole, part) = (micros / 1_000_000, format!("{:06}", micros % 1_000_000));
    let kept = part.trim_end_matches('0').len().max(2);
    format!("{whole}.{} {currency}", part.get(..kept).unwrap_or(&part))
}

#[cfg(test)]
mod tests {
    use homelab_proto::controller::v1::{GoldFinding, GoldRuling};

    use super::*;

    #[test]
    fn an_amount_shows_what_matters_of_it() {
        assert_eq!(money(1_500_000, "EUR"), "1.50 EUR");
        assert_eq!(money(230, "USD"), "0.00023 USD");
    }

    #[test]
    fn a_verdict_names_outcome_rules_and_places_and_no_text() {
        let ruling = |class: &str, action: GoldAction, rule: &str| GoldRuling {
            class: class.to_owned(),
            count: u32::from(class != "plain"),
            action: action.into(),
            rule: rule.to_owned(),
        };
        let answer = CheckTextResponse {
            action: GoldAction::Refuse.into(),
            rulings: vec![
                ruling("plain", GoldAction::Allow, "chat"),
                ruling("secret", GoldAction::Refuse, ""),
            ],
            findings: vec![GoldFinding {
                path: "messages[0].content".to_owned(),
                line: 2,
                column: 16,
                classes: vec!["secret".to_owned()],
            }],
            asker: "key/ann".to_owned(),
        };
        let expected = "\
It would stay in the house, asked by key/ann.

CLASS   COUNT  OUTCOME  RULE
plain   -      allow    chat
secret  1      refuse   -

Found:
  line 2 character 16: secret
";
        assert_eq!(verdict(&answer), expected);
    }
}
