//! Mounted filesystems that hold data, and how much room they have.
//!
//! The list comes from the kernel's mount table, which never blocks. Room is asked for one mount
//! at a time through [`Probes`], those over the network apart from the local ones, so that a
//! server that is gone cannot keep the local disks from being looked at.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use nix::sys::statvfs::statvfs;

use crate::health::probe::Probes;
use crate::health::source::{Buffer, Source};
use crate::health::text::{label, lines, words};
use crate::reading::{Missing, Reading};

/// More than this are not listed. ZFS datasets of containers come in hundreds, not thousands.
const FILESYSTEMS_MAX: usize = 1024;

/// A local disk answers in microseconds; one that has to spin up first takes some seconds.
const LOCAL_PATIENCE: Duration = Duration::from_secs(10);
/// A server that needs longer than this is as good as gone for whoever waits for it.
const NETWORK_PATIENCE: Duration = Duration::from_secs(3);
/// Threads that may hang on local and on network mounts each.
const PROBES_MAX: usize = 4;

/// One mounted filesystem.
#[derive(Clone, Debug, PartialEq)]
pub struct Filesystem {
    /// Where it is mounted, and how.
    pub mount: Mount,
    /// Its room.
    pub usage: Reading<Usage>,
}

/// One line of the mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Device number, equal for all mounts of one filesystem.
    pub device: (u32, u32),
    /// Where it is mounted.
    pub point: String,
    /// Type, such as `ext4`.
    pub kind: String,
    /// What is mounted: a device, a dataset, a server's export.
    pub source: String,
    /// Whether it can be written to.
    pub access: Access,
}

/// Whether a filesystem can be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Yes.
    Writable,
    /// No, and it was mounted so.
    ReadOnly,
    /// No, although it was mounted for writing: the kernel shut it after an error.
    ForcedReadOnly,
}

/// Room of one filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Size in bytes.
    pub size_bytes: u64,
    /// What an ordinary program can still write.
    pub available_bytes: u64,
    /// Inodes; `None` where the filesystem makes them as it needs them.
    pub inodes: Option<Inodes>,
}

/// Inodes of one filesystem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inodes {
    /// In all.
    pub total: u64,
    /// Free.
    pub free: u64,
}

/// What kind of thing a mount is, by its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nature {
    Disk,
    Memory,
    Network,
    /// Holds no data of its own, or is an image that is full by nature.
    Other,
}

/// The mounts of this host, those without data included.
///
/// Asked of process 1, because a hardened unit has mounts of its own: under
/// `ProtectSystem=strict` everything would look as if it was mounted read-only. The file is
/// opened anew each time, as one that is kept open stays with the mounts of its first opener.
pub(crate) fn mounts(proc: &Path) -> Reading<Vec<Mount>> {
    let mut buffer = Buffer::default();
    let mut read = |path| Source::new(proc, path).read(&mut buffer).map(parse_mounts);
    read("1/mountinfo").or_else(|_| read("self/mountinfo"))
}

/// Reads the kernel's table of mounts (its grammar: `proc_pid_mountinfo(5)`), every line of it.
pub(crate) fn parse_mounts(text: &[u8]) -> Vec<Mount> {
    lines(text).filter_map(parse_mount).collect()
}

/// `36 35 98:0 /root /mount rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn parse_mount(line: &[u8]) -> Option<Mount> {
    let mut words = words(line);
    let device = std::str::from_utf8(words.nth(2)?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let point = words.nth(1)?;
    let options = words.next()?;
    // Any number of optional fields, ended by a dash.
    let mut words = words.skip_while(|word| *word != b"-").skip(1);
    let kind = words.next()?;
    let source = words.next()?;
    let super_options = words.next().unwrap_or_default();
    Some(Mount {
        device: (major.parse().ok()?, minor.parse().ok()?),
        point: label(&unescape(point), 4096),
        kind: label(kind, 64),
        source: label(&unescape(source), 1024),
        access: access(options, super_options),
    })
}

