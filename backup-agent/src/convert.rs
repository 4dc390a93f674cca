//! Between our terms and the protocol's: nothing else knows both.

mod network;
mod trees;

use std::time::Duration;

use homelab_common::error_chain::Chain;
use homelab_proto::{
    backup::v1 as pb,
    common::v1::{Condition, ConditionStatus, Failure as PbFailure, Progress as PbProgress},
};
use homelab_rpc::{
    node::to_proto,
    status::{Failure as Refusal, Reason, fail, internal},
};
use tonic::{Code, Status};

use crate::{
    agent::{Agent, AgentError, CopyRole, CopyStanding, CopyState, Kept, Listed, Noun, Standing},
    backup::Backed,
    drill::{self, Verdict},
    failure::Failure,
    ids::{Name, RunId, SnapshotId},
    manifest::{Contents, FILE_NAME as MANIFEST, Manifest},
    progress::Step,
    repository::{
        Applied, Depth, OrderMode, Part, Probed, Pruned, RetentionOrder, Snapshot, SourceKind,
        StoredFile,
        identity::{GuardError, Transport},
        probe::Grade,
        storage::access::Access,
    },
    restore::Restored,
    runs::Refused,
    source::{
        git::PushedBack,
        postgres::{
            DATABASE_FILE,
            manifest::{DatabaseContents, PostgresContents, StoredDatabase},
        },
        rights::{Explained, RightState, Tried},
        zfs::manifest::ZfsContents,
    },
    verify::Verification,
};

/// Into so many parts the data of a repository may be divided: one for each day of a year.
const PARTS_MAX: u32 = 365;

/// A caller's run identifier; `None` when the agent shall choose one.
///
/// # Errors
///
/// It is no UUID.
pub fn request_id(text: &str) -> Result<Option<RunId>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    run_id("request_id", text).map(Some)
}

/// A run identifier that must be there.
///
/// # Errors
///
/// It is no UUID.
pub fn run_id(field: &str, text: &str) -> Result<RunId, Status> {
    text.parse().map_err(|error: crate::ids::InvalidRunId| {
        Refusal::invalid(format!("`{field}`: {error}")).field(field, error.to_string()).into()
    })
}

/// How far a run has come.
#[must_use]
pub fn progress(step: Step) -> PbProgress {
    PbProgress {
        step: step.stage.to_string(),
        done_bytes: Some(step.done_bytes),
        total_bytes: step.total_bytes,
        done_items: None,
        total_items: None,
    }
}

/// A run that failed.
#[must_use]
pub fn failure(failure: &Failure) -> PbFailure {
    PbFailure {
        reason: failure.reason.to_string(),
        message: failure.message.clone(),
        retryable: failure.retryable,
    }
}

/// A run that stored and proved, with its manifest.
#[must_use]
pub fn backed(backed: &Backed) -> pb::Snapshot {
    let mut message = snapshot(&backed.repository, &backed.snapshot);
    message.manifest = Some(manifest(&backed.manifest));
    message
}

/// A snapshot, without its manifest.
#[must_use]
pub fn snapshot(repository: &Name, snapshot: &Snapshot) -> pb::Snapshot {
    pb::Snapshot {
        id: snapshot.id.to_string(),
        backup: snapshot.backup.to_string(),
        repository: repository.to_string(),
        source_kind: source_kind(snapshot.kind).into(),
        host: snapshot.host.clone(),
        run_id: snapshot.run.to_string(),
        taken_at: Some(to_proto(snapshot.taken_at)),
        verified_at: Some(to_proto(snapshot.verified_at)),
        source_bytes: snapshot.source_bytes(),
        stored_bytes: snapshot.added_bytes,
        sha256: main_file(snapshot).map(|file| file.sha256.to_string()).unwrap_or_default(),
        elapsed: Some(duration(snapshot.elapsed)),
        manifest: None,
        files: snapshot
            .files
            .iter()
            .map(|file| stored_file(snapshot.path_of(&file.name), file))
            .collect(),
        warnings: snapshot.summary.warnings.clone(),
        durability: pb::Durability::Unspecified.into(),
        items: snapshot.summary.items,
        quarantined_at: None,
        needs: snapshot.summary.needs.iter().map(ToString::to_string).collect(),
    }
}

