//! Typed checks that this host runs on request: what can be seen from here, as evidence.
//!
//! A check never changes anything and never runs a string. Each ends at its own deadline, as
//! *unknown*; none can hold up another. What was seen is told in words, bounded.
//!
//! *Failed* means that something was seen and it was wrong, silence of a server included when we
//! waited for it as long as we meant to. *Unknown* means that nothing was found out.

mod connect;
mod dns;
mod file;
mod http;
mod icmp;
mod mount;
mod ssh;
mod tcp;
mod tls;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use homelab_common::chance::Chance;
use homelab_common::clock::Clock;
use homelab_common::exec::Exec;
use jiff::Timestamp;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::health::{Probes, Roots};

pub use connect::{InvalidTarget, Reach, Target};
pub use dns::{DnsProbe, InvalidServer, RecordType, ServerAddress};
pub use file::FileProbe;
pub use http::{HeaderWanted, HttpProbe, InvalidHeader, InvalidUrl, Trust, Url};
pub use icmp::IcmpProbe;
pub use mount::MountProbe;
pub use ssh::SshProbe;
pub use tcp::TcpProbe;
pub use tls::TlsProbe;

/// Checks that run at once, over all callers: 256 of them with the longest deadline then end
/// within the five minutes that a call may take.
const RUNNING_MAX: usize = 64;

/// Threads that may hang in file and mount checks.
const HUNG_MAX: usize = 8;

/// How long one call to a filesystem may take before it counts as hung.
const FILESYSTEM_PATIENCE: Duration = Duration::from_secs(5);

/// What was seen is cut here.
const OBSERVED_BYTES_MAX: usize = 2048;

/// One check.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// Name that the outcome carries back.
    pub name: String,
    /// When it ends as unknown.
    pub deadline: Duration,
    /// What to do.
    pub probe: Probe,
}

/// What a check does.
#[derive(Clone, Debug, PartialEq)]
pub enum Probe {
    /// Opens a TCP connection.
    Tcp(TcpProbe),
    /// Looks at a TLS server's certificate.
    Tls(TlsProbe),
    /// Sends a GET and looks at the answer.
    Http(HttpProbe),
    /// Asks a name server.
    Dns(DnsProbe),
    /// Sends echo requests.
    Icmp(IcmpProbe),
    /// Looks at a file.
    File(FileProbe),
    /// Looks at a mount.
    Mount(MountProbe),
    /// Reads an SSH server's banner.
    Ssh(SshProbe),
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As expected.
    Passed,
    /// Not as expected.
    Failed,
    /// Could not be found out.
    Unknown,
}

/// The end of one check, as evidence.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Name of the check.
    pub name: String,
    /// How it ended.
    pub verdict: Verdict,
    /// Stable reason in `UPPER_SNAKE`.
    pub reason: &'static str,
    /// What was seen, for people; at most 2 KiB.
    pub observed: String,
    /// When it began.
    pub started_at: Timestamp,
    /// How long it took.
    pub elapsed: Duration,
}

/// What a probe found.
#[derive(Clone, Debug, PartialEq)]
struct Finding {
    verdict: Verdict,
    reason: &'static str,
    observed: String,
}

impl Finding {
    fn passed(observed: impl Into<String>) -> Self {
        Self { verdict: Verdict::Passed, reason: "AS_EXPECTED", observed: observed.into() }
    }

    fn failed(reason: &'static str, observed: impl Into<String>) -> Self {
        Self { verdict: Verdict::Failed, reason, observed: observed.into() }
    }

    fn unknown(reason: &'static str, observed: impl Into<String>) -> Self {
        Self { verdict: Verdict::Unknown, reason, observed: observed.into() }
    }
}

/// How far a probe came, for the words that are said when its deadline cuts it off.
#[derive(Debug, Default)]
struct Progress(Mutex<String>);

impl Progress {
    fn reached(&self, what: impl Into<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = what.into();
    }

