//! The site file: what the person declares, read into [`homelab_domain::site::Site`].
//!
//! The file is never written here. All its problems come in one report with their lines: first
//! whatever is wrong with single values, and once every value reads well, whatever contradicts each
//! other.

mod read;

use std::{fs, path::Path, sync::Arc};

use homelab_common::config::{Document, Report};
use homelab_domain::site::Site;
use jiff::Timestamp;
use ring::digest::{SHA256, digest};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::ca::issue::hex;

/// The longest site file that is read: what one message of the protocol can carry.
pub const CONTENT_BYTES_MAX: usize = 1024 * 1024;

/// A site file that was accepted.
#[derive(Clone, Debug)]
pub struct SiteFile {
    /// What it says.
    pub site: Arc<Site>,
    /// Where it was read.
    pub source: String,
    /// The text.
    pub content: String,
    /// SHA-256 of the text, lower-case hexadecimal.
    pub digest: String,
    /// When it took effect.
    pub applied_at: Timestamp,
    /// Parts that it has and that nothing acts upon yet.
    pub not_built_yet: Vec<&'static str>,
}

impl SiteFile {
    /// Reads a file.
    ///
    /// # Errors
    ///
    /// All problems of the file in one report.
    pub fn load(path: &Path, now: Timestamp) -> Result<Self, Report> {
        let source = path.display().to_string();
        let content = fs::read_to_string(path).map_err(|error| {
            let remedy = "name the file in `site` of controller.toml and let this user read it";
            Report::of_file(&source, format!("could not be read: {error}; {remedy}"))
        })?;
        Self::parse(&source, &content, now)
    }

    /// Takes `content` as the content of `source`, a name for reports.
    ///
    /// # Errors
    ///
    /// All problems of the text in one report.
    pub fn parse(source: &str, content: &str, now: Timestamp) -> Result<Self, Report> {
        if content.len() > CONTENT_BYTES_MAX {
            let allowed = format!("longer than {CONTENT_BYTES_MAX} bytes");
            return Err(Report::of_file(source, allowed));
        }
        let document = Document::parse(source, content)?;
        let (site, not_built_yet) = read::site(&document, now)?;
        Ok(Self {
            site: Arc::new(site),
            source: source.to_owned(),
            digest: hex(digest(&SHA256, content.as_bytes()).as_ref()),
            content: content.to_owned(),
            applied_at: now,
            not_built_yet,
        })
    }
}

/// Why a new site file does not take effect.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It has problems.
    #[error(transparent)]
    Report(#[from] Report),
    /// Every certificate carries the name and the domain.
    #[error(
        "the site's {what} cannot change while the controller runs (`{from}` to `{to}`): every \
         certificate carries it"
    )]
    Identity {
        /// `name` or `domain`.
        what: &'static str,
        /// What it is.
        from: String,
        /// What the file says.
        to: String,
    },
}

/// The site file in force. Clones are the same.
#[derive(Clone, Debug)]
pub struct CurrentSite {
    file: watch::Sender<Arc<SiteFile>>,
    site: watch::Sender<Arc<Site>>,
}

impl CurrentSite {
    /// Begins with `file`.
    #[must_use]
    pub fn new(file: SiteFile) -> Self {
        warn_of_unbuilt(&file);
        let site = watch::Sender::new(Arc::clone(&file.site));
        Self { file: watch::Sender::new(Arc::new(file)), site }
    }

    /// The file as it is in force now.
    #[must_use]
    pub fn file(&self) -> Arc<SiteFile> {
        Arc::clone(&self.file.borrow())
    }

    /// Follows what the file says.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<Site>> {
        self.site.subscribe()
    }

    /// Reads the same path again and lets it take effect when it is in order and has changed.
    ///
    /// # Errors
    ///
    /// The file has problems, or changes what cannot change; the one in force stays.
    pub fn reload(&self, now: Timestamp) -> Result<(), ApplyError> {
        let before = self.file();
        let after = SiteFile::load(Path::new(&before.source), now)?;
        if after.digest == before.digest {
            return Ok(());
        }
        let identity = |what, from: &str, to: &str| ApplyError::Identity {
            what,
            from: from.to_owned(),
            to: to.to_owned(),
        };
        if before.site.name() != after.site.name() {
            let (from, to) = (before.site.name().as_str(), after.site.name().as_str());
            return Err(identity("name", from, to));
        }
        if before.site.domain() != after.site.domain() {
            return Err(identity("domain", before.site.domain(), after.site.domain()));
        }
        info!(digest = %after.digest, source = %after.source, "a new site file is in force");
        warn_of_unbuilt(&after);
        self.site.send_replace(Arc::clone(&after.site));
        self.file.send_replace(Arc::new(after));
        Ok(())
    }
}

