//! Over SFTP, with OpenSSH's own server.

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    time::Instant,
};

use homelab_common::exec::Streaming;

use super::{retention::order, *};
use crate::repository::sftp::{Address, Login, SftpSite};

const SERVER: &str = "/usr/lib/openssh/sftp-server";

fn server(rig: &Rig) -> SftpSite {
    assert!(Path::new(SERVER).is_file(), "no {SERVER}: apt install openssh-sftp-server");
    let root = rig.path().display().to_string();
    SftpSite::through(Program::new(SERVER), &root, Uuid::from_u128(0xbac0), Arc::new(SystemExec))
}

#[test]
fn a_repository_over_sftp_is_made_used_pruned_and_read_by_plain_restic() {
    let rig = Rig::empty();
    let remote = repository(server(&rig), &rig.clock);
    remote.init().expect("a repository");
    assert!(remote.init().is_err(), "made twice");
    let (dump, blob) = (rows(20_000, |_| false), noise(18 << 20));
    let files = [("database.sql", dump.clone()), ("blob.tar", blob.clone())];
    let one = store_in(&remote, &rig.clock, &files).expect("stored");
    let two = store_in(&remote, &rig.clock, &[("database.sql", dump.clone())]).expect("stored");
    assert!(two.added_bytes.expect("a number") < 5_000, "{two:?}");
    for (file, content) in [("database.sql", &dump), ("blob.tar", &blob)] {
        let mut read = Vec::new();
        let cancel = CancellationToken::new();
        remote.read(&one.id, &one.path_of(file), &mut read, &cancel).expect("read");
        assert!(read == *content, "{file}: {} bytes", read.len());
    }
    // The same files on the server's disk are the same repository.
    assert_eq!(rig.repository.snapshots().expect("a listing"), [two.clone(), one.clone()]);
    rig.assert_sound_to_restic();
    let (there, dumped) = rig.restic(&["dump", two.id.as_str(), &two.path_of("database.sql")]);
    assert!(there && dumped.as_bytes() == dump);

    let probed = remote.probe().expect("probed");
    assert!(probed.grade.to_string().contains("names of files cannot be flushed"), "{probed:?}");
    assert!(remote.available_bytes().expect("a size") < u64::MAX);
    let now = rig.clock.now();
    let plan = order(&[&one, &two], [&[&one], &[], &[]]);
    assert_eq!(remote.apply(&plan, now).expect("hidden").quarantined, 1);
    remote.remove(&[one.id]).expect("removed");
    let at_once = PrunePolicy { keep_packs: Duration::ZERO };
    for _ in 0..2 {
        let pruned = remote.prune(&at_once, now, &Progress::unwatched()).expect("pruned");
        assert_eq!(pruned.problems, Vec::<String>::new());
    }
    assert_eq!(remote.snapshots().expect("a listing"), [two]);
    let scrubbed =
        remote.scrub(Part { part: None, of: 1 }, &Progress::unwatched(), &CancellationToken::new());
    assert_eq!(scrubbed.expect("scrubbed").problems, Vec::<String>::new());
    rig.assert_sound_to_restic();
}

#[test]
fn an_sftp_folder_without_our_identity_is_refused() {
    let rig = Rig::empty();
    let remote = repository(server(&rig), &rig.clock);
    assert!(matches!(remote.guard(), Err(GuardError::NoIdentity { .. })));
    remote.init().expect("a repository");
    remote.guard().expect("ours");
    let root = rig.path().display().to_string();
    let (program, exec) = (Program::new(SERVER), Arc::new(SystemExec));
    let other = SftpSite::through(program, &root, Uuid::from_u128(7), exec);
    let other = repository(other, &rig.clock);
    assert!(matches!(other.guard(), Err(GuardError::OtherRepository { .. })));
}

/// OpenSSH's daemon on a free port of loopback, with keys of its own.
struct Sshd {
    _daemon: Streaming,
    folder: TempDir,
    port: u16,
}

