//! The files of a mounted snapshot, counted.
//!
//! ZFS checks every block that it receives, and the guid proves which snapshot it
//! is. Counting the files as well proves the one thing that is left: that what comes
//! back can be mounted and read. The listing is digested in the order of paths; the
//! contents of some files, chosen by their paths so that the same ones are chosen
//! again, are hashed too.

use std::{
    fs::{self, File, Metadata},
    io::{self, Read},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::Path,
};

use ring::digest;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::stream::{Sha256, hex};

/// Files whose contents are hashed.
const SAMPLE_FILES: usize = 64;
/// Larger files are not read for the sample.
const SAMPLE_BYTES_MAX: u64 = 64 << 20;
/// More entries than this are not walked: a day of work, and a list of paths in memory.
const ENTRIES_MAX: u64 = 20_000_000;

/// What a tree of files is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Census {
    /// Regular files.
    pub files: u64,
    /// Folders, the root included.
    pub folders: u64,
    /// Links, sockets, devices.
    pub others: u64,
    /// Bytes of the regular files.
    pub bytes: u64,
    /// Digest of path, kind, size, mode, owner and time of change of everything.
    pub listing: Sha256,
    /// Digest of the contents of the sampled files.
    pub sample: Sha256,
    /// How many files were sampled.
    pub sampled: u64,
}

/// Counts the tree below `root`; stays on its file system. Blocks.
///
/// # Errors
///
/// Something could not be read, or `cancel` fired.
pub fn take(root: &Path, cancel: &CancellationToken) -> io::Result<Census> {
    let mut walk = Walk {
        listing: digest::Context::new(&digest::SHA256),
        sample: Vec::new(),
        counted: [0; 3],
        bytes: 0,
        device: fs::symlink_metadata(root)?.dev(),
    };
    walk.folder(root, Path::new(""), cancel)?;
    let sampled = walk.sample.len() as u64;
    let sample = digest_of_contents(root, &walk.sample, cancel)?;
    let [files, folders, others] = walk.counted;
    let listing = Sha256::from_digest(walk.listing.finish());
    Ok(Census { files, folders, others, bytes: walk.bytes, listing, sample, sampled })
}

impl Census {
    /// In what `found` is another tree, a sentence each.
    #[must_use]
    pub fn differences(&self, found: &Self) -> Vec<String> {
        let counts = [
            ("files", self.files, found.files),
            ("folders", self.folders, found.folders),
            ("links and devices", self.others, found.others),
            ("bytes in files", self.bytes, found.bytes),
            ("sampled files", self.sampled, found.sampled),
        ];
        let counts = counts.iter().filter(|(_, was, is)| was != is);
        let mut differences: Vec<String> =
            counts.map(|(what, was, is)| format!("{is} {what}, the source had {was}")).collect();
        if differences.is_empty() && self.listing != found.listing {
            differences.push("names, sizes, modes or times differ from the source's".to_owned());
        }
        if self.sampled == found.sampled && self.sample != found.sample {
            differences.push("the contents of sampled files differ from the source's".to_owned());
        }
        differences
    }
}

struct Walk {
    listing: digest::Context,
    /// The paths with the smallest digests: the same choice for the same tree.
    sample: Vec<([u8; 8], std::path::PathBuf)>,
    counted: [u64; 3],
    bytes: u64,
    device: u64,
}

impl Walk {
    fn folder(&mut self, root: &Path, inside: &Path, cancel: &CancellationToken) -> io::Result<()> {
        let mut waiting = vec![inside.to_path_buf()];
        while let Some(inside) = waiting.pop() {
            if cancel.is_cancelled() {
                return Err(io::Error::other("cancelled"));
            }
            let metadata = fs::symlink_metadata(root.join(&inside))?;
            self.note(&inside, &metadata)?;
            // ZFS shows snapshots below `.zfs`, and other datasets as other devices.
            if !metadata.is_dir() || metadata.dev() != self.device {
                continue;
            }
            let entries = fs::read_dir(root.join(&inside))?;
            let mut names: Vec<_> =
                entries.map(|it| Ok(it?.file_name())).collect::<io::Result<_>>()?;
            names.retain(|name| !(inside.as_os_str().is_empty() && name == ".zfs"));
            // Last first, so that they are taken in order.
            names.sort_unstable_by(|a, b| b.cmp(a));
            waiting.extend(names.iter().map(|name| inside.join(name)));
        }
        Ok(())
    }

