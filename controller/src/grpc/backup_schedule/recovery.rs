//! Evidence, the recovery kit and the strategy over the wire.

use std::collections::BTreeMap;

use homelab_domain::{
    drill::DrillAge,
    evidence::StatementKind,
    recovery::{ColdStart, KitProof, ProofItem, Step, Subject},
    risk::BackupRisk,
    run::DrillVerdict,
    site::{Backup, Keeper, Site, SourceKind},
    text,
};
use homelab_proto::{backup::v1 as agent, controller::v1 as pb};
use homelab_store::{Attestation, PageRequest};
use serde_json::Value;
use tonic::Status;

use super::{BackupScheduleApi, convert, invalid, retention, run_id};
use crate::{
    backup::{
        BackupStatus, ScheduleView,
        convert::{span_message, time_message},
        copies::CopiesView,
        evidence,
        kit::KitRepository,
    },
    ca::issue::hex,
    grpc::status::IntoStatus,
};

/// Secrets that one proof may try.
const ITEMS_MAX: usize = 200;

/// The longest text of a proof, in bytes.
const TEXT_BYTES_MAX: usize = 500;

impl BackupScheduleApi {
    pub(super) async fn list_evidence(
        &self,
        request: pb::ListDrillEvidenceRequest,
        call: &str,
    ) -> Result<pb::ListDrillEvidenceResponse, Status> {
        let backup = match request.backup.as_str() {
            "" => None,
            // Evidence of a backup that left the site stays.
            name => Some(super::backup_name(name)?),
        };
        let page = PageRequest::try_new(request.page_size, &request.page_token);
        let page = page.map_err(|error| error.into_status(call))?;
        let list = async {
            let mut tx = self.backups.parts().store.read().await?;
            tx.attestations().list(StatementKind::Drill, backup.as_ref(), &page).await
        };
        let page = list.await.map_err(|error| error.into_status(call))?;
        Ok(pb::ListDrillEvidenceResponse {
            next_page_token: page.next_token(),
            evidence: page.items.iter().map(evidence_message).collect(),
        })
    }

    pub(super) async fn verify_evidence(
        &self,
        call: &str,
    ) -> Result<pb::VerifyDrillEvidenceResponse, Status> {
        let parts = self.backups.parts();
        let walked = evidence::verify(parts.store.as_ref()).await;
        let walked = walked.map_err(|error| error.into_status(call))?;
        Ok(pb::VerifyDrillEvidenceResponse {
            intact: walked.fault.is_none(),
            evidence: walked.drills,
            snapshots: walked.snapshots,
            fault: walked.fault.unwrap_or_default(),
            head_digest: hex(&walked.head),
            public_key_pem: parts.signer.public_pem(),
        })
    }

    pub(super) async fn recovery_kit(
        &self,
        call: &str,
    ) -> Result<pb::GetRecoveryKitResponse, Status> {
        let site = self.backups.site();
        let last = self.backups.last_kit_proof().await;
        let last = last.map_err(|error| error.into_status(call))?;
        let statuses = self.backups.statuses().await.map_err(|error| error.into_status(call))?;
        let start = self.backups.cold_start();
        let repositories = self.backups.kit_repositories();
        let hosts = site.hosts().iter().map(|host| pb::KitHost {
            name: host.name.to_string(),
            address: host.address.to_string(),
            description: host.description.clone(),
            mac: host.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        });
        let backups = site.backups().iter().map(|backup| self.kit_backup(backup, &repositories));
        Ok(pb::GetRecoveryKitResponse {
            site: site.name().to_string(),
            generated_at: Some(time_message(self.backups.parts().clock.now())),
            fingerprint: self.backups.kit_fingerprint(),
            hosts: hosts.collect(),
            repositories: repositories.iter().map(kit_repository).collect(),
            backups: backups.collect(),
            secrets: secrets(&site, &start),
            ca_root_pem: self.ca_root_pem.to_string(),
            cold_start: Some(cold_start_message(&start, &statuses)),
            next_proof_due_at: Some(time_message(
                self.backups.next_kit_proof(&site, last.as_ref()),
            )),
            last_proof: last.as_ref().map(proof_message),
            evidence_public_key_pem: self.backups.parts().signer.public_pem(),
        })
    }

