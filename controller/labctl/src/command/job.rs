//! `labctl job …` and `labctl ask`.

use std::io::Read as _;

use homelab_common::exit::Exit;
use homelab_proto::{
    controller::v1::{
        CancelJobRequest, CancelJobResponse, ContextWish, ExplainJobRequest, ExplainJobResponse,
        GetJobRequest, GetJobResponse, Job, JobClass, JobExplanation, JobRecord, JobState,
        ListJobsRequest, ListJobsResponse, PlanJobsRequest, PlanJobsResponse, QueuePlan,
        RetryJobRequest, RetryJobResponse, SubmitJobRequest, SubmitJobResponse, Tier,
        WatchJobRequest, WatchJobResponse, watch_job_response::Event,
    },
    inference::v1::{ChatMessage, ChatRole},
};
use jiff::Timestamp;

use crate::{
    args::{AskArgs, ClassWord, JobCommand, JobListArgs, SubmitArgs, TierWord},
    call,
    failure::Failure,
    lab::Lab,
    output::{self, Rows, distance, word},
};

/// Most bytes of a question that is read from standard input.
const PROMPT_BYTES_MAX: u64 = 4 << 20;

const HEAD: [&str; 7] = ["job", "state", "tier", "model", "submitted", "worker", "why"];

/// Runs one verb on jobs.
///
/// # Errors
/// As the call behind it.
pub async fn run(lab: &Lab, command: JobCommand) -> Result<Exit, Failure> {
    match command {
        JobCommand::Submit(args) => {
            let request = on_terms(lab.now(), &args, request(lab, &args.ask)?);
            let answer: SubmitJobResponse =
                lab.call("submit a job", call::SUBMIT_JOB, request).await?;
            if lab.global.dry_run && !lab.for_programs() {
                output::write(&explanation(answer.explanation.as_ref()))?;
                return Ok(Exit::Ok);
            }
            lab.print(call::SUBMIT_JOB, &answer, || rows(lab.now(), answer.job.as_slice()))?;
            Ok(Exit::Ok)
        }
        JobCommand::List(args) => list(lab, args).await,
        JobCommand::Show(args) => show(lab, args.job).await,
        JobCommand::Explain(args) => explain(lab, args.job).await,
        JobCommand::Watch(args) => follow(lab, &args.job).await,
        JobCommand::Cancel(args) => {
            let action = format!("cancel job {}", args.job);
            let request = CancelJobRequest { job_id: args.job };
            let answer: CancelJobResponse = lab.call(&action, call::CANCEL_JOB, request).await?;
            lab.print(call::CANCEL_JOB, &answer, || rows(lab.now(), answer.job.as_slice()))?;
            Ok(Exit::Ok)
        }
        JobCommand::Retry(args) => {
            let action = format!("retry job {}", args.job);
            let request = RetryJobRequest { request_id: lab.request_id(), job_id: args.job };
            let answer: RetryJobResponse = lab.call(&action, call::RETRY_JOB, request).await?;
            lab.print(call::RETRY_JOB, &answer, || rows(lab.now(), answer.job.as_slice()))?;
            Ok(Exit::Ok)
        }
    }
}

/// Asks a model and prints its answer as it comes.
///
/// # Errors
/// As the calls behind it.
pub async fn ask(lab: &Lab, args: AskArgs) -> Result<Exit, Failure> {
    let request = request(lab, &args)?;
    let answer: SubmitJobResponse = lab.call("submit a job", call::SUBMIT_JOB, request).await?;
    let Some(job) = &answer.job else {
        return Err(Failure::new(Exit::Unknown, "submit a job: the answer names no job")
            .next("labctl job list"));
    };
    if lab.global.dry_run {
        output::write(&explanation(answer.explanation.as_ref()))?;
        return Ok(Exit::Ok);
    }
    follow(lab, &job.job_id).await
}