fn warn_of_unbuilt(file: &SiteFile) {
    for part in &file.not_built_yet {
        warn!(part, source = %file.source, "the site file has a part that nothing acts upon yet");
    }
}

#[cfg(test)]
mod tests {
    use homelab_domain::site::{DaemonKind, Tier};

    use super::*;

    const EXAMPLE: &str =
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/examples/homelab.toml"));

    fn report(text: &str) -> String {
        SiteFile::parse("homelab.toml", text, Timestamp::UNIX_EPOCH)
            .expect_err("has problems")
            .to_string()
    }

    #[test]
    fn the_example_is_a_valid_site() {
        let file = SiteFile::parse("homelab.toml", EXAMPLE, Timestamp::UNIX_EPOCH)
            .unwrap_or_else(|report| panic!("{report}"));
        let site = &file.site;
        let names: Vec<_> = site.hosts().iter().map(|host| host.name.as_str()).collect();
        assert_eq!(names, ["qotom", "hx310-db", "hx310-arr", "cw-nas", "x99", "ryzen"]);
        let x99 = site.hosts().iter().find(|host| host.name.as_str() == "x99").expect("declared");
        assert_eq!(x99.address.to_string(), "192.168.200.40");
        assert!(x99.daemon(DaemonKind::GpuWorker).is_some());
        assert_eq!(site.tier_of(&x99.name), Some(Tier::Silver));
        assert_eq!(file.digest.len(), 64);
    }

    #[test]
    fn every_problem_of_single_values_is_reported_with_its_line() {
        let text = "\
[site]
name = \"Home\"
[[host]]
name = \"x99\"
adress = \"192.0.2.1\"
expected-power = \"on-demnad\"
daemons = [\"agent\", \"gpuworker\"]
backup-agent-port = 7451
[[backup]]
name = \"wiki\"
host = \"x99\"
repository = \"nas\"
source = \"postgres\"
schedule = \"61 3 * * *\"
rpo = \"1d\"
";
        let expected = "\
homelab.toml: 7 problems
   2 | site.name = \"Home\"                  ";
        let report = report(text);
        assert!(report.starts_with(expected), "{report}");
        for part in [
            "   3 | host[0].address",
            "missing; it has no default",
            "did you mean `address`?",
            "did you mean `on-demand`?",
            "did you mean `gpu-worker`?",
            "   8 | host[0].backup-agent-port = 7451",
            "only with `backup-agent` among the daemons",
            "  14 | backup[0].schedule = \"61 3 * * *\"",
        ] {
            assert!(report.contains(part), "{part} is not in {report}");
        }
    }

    #[test]
    fn contradictions_are_reported_at_the_line_of_the_key() {
        let text = "\
[site]
name = \"home\"
[[host]]
name = \"x99\"
address = \"192.0.2.1\"
expected-power = \"on-demand\"
mac = \"02:00:00:00:00:01\"
daemons = [\"agent\", \"gpu-worker\"]
[[host]]
name = \"x99\"
address = \"192.0.2.2\"
[ai]
[[ai.tier]]
tier = \"bronze\"
hosts = [\"x99\"]
default-model = \"tiny\"
";
        let report = report(text);
        for part in [
            "homelab.toml: 3 problems",
            "  10 | host[1].name = \"x99\"",
            "  15 | ai.tier[0].hosts = [\"x99\"]",
            "  16 | ai.tier[0].default-model = \"tiny\"",
        ] {
            assert!(report.contains(part), "{part} is not in {report}");
        }
    }

    #[test]
    fn a_reload_takes_a_good_file_and_keeps_the_old_one_for_a_bad_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("homelab.toml");
        let write = |text: &str| fs::write(&path, text).expect("writable");
        write("[site]\nname = \"home\"\n");
        let now = Timestamp::UNIX_EPOCH;
        let current = CurrentSite::new(SiteFile::load(&path, now).expect("valid"));
        let follower = current.subscribe();

        write("[site]\nname = \"home\"\n[[host]]\nname = \"a\"\naddress = \"192.0.2.1\"\n");
        current.reload(now).expect("valid");
        assert_eq!(follower.borrow().hosts().len(), 1);

        write("[site]\nname = \"other\"\n");
        assert!(matches!(current.reload(now), Err(ApplyError::Identity { what: "name", .. })));
        write("nonsense");
        assert!(matches!(current.reload(now), Err(ApplyError::Report(_))));
        assert_eq!(follower.borrow().hosts().len(), 1);
    }
}
