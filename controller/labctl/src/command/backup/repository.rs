//! Repositories: how they stand, whether they are whole, and their room.

use homelab_common::exit::Exit;
use homelab_proto::{
    backup::v1::{
        PruneReport, Repository, VerificationReport, prune_repository_response,
        verify_repository_response,
    },
    common::v1::ConditionStatus,
    controller::v1::{
        ListBackupRepositoriesRequest, ListBackupRepositoriesResponse, PruneBackupRequest,
        PruneBackupResponse, VerifyBackupRequest, VerifyBackupResponse,
    },
};
use jiff::Timestamp;

use super::follow::{Said, Work};
use crate::{
    args::{PruneArgs, ScrubArgs, VerifyArgs},
    call,
    failure::Failure,
    lab::Lab,
    output::{Rows, bytes, distance, span, word},
};

/// Shows how the repositories of a backup stand.
pub(super) async fn list(lab: &Lab, backup: String) -> Result<Exit, Failure> {
    let action = format!("look at the repositories of {backup}");
    let request = ListBackupRepositoriesRequest { backup };
    let answer: ListBackupRepositoriesResponse =
        lab.call(&action, call::LIST_BACKUP_REPOSITORIES, request).await?;
    let (now, all) = (lab.now(), &answer.repositories);
    lab.tell(
        call::LIST_BACKUP_REPOSITORIES,
        &answer,
        || rows(now, all),
        || format!("{}{}", rows(now, all).text(), findings(all)),
    )?;
    let well = all.iter().flat_map(|one| &one.conditions);
    let well = well.into_iter().all(|one| one.status() == ConditionStatus::True);
    Ok(if well { Exit::Ok } else { Exit::Partial })
}

fn rows(now: Timestamp, repositories: &[Repository]) -> Rows {
    let head = [
        "repository",
        "access",
        "trust",
        "snapshots",
        "newest",
        "stored",
        "room",
        "scrubbed",
        "waiting",
        "path",
    ];
    let mut rows = Rows::new(&head, "The agent of this backup has no repository.");
    let or_dash = |count: Option<u64>| count.map_or_else(|| "-".to_owned(), bytes);
    for one in repositories {
        rows.push(
            &one.name,
            [
                one.name.clone(),
                word(one.access().as_str_name(), "REPOSITORY_ACCESS"),
                word(one.durability().as_str_name(), "DURABILITY"),
                one.snapshots.map_or_else(|| "-".to_owned(), |count| count.to_string()),
                distance(now, one.newest_at),
                or_dash(one.stored_bytes),
                or_dash(one.available_bytes),
                distance(now, one.scrubbed_at),
                one.waiting.to_string(),
                one.path.clone(),
            ],
        );
    }
    rows
}

