//! What the installed `zfs` can do.
//!
//! Asked of the program itself, by the usage that it prints when it is called with
//! too few words, because its version says little: distributions patch, and what was
//! released as `zfs-fuse` knows a tenth of what OpenZFS 2.3 knows.

use std::collections::BTreeSet;

/// What a `zfs` program can do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Its own version, such as `zfs-2.3.9-1`; old programs do not say it.
    pub version: Option<String>,
    /// One-letter options of `zfs send`.
    pub send: BTreeSet<char>,
    /// One-letter options of `zfs receive`.
    pub receive: BTreeSet<char>,
    /// Whether `zfs bookmark` exists.
    pub bookmarks: bool,
}

impl Capabilities {
    /// From what the program said to `zfs version`, `zfs send`, `zfs receive` and
    /// `zfs bookmark` without further words.
    #[must_use]
    pub fn parse(version: &str, send: &str, receive: &str, bookmark: &str) -> Self {
        let version = version.lines().next().map(str::trim);
        Self {
            version: version.filter(|line| line.starts_with("zfs-")).map(str::to_owned),
            send: letters(send, "send"),
            receive: letters(receive, "receive"),
            bookmarks: !bookmark.contains("unrecognized command") && bookmark.contains("bookmark"),
        }
    }

    /// Sending encrypted blocks as they lie on disk.
    #[must_use]
    pub fn can_send_raw(&self) -> bool {
        self.send.contains(&'w')
    }

    /// Going on after an interruption.
    #[must_use]
    pub fn can_resume(&self) -> bool {
        self.send.contains(&'t') && self.receive.contains(&'s')
    }

    /// Setting properties of what is received.
    #[must_use]
    pub fn can_set_on_receive(&self) -> bool {
        self.receive.contains(&'o')
    }

    /// The version, for people.
    #[must_use]
    pub fn name(&self) -> &str {
        self.version.as_deref().unwrap_or("an old zfs without a version")
    }

    /// What is done without, a sentence each.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let has = [
            (self.can_send_raw(), "raw streams (send -w): encrypted datasets are refused"),
            (self.can_resume(), "resume tokens (receive -s): a cut replication starts again"),
            (self.bookmarks, "bookmarks: a snapshot stays until its copies have a newer one"),
            (
                ['L', 'c', 'e'].iter().all(|letter| self.send.contains(letter)),
                "compressed and large blocks in streams (send -L -c -e): streams are larger",
            ),
        ];
        let lacks = has.iter().filter(|(there, _)| !there);
        lacks.map(|(_, what)| format!("{} has no {what}", self.name())).collect()
    }
}

/// The letters of the bracketed options (`[-DnPpRvLecw]`, `[-s]`, `-t <token>`) in the
/// usage lines of one verb.
fn letters(usage: &str, verb: &str) -> BTreeSet<char> {
    let mut found = BTreeSet::new();
    let mut of_verb = false;
    for line in usage.lines() {
        let mut words = line.split_whitespace();
        // A usage line begins with its verb; the lines after it may go on.
        match words.clone().next() {
            Some(first) if first == verb => of_verb = true,
            Some(first) if first.starts_with(['[', '<', '-']) => {}
            _ => of_verb = false,
        }
        if !of_verb {
            continue;
        }
        for word in words.by_ref() {
            let word = word.trim_start_matches('[');
            let Some(options) = word.strip_prefix('-') else { continue };
            if options.starts_with('-') {
                continue;
            }
            let letters = options.chars().take_while(char::is_ascii_alphabetic);
            found.extend(letters);
        }
    }
    found
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// In the form of OpenZFS 2.3.
    pub(crate) const SEND: &str = "\
missing snapshot argument
usage:
\tsend [-DLPbcehnpsVvw] [-i|-I snapshot]
\t     [-R [-X dataset[,dataset]...]] <snapshot>
\tsend [-DnVvPLecw] [-i snapshot|bookmark] <filesystem|volume|snapshot>
\tsend [-DnPpVvLec] [-i bookmark|snapshot] --redact <bookmark> <snapshot>
\tsend [-nVvPe] -t <receive_resume_token>
\tsend [-PnVv] --saved filesystem

For further help on a command or topic, run: zfs help [<topic>]
";
    pub(crate) const RECEIVE: &str = "\
missing snapshot argument
usage:
\treceive [-vMnsFhu] [-o <property>=<value>] ... [-x <property>] ...
\t    <filesystem|volume|snapshot>
\treceive [-vMnsFhu] [-o <property>=<value>] ... [-x <property>] ...
\t    [-d | -e] <filesystem>
\treceive -A <filesystem|volume>
";
    pub(crate) const BOOKMARK: &str = "\
missing source argument
usage:
\tbookmark <snapshot|bookmark> <newbookmark>
";
    /// In the form of zfs-fuse 0.7.
    const OLD_SEND: &str = "\
missing snapshot argument
usage:
\tsend [-RDp] [-[iI] snapshot] <snapshot>

For the property list, run: zfs set|get
";
    const OLD_RECEIVE: &str = "\
usage:
\treceive [-vnF] <filesystem|volume|snapshot>
\treceive [-vnF] -d <filesystem>
";
    const OLD_UNKNOWN: &str = "unrecognized command 'bookmark'\nusage: zfs command args ...";

    #[test]
    fn a_current_openzfs_lacks_nothing() {
        let version = "zfs-2.3.9-1\nzfs-kmod-2.3.9-1\n";
        let can = Capabilities::parse(version, SEND, RECEIVE, BOOKMARK);
        assert_eq!(can.name(), "zfs-2.3.9-1");
        assert_eq!(can.missing(), Vec::<String>::new());
        assert!(can.can_send_raw() && can.can_resume() && can.can_set_on_receive());
    }

    #[test]
    fn an_old_program_says_what_is_done_without() {
        let can = Capabilities::parse(OLD_UNKNOWN, OLD_SEND, OLD_RECEIVE, OLD_UNKNOWN);
        assert_eq!(can.version, None);
        let missing = can.missing().join("\n");
        for part in ["send -w", "receive -s", "bookmarks", "-L -c -e"] {
            assert!(missing.contains(part), "{part}: {missing}");
        }
        assert!(!can.can_set_on_receive());
    }
}
