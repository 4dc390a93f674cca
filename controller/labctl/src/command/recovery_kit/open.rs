//! Whether a secret opens what it should: tried with plain tools, as after a disaster.

use std::{fs, path::Path, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use homelab_common::{
    error_chain::Chain,
    exec::{Exec, ExecError, Program},
};
use homelab_proto::controller::v1::KitRepository;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use serde_json::Value;

/// A NAS may have to spin up, and the key is made slow to guess on purpose.
const DEADLINE: Duration = Duration::from_secs(120);
/// Beside restic's own files in a repository: which one it is.
const IDENTITY_FILE: &str = "homelab-repository.json";
/// Most bytes of a secret, or of an identity file.
const FILE_BYTES_MAX: u64 = 64 * 1024;
/// restic's exit codes (0.17 and later): no repository there, and a wrong password.
const NO_REPOSITORY: i32 = 10;
const WRONG_PASSWORD: i32 = 12;

/// What became of trying a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tried {
    /// It opened what it should.
    Opened(String),
    /// It did not.
    Refused(String),
    /// It could not be tried, and why.
    Not(String),
}

/// Opens a repository with plain restic, by the password in a file.
pub(super) async fn repository(
    exec: &dyn Exec,
    restic: &str,
    repository: &KitRepository,
    place: &str,
    password: &Path,
) -> Tried {
    if let Err(why) = is_the_one(place, &repository.identity) {
        return Tried::Not(why);
    }
    // The password goes by its file, never by an argument; nothing is written.
    let program = Program::new(restic)
        .args(["-r", place, "--no-lock", "--no-cache", "--password-file"])
        .arg(password.display().to_string())
        .args(["snapshots", "--tag", "verified", "--json"])
        .deadline(DEADLINE);
    match exec.run(program).await {
        Ok(output) => {
            let listed = serde_json::from_slice::<Value>(&output.stdout).ok();
            let count = listed.as_ref().and_then(Value::as_array).map(Vec::len);
            count.map_or_else(
                || Tried::Refused(format!("restic opened {place} and listed nothing readable")),
                |count| Tried::Opened(format!("{}: {count} verified snapshots", repository.name)),
            )
        }
        Err(error) => refused(&error, place),
    }
}

fn refused(error: &ExecError, place: &str) -> Tried {
    match error {
        ExecError::NotFound { .. } => Tried::Not(
            "restic is not installed here: apt install restic, or --restic PROGRAM".to_owned(),
        ),
        ExecError::Exit { code, stderr_tail, .. } => {
            let words =
                stderr_tail.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
            match *code {
                Some(WRONG_PASSWORD) => Tried::Refused(format!("{place}: wrong password")),
                Some(NO_REPOSITORY) => Tried::Not(format!("there is no repository at {place}")),
                _ if stderr_tail.contains("wrong password") => {
                    Tried::Refused(format!("{place}: wrong password"))
                }
                _ if stderr_tail.contains("Is there a repository") => {
                    Tried::Not(format!("there is no repository at {place}"))
                }
                _ => Tried::Refused(format!("{place}: {words}")),
            }
        }
        other => Tried::Not(Chain(other).to_string()),
    }
}

/// A folder may be another repository than the kit's: its identity file tells. What is no folder of this
/// host (`sftp:…`) is for restic to find.
fn is_the_one(place: &str, identity: &str) -> Result<(), String> {
    if !place.starts_with('/') {
        return Ok(());
    }
    if !Path::new(place).is_dir() {
        return Err(format!("{place} is not there; is it mounted?"));
    }
    if identity.is_empty() {
        return Ok(());
    }
    let file = Path::new(place).join(IDENTITY_FILE);
    let text = read(&file).map_err(|why| format!("{place} is not the kit's repository: {why}"))?;
    let found = serde_json::from_slice::<Value>(&text).unwrap_or_default();
    match found["id"].as_str() {
        Some(id) if id == identity => Ok(()),
        _ => Err(format!("{place} is another repository: its identity is not {identity}")),
    }
}