/// A snapshot of a listing.
#[must_use]
pub fn listed(listed: &Listed) -> pb::Snapshot {
    let message = snapshot(&listed.repository, &listed.snapshot);
    pb::Snapshot { quarantined_at: listed.quarantined_at.map(to_proto), ..message }
}

/// The file that matters most: the largest, the manifest aside.
fn main_file(snapshot: &Snapshot) -> Option<&StoredFile> {
    let files = snapshot.files.iter().filter(|file| file.name != MANIFEST);
    snapshot.file(DATABASE_FILE).or_else(|| files.max_by_key(|file| file.bytes))
}

/// What a verification found.
#[must_use]
pub fn verification(
    found: &Verification,
    finished_at: jiff::Timestamp,
    elapsed: Duration,
) -> pb::VerificationReport {
    let part = found.scrubbed.as_ref();
    pb::VerificationReport {
        part: part.map_or(0, |part| part.part + 1),
        parts: part.map_or(0, |part| part.of),
        bytes_read: part.map_or(0, |part| part.bytes),
        sound: found.problems.is_empty(),
        problems: found.problems.clone(),
        snapshots: found.snapshots,
        finished_at: Some(to_proto(finished_at)),
        elapsed: Some(duration(elapsed)),
    }
}

/// What was restored.
#[must_use]
pub fn restored(restored: &Restored, elapsed: Duration) -> pb::RestoreReport {
    let folder = restored.target.display().to_string();
    pb::RestoreReport {
        files: restored
            .files
            .iter()
            .map(|file| stored_file(format!("{folder}/{}", file.name), file))
            .collect(),
        target: folder,
        elapsed: Some(duration(elapsed)),
        next_steps: restored.next_steps.clone(),
        kept_aside: restored
            .kept_aside
            .as_ref()
            .map(|path| path.display().to_string())
            .unwrap_or_default(),
        damaged: restored.damaged.clone(),
    }
}

/// The evidence of a drill.
#[must_use]
pub fn drill(report: &drill::Report) -> pb::DrillReport {
    let (verdict, findings) = match &report.verdict {
        Verdict::Passed => (pb::DrillVerdict::Passed, Vec::new()),
        Verdict::Failed { differences } => (pb::DrillVerdict::Failed, differences.clone()),
        Verdict::Unverified { because } => (pb::DrillVerdict::Unverified, because.clone()),
    };
    pb::DrillReport {
        verdict: verdict.into(),
        findings,
        snapshot_id: report.snapshot.to_string(),
        snapshot_age: Some(duration(report.snapshot_age)),
        target: report.target.to_string(),
        restore_elapsed: Some(duration(report.restore_elapsed)),
        elapsed: Some(duration(report.elapsed)),
        finished_at: Some(to_proto(report.finished_at)),
        tables: u32::try_from(report.count("tables")).unwrap_or(u32::MAX),
        rows: report.count("rows"),
        backup: report.backup.to_string(),
        compared: report
            .compared
            .iter()
            .map(|compared| pb::Compared { what: compared.what.to_owned(), count: compared.count })
            .collect(),
        evidence_digest: report.evidence.to_string(),
        repository: report.repository.to_string(),
        snapshot_taken_at: Some(to_proto(report.taken_at)),
        source_host: report.source_host.clone(),
        host: report.host.clone(),
    }
}

