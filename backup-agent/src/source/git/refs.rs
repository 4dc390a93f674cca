//! What moved upstream, and what must be kept before the mirror follows.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

/// Names of refs, without the `refs/` before them, with what they point at.
pub type Refs = BTreeMap<String, String>;

/// Where the mirror keeps what upstream has.
pub const UPSTREAM: &str = "refs/upstream/";

/// Where the mirror keeps what upstream had; nothing is ever removed below it.
pub const KEPT: &str = "refs/kept/";

/// Where a fetch puts what it brings, before anything of the mirror moves.
pub const INCOMING: &str = "refs/incoming/";

/// Namespaces that a server makes from proposals of others; they are no content of
/// the repository (GitHub, GitLab, Gerrit).
pub const NOT_MIRRORED: [&str; 4] =
    ["refs/pull/", "refs/merge-requests/", "refs/changes/", "refs/keep-around/"];

/// Digits of an object that are shown to people.
const SHOWN_DIGITS: usize = 10;

/// Warnings of one repository; the rest is counted.
const WARNINGS_MAX: usize = 20;

/// What a remote has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Advertised {
    /// The branch that a clone begins with, as `heads/main`.
    pub head: Option<String>,
    /// Its refs.
    pub refs: Refs,
}

impl Advertised {
    /// From the lines of `git ls-remote --symref`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut advertised = Self::default();
        for line in text.lines() {
            let Some((what, name)) = line.split_once('\t') else { continue };
            match what.strip_prefix("ref: ") {
                Some(target) if name == "HEAD" => {
                    advertised.head = target.strip_prefix("refs/").map(str::to_owned);
                }
                Some(_) => {}
                None if name.ends_with("^{}") => {}
                None if NOT_MIRRORED.iter().any(|prefix| name.starts_with(prefix)) => {}
                None => {
                    if let Some(name) = name.strip_prefix("refs/") {
                        advertised.refs.insert(name.to_owned(), what.to_owned());
                    }
                }
            }
        }
        advertised
    }
}

/// The refs below `prefix`, from `git for-each-ref --format=%(objectname) %(refname)`.
#[must_use]
pub fn parse_local(text: &str, prefix: &str) -> Refs {
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines
        .filter_map(|(id, name)| Some((name.strip_prefix(prefix)?.to_owned(), id.to_owned())))
        .collect()
}

/// A ref that is not what it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its name.
    pub name: String,
    /// What it was.
    pub old: Option<String>,
    /// What it is.
    pub new: Option<String>,
}

/// What differs, sorted by name.
#[must_use]
pub fn changes(old: &Refs, new: &Refs) -> Vec<Change> {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    names
        .into_iter()
        .map(|name| Change {
            name: name.clone(),
            old: old.get(name).cloned(),
            new: new.get(name).cloned(),
        })
        .filter(|change| change.old != change.new)
        .collect()
}

/// How the mirror follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// First, in one transaction: what is kept, and what goes.
    pub first: String,
    /// Then: what comes and moves. Apart, because a ref `a/b` can come in the same
    /// moment in which a ref `a` goes, and git refuses both in one transaction.
    pub then: String,
    /// What people should know.
    pub warnings: Vec<String>,
}

/// Plans the transactions for `git update-ref --stdin`. `is_forward` tells whether a
/// change of a branch only adds to it. `moment` names what is kept, with `run` so
/// that two runs in one second do not meet.
#[must_use]
pub fn plan(
    repository: &str,
    changes: &[Change],
    is_forward: impl Fn(&Change) -> bool,
    moment: Timestamp,
    run: &str,
) -> Plan {
    let mut plan = Plan::default();
    let mut alarms = Vec::new();
    let folder = format!("{KEPT}{}-{run}", moment.strftime("%Y%m%dT%H%M%SZ"));
    for change in changes {
        let Change { name, old, new } = change;
        match (old, new) {
            (Some(old), new) => {
                if new.is_none() || !is_forward(change) {
                    let kept = format!("{folder}/{name}");
                    plan.first += &format!("create {kept} {old}\n");
                    alarms.push(alarm(repository, change, old, &kept));
                }
                match new {
                    Some(new) => plan.then += &format!("update {UPSTREAM}{name} {new} {old}\n"),
                    None => plan.first += &format!("delete {UPSTREAM}{name} {old}\n"),
                }
            }
            (None, Some(new)) => plan.then += &format!("create {UPSTREAM}{name} {new}\n"),
            (None, None) => {}
        }
    }
    let more = alarms.len().saturating_sub(WARNINGS_MAX);
    plan.warnings = alarms.into_iter().take(WARNINGS_MAX).collect();
    if more > 0 {
        plan.warnings.push(format!("{more} more refs of {repository} were rewritten or deleted"));
    }
    plan
}

