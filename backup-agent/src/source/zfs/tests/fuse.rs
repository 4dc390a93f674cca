//! A real pool: zfs-fuse, pool version 23, on files, in a mount namespace of its own.
//!
//! It is old: no raw streams, no resume tokens, no bookmarks, and `.zfs` cannot be
//! browsed. What it is good for is the truth about snapshots, holds, increments,
//! refusals and destroying.

use std::os::unix::fs::PermissionsExt;

use homelab_common::exec::{Exec, Program, Supervised};

use super::*;

/// Starts the daemon where its sockets and caches are nobody else's.
const DAEMON: &str = "\
#!/bin/sh
set -e
for folder in /run/zfs /run/lock/zfs /var/lib/zfs; do
    mkdir -p $folder
    mount -t tmpfs zfs-test $folder
done
exec zfs-fuse --no-daemon --no-kstat-mount --pidfile /run/zfs/pid
";

/// What these tests would show and cannot without root and FUSE.
const LEFT_OUT: &str = "left out: snapshots, increments, holds, refusals and destroying on a real \
                        pool of zfs-fuse (needs root and /dev/fuse)";

/// Ends the daemon with the test.
struct Fuse {
    house: House,
    _daemon: Supervised,
}

#[expect(clippy::print_stderr, reason = "whoever runs the tests must know what they left out")]
fn leave_out() {
    eprintln!("{LEFT_OUT}");
}

/// Two pools, `tank` with a dataset and `safe`; `None` where it cannot be.
async fn fuse() -> Option<Fuse> {
    if !nix::unistd::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        leave_out();
        return None;
    }
    assert!(Path::new("/usr/sbin/zfs-fuse").exists(), "install it: apt install zfs-fuse");
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name).display().to_string();
    let script = |name: &str, text: &str| {
        fs::write(at(name), text).expect("a script");
        fs::set_permissions(at(name), fs::Permissions::from_mode(0o700)).expect("executable");
    };
    script("daemon", DAEMON);
    let program =
        Program::new("unshare").args(["--mount", "--propagation", "private", &at("daemon")]);
    let daemon = SystemExec.supervise(program).expect("the daemon");
    let inside = format!("#!/bin/sh\nexec nsenter --mount=/proc/{}/ns/mnt -- ", daemon.pid());
    script("zfs", &format!("{inside}zfs \"$@\"\n"));
    script("in", &format!("{inside}\"$@\"\n"));
    answering(&at("in")).await;
    for (pool, file) in [("tank", "a"), ("safe", "b")] {
        fs::File::create(at(file)).and_then(|it| it.set_len(96 << 20)).expect("a file");
        inside_of(&at("in"), &["zpool", "create", "-f", "-m", &at(pool), pool, &at(file)]).await;
    }
    let zfs = folder.path().join("zfs");
    let house = House::with(folder, &zfs);
    house.tell(&["create", "tank/vault"]);
    house.tell(&["create", "safe/drill"]);
    Some(Fuse { house, _daemon: daemon })
}

/// Waits until the daemon answers.
async fn answering(inside: &str) {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        let answer = SystemExec.run(Program::new(inside).args(["zpool", "list"])).await;
        match answer {
            Ok(_) => return,
            Err(error) if std::time::Instant::now() > deadline => panic!("no answer: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn inside_of(inside: &str, words: &[&str]) -> String {
    let output = SystemExec.run(Program::new(inside).args(words.iter().copied())).await;
    output.unwrap_or_else(|error| panic!("{words:?}: {error}")).text()
}

impl Fuse {
    /// Writes a file of the dataset, as seen from inside.
    async fn file(&self, dataset: &str, name: &str, kilobytes: u32) {
        let path = format!("of={}/{name}", self.house.path(dataset));
        let count = format!("count={kilobytes}");
        let words = ["dd", "if=/dev/urandom", "bs=1024", "status=none", &count, &path];
        inside_of(&self.house.path("in"), &words).await;
    }
}

#[tokio::test]
async fn real_zfs_increments_are_archived_drilled_and_only_ours_destroyed() {
    let Some(fuse) = fuse().await else { return };
    let house = &fuse.house;
    house.tell(&["snapshot", "tank/vault@homelab-by-hand"]);
    house.tell(&["snapshot", "tank/vault@held"]);
    house.tell(&["hold", "mine", "tank/vault@held"]);
    let keep = Policy { hourly: 0, daily: 0, weekly: 0, monthly: 0 };
    let source = ZfsSource { keep, ..house.archived() };
    fuse.file("tank/vault", "one", 512).await;
    let first = house.run(source.clone()).await.expect("a run");
    fuse.file("tank/vault", "two", 16).await;
    let second = house.run(source.clone()).await.expect("a run");
    let bytes = |backed: &Backed| backed.snapshot.file(STREAM_FILE).expect("a stream").bytes;
    assert!(bytes(&first) > 512 << 10 && bytes(&second) < 256 << 10, "{}", bytes(&second));
    assert!(contents_of(&second).without.join(" ").contains("send -w"));
    let report = house.drill(&second, None).await;
    assert_eq!(report.verdict, Verdict::Passed);
    assert_eq!((count(&report, "streams"), count(&report, "snapshots by guid")), (2, 2));
    assert_eq!(house.find("safe/drill").expect("the parent").children, Vec::<String>::new());
    // The third begins a chain of its own soon; the first has no use and no hold any more.
    house.run(source).await.expect("a run");
    let left: Vec<String> = house
        .find("tank/vault")
        .expect("the dataset")
        .snapshots
        .into_iter()
        .map(|it| it.name)
        .collect();
    assert!(!left.contains(&contents_of(&first).snapshot.name), "{left:?}");
    for name in ["homelab-by-hand", "held", &contents_of(&second).snapshot.name] {
        assert!(left.iter().any(|it| it == name), "{name}: {left:?}");
    }
}

#[tokio::test]
async fn a_real_copy_follows_until_somebody_writes_to_it() {
    let Some(fuse) = fuse().await else { return };
    let house = &fuse.house;
    for number in 0..2 {
        fuse.file("tank/vault", &format!("file-{number}"), 16).await;
        house.run(house.replicated()).await.expect("a run");
    }
    let copy = house.find("safe/vault").expect("a copy");
    let guids = |dataset: &Dataset| dataset.snapshots.iter().map(|it| it.guid).collect::<Vec<_>>();
    assert_eq!(guids(&copy), guids(&house.find("tank/vault").expect("the dataset")));
    assert_eq!(copy.value("readonly"), Some("on"));
    // The last common snapshot is held: even by hand it does not go by accident.
    let last = &copy.snapshots.last().expect("a snapshot").name;
    let destroyed = house.zfs.ask("destroy", ["destroy", &format!("safe/vault@{last}")]);
    assert!(Chain(&destroyed.expect_err("held")).to_string().contains("dataset is busy"));
    house.tell(&["set", "readonly=off", "safe/vault"]);
    if copy.value("mounted") != Some("yes") {
        // zfs-fuse mounts what it receives in spite of `-u`, at times.
        drop(house.zfs.ask("mount", ["mount", "safe/vault"]));
    }
    fuse.file("safe/vault", "stray", 16).await;
    fuse.file("tank/vault", "file-2", 16).await;
    let error = chain_of(&house.run(house.replicated()).await.expect_err("modified"));
    assert!(error.contains("has been modified"), "{error}");
    let after = house.find("safe/vault").expect("the copy");
    assert_eq!(guids(&after), guids(&copy), "nothing was rolled back");
}