/// How a repository stands.
#[must_use]
pub fn repository(name: &Name, kept: &Kept, standing: &Standing) -> pb::Repository {
    let newest = standing.snapshots.as_ref().and_then(|all| all.first());
    let waits = |snapshot: &&Snapshot| standing.spool_of.contains(&snapshot.backup);
    let waiting: Vec<_> = standing.snapshots.iter().flatten().filter(waits).collect();
    pb::Repository {
        name: name.to_string(),
        path: kept.path.display().to_string(),
        identity: match &standing.guard {
            Ok(()) => kept.id.to_string(),
            Err(AgentError::Guard(GuardError::OtherRepository { found, .. })) => found.to_string(),
            Err(_) => String::new(),
        },
        conditions: conditions(standing),
        snapshots: standing
            .snapshots
            .as_ref()
            .map(|all| u32::try_from(all.len()).unwrap_or(u32::MAX)),
        available_bytes: standing.available_bytes,
        newest_at: newest.map(|snapshot| to_proto(snapshot.taken_at)),
        stored_bytes: standing.stored_bytes,
        access: access(kept.repository.access()).into(),
        transport: transport(kept.repository.transport()).into(),
        durability: standing.place.as_ref().map_or(pb::Durability::Unspecified, durability).into(),
        durability_findings: standing.place.as_ref().map(findings).unwrap_or_default(),
        medium: kept.whereabouts.medium.clone(),
        place: kept.whereabouts.place.clone(),
        off_site: kept.whereabouts.off_site,
        spool_of: standing.spool_of.iter().map(Name::to_string).collect(),
        waiting: u32::try_from(waiting.len()).unwrap_or(u32::MAX),
        oldest_waiting_at: waiting.last().map(|snapshot| to_proto(snapshot.taken_at)),
        scrubbed_at: standing.scrubbed_at.map(to_proto),
    }
}

/// How much of a repository to read.
///
/// # Errors
///
/// A part that there is not.
pub fn depth(read_data: bool, (part, parts): (u32, u32)) -> Result<Depth, Status> {
    let invalid = |field: &str, what: &str| -> Status {
        Refusal::invalid(format!("`{field}` is not {what}")).field(field, what.to_owned()).into()
    };
    match (read_data, parts) {
        (_, 1..=PARTS_MAX) if part > parts => Err(invalid("part", "one of `parts`")),
        (_, 1..=PARTS_MAX) => Ok(Depth::Part(Part { part: part.checked_sub(1), of: parts })),
        (_, 366..) => Err(invalid("parts", "at most 365")),
        (_, 0) if part > 0 => Err(invalid("part", "used without `parts`")),
        (true, 0) => Ok(Depth::Data),
        (false, 0) => Ok(Depth::Structure),
    }
}

/// A retention plan.
///
/// # Errors
///
/// A name or an identifier that is none.
pub fn retention_order(request: &pb::ApplyRetentionRequest) -> Result<RetentionOrder, Status> {
    fn invalid(field: &str, error: impl std::fmt::Display) -> Status {
        Refusal::invalid(format!("`{field}`: {error}")).field(field, error.to_string()).into()
    }
    let ids = |field: &str, ids: &[String]| -> Result<Vec<SnapshotId>, Status> {
        ids.iter().map(|id| id.parse().map_err(|error| invalid(field, error))).collect()
    };
    // Absent is no quarantine at all, which nobody means.
    let quarantine_min = request
        .quarantine_min
        .and_then(|span| Duration::try_from(span).ok())
        .ok_or_else(|| invalid("quarantine_min", "a duration that is not negative"))?;
    Ok(RetentionOrder {
        backup: request.backup.parse().map_err(|error| invalid("backup", error))?,
        expected: ids("expected", &request.expected)?,
        quarantine: ids("quarantine", &request.quarantine)?,
        rescue: ids("rescue", &request.rescue)?,
        delete: ids("delete", &request.delete)?,
        quarantine_min,
        floor: usize::try_from(request.floor).unwrap_or(usize::MAX),
        mode: if request.validate_only { OrderMode::Check } else { OrderMode::Apply },
    })
}

/// What a retention plan changed.
#[must_use]
pub fn applied(applied: Applied) -> pb::ApplyRetentionResponse {
    pb::ApplyRetentionResponse {
        forgotten: applied.deleted,
        quarantined: applied.quarantined,
        rescued: applied.rescued,
    }
}

