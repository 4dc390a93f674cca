//! `labctl backup risk`: what would be lost right now, and what to do about it.

use homelab_common::exit::Exit;
use homelab_proto::controller::v1::{BackupRisk, GapSeverity, GetRiskRequest, GetRiskResponse};

use crate::{
    call,
    failure::Failure,
    lab::Lab,
    output::{Rows, span, yes},
};

/// Shows the risk. The exit code says whether every backup is within its target.
pub(super) async fn show(lab: &Lab) -> Result<Exit, Failure> {
    let answer: GetRiskResponse =
        lab.call("work out the risk", call::GET_RISK, GetRiskRequest::default()).await?;
    lab.tell(call::GET_RISK, &answer, || rows(&answer.risks), || text(&answer.risks))?;
    let all_well = answer.risks.iter().all(|risk| risk.within_rpo);
    Ok(if all_well { Exit::Ok } else { Exit::Partial })
}

fn text(risks: &[BackupRisk]) -> String {
    let mut text = rows(risks).text();
    for risk in risks.iter().filter(|risk| !risk.gap_details.is_empty()) {
        text.push_str(&format!("\n{}\n", risk.backup));
        for gap in &risk.gap_details {
            let mark = match gap.severity() {
                GapSeverity::Critical => "x",
                GapSeverity::Unknown => "?",
                GapSeverity::Warning | GapSeverity::Unspecified => "!",
            };
            text.push_str(&format!("  {mark} {}\n", gap.message));
            if !gap.command.is_empty() {
                text.push_str(&format!("      {}\n", gap.command));
            }
        }
    }
    text
}

fn rows(risks: &[BackupRisk]) -> Rows {
    let head =
        ["backup", "you would lose", "target", "within", "proved to", "restore", "target", "3-2-1"];
    let mut rows = Rows::new(&head, "No backups are declared in the site file.");
    for risk in risks {
        let copies = risk.copies.as_ref().map_or_else(
            || "-".to_owned(),
            |rule| format!("{}-{}-{}", rule.copies, rule.media, rule.off_site),
        );
        rows.push(
            &risk.backup,
            [
                risk.backup.clone(),
                risk.exposure.map_or_else(|| "everything".to_owned(), |age| span(Some(age))),
                span(risk.rpo),
                yes(risk.within_rpo).to_owned(),
                risk.drilled_exposure.map_or_else(|| "never".to_owned(), |age| span(Some(age))),
                span(risk.rto_median),
                span(risk.rto),
                copies,
            ],
        );
    }
    rows
}

#[cfg(test)]
mod tests {
    use homelab_proto::controller::v1::{CopyRule, RiskGap};

    use super::*;

    fn hours(hours: i64) -> Option<prost_types::Duration> {
        Some(prost_types::Duration { seconds: hours * 3_600, nanos: 0 })
    }

    #[test]
    fn each_gap_stands_with_the_command_that_closes_it() {
        let wiki = BackupRisk {
            backup: "wiki".to_owned(),
            exposure: hours(30),
            rpo: hours(26),
            copies: Some(CopyRule { copies: 2, media: 2, off_site: 0, ..CopyRule::default() }),
            gap_details: vec![RiskGap {
                severity: GapSeverity::Critical.into(),
                reason: "RPO_MISSED".to_owned(),
                message: "the newest verified snapshot is 30 h old".to_owned(),
                command: "labctl backup run wiki".to_owned(),
                since: None,
            }],
            ..BackupRisk::default()
        };
        assert_eq!(
            text(&[wiki]),
            "BACKUP  YOU WOULD LOSE  TARGET  WITHIN  PROVED TO  RESTORE  TARGET  3-2-1\n\
             wiki    30 h            26 h    no      never      -        -       2-2-0\n\
             \nwiki\n  x the newest verified snapshot is 30 h old\n      labctl backup run wiki\n"
        );
    }
}
