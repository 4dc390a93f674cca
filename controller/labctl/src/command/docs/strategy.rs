//! The strategy of backup and restore.

mod backup;

use homelab_proto::controller::v1::{
    BackupRisk, BackupStrategy, GetStrategyResponse, KitProof, KitRepository, KitSecret,
    MaintenanceWindow, Schedule,
};

use crate::output::{date, span, word, yes};

/// The whole document.
pub(super) fn document(facts: &GetStrategyResponse) -> String {
    let zone = facts.time_zone.as_str();
    let mut text = format!(
        "# 70 Backup and restore strategy\n\nHow the data of {} is kept, how it is proved that it can be had back, \
         and what that was last seen to be worth. As of {} ({zone}).\n\n\
         A snapshot counts once its run was proved complete; a backup counts once a drill restored it and found \
         it equal to what was dumped. Commands need only standard tools.\n",
        facts.site,
        date(facts.generated_at, zone),
    );
    text.push_str("\n## At a glance\n\n");
    text.push_str(&glance(&facts.backups));
    for one in &facts.backups {
        text.push_str(&backup::section(one, &facts.repositories, zone));
    }
    text.push_str("\n## Places\n\n");
    text.push_str(&places(&facts.repositories));
    text.push_str("\n## Keys\n\n");
    text.push_str(&secrets(&facts.secrets));
    text.push_str(&proof(facts));
    text.push_str("\n## Maintenance windows\n\n");
    text.push_str(&windows(&facts.windows));
    text.push_str("\n## After everything was lost\n\n");
    text.push_str(
        "The order in which everything comes back, with the commands: \
         [71-cold-start-runbook.md](71-cold-start-runbook.md).\n",
    );
    text
}

fn glance(backups: &[BackupStrategy]) -> String {
    let head = [
        "Backup",
        "Loss at most",
        "Would be lost now",
        "Restore at most",
        "Measured (median, 95 %)",
        "Last drill",
        "3-2-1",
        "In time",
    ];
    let mut table = Table::new(&head);
    for one in backups {
        let schedule = one.schedule.clone().unwrap_or_default();
        let risk = one.risk.clone().unwrap_or_default();
        let rule = one.copies.as_ref().and_then(|copies| copies.rule.clone()).unwrap_or_default();
        let last = one.last_evidence.as_ref().map_or_else(
            || "never".to_owned(),
            |evidence| {
                let verdict = word(evidence.verdict().as_str_name(), "DRILL_VERDICT");
                format!("{verdict}, {}", date(evidence.at, &schedule.time_zone))
            },
        );
        table.push([
            format!("[{0}](#{0})", schedule.backup),
            span(schedule.rpo),
            lost_now(&risk),
            span(schedule.rto),
            format!("{}, {}", span(risk.rto_median), span(risk.rto_95)),
            last,
            yes(rule.met).to_owned(),
            word(schedule.punctuality().as_str_name(), "PUNCTUALITY"),
        ]);
    }
    table.text()
}

/// How much would be lost now, with a word where it is too much.
fn lost_now(risk: &BackupRisk) -> String {
    let lost = risk.exposure.map_or_else(|| "everything".to_owned(), |age| span(Some(age)));
    if risk.within_rpo { lost } else { format!("**{lost}, too much**") }
}

fn places(repositories: &[KitRepository]) -> String {
    let mut table =
        Table::new(&["Repository", "What it is", "Where", "Medium", "Place", "Opened by"]);
    for one in repositories {
        table.push([
            one.name.clone(),
            one.location.clone(),
            one.paths.join("<br>"),
            one.medium.clone(),
            one.place.clone(),
            one.secret.clone(),
        ]);
    }
    table.text()
}

/// Secrets by name, and where they are kept; also part of the runbook.
pub(super) fn secrets(secrets: &[KitSecret]) -> String {
    let mut table = Table::new(&["Secret", "Opens", "Kept in", "Within reach after a total loss"]);
    for one in secrets {
        let reach =
            if one.reachable { "yes".to_owned() } else { format!("**no**: {}", one.why_not) };
        table.push([one.name.clone(), one.opens.clone(), one.kept_in.join(", "), reach]);
    }
    table.text()
}

fn proof(facts: &GetStrategyResponse) -> String {
    let zone = facts.time_zone.as_str();
    let last = facts.last_proof.as_ref().map_or_else(
        || "Nobody has proved yet that the recovery kit opens everything".to_owned(),
        |proof| proved(proof, zone),
    );
    format!(
        "\n{last}; the next proof is due {}: `labctl recovery-kit prove`.\n",
        date(facts.next_proof_due_at, zone)
    )
}

