//! Why a verb did not succeed, said so that the person knows the next command, and as an exit code.

use std::fmt;

use homelab_common::exit::Exit;
use homelab_rpc::status::reason_of;
use tonic::{Code, Status};

/// Why a verb ended without its result.
#[derive(Debug)]
pub enum Failure {
    /// Nothing went wrong: what was asked for has been printed already.
    Shown,
    /// Something went wrong.
    Said(Trouble),
}

/// What went wrong, in the three parts that a person needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What the process answers to its caller.
    pub exit: Exit,
    /// What failed, on what, and why.
    pub what: String,
    /// The stable reason of the API, when it came from there.
    pub reason: Option<String>,
    /// What to do next; a command where there is one.
    pub next: Option<String>,
}

impl Failure {
    /// A failure of the given kind.
    pub fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self::Said(Trouble { exit, what: what.into(), reason: None, next: None })
    }

    /// Adds what to do next.
    #[must_use]
    pub fn next(self, next: impl Into<String>) -> Self {
        match self {
            Self::Said(trouble) => Self::Said(Trouble { next: Some(next.into()), ..trouble }),
            Self::Shown => Self::Shown,
        }
    }

    /// What an answered call means. `mutates` says whether a lost reply leaves the outcome open: then it
    /// is unknown, not failed.
    pub fn from_status(action: &str, status: &Status, mutates: bool) -> Self {
        let lost =
            matches!(status.code(), Code::Unknown | Code::DeadlineExceeded | Code::Cancelled);
        let exit = match status.code() {
            _ if lost && mutates && reason_of(status).is_none() => Exit::Unknown,
            Code::Unavailable | Code::DeadlineExceeded => Exit::Unreachable,
            Code::Unauthenticated | Code::PermissionDenied => Exit::Denied,
            Code::InvalidArgument => Exit::Usage,
            _ => Exit::Failed,
        };
        let reason = reason_of(status);
        let next = next_step(reason.as_deref(), exit);
        Self::Said(Trouble { exit, what: format!("{action}: {}", status.message()), reason, next })
    }

    /// The process's exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Shown => Exit::Ok,
            Self::Said(trouble) => trouble.exit,
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Exit::Failed, format!("{error:#}"))
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "labctl: {}", self.what)?;
        if let Some(reason) = &self.reason {
            write!(f, " [{reason}]")?;
        }
        if let Some(next) = &self.next {
            write!(f, "\n  next: {next}")?;
        }
        Ok(())
    }
}

fn next_step(reason: Option<&str>, exit: Exit) -> Option<String> {
    let Some(reason) = reason else { return by_exit(exit) };
    let by_reason = match reason {
        "NO_CERTIFICATE" | "CERTIFICATE_REVOKED" => "labctl login",
        "ROLE_REQUIRED" => "ask an admin, or `labctl login --role …` on the controller's host",
        "HOST_NOT_FOUND" => "labctl host list",
        "BACKUP_NOT_FOUND" => "labctl backup list",
        "JOB_NOT_FOUND" => "labctl job list",
        "RUN_IN_PROGRESS" | "RUN_NOT_FOUND" => "labctl backup runs",
        "RETENTION_BRAKED" | "STALE_GENERATION" | "BRAKE_NOT_FOUND" => {
            "labctl backup retention plan BACKUP"
        }
        "TARGET_EXISTS" => "another --target, or --replace BACKUP to put it in the old one's place",
        "REPOSITORY_UNAVAILABLE" => "labctl backup repositories BACKUP",
        "TARGET_NOT_EMPTY" => "make a new, empty repository or server and give its URL",
        "SNAPSHOT_NOT_FOUND" => "labctl backup snapshots BACKUP",
        "HOST_UNREACHABLE" => "labctl doctor",
        _ => return by_exit(exit),
    };
    Some(by_reason.to_owned())
}

fn by_exit(exit: Exit) -> Option<String> {
    match exit {
        Exit::Unreachable => Some("labctl doctor".to_owned()),
        Exit::Unknown => Some(
            "`labctl audit list` shows whether it took effect; the same command is safe to repeat"
                .to_owned(),
        ),
        Exit::Denied => Some("labctl login".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit_of(status: &Status, mutates: bool) -> Exit {
        Failure::from_status("start backup wiki", status, mutates).exit()
    }

    #[test]
    fn a_lost_reply_to_a_change_is_unknown_and_not_failed() {
        let lost = Status::unknown("h2 protocol error");
        assert_eq!(exit_of(&lost, true), Exit::Unknown);
        assert_eq!(exit_of(&lost, false), Exit::Failed);
    }

    #[test]
    fn a_refusal_is_denied() {
        assert_eq!(exit_of(&Status::permission_denied("no"), true), Exit::Denied);
    }

    #[test]
    fn an_error_says_what_and_the_next_command() {
        let failure =
            Failure::from_status("list hosts", &Status::unauthenticated("no certificate"), false);
        let Failure::Said(trouble) = failure else { panic!("nothing was shown") };
        assert_eq!(trouble.to_string(), "labctl: list hosts: no certificate\n  next: labctl login");
    }
}