impl Sshd {
    fn start() -> Self {
        let daemon = Path::new("/usr/sbin/sshd");
        assert!(daemon.is_file(), "no sshd: apt install openssh-server");
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test starts sshd and needs root: run it with sudo"
        );
        // Where Debian's sshd drops its rights to; made by its service otherwise.
        fs::create_dir_all("/run/sshd").expect("a folder");
        let folder = tempfile::tempdir().expect("a scratch directory");
        // sshd trusts no keys below a folder that others may write to.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).expect("chmod");
        let at = |name: &str| folder.path().join(name).display().to_string();
        for key in ["host", "user"] {
            make_key(&at(key));
        }
        fs::copy(at("user.pub"), at("authorized")).expect("copied");
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\n\
             PidFile none\nUsePAM no\nPasswordAuthentication no\nStrictModes no\n\
             PermitRootLogin yes\nSubsystem sftp {SERVER}\n",
            at("host"),
            at("authorized"),
        );
        fs::write(folder.path().join("sshd_config"), config).expect("written");
        let program = Program::new("/usr/sbin/sshd").args(["-D", "-e", "-f", &at("sshd_config")]);
        let daemon = SystemExec.stream(program.deadline(Duration::from_secs(120)));
        let sshd = Self { _daemon: daemon.expect("a daemon"), folder, port };
        let deadline = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(Instant::now() < deadline, "sshd does not listen");
            std::thread::yield_now();
        }
        sshd.pin("host");
        sshd
    }

    /// Pins a key as that of the server.
    fn pin(&self, key: &str) {
        let public = fs::read_to_string(self.folder.path().join(format!("{key}.pub")));
        let line = format!("[127.0.0.1]:{} {}", self.port, public.expect("a key"));
        fs::write(self.folder.path().join("known_hosts"), line).expect("written");
    }

    fn login(&self, path: &Path) -> Login {
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).expect("a user");
        Login {
            address: Address {
                user: user.expect("a user").name,
                host: "127.0.0.1".to_owned(),
                port: self.port,
                path: path.display().to_string(),
            },
            key: Some(self.folder.path().join("user")),
            known_hosts: self.folder.path().join("known_hosts"),
        }
    }
}

fn make_key(path: &str) {
    let program = Program::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f", path]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let made = runtime.expect("a runtime").block_on(SystemExec.run(program));
    made.expect("a key: apt install openssh-client");
}

#[test]
fn pitfall_34_a_server_whose_key_has_changed_is_refused() {
    let (rig, sshd) = (Rig::empty(), Sshd::start());
    let site =
        || SftpSite::new(&sshd.login(&rig.path()), Uuid::from_u128(0xbac0), Arc::new(SystemExec));
    let remote = repository(site(), &rig.clock);
    remote.init().expect("a repository over ssh");
    let stored = store_in(&remote, &rig.clock, &[("database.sql", rows(3_000, |_| false))]);
    assert_eq!(remote.snapshots().expect("a listing"), [stored.expect("stored")]);
    rig.assert_sound_to_restic();

    make_key(&sshd.folder.path().join("other").display().to_string());
    sshd.pin("other");
    let before = fs::read_to_string(sshd.folder.path().join("known_hosts")).expect("a file");
    let changed = repository(site(), &rig.clock);
    let Err(error @ GuardError::HostKey { .. }) = changed.guard() else { panic!("trusted") };
    assert!(error.to_string().contains("compare the key at the server itself"), "{error}");
    fs::write(sshd.folder.path().join("known_hosts"), "").expect("written");
    let unknown = repository(site(), &rig.clock);
    assert!(matches!(unknown.guard(), Err(GuardError::HostKey { .. })));
    let after = fs::read_to_string(sshd.folder.path().join("known_hosts")).expect("a file");
    assert!(after.is_empty() && !before.is_empty(), "a key was added");
}