/// Says what will be done with everything that waits.
///
/// # Errors
/// As the call behind it.
pub async fn plan(lab: &Lab) -> Result<Exit, Failure> {
    let answer: PlanJobsResponse =
        lab.call("plan the jobs", call::PLAN_JOBS, PlanJobsRequest {}).await?;
    lab.print(call::PLAN_JOBS, &answer, || plan_rows(&answer.queues))?;
    Ok(Exit::Ok)
}

fn plan_rows(queues: &[QueuePlan]) -> Rows {
    let head = ["model", "tier", "waiting", "running", "slots", "next in", "done in", "decision"];
    let mut rows = Rows::new(&head, "No job waits or runs: labctl ask 'hello'");
    for queue in queues {
        let why = queue.reasons.first().map(|why| format!(": {why}")).unwrap_or_default();
        let waiting = match queue.interactive {
            0 => queue.waiting.to_string(),
            waited_for => format!("{} ({waited_for} awaited)", queue.waiting),
        };
        rows.push(
            &queue.model,
            [
                queue.model.clone(),
                word(queue.tier().as_str_name(), "TIER"),
                waiting,
                queue.running.to_string(),
                queue.slots.to_string(),
                output::span(queue.expected_wait),
                output::span(queue.expected_end),
                format!("{}{why}", queue.decision),
            ],
        );
    }
    rows
}

/// What only `job submit` can say.
fn on_terms(now: Timestamp, args: &SubmitArgs, request: SubmitJobRequest) -> SubmitJobRequest {
    let class = match args.class {
        ClassWord::Interactive => JobClass::Interactive,
        ClassWord::Batch => JobClass::Batch,
        ClassWord::Background => JobClass::Background,
    };
    SubmitJobRequest {
        class: class.into(),
        chat: args.chat.clone(),
        tags: args.tags.clone(),
        latest_start: args.start_within.and_then(|within| deadline(now, within)),
        after: args.after.clone(),
        context: wish(&args.with_context),
        kept_for: args.keep_for.and_then(|time| time.try_into().ok()),
        ..request
    }
}

/// Documents to put before a job. A flag without a name means all sources.
fn wish(sources: &[String]) -> Option<ContextWish> {
    let all = sources.iter().any(String::is_empty);
    let sources = if all { Vec::new() } else { sources.to_vec() };
    (all || !sources.is_empty()).then(|| ContextWish { sources, ..ContextWish::default() })
}

fn request(lab: &Lab, args: &AskArgs) -> Result<SubmitJobRequest, Failure> {
    Ok(SubmitJobRequest {
        request_id: lab.request_id(),
        validate_only: lab.global.dry_run,
        model: args.model.clone(),
        tier: tier(args.tier).into(),
        messages: messages(args)?,
        priority: args.priority,
        deadline: args.within.and_then(|within| deadline(lab.now(), within)),
        tokens_max: args.tokens_max,
        record: if args.private { JobRecord::Metadata } else { JobRecord::Full }.into(),
        ..SubmitJobRequest::default()
    })
}

/// Follows a job: its text to standard output, its states to standard error.
async fn follow(lab: &Lab, job_id: &str) -> Result<Exit, Failure> {
    let action = format!("follow job {job_id}");
    let request = WatchJobRequest { job_id: job_id.to_owned(), ..WatchJobRequest::default() };
    let mut stream = lab.stream::<_, WatchJobResponse>(&action, call::WATCH_JOB, request).await?;
    let mut shown = false;
    loop {
        let answer = stream
            .message()
            .await
            .map_err(|status| Failure::from_status(&action, &status, true))?;
        let Some(answer) = answer else { break };
        match &answer.event {
            Some(Event::Delta(delta)) if !lab.for_programs() => {
                shown |= !delta.content.is_empty();
                output::write(&delta.content)?;
            }
            Some(Event::State(event)) if !shown && !event.message.is_empty() => {
                output::say(&format!(
                    "  {}: {}",
                    word(event.state().as_str_name(), "JOB_STATE"),
                    event.message
                ));
            }
            Some(Event::Job(job)) => return ended(lab, &answer, job, shown),
            Some(Event::Delta(_) | Event::State(_) | Event::RestartedAttempt(_)) | None => (),
        }
    }
    Err(Failure::new(Exit::Unknown, format!("{action}: the answer broke off before its end"))
        .next(format!("labctl job show {job_id}")))
}