    fn note(&mut self, inside: &Path, metadata: &Metadata) -> io::Result<()> {
        let kind = metadata.file_type();
        let which = if kind.is_file() {
            0
        } else if kind.is_dir() {
            1
        } else {
            2
        };
        self.counted[which] += 1;
        if self.counted.iter().sum::<u64>() > ENTRIES_MAX {
            return Err(io::Error::other(format!("more than {ENTRIES_MAX} entries")));
        }
        let size = if kind.is_file() { metadata.len() } else { 0 };
        self.bytes += size;
        let path = inside.as_os_str().as_bytes();
        self.listing.update(path);
        let (uid, gid) = (metadata.uid(), metadata.gid());
        let (seconds, nanos) = (metadata.mtime(), metadata.mtime_nsec());
        let facts =
            format!("\0{which} {size} {:o} {uid} {gid} {seconds} {nanos}\n", metadata.mode());
        self.listing.update(facts.as_bytes());
        if kind.is_file() && size <= SAMPLE_BYTES_MAX {
            self.choose(inside);
        }
        Ok(())
    }

    fn choose(&mut self, inside: &Path) {
        let digest = digest::digest(&digest::SHA256, inside.as_os_str().as_bytes());
        let Some(rank) = digest.as_ref().first_chunk::<8>() else { return };
        let at = self.sample.partition_point(|(other, _)| other < rank);
        if at < SAMPLE_FILES {
            self.sample.insert(at, (*rank, inside.to_path_buf()));
            self.sample.truncate(SAMPLE_FILES);
        }
    }
}

fn digest_of_contents(
    root: &Path,
    sample: &[([u8; 8], std::path::PathBuf)],
    cancel: &CancellationToken,
) -> io::Result<Sha256> {
    let mut all = String::new();
    for (_, inside) in sample {
        let mut file = File::open(root.join(inside))?.take(SAMPLE_BYTES_MAX + 1);
        let mut hash = digest::Context::new(&digest::SHA256);
        let mut buffer = vec![0; 1 << 16];
        loop {
            if cancel.is_cancelled() {
                return Err(io::Error::other("cancelled"));
            }
            match file.read(&mut buffer)? {
                0 => break,
                size => hash.update(&buffer[..size]),
            }
        }
        all.push_str(&hex(hash.finish().as_ref()));
        all.push('\n');
    }
    Ok(Sha256::of(all.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        fs::create_dir(root.path().join("a")).expect("a folder");
        fs::write(root.path().join("a/one"), "1").expect("a file");
        fs::write(root.path().join("two"), "22").expect("a file");
        std::os::unix::fs::symlink("two", root.path().join("link")).expect("a link");
        root
    }

    fn census(root: &tempfile::TempDir) -> Census {
        take(root.path(), &CancellationToken::new()).expect("a census")
    }

    #[test]
    fn everything_is_counted_once() {
        let census = census(&tree());
        assert_eq!((census.files, census.folders, census.others), (2, 2, 1));
        assert_eq!((census.bytes, census.sampled), (3, 2));
    }

    #[test]
    fn a_changed_byte_of_the_same_size_and_time_is_found() {
        let root = tree();
        let before = census(&root);
        let path = root.path().join("two");
        let time = fs::metadata(&path).and_then(|it| it.modified()).expect("a time");
        fs::write(&path, "23").expect("a file");
        let file = File::options().write(true).open(&path).expect("a file");
        file.set_modified(time).expect("a time");
        let after = census(&root);
        let found = before.differences(&after);
        assert_eq!(found, ["the contents of sampled files differ from the source's"]);
    }

    #[test]
    fn a_lost_file_is_found() {
        let root = tree();
        let before = census(&root);
        fs::remove_file(root.path().join("a/one")).expect("removed");
        let found = before.differences(&census(&root)).join("; ");
        assert!(found.contains("1 files, the source had 2"), "{found}");
    }
}