    pub(super) async fn record_proof(
        &self,
        request: pb::RecordKitProofRequest,
        by: String,
        call: &str,
    ) -> Result<pb::RecordKitProofResponse, Status> {
        run_id("request_id", &request.request_id)?;
        if request.items.is_empty() || request.items.len() > ITEMS_MAX {
            return Err(invalid("items", "1 to 200 secrets that were tried are wanted"));
        }
        let is_long = |text: &str| text.len() > TEXT_BYTES_MAX;
        let mut items = request.items.iter();
        if items.any(|item| is_long(&item.secret) || is_long(&item.message)) {
            return Err(invalid("items", "names and messages have at most 500 bytes"));
        }
        if request.fingerprint.len() != 64 {
            return Err(invalid("fingerprint", "the 64 digits on the kit are wanted"));
        }
        let items = request.items.into_iter().map(|item| ProofItem {
            secret: item.secret,
            opened: item.opened,
            message: item.message,
        });
        let proof = KitProof {
            at: self.backups.parts().clock.now(),
            by,
            fingerprint: request.fingerprint,
            items: items.collect(),
        };
        // A proof that is sent twice is the newest twice.
        let proof = self.backups.record_kit_proof(proof).await;
        let proof = proof.map_err(|error| error.into_status(call))?;
        let missing = proof.left_out(&self.backups.site());
        Ok(pb::RecordKitProofResponse { proof: Some(proof_message(&proof)), missing })
    }

    pub(super) async fn strategy(&self, call: &str) -> Result<pb::GetStrategyResponse, Status> {
        let backups = &self.backups;
        let site = backups.site();
        let now = backups.parts().clock.now();
        let facts = async {
            Ok::<_, homelab_store::StoreError>((
                backups.schedules().await?,
                backups.statuses().await?,
                backups.copies().await?,
                backups.last_kit_proof().await?,
                self.newest_evidence().await?,
            ))
        };
        let (schedules, statuses, copies, last, evidence) =
            facts.await.map_err(|error| error.into_status(call))?;
        let repositories = backups.kit_repositories();
        let start = backups.cold_start();
        let each =
            schedules.iter().zip(&statuses).zip(&copies).map(|((schedule, status), copies)| {
                self.strategy_of(schedule, status, copies, &evidence, &repositories)
            });
        Ok(pb::GetStrategyResponse {
            site: site.name().to_string(),
            generated_at: Some(time_message(now)),
            time_zone: site.time_zone().name().to_owned(),
            backups: each.collect(),
            repositories: repositories.iter().map(kit_repository).collect(),
            cold_start: Some(cold_start_message(&start, &statuses)),
            last_proof: last.as_ref().map(proof_message),
            next_proof_due_at: Some(time_message(backups.next_kit_proof(&site, last.as_ref()))),
            windows: retention::windows(&site, now),
            secrets: secrets(&site, &start),
        })
    }

    fn strategy_of(
        &self,
        schedule: &ScheduleView,
        status: &BackupStatus,
        copies: &CopiesView,
        evidence: &BTreeMap<String, pb::DrillEvidence>,
        repositories: &[KitRepository],
    ) -> pb::BackupStrategy {
        let backup = &schedule.backup;
        let site = self.backups.site();
        let target = backup.drill_target.as_ref();
        pb::BackupStrategy {
            schedule: Some(convert::schedule(schedule, &site)),
            risk: Some(convert::risk(status)),
            copies: Some(retention::copies_message(copies)),
            retention: backup.keep.as_ref().map(retention::policy_message),
            last_evidence: evidence.get(backup.name.as_str()).cloned(),
            source_kind: source_kind(backup.source).into(),
            services: backup.services.iter().map(ToString::to_string).collect(),
            drill_target: target
                .map(|target| format!("{target} on {}", backup.drilled_on()))
                .unwrap_or_default(),
            restore_commands: self.kit_backup(backup, repositories).commands,
        }
    }

    /// The newest evidence of each backup.
    async fn newest_evidence(
        &self,
    ) -> Result<BTreeMap<String, pb::DrillEvidence>, homelab_store::StoreError> {
        let mut tx = self.backups.parts().store.read().await?;
        let mut newest = BTreeMap::new();
        for backup in self.backups.site().backups() {
            let (kind, page) = (StatementKind::Drill, PageRequest::first(1));
            let found = tx.attestations().list(kind, Some(&backup.name), &page).await?;
            newest.extend(
                found.items.first().map(|one| (backup.name.to_string(), evidence_message(one))),
            );
        }
        Ok(newest)
    }

    fn kit_backup(&self, backup: &Backup, repositories: &[KitRepository]) -> pb::KitBackup {
        let shelf = self.backups.holdings().shelf(&backup.name, &backup.repository);
        let newest = shelf.newest();
        let of = |one: &&KitRepository| one.declared.name == backup.repository;
        let place = repositories.iter().find(of).map(location).unwrap_or_default();
        let id = newest.map_or_else(|| "latest".to_owned(), |one| one.id.clone());
        pb::KitBackup {
            name: backup.name.to_string(),
            source_kind: source_kind(backup.source).into(),
            host: backup.host.to_string(),
            repositories: backup.repositories().map(ToString::to_string).collect(),
            newest_snapshot_id: newest.map(|one| one.id.clone()).unwrap_or_default(),
            newest_at: newest.map(|one| time_message(one.taken_at)),
            commands: restore_commands(backup, &place, &id),
        }
    }
}