    fn into_words(self) -> String {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs checks. One for the whole daemon, so that its bounds hold over all callers.
#[derive(Debug)]
pub struct Runner {
    clock: Arc<dyn Clock>,
    chance: Arc<dyn Chance>,
    exec: Arc<dyn Exec>,
    roots: Roots,
    filesystem: Probes,
    trust: tls::SystemTrust,
    running: Semaphore,
}

impl Runner {
    /// A runner that uses these.
    #[must_use]
    pub fn new(
        roots: Roots,
        clock: Arc<dyn Clock>,
        chance: Arc<dyn Chance>,
        exec: Arc<dyn Exec>,
    ) -> Self {
        Self {
            clock,
            chance,
            exec,
            roots,
            filesystem: Probes::new(FILESYSTEM_PATIENCE, HUNG_MAX),
            trust: tls::SystemTrust::default(),
            running: Semaphore::new(RUNNING_MAX),
        }
    }

    /// Runs `checks` side by side and gives each outcome when it is there.
    pub fn run_all(
        self: Arc<Self>,
        checks: Vec<Check>,
    ) -> impl Stream<Item = Outcome> + Send + 'static {
        let one = move |check: Check| {
            let runner = Arc::clone(&self);
            async move { runner.run(&check).await }
        };
        futures_util::stream::iter(checks).map(one).buffer_unordered(RUNNING_MAX)
    }

    /// Runs one check, after waiting for its turn. Its deadline begins with its turn.
    ///
    /// Cancel safety: may be dropped at any time; a program that it runs is killed.
    pub async fn run(&self, check: &Check) -> Outcome {
        let _turn = self.running.acquire().await;
        let (started_at, started) = (self.clock.now(), Instant::now());
        let progress = Progress::default();
        let probed = self.probe(&check.probe, check.deadline, &progress);
        let finding = match tokio::time::timeout(check.deadline, probed).await {
            Ok(finding) => finding,
            Err(_elapsed) => Finding::unknown("DEADLINE_EXCEEDED", deadline_words(check, progress)),
        };
        Outcome {
            name: check.name.clone(),
            verdict: finding.verdict,
            reason: finding.reason,
            observed: bounded(finding.observed),
            started_at,
            elapsed: started.elapsed(),
        }
    }

    async fn probe(&self, probe: &Probe, deadline: Duration, progress: &Progress) -> Finding {
        match probe {
            Probe::Tcp(probe) => tcp::run(probe, deadline, progress).await,
            Probe::Tls(probe) => tls::run(probe, self, deadline, progress).await,
            Probe::Http(probe) => http::run(probe, self, deadline, progress).await,
            Probe::Dns(probe) => dns::run(probe, self.chance.as_ref(), progress).await,
            Probe::Icmp(probe) => icmp::run(probe, self, progress).await,
            Probe::File(probe) => file::run(probe, self).await,
            Probe::Mount(probe) => mount::run(probe, self).await,
            Probe::Ssh(probe) => ssh::run(probe, deadline, progress).await,
        }
    }
}

fn deadline_words(check: &Check, progress: Progress) -> String {
    let after = check.deadline.as_secs_f64();
    match progress.into_words().as_str() {
        "" => format!("nothing was found out within {after} s"),
        reached => format!("not finished within {after} s; {reached}"),
    }
}

/// Cuts at a character, not inside of one.
fn bounded(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(OBSERVED_BYTES_MAX));
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use homelab_common::chance::SeededChance;
    use homelab_common::clock::SystemClock;
    use homelab_common::exec::SystemExec;
    use proptest::prelude::*;
    use tokio::net::TcpListener;

    use super::*;

    pub(crate) fn runner() -> Arc<Runner> {
        let (clock, chance) = (Arc::new(SystemClock), Arc::new(SeededChance::new(1)));
        Arc::new(Runner::new(Roots::default(), clock, chance, Arc::new(SystemExec)))
    }

    pub(crate) async fn run(probe: Probe) -> Outcome {
        let (name, deadline) = ("check".to_owned(), Duration::from_secs(20));
        runner().run(&Check { name, deadline, probe }).await
    }

    /// A listener that accepts and then says nothing.
    async fn silent_server() -> (TcpListener, Target) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::from(listener.local_addr().unwrap());
        (listener, target)
    }

    #[tokio::test]
    async fn a_check_that_hangs_ends_at_its_deadline_as_unknown_and_says_how_far_it_came() {
        let (_listener, target) = silent_server().await;
        let check = Check {
            name: "banner".to_owned(),
            deadline: Duration::from_millis(100),
            probe: Probe::Ssh(SshProbe { target }),
        };
        let outcome = runner().run(&check).await;
        assert_eq!((outcome.verdict, outcome.reason), (Verdict::Unknown, "DEADLINE_EXCEEDED"));
        assert!(outcome.observed.contains("connected"), "{}", outcome.observed);
        assert!(outcome.elapsed >= check.deadline);
    }

    #[tokio::test]
    async fn a_hanging_check_does_not_hold_up_the_others() {
        let (_listener, target) = silent_server().await;
        let check = |name: &str, probe, seconds| Check {
            name: name.to_owned(),
            deadline: Duration::from_secs(seconds),
            probe,
        };
        let hanging = Probe::Ssh(SshProbe { target: target.clone() });
        let open = Probe::Tcp(TcpProbe { target, expect: Reach::Open });
        let checks = vec![check("hangs", hanging, 3600), check("opens", open, 10)];
        let first = std::pin::pin!(runner().run_all(checks)).next().await.unwrap();
        assert_eq!((first.name.as_str(), first.verdict), ("opens", Verdict::Passed));
    }

    #[tokio::test]
    async fn every_check_has_an_outcome() {
        let (listener, target) = silent_server().await;
        drop(listener);
        let probe = Probe::Tcp(TcpProbe { target, expect: Reach::Denied });
        let check = |n: usize| Check {
            name: n.to_string(),
            deadline: Duration::from_secs(20),
            probe: probe.clone(),
        };
        let outcomes: Vec<_> = runner().run_all((0..256).map(check).collect()).collect().await;
        let mut names: Vec<usize> = outcomes.iter().map(|o| o.name.parse().unwrap()).collect();
        names.sort_unstable();
        assert_eq!(names, (0..256).collect::<Vec<_>>());
    }

    proptest! {
        #[test]
        fn what_was_seen_is_bounded_and_stays_text(text in "\\PC{0,3000}") {
            prop_assert!(bounded(text).len() <= OBSERVED_BYTES_MAX);
        }
    }
}
