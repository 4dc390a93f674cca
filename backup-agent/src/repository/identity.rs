//! Is this really our repository?
//!
//! A NAS that is not mounted leaves an empty folder on the system disk behind,
//! which takes backups gladly and loses them with the host. So the path must
//! exist, be on the expected mount, and hold an identity file that only
//! [`init`](super::restic::ResticRepository::init) writes and whose id the
//! configuration names. Nothing here ever creates the folder.
//!
//! Whoever passes the guard holds an [`Anchor`]: an open folder through which
//! all later access goes (`/proc/self/fd/N`, see proc(5)). If the mount vanishes
//! meanwhile, that access fails or reaches the detached file system; it can never
//! land on the disk underneath.

use std::{
    fmt::Debug,
    fs::{self, File},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::sys::statvfs;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    mount,
    storage::{Storage, deadline::Hung, folder::Folder},
};

/// The identity file, beside restic's own files, which ignore it.
pub const FILE_NAME: &str = "homelab-repository.json";

/// The format of that file.
const FORMAT: u32 = 1;

/// How a place is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A folder of this host.
    Local,
    /// A folder on a mount that must be there.
    Mount,
    /// A folder on a server.
    Sftp,
}

/// A place that can be recognised. Shared as `Arc<dyn Site>`; all calls block, some
/// for ever when a mount hangs.
pub trait Site: Debug + Send + Sync {
    /// What people call the place.
    fn location(&self) -> String;

    /// The identity that it must have.
    fn id(&self) -> Uuid;

    /// How it is reached.
    fn transport(&self) -> Transport;

    /// Checks everything and opens it.
    ///
    /// # Errors
    ///
    /// What is wrong with the place.
    fn enter(&self) -> Result<Arc<dyn Storage>, GuardError>;

    /// For a repository that is about to be made: the place must be right and empty.
    ///
    /// # Errors
    ///
    /// What is wrong with the place.
    fn enter_empty(&self) -> Result<Arc<dyn Storage>, GuardError>;

    /// What is mounted there; absent where nothing is mounted.
    ///
    /// # Errors
    ///
    /// The system does not say.
    fn mount(&self) -> io::Result<Option<mount::Mount>>;

    /// An error of the place as one of its guard.
    fn unreachable(&self, source: io::Error) -> GuardError {
        match Hung::behind(&source) {
            Some(hung) => GuardError::Hanging(hung.clone()),
            None => GuardError::Unreachable { path: self.location().into(), source },
        }
    }

    /// Writes the identity file: the last step of making a repository.
    ///
    /// # Errors
    ///
    /// The place refused.
    fn write_identity(&self, storage: &dyn Storage) -> io::Result<()> {
        let mut text =
            serde_json::to_vec_pretty(&IdentityFile { format: FORMAT, id: self.id().to_string() })?;
        text.push(b'\n');
        storage.write(FILE_NAME, text.into())
    }
}

/// A folder of this host or a mount, and how to know it.
#[derive(Clone, Debug)]
pub struct Place {
    /// The folder.
    pub path: PathBuf,
    /// Its identity.
    pub id: Uuid,
    /// What must be mounted; absent when any folder will do.
    pub mount: Option<MountRule>,
}

/// What must be mounted.
#[derive(Clone, Debug)]
pub struct MountRule {
    /// Where: the repository's folder or one above it.
    pub mount_point: PathBuf,
    /// The file system types that are right there.
    pub filesystems: Vec<String>,
}

