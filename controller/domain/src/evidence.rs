//! What is signed, so that it cannot be changed afterwards without a trace: that a drill showed
//! something, that a snapshot was seen, that it was given up, that the recovery kit was proved.
//!
//! Every statement names the digest of the one before; all of them are one chain. The text is
//! canonical JSON (keys sorted, no space, whole numbers and texts only), so that a digest of it can
//! be made anywhere and by anything.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use serde_json::Value;

use crate::{
    drill::DrillAge,
    ids::{BackupName, HostName, RepositoryName, RunId},
    run::DrillVerdict,
};

crate::words! {
    /// What a statement is about.
    StatementKind {
        /// The key that what follows is signed with.
        Key = "key",
        /// What a drill showed.
        Drill = "drill",
        /// That a verified snapshot was seen in a repository.
        Seen = "seen",
        /// That a snapshot was deleted, as its plan said.
        Deleted = "deleted",
        /// That a snapshot was gone that nobody gave up.
        Vanished = "vanished",
        /// That a person proved the recovery kit, or failed to.
        KitProof = "kit-proof",
    }
}

/// What is stated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// What follows is signed with this key.
    Key {
        /// SHA-256 of the key, in hexadecimal digits.
        key_id: String,
        /// The public key (SubjectPublicKeyInfo), in base64.
        spki: String,
    },
    /// What a drill showed.
    Drill(DrillFacts),
    /// A verified snapshot was seen.
    Seen(SnapshotFacts),
    /// A snapshot was deleted, as its plan said.
    Deleted {
        /// Which.
        snapshot: SnapshotFacts,
        /// Digest of the plan.
        plan: String,
    },
    /// A snapshot was gone that nobody gave up.
    Vanished(SnapshotFacts),
    /// What a person tried with the recovery kit.
    KitProof {
        /// Who.
        by: String,
        /// Fingerprint of the kit.
        fingerprint: String,
        /// Each secret, whether it opened what it should, and otherwise why not.
        items: Vec<(String, bool, String)>,
    },
}

/// What is stated of a drill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrillFacts {
    /// Its run.
    pub run: RunId,
    /// Backup.
    pub backup: BackupName,
    /// Snapshot that was restored.
    pub snapshot_id: String,
    /// The moment whose state it holds: what the evidence is bound to.
    pub snapshot_taken_at: Timestamp,
    /// Repository that it was restored from; none when neither the report nor the site says.
    pub repository: Option<RepositoryName>,
    /// Host whose data it is.
    pub source_host: HostName,
    /// Host that the drill ran on.
    pub drill_host: HostName,
    /// The age that it was picked for; none when a person named it.
    pub age: Option<DrillAge>,
    /// What it showed.
    pub verdict: DrillVerdict,
    /// How long the restore alone took.
    pub restore_elapsed: Duration,
    /// SHA-256 of the agent's whole report, in hexadecimal digits.
    pub report: String,
}

/// What is stated of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFacts {
    /// Backup.
    pub backup: BackupName,
    /// Repository.
    pub repository: RepositoryName,
    /// Identifier.
    pub snapshot_id: String,
    /// The moment whose state it holds.
    pub taken_at: Timestamp,
    /// When it was proved complete.
    pub verified_at: Timestamp,
}

impl Fact {
    /// What it is about.
    #[must_use]
    pub const fn kind(&self) -> StatementKind {
        match self {
            Self::Key { .. } => StatementKind::Key,
            Self::Drill(_) => StatementKind::Drill,
            Self::Seen(_) => StatementKind::Seen,
            Self::Deleted { .. } => StatementKind::Deleted,
            Self::Vanished(_) => StatementKind::Vanished,
            Self::KitProof { .. } => StatementKind::KitProof,
        }
    }

    /// The backup that it is about.
    #[must_use]
    pub const fn backup(&self) -> Option<&BackupName> {
        match self {
            Self::Drill(drill) => Some(&drill.backup),
            Self::Seen(one) | Self::Vanished(one) | Self::Deleted { snapshot: one, .. } => {
                Some(&one.backup)
            }
            Self::Key { .. } | Self::KitProof { .. } => None,
        }
    }

    fn members(&self, text: &mut BTreeMap<&'static str, Value>) {
        match self {
            Self::Key { key_id, spki } => {
                text.insert("key_id", key_id.as_str().into());
                text.insert("spki", spki.as_str().into());
            }
            Self::Drill(drill) => drill.members(text),
            Self::Seen(one) | Self::Vanished(one) => one.members(text),
            Self::Deleted { snapshot, plan } => {
                snapshot.members(text);
                text.insert("plan", plan.as_str().into());
            }
            Self::KitProof { by, fingerprint, items } => {
                text.insert("by", by.as_str().into());
                text.insert("fingerprint", fingerprint.as_str().into());
                let item = |(secret, opened, message): &(String, bool, String)| {
                    Value::from(vec![
                        Value::from(secret.as_str()),
                        Value::from(*opened),
                        Value::from(message.as_str()),
                    ])
                };
                text.insert("items", items.iter().map(item).collect());
            }
        }
    }
}