fn ended(lab: &Lab, answer: &WatchJobResponse, job: &Job, shown: bool) -> Result<Exit, Failure> {
    if shown {
        output::write("\n")?;
    } else if !lab.for_programs() && !job.answer.is_empty() {
        // It had ended before its text could be followed.
        output::write(&format!("{}\n", job.answer))?;
    }
    if lab.for_programs() {
        lab.print(call::WATCH_JOB, answer, || rows(lab.now(), std::slice::from_ref(job)))?;
    }
    match job.state() {
        JobState::Succeeded => Ok(Exit::Ok),
        state => {
            let state = word(state.as_str_name(), "JOB_STATE");
            Err(Failure::new(Exit::Failed, format!("job {} {state}: {}", job.job_id, job.message))
                .next(format!("labctl job explain {0}, then labctl job retry {0}", job.job_id)))
        }
    }
}

async fn list(lab: &Lab, args: JobListArgs) -> Result<Exit, Failure> {
    let open = [JobState::Queued, JobState::Waiting, JobState::Assigned, JobState::Running];
    let request = ListJobsRequest {
        states: if args.open { open.map(i32::from).to_vec() } else { Vec::new() },
        page_size: args.limit.into(),
        ..ListJobsRequest::default()
    };
    let answer: ListJobsResponse = lab.call("list jobs", call::LIST_JOBS, request).await?;
    lab.print(call::LIST_JOBS, &answer, || rows(lab.now(), &answer.jobs))?;
    Ok(Exit::Ok)
}

async fn show(lab: &Lab, job_id: String) -> Result<Exit, Failure> {
    let action = format!("show job {job_id}");
    let answer: GetJobResponse = lab.call(&action, call::GET_JOB, GetJobRequest { job_id }).await?;
    if lab.for_programs() {
        lab.print(call::GET_JOB, &answer, || rows(lab.now(), answer.job.as_slice()))?;
        return Ok(Exit::Ok);
    }
    let mut text = String::new();
    for event in &answer.events {
        let state = word(event.state().as_str_name(), "JOB_STATE");
        text.push_str(&format!(
            "{:12} {state:10} {}\n",
            distance(lab.now(), event.at),
            event.message
        ));
    }
    if let Some(job) = &answer.job {
        if let Some(cost) = cost(job) {
            text.push_str(&format!("{:12} {cost}\n", "cost"));
        }
        text.push_str(&format!("\n{}\n", job.answer));
        text.push_str(&super::ai::context::cited(&job.citations));
    }
    output::write(&text)?;
    Ok(Exit::Ok)
}

