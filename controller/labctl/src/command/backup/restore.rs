//! Getting data back: into a folder, or onto a new Git server.

use homelab_common::exit::Exit;
use homelab_proto::{
    backup::v1::{RestoreReport, restore_response},
    controller::v1::{
        PushBackGitReport, PushBackGitRequest, PushBackGitResponse, RestoreBackupRequest,
        RestoreBackupResponse, push_back_git_response,
    },
};

use super::follow::{Said, Work};
use crate::{
    args::{PushBackArgs, RestoreArgs},
    call,
    failure::Failure,
    lab::Lab,
    output::{Rows, bytes, short, span},
};

/// Restores a snapshot into a folder.
pub(super) async fn restore(lab: &Lab, args: RestoreArgs) -> Result<Exit, Failure> {
    confirmed(&args)?;
    let id = lab.request_id();
    let work = Work::of_request(format!("restore {}", args.backup), &id, &args.backup);
    let request = RestoreBackupRequest {
        request_id: id,
        validate_only: lab.global.dry_run,
        backup: args.backup,
        snapshot_id: args.snapshot.unwrap_or_default(),
        target: args.target,
        repository: args.repository.unwrap_or_default(),
        replace: args.replace.unwrap_or_default(),
        salvage: args.salvage,
    };
    let stream = lab.stream(&work.action, call::RESTORE_BACKUP, request).await?;
    let answer: RestoreBackupResponse = work.to_end(lab, stream, said_of_restore).await?;
    let report = report_of(&answer);
    let text = || report.map_or_else(|| "It could be restored.\n".to_owned(), restored);
    lab.tell(call::RESTORE_BACKUP, &answer, || files(report), text)?;
    let damaged = report.is_some_and(|report| !report.damaged.is_empty());
    Ok(if damaged { Exit::Partial } else { Exit::Ok })
}

/// Whoever replaces something types the name of what comes in its place.
fn confirmed(args: &RestoreArgs) -> Result<(), Failure> {
    match args.replace.as_deref() {
        Some(typed) if typed != args.backup => {
            let words = format!(
                "--replace says `{typed}`, and what is restored is `{}`: nothing was replaced",
                args.backup
            );
            Err(Failure::new(Exit::Usage, words)
                .next(format!("--replace {}, if that is what you want", args.backup)))
        }
        _ => Ok(()),
    }
}

fn said_of_restore(answer: &RestoreBackupResponse) -> Said<'_> {
    match answer.response.as_ref().and_then(|response| response.event.as_ref()) {
        Some(restore_response::Event::Progress(progress)) => Said::Progress(progress),
        Some(restore_response::Event::Failure(failure)) => Said::Failure(failure),
        Some(restore_response::Event::Report(_)) => Said::End,
        None => Said::Nothing,
    }
}

fn report_of(answer: &RestoreBackupResponse) -> Option<&RestoreReport> {
    match answer.response.as_ref()?.event.as_ref()? {
        restore_response::Event::Report(report) => Some(report),
        _ => None,
    }
}

fn files(report: Option<&RestoreReport>) -> Rows {
    let mut rows = Rows::new(&["file", "size", "sha-256"], "No files.");
    for file in report.into_iter().flat_map(|report| &report.files) {
        let cells = [file.path.clone(), bytes(file.size_bytes), short(&file.sha256)];
        rows.push(&file.path, cells);
    }
    rows
}

fn restored(report: &RestoreReport) -> String {
    let mut text = files(Some(report)).text();
    text.push_str(&format!(
        "\nrestored into {} in {}, every hash equal\n",
        report.target,
        span(report.elapsed)
    ));
    if !report.kept_aside.is_empty() {
        text.push_str(&format!("what was there is kept in {}\n", report.kept_aside));
    }
    if !report.damaged.is_empty() {
        text.push_str("\nDAMAGED, and not restored:\n");
        text.extend(report.damaged.iter().map(|what| format!("  x {what}\n")));
    }
    if !report.next_steps.is_empty() {
        text.push_str("\nTo put it back into service:\n");
        text.extend(report.next_steps.iter().map(|step| format!("  {step}\n")));
    }
    text
}

