//! The calls of a daemon that keeps no audit log, in its own log.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use homelab_common::rate::{Limiter, Rate, party};
use tokio::time::Instant;
use tonic::Code;
use tracing::{info, warn};

use super::{CallRecord, Observer, Outcome};
use crate::connection::Remote;

/// Denied calls from one address that are logged.
const EACH: Rate = Rate { burst: 10, every: Duration::from_secs(6) };

/// Denied calls from anywhere that are logged.
const ALL: Rate = Rate { burst: 50, every: Duration::from_secs(1) };

/// Logs each call that changes something and each that was denied: who, what, how it ended and its
/// id; never what was in it. Denied ones are logged as often as somebody could read; what is left
/// out is counted in the next line.
#[derive(Debug)]
pub struct CallLog {
    denied: Mutex<Limiter<IpAddr>>,
    left_out: AtomicU64,
}

impl Default for CallLog {
    fn default() -> Self {
        Self { denied: Mutex::new(Limiter::new(EACH, ALL)), left_out: AtomicU64::new(0) }
    }
}

/// What is logged of a call.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    Ended { outcome: String },
    Denied { why: String, left_out: u64 },
}

impl Observer for CallLog {
    fn call(&self, record: CallRecord) {
        let Some(line) = self.line(&record, Instant::now()) else { return };
        let (caller, CallRecord { method, request_id, elapsed, .. }) = (Caller(&record), &record);
        match line {
            Line::Ended { outcome } => {
                info!(%method, %caller, outcome, %request_id, ?elapsed, "a call has ended");
            }
            Line::Denied { why, left_out } => {
                warn!(%method, %caller, why, %request_id, left_out, "a call was denied");
            }
        }
    }
}

impl CallLog {
    fn line(&self, record: &CallRecord, now: Instant) -> Option<Line> {
        if let Some(why) = denied(record) {
            if self.is_left_out(&record.remote, now) {
                self.left_out.fetch_add(1, Ordering::Relaxed);
                return None;
            }
            return Some(Line::Denied { why, left_out: self.left_out.swap(0, Ordering::Relaxed) });
        }
        record.mutates.then(|| Line::Ended {
            outcome: match record.outcome {
                Outcome::Cancelled => "the caller went away".to_owned(),
                _ => format!("{:?}", record.code),
            },
        })
    }

    fn is_left_out(&self, remote: &Remote, now: Instant) -> bool {
        let address = match remote {
            Remote::Tcp(address) => party(address.ip()),
            Remote::Unix { .. } => IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        let mut limiter = self.denied.lock().unwrap_or_else(PoisonError::into_inner);
        limiter.take(address, now).is_err()
    }
}

/// Why a call was denied, by the door or by its handler.
fn denied(record: &CallRecord) -> Option<String> {
    match (&record.outcome, record.code) {
        (Outcome::Denied(why), _) => Some(why.to_string()),
        (Outcome::Ended, Code::PermissionDenied | Code::Unauthenticated) => {
            Some(format!("{:?}", record.code))
        }
        _ => None,
    }
}

struct Caller<'a>(&'a CallRecord);

impl fmt::Display for Caller<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.peer {
            Some(peer) => write!(f, "{peer} from {}", self.0.remote),
            None => write!(f, "stranger from {}", self.0.remote),
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{access::Denied, peer::Peer, testing::TestSite};

    fn record(outcome: Outcome, code: Code) -> CallRecord {
        CallRecord {
            peer: Some(Peer::local_admin(TestSite::new("home").name().clone())),
            remote: Remote::Tcp(([192, 0, 2, 1], 4711).into()),
            method: "/homelab.common.v1.NodeService/SetLogLevel".into(),
            mutates: true,
            request_id: "0190".into(),
            started: Timestamp::UNIX_EPOCH,
            elapsed: Duration::ZERO,
            outcome,
            code,
        }
    }

    #[test]
    fn what_changes_something_is_logged_with_its_outcome_and_reading_is_not() {
        let (log, now) = (CallLog::default(), Instant::now());
        let mut call = record(Outcome::Ended, Code::Ok);
        assert_eq!(log.line(&call, now), Some(Line::Ended { outcome: "Ok".into() }));
        assert!(Caller(&call).to_string().ends_with("from 192.0.2.1:4711"), "{}", Caller(&call));
        call.mutates = false;
        assert_eq!(log.line(&call, now), None);
        let gone = record(Outcome::Cancelled, Code::Cancelled);
        let outcome = "the caller went away".into();
        assert_eq!(log.line(&gone, now), Some(Line::Ended { outcome }));
    }

    #[test]
    fn a_flood_of_denied_calls_is_counted_instead_of_logged() {
        let (log, now) = (CallLog::default(), Instant::now());
        let mut call = record(Outcome::Denied(Denied::NoCertificate), Code::Unauthenticated);
        (call.peer, call.mutates) = (None, false);
        let lines = (0..1_000).filter(|_| log.line(&call, now).is_some()).count();
        assert_eq!(lines, 10, "the burst");
        let next = log.line(&call, now + EACH.every);
        let Some(Line::Denied { why, left_out: 990 }) = next else { panic!("{next:?}") };
        assert!(why.contains("client certificate"), "{why}");
        assert!(Caller(&call).to_string().starts_with("stranger"), "{}", Caller(&call));
    }

    #[test]
    fn a_denial_by_the_handler_is_one_too() {
        let call = record(Outcome::Ended, Code::PermissionDenied);
        let line = CallLog::default().line(&call, Instant::now());
        assert!(matches!(line, Some(Line::Denied { .. })), "{line:?}");
    }
}
