//! The chain of signed statements: appending to it, and walking it.

use std::collections::BTreeMap;

use homelab_domain::evidence::{Fact, StatementKind, statement};
use homelab_store::{Attestation, Store, StoreError, Tx};
use jiff::Timestamp;
use ring::digest::{SHA256, digest};
use serde_json::Value;

use super::signer::{Signer, is_signed};
use crate::ca::issue::hex;

/// Statements that a walk reads at once.
const WALK_PAGE: u32 = 1_000;

/// The digest that the first statement names.
const NOTHING: [u8; 32] = [0; 32];

/// States a fact, signed, in the transaction that makes it true. A key that is new to the chain is
/// stated first.
///
/// # Errors
///
/// The store fails, or another statement came first: then the whole transaction is tried again.
pub async fn attest(
    tx: &mut dyn Tx,
    signer: &Signer,
    now: Timestamp,
    fact: &Fact,
) -> Result<Attestation, StoreError> {
    let head = tx.attestations().head().await?;
    let is_known = head.as_ref().is_some_and(|head| head.key_id == signer.key_id());
    let head = match head {
        Some(head) if is_known => Some(head),
        head => {
            let (key_id, spki) = (signer.key_id().to_owned(), signer.spki());
            Some(append(tx, signer, now, head.as_ref(), &Fact::Key { key_id, spki }).await?)
        }
    };
    append(tx, signer, now, head.as_ref(), fact).await
}

async fn append(
    tx: &mut dyn Tx,
    signer: &Signer,
    now: Timestamp,
    head: Option<&Attestation>,
    fact: &Fact,
) -> Result<Attestation, StoreError> {
    let sequence = head.map_or(0, |head| head.sequence) + 1;
    let previous = hex(&head.map_or(NOTHING, |head| head.digest));
    let text = statement(sequence, &previous, now, fact);
    let signature = signer.sign(&text).ok_or_else(|| StoreError::Conflict {
        what: "a signed statement: the system gives no randomness".to_owned(),
    })?;
    let attestation = Attestation {
        sequence,
        at: now,
        kind: fact.kind(),
        backup: fact.backup().cloned(),
        digest: sha256(text.as_bytes()),
        statement: text,
        signature,
        key_id: signer.key_id().to_owned(),
    };
    tx.attestations().append(&attestation).await?;
    Ok(attestation)
}

/// What a walk along the chain found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Walked {
    /// Statements about drills that fit.
    pub drills: u64,
    /// Statements about snapshots that were seen and fit.
    pub snapshots: u64,
    /// Place in the chain of the newest that fits; 0 when there is none.
    pub sequence: u64,
    /// Digest of the newest that fits.
    pub head: [u8; 32],
    /// The first that does not fit, for people.
    pub fault: Option<String>,
}

/// Walks the whole chain, as of one moment: every digest, every link, every signature.
///
/// # Errors
///
/// The store fails.
pub async fn verify(store: &dyn Store) -> Result<Walked, StoreError> {
    let mut tx = store.read().await?;
    let (mut walked, mut keys) = (Walked::default(), BTreeMap::new());
    loop {
        let page = tx.attestations().after(walked.sequence, WALK_PAGE).await?;
        if page.is_empty() {
            return Ok(walked);
        }
        for one in page {
            if let Err(why) = step(&one, walked.sequence + 1, &walked.head, &mut keys) {
                walked.fault = Some(format!("statement {} ({}): {why}", one.sequence, one.kind));
                return Ok(walked);
            }
            walked.sequence = one.sequence;
            walked.head = one.digest;
            match one.kind {
                StatementKind::Drill => walked.drills += 1,
                StatementKind::Seen => walked.snapshots += 1,
                _ => {}
            }
        }
    }
}

