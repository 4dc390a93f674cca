//! The templates, filled.

use askama::Template;
use jiff::Timestamp;

use super::{
    board::Live,
    moment::{Ages, Moment},
    view::{self, BackupsView, HostsView, JobsView, Observed, VerdictView},
};

/// Who looks at the page.
#[derive(Clone, Debug)]
pub struct Viewer {
    /// Name.
    pub person: String,
    /// Role.
    pub role: &'static str,
    /// Token that forms must carry.
    pub csrf: String,
}

impl Live for Observed {
    const SECTIONS: &'static [&'static str] = &["verdict", "hosts", "backups", "jobs"];

    fn sections(&self, ages: Ages) -> askama::Result<Vec<String>> {
        Ok(vec![
            VerdictSection { verdict: view::verdict(self, ages) }.render()?,
            HostsSection { hosts: view::hosts(self, ages) }.render()?,
            BackupsSection { backups: view::backups(self, ages) }.render()?,
            JobsSection { jobs: view::jobs(self, ages) }.render()?,
        ])
    }
}

/// What stands above every page.
#[derive(Clone, Debug)]
pub(super) struct Top<'a> {
    pub(super) site: &'a str,
    pub(super) viewer: &'a Viewer,
    /// Path of the page.
    pub(super) here: &'a str,
    /// Path of the page in the navigation that it belongs to.
    pub(super) path: &'static str,
    /// Path of the stream that keeps the page alive; empty when nothing does.
    pub(super) events: &'static str,
    pub(super) seq: u64,
    pub(super) made: Moment,
}

/// The whole first page, readable without scripts.
///
/// # Errors
/// When a template cannot be filled, which is a bug.
pub fn overview(
    observed: &Observed,
    viewer: &Viewer,
    seq: u64,
    now: Timestamp,
) -> askama::Result<String> {
    let ages = Ages::Written(now);
    let page = OverviewPage {
        top: Top {
            site: &observed.status.site,
            viewer,
            here: "/",
            path: "/",
            events: "/events",
            seq,
            made: Moment::new(Some(now), ages),
        },
        version: &observed.status.version,
        sections: observed.sections(ages)?,
    };
    page.render()
}

/// What somebody without a session sees.
///
/// # Errors
/// When a template cannot be filled, which is a bug.
pub fn login(heading: &str, words: &str) -> askama::Result<String> {
    LoginPage { heading, words }.render()
}

/// The page behind a login link.
///
/// # Errors
/// When a template cannot be filled, which is a bug.
pub fn enter(token: &str) -> askama::Result<String> {
    EnterPage { token }.render()
}

#[derive(Template)]
#[template(path = "overview.html")]
struct OverviewPage<'a> {
    top: Top<'a>,
    version: &'a str,
    sections: Vec<String>,
}

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage<'a> {
    heading: &'a str,
    words: &'a str,
}

#[derive(Template)]
#[template(path = "enter.html")]
struct EnterPage<'a> {
    token: &'a str,
}

#[derive(Template)]
#[template(path = "section/verdict.html")]
pub(super) struct VerdictSection {
    pub(super) verdict: VerdictView,
}

#[derive(Template)]
#[template(path = "section/hosts.html")]
struct HostsSection {
    hosts: HostsView,
}

#[derive(Template)]
#[template(path = "section/backups.html")]
struct BackupsSection {
    backups: BackupsView,
}

#[derive(Template)]
#[template(path = "section/jobs.html")]
struct JobsSection {
    jobs: JobsView,
}

#[cfg(test)]
mod tests {
    use homelab_proto::controller::v1::{Concern, HostStatus, Job};

    use super::*;
    use crate::http::dashboard::view::RunningJob;

    const CANARY: &str = "<img src=x onerror=alert(1)>\"'&";

    fn viewer() -> Viewer {
        Viewer { person: "jan".to_owned(), role: "admin", csrf: "c".to_owned() }
    }

    #[test]
    fn an_empty_site_is_taught_what_to_do_next() {
        let page =
            overview(&Observed::default(), &viewer(), 7, Timestamp::UNIX_EPOCH).expect("renders");
        for words in [
            "No hosts yet",
            "labctl host enroll",
            "Nothing is backed up",
            "No jobs yet",
            "data-seq=\"7\"",
        ] {
            assert!(page.contains(words), "{words}");
        }
    }

    #[test]
    fn what_others_wrote_is_shown_as_text() {
        let mut observed = Observed::default();
        let text = || CANARY.to_owned();
        observed.status.site = text();
        observed.status.concerns = vec![Concern {
            subject: text(),
            message: text(),
            command: text(),
            ..Default::default()
        }];
        observed.status.hosts = vec![HostStatus {
            name: text(),
            message: text(),
            description: text(),
            address: text(),
            ..Default::default()
        }];
        let job = Job {
            title: text(),
            model: text(),
            message: text(),
            worker: text(),
            ..Default::default()
        };
        observed.running = vec![RunningJob { job: job.clone(), pieces: 1, tail: text() }];
        observed.pending = vec![job.clone()];
        observed.ended = vec![job];
        let viewer = Viewer { person: text(), ..viewer() };
        let page = overview(&observed, &viewer, 0, Timestamp::UNIX_EPOCH).expect("renders");
        assert!(!page.contains("<img src=x"), "{page}");
        assert!(page.matches("&#60;img src=x onerror").count() >= 10, "{page}");
    }

    #[test]
    fn no_markup_carries_a_style_or_a_script() {
        let page =
            overview(&Observed::default(), &viewer(), 0, Timestamp::UNIX_EPOCH).expect("renders");
        assert!(!page.contains(" style="));
        assert!(!page.contains("<style"));
        assert!(!page.contains(" onclick="));
        assert_eq!(page.matches("<script").count(), 1);
    }

    #[test]
    fn sections_for_many_do_not_change_while_nothing_happens() {
        let observed = Observed::default();
        let first = observed.sections(Ages::Counted).expect("renders");
        assert_eq!(first, observed.sections(Ages::Counted).expect("renders"));
        for (name, section) in Observed::SECTIONS.iter().zip(&first) {
            assert!(section.starts_with(&format!("<section id=\"{name}\"")), "{section}");
        }
    }
}
