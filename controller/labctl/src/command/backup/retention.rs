//! `labctl backup retention …`.

mod show;

use homelab_common::exit::Exit;
use homelab_proto::controller::v1::{
    AcknowledgeBrakeRequest, AcknowledgeBrakeResponse, ApplyBackupRetentionRequest,
    ApplyBackupRetentionResponse, KeepPolicy, PlanBackupRetentionRequest,
    PlanBackupRetentionResponse, RetentionPlan,
};

pub(crate) use self::show::policy_text;
use self::show::{Asked, calendar_rows, calendars, decision_rows, holds, plan_text, tally};
use crate::{
    args::{AcknowledgeArgs, ApplyArgs, KeepArgs, RetentionCommand},
    ask, call,
    failure::Failure,
    lab::Lab,
    output::{self, Rows},
};

/// Runs one verb on retention.
pub(super) async fn run(lab: &Lab, command: RetentionCommand) -> Result<Exit, Failure> {
    match command {
        RetentionCommand::Plan(args) => {
            let answer = ask_for(lab, &args.backup, args.repository, policy(&args.keep)).await?;
            let asked = asked(&args.keep);
            let text = || each(&answer.plans, |plan| plan_text(plan, asked));
            let rows = || decision_rows(&answer.plans);
            lab.tell(call::PLAN_BACKUP_RETENTION, &answer, rows, text)?;
            Ok(exit_of(&answer.plans))
        }
        RetentionCommand::Calendar(args) => {
            let answer = ask_for(lab, &args.backup, args.repository, policy(&args.keep)).await?;
            let (rows, text) = (|| calendar_rows(&answer.plans), || each(&answer.plans, calendars));
            lab.tell(call::PLAN_BACKUP_RETENTION, &answer, rows, text)?;
            Ok(Exit::Ok)
        }
        RetentionCommand::Apply(args) => apply(lab, args).await,
        RetentionCommand::Acknowledge(args) => acknowledge(lab, args).await,
    }
}

async fn ask_for(
    lab: &Lab,
    backup: &str,
    repository: Option<String>,
    policy: Option<KeepPolicy>,
) -> Result<PlanBackupRetentionResponse, Failure> {
    let action = format!("plan the retention of {backup}");
    let request = PlanBackupRetentionRequest {
        backup: backup.to_owned(),
        repository: repository.unwrap_or_default(),
        policy,
    };
    lab.call(&action, call::PLAN_BACKUP_RETENTION, request).await
}

/// The policy to try; none when nothing of one was said.
fn policy(keep: &KeepArgs) -> Option<KeepPolicy> {
    let counts =
        [keep.last, keep.hourly, keep.daily, keep.weekly, keep.monthly, keep.yearly, keep.floor];
    if counts.iter().all(Option::is_none) && keep.quarantine.is_none() {
        return None;
    }
    let [last, hourly, daily, weekly, monthly, yearly, floor] =
        counts.map(Option::unwrap_or_default);
    let quarantine = keep.quarantine.and_then(|span| prost_types::Duration::try_from(span).ok());
    let time_zone = String::new();
    Some(KeepPolicy { last, hourly, daily, weekly, monthly, yearly, floor, quarantine, time_zone })
}

/// Whose policy was asked for.
fn asked(keep: &KeepArgs) -> Asked {
    if policy(keep).is_some() { Asked::Tried } else { Asked::Declared }
}

fn each(plans: &[RetentionPlan], text: impl Fn(&RetentionPlan) -> String) -> String {
    if plans.is_empty() {
        return "No repository holds a verified snapshot of it: labctl backup run NAME\n"
            .to_owned();
    }
    plans.iter().map(text).collect::<Vec<_>>().join("\n")
}

/// A brake shuts the gate.
fn exit_of(plans: &[RetentionPlan]) -> Exit {
    let is_braked = plans.iter().flat_map(|plan| &plan.brakes).any(holds);
    if is_braked { Exit::GateShut } else { Exit::Ok }
}