/// `12 tokens read, 128 written, 35.2 J`, as far as that was measured.
fn cost(job: &Job) -> Option<String> {
    let usage = job.usage.as_ref()?;
    let read = usage.prompt_tokens.map(|tokens| format!("{tokens} tokens read"));
    let written = usage.completion_tokens.map(|tokens| format!("{tokens} written"));
    let energy = usage.energy_joules.map(|joules| {
        if joules < 3_600.0 {
            format!("{joules:.1} J")
        } else {
            format!("{:.1} Wh", joules / 3_600.0)
        }
    });
    let parts: Vec<String> = [read, written, energy].into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

async fn explain(lab: &Lab, job_id: String) -> Result<Exit, Failure> {
    let action = format!("explain job {job_id}");
    let answer: ExplainJobResponse =
        lab.call(&action, call::EXPLAIN_JOB, ExplainJobRequest { job_id }).await?;
    if lab.for_programs() {
        lab.print(call::EXPLAIN_JOB, &answer, || rows(lab.now(), answer.job.as_slice()))?;
    } else {
        output::write(&explanation(answer.explanation.as_ref()))?;
    }
    Ok(Exit::Ok)
}

fn explanation(explanation: Option<&JobExplanation>) -> String {
    let Some(explanation) = explanation else { return "No explanation was given.\n".to_owned() };
    let mut text = format!("{}\n", explanation.decision);
    for reason in &explanation.reasons {
        text.push_str(&format!("  because {reason}\n"));
    }
    for place in &explanation.destinations {
        text.push_str(&format!("  text may go to {place}\n"));
    }
    for line in &explanation.outside {
        text.push_str(&format!("  outside: {line}\n"));
    }
    if let Some(position) = explanation.position {
        text.push_str(&format!("  place in the queue: {position}\n"));
    }
    if explanation.expected_wait.is_some() {
        text.push_str(&format!("  expected wait: {}\n", output::span(explanation.expected_wait)));
    }
    text
}

fn rows(now: Timestamp, jobs: &[Job]) -> Rows {
    let mut rows = Rows::new(&HEAD, "No jobs yet: labctl ask 'hello'");
    for job in jobs {
        rows.push(
            &job.job_id,
            [
                job.job_id.clone(),
                word(job.state().as_str_name(), "JOB_STATE"),
                word(job.tier().as_str_name(), "TIER"),
                job.model.clone(),
                distance(now, job.submitted_at),
                job.worker.clone(),
                job.message.clone(),
            ],
        );
    }
    rows
}

fn messages(args: &AskArgs) -> Result<Vec<ChatMessage>, Failure> {
    let prompt = if args.prompt == "-" { from_stdin()? } else { args.prompt.clone() };
    let system = args.system.iter().map(|text| (ChatRole::System, text.clone()));
    let user = std::iter::once((ChatRole::User, prompt));
    Ok(system
        .chain(user)
        .map(|(role, content)| ChatMessage { role: role.into(), content })
        .collect())
}

/// A text from standard input.
///
/// # Errors
/// It cannot be read, or is larger than 4 MiB.
pub(super) fn from_stdin() -> Result<String, Failure> {
    let mut text = String::new();
    let read = std::io::stdin().lock().take(PROMPT_BYTES_MAX + 1).read_to_string(&mut text);
    match read {
        Err(error) => {
            Err(Failure::new(Exit::Usage, format!("read the text from standard input: {error}")))
        }
        Ok(_) if text.len() as u64 > PROMPT_BYTES_MAX => {
            Err(Failure::new(Exit::Usage, "the text on standard input is larger than 4 MiB"))
        }
        Ok(_) => Ok(text),
    }
}

fn deadline(now: Timestamp, within: std::time::Duration) -> Option<prost_types::Timestamp> {
    let at = now.checked_add(within).ok()?;
    Some(prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() })
}

fn tier(word: Option<TierWord>) -> Tier {
    match word {
        None => Tier::Unspecified,
        Some(TierWord::Bronze) => Tier::Bronze,
        Some(TierWord::Silver) => Tier::Silver,
        Some(TierWord::Gold) => Tier::Gold,
    }
}

#[cfg(test)]
mod tests {
    use homelab_proto::inference::v1::Usage;

    use super::*;

    #[test]
    fn what_a_job_cost_is_told_as_far_as_it_was_measured() {
        let job = |usage| Job { usage, ..Job::default() };
        assert_eq!(cost(&job(None)), None);
        assert_eq!(cost(&job(Some(Usage::default()))), None);
        let usage = Usage {
            prompt_tokens: Some(12),
            completion_tokens: Some(128),
            energy_joules: Some(35.21),
            ..Usage::default()
        };
        assert_eq!(cost(&job(Some(usage))).as_deref(), Some("12 tokens read, 128 written, 35.2 J"));
        let much = Usage { energy_joules: Some(7_200.0), ..Usage::default() };
        assert_eq!(cost(&job(Some(much))).as_deref(), Some("2.0 Wh"));
    }
}
