//! Sources of documents of the site file.

use std::{path::PathBuf, time::Duration};

use homelab_common::config::{Section, parse};
use homelab_domain::{
    context::{ContextSource, GitPlace, GitSource, Glob, Leaves, Origin, WikiSource},
    site::ProviderUrl,
};

use super::each;

/// How often a source is looked at, unless the file says otherwise.
const EVERY: Duration = Duration::from_secs(15 * 60);

/// How often one may be looked at.
const EVERY_MIN: Duration = Duration::from_secs(60);

/// How seldom.
const EVERY_MAX: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Files of a repository that are documents, unless the file says otherwise.
const FILES: [&str; 2] = ["*.md", "*.txt"];

pub(super) fn context(root: &Section<'_>) -> Option<Vec<ContextSource>> {
    each(&root.table("context"), "source", source)
}

fn source(section: &Section<'_>) -> Option<ContextSource> {
    let name = section.required("name", parse::text(|text| text.parse()));
    let every = section.or("every", EVERY, parse::duration);
    if !(EVERY_MIN..=EVERY_MAX).contains(&every) {
        section.problem("every", "1m to 7d is allowed");
    }
    let words: Vec<_> = Leaves::ALL.iter().map(|leaves| (leaves.as_str(), *leaves)).collect();
    let leaves = section.or("leaves", Leaves::Never, parse::word(&words));
    section.or("description", String::new(), parse::string);
    let ca_file: Option<PathBuf> = section.optional("ca-file", parse::path);
    let origin = match (section.has("git"), section.has("wiki")) {
        (true, false) => git(section, ca_file).map(Origin::Git),
        (false, true) => wiki(section, ca_file).map(Origin::Wiki),
        _ => {
            section.problem("git", "a source has either `git` or `wiki`");
            None
        }
    };
    Some(ContextSource { name: name?, origin: origin?, every, leaves })
}

fn git(section: &Section<'_>, ca_file: Option<PathBuf>) -> Option<GitSource> {
    let place = section.required("git", |value| {
        // Some write a password into it.
        parse::text(|text| text.parse::<GitPlace>())(value)
            .map_err(homelab_common::config::Allowed::hiding_what_was_seen)
    });
    let reference = section.or("ref", "HEAD".to_owned(), parse::text(reference));
    let files = section.list("files", parse::text(|text| text.parse::<Glob>()));
    let usual = || FILES.iter().filter_map(|text| text.parse().ok()).collect();
    let token = section.optional("token", parse::secret_source);
    let user = section.or("user", "x-access-token".to_owned(), parse::text(user));
    Some(GitSource {
        place: place?,
        reference,
        files: if files.is_empty() { usual() } else { files },
        token: token.map(|token| token.to_string()),
        user,
        ca_file,
    })
}

fn wiki(section: &Section<'_>, ca_file: Option<PathBuf>) -> Option<WikiSource> {
    let url = section.required("wiki", |value| {
        parse::text(|text| text.parse::<ProviderUrl>())(value)
            .map_err(homelab_common::config::Allowed::hiding_what_was_seen)
    });
    let token = section.required("token", parse::secret_source);
    let prefix = section.or("path-prefix", String::new(), parse::string);
    let locale = section.optional("locale", parse::text(locale));
    Some(WikiSource {
        url: url?,
        token: token?.to_string(),
        ca_file,
        prefix: prefix.trim_start_matches('/').to_owned(),
        locale,
    })
}

/// A name that Git reads as a branch or tag and as nothing else.
fn reference(text: &str) -> Result<String, &'static str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._/".contains(c);
    let is_name = (1..=200).contains(&text.len())
        && text.chars().all(fits)
        && !text.starts_with(['-', '.', '/'])
        && !text.contains("..");
    is_name.then(|| text.to_owned()).ok_or("a branch or tag, such as \"main\"")
}

fn user(text: &str) -> Result<String, &'static str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let is_name = (1..=64).contains(&text.len()) && text.chars().all(fits);
    is_name.then(|| text.to_owned()).ok_or("a name of 1 to 64 letters, digits and - . _")
}

fn locale(text: &str) -> Result<String, &'static str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let is_locale = (2..=10).contains(&text.len()) && text.chars().all(fits);
    is_locale.then(|| text.to_owned()).ok_or("a language, such as \"en\"")
}

#[cfg(test)]
mod tests {
    use homelab_domain::context::{Leaves, Origin};
    use jiff::Timestamp;

    use crate::site::SiteFile;

    fn parsed(text: &str) -> Result<SiteFile, String> {
        let text = format!("[site]\nname = \"home\"\n{text}");
        SiteFile::parse("homelab.toml", &text, Timestamp::UNIX_EPOCH)
            .map_err(|report| report.to_string())
    }

    #[test]
    fn sources_are_read_and_stay_in_the_house_unless_the_file_says_otherwise() {
        let file = parsed(
            "[[context.source]]\nname = \"homelab\"\ngit = \"/srv/git/homelab.git\"\n\
             [[context.source]]\nname = \"wiki\"\nwiki = \"https://wiki.home.arpa\"\n\
             token = \"credential:wiki\"\nleaves = \"by-rule\"\npath-prefix = \"/lab/\"\n",
        )
        .unwrap_or_else(|report| panic!("{report}"));
        let [git, wiki] = file.site.context() else { panic!("two sources") };
        assert_eq!((git.leaves, wiki.leaves), (Leaves::Never, Leaves::ByRule));
        assert!(
            matches!(&git.origin, Origin::Git(git) if git.reference == "HEAD" && git.files.len() == 2)
        );
        assert!(matches!(&wiki.origin, Origin::Wiki(wiki) if wiki.prefix == "lab/"));
    }

    #[test]
    fn a_source_that_cannot_be_meant_is_reported_at_its_line_and_passwords_are_not_repeated() {
        let report = parsed(
            "[[context.source]]\nname = \"a\"\ngit = \"https://me:hunter2@git.example/x\"\n\
             [[context.source]]\nname = \"b\"\ngit = \"/x\"\nref = \"--upload-pack=id\"\nevery = \"1s\"\n\
             [[context.source]]\nname = \"c\"\n",
        )
        .expect_err("has problems");
        for part in [
            "   5 | context.source[0].git",
            "context.source[1].ref",
            "context.source[1].every",
            "either `git` or `wiki`",
        ] {
            assert!(report.contains(part), "{part} is not in {report}");
        }
        assert!(!report.contains("hunter2"), "{report}");
        let report = parsed(
            "[[context.source]]\nname = \"runbooks\"\ngit = \"/x\"\ntoken = \"/k\"\n\
             [[context.source]]\nname = \"runbooks\"\ngit = \"/y\"\n",
        )
        .expect_err("has contradictions");
        for part in ["called so already", "only an address of HTTPS takes a token"] {
            assert!(report.contains(part), "{part} is not in {report}");
        }
    }
}