/// What a prune did.
#[must_use]
pub fn pruned(pruned: &Pruned, finished_at: jiff::Timestamp) -> pb::PruneReport {
    pb::PruneReport {
        freed_bytes: pruned.freed_bytes,
        marked_bytes: pruned.marked_bytes,
        repacked_bytes: pruned.repacked_bytes,
        finished_at: Some(to_proto(finished_at)),
    }
}

fn access(access: Access) -> pb::RepositoryAccess {
    match access {
        Access::Full => pb::RepositoryAccess::Full,
        Access::AppendOnly => pb::RepositoryAccess::AppendOnly,
        Access::ReadOnly => pb::RepositoryAccess::ReadOnly,
    }
}

fn transport(transport: Transport) -> pb::RepositoryTransport {
    match transport {
        Transport::Local => pb::RepositoryTransport::Local,
        Transport::Mount => pb::RepositoryTransport::Mount,
        Transport::Sftp => pb::RepositoryTransport::Sftp,
    }
}

fn durability(probed: &Probed) -> pb::Durability {
    match probed.grade {
        Grade::Durable => pb::Durability::Durable,
        Grade::Weak(_) => pb::Durability::Weak,
        Grade::Unsafe(_) => pb::Durability::Unsafe,
    }
}

fn findings(probed: &Probed) -> Vec<String> {
    let mut findings = match &probed.grade {
        Grade::Durable => Vec::new(),
        Grade::Weak(because) => because.clone(),
        Grade::Unsafe(because) => vec![because.clone()],
    };
    findings.extend(probed.moved_from.as_ref().map(|before| {
        format!("it was mounted from {} before; if this is a copy, unmount it", before.source)
    }));
    findings
}

/// How a backup stands in a repository.
#[must_use]
pub fn copy(standing: &CopyStanding) -> pb::Copy {
    let (state, cause) = match &standing.state {
        CopyState::Stored => (pb::CopyState::Stored, None),
        CopyState::Waiting => (pb::CopyState::Waiting, None),
        CopyState::Failed(cause) => (pb::CopyState::Failed, Some(failure(cause))),
        CopyState::Unknown(cause) => (pb::CopyState::Unknown, Some(failure(cause))),
        CopyState::Idle => (pb::CopyState::Unspecified, None),
    };
    let role = match standing.role {
        CopyRole::Primary => pb::CopyRole::Primary,
        CopyRole::Copy => pb::CopyRole::Copy,
        CopyRole::Spool => pb::CopyRole::Spool,
    };
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    pb::Copy {
        backup: standing.backup.to_string(),
        repository: standing.repository.to_string(),
        role: role.into(),
        state: state.into(),
        snapshot_id: standing.newest.as_ref().map(|(id, _)| id.to_string()).unwrap_or_default(),
        newest_at: standing.newest.as_ref().map(|(_, at)| to_proto(*at)),
        snapshots: count(standing.snapshots),
        waiting: count(standing.waiting),
        failure: cause,
    }
}

/// Which rights a backup needs and has.
#[must_use]
pub fn explained(explained: &Explained) -> pb::ExplainAccessResponse {
    let finding = |tried: &Tried| {
        let (status, reason) = match tried.state {
            RightState::Held => (ConditionStatus::True, "AS_EXPECTED"),
            RightState::Missing => (ConditionStatus::False, "RIGHT_MISSING"),
            RightState::Excess => (ConditionStatus::True, "MORE_THAN_NEEDED"),
        };
        let remedy = if tried.remedy.is_empty() { "" } else { "\n" };
        Condition {
            r#type: tried.what.to_owned(),
            status: status.into(),
            reason: reason.to_owned(),
            message: format!("{}{remedy}{}", tried.text, tried.remedy.join("\n")),
            since: None,
        }
    };
    pb::ExplainAccessResponse {
        statements: explained.statements.clone(),
        findings: explained.tried.iter().map(finding).collect(),
    }
}