/// The place is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// The folder cannot be opened.
    #[error(
        "the repository folder `{}` is not there; mount it, or correct `path`; it is never created",
        path.display()
    )]
    Unreachable {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The place does not answer.
    #[error(transparent)]
    Hanging(Hung),
    /// A server cannot be reached.
    #[error("the repository at `{location}` cannot be reached")]
    NoConnection {
        /// Its address.
        location: String,
        /// What `ssh` or the server said.
        #[source]
        source: io::Error,
    },
    /// A server has another key than the pinned one.
    #[error(
        "the server of `{location}` does not show the key that is pinned in `{}`: it was set up \
         anew, or somebody stands in between; compare the key at the server itself \
         (`ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub`), and only then correct the file",
        known_hosts.display()
    )]
    HostKey {
        /// Its address.
        location: String,
        /// The file.
        known_hosts: PathBuf,
    },
    /// The place loses data.
    #[error(
        "`{}` cannot be trusted with a backup: {because}; nothing is stored there; \
         use another protocol or other mount options", path.display()
    )]
    Unsafe {
        /// The folder.
        path: PathBuf,
        /// What it did.
        because: String,
    },
    /// The mount is missing.
    #[error(
        "nothing is mounted at `{p}`: a backup would fill the system disk; \
         mount it (`mount {p}`), or set `require-mount = false` if a local folder is meant",
        p = mount_point.display()
    )]
    NotMounted {
        /// Where it should be.
        mount_point: PathBuf,
    },
    /// Something else is mounted.
    #[error(
        "`{}` is mounted as `{found}`, expected one of: {}; \
         correct the mount, or add it to `filesystems`",
        mount_point.display(), allowed.join(", ")
    )]
    WrongFilesystem {
        /// Where.
        mount_point: PathBuf,
        /// What is mounted.
        found: String,
        /// What may be.
        allowed: Vec<String>,
    },
    /// There is no identity file.
    #[error(
        "`{}` holds no homelab repository (no {FILE_NAME}); if it is new, run: \
         homelab-backup-agent init-repository NAME",
        path.display()
    )]
    NoIdentity {
        /// The folder.
        path: PathBuf,
    },
    /// The identity file cannot be read.
    #[error("the identity file in `{}` cannot be read", path.display())]
    Identity {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: io::Error,
    },
    /// It is another repository.
    #[error(
        "`{}` holds repository {found}, the configuration names {wanted}; \
         the wrong share is mounted, or `id` is wrong",
        path.display()
    )]
    OtherRepository {
        /// The folder.
        path: PathBuf,
        /// What lies there.
        found: Uuid,
        /// What should.
        wanted: Uuid,
    },
    /// The folder to initialise is not empty.
    #[error("`{}` is not empty; a repository is only made in an empty folder", path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// There is less room than a run may need.
    #[error(
        "repository `{}` has {available} bytes left, {wanted} may be needed; make room first",
        path.display()
    )]
    TooLittleRoom {
        /// The folder.
        path: PathBuf,
        /// What is left.
        available: u64,
        /// What may be needed.
        wanted: u64,
    },
}

/// An open repository folder; see the module.
#[derive(Debug)]
pub struct Anchor {
    folder: File,
    path: PathBuf,
}

#[derive(Deserialize, Serialize)]
struct IdentityFile {
    /// Format of this file.
    format: u32,
    /// Of the repository.
    id: String,
}

impl Place {
    /// Checks everything and holds the folder open.
    ///
    /// # Errors
    ///
    /// What is wrong with the place.
    pub fn guard(&self) -> Result<Anchor, GuardError> {
        let anchor = self.open()?;
        let text = match fs::read(anchor.through().join(FILE_NAME)) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(GuardError::Identity { path: self.path.clone(), source }),
        };
        recognise(&self.path, text.as_deref(), self.id)?;
        Ok(anchor)
    }

    /// For a repository that is about to be made: the mount must be right and the
    /// folder empty.
    ///
    /// # Errors
    ///
    /// What is wrong with the place.
    pub fn guard_empty(&self) -> Result<Anchor, GuardError> {
        let anchor = self.open()?;
        let unreachable = |source| GuardError::Unreachable { path: self.path.clone(), source };
        for entry in fs::read_dir(anchor.through()).map_err(unreachable)? {
            // A fresh ext4 has this one.
            if entry.map_err(unreachable)?.file_name() != "lost+found" {
                return Err(GuardError::NotEmpty { path: self.path.clone() });
            }
        }
        Ok(anchor)
    }

    fn open(&self) -> Result<Anchor, GuardError> {
        let unreachable = |source| GuardError::Unreachable { path: self.path.clone(), source };
        let directory = nix::fcntl::OFlag::O_DIRECTORY.bits();
        let folder = fs::OpenOptions::new()
            .read(true)
            .custom_flags(directory)
            .open(&self.path)
            .map_err(unreachable)?;
        if let Some(rule) = &self.mount {
            let mountinfo = fs::read_to_string("/proc/self/mountinfo").map_err(unreachable)?;
            rule.check(&mountinfo)?;
            let folder_device = folder.metadata().map_err(unreachable)?.dev();
            let mount_device = fs::metadata(&rule.mount_point).map_err(unreachable)?.dev();
            let outside = rule.mount_point.parent().map(fs::metadata).transpose();
            let outside = outside.map_err(unreachable)?.map(|metadata| metadata.dev());
            // The mount may come or go between the look at the table and the open.
            if folder_device != mount_device || outside == Some(mount_device) {
                return Err(GuardError::NotMounted { mount_point: rule.mount_point.clone() });
            }
        }
        Ok(Anchor { folder, path: self.path.clone() })
    }
}

impl Site for Place {
    fn location(&self) -> String {
        self.path.display().to_string()
    }

    fn id(&self) -> Uuid {
        self.id
    }

    fn transport(&self) -> Transport {
        if self.mount.is_some() { Transport::Mount } else { Transport::Local }
    }

    fn enter(&self) -> Result<Arc<dyn Storage>, GuardError> {
        Ok(Arc::new(Folder::new(self.clone(), self.guard()?)))
    }

    fn enter_empty(&self) -> Result<Arc<dyn Storage>, GuardError> {
        Ok(Arc::new(Folder::new(self.clone(), self.guard_empty()?)))
    }

    fn mount(&self) -> io::Result<Option<mount::Mount>> {
        Ok(mount::holding(&fs::read_to_string("/proc/self/mountinfo")?, &self.path))
    }
}

