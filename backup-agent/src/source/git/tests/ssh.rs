//! An SSH server on loopback, with a key that can change.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use homelab_common::{
    exec::{Exec, Program, Supervised, SystemExec},
    secret::Secret,
};
use tokio::net::TcpStream;

use super::super::remote::{Login, Remote};

/// Where Debian puts it; it must be called by its whole path.
const SSHD: &str = "/usr/sbin/sshd";

pub(super) struct Keys(PathBuf);

pub(super) struct Sshd {
    port: u16,
    running: Supervised,
    key: String,
}

impl Keys {
    /// A file of known keys that holds one.
    pub(super) fn known(&self, name: &str, port: u16) -> PathBuf {
        let key = fs::read_to_string(self.0.join(format!("{name}.pub"))).expect("a key");
        let path = self.0.join(format!("known-{name}"));
        fs::write(&path, format!("[127.0.0.1]:{port} {key}")).expect("a file");
        path
    }
}

impl Sshd {
    /// Two keys for servers and one for us.
    pub(super) async fn keys(home: &Path) -> Keys {
        let folder = home.join("ssh");
        fs::create_dir(&folder).expect("a folder");
        for name in ["first", "second", "ours"] {
            let program = Program::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-f", name])
                .directory(&folder);
            SystemExec.run(program).await.expect("ssh-keygen; apt install openssh-client");
        }
        let ours = fs::read(folder.join("ours.pub")).expect("a key");
        fs::write(folder.join("authorized"), ours).expect("a file");
        Keys(folder)
    }

    pub(super) async fn start(keys: &Keys, key: &str, home: &Path) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("an address").port();
        drop(free);
        Self::start_at(port, keys, key, home).await
    }

    async fn start_at(port: u16, keys: &Keys, key: &str, home: &Path) -> Self {
        // It insists on this empty folder when root starts it.
        if nix::unistd::geteuid().is_root() {
            let make = fs::DirBuilder::new().recursive(true).mode(0o755).create("/run/sshd");
            make.expect("/run/sshd");
        }
        let folder = keys.0.display();
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {folder}/{key}\nPidFile none\nUsePAM no\n\
             AuthorizedKeysFile {folder}/authorized\nStrictModes no\nPermitRootLogin yes\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nLogLevel ERROR\n"
        );
        let path = home.join(format!("sshd-{key}.conf"));
        fs::write(&path, config).expect("a file");
        let private = fs::Permissions::from_mode(0o600);
        fs::set_permissions(keys.0.join(key), private).expect("chmod");
        let path = path.display().to_string();
        let program = Program::new(SSHD).args(["-D", "-e", "-f", &path]);
        let running = SystemExec.supervise(program).expect("sshd; apt install openssh-server");
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            assert!(tokio::time::Instant::now() < deadline, "sshd does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let key = fs::read_to_string(keys.0.join("ours")).expect("a key");
        Self { port, running, key }
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// On the same port with another key.
    pub(super) async fn restart(self, keys: &Keys, key: &str, home: &Path) -> Self {
        let port = self.port;
        self.stop().await;
        Self::start_at(port, keys, key, home).await
    }

    pub(super) async fn stop(mut self) {
        self.running.terminate(Duration::from_secs(5)).await.expect("an end");
    }

    pub(super) fn remote(&self, upstream: PathBuf, known_hosts: PathBuf) -> Remote {
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).expect("users");
        let user = user.expect("this user").name;
        let base = format!("ssh://{user}@127.0.0.1:{}{}", self.port, upstream.display());
        Remote {
            base: base.parse().expect("an address"),
            login: Login::Ssh { key: Secret::new(self.key.clone()), known_hosts },
            tls_root: None,
        }
    }
}
