//! `labctl backup copies` and `labctl backup copy`.

use homelab_common::exit::Exit;
use homelab_proto::{
    backup::v1::{Snapshot, copy_snapshot_response},
    controller::v1::{
        BackupCopies, BackupCopy, CopyBackupRequest, CopyBackupResponse, ListBackupCopiesRequest,
        ListBackupCopiesResponse,
    },
};
use jiff::Timestamp;

use super::follow::{Said, Work};
use crate::{
    args::{CopiesArgs, CopyArgs},
    call,
    failure::Failure,
    lab::Lab,
    output::{Rows, bytes, distance, indented, short, word, yes},
};

/// Shows where the copies are. The exit code says whether they make 3-2-1 everywhere.
pub(super) async fn list(lab: &Lab, args: CopiesArgs) -> Result<Exit, Failure> {
    let request = ListBackupCopiesRequest { backup: args.backup.unwrap_or_default() };
    let answer: ListBackupCopiesResponse =
        lab.call("list copies", call::LIST_BACKUP_COPIES, request).await?;
    let (now, all) = (lab.now(), &answer.backups);
    lab.tell(call::LIST_BACKUP_COPIES, &answer, || names(all), || text(now, all))?;
    let met = all.iter().all(|one| one.rule.as_ref().is_some_and(|rule| rule.met));
    Ok(if met { Exit::Ok } else { Exit::Partial })
}

/// For pipes: a line for each copy in a repository.
fn names(backups: &[BackupCopies]) -> Rows {
    let mut rows = Rows::new(&["copy"], "No backups are declared in the site file.");
    for backup in backups {
        for copy in backup.copies.iter().filter(|copy| !copy.repository.is_empty()) {
            let name = format!("{}/{}", backup.backup, copy.repository);
            rows.push(&name, [name.clone()]);
        }
    }
    rows
}

fn text(now: Timestamp, backups: &[BackupCopies]) -> String {
    let each: Vec<_> = backups.iter().map(|backup| one(now, backup)).collect();
    if each.is_empty() {
        return names(backups).text();
    }
    each.join("\n")
}

fn one(now: Timestamp, backup: &BackupCopies) -> String {
    let rule = backup.rule.clone().unwrap_or_default();
    let mark = if rule.met { "+" } else { "!" };
    let mut text = format!(
        "{mark} {}: copies {}, media {}, elsewhere {}\n",
        backup.backup, rule.copies, rule.media, rule.off_site
    );
    text.extend(rule.missing.iter().map(|missing| format!("    missing: {missing}\n")));
    let head = ["copy", "role", "newest", "snapshots", "medium", "place", "counts", "scrubbed"];
    let mut rows = Rows::new(&head, "");
    for copy in &backup.copies {
        rows.push(&copy.repository, cells(now, copy));
    }
    text.push_str(&indented(&rows.text(), 2));
    text
}

fn cells(now: Timestamp, copy: &BackupCopy) -> Vec<String> {
    let is_source = copy.repository.is_empty();
    let name = if is_source { "the source".to_owned() } else { copy.repository.clone() };
    let counts = match copy.why_not.as_str() {
        "" => yes(copy.counts).to_owned(),
        why => format!("{}: {why}", yes(copy.counts)),
    };
    let unless_source = |moment| if is_source { "-".to_owned() } else { distance(now, moment) };
    vec![
        name,
        word(copy.role().as_str_name(), "COPY_ROLE"),
        if is_source { "now".to_owned() } else { distance(now, copy.newest_at) },
        copy.snapshots.map_or_else(|| "-".to_owned(), |count| count.to_string()),
        or_dash(&copy.medium),
        or_dash(&copy.place),
        counts,
        unless_source(copy.scrubbed_at),
    ]
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

/// Copies a snapshot into another repository.
pub(super) async fn copy(lab: &Lab, args: CopyArgs) -> Result<Exit, Failure> {
    let id = lab.request_id();
    let action = format!("copy a snapshot of {} to {}", args.backup, args.to);
    let work = Work::of_request(action, &id, &args.backup);
    let request = CopyBackupRequest {
        request_id: id,
        validate_only: lab.global.dry_run,
        backup: args.backup,
        snapshot_id: args.snapshot.unwrap_or_default(),
        from: args.from.unwrap_or_default(),
        to: args.to,
    };
    let stream = lab.stream(&work.action, call::COPY_BACKUP, request).await?;
    let answer: CopyBackupResponse = work.to_end(lab, stream, said_of_copy).await?;
    let stored = match answer.response.as_ref().and_then(|response| response.event.as_ref()) {
        Some(copy_snapshot_response::Event::Snapshot(snapshot)) => Some(snapshot),
        _ => None,
    };
    lab.print(call::COPY_BACKUP, &answer, || copied(stored))?;
    Ok(Exit::Ok)
}

fn said_of_copy(answer: &CopyBackupResponse) -> Said<'_> {
    match answer.response.as_ref().and_then(|response| response.event.as_ref()) {
        Some(copy_snapshot_response::Event::Progress(progress)) => Said::Progress(progress),
        Some(copy_snapshot_response::Event::Failure(failure)) => Said::Failure(failure),
        Some(copy_snapshot_response::Event::Snapshot(_)) => Said::End,
        None => Said::Nothing,
    }
}

fn copied(snapshot: Option<&Snapshot>) -> Rows {
    let mut rows = Rows::new(&["snapshot", "repository", "source"], "It could be copied.");
    if let Some(one) = snapshot {
        let cells = [short(&one.id), one.repository.clone(), bytes(one.source_bytes)];
        rows.push(&one.id, cells);
    }
    rows
}

#[cfg(test)]
mod tests {
    use homelab_proto::controller::v1::{CopyRole, CopyRule};

    use super::*;

    #[test]
    fn what_is_missing_for_3_2_1_stands_above_the_copies() {
        let copy = |role: CopyRole, repository: &str, why_not: &str| BackupCopy {
            role: role.into(),
            repository: repository.to_owned(),
            medium: "nas-raid".to_owned(),
            counts: why_not.is_empty(),
            why_not: why_not.to_owned(),
            ..BackupCopy::default()
        };
        let wiki = BackupCopies {
            backup: "wiki".to_owned(),
            rule: Some(CopyRule {
                copies: 2,
                media: 2,
                off_site: 0,
                met: false,
                missing: vec!["a copy elsewhere".to_owned()],
            }),
            copies: vec![
                copy(CopyRole::Source, "", ""),
                copy(CopyRole::Primary, "nas", "never read back"),
            ],
        };
        assert_eq!(
            text(Timestamp::UNIX_EPOCH, std::slice::from_ref(&wiki)),
            "! wiki: copies 2, media 2, elsewhere 0\n    missing: a copy elsewhere\n  \
             COPY        ROLE     NEWEST  SNAPSHOTS  MEDIUM    PLACE  COUNTS               SCRUBBED\n  \
             the source  source   now     -          nas-raid  -      yes                  -\n  \
             nas         primary  never   -          nas-raid  -      no: never read back  never\n"
        );
        assert_eq!(names(&[wiki]).text(), "COPY\nwiki/nas\n");
    }
}