/// Mirrors that were pushed.
#[must_use]
pub fn pushed(pushed: &[PushedBack], elapsed: Duration) -> pb::PushBackReport {
    pb::PushBackReport {
        mirrors: pushed.iter().map(|mirror| mirror.name.clone()).collect(),
        references: pushed.iter().map(|mirror| mirror.refs).sum(),
        elapsed: Some(duration(elapsed)),
        warnings: Vec::new(),
    }
}

/// What is declared on this host.
#[must_use]
pub fn declared(agent: &Agent) -> pb::ListBackupsResponse {
    let backups = agent.backups.iter().map(|(name, declared)| pb::DeclaredBackup {
        name: name.to_string(),
        source_kind: source_kind(declared.backup.source.kind()).into(),
        repository: declared.backup.repository.name().to_string(),
        copies: declared.copies.iter().map(|copy| copy.name().to_string()).collect(),
        spool: declared.spool.as_ref().map(|spool| spool.name().to_string()).unwrap_or_default(),
        drill_target: declared.drill_target.as_ref().map(Name::to_string).unwrap_or_default(),
    });
    let targets = agent.targets.values().map(|target| pb::DeclaredTarget {
        name: target.name().to_string(),
        kind: target.kind().to_owned(),
    });
    pb::ListBackupsResponse {
        backups: backups.collect(),
        repositories: agent.repositories.keys().map(Name::to_string).collect(),
        targets: targets.collect(),
    }
}

fn conditions(standing: &Standing) -> Vec<Condition> {
    let (mounted, identity) = match &standing.guard {
        Ok(()) => (Some(true), Some(true)),
        Err(AgentError::Guard(
            GuardError::NotMounted { .. }
            | GuardError::WrongFilesystem { .. }
            | GuardError::Unreachable { .. },
        )) => (Some(false), None),
        Err(AgentError::Guard(_)) => (Some(true), Some(false)),
        Err(_) => (None, None),
    };
    let wrong = standing.guard.as_ref().err().map(|error| Chain(error).to_string());
    let has_room = standing.available_bytes.map(|bytes| bytes >= standing.wanted_bytes);
    let room = format!(
        "{} bytes are left, the next run may need {}",
        standing.available_bytes.unwrap_or(0),
        standing.wanted_bytes
    );
    vec![
        condition("Mounted", mounted, "MOUNT_MISSING", wrong.clone()),
        condition("IdentityMatches", identity, "IDENTITY_DIFFERS", wrong.clone()),
        condition(
            "HasRoom",
            has_room,
            "ROOM_SHORT",
            has_room.map(|_| room).or_else(|| wrong.clone()),
        ),
        condition("Writable", standing.writable, "READ_ONLY", wrong),
    ]
}

fn condition(
    kind: &str,
    holds: Option<bool>,
    bad_reason: &str,
    message: Option<String>,
) -> Condition {
    let (status, reason) = match holds {
        Some(true) => (ConditionStatus::True, "AS_EXPECTED"),
        Some(false) => (ConditionStatus::False, bad_reason),
        None => (ConditionStatus::Unknown, "NOT_KNOWN"),
    };
    Condition {
        r#type: kind.to_owned(),
        status: status.into(),
        reason: reason.to_owned(),
        message: message.unwrap_or_default(),
        since: None,
    }
}

fn stored_file(path: String, file: &StoredFile) -> pb::SnapshotFile {
    pb::SnapshotFile { path, size_bytes: file.bytes, sha256: file.sha256.to_string() }
}

fn manifest(manifest: &Manifest) -> pb::Manifest {
    let mut message = pb::Manifest::default();
    match &manifest.contents {
        Contents::Postgres(contents) => message.postgres = Some(postgres(contents)),
        Contents::Files(contents) => message.files = Some(trees::files(contents)),
        Contents::Vaultwarden(contents) => {
            message.vaultwarden = Some(trees::vaultwarden(contents));
            message.postgres = contents.postgres.as_ref().map(postgres);
        }
        Contents::Git(contents) => message.git = Some(network::git(contents)),
        Contents::Opnsense(contents) => {
            message.opnsense = Some(network::opnsense(manifest, contents));
        }
        Contents::Zfs(contents) => message.zfs = Some(zfs(contents, &manifest.files)),
    }
    message
}