/// What is not as it should be, and what made the grade of a place.
fn findings(repositories: &[Repository]) -> String {
    let mut text = String::new();
    for one in repositories {
        let off = one.conditions.iter().filter(|state| state.status() != ConditionStatus::True);
        let mut lines: Vec<_> =
            off.map(|state| format!("  x {}: {}\n", state.r#type, state.message)).collect();
        lines.extend(one.durability_findings.iter().map(|words| format!("  - {words}\n")));
        if !lines.is_empty() {
            text.push_str(&format!("\n{}\n{}", one.name, lines.concat()));
        }
    }
    text
}

/// How thoroughly a repository is read.
#[derive(Debug)]
pub(super) struct Check {
    backup: String,
    repository: String,
    read_data: bool,
    /// The part, and into how many the data is divided; zeros for no parts.
    part: (u32, u32),
}

impl From<VerifyArgs> for Check {
    fn from(args: VerifyArgs) -> Self {
        let VerifyArgs { backup, repository, read_data } = args;
        Self { backup, repository: repository.unwrap_or_default(), read_data, part: (0, 0) }
    }
}

impl From<ScrubArgs> for Check {
    fn from(args: ScrubArgs) -> Self {
        let ScrubArgs { backup, repository, parts, part } = args;
        let repository = repository.unwrap_or_default();
        Self { backup, repository, read_data: true, part: (part, parts) }
    }
}

/// Checks a repository, as thoroughly as was wished.
pub(super) async fn verify(lab: &Lab, check: Check) -> Result<Exit, Failure> {
    if lab.global.dry_run {
        return Err(Failure::new(
            Exit::Usage,
            "a verification changes nothing: leave out --dry-run",
        ));
    }
    let id = lab.request_id();
    let work =
        Work::of_request(format!("verify a repository of {}", check.backup), &id, &check.backup);
    let (part, parts) = check.part;
    let request = VerifyBackupRequest {
        request_id: id,
        backup: check.backup,
        read_data: check.read_data,
        repository: check.repository,
        part,
        parts,
    };
    let stream = lab.stream(&work.action, call::VERIFY_BACKUP, request).await?;
    let answer: VerifyBackupResponse = work.to_end(lab, stream, said_of_verification).await?;
    let report = match answer.response.as_ref().and_then(|response| response.event.as_ref()) {
        Some(verify_repository_response::Event::Report(report)) => report.clone(),
        _ => VerificationReport::default(),
    };
    lab.tell(call::VERIFY_BACKUP, &answer, || verdict(&report), || verified(&report))?;
    Ok(if report.sound { Exit::Ok } else { Exit::Failed })
}

fn said_of_verification(answer: &VerifyBackupResponse) -> Said<'_> {
    match answer.response.as_ref().and_then(|response| response.event.as_ref()) {
        Some(verify_repository_response::Event::Progress(progress)) => Said::Progress(progress),
        Some(verify_repository_response::Event::Failure(failure)) => Said::Failure(failure),
        Some(verify_repository_response::Event::Report(_)) => Said::End,
        None => Said::Nothing,
    }
}

fn verdict(report: &VerificationReport) -> Rows {
    let mut rows = Rows::new(&["sound", "snapshots", "read", "part", "took"], "");
    let sound = if report.sound { "yes" } else { "NO" };
    let part = match report.parts {
        0 => "-".to_owned(),
        parts => format!("{} of {parts}", report.part),
    };
    rows.push(
        sound,
        [
            sound.to_owned(),
            report.snapshots.to_string(),
            bytes(report.bytes_read),
            part,
            span(report.elapsed),
        ],
    );
    rows
}

fn verified(report: &VerificationReport) -> String {
    let mut text = verdict(report).text();
    if !report.problems.is_empty() {
        text.push_str("\nFound wrong:\n");
        text.extend(report.problems.iter().map(|problem| format!("  x {problem}\n")));
        text.push_str(
            "\nWhat is intact can be had with `labctl backup restore BACKUP --salvage`.\n",
        );
    }
    text
}

/// Frees the room of deleted snapshots.
pub(super) async fn prune(lab: &Lab, args: PruneArgs) -> Result<Exit, Failure> {
    let id = lab.request_id();
    let work = Work::of_request(format!("free room for {}", args.backup), &id, &args.backup);
    let request = PruneBackupRequest {
        request_id: id,
        validate_only: lab.global.dry_run,
        backup: args.backup,
        repository: args.repository.unwrap_or_default(),
    };
    let stream = lab.stream(&work.action, call::PRUNE_BACKUP, request).await?;
    let answer: PruneBackupResponse = work.to_end(lab, stream, said_of_pruning).await?;
    let report = match answer.response.as_ref().and_then(|response| response.event.as_ref()) {
        Some(prune_repository_response::Event::Report(report)) => Some(report),
        _ => None,
    };
    lab.print(call::PRUNE_BACKUP, &answer, || pruned(report))?;
    Ok(Exit::Ok)
}

fn said_of_pruning(answer: &PruneBackupResponse) -> Said<'_> {
    match answer.response.as_ref().and_then(|response| response.event.as_ref()) {
        Some(prune_repository_response::Event::Progress(progress)) => Said::Progress(progress),
        Some(prune_repository_response::Event::Failure(failure)) => Said::Failure(failure),
        Some(prune_repository_response::Event::Report(_)) => Said::End,
        None => Said::Nothing,
    }
}

fn pruned(report: Option<&PruneReport>) -> Rows {
    let mut rows = Rows::new(&["freed", "set aside", "written anew"], "It could be pruned.");
    if let Some(report) = report {
        let sizes = [report.freed_bytes, report.marked_bytes, report.repacked_bytes];
        rows.push(report.freed_bytes.to_string(), sizes.map(bytes));
    }
    rows
}

#[cfg(test)]
mod tests {
    use homelab_proto::{backup::v1::Durability, common::v1::Condition};

    use super::*;

    #[test]
    fn damage_is_shouted_and_the_way_out_is_named() {
        let report = VerificationReport {
            snapshots: 4,
            problems: vec!["pack 1f0c… is damaged".to_owned()],
            part: 3,
            parts: 30,
            bytes_read: 1_048_576,
            ..VerificationReport::default()
        };
        let text = verified(&report);
        assert!(text.contains("NO     4          1.0 MiB  3 of 30"), "{text}");
        assert!(text.contains("  x pack 1f0c… is damaged"), "{text}");
        assert!(text.contains("--salvage"), "{text}");
    }

    #[test]
    fn only_what_is_not_well_is_said_of_a_repository() {
        let state = |name: &str, status: ConditionStatus| Condition {
            r#type: name.to_owned(),
            status: status.into(),
            message: format!("{name} of the NAS"),
            ..Condition::default()
        };
        let nas = Repository {
            name: "nas".to_owned(),
            durability: Durability::Weak.into(),
            durability_findings: vec!["names are not flushed".to_owned()],
            conditions: vec![
                state("Mounted", ConditionStatus::True),
                state("HasRoom", ConditionStatus::False),
            ],
            ..Repository::default()
        };
        assert_eq!(
            findings(std::slice::from_ref(&nas)),
            "\nnas\n  x HasRoom: HasRoom of the NAS\n  - names are not flushed\n"
        );
        let table = rows(Timestamp::UNIX_EPOCH, &[nas]).text();
        assert!(table.contains("weak"), "{table}");
    }

    #[test]
    fn a_scrub_reads_data_by_parts() {
        let args = ScrubArgs { backup: "wiki".to_owned(), repository: None, parts: 7, part: 0 };
        let check = Check::from(args);
        assert!(check.read_data);
        assert_eq!(check.part, (0, 7));
    }
}
