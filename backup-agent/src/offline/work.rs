//! Commands that need a source or a drill target: an agent of their own does them, by
//! the same code as the daemon's.

use std::sync::Arc;

use homelab_common::{
    chance::SystemChance, clock::SystemClock, exec::SystemExec, lifecycle::Tasks,
};

use super::{OfflineError, find, find_snapshot, private::PrivateFolder, unknown};
use crate::{
    agent::{Agent, AgentError, CopyState, DrillRequest},
    app::{self, Deps},
    config::Config,
    drill::{Report, Verdict},
    ids::RunId,
    runs::{End, Watched},
};

/// Runs a backup once, into its repository or its spool; copies follow when a daemon
/// runs again.
///
/// # Errors
///
/// Why nothing was kept.
pub async fn back_up(config: &Config, name: &str) -> Result<String, OfflineError> {
    let alone = Alone::for_backup(config, name)?;
    let begun = alone.agent.run_backup(alone.agent.new_run(), name).await;
    match end_of(begun?).await? {
        End::Backup(backed) => Ok(format!(
            "stored and proved as snapshot {} in repository `{}`, {} bytes\n{}",
            backed.snapshot.id,
            backed.repository,
            backed.snapshot.source_bytes(),
            lines("! ", &backed.snapshot.summary.warnings)
        )),
        other => Err(unexpected(other)),
    }
}

/// Copies what is still to be copied of a backup: out of its spool, and to its further
/// repositories.
///
/// # Errors
///
/// It could not be done everywhere.
pub async fn copy(config: &Config, name: &str) -> Result<String, OfflineError> {
    let alone = Alone::for_backup(config, name)?;
    alone.agent.catch_up_all().await;
    let mut text = String::new();
    let mut is_complete = true;
    for standing in alone.agent.standings(name).await? {
        let state = match &standing.state {
            CopyState::Stored => "has the newest run".to_owned(),
            CopyState::Idle => "need not have any".to_owned(),
            CopyState::Waiting => "still lacks the newest run".to_owned(),
            CopyState::Failed(failure) | CopyState::Unknown(failure) => failure.message.clone(),
        };
        is_complete &= matches!(standing.state, CopyState::Stored | CopyState::Idle);
        let (repository, snapshots) = (&standing.repository, standing.snapshots);
        text.push_str(&format!("{repository}: {snapshots} snapshots, {state}\n"));
    }
    if is_complete { Ok(text) } else { Err(OfflineError::Unsound(text)) }
}

/// Drills one snapshot of a repository on a target.
///
/// # Errors
///
/// It could not be done, or did not pass.
pub async fn drill(
    config: &Config,
    repository: &str,
    snapshot: &str,
    target: &str,
) -> Result<String, OfflineError> {
    let (searched, name, wanted) = (config.clone(), repository.to_owned(), snapshot.to_owned());
    let found = crate::blocking::run(move || {
        let repository = find(&searched, &name)?;
        find_snapshot(&repository, &name, &wanted)
    })
    .await?;
    let mut own = config.clone();
    own.backups.clear();
    own.repositories.retain(|entry| entry.name.as_str() == repository);
    own.targets.retain(|entry| entry.name.as_str() == target);
    if own.targets.is_empty() {
        let known = config.targets.iter().map(|entry| entry.name.as_str());
        return Err(unknown("drill target", target, known));
    }
    let alone = Alone::new(&own)?;
    let request = DrillRequest {
        backup: found.backup.to_string(),
        snapshot: found.id.to_string(),
        target: target.to_owned(),
        repository: repository.to_owned(),
    };
    let begun: Result<Watched, AgentError> =
        alone.agent.drill(alone.agent.new_run(), request).await;
    match end_of(begun?).await? {
        End::Drill(report) => judged(&report),
        other => Err(unexpected(other)),
    }
}

fn judged(report: &Report) -> Result<String, OfflineError> {
    let compared: Vec<String> =
        report.compared.iter().map(|it| format!("{} {}", it.count, it.what)).collect();
    let what = format!(
        "snapshot {} of `{}`, restored in {:.1} s, compared: {}",
        report.snapshot,
        report.backup,
        report.restore_elapsed.as_secs_f64(),
        compared.join(", ")
    );
    match &report.verdict {
        Verdict::Passed => Ok(format!("passed: {what}\n")),
        Verdict::Failed { differences } => {
            Err(OfflineError::Unsound(format!("failed: {what}\n{}", lines("- ", differences))))
        }
        Verdict::Unverified { because } => Err(OfflineError::Unsound(format!(
            "neither passed nor failed: {what}\n{}",
            lines("- ", because)
        ))),
    }
}

fn lines(before: &str, texts: &[String]) -> String {
    texts.iter().map(|text| format!("{before}{text}\n")).collect()
}

async fn end_of(mut watched: Watched) -> Result<End, OfflineError> {
    let ended = watched.end.wait_for(Option::is_some).await.ok().and_then(|end| end.clone());
    // The agent lives as long as this is awaited, and so does the run.
    let Some(ended) = ended else { return Err(OfflineError::Unsound("the run was lost".into())) };
    match &ended.end {
        End::Failed(failure) => Err(OfflineError::Failed { failure: failure.clone() }),
        end => Ok(end.clone()),
    }
}

fn unexpected(end: End) -> OfflineError {
    OfflineError::Unsound(format!("the run ended as another kind of run would: {end:?}"))
}

/// An agent with a private folder, which goes with it.
struct Alone {
    agent: Agent,
    _folder: PrivateFolder,
}

impl Alone {
    /// With what one backup needs and nothing else.
    fn for_backup(config: &Config, name: &str) -> Result<Self, OfflineError> {
        let mut own = config.clone();
        own.backups.retain(|entry| entry.name.as_str() == name);
        let Some(entry) = own.backups.first() else {
            let known = config.backups.iter().map(|entry| entry.name.as_str());
            return Err(unknown("backup", name, known));
        };
        let mut places = entry.copies.clone();
        places.push(entry.repository.clone());
        places.extend(entry.spool.clone());
        own.repositories.retain(|entry| places.contains(&entry.name));
        own.targets.clear();
        Self::new(&own)
    }

    fn new(config: &Config) -> Result<Self, OfflineError> {
        let run = RunId::generate(&SystemClock, &SystemChance);
        let parent = std::env::temp_dir();
        let folder = PrivateFolder::make(&parent, run)
            .map_err(|source| OfflineError::Scratch { folder: parent, source })?;
        let deps = Deps {
            tasks: Tasks::default(),
            clock: Arc::new(SystemClock),
            chance: Arc::new(SystemChance),
            exec: Arc::new(SystemExec),
            log: None,
        };
        let agent = app::bare(config, &deps, folder.path())?;
        Ok(Self { agent, _folder: folder })
    }
}