/// Mounting read-only marks the mount and the filesystem. An error makes the kernel mark the
/// filesystem only, which is how the two are told apart; since Linux 6.15 ext4 says
/// `emergency_ro` instead.
fn access(options: &[u8], super_options: &[u8]) -> Access {
    let has = |options: &[u8], wanted: &[u8]| options.split(|&b| b == b',').any(|o| o == wanted);
    if has(options, b"ro") {
        Access::ReadOnly
    } else if has(super_options, b"ro")
        || has(super_options, b"emergency_ro")
        || has(super_options, b"shutdown")
    {
        Access::ForcedReadOnly
    } else {
        Access::Writable
    }
}

/// Blanks, tabs, newlines and backslashes stand as three octal digits.
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail.get(..3).filter(|digits| first == b'\\' && is_octal(digits));
        match digits {
            Some(digits) => {
                plain.push(digits.iter().fold(0, |sum: u8, d| sum.wrapping_mul(8) + (d - b'0')));
                rest = tail.get(3..).unwrap_or_default();
            }
            None => {
                plain.push(first);
                rest = tail;
            }
        }
    }
    plain
}

fn is_octal(digits: &[u8]) -> bool {
    // The first digit of a byte is at most three.
    digits.iter().all(|d| (b'0'..=b'7').contains(d)) && digits.first().is_some_and(|d| *d <= b'3')
}

/// The mounts worth looking at: those that hold data and are not hidden by a later one at the
/// same place, each filesystem once, at its shortest path.
pub(super) fn with_data(mounts: Vec<Mount>) -> Vec<Mount> {
    let on_top: HashMap<String, Mount> =
        mounts.into_iter().map(|mount| (mount.point.clone(), mount)).collect();
    let mut shortest: HashMap<((u32, u32), String), Mount> = HashMap::new();
    for mount in on_top.into_values().filter(|mount| mount.nature() != Nature::Other) {
        let key = (mount.device, mount.source.clone());
        let length = |mount: &Mount| (mount.point.len(), mount.point.clone());
        match shortest.get_mut(&key) {
            Some(known) if length(known) <= length(&mount) => {}
            Some(known) => *known = mount,
            None => {
                shortest.insert(key, mount);
            }
        }
    }
    let mut mounts: Vec<Mount> = shortest.into_values().collect();
    mounts.sort_unstable_by(|a, b| a.point.cmp(&b.point));
    mounts.truncate(FILESYSTEMS_MAX);
    mounts
}

impl Mount {
    fn nature(&self) -> Nature {
        match self.kind.as_str() {
            "nfs" | "nfs4" | "cifs" | "smb3" | "smbfs" | "ceph" | "9p" | "virtiofs" | "lustre"
            | "glusterfs" | "afs" => Nature::Network,
            kind if kind.starts_with("fuse.") => match kind {
                // Helpers of desktops and containers, without data of their own.
                "fuse.lxcfs" | "fuse.portal" | "fuse.gvfsd-fuse" => Nature::Other,
                _ => Nature::Network,
            },
            "zfs" | "btrfs" | "bcachefs" => Nature::Disk,
            // Images: full by nature and never written.
            "squashfs" | "iso9660" | "erofs" | "udf" => Nature::Other,
            // Those of the system's own that programs fill; containers bring many more.
            "tmpfs" if matches!(self.point.as_str(), "/tmp" | "/run" | "/dev/shm" | "/var/tmp") => {
                Nature::Memory
            }
            _ if self.source.starts_with("/dev/") && !self.kind.starts_with("fuse") => Nature::Disk,
            _ => Nature::Other,
        }
    }

    /// True for a filesystem on another machine.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        self.nature() == Nature::Network
    }
}

/// How room is asked for; tests give one that hangs.
pub(crate) type AskRoom = Arc<dyn Fn(&Path) -> io::Result<Usage> + Send + Sync>;

/// Asks mounts for their room, again and again.
pub(crate) struct Rooms {
    ask: AskRoom,
    local: Probes,
    network: Probes,
}

impl std::fmt::Debug for Rooms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rooms").field("network", &self.network).finish_non_exhaustive()
    }
}