/// Where a repository is, as plain restic wants it; what stands on the kit when no agent has told.
fn location(repository: &KitRepository) -> String {
    let path = repository.paths.first().and_then(|path| path.split_once(':'));
    path.map_or_else(|| "REPOSITORY".to_owned(), |(_, path)| path.to_owned())
}

fn kit_repository(repository: &KitRepository) -> pb::KitRepository {
    let declared = &repository.declared;
    let place = quoted(&location(repository));
    pb::KitRepository {
        name: declared.name.to_string(),
        location: declared.description.clone(),
        identity: repository.identity.clone(),
        paths: repository.paths.clone(),
        medium: declared.medium.clone(),
        place: declared.place.clone(),
        secret: declared.secret.as_ref().map(ToString::to_string).unwrap_or_default(),
        commands: vec![
            format!("restic -r {place} snapshots --tag verified"),
            format!("restic -r {place} check --read-data"),
        ],
    }
}

/// Commands that bring a backup back with nothing of ours. What is inside of a snapshot says how it
/// goes on; the agent prints the same with the names of the files.
fn restore_commands(backup: &Backup, place: &str, id: &str) -> Vec<String> {
    let folder = format!("/var/tmp/restore-{}", backup.name);
    let mut commands = vec![
        format!("restic -r {} restore {id} --target {folder}", quoted(place)),
        format!("find {folder} -type f"),
    ];
    let next: &[&str] = match backup.source {
        SourceKind::Postgres => &[
            "psql -X -v ON_ERROR_STOP=1 -d postgres -f globals.sql",
            "createdb DATABASE",
            "psql -X -v ON_ERROR_STOP=1 -1 -d DATABASE -f DATABASE.sql",
        ],
        SourceKind::Vaultwarden => &[
            "systemctl stop vaultwarden",
            "mv /var/lib/vaultwarden /var/lib/vaultwarden.before",
            "mkdir /var/lib/vaultwarden && tar -C /var/lib/vaultwarden -xpf data.tar",
            "systemctl start vaultwarden",
        ],
        SourceKind::Git => &[
            "mkdir mirrors && tar -C mirrors -xpf mirrors.tar",
            "git -C mirrors/OWNER/NAME.git push --mirror NEW_URL",
        ],
        SourceKind::Opnsense => &["# System > Configuration > Backups > Restore: config.xml"],
        SourceKind::Zfs => &["zfs receive -s -u POOL/DATASET < STREAM"],
        SourceKind::Files => &["tar -C / -xpf FILES.tar"],
    };
    commands.push(format!("cd {folder}"));
    commands.extend(next.iter().map(|command| (*command).to_owned()));
    commands
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-:@".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn secrets(site: &Site, start: &ColdStart) -> Vec<pb::KitSecret> {
    let each = site.secrets().iter().map(|secret| {
        let subject = Subject::Secret(secret.name.clone());
        let reachable = start.reaches(&subject);
        let within = |one: &&homelab_domain::recovery::Loop| one.subjects.contains(&subject);
        let why_not = start.loops.iter().find(within).map(ToString::to_string);
        let mut opens: Vec<_> = site
            .repositories()
            .iter()
            .filter(|repository| repository.secret.as_ref() == Some(&secret.name))
            .map(|repository| format!("repository/{}", repository.name))
            .collect();
        opens.extend(secret.services.iter().map(|service| format!("service/{service}")));
        let opens = opens.join(", ");
        pb::KitSecret {
            name: secret.name.to_string(),
            opens: match (secret.description.as_str(), opens.as_str()) {
                (words, "") => words.to_owned(),
                ("", opens) => opens.to_owned(),
                (words, opens) => format!("{words} ({opens})"),
            },
            kept_in: secret.kept_in.iter().map(Keeper::to_string).collect(),
            reachable,
            why_not: match (reachable, why_not) {
                (true, _) => String::new(),
                (false, Some(told)) => told,
                (false, None) => "everything that keeps it waits for something else".to_owned(),
            },
        }
    });
    each.collect()
}

