//! How a backup stands, and why: the worst of everything that is known of it, and of what is not.

use homelab_proto::{
    backup::v1::DrillVerdict,
    controller::v1::{
        BackupRisk, BackupStrategy, DrillEvidence, GapSeverity, Punctuality, RunState,
    },
};
use jiff::Timestamp;

use crate::http::dashboard::view::Tone;

/// What is known of the chain that evidence is part of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// When it was last walked from its first statement on; none while it never was.
    pub walked_at: Option<Timestamp>,
    /// The last statement whose digest, link and signature fit.
    pub sequence: u64,
    /// The first that does not fit, for people.
    pub fault: Option<String>,
}

/// What is known of the signature of a piece of evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signature {
    /// Its digest, its link and its signature fit, as do those of all before it.
    Valid,
    /// It, or one before it, does not fit.
    Broken,
    /// Nobody has looked yet.
    Unchecked,
}

impl Chain {
    /// What is known of one piece.
    #[must_use]
    pub fn signature(&self, evidence: &DrillEvidence) -> Signature {
        match (self.walked_at, &self.fault) {
            (Some(_), _) if (1..=self.sequence).contains(&evidence.sequence) => Signature::Valid,
            (Some(_), Some(_)) => Signature::Broken,
            _ => Signature::Unchecked,
        }
    }
}

impl Signature {
    /// How that looks.
    #[must_use]
    pub const fn tone(self) -> Tone {
        match self {
            Self::Valid => Tone::Ok,
            Self::Broken => Tone::Critical,
            Self::Unchecked => Tone::Warning,
        }
    }

    /// The same in words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Valid => "signed and chained",
            Self::Broken => "does not fit the chain",
            Self::Unchecked => "not checked yet",
        }
    }
}

/// How a backup stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// The worst.
    pub tone: Tone,
    /// What is not well or not known, worst first, each with the command that does something about
    /// it, where there is one.
    pub whys: Vec<Why>,
}

/// One thing that is not well, or not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    /// How bad.
    pub tone: Tone,
    /// What, for people.
    pub message: String,
    /// Since when, if known.
    pub since: Option<Timestamp>,
    /// The `labctl` command.
    pub command: String,
}

impl Health {
    /// One word.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self.tone {
            Tone::Ok => "ok",
            Tone::Idle => "paused",
            Tone::Warning => "look",
            Tone::Critical => "at risk",
        }
    }
}

/// Puts together how one backup stands. The controller's own gaps come first; what they do not speak
/// of is looked for here as well, so that a message that is missing never reads as good news.
#[must_use]
pub fn health(backup: &BackupStrategy, chain: &Chain) -> Health {
    let mut whys = Vec::new();
    match &backup.risk {
        None => whys.push(why(Tone::Warning, "nobody knows what would be lost")),
        Some(risk) => of_risk(risk, &mut whys),
    }
    of_schedule(backup, &mut whys);
    of_evidence(backup, chain, &mut whys);
    whys.sort_by_key(|why| std::cmp::Reverse(why.tone));
    Health { tone: whys.first().map_or(Tone::Ok, |why| why.tone), whys }
}

fn of_risk(risk: &BackupRisk, whys: &mut Vec<Why>) {
    whys.extend(risk.gap_details.iter().map(|gap| Why {
        tone: match gap.severity() {
            GapSeverity::Critical => Tone::Critical,
            GapSeverity::Warning | GapSeverity::Unknown | GapSeverity::Unspecified => Tone::Warning,
        },
        message: gap.message.clone(),
        since: super::super::view::moment(gap.since),
        command: gap.command.clone(),
    }));
    let is_told = !risk.gap_details.is_empty();
    match (risk.exposure, risk.within_rpo) {
        _ if is_told => {}
        (None, _) => whys.push(why(Tone::Critical, "there is no verified snapshot")),
        (Some(_), false) => whys.push(why(Tone::Critical, "older than its target")),
        (Some(_), true) => {}
    }
    if risk.within_rto == Some(false) && !is_told {
        whys.push(why(Tone::Warning, "restores take longer than is allowed"));
    }
    if risk.copies.is_none() {
        whys.push(why(Tone::Warning, "nobody knows where its copies are"));
    }
}

fn of_schedule(backup: &BackupStrategy, whys: &mut Vec<Why>) {
    let Some(schedule) = &backup.schedule else {
        whys.push(why(Tone::Warning, "nobody knows when it runs"));
        return;
    };
    let since = super::super::view::moment(schedule.due_since);
    let command = format!("labctl backup run {}", schedule.backup);
    match schedule.punctuality() {
        Punctuality::Ok | Punctuality::Due | Punctuality::Paused => {}
        Punctuality::Late => whys.push(Why {
            tone: Tone::Critical,
            message: match schedule.held_by.as_str() {
                "" => "late: its grace has ended without a verified snapshot".to_owned(),
                held_by => format!("late: {held_by}"),
            },
            since,
            command,
        }),
        Punctuality::Unspecified => {
            whys.push(why(Tone::Warning, "nobody knows whether it is in time"));
        }
    }
    let is_unknown = |state| matches!(state, RunState::Unknown | RunState::Unspecified);
    if schedule.last_run.as_ref().is_some_and(|run| is_unknown(run.state())) {
        whys.push(why(Tone::Warning, "how its last run ended is not known"));
    }
}

fn of_evidence(backup: &BackupStrategy, chain: &Chain, whys: &mut Vec<Why>) {
    let Some(evidence) = &backup.last_evidence else {
        whys.push(why(Tone::Warning, "no drill has proved that it can be restored"));
        return;
    };
    match evidence.verdict() {
        DrillVerdict::Passed => {}
        DrillVerdict::Failed => whys.push(why(Tone::Critical, "its last drill failed")),
        DrillVerdict::Unverified | DrillVerdict::Unspecified => {
            whys.push(why(Tone::Warning, "its last drill could not show that it can be restored"));
        }
    }
    match chain.signature(evidence) {
        Signature::Valid => {}
        Signature::Broken => whys.push(why(
            Tone::Critical,
            "the evidence of its last drill does not fit the signed chain",
        )),
        Signature::Unchecked => {
            whys.push(why(Tone::Warning, "the evidence of its last drill has not been checked"));
        }
    }
}

fn why(tone: Tone, message: &str) -> Why {
    Why { tone, message: message.to_owned(), since: None, command: String::new() }
}
