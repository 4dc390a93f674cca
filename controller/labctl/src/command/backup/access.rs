//! `labctl backup access`: the rights that a backup needs, as they are to be typed.

use homelab_common::exit::Exit;
use homelab_proto::{
    common::v1::ConditionStatus,
    controller::v1::{ExplainAccessRequest, ExplainAccessResponse},
};

use crate::{call, failure::Failure, lab::Lab, output::Rows};

/// Prints statements and findings. The exit code says whether a right is missing.
pub(super) async fn explain(lab: &Lab, backup: String) -> Result<Exit, Failure> {
    let action = format!("ask what {backup} needs at its source");
    let request = ExplainAccessRequest { backup };
    let answer: ExplainAccessResponse = lab.call(&action, call::EXPLAIN_ACCESS, request).await?;
    lab.tell(call::EXPLAIN_ACCESS, &answer, || statements(&answer), || text(&answer))?;
    let has_all = answer.findings.iter().all(|found| found.status() == ConditionStatus::True);
    Ok(if has_all { Exit::Ok } else { Exit::Partial })
}

/// For pipes: only what is to be typed.
fn statements(answer: &ExplainAccessResponse) -> Rows {
    let mut rows = Rows::new(&["statement"], "It needs no rights.");
    for statement in &answer.statements {
        rows.push(statement, [statement.clone()]);
    }
    rows
}

fn text(answer: &ExplainAccessResponse) -> String {
    let mut text = String::from("What it needs, as it is to be typed at the source:\n\n");
    if answer.statements.is_empty() {
        text.push_str("  nothing\n");
    }
    for statement in &answer.statements {
        text.extend(statement.lines().map(|line| format!("  {line}\n")));
    }
    text.push_str("\nWhat it has, tried just now:\n\n");
    for found in &answer.findings {
        let mark = match found.status() {
            ConditionStatus::True => "+",
            ConditionStatus::False => "x",
            ConditionStatus::Unknown | ConditionStatus::Unspecified => "?",
        };
        text.push_str(&format!("  {mark} {}: {}\n", found.r#type, found.message));
    }
    text
}

#[cfg(test)]
mod tests {
    use homelab_proto::common::v1::Condition;

    use super::*;

    #[test]
    fn statements_can_be_copied_and_findings_say_which_are_missing() {
        let found = |name: &str, status: ConditionStatus, message: &str| Condition {
            r#type: name.to_owned(),
            status: status.into(),
            message: message.to_owned(),
            ..Condition::default()
        };
        let answer = ExplainAccessResponse {
            statements: vec!["GRANT pg_read_all_data TO backup;".to_owned()],
            findings: vec![
                found("CanConnect", ConditionStatus::True, "as backup"),
                found("ReadsAllTables", ConditionStatus::False, "not public.secrets"),
            ],
        };
        assert_eq!(
            text(&answer),
            "What it needs, as it is to be typed at the source:\n\n  \
             GRANT pg_read_all_data TO backup;\n\nWhat it has, tried just now:\n\n  \
             + CanConnect: as backup\n  x ReadsAllTables: not public.secrets\n"
        );
        assert!(statements(&answer).text().ends_with("\nGRANT pg_read_all_data TO backup;\n"));
    }
}