fn proved(proof: &KitProof, zone: &str) -> String {
    let outcome = if proof.passed { "it opened everything" } else { "**not everything opened**" };
    format!("{} tried the recovery kit {}, and {outcome}", proof.by, date(proof.at, zone))
}

fn windows(windows: &[MaintenanceWindow]) -> String {
    let mut table = Table::new(&["Window", "Begins", "Lasts", "Holds", "Why"]);
    for one in windows {
        let holds = if one.backups.is_empty() { "all".to_owned() } else { one.backups.join(", ") };
        table.push([
            one.name.clone(),
            format!("`{}` ({})", one.cron, one.time_zone),
            span(one.length),
            holds,
            one.description.clone(),
        ]);
    }
    table.text()
}

/// Commands as a block of Markdown.
pub(super) fn fenced(commands: &[String]) -> String {
    // A fence must be longer than any that stands inside.
    let longest = commands.iter().flat_map(|line| line.split(|letter| letter != '`')).map(str::len);
    let fence = "`".repeat(longest.max().unwrap_or_default().max(2) + 1);
    let lines: String = commands.iter().map(|command| format!("{command}\n")).collect();
    format!("{fence}sh\n{lines}{fence}\n")
}

/// A table of Markdown.
#[derive(Debug)]
struct Table {
    head: String,
    rows: String,
}

impl Table {
    fn new(head: &[&str]) -> Self {
        let rule = "|---".repeat(head.len());
        Self { head: format!("| {} |\n{rule}|\n", head.join(" | ")), rows: String::new() }
    }

    fn push(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells: Vec<_> = cells.into_iter().map(|cell| cell_text(&cell)).collect();
        self.rows.push_str(&format!("| {} |\n", cells.join(" | ")));
    }

    fn text(&self) -> String {
        if self.rows.is_empty() {
            return "None.\n".to_owned();
        }
        format!("{}{}", self.head, self.rows)
    }
}

/// A cell must not end its row or its table.
fn cell_text(text: &str) -> String {
    if text.is_empty() {
        return "-".to_owned();
    }
    text.replace('|', r"\|").replace('\n', " ")
}

/// When something fires, in words.
fn fires(schedule: &Schedule) -> String {
    let mut text = format!("`{}` ({})", schedule.cron, schedule.time_zone);
    if schedule.jitter.is_some_and(|jitter| jitter.seconds > 0) {
        text.push_str(&format!(", {} later, so that not all begin at once", span(schedule.jitter)));
    }
    if !schedule.after.is_empty() {
        text.push_str(&format!(", after {}", schedule.after.join(", ")));
    }
    if !schedule.windows.is_empty() {
        text.push_str(&format!(", not during {}", schedule.windows.join(", ")));
    }
    if schedule.paused {
        text.push_str(&format!("; **paused**: {}", schedule.pause_reason));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_cannot_break_its_table() {
        let mut table = Table::new(&["a", "b"]);
        table.push(["x | y\nz".to_owned(), String::new()]);
        assert_eq!(table.text(), "| a | b |\n|---|---|\n| x \\| y z | - |\n");
        assert_eq!(Table::new(&["a"]).text(), "None.\n");
    }

    #[test]
    fn a_fence_is_longer_than_those_inside() {
        assert_eq!(fenced(&["true".to_owned()]), "```sh\ntrue\n```\n");
        assert_eq!(fenced(&["echo ```".to_owned()]), "````sh\necho ```\n````\n");
    }

    #[test]
    fn what_is_too_much_to_lose_stands_out() {
        let hours = |hours: i64| Some(prost_types::Duration { seconds: hours * 3_600, nanos: 0 });
        let risk = |exposure, within_rpo| BackupRisk { exposure, within_rpo, ..Default::default() };
        assert_eq!(lost_now(&risk(hours(3), true)), "3 h");
        assert_eq!(lost_now(&risk(hours(30), false)), "**30 h, too much**");
        assert_eq!(lost_now(&risk(None, false)), "**everything, too much**");
    }

    #[test]
    fn a_site_without_anything_still_makes_a_document() {
        let text = document(&GetStrategyResponse::default());
        assert!(text.starts_with("# 70 Backup and restore strategy\n"), "{text}");
        assert!(text.contains("Nobody has proved yet"), "{text}");
    }
}
