//! Whether evidence is what was signed. Nothing of the controller is trusted here but its statements'
//! bytes: digests and signatures are worked out anew.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use homelab_proto::controller::v1::DrillEvidence;
use ring::{
    digest::{SHA256, digest},
    signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey},
};
use serde_json::Value;

/// What stands before the point of a P-256 key in a SubjectPublicKeyInfo (RFC 5480, section 2).
const SPKI_HEAD: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// The public key that evidence is signed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    point: Vec<u8>,
    id: String,
}

impl Key {
    /// Reads a P-256 key in PEM.
    pub(super) fn from_pem(text: &str) -> Result<Self, String> {
        let wrong = || "this is no public key (P-256) in PEM".to_owned();
        let inside = text
            .split_once("-----BEGIN PUBLIC KEY-----")
            .and_then(|(_, rest)| rest.split_once("-----END PUBLIC KEY-----"))
            .ok_or_else(wrong)?;
        let base64: String = inside.0.split_whitespace().collect();
        let spki = STANDARD.decode(base64).map_err(|_| wrong())?;
        let point = spki.strip_prefix(&SPKI_HEAD).ok_or_else(wrong)?.to_vec();
        Ok(Self { point, id: hex(&spki) })
    }

    /// SHA-256 of the key, as the evidence names it.
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    fn has_signed(&self, statement: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point)
            .verify(statement, signature)
            .is_ok()
    }
}

/// The first piece that is not what was signed; `evidence` is newest first.
pub(super) fn first_fault(evidence: &[DrillEvidence], key: &Key) -> Option<String> {
    let links = evidence.iter().zip(evidence.iter().skip(1));
    let broken = links.filter_map(|(newer, older)| link_fault(newer, older));
    let own = evidence.iter().filter_map(|one| own_fault(one, key));
    own.chain(broken).next()
}

fn own_fault(one: &DrillEvidence, key: &Key) -> Option<String> {
    let number = one.sequence;
    if hex(&one.statement) != one.digest {
        return Some(format!("the digest of number {number} is not that of its statement"));
    }
    if one.key_id != key.id {
        return Some(format!("number {number} is signed with another key than {}", key.id));
    }
    if !key.has_signed(&one.statement, &one.signature) {
        return Some(format!("the signature of number {number} does not fit"));
    }
    let Ok(stated) = serde_json::from_slice::<Value>(&one.statement) else {
        return Some(format!("the statement of number {number} is no JSON"));
    };
    // What is shown beside the statement must be what it says.
    let shown = [
        ("run", &one.run_id),
        ("backup", &one.backup),
        ("snapshot_id", &one.snapshot_id),
        ("previous", &one.previous_digest),
    ];
    let other = shown.iter().find(|(field, value)| stated[*field].as_str() != Some(value));
    other.map(|(field, _)| format!("number {number} shows another `{field}` than was signed"))
}

/// Between two drills other things may have been signed; where nothing was, the digests must join.
fn link_fault(newer: &DrillEvidence, older: &DrillEvidence) -> Option<String> {
    let (later, earlier) = (newer.sequence, older.sequence);
    if later <= earlier {
        return Some(format!("number {later} comes after number {earlier}"));
    }
    (later == earlier + 1 && newer.previous_digest != older.digest)
        .then(|| format!("number {later} does not name number {earlier} as the one before it"))
}

fn hex(bytes: &[u8]) -> String {
    let sum = digest(&SHA256, bytes);
    sum.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use ring::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _},
    };

    use super::*;

    struct Signer(EcdsaKeyPair);

    impl Signer {
        fn new() -> Self {
            let (random, kind) = (SystemRandom::new(), &ECDSA_P256_SHA256_ASN1_SIGNING);
            let pkcs8 = EcdsaKeyPair::generate_pkcs8(kind, &random).expect("randomness");
            Self(EcdsaKeyPair::from_pkcs8(kind, pkcs8.as_ref(), &random).expect("a key"))
        }

        fn key(&self) -> Key {
            let spki = [&SPKI_HEAD, self.0.public_key().as_ref()].concat();
            let text = STANDARD.encode(spki);
            let pem = format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n");
            Key::from_pem(&pem).expect("a key")
        }

        fn evidence(&self, sequence: u64, previous: &str) -> DrillEvidence {
            let statement = format!(
                r#"{{"backup":"wiki","previous":"{previous}","run":"7","snapshot_id":"ab"}}"#
            );
            let signature = self.0.sign(&SystemRandom::new(), statement.as_bytes());
            DrillEvidence {
                sequence,
                run_id: "7".to_owned(),
                backup: "wiki".to_owned(),
                snapshot_id: "ab".to_owned(),
                previous_digest: previous.to_owned(),
                digest: hex(statement.as_bytes()),
                signature: signature.expect("signed").as_ref().to_vec().into(),
                statement: statement.into_bytes().into(),
                key_id: self.key().id,
                ..DrillEvidence::default()
            }
        }
    }

    #[test]
    fn what_was_signed_is_believed_and_gaps_between_drills_are_fine() {
        let signer = Signer::new();
        let first = signer.evidence(4, "00");
        let second = signer.evidence(5, &first.digest);
        let after_a_gap = signer.evidence(9, "something in between");
        assert_eq!(first_fault(&[after_a_gap, second, first], &signer.key()), None);
    }

    #[test]
    fn each_way_to_lie_is_found() {
        let signer = Signer::new();
        let first = signer.evidence(4, "00");
        let second = signer.evidence(5, &first.digest);
        let shown_otherwise = DrillEvidence { backup: "forgejo".to_owned(), ..second.clone() };
        let changed = DrillEvidence { statement: b"{}".to_vec().into(), ..second.clone() };
        let unsigned = DrillEvidence { signature: first.signature.clone(), ..second.clone() };
        let elsewhere = signer.evidence(5, "another history");
        for (piece, words) in [
            (shown_otherwise, "another `backup`"),
            (changed, "digest of number 5"),
            (unsigned, "signature of number 5"),
            (elsewhere, "does not name number 4"),
        ] {
            let fault = first_fault(&[piece, first.clone()], &signer.key()).expect("a lie");
            assert!(fault.contains(words), "{fault}");
        }
        let other = Signer::new().key();
        let fault = first_fault(&[first], &other).expect("not this key");
        assert!(fault.contains("another key"), "{fault}");
    }

    #[test]
    fn only_a_public_key_is_taken_for_one() {
        assert!(Key::from_pem("nonsense").is_err());
        let rsa = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----";
        assert!(Key::from_pem(rsa).is_err());
    }
}