impl Default for Rooms {
    fn default() -> Self {
        Self::new(Arc::new(ask_kernel), LOCAL_PATIENCE, NETWORK_PATIENCE)
    }
}

impl Rooms {
    fn new(ask: AskRoom, local: Duration, network: Duration) -> Self {
        Self {
            ask,
            local: Probes::new(local, PROBES_MAX),
            network: Probes::new(network, PROBES_MAX),
        }
    }

    /// All of `mounts` with their room, in the same order. Takes at most as long as a few hung
    /// mounts are waited for; each of those is waited for once.
    pub(crate) async fn ask(&self, mounts: Vec<Mount>) -> Vec<Filesystem> {
        let (network, local): (Vec<_>, Vec<_>) = mounts.into_iter().partition(Mount::is_remote);
        let (mut local, network) = tokio::join!(
            ask_each(&self.local, &self.ask, local),
            ask_each(&self.network, &self.ask, network),
        );
        local.extend(network);
        local.sort_unstable_by(|a, b| a.mount.point.cmp(&b.mount.point));
        local
    }
}

async fn ask_each(probes: &Probes, ask: &AskRoom, mounts: Vec<Mount>) -> Vec<Filesystem> {
    let one = |mount: Mount| async move {
        let (ask, point) = (Arc::clone(ask), mount.point.clone());
        let call = move || {
            ask(Path::new(&point)).map_err(|error| Missing::from_io(&Arc::from(point), &error))
        };
        let usage = probes.run(&mount.point, call).await;
        Filesystem { mount, usage }
    };
    futures_util::stream::iter(mounts).map(one).buffered(PROBES_MAX).collect().await
}

