//! `labctl backup evidence …`.

mod check;

use std::{fs, path::Path};

use homelab_common::exit::Exit;
use homelab_proto::controller::v1::{
    DrillEvidence, ListDrillEvidenceRequest, ListDrillEvidenceResponse, VerifyDrillEvidenceRequest,
    VerifyDrillEvidenceResponse,
};
use jiff::Timestamp;

use self::check::{Key, first_fault};
use crate::{
    args::{EvidenceCommand, EvidenceListArgs, EvidenceVerifyArgs},
    call,
    failure::Failure,
    lab::Lab,
    output::{self, Rows, distance, short, span, word},
};

/// Pieces of evidence that are asked for at once.
const PAGE: i32 = 1_000;
/// Pages that are asked for at most: a drill an hour for a hundred years.
const PAGES_MAX: usize = 1_000;
/// Most bytes of a public key.
const KEY_BYTES_MAX: u64 = 16 * 1024;

/// Runs one verb on evidence.
pub(super) async fn run(lab: &Lab, command: EvidenceCommand) -> Result<Exit, Failure> {
    match command {
        EvidenceCommand::List(args) => list(lab, args).await,
        EvidenceCommand::Verify(args) => verify(lab, args).await,
    }
}

async fn list(lab: &Lab, args: EvidenceListArgs) -> Result<Exit, Failure> {
    let request = ListDrillEvidenceRequest {
        backup: args.backup.unwrap_or_default(),
        page_size: args.limit.into(),
        page_token: String::new(),
    };
    let answer: ListDrillEvidenceResponse =
        lab.call("list evidence", call::LIST_DRILL_EVIDENCE, request).await?;
    lab.print(call::LIST_DRILL_EVIDENCE, &answer, || rows(lab.now(), &answer.evidence))?;
    Ok(Exit::Ok)
}

fn rows(now: Timestamp, evidence: &[DrillEvidence]) -> Rows {
    let head = [
        "number",
        "when",
        "backup",
        "showed",
        "snapshot",
        "taken",
        "age",
        "from",
        "on",
        "restored in",
        "digest",
    ];
    let mut rows = Rows::new(&head, "No drill has ended yet: labctl backup drill NAME --wait");
    for one in evidence {
        rows.push(
            &one.digest,
            [
                one.sequence.to_string(),
                distance(now, one.at),
                one.backup.clone(),
                word(one.verdict().as_str_name(), "DRILL_VERDICT"),
                short(&one.snapshot_id),
                distance(now, one.snapshot_taken_at),
                word(one.age().as_str_name(), "DRILL_AGE"),
                one.repository.clone(),
                one.drill_host.clone(),
                span(one.restore_elapsed),
                short(&one.digest),
            ],
        );
    }
    rows
}

/// Lets the controller walk its chain, and checks here what it shows of it.
async fn verify(lab: &Lab, args: EvidenceVerifyArgs) -> Result<Exit, Failure> {
    let put_away = args.key.as_deref().map(key_file).transpose()?;
    let walked: VerifyDrillEvidenceResponse = lab
        .call("verify evidence", call::VERIFY_DRILL_EVIDENCE, VerifyDrillEvidenceRequest::default())
        .await?;
    let own = Key::from_pem(&walked.public_key_pem)
        .map_err(|why| Failure::new(Exit::Failed, format!("the controller's key: {why}")))?;
    let key = put_away.as_ref().unwrap_or(&own);
    let evidence = all(lab).await?;
    let here = first_fault(&evidence, key);
    lab.print(call::VERIFY_DRILL_EVIDENCE, &walked, || {
        let mut rows =
            Rows::new(&["intact", "evidence", "checked here", "snapshots", "key", "head"], "");
        let intact = walked.intact && here.is_none();
        rows.push(
            &walked.head_digest,
            [
                if intact { "yes" } else { "NO" }.to_owned(),
                walked.evidence.to_string(),
                evidence.len().to_string(),
                walked.snapshots.to_string(),
                short(key.id()),
                walked.head_digest.clone(),
            ],
        );
        rows
    })?;
    if !walked.intact {
        output::say(&format!("the controller's walk stopped: {}", walked.fault));
    }
    if let Some(fault) = &here {
        output::say(&format!("checked here: {fault}"));
    }
    if put_away.is_none() && here.is_none() {
        output::say("the key is the controller's own word: give --key FILE, from the recovery kit");
    }
    Ok(if walked.intact && here.is_none() { Exit::Ok } else { Exit::Failed })
}

/// All evidence, newest first.
async fn all(lab: &Lab) -> Result<Vec<DrillEvidence>, Failure> {
    let mut found = Vec::new();
    let mut page_token = String::new();
    for _ in 0..PAGES_MAX {
        let request =
            ListDrillEvidenceRequest { backup: String::new(), page_size: PAGE, page_token };
        let answer: ListDrillEvidenceResponse =
            lab.call("list evidence", call::LIST_DRILL_EVIDENCE, request).await?;
        found.extend(answer.evidence);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    Ok(found)
}

fn key_file(path: &Path) -> Result<Key, Failure> {
    let wrong = |why: String| Failure::new(Exit::Usage, format!("{}: {why}", path.display()));
    let size = fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
    if size > KEY_BYTES_MAX {
        return Err(wrong("it is too large for a public key".to_owned()));
    }
    let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    Key::from_pem(&text).map_err(wrong)
}