/// Pushes mirrors to a new server.
pub(super) async fn push_back(lab: &Lab, args: PushBackArgs) -> Result<Exit, Failure> {
    let id = lab.request_id();
    let work = Work::of_request(format!("push {} to {}", args.backup, args.to), &id, &args.backup);
    let request = PushBackGitRequest {
        request_id: id,
        validate_only: lab.global.dry_run,
        backup: args.backup,
        mirror: args.mirror.unwrap_or_default(),
        target_url: args.to,
        snapshot_id: String::new(),
    };
    let stream = lab.stream(&work.action, call::PUSH_BACK_GIT, request).await?;
    let answer: PushBackGitResponse = work.to_end(lab, stream, said_of_push).await?;
    let report = match &answer.event {
        Some(push_back_git_response::Event::Report(report)) => Some(report),
        _ => None,
    };
    let text = || report.map_or_else(|| "It could be pushed.\n".to_owned(), pushed);
    lab.tell(call::PUSH_BACK_GIT, &answer, || mirrors(report), text)?;
    let complete = report.is_none_or(|report| report.warnings.is_empty());
    Ok(if complete { Exit::Ok } else { Exit::Partial })
}

fn said_of_push(answer: &PushBackGitResponse) -> Said<'_> {
    match &answer.event {
        Some(push_back_git_response::Event::Progress(progress)) => Said::Progress(progress),
        Some(push_back_git_response::Event::Failure(failure)) => Said::Failure(failure),
        Some(push_back_git_response::Event::Report(_)) => Said::End,
        None => Said::Nothing,
    }
}

fn mirrors(report: Option<&PushBackGitReport>) -> Rows {
    let mut rows = Rows::new(&["mirror"], "No mirrors.");
    for mirror in report.into_iter().flat_map(|report| &report.mirrors) {
        rows.push(mirror, [mirror.clone()]);
    }
    rows
}

fn pushed(report: &PushBackGitReport) -> String {
    let mut text = mirrors(Some(report)).text();
    text.push_str(&format!(
        "\n{} references equal on both sides, in {}\n",
        report.references,
        span(report.elapsed)
    ));
    text.extend(report.warnings.iter().map(|warning| format!("  ! {warning}\n")));
    text
}

#[cfg(test)]
mod tests {
    use homelab_proto::backup::v1::SnapshotFile;

    use super::*;

    #[test]
    fn a_restore_says_what_came_back_what_did_not_and_how_to_go_on() {
        let report = RestoreReport {
            target: "/srv/wiki".to_owned(),
            files: vec![SnapshotFile {
                path: "wiki.sql".to_owned(),
                size_bytes: 2_048,
                sha256: "ab".repeat(32),
            }],
            elapsed: Some(prost_types::Duration { seconds: 12, nanos: 0 }),
            next_steps: vec!["createdb wiki".to_owned()],
            kept_aside: "/srv/wiki.before".to_owned(),
            damaged: vec!["globals.sql: its hash is another".to_owned()],
        };
        assert_eq!(
            restored(&report),
            "FILE      SIZE     SHA-256\nwiki.sql  2.0 KiB  abababab\n\n\
             restored into /srv/wiki in 12 s, every hash equal\n\
             what was there is kept in /srv/wiki.before\n\n\
             DAMAGED, and not restored:\n  x globals.sql: its hash is another\n\n\
             To put it back into service:\n  createdb wiki\n"
        );
    }

    #[test]
    fn another_name_does_not_confirm_a_replacement() {
        let args = |typed: &str| RestoreArgs {
            backup: "wiki".to_owned(),
            target: "/srv/wiki".to_owned(),
            snapshot: None,
            repository: None,
            replace: Some(typed.to_owned()),
            salvage: false,
        };
        assert!(confirmed(&args("wiki")).is_ok());
        let Err(Failure::Said(trouble)) = confirmed(&args("forgejo")) else {
            panic!("it is another backup")
        };
        assert_eq!(trouble.exit, Exit::Usage);
        assert!(trouble.next.is_some_and(|next| next.contains("--replace wiki")));
    }
}