fn ask_kernel(point: &Path) -> io::Result<Usage> {
    let stat = statvfs(point).map_err(io::Error::from)?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.fragment_size());
    let inodes =
        (stat.files() > 0).then(|| Inodes { total: stat.files(), free: stat.files_available() });
    Ok(Usage {
        size_bytes: bytes(stat.blocks()),
        available_bytes: bytes(stat.blocks_available()),
        inodes,
    })
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::sync::Mutex;
    use std::sync::mpsc;

    use proptest::prelude::*;

    use super::*;

    const MOUNTINFO: &[u8] = b"\
25 30 0:23 / /sys rw,nosuid shared:7 - sysfs sysfs rw
26 30 0:24 / /proc rw,nosuid shared:14 - proc proc rw
30 1 0:27 / / rw,relatime shared:1 - zfs rpool/ROOT/pve-1 rw,xattr,posixacl
31 30 0:28 / /run rw,nosuid shared:5 - tmpfs tmpfs rw,size=6577544k
40 30 8:2 / /boot/efi rw,relatime shared:30 - vfat /dev/sda2 rw,fmask=0022
41 30 8:3 / /srv/broken\\040disk rw,relatime shared:31 - ext4 /dev/sda3 ro,errors=remount-ro
42 30 8:4 / /srv/archive ro,relatime - xfs /dev/sda4 ro
43 30 8:5 / /srv/emergency rw,relatime - ext4 /dev/sda5 rw,emergency_ro
50 30 0:44 / /mnt/pve/nas rw,relatime shared:90 - nfs4 192.168.120.10:/mnt/user/backup rw,vers=4.2
51 30 0:45 / /etc/pve rw,nosuid shared:91 - fuse /dev/fuse rw,user_id=0
52 30 0:46 / /var/lib/docker/overlay2/x/merged rw - overlay overlay rw,lowerdir=a
53 30 7:1 / /snap/core/1 ro,nodev - squashfs /dev/loop1 ro
54 30 0:27 /opt /srv/bind rw,relatime shared:1 - zfs rpool/ROOT/pve-1 rw
";

    fn mounts() -> Vec<Mount> {
        with_data(parse_mounts(MOUNTINFO))
    }

    #[test]
    fn only_what_holds_data_is_listed_and_each_once() {
        let points: Vec<String> = mounts().into_iter().map(|mount| mount.point).collect();
        let expected = [
            "/",
            "/boot/efi",
            "/mnt/pve/nas",
            "/run",
            "/srv/archive",
            "/srv/broken disk",
            "/srv/emergency",
        ];
        assert_eq!(points, expected);
    }

    #[test]
    fn a_mount_that_is_hidden_by_a_later_one_is_left_out() {
        let table =
            b"30 1 8:1 / /srv rw - ext4 /dev/sda1 rw\n31 30 0:9 / /srv rw - nfs4 nas:/x rw\n";
        let mounts = with_data(parse_mounts(table));
        let kinds: Vec<&str> = mounts.iter().map(|mount| mount.kind.as_str()).collect();
        assert_eq!(kinds, ["nfs4"]);
    }

    #[test]
    fn a_filesystem_that_the_kernel_shut_is_told_from_one_mounted_read_only() {
        let access = |point: &str| mounts().into_iter().find(|m| m.point == point).unwrap().access;
        assert_eq!(access("/"), Access::Writable);
        assert_eq!(access("/srv/broken disk"), Access::ForcedReadOnly);
        assert_eq!(access("/srv/emergency"), Access::ForcedReadOnly);
        assert_eq!(access("/srv/archive"), Access::ReadOnly);
    }

    #[test]
    fn escapes_are_undone_and_halves_of_them_are_kept() {
        for (word, expected) in [
            (&b"/a\\040b"[..], &b"/a b"[..]),
            (b"/a\\134b", b"/a\\b"),
            (b"/a\\04", b"/a\\04"),
            (b"/a\\999", b"/a\\999"),
            (b"\\777", b"\\777"),
        ] {
            assert_eq!(unescape(word), expected);
        }
    }

    #[test]
    fn five_thousand_mounts_are_bounded() {
        let mut text = String::new();
        for n in 0..5000 {
            writeln!(text, "{n} 1 0:{n} / /rpool/data/subvol-{n} rw - zfs rpool/data/{n} rw")
                .unwrap();
        }
        assert_eq!(with_data(parse_mounts(text.as_bytes())).len(), FILESYSTEMS_MAX);
    }

    #[tokio::test]
    async fn a_hung_network_mount_leaves_the_local_ones_readable() {
        let usage = Usage { size_bytes: 100, available_bytes: 40, inodes: None };
        let (_release, blocked) = mpsc::channel::<()>();
        let blocked = Mutex::new(blocked);
        let ask: AskRoom = Arc::new(move |point: &Path| {
            if point == Path::new("/mnt/pve/nas") {
                let _released = blocked.lock().unwrap().recv();
            }
            Ok(usage)
        });
        let rooms = Rooms::new(ask, Duration::from_secs(10), Duration::from_millis(20));
        for _ in 0..2 {
            for filesystem in rooms.ask(mounts()).await {
                match filesystem.mount.point.as_str() {
                    "/mnt/pve/nas" => {
                        assert!(matches!(filesystem.usage, Err(Missing::Hung { .. })));
                    }
                    _ => assert_eq!(filesystem.usage, Ok(usage)),
                }
            }
        }
    }

    #[tokio::test]
    async fn the_root_of_this_machine_has_a_size() {
        let root = Mount {
            device: (0, 0),
            point: "/".to_owned(),
            kind: "ext4".to_owned(),
            source: "/dev/root".to_owned(),
            access: Access::Writable,
        };
        let filesystems = Rooms::default().ask(vec![root]).await;
        let usage = filesystems[0].usage.clone().unwrap();
        assert!(usage.size_bytes >= usage.available_bytes);
        assert!(usage.size_bytes > 0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(text: Vec<u8>) {
            with_data(parse_mounts(&text));
        }

        #[test]
        fn any_cut_is_survived(end in 0..MOUNTINFO.len()) {
            with_data(parse_mounts(&MOUNTINFO[..end]));
        }

        #[test]
        fn any_word_can_be_unescaped(word: Vec<u8>) {
            prop_assert!(unescape(&word).len() <= word.len());
        }
    }
}