fn zfs(contents: &ZfsContents, files: &[StoredFile]) -> pb::ZfsManifest {
    let stream = contents.stream.as_ref();
    let file = stream.and_then(|stream| files.iter().find(|file| file.name == stream.file));
    let sent = contents.replica.as_ref().map(|replica| replica.sent_bytes);
    let dataset = pb::ZfsDataset {
        name: contents.dataset.to_string(),
        guid: contents.guid.0,
        snapshot: contents.snapshot.name.clone(),
        snapshot_guid: contents.snapshot.guid.0,
        base_guid: stream.and_then(|stream| stream.link.from).map(|guid| guid.0),
        raw: contents.encryption.is_some(),
        referenced_bytes: contents.snapshot.referenced_bytes,
        stream_bytes: file.map(|file| file.bytes).or(sent).unwrap_or_default(),
    };
    pb::ZfsManifest { datasets: vec![dataset] }
}

const fn source_kind(kind: SourceKind) -> pb::SourceKind {
    match kind {
        SourceKind::Postgres => pb::SourceKind::Postgres,
        SourceKind::Vaultwarden => pb::SourceKind::Vaultwarden,
        SourceKind::Git => pb::SourceKind::Git,
        SourceKind::Opnsense => pb::SourceKind::Opnsense,
        SourceKind::Zfs => pb::SourceKind::Zfs,
        SourceKind::Files => pb::SourceKind::Files,
    }
}

/// Names carry their database where there are several.
fn postgres(contents: &PostgresContents) -> pb::PostgresManifest {
    let databases = &contents.databases;
    let named = |database: &DatabaseContents, name: &str| match databases.len() {
        1 => name.to_owned(),
        _ => format!("{}: {name}", database.database.name),
    };
    let mut message = pb::PostgresManifest {
        dump_version: contents.dump_version.clone(),
        ..pb::PostgresManifest::default()
    };
    let mut hashes = Vec::new();
    let mut schemas = Vec::new();
    for StoredDatabase { contents, .. } in databases {
        message.tables.extend(contents.tables.iter().map(|table| pb::PostgresTable {
            name: named(contents, &table.name),
            rows: table.rows,
            content_hash: table.hash.clone(),
            owner: table.owner.clone(),
        }));
        message.sequences.extend(contents.sequences.iter().map(|sequence| pb::PostgresSequence {
            name: named(contents, &sequence.name),
            last_value: sequence.before,
        }));
        message.large_objects += contents.large_objects.count;
        hashes.push(contents.large_objects.hash.clone());
        let extensions = contents.extensions.iter();
        message.extensions.extend(extensions.map(|extension| {
            named(contents, &format!("{} {}", extension.name, extension.version))
        }));
        message.roles.extend(contents.roles.iter().cloned());
        schemas.push(contents.schema_hash().to_string());
        message.server_version.clone_from(&contents.database.server_version);
        message.system_identifier.clone_from(&contents.database.system_identifier);
    }
    message.roles.sort();
    message.roles.dedup();
    let names = databases.iter().map(|stored| stored.contents.database.name.as_str());
    message.database = names.collect::<Vec<_>>().join(", ");
    message.large_objects_hash = hashes.join(" ");
    message.schema_hash = schemas.join(" ");
    message
}

/// Durations beyond what the protocol can say do not occur; they would be the longest.
fn duration(duration: Duration) -> prost_types::Duration {
    duration.try_into().unwrap_or(prost_types::Duration { seconds: i64::MAX, nanos: 0 })
}

