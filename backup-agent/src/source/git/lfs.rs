//! Large files that git keeps elsewhere (Git LFS).
//!
//! A repository holds only pointers to them (git-lfs specification, "The Pointer"),
//! so that a mirror without the files themselves is half a mirror. They are fetched
//! by `git lfs` where it is installed, and each is compared with the SHA-256 that is
//! its name, by ourselves.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use ring::digest;

use super::{GitError, command::Git};
use crate::{blocking, stream::hex};

/// A pointer is smaller than this (git-lfs specification); ours are at least
/// [`POINTER_BYTES_MIN`].
const POINTER_BYTES_MAX: u64 = 1024;

const POINTER_BYTES_MIN: u64 = 100;

/// Objects that are read in one go.
const BATCH: usize = 4_000;

/// Objects that are pushed by one call: their names are arguments.
const PUSH_BATCH: usize = 500;

/// Large files by their SHA-256, with their size.
pub(crate) type Pointers = BTreeMap<String, u64>;

/// Large files of one repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Audit {
    /// Those that are there and are what their name says.
    pub(crate) present: Pointers,
    /// Those that are not there, or damaged.
    pub(crate) missing: Pointers,
    /// Damaged ones, as they lie there.
    pub(crate) damaged: Vec<PathBuf>,
}

/// Every pointer in the repository, in any commit of any ref, kept ones included.
pub(crate) async fn pointers(git: &Git, path: &Path) -> Result<Pointers, GitError> {
    let format = "--batch-check=%(objectname) %(objecttype) %(objectsize)";
    let all = git.run(path, ["cat-file", format, "--batch-all-objects", "--unordered"]).await?;
    let small: Vec<&str> = all.lines().filter_map(small_blob).collect();
    let mut pointers = Pointers::new();
    for batch in small.chunks(BATCH) {
        let input = batch.join("\n") + "\n";
        let answer = git.feed(path, ["cat-file", "--batch"], input).await?;
        let texts = blobs(&answer);
        pointers.extend(texts.into_iter().filter_map(pointer));
    }
    Ok(pointers)
}

/// Fetches what is missing. What upstream does not have stays missing.
pub(crate) async fn fetch(git: &Git, path: &Path, url: &str) -> Result<(), GitError> {
    let program = git.program(path, settings(url).iter().map(String::as_str));
    let program = program.args(["lfs", "fetch", "--all", "upstream"]).accept([0, 2]);
    git.output(program).await.map(drop)
}

/// Sends large files to a server.
pub(crate) async fn push(
    git: &Git,
    path: &Path,
    url: &str,
    objects: &Pointers,
) -> Result<(), GitError> {
    let names: Vec<&String> = objects.keys().collect();
    for batch in names.chunks(PUSH_BATCH) {
        let program = git.program(path, settings(url).iter().map(String::as_str));
        let program = program.args(["lfs", "push", "--object-id", "upstream"]);
        git.output(program.args(batch.iter().copied())).await?;
    }
    Ok(())
}

/// Looks at every large file that a repository points to.
pub(crate) async fn audit(path: &Path, pointers: Pointers) -> Result<Audit, GitError> {
    let store = path.join("lfs/objects");
    blocking::run(move || {
        let mut audit = Audit::default();
        for (oid, bytes) in pointers {
            let file = object_path(&store, &oid);
            match digest_of(&file) {
                Ok(found) if found == (oid.clone(), bytes) => {
                    audit.present.insert(oid, bytes);
                }
                Ok(_) => {
                    audit.damaged.push(file);
                    audit.missing.insert(oid, bytes);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    audit.missing.insert(oid, bytes);
                }
                Err(source) => return Err(GitError::Folder { path: file, source }),
            }
        }
        Ok(audit)
    })
    .await
}

/// Puts damaged files aside, so that they are fetched again.
pub(crate) fn set_aside(audit: &Audit) -> Result<(), GitError> {
    for path in &audit.damaged {
        let aside = path.with_extension("damaged");
        fs::rename(path, &aside)
            .map_err(|source| GitError::Folder { path: path.clone(), source })?;
    }
    Ok(())
}