fn cold_start_message(start: &ColdStart, statuses: &[BackupStatus]) -> pb::ColdStart {
    let risks: BTreeMap<_, _> =
        statuses.iter().map(|status| (status.risk.backup.clone(), &status.risk)).collect();
    let steps = start.steps.iter().zip(1..).map(|(step, number)| {
        let risk = match &step.subject {
            Subject::Backup(name) => risks.get(name).copied(),
            _ => None,
        };
        step_message(step, number, risk)
    });
    pb::ColdStart {
        steps: steps.collect(),
        loops: start.loops.iter().map(ToString::to_string).collect(),
    }
}

fn step_message(step: &Step, number: u32, risk: Option<&BackupRisk>) -> pb::ColdStartStep {
    let (title, command) = match &step.subject {
        Subject::Kit => ("take the recovery kit in hand".to_owned(), None),
        Subject::Host(name) => (
            format!("install {name}, or find that it still runs"),
            Some(format!("labctl host enroll {name}")),
        ),
        Subject::Secret(name) => (format!("get the secret {name}"), None),
        Subject::Repository(name) => (
            format!("make the repository {name} readable"),
            Some("restic -r PATH snapshots --tag verified".to_owned()),
        ),
        Subject::Backup(name) => (
            format!("restore the newest snapshot of {name}"),
            Some(format!("homelab-backup-agent restore {name}")),
        ),
        Subject::Service(name) => (format!("start {name} on what was restored, and look"), None),
    };
    let took = risk.and_then(|risk| risk.rto_median.or(risk.last_rto));
    pb::ColdStartStep {
        number,
        stage: step.stage,
        subject: step.subject.to_string(),
        title: match took {
            Some(took) => format!("{title} (takes {})", text::span(took)),
            None => title,
        },
        needs: step.needs.iter().map(ToString::to_string).collect(),
        commands: command.into_iter().collect(),
        measured: took.map(span_message),
    }
}

fn proof_message(proof: &KitProof) -> pb::KitProof {
    let items = proof.items.iter().map(|item| pb::KitProofItem {
        secret: item.secret.clone(),
        opened: item.opened,
        message: item.message.clone(),
    });
    pb::KitProof {
        at: Some(time_message(proof.at)),
        by: proof.by.clone(),
        items: items.collect(),
        fingerprint: proof.fingerprint.clone(),
        passed: proof.passed(),
    }
}

/// What was signed of a drill. The fields are read from the statement, so that nothing is shown that
/// was not signed.
pub(super) fn evidence_message(one: &Attestation) -> pb::DrillEvidence {
    let text: Value = serde_json::from_str(&one.statement).unwrap_or_default();
    let member =
        |key: &str| text.get(key).and_then(Value::as_str).map(str::to_owned).unwrap_or_default();
    let verdict = match DrillVerdict::from_word(&member("verdict")) {
        Some(DrillVerdict::Passed) => agent::DrillVerdict::Passed,
        Some(DrillVerdict::Failed) => agent::DrillVerdict::Failed,
        Some(DrillVerdict::Unverified) => agent::DrillVerdict::Unverified,
        None => agent::DrillVerdict::Unspecified,
    };
    let elapsed = text.get("restore_elapsed_ms").and_then(Value::as_u64);
    pb::DrillEvidence {
        sequence: one.sequence,
        run_id: member("run"),
        backup: member("backup"),
        snapshot_id: member("snapshot_id"),
        snapshot_taken_at: member("snapshot_taken_at").parse().ok().map(time_message),
        repository: member("repository"),
        source_host: member("source_host"),
        drill_host: member("drill_host"),
        age: age(DrillAge::from_word(&member("age"))).into(),
        verdict: verdict.into(),
        restore_elapsed: elapsed.map(|ms| span_message(std::time::Duration::from_millis(ms))),
        at: Some(time_message(one.at)),
        statement: one.statement.clone().into_bytes().into(),
        digest: hex(&one.digest),
        previous_digest: member("previous"),
        signature: one.signature.clone().into(),
        key_id: one.key_id.clone(),
    }
}

pub(super) const fn age(age: Option<DrillAge>) -> pb::DrillAge {
    match age {
        None => pb::DrillAge::Unspecified,
        Some(DrillAge::Newest) => pb::DrillAge::Newest,
        Some(DrillAge::Weekly) => pb::DrillAge::Weekly,
        Some(DrillAge::Monthly) => pb::DrillAge::Monthly,
    }
}

const fn source_kind(kind: SourceKind) -> agent::SourceKind {
    match kind {
        SourceKind::Postgres => agent::SourceKind::Postgres,
        SourceKind::Vaultwarden => agent::SourceKind::Vaultwarden,
        SourceKind::Git => agent::SourceKind::Git,
        SourceKind::Opnsense => agent::SourceKind::Opnsense,
        SourceKind::Zfs => agent::SourceKind::Zfs,
        SourceKind::Files => agent::SourceKind::Files,
    }
}