/// A request that was refused.
#[must_use]
pub fn refused(error: &AgentError, request_id: &str) -> Status {
    let message = Chain(error).to_string();
    let of = |code, reason| fail(code, reason, message.clone());
    match error {
        AgentError::Unknown { noun, .. } => match noun {
            Noun::Backup => of(Code::NotFound, Reason::BACKUP_NOT_FOUND),
            Noun::Repository => of(Code::NotFound, REPOSITORY_NOT_FOUND),
            Noun::Target => of(Code::NotFound, TARGET_NOT_FOUND),
            Noun::Mirror => of(Code::NotFound, MIRROR_NOT_FOUND),
        },
        AgentError::Unnamed { noun, known } => {
            let field = if *noun == Noun::Target { "target" } else { "repository" };
            Refusal::invalid(message).field(field, known.clone()).into()
        }
        AgentError::Ambiguous { .. } => {
            Refusal::invalid(message.clone()).field("snapshot_id", message).into()
        }
        AgentError::NoSnapshot { .. } => of(Code::NotFound, Reason::SNAPSHOT_NOT_FOUND),
        AgentError::NoRun { .. } => of(Code::NotFound, Reason::RUN_NOT_FOUND),
        AgentError::Refused(error) => refused_run(error, &message, request_id),
        AgentError::Hanging { .. } => of(Code::FailedPrecondition, Reason::REPOSITORY_UNAVAILABLE),
        AgentError::Guard(_) => of(Code::FailedPrecondition, Reason::REPOSITORY_UNAVAILABLE),
        AgentError::Repository(error) => failed(&Failure::from(error)),
        AgentError::Restore(error) => failed(&Failure::from(error)),
        AgentError::Drill(error) => failed(&Failure::from(error)),
        AgentError::Backup(error) => failed(&Failure::from(error)),
        AgentError::Source(error) => failed(&Failure::from(error)),
        AgentError::NoGit { .. } => {
            Refusal::invalid(message.clone()).field("backup", message).into()
        }
        AgentError::BadAddress { .. } => {
            Refusal::invalid(message.clone()).field("target_url", message).into()
        }
        AgentError::SameRepository { .. } => {
            Refusal::invalid(message.clone()).field("to", message).into()
        }
    }
}

/// Of a request for something that is not declared here.
const REPOSITORY_NOT_FOUND: Reason = Reason::named("REPOSITORY_NOT_FOUND");
/// The same for mirrored Git repositories.
const MIRROR_NOT_FOUND: Reason = Reason::named("MIRROR_NOT_FOUND");
/// The same for drill targets.
const TARGET_NOT_FOUND: Reason = Reason::named("TARGET_NOT_FOUND");

fn refused_run(error: &Refused, message: &str, request_id: &str) -> Status {
    match error {
        Refused::InProgress { by } => {
            Refusal::new(Code::FailedPrecondition, Reason::RUN_IN_PROGRESS, message)
                .with("run_id", by.to_string())
                .precondition("RUN", by.to_string(), "it goes on")
                .into()
        }
        Refused::OtherRequest { .. } => {
            Refusal::invalid(message).field("request_id", "one that was not used yet").into()
        }
        Refused::TooMany => Refusal::new(Code::ResourceExhausted, Reason::RUN_IN_PROGRESS, message)
            .retry_after(RETRY_AFTER)
            .into(),
        Refused::Stopping => Refusal::new(Code::Unavailable, Reason::STOPPING, message)
            .retry_after(RETRY_AFTER)
            .into(),
        Refused::Journal(error) => internal(error, request_id),
    }
}

/// Long enough for a run or a restart to end.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// What would be the failure of a run, as the refusal of a call.
fn failed(failure: &Failure) -> Status {
    let code = match failure.reason {
        Reason::SNAPSHOT_NOT_FOUND => Code::NotFound,
        Reason::TARGET_EXISTS => Code::AlreadyExists,
        Reason::INVALID_REQUEST => {
            return Refusal::invalid(&failure.message).field("target", &failure.message).into();
        }
        _ => Code::FailedPrecondition,
    };
    fail(code, failure.reason, &failure.message)
}
