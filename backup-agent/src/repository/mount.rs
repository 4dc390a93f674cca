//! What is mounted where, as the kernel tells it.
//!
//! The format of `/proc/self/mountinfo` is described in proc(5).

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// File systems that a repository on a NAS may have when none are configured.
pub const NETWORK_FILESYSTEMS: [&str; 6] = ["nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p"];

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where.
    pub mount_point: PathBuf,
    /// File system type.
    pub filesystem: String,
    /// What is mounted: a device, or a server with its export.
    pub source: String,
    /// The device's numbers; network mounts get new ones each time.
    pub device: String,
}

impl Mount {
    /// Whether this is the same thing as another time, by what names it.
    #[must_use]
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.filesystem == other.filesystem && self.source == other.source
    }
}

/// The mount that `path` lies on.
#[must_use]
pub fn holding(mountinfo: &str, path: &Path) -> Option<Mount> {
    let all = mountinfo.lines().filter_map(parse_line);
    // Of equally deep ones the last hides the others.
    all.filter(|mount| path.starts_with(&mount.mount_point))
        .max_by_key(|mount| mount.mount_point.components().count())
}

/// The mount that is visible at exactly `mount_point`, if any, in the text of
/// `mountinfo`. Of several on the same point the last one hides the others.
#[must_use]
pub fn at(mountinfo: &str, mount_point: &Path) -> Option<Mount> {
    mountinfo.lines().filter_map(parse_line).rfind(|mount| mount.mount_point == mount_point)
}

/// `36 35 98:0 /root /mnt opts shared:1 - ext4 /dev/sda opts`: the fifth field,
/// the third, and the first two after the lone hyphen.
fn parse_line(line: &str) -> Option<Mount> {
    let (front, back) = line.split_once(" - ")?;
    let (mut front, mut back) = (front.split(' ').skip(2), back.split(' '));
    let (device, mount_point) = (front.next()?, front.nth(1)?);
    let (filesystem, source) = (back.next()?, back.next()?);
    Some(Mount {
        mount_point: unescape(mount_point).into(),
        filesystem: filesystem.to_owned(),
        source: unescape(source),
        device: device.to_owned(),
    })
}

/// The kernel writes space, tab, line break and backslash as three octal digits.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                plain.push(char::from(code));
                plain.push_str(part.get(3..).unwrap_or_default());
            }
            None => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
40 22 0:30 / /mnt/nas rw - autofs systemd-1 rw
41 40 0:52 / /mnt/nas rw,relatime shared:9 - nfs4 192.168.120.10:/backup rw,vers=4.2
42 22 0:53 / /mnt/old\\040nas rw - cifs //nas/old rw
";

    #[test]
    fn the_last_mount_on_a_point_is_the_visible_one() {
        let mount = at(MOUNTINFO, Path::new("/mnt/nas")).expect("a mount");
        assert_eq!(mount.filesystem, "nfs4");
    }

    #[test]
    fn a_folder_below_a_mount_point_is_not_one() {
        assert_eq!(at(MOUNTINFO, Path::new("/mnt/nas/repository")), None);
        assert_eq!(at(MOUNTINFO, Path::new("/mnt")), None);
    }

    #[test]
    fn a_fingerprint_names_what_is_mounted_below_a_path() {
        let nas = holding(MOUNTINFO, Path::new("/mnt/nas/homelab")).expect("a mount");
        assert_eq!((nas.source.as_str(), nas.device.as_str()), ("192.168.120.10:/backup", "0:52"));
        let root = holding(MOUNTINFO, Path::new("/mnt/nasty")).expect("a mount");
        assert_eq!(root.filesystem, "ext4");
        let again = Mount { device: "0:77".to_owned(), ..nas.clone() };
        assert!(nas.is_same_as(&again) && !nas.is_same_as(&root));
    }

    #[test]
    fn escaped_names_are_read() {
        assert!(at(MOUNTINFO, Path::new("/mnt/old nas")).is_some());
    }
}
