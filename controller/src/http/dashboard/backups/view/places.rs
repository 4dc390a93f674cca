//! Where the copies of a backup are.

use homelab_proto::controller::v1::{BackupCopy, BackupStrategy, CopyRole};

use super::{super::BackupsObserved, healths, name};
use crate::http::dashboard::{
    moment::{Ages, Moment},
    view::{Tone, moment, tally},
};

pub(in crate::http::dashboard::backups) struct PlacesView {
    pub(in crate::http::dashboard::backups) count: String,
    pub(in crate::http::dashboard::backups) rows: Vec<PlacesRow>,
}

pub(in crate::http::dashboard::backups) struct PlacesRow {
    pub(in crate::http::dashboard::backups) name: String,
    pub(in crate::http::dashboard::backups) tone: Tone,
    pub(in crate::http::dashboard::backups) word: &'static str,
    pub(in crate::http::dashboard::backups) counted: String,
    pub(in crate::http::dashboard::backups) missing: String,
    pub(in crate::http::dashboard::backups) copies: Vec<CopyView>,
}

pub(in crate::http::dashboard::backups) struct CopyView {
    pub(in crate::http::dashboard::backups) tone: Tone,
    pub(in crate::http::dashboard::backups) role: &'static str,
    pub(in crate::http::dashboard::backups) repository: String,
    pub(in crate::http::dashboard::backups) where_it_is: String,
    pub(in crate::http::dashboard::backups) newest: Moment,
    pub(in crate::http::dashboard::backups) facts: String,
    pub(in crate::http::dashboard::backups) why_not: String,
    pub(in crate::http::dashboard::backups) scrubbed: Moment,
}

pub(in crate::http::dashboard::backups) fn places(
    observed: &BackupsObserved,
    ages: Ages,
) -> PlacesView {
    let all = healths(observed);
    let rows: Vec<_> = all.iter().map(|(backup, _)| places_row(backup, ages)).collect();
    let met = rows.iter().filter(|row| row.tone == Tone::Ok).count();
    PlacesView { count: tally(rows.len(), met, "make 3-2-1"), rows }
}

pub(in crate::http::dashboard::backups) fn places_row(
    backup: &BackupStrategy,
    ages: Ages,
) -> PlacesRow {
    let copies = backup.copies.clone().unwrap_or_default();
    let name = name(backup).to_owned();
    let Some(rule) = copies.rule else {
        return PlacesRow {
            name,
            tone: Tone::Warning,
            word: "unknown",
            counted: String::new(),
            missing: "nobody knows where its copies are".to_owned(),
            copies: Vec::new(),
        };
    };
    let (tone, word) = if rule.met { (Tone::Ok, "3-2-1") } else { (Tone::Warning, "not 3-2-1") };
    PlacesRow {
        name,
        tone,
        word,
        counted: format!(
            "{} of 3 copies · {} of 2 media · {} of 1 elsewhere",
            rule.copies, rule.media, rule.off_site
        ),
        missing: rule.missing.join(", "),
        copies: copies.copies.iter().map(|copy| copy_view(copy, ages)).collect(),
    }
}

fn copy_view(copy: &BackupCopy, ages: Ages) -> CopyView {
    let role = match copy.role() {
        CopyRole::Source => "source",
        CopyRole::Primary => "first",
        CopyRole::Copy => "copy",
        CopyRole::Spool => "spool",
        CopyRole::Unspecified => "unknown",
    };
    let is_spool = copy.role() == CopyRole::Spool;
    let mut facts = Vec::new();
    facts.extend(copy.snapshots.map(|count| match count {
        1 => "1 snapshot".to_owned(),
        count => format!("{count} snapshots"),
    }));
    facts.extend(
        copy.append_only.map(|it| if it { "append-only" } else { "may delete" }.to_owned()),
    );
    CopyView {
        tone: match (copy.counts, is_spool) {
            (true, _) => Tone::Ok,
            // A spool that holds nothing of its own is as it should be.
            (false, true) => Tone::Idle,
            (false, false) => Tone::Warning,
        },
        role,
        repository: copy.repository.clone(),
        where_it_is: format!("{} at {}", copy.medium, copy.place),
        newest: Moment::new(moment(copy.newest_at), ages),
        facts: facts.join(" · "),
        why_not: copy.why_not.clone(),
        scrubbed: Moment::new(moment(copy.scrubbed_at), ages),
    }
}