/// Compares the text of an identity file, if there is one, with the identity wanted.
pub(crate) fn recognise(path: &Path, text: Option<&[u8]>, wanted: Uuid) -> Result<(), GuardError> {
    let path = path.to_owned();
    let Some(text) = text else { return Err(GuardError::NoIdentity { path }) };
    let unreadable = |source| GuardError::Identity { path: path.clone(), source };
    let file: IdentityFile =
        serde_json::from_slice(text).map_err(|error| unreadable(error.into()))?;
    if file.format != FORMAT {
        let format = format!("format {} is not known", file.format);
        return Err(unreadable(io::Error::other(format)));
    }
    // As text: letters of another case are no id that we wrote.
    if file.id == wanted.to_string() {
        return Ok(());
    }
    match file.id.parse() {
        Ok(found) if found != wanted => Err(GuardError::OtherRepository { path, found, wanted }),
        _ => Err(unreadable(io::Error::other(format!("`{}` is not an id of ours", file.id)))),
    }
}

impl MountRule {
    fn check(&self, mountinfo: &str) -> Result<(), GuardError> {
        let Some(mount) = mount::at(mountinfo, &self.mount_point) else {
            return Err(GuardError::NotMounted { mount_point: self.mount_point.clone() });
        };
        if !self.filesystems.contains(&mount.filesystem) {
            return Err(GuardError::WrongFilesystem {
                mount_point: self.mount_point.clone(),
                found: mount.filesystem,
                allowed: self.filesystems.clone(),
            });
        }
        Ok(())
    }
}

impl Anchor {
    /// The folder by its open descriptor: valid while this value lives.
    #[must_use]
    pub fn through(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.folder.as_raw_fd()))
    }

    /// The folder as people know it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Room for more, in bytes.
    ///
    /// # Errors
    ///
    /// The file system does not answer.
    pub fn available_bytes(&self) -> io::Result<u64> {
        let room = statvfs::fstatvfs(&self.folder)?;
        Ok(room.blocks_available().saturating_mul(room.fragment_size()))
    }

    /// Whether the file system is mounted for writing and lets us write here.
    ///
    /// # Errors
    ///
    /// The file system does not answer.
    pub fn is_writable(&self) -> io::Result<bool> {
        match nix::unistd::access(&self.through(), nix::unistd::AccessFlags::W_OK) {
            Ok(()) => Ok(true),
            Err(nix::errno::Errno::EROFS | nix::errno::Errno::EACCES) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Some network file systems cannot flush a folder; there the server's word counts
/// (a probe calls such a place weak, see [`super::probe`]).
pub(crate) fn flush_folder(path: &Path) -> io::Result<()> {
    match File::open(path)?.sync_all() {
        Err(error) if is_unsupported(&error) => Ok(()),
        outcome => outcome,
    }
}

/// `EINVAL` and `ENOTSUP`: the file system has no such thing.
pub(crate) fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(path: &Path, id: Uuid) -> Place {
        Place { path: path.into(), id, mount: None }
    }

    #[test]
    fn a_missing_folder_is_refused_and_not_created() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let path = dir.path().join("nas");
        let error = place(&path, Uuid::nil()).guard().expect_err("refused");
        assert!(matches!(error, GuardError::Unreachable { .. }), "{error}");
        assert!(!path.exists());
    }

    #[test]
    fn an_empty_folder_is_no_repository() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let error = place(dir.path(), Uuid::nil()).guard().expect_err("refused");
        assert!(error.to_string().contains("init-repository"), "{error}");
    }

    #[test]
    fn another_repository_is_refused_by_its_id() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let ours = place(dir.path(), Uuid::from_u128(1));
        let storage = ours.enter_empty().expect("empty");
        ours.write_identity(storage.as_ref()).expect("written");
        ours.guard().expect("ours");
        let other = place(dir.path(), Uuid::from_u128(2));
        assert!(matches!(other.guard(), Err(GuardError::OtherRepository { .. })));
        assert!(matches!(other.guard_empty(), Err(GuardError::NotEmpty { .. })));
    }

    #[test]
    fn a_folder_on_the_system_disk_is_not_a_mount() {
        let dir = tempfile::tempdir().expect("a scratch directory");
        let rule = MountRule { mount_point: dir.path().into(), filesystems: vec!["nfs4".into()] };
        let place = Place { mount: Some(rule), ..place(dir.path(), Uuid::nil()) };
        assert!(matches!(place.guard(), Err(GuardError::NotMounted { .. })));
    }

    #[test]
    fn the_wrong_file_system_is_named() {
        let rule = MountRule { mount_point: "/mnt/nas".into(), filesystems: vec!["nfs4".into()] };
        let error = rule.check("41 40 0:52 / /mnt/nas rw - tmpfs tmpfs rw\n").expect_err("refused");
        assert!(error.to_string().contains("`tmpfs`, expected one of: nfs4"), "{error}");
    }
}