/// Compares a private key with the certificate of the CA's root; none when the file holds no private key.
pub(super) fn root_key(file: &Path, root_pem: &str) -> Option<Tried> {
    let text = read(file).ok().and_then(|bytes| String::from_utf8(bytes).ok())?;
    let key = der(&text, "PRIVATE KEY")?;
    let (kind, random) = (&ECDSA_P256_SHA256_ASN1_SIGNING, SystemRandom::new());
    let Ok(pair) = EcdsaKeyPair::from_pkcs8(kind, &key, &random) else {
        return Some(Tried::Refused("the file holds no usable P-256 key".to_owned()));
    };
    let Some(certificate) = der(root_pem, "CERTIFICATE") else {
        return Some(Tried::Not("the controller shows no certificate of the root".to_owned()));
    };
    let point = pair.public_key().as_ref();
    let is_its_own = certificate.windows(point.len()).any(|window| window == point);
    Some(if is_its_own {
        Tried::Opened("it is the key of the root's certificate".to_owned())
    } else {
        Tried::Refused("it is the key of another certificate than the root's".to_owned())
    })
}

/// The first block of that kind in a PEM text.
fn der(text: &str, kind: &str) -> Option<Vec<u8>> {
    let (_, rest) = text.split_once(&format!("-----BEGIN {kind}-----"))?;
    let (inside, _) = rest.split_once(&format!("-----END {kind}-----"))?;
    STANDARD.decode(inside.split_whitespace().collect::<String>()).ok()
}

/// A small file.
pub(super) fn read(file: &Path) -> Result<Vec<u8>, String> {
    let told = |error: std::io::Error| format!("{}: {error}", file.display());
    if fs::metadata(file).map_err(told)?.len() > FILE_BYTES_MAX {
        return Err(format!("{} is larger than 64 KiB", file.display()));
    }
    fs::read(file).map_err(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pem(kind: &str, der: &[u8]) -> String {
        format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", STANDARD.encode(der))
    }

    fn key() -> (Vec<u8>, Vec<u8>) {
        let (kind, random) = (&ECDSA_P256_SHA256_ASN1_SIGNING, SystemRandom::new());
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(kind, &random).expect("randomness");
        let pair = EcdsaKeyPair::from_pkcs8(kind, pkcs8.as_ref(), &random).expect("a key");
        (pkcs8.as_ref().to_vec(), pair.public_key().as_ref().to_vec())
    }

    #[test]
    fn the_roots_key_is_told_from_another() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("ca-root-key");
        let ((own, point), (other, _)) = (key(), key());
        let certificate = pem("CERTIFICATE", &[b"before".as_slice(), &point, b"after"].concat());
        fs::write(&file, pem("PRIVATE KEY", &own)).expect("written");
        assert!(matches!(root_key(&file, &certificate), Some(Tried::Opened(_))));
        fs::write(&file, pem("PRIVATE KEY", &other)).expect("written");
        assert!(matches!(root_key(&file, &certificate), Some(Tried::Refused(_))));
        fs::write(&file, "correct horse").expect("written");
        assert_eq!(root_key(&file, &certificate), None, "a password is no key");
    }

    #[test]
    fn a_folder_that_is_another_repository_is_not_tried() {
        let folder = tempfile::tempdir().expect("folder");
        let place = folder.path().display().to_string();
        assert!(is_the_one(&place, "").is_ok(), "nobody has told which it is");
        assert!(is_the_one(&place, "0190a8f2").is_err_and(|why| why.contains("not the kit's")));
        fs::write(folder.path().join(IDENTITY_FILE), r#"{"id":"0190a8f2"}"#).expect("written");
        assert!(is_the_one(&place, "0190a8f2").is_ok());
        assert!(is_the_one(&place, "ffff").is_err_and(|why| why.contains("another repository")));
        assert!(is_the_one("/nowhere/at/all", "ffff").is_err_and(|why| why.contains("mounted")));
        assert!(is_the_one("sftp:nas:/backup", "ffff").is_ok(), "restic finds out");
    }
}
