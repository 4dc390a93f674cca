//! The files of an identity. They are replaced together: `pki` is a link to a directory that is
//! complete and flushed before the link points to it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, lchown, symlink},
    path::{Path, PathBuf},
};

use homelab_common::{chance::Chance, secret::Secret};
use serde::{Deserialize, Serialize};

const KEY_FILE: &str = "key.pem";
const CHAIN_FILE: &str = "cert.pem";
const ROOTS_FILE: &str = "ca.pem";
/// Beside certificate and key: where they came from, as [`Enrolment`] in JSON.
pub const ENROLMENT_FILE: &str = "enrolment.json";

/// Where the identity came from, and where it is renewed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Enrolment {
    /// The SPIFFE id.
    pub identity: String,
    /// The controller's main port: `host:port`.
    pub controller_address: String,
    /// The name in the controller's certificate.
    pub controller_name: String,
}

/// Why the files could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// Something else is in the place of the identity.
    #[error("`{}` is not empty; move it away to enrol anew", path.display())]
    Occupied {
        /// The directory.
        path: PathBuf,
    },
    /// The system refused.
    #[error("could not {what} `{}`", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The file is not what we wrote.
    #[error("`{}` is damaged; enrol anew", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        #[source]
        source: serde_json::Error,
    },
}

/// Reads `enrolment.json` of an identity; `None` when there is none: the identity was not made
/// by enrolment, or there is no identity yet.
///
/// # Errors
///
/// The file cannot be read or is damaged.
pub fn enrolment_in(directory: &Path) -> Result<Option<Enrolment>, FilesError> {
    let path = directory.join(ENROLMENT_FILE);
    match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| FilesError::Damaged { path, source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FilesError::Io { what: "read", path, source }),
    }
}

/// A whole identity as text.
#[derive(Debug)]
pub struct IdentityFiles {
    /// The private key, PEM.
    pub key: Secret<String>,
    /// Leaf and issuing CA, PEM.
    pub chain: String,
    /// The roots to trust, PEM.
    pub roots: String,
    /// Where it came from.
    pub enrolment: Enrolment,
}

/// Whether the place for an identity is free: missing, or an empty directory.
pub(super) fn must_be_free(directory: &Path) -> Result<(), FilesError> {
    match fs::read_dir(directory) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(FilesError::Occupied { path: directory.into() }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(FilesError::Io { what: "read", path: directory.into(), source }),
    }
}

impl IdentityFiles {
    /// Puts these files in the place of those in `directory`: all of them, or none. Blocks on
    /// the disk.
    ///
    /// # Errors
    ///
    /// The disk refuses; the old identity is still there then.
    pub fn replace(&self, directory: &Path, chance: &dyn Chance) -> Result<(), FilesError> {
        self.replace_as(chance.u64(), directory)
    }

    /// [`IdentityFiles::replace`] on a thread that may block.
    pub(super) async fn put(
        self,
        directory: PathBuf,
        chance: &dyn Chance,
    ) -> Result<(), FilesError> {
        let (number, path) = (chance.u64(), directory.clone());
        let put = tokio::task::spawn_blocking(move || self.replace_as(number, &directory));
        put.await.unwrap_or_else(|broken| {
            Err(io_error("write the identity to", &path, io::Error::other(broken)))
        })
    }

    /// `number` makes the name of the new directory one that was not used before.
    fn replace_as(&self, number: u64, directory: &Path) -> Result<(), FilesError> {
        let parent = match directory.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let fresh = format!("{name}.{number:016x}");
        let home = parent.join(&fresh);
        let old = fs::read_link(directory).ok();
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&home)
            .map_err(|source| io_error("make the directory", &home, source))?;
        let written =
            self.write(&home).and_then(|()| give_to_owner_of(parent, &home)).and_then(|()| {
                let link = parent.join(format!(".{fresh}"));
                symlink(&fresh, &link)
                    .map_err(|source| io_error("make the link", &link, source))?;
                put_link(&link, directory).inspect_err(|_| discard(&link))
            });
        if let Err(error) = written {
            discard(&home);
            return Err(error);
        }
        sync(parent)?;
        if let Some(old) = old {
            discard(&parent.join(old));
        }
        Ok(())
    }

    fn write(&self, home: &Path) -> Result<(), FilesError> {
        let enrolment = serde_json::to_string_pretty(&self.enrolment)
            .map_err(|source| FilesError::Damaged { path: home.join(ENROLMENT_FILE), source })?;
        for (file, text) in [
            (KEY_FILE, self.key.expose()),
            (CHAIN_FILE, &self.chain),
            (ROOTS_FILE, &self.roots),
            (ENROLMENT_FILE, &enrolment),
        ] {
            let path = home.join(file);
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(0o600);
            options
                .open(&path)
                .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
                .map_err(|source| io_error("write", &path, source))?;
        }
        sync(home)
    }
}