impl DrillFacts {
    fn members(&self, text: &mut BTreeMap<&'static str, Value>) {
        let millis = u64::try_from(self.restore_elapsed.as_millis()).unwrap_or(u64::MAX);
        text.insert("run", self.run.to_string().into());
        text.insert("backup", self.backup.as_str().into());
        text.insert("snapshot_id", self.snapshot_id.as_str().into());
        text.insert("snapshot_taken_at", self.snapshot_taken_at.to_string().into());
        let repository = self.repository.as_ref();
        text.insert("repository", repository.map_or(Value::Null, |name| name.as_str().into()));
        text.insert("source_host", self.source_host.as_str().into());
        text.insert("drill_host", self.drill_host.as_str().into());
        text.insert("age", self.age.map_or(Value::Null, |age| age.as_str().into()));
        text.insert("verdict", self.verdict.as_str().into());
        text.insert("restore_elapsed_ms", millis.into());
        text.insert("report", self.report.as_str().into());
    }
}

impl SnapshotFacts {
    fn members(&self, text: &mut BTreeMap<&'static str, Value>) {
        text.insert("backup", self.backup.as_str().into());
        text.insert("repository", self.repository.as_str().into());
        text.insert("snapshot_id", self.snapshot_id.as_str().into());
        text.insert("taken_at", self.taken_at.to_string().into());
        text.insert("verified_at", self.verified_at.to_string().into());
    }
}

/// The text that is signed. `previous` is the digest of the statement before, in hexadecimal digits;
/// zeros for the first.
#[must_use]
pub fn statement(sequence: u64, previous: &str, at: Timestamp, fact: &Fact) -> String {
    // A BTreeMap is written in the order of its keys, whatever features serde_json was built with.
    let mut text = BTreeMap::new();
    fact.members(&mut text);
    text.insert("kind", fact.kind().as_str().into());
    text.insert("sequence", sequence.into());
    text.insert("previous", previous.into());
    text.insert("at", at.to_string().into());
    serde_json::to_string(&text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(snapshot_id: &str) -> Fact {
        let at = Timestamp::UNIX_EPOCH;
        Fact::Seen(SnapshotFacts {
            backup: BackupName::try_new("wiki").unwrap(),
            repository: RepositoryName::try_new("nas").unwrap(),
            snapshot_id: snapshot_id.to_owned(),
            taken_at: at,
            verified_at: at,
        })
    }

    #[test]
    fn a_statement_is_canonical_and_names_the_one_before() {
        let text = statement(2, "00ff", Timestamp::UNIX_EPOCH, &seen("ab\"c"));
        assert_eq!(
            text,
            r#"{"at":"1970-01-01T00:00:00Z","backup":"wiki","kind":"seen","previous":"00ff","repository":"nas","sequence":2,"snapshot_id":"ab\"c","taken_at":"1970-01-01T00:00:00Z","verified_at":"1970-01-01T00:00:00Z"}"#
        );
    }

    #[test]
    fn every_member_of_a_drill_is_part_of_what_is_signed() {
        let drill = DrillFacts {
            run: RunId::from(uuid::Uuid::nil()),
            backup: BackupName::try_new("wiki").unwrap(),
            snapshot_id: "s".to_owned(),
            snapshot_taken_at: Timestamp::UNIX_EPOCH,
            repository: RepositoryName::try_new("nas").ok(),
            source_host: HostName::try_new("db").unwrap(),
            drill_host: HostName::try_new("qotom").unwrap(),
            age: Some(DrillAge::Weekly),
            verdict: DrillVerdict::Passed,
            restore_elapsed: Duration::from_millis(1500),
            report: "cafe".to_owned(),
        };
        let text = |drill: &DrillFacts| {
            statement(1, "", Timestamp::UNIX_EPOCH, &Fact::Drill(drill.clone()))
        };
        let whole = text(&drill);
        let changes: [fn(&mut DrillFacts); 6] = [
            |it| it.verdict = DrillVerdict::Failed,
            |it| it.restore_elapsed = Duration::from_millis(1501),
            |it| it.drill_host = it.source_host.clone(),
            |it| it.snapshot_id = "t".to_owned(),
            |it| it.age = None,
            |it| it.report = "beef".to_owned(),
        ];
        for change in changes {
            let mut other = drill.clone();
            change(&mut other);
            assert_ne!(text(&other), whole);
        }
    }
}
