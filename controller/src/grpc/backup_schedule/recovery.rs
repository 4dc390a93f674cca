//! Evidence, the recovery kit and the strategy over the wire.

use std::collections::BTreeMap;

use homelab_domain::{
    drill::DrillAge,
    evidence::StatementKind,
    ids::RequestId,
    recovery::{ColdStart, KitProof, ProofItem, Step, Subject},
    risk::BackupRisk,
    run::DrillVerdict,
    site::{Keeper, Site, SourceKind},
    text,
};
use homelab_proto::{backup::v1 as agent, controller::v1 as pb};
use homelab_store::{Attestation, PageRequest};
use prost::Message as _;
use serde_json::Value;
use tonic::Status;

use super::{BackupScheduleApi, commands, invalid, strategy};
use crate::{
    backup::{
        BackupStatus,
        convert::{span_message, time_message},
        evidence::{self, sha256},
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
        let backups = site
            .backups()
            .iter()
            .map(|backup| commands::kit_backup(&self.backups, backup, &repositories));
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
        let id = request.request_id.parse::<RequestId>();
        let id = id.map_err(|error| invalid("request_id", &error.to_string()))?;
        let digest = sha256(
            &[b"RecordKitProof ", by.as_bytes(), b" ", request.encode_to_vec().as_slice()].concat(),
        );
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
        let proof = self.backups.record_kit_proof(proof, id, digest).await;
        let proof = proof
            .map_err(|error| error.into_status(call))?
            .ok_or_else(|| invalid("request_id", "an id that no other call has used is wanted"))?;
        let missing = proof.left_out(&self.backups.site());
        Ok(pb::RecordKitProofResponse { proof: Some(proof_message(&proof)), missing })
    }

    pub(super) async fn strategy(&self, call: &str) -> Result<pb::GetStrategyResponse, Status> {
        strategy::strategy(&self.backups).await.map_err(|error| error.into_status(call))
    }
}

pub(super) fn kit_repository(repository: &KitRepository) -> pb::KitRepository {
    let declared = &repository.declared;
    pb::KitRepository {
        name: declared.name.to_string(),
        location: declared.description.clone(),
        identity: repository.identity.clone(),
        paths: repository.paths.clone(),
        medium: declared.medium.clone(),
        place: declared.place.clone(),
        secret: declared.secret.as_ref().map(ToString::to_string).unwrap_or_default(),
        commands: commands::repository_commands(repository),
    }
}

pub(super) fn secrets(site: &Site, start: &ColdStart) -> Vec<pb::KitSecret> {
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

pub(super) fn cold_start_message(start: &ColdStart, statuses: &[BackupStatus]) -> pb::ColdStart {
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

pub(super) fn proof_message(proof: &KitProof) -> pb::KitProof {
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

pub(super) const fn source_kind(kind: SourceKind) -> agent::SourceKind {
    match kind {
        SourceKind::Postgres => agent::SourceKind::Postgres,
        SourceKind::Vaultwarden => agent::SourceKind::Vaultwarden,
        SourceKind::Git => agent::SourceKind::Git,
        SourceKind::Opnsense => agent::SourceKind::Opnsense,
        SourceKind::Zfs => agent::SourceKind::Zfs,
        SourceKind::Files => agent::SourceKind::Files,
    }
}