/// Gives a directory and the files in it to the owner of `parent`, when root has made them: the daemon that
/// uses the identity is the owner of the state directory.
///
/// # Errors
///
/// The system refuses.
pub fn give_to_owner_of(parent: &Path, home: &Path) -> Result<(), FilesError> {
    let failed = |source| io_error("give to the daemon's user", home, source);
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    let owner = fs::metadata(parent).map_err(failed)?;
    let (uid, gid) = (Some(owner.uid()), Some(owner.gid()));
    for entry in fs::read_dir(home).map_err(failed)? {
        lchown(entry.map_err(failed)?.path(), uid, gid).map_err(failed)?;
    }
    lchown(home, uid, gid).map_err(failed)
}

/// Makes `directory` the link. A link or an empty directory there is replaced; a directory with
/// files, which somebody copied there, is put aside first.
fn put_link(link: &Path, directory: &Path) -> Result<(), FilesError> {
    let is_link = fs::symlink_metadata(directory).is_ok_and(|found| found.is_symlink());
    if !is_link && directory.exists() && fs::remove_dir(directory).is_err() {
        let mut aside = directory.as_os_str().to_owned();
        aside.push(".old");
        let aside = PathBuf::from(aside);
        discard(&aside);
        fs::rename(directory, &aside).map_err(|source| io_error("put aside", directory, source))?;
    }
    fs::rename(link, directory).map_err(|source| io_error("put the link at", directory, source))
}

fn sync(directory: &Path) -> Result<(), FilesError> {
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| io_error("flush", directory, source))
}

/// What cannot be removed does no harm; nothing points to it.
fn discard(path: &Path) {
    let _left = fs::remove_file(path).or_else(|_| fs::remove_dir_all(path));
}

fn io_error(what: &'static str, path: &Path, source: io::Error) -> FilesError {
    FilesError::Io { what, path: path.into(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use homelab_common::chance::SeededChance;

    use super::*;

    fn files(text: &str) -> IdentityFiles {
        IdentityFiles {
            key: Secret::new(format!("key {text}")),
            chain: format!("chain {text}"),
            roots: format!("roots {text}"),
            enrolment: Enrolment {
                identity: text.into(),
                controller_address: "127.0.0.1:7440".into(),
                controller_name: "db.home".into(),
            },
        }
    }

    fn scratch() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let pki = dir.path().join("pki");
        (dir, pki)
    }

    fn left_in(dir: &Path) -> usize {
        fs::read_dir(dir).expect("readable").count()
    }

    #[test]
    fn an_identity_is_complete_and_private() {
        let (_dir, pki) = scratch();
        files("a").replace(&pki, &SeededChance::new(1)).expect("written");
        for file in [KEY_FILE, CHAIN_FILE, ROOTS_FILE, ENROLMENT_FILE] {
            let mode = fs::metadata(pki.join(file)).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
        let enrolment = enrolment_in(&pki).expect("readable").expect("there");
        assert_eq!(enrolment, files("a").enrolment);
    }

    #[test]
    fn a_new_identity_leaves_nothing_of_the_old_one() {
        let (dir, pki) = scratch();
        let chance = SeededChance::new(2);
        files("a").replace(&pki, &chance).expect("written");
        files("b").replace(&pki, &chance).expect("written");
        assert_eq!(fs::read_to_string(pki.join(CHAIN_FILE)).expect("there"), "chain b");
        assert_eq!(left_in(dir.path()), 2, "the link and one directory");
    }

    #[test]
    fn an_empty_directory_is_free_and_a_full_one_is_not() {
        let (_dir, pki) = scratch();
        must_be_free(&pki).expect("missing is free");
        fs::create_dir(&pki).expect("a directory");
        must_be_free(&pki).expect("empty is free");
        files("a").replace(&pki, &SeededChance::new(3)).expect("written");
        assert!(matches!(must_be_free(&pki), Err(FilesError::Occupied { .. })));
    }

    #[test]
    fn a_copied_directory_is_put_aside_and_not_lost() {
        let (dir, pki) = scratch();
        fs::create_dir(&pki).expect("a directory");
        fs::write(pki.join(CHAIN_FILE), "by hand").expect("a file");
        files("b").replace(&pki, &SeededChance::new(4)).expect("written");
        assert_eq!(fs::read_to_string(pki.join(CHAIN_FILE)).expect("there"), "chain b");
        let old = dir.path().join("pki.old").join(CHAIN_FILE);
        assert_eq!(fs::read_to_string(old).expect("there"), "by hand");
    }

    #[test]
    fn a_failed_write_leaves_the_old_identity_and_no_rubbish() {
        let (dir, pki) = scratch();
        files("a").replace(&pki, &SeededChance::new(5)).expect("written");
        // The next directory's name is taken: nothing can be written.
        let taken = format!("pki.{:016x}", SeededChance::new(6).u64());
        fs::write(dir.path().join(taken), "").expect("a file");
        let error = files("b").replace(&pki, &SeededChance::new(6)).expect_err("refused");
        assert!(error.to_string().contains("make the directory"), "{error}");
        assert_eq!(fs::read_to_string(pki.join(CHAIN_FILE)).expect("there"), "chain a");
    }
}