fn step(
    one: &Attestation,
    expected: u64,
    previous: &[u8; 32],
    keys: &mut BTreeMap<String, String>,
) -> Result<(), &'static str> {
    if one.sequence != expected {
        return Err("the one before it is missing");
    }
    if sha256(one.statement.as_bytes()) != one.digest {
        return Err("its text was changed");
    }
    let text: Value = serde_json::from_str(&one.statement).map_err(|_| "it cannot be read")?;
    let member = |key: &str| text.get(key).and_then(Value::as_str);
    let number = text.get("sequence").and_then(Value::as_u64);
    if number != Some(one.sequence) || member("kind") != Some(one.kind.as_str()) {
        return Err("its row was changed");
    }
    if member("previous") != Some(hex(previous).as_str()) {
        return Err("it does not follow the one before");
    }
    if one.kind == StatementKind::Key
        && let (Some(key_id), Some(spki)) = (member("key_id"), member("spki"))
    {
        keys.insert(key_id.to_owned(), spki.to_owned());
    }
    let spki = keys.get(&one.key_id).ok_or("it is signed with a key that nobody stated")?;
    if !is_signed(spki, &one.key_id, &one.statement, &one.signature) {
        return Err("its signature is wrong");
    }
    Ok(())
}

/// SHA-256 of some bytes.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut sum = NOTHING;
    for (to, from) in sum.iter_mut().zip(digest(&SHA256, bytes).as_ref()) {
        *to = *from;
    }
    sum
}

#[cfg(test)]
mod tests {
    use homelab_domain::{
        evidence::SnapshotFacts,
        ids::{BackupName, RepositoryName},
    };
    use homelab_store::{StoreUrl, open};

    use super::*;

    type Change = fn(&mut Vec<Attestation>);

    fn seen(id: u32) -> Fact {
        Fact::Seen(SnapshotFacts {
            backup: BackupName::try_new("wiki").expect("a name"),
            repository: RepositoryName::try_new("nas").expect("a name"),
            snapshot_id: format!("{id:064}"),
            taken_at: Timestamp::UNIX_EPOCH,
            verified_at: Timestamp::UNIX_EPOCH,
        })
    }

    #[tokio::test]
    async fn a_chain_is_whole_across_keys_and_every_change_of_it_shows() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = open(&StoreUrl::Sqlite(folder.path().join("store.db"))).await.expect("opens");
        let mut tx = store.begin().await.expect("a transaction");
        for key in 0..2 {
            let signer = Signer::ephemeral().expect("a key");
            for id in 0..3 {
                let fact = seen(key * 3 + id);
                attest(tx.as_mut(), &signer, Timestamp::UNIX_EPOCH, &fact).await.expect("stated");
            }
        }
        let all = tx.attestations().after(0, 100).await.expect("all of it");
        tx.commit().await.expect("kept");
        let walked = verify(store.as_ref()).await.expect("walked");
        assert_eq!((walked.snapshots, walked.sequence, walked.fault), (6, 8, None));
        assert_eq!(walked.head, all[7].digest);

        let walk = |all: &[Attestation]| {
            let (mut keys, mut head) = (BTreeMap::new(), NOTHING);
            all.iter().zip(1..).try_for_each(|(one, sequence)| {
                step(one, sequence, &head, &mut keys)?;
                head = one.digest;
                Ok::<_, &'static str>(())
            })
        };
        assert_eq!(walk(&all), Ok(()));
        let changes: [(&str, Change); 5] = [
            ("text", |all| all[3].statement = all[3].statement.replace("wiki", "kiwi")),
            ("missing", |all| drop(all.remove(3))),
            ("row", |all| all[3].kind = StatementKind::Deleted),
            ("signature", |all| all[3].signature = all[2].signature.clone()),
            ("nobody stated", |all| all[3].key_id = "ab".repeat(32)),
        ];
        for (word, change) in changes {
            let mut other = all.clone();
            change(&mut other);
            let why = walk(&other).expect_err(word);
            assert!(why.contains(word), "{word}: {why}");
        }
    }
}
