//! `labctl backup schedule …` and `labctl backup windows`.

use homelab_common::exit::Exit;
use homelab_proto::controller::v1::{
    ListMaintenanceWindowsRequest, ListMaintenanceWindowsResponse, ListSchedulesRequest,
    ListSchedulesResponse, MaintenanceWindow, PauseScheduleRequest, PauseScheduleResponse,
    ResumeScheduleRequest, ResumeScheduleResponse, Run, Schedule,
};
use jiff::Timestamp;

use crate::{
    args::{PauseArgs, ScheduleCommand},
    call,
    failure::Failure,
    lab::Lab,
    output::{self, Rows, distance, span, word},
};

/// Runs one verb on schedules.
pub(super) async fn run(lab: &Lab, command: ScheduleCommand) -> Result<Exit, Failure> {
    match command {
        ScheduleCommand::List => {
            let answer: ListSchedulesResponse = lab
                .call("list schedules", call::LIST_SCHEDULES, ListSchedulesRequest::default())
                .await?;
            lab.print(call::LIST_SCHEDULES, &answer, || rows(lab.now(), &answer.schedules))?;
        }
        ScheduleCommand::Pause(args) => pause(lab, args).await?,
        ScheduleCommand::Resume(args) => {
            let action = format!("resume the schedule of {}", args.backup);
            let request = ResumeScheduleRequest { backup: args.backup };
            let answer: ResumeScheduleResponse =
                lab.call(&action, call::RESUME_SCHEDULE, request).await?;
            lab.print(call::RESUME_SCHEDULE, &answer, || {
                rows(lab.now(), answer.schedule.as_slice())
            })?;
        }
    }
    Ok(Exit::Ok)
}

async fn pause(lab: &Lab, args: PauseArgs) -> Result<(), Failure> {
    let action = format!("pause the schedule of {}", args.backup);
    let until = args.length.and_then(|length| lab.now().checked_add(length).ok());
    let until = until.map(|until| prost_types::Timestamp {
        seconds: until.as_second(),
        nanos: until.subsec_nanosecond(),
    });
    let next = format!("next: labctl backup resume {}", args.backup);
    let request = PauseScheduleRequest { backup: args.backup, reason: args.reason, until };
    let answer: PauseScheduleResponse = lab.call(&action, call::PAUSE_SCHEDULE, request).await?;
    lab.print(call::PAUSE_SCHEDULE, &answer, || rows(lab.now(), answer.schedule.as_slice()))?;
    if until.is_none() {
        output::say(&next);
    }
    Ok(())
}

fn rows(now: Timestamp, schedules: &[Schedule]) -> Rows {
    let head = [
        "backup",
        "host",
        "cron",
        "zone",
        "in time",
        "next",
        "last",
        "next drill",
        "last drill",
        "held by",
    ];
    let mut rows = Rows::new(&head, "No schedules in the site file.");
    for schedule in schedules {
        let started =
            |run: &Option<Run>| distance(now, run.as_ref().and_then(|run| run.started_at));
        rows.push(
            &schedule.backup,
            [
                schedule.backup.clone(),
                schedule.host.clone(),
                schedule.cron.clone(),
                schedule.time_zone.clone(),
                word(schedule.punctuality().as_str_name(), "PUNCTUALITY"),
                next_of(schedule.next_run_at, now),
                started(&schedule.last_run),
                next_of(schedule.next_drill_at, now),
                started(&schedule.last_drill),
                held_by(now, schedule),
            ],
        );
    }
    rows
}

/// Nothing comes while a schedule is paused without an end.
fn next_of(moment: Option<prost_types::Timestamp>, now: Timestamp) -> String {
    moment.map_or_else(|| "-".to_owned(), |moment| distance(now, Some(moment)))
}

fn held_by(now: Timestamp, schedule: &Schedule) -> String {
    if !schedule.paused {
        return schedule.held_by.clone();
    }
    match schedule.paused_until {
        Some(until) => format!("{} (ends {})", schedule.pause_reason, distance(now, Some(until))),
        None => schedule.pause_reason.clone(),
    }
}

/// Lists maintenance windows.
pub(super) async fn windows(lab: &Lab) -> Result<Exit, Failure> {
    let request = ListMaintenanceWindowsRequest::default();
    let answer: ListMaintenanceWindowsResponse =
        lab.call("list maintenance windows", call::LIST_MAINTENANCE_WINDOWS, request).await?;
    lab.print(call::LIST_MAINTENANCE_WINDOWS, &answer, || window_rows(lab.now(), &answer.windows))?;
    Ok(Exit::Ok)
}

fn window_rows(now: Timestamp, windows: &[MaintenanceWindow]) -> Rows {
    let head = ["window", "begins", "zone", "length", "now", "next", "holds", "why"];
    let mut rows = Rows::new(&head, "No windows: declare one in the site file, under [[window]].");
    for window in windows {
        let state = if window.open {
            format!("open, ends {}", distance(now, window.ends_at))
        } else {
            "shut".to_owned()
        };
        let holds =
            if window.backups.is_empty() { "all".to_owned() } else { window.backups.join(", ") };
        rows.push(
            &window.name,
            [
                window.name.clone(),
                window.cron.clone(),
                window.time_zone.clone(),
                span(window.length),
                state,
                next_of(window.next_at, now),
                holds,
                window.description.clone(),
            ],
        );
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Option<prost_types::Timestamp> {
        Some(prost_types::Timestamp { seconds, nanos: 0 })
    }

    #[test]
    fn an_open_window_says_when_it_ends_and_what_it_holds() {
        let window = MaintenanceWindow {
            name: "parity-check".to_owned(),
            cron: "0 4 1 * *".to_owned(),
            time_zone: "UTC".to_owned(),
            length: Some(prost_types::Duration { seconds: 36_000, nanos: 0 }),
            backups: vec!["ai-data".to_owned()],
            open: true,
            ends_at: at(7_200),
            ..MaintenanceWindow::default()
        };
        let text = window_rows(Timestamp::UNIX_EPOCH, &[window]).text();
        assert!(text.contains("10 h    open, ends in 2 h  -     ai-data"), "{text}");
    }

    #[test]
    fn a_pause_that_ends_by_itself_says_when() {
        let schedule = Schedule {
            paused: true,
            pause_reason: "moving house".to_owned(),
            paused_until: at(7_200),
            ..Schedule::default()
        };
        assert_eq!(held_by(Timestamp::UNIX_EPOCH, &schedule), "moving house (ends in 2 h)");
    }
}