/// Where git-lfs keeps a file.
pub(crate) fn object_path(store: &Path, oid: &str) -> PathBuf {
    let (first, second) = (oid.get(..2).unwrap_or_default(), oid.get(2..4).unwrap_or_default());
    store.join(first).join(second).join(oid)
}

/// Its server is the repository's own, whatever a file in the repository says.
fn settings(url: &str) -> Vec<String> {
    let mut settings = vec!["-c".to_owned(), format!("remote.upstream.url={url}")];
    if url.starts_with("http") {
        settings.extend(["-c".to_owned(), format!("lfs.url={url}/info/lfs")]);
    }
    settings
}

fn digest_of(path: &Path) -> io::Result<(String, u64)> {
    let mut file = File::open(path)?;
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut piece = vec![0; 256 * 1024];
    let mut bytes = 0;
    loop {
        let count = file.read(&mut piece)?;
        if count == 0 {
            return Ok((hex(hash.finish().as_ref()), bytes));
        }
        bytes += count as u64;
        hash.update(piece.get(..count).unwrap_or_default());
    }
}

fn small_blob(line: &str) -> Option<&str> {
    let mut words = line.split(' ');
    let (id, kind, bytes) = (words.next()?, words.next()?, words.next()?.parse::<u64>().ok()?);
    let fits = (POINTER_BYTES_MIN..POINTER_BYTES_MAX).contains(&bytes);
    (kind == "blob" && fits).then_some(id)
}

/// The contents in an answer of `git cat-file --batch`.
fn blobs(answer: &[u8]) -> Vec<&[u8]> {
    let mut blobs = Vec::new();
    let mut rest = answer;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let (line, behind) = rest.split_at(end);
        let size = std::str::from_utf8(line).ok().and_then(|line| line.rsplit(' ').next());
        let Some(size) = size.and_then(|size| size.parse::<usize>().ok()) else { break };
        let Some(blob) = behind.get(1..=size) else { break };
        blobs.push(blob);
        rest = behind.get(size + 2..).unwrap_or_default();
    }
    blobs
}

fn pointer(blob: &[u8]) -> Option<(String, u64)> {
    let text = std::str::from_utf8(blob).ok()?;
    let mut lines = text.lines();
    let version = lines.next()?.strip_prefix("version https://")?;
    let known = ["git-lfs.github.com/spec/", "hawser.github.com/spec/"];
    if !known.iter().any(|known| version.starts_with(known)) {
        return None;
    }
    let value =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let oid = value("oid")?.strip_prefix("sha256:")?;
    let is_digest = oid.len() == 64 && oid.chars().all(|c| matches!(c, '0'..='9' | 'a'..='f'));
    is_digest.then_some((oid.to_owned(), value("size")?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OID: &str = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393";

    #[test]
    fn a_pointer_is_told_from_text_about_pointers() {
        let text =
            format!("version https://git-lfs.github.com/spec/v1\noid sha256:{OID}\nsize 12345\n");
        assert_eq!(pointer(text.as_bytes()), Some((OID.to_owned(), 12345)));
        for bad in [
            text.replace("version", "see"),
            text.replace("sha256:4d", "sha256:4D"),
            text.replace("size 12345", "size many"),
            text.replace("git-lfs.github.com", "evil.example"),
        ] {
            assert_eq!(pointer(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(pointer(b"\xff\xfe"), None);
    }

    #[test]
    fn contents_are_found_in_a_batch_and_what_is_missing_ends_it() {
        let answer = b"aaaa blob 3\nx\ny\nbbbb blob 0\n\ncccc missing\n";
        assert_eq!(blobs(answer), [&b"x\ny"[..], &b""[..]]);
    }

    #[test]
    fn only_small_blobs_are_looked_at() {
        assert_eq!(small_blob("aaaa blob 130"), Some("aaaa"));
        for other in ["aaaa blob 99", "aaaa blob 1024", "aaaa tree 130", "aaaa missing", ""] {
            assert_eq!(small_blob(other), None, "{other}");
        }
    }
}
