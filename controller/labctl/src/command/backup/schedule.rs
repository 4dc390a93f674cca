//! `labctl backup schedule …`.

use homelab_common::exit::Exit;
use homelab_proto::controller::v1::{
    ListSchedulesRequest, ListSchedulesResponse, PauseScheduleRequest, PauseScheduleResponse,
    ResumeScheduleRequest, ResumeScheduleResponse, Schedule,
};
use jiff::Timestamp;

use crate::{
    args::ScheduleCommand,
    call,
    failure::Failure,
    lab::Lab,
    output::{Rows, distance},
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
        ScheduleCommand::Pause(args) => {
            let action = format!("pause the schedule of {}", args.backup);
            let request =
                PauseScheduleRequest { backup: args.backup, reason: args.reason, until: None };
            let answer: PauseScheduleResponse =
                lab.call(&action, call::PAUSE_SCHEDULE, request).await?;
            lab.print(call::PAUSE_SCHEDULE, &answer, || {
                rows(lab.now(), answer.schedule.as_slice())
            })?;
        }
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

fn rows(now: Timestamp, schedules: &[Schedule]) -> Rows {
    let head =
        ["backup", "host", "cron", "zone", "next", "last", "next drill", "last drill", "paused"];
    let mut rows = Rows::new(&head, "No schedules in the site file.");
    for schedule in schedules {
        let started = |run: &Option<homelab_proto::controller::v1::Run>| {
            distance(now, run.as_ref().and_then(|run| run.started_at))
        };
        let next = |moment| if schedule.paused { "-".to_owned() } else { distance(now, moment) };
        rows.push(
            &schedule.backup,
            [
                schedule.backup.clone(),
                schedule.host.clone(),
                schedule.cron.clone(),
                schedule.time_zone.clone(),
                next(schedule.next_run_at),
                started(&schedule.last_run),
                next(schedule.next_drill_at),
                started(&schedule.last_drill),
                schedule.pause_reason.clone(),
            ],
        );
    }
    rows
}