fn alarm(repository: &str, change: &Change, old: &str, kept: &str) -> String {
    let (kind, name) = match change.name.split_once('/') {
        Some(("heads", name)) => ("branch", name),
        Some(("tags", name)) => ("tag", name),
        _ => ("ref", change.name.as_str()),
    };
    match &change.new {
        Some(new) => format!(
            "history rewritten: {kind} {name} of {repository} from {} to {}; the old one is kept \
             as {kept}",
            short(old),
            short(new)
        ),
        None => format!(
            "{kind} {name} of {repository} deleted upstream; it was {} and is kept as {kept}",
            short(old)
        ),
    }
}

/// The first digits of an object's name.
#[must_use]
pub fn short(id: &str) -> &str {
    id.get(..SHOWN_DIGITS).unwrap_or(id)
}

/// In what `found` is not `expected`, a sentence each, at most `max`.
#[must_use]
pub fn differences(what: &str, expected: &Refs, found: &Refs, max: usize) -> Vec<String> {
    let describe = |change: &Change| match (&change.old, &change.new) {
        (Some(old), Some(new)) => {
            format!("{what}: {} is {}, expected {}", change.name, short(new), short(old))
        }
        (Some(_), None) => format!("{what}: {} is missing", change.name),
        _ => format!("{what}: {} is there and not expected", change.name),
    };
    changes(expected, found).iter().take(max).map(describe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn refs(pairs: &[(&str, &str)]) -> Refs {
        pairs.iter().map(|(name, id)| ((*name).to_owned(), (*id).to_owned())).collect()
    }

    fn moment() -> Timestamp {
        "2026-11-23T07:45:12Z".parse().expect("a moment")
    }

    #[test]
    fn an_answer_of_ls_remote_is_read_without_peeled_tags_and_proposals() {
        let text = format!(
            "ref: refs/heads/main\tHEAD\n{A}\tHEAD\n{A}\trefs/heads/main\n{B}\trefs/pull/1/head\n\
             {B}\trefs/tags/v1\n{A}\trefs/tags/v1^{{}}\n"
        );
        let advertised = Advertised::parse(&text);
        assert_eq!(advertised.head.as_deref(), Some("heads/main"));
        assert_eq!(advertised.refs, refs(&[("heads/main", A), ("tags/v1", B)]));
        assert_eq!(Advertised::parse(""), Advertised::default());
    }

    #[test]
    fn what_only_grows_needs_no_keeping() {
        let changes = changes(&refs(&[("heads/main", A)]), &refs(&[("heads/main", B)]));
        let plan = plan("p", &changes, |_| true, moment(), "r1");
        assert_eq!(plan.first, "");
        assert_eq!(plan.then, format!("update refs/upstream/heads/main {B} {A}\n"));
        assert_eq!(plan.warnings, Vec::<String>::new());
    }

    #[test]
    fn what_is_rewritten_or_deleted_is_kept_before_anything_moves() {
        let old = refs(&[("heads/a", A), ("heads/main", A)]);
        let new = refs(&[("heads/a/b", B), ("heads/main", B)]);
        let plan = plan("p", &changes(&old, &new), |_| false, moment(), "r1");
        let kept = "refs/kept/20261123T074512Z-r1/heads";
        assert_eq!(
            plan.first,
            format!(
                "create {kept}/a {A}\ndelete refs/upstream/heads/a {A}\ncreate {kept}/main {A}\n"
            )
        );
        assert!(plan.then.contains("create refs/upstream/heads/a/b"), "{}", plan.then);
        assert!(plan.warnings[0].contains("branch a of p deleted upstream"), "{:?}", plan.warnings);
        assert!(plan.warnings[1].contains("from aaaaaaaaaa to bbbbbbbbbb"), "{:?}", plan.warnings);
    }

    #[test]
    fn a_thousand_deletions_are_counted_and_all_kept() {
        let old: Refs = (0..1000).map(|at| (format!("heads/b{at}"), A.to_owned())).collect();
        let plan = plan("p", &changes(&old, &Refs::new()), |_| true, moment(), "r1");
        assert_eq!(plan.first.matches("create refs/kept/").count(), 1000);
        assert_eq!(plan.warnings.len(), WARNINGS_MAX + 1);
        assert!(plan.warnings[WARNINGS_MAX].contains("980 more"), "{:?}", plan.warnings.last());
    }
}
