//! A controller whose disk was lost comes back from what a backup of its folder holds.

use std::{fs, path::Path};

use homelab_proto::controller::v1::{
    backup_schedule_service_client::BackupScheduleServiceClient,
    job_service_client::JobServiceClient,
};

use super::*;
use crate::task::{
    BackgroundTask, Done,
    copy::{COPY_FILE, COPY_FOLDER, CopyStore},
};

/// Beside a host, a tier that is asleep, so that a job waits, and a secret to prove.
fn site() -> String {
    let port = free_port();
    format!(
        "[site]\nname = \"home\"\n[[host]]\nname = \"x99\"\naddress = \"127.0.0.1\"\n\
         daemons = [\"agent\", \"gpu-worker\"]\nagent-port = {port}\n\
         [[secret]]\nname = \"nas-key\"\nkept-in = [\"kit\"]\n\
         [ai]\n[[ai.tier]]\ntier = \"bronze\"\nhosts = [\"x99\"]\nmodels = [\"small\"]\n"
    )
}

/// What a person could ask for before and after.
#[derive(Debug, PartialEq)]
struct Known {
    hosts: Vec<String>,
    jobs: Vec<(String, i32)>,
    evidence: pb::VerifyDrillEvidenceResponse,
    proof: Option<pb::KitProof>,
    fingerprint: String,
}

async fn known(lab: &Lab) -> Known {
    let hosts = FleetServiceClient::new(lab.admin())
        .list_hosts(pb::ListHostsRequest::default())
        .await
        .expect("hosts")
        .into_inner();
    let jobs = JobServiceClient::new(lab.admin())
        .list_jobs(pb::ListJobsRequest::default())
        .await
        .expect("jobs")
        .into_inner();
    let mut backups = BackupScheduleServiceClient::new(lab.admin());
    let kit = backups.get_recovery_kit(pb::GetRecoveryKitRequest {}).await.expect("a kit");
    let kit = kit.into_inner();
    let evidence = backups.verify_drill_evidence(pb::VerifyDrillEvidenceRequest {}).await;
    Known {
        hosts: hosts.hosts.into_iter().map(|host| host.name).collect(),
        jobs: jobs.jobs.into_iter().map(|job| (job.job_id, job.state)).collect(),
        evidence: evidence.expect("a walk").into_inner(),
        proof: kit.last_proof,
        fingerprint: kit.fingerprint,
    }
}

async fn submit(lab: &Lab) {
    let request = pb::SubmitJobRequest {
        request_id: "01a2087d-9b89-7f3e-bc1c-9162e4d363dd".to_owned(),
        model: "small".to_owned(),
        openai_request:
            br#"{"model":"small","messages":[{"role":"user","content":"Hi"}]}"#.to_vec().into(),
        ..pb::SubmitJobRequest::default()
    };
    JobServiceClient::new(lab.admin()).submit_job(request).await.expect("taken");
}

/// Signs a statement about the kit.
async fn prove(lab: &Lab, request_id: &str) {
    let item = pb::KitProofItem { secret: "nas-key".into(), opened: true, message: String::new() };
    let request = pb::RecordKitProofRequest {
        request_id: request_id.to_owned(),
        fingerprint: "ab".repeat(32),
        items: vec![item],
    };
    let mut backups = BackupScheduleServiceClient::new(lab.admin());
    backups.record_kit_proof(request).await.expect("kept");
}

/// Everything below a folder, but not the database that is written to: what the example of the
/// backup-agent leaves out.
fn back_up(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_live = name.starts_with("controller.db") && !from.ends_with(COPY_FOLDER);
        if path.is_dir() {
            back_up(&path, &target);
        } else if path.is_file() && !is_live {
            fs::copy(&path, &target).expect("copied with its mode");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_was_lost_comes_back_from_its_folder_with_everything_it_knew() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("homelab.toml"), site()).expect("writable");
    let old = config(folder.path(), "state");
    let lab = Lab::found(folder, old, Arc::new(SystemClock)).await;
    submit(&lab).await;
    prove(&lab, "01a2087d-9df5-7e3f-b4e3-c05d48c75221").await;
    let copy = CopyStore {
        store: Arc::clone(&lab.app.context().store),
        state_dir: lab.app.context().config.state_dir.clone(),
    };
    assert!(matches!(copy.activate().await.expect("copied"), Done::Changed(_)));
    let before = known(&lab).await;
    assert!(before.evidence.intact && before.proof.is_some(), "{before:?}");
    assert_eq!((before.hosts.len(), before.jobs.len()), (1, 1));

    // The backup runs while the controller writes, and then the disk is gone.
    let backup = tempfile::tempdir().expect("a folder");
    back_up(lab.folder.path(), backup.path());
    let Lab { folder, app, tasks } = lab;
    tasks.shutdown(Duration::ZERO).await;
    drop((app, folder));

    // As docs/restore-the-controller.md says it.
    let state = backup.path().join("state");
    fs::copy(state.join(COPY_FOLDER).join(COPY_FILE), backup.path().join("controller.db"))
        .expect("the copy is whole");
    let (app, tasks) = start(config(backup.path(), "state")).await;
    let lab = Lab { folder: backup, app, tasks };
    assert_eq!(known(&lab).await, before, "ada's identity is still good, and all is there");

    // What is stated from now on follows what was stated before, by the same key.
    prove(&lab, "01a2087d-9df5-7e3f-b4e3-c05d48c75222").await;
    let after = known(&lab).await.evidence;
    assert!(after.intact && after.fault.is_empty(), "{after:?}");
    assert_eq!(after.public_key_pem, before.evidence.public_key_pem);
    assert_ne!(after.head_digest, before.evidence.head_digest);
    let audit = AuditServiceClient::new(lab.admin())
        .verify_audit(pb::VerifyAuditRequest::default())
        .await
        .expect("a walk")
        .into_inner();
    assert!(audit.intact, "{audit:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_key_a_restored_controller_says_so_in_the_chain() {
    let lab = Lab::start(free_port()).await;
    prove(&lab, "01a2087d-9df5-7e3f-b4e3-c05d48c75221").await;
    let old = lab.app.context().config.state_dir.join("evidence.key");
    let Lab { folder, app, tasks } = lab;
    tasks.shutdown(GRACE).await;
    app.finish().await;
    drop(app);
    fs::remove_file(old).expect("it was there");
    let (app, tasks) = start(config(folder.path(), "state")).await;
    let lab = Lab { folder, app, tasks };
    prove(&lab, "01a2087d-9df5-7e3f-b4e3-c05d48c75222").await;
    let mut tx = lab.app.context().store.read().await.expect("readable");
    let all = tx.attestations().after(0, 10).await.expect("all");
    let kinds: Vec<_> = all.iter().map(|one| one.kind.as_str()).collect();
    assert_eq!(kinds, ["key", "kit-proof", "key", "kit-proof"], "a new key is stated, not hidden");
    drop(tx);
    let evidence = known(&lab).await.evidence;
    assert!(evidence.intact, "{evidence:?}");
}