async fn apply(lab: &Lab, args: ApplyArgs) -> Result<Exit, Failure> {
    let answer = ask_for(lab, &args.backup, args.repository.clone(), None).await?;
    let wanted: Vec<_> = answer
        .plans
        .iter()
        .filter(|plan| args.digest.as_deref().is_none_or(|digest| plan.digest == digest))
        .collect();
    if let Some(digest) = args.digest.as_deref().filter(|_| wanted.is_empty()) {
        let words =
            format!("no plan has the digest {digest} any more: something has changed since");
        return Err(Failure::new(Exit::Failed, words)
            .next(format!("labctl backup retention plan {}", args.backup)));
    }
    let applicable: Vec<_> = wanted.iter().filter(|plan| plan.applicable).copied().collect();
    let braked = wanted.iter().flat_map(|plan| &plan.brakes).any(holds);
    if !lab.for_programs() {
        for plan in &wanted {
            output::say(plan_text(plan, Asked::Declared).trim_end());
        }
    }
    if !applicable.is_empty() && args.digest.is_none() && !args.yes && !lab.global.dry_run {
        let instead = format!("labctl backup retention apply {} --yes", args.backup);
        let question = format!("{} snapshots of {}", given_up(&applicable), args.backup);
        ask::confirm(lab, &question, &args.backup, &instead)?;
    }
    let mut done = ApplyBackupRetentionResponse::default();
    for plan in &applicable {
        let one = carry_out(lab, plan).await?;
        done.quarantined += one.quarantined;
        done.deleted += one.deleted;
    }
    lab.print(call::APPLY_BACKUP_RETENTION, &done, || {
        let mut rows = Rows::new(&["given up", "deleted"], "");
        rows.push(&args.backup, [done.quarantined.to_string(), done.deleted.to_string()]);
        rows
    })?;
    if lab.global.dry_run && !applicable.is_empty() {
        output::say("only checked: the plan still holds, and nothing was done");
    }
    Ok(if braked { Exit::GateShut } else { Exit::Ok })
}

fn given_up(plans: &[&RetentionPlan]) -> String {
    let (mut quarantined, mut deleted) = (0, 0);
    for plan in plans {
        let tally = tally(plan);
        quarantined += tally.quarantine;
        deleted += tally.delete;
    }
    format!("Give up {quarantined} and delete {deleted}")
}

async fn carry_out(
    lab: &Lab,
    plan: &RetentionPlan,
) -> Result<ApplyBackupRetentionResponse, Failure> {
    let action = format!("apply the plan for {} in {}", plan.backup, plan.repository);
    let request = ApplyBackupRetentionRequest {
        backup: plan.backup.clone(),
        repository: plan.repository.clone(),
        digest: plan.digest.clone(),
        validate_only: lab.global.dry_run,
    };
    lab.call(&action, call::APPLY_BACKUP_RETENTION, request).await
}

async fn acknowledge(lab: &Lab, args: AcknowledgeArgs) -> Result<Exit, Failure> {
    let action = format!("let go the brake {} of {}", args.brake, args.backup);
    let next = format!("next: labctl backup retention plan {}", args.backup);
    let request = AcknowledgeBrakeRequest {
        backup: args.backup,
        brake: args.brake,
        subject: args.subject,
        reason: args.reason,
    };
    let answer: AcknowledgeBrakeResponse =
        lab.call(&action, call::ACKNOWLEDGE_BRAKE, request).await?;
    lab.print(call::ACKNOWLEDGE_BRAKE, &answer, || {
        let mut rows = Rows::new(&["brake", "shown by", "let go by"], "");
        if let Some(brake) = &answer.brake {
            let cells =
                [brake.reason.clone(), brake.subject.clone(), brake.acknowledged_by.clone()];
            rows.push(&brake.reason, cells);
        }
        rows
    })?;
    output::say(&next);
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn nothing_said_is_the_policy_of_the_site_file() {
        assert_eq!(policy(&KeepArgs::default()), None);
        let keep = KeepArgs {
            daily: Some(7),
            quarantine: Some(Duration::from_secs(60)),
            ..KeepArgs::default()
        };
        let tried = policy(&keep).expect("a policy");
        assert_eq!((tried.daily, tried.weekly), (7, 0));
        assert_eq!(tried.quarantine.map(|span| span.seconds), Some(60));
    }
}
